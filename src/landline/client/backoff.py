"""When to connect again: full jitter from the first attempt on, unless the server named a time."""

from __future__ import annotations

from typing import Final

import msgspec

from landline.errors import ConfigurationError
from landline.session.handshake import RandomSource

IMMEDIATE_RETRIES_MAX: Final = 8
"""How many times in a row a server may ask a client to return at once. Then the delay is ``first_s`` at least."""


class Backoff(msgspec.Struct, frozen=True):
    """A reconnect policy: the n-th delay is drawn from ``U(0, min(cap_s, first_s · 2ⁿ))``, n counted from 0.

    The jitter is applied after the cap, so that many clients of one server do not return at the same moment, however
    long the server was gone (AWS Architecture Blog, "Exponential Backoff And Jitter", the *full jitter* form).

    :param first_s: the upper limit of the first delay, in seconds.
    :param cap_s: the upper limit of every delay, in seconds, unless the server named a longer time.
    :param attempts: how many attempts in a row may fail before the client gives up; ``None`` for no limit.
    :param stable_after_s: how many seconds a link must last before the count starts again from 0.
    :raises ConfigurationError: when a value is out of range.
    """

    first_s: float = 0.5
    cap_s: float = 30.0
    attempts: int | None = None
    stable_after_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.cap_s <= 86_400:
            raise ConfigurationError(
                f"Backoff(first_s={self.first_s:g}, cap_s={self.cap_s:g}): 0 < first_s <= cap_s <= 86400 is required"
            )
        if self.attempts is not None and self.attempts < 1:
            raise ConfigurationError(f"Backoff(attempts={self.attempts}): it must be at least 1")
        if self.stable_after_s < 0:
            raise ConfigurationError(
                f"Backoff(stable_after_s={self.stable_after_s:g}): it must not be negative"
            )


class Schedule:
    """The progress of one client through a :class:`Backoff`. Pure: ``now`` and the random generator are arguments."""

    __slots__ = ("_backoff", "_connected_at", "_delays", "failures")

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._connected_at: float | None = None
        self._delays = 0
        self.failures: int = 0
        """Attempts in a row without a stable link."""

    def receive_connected(self, now: float) -> None:
        """Record that an attempt succeeded."""
        self._connected_at = now

    def next_delay(
        self,
        now: float,
        random: RandomSource,
        *,
        retry_after_s: float | None = None,
        spread_s: float = 0.0,
    ) -> float | None:
        """Return the seconds to wait after a failed attempt or a lost link; ``None`` when the policy gives up.

        If the server named a time, the delay is ``retry_after_s`` plus a random part of ``spread_s``. A server that
        says "at once" again and again does not make its clients retry without a delay.
        """
        is_loss = self._connected_at is not None
        if self._connected_at is not None and now - self._connected_at >= self._backoff.stable_after_s:
            self.failures = 0
            self._delays = 0
        else:
            self.failures += 1
        self._connected_at = None
        allowed = self._backoff.attempts
        # The loss of an unstable link counts, but leaves one more attempt: it was no failed attempt.
        if allowed is not None and self.failures >= allowed + is_loss:
            return None
        ceiling = min(self._backoff.cap_s, self._backoff.first_s * 2.0 ** min(self._delays, 64))
        self._delays += 1
        if retry_after_s is not None:
            delay_s_min = self._backoff.first_s if self.failures > IMMEDIATE_RETRIES_MAX else 0.0
            return max(delay_s_min, retry_after_s + random.random() * spread_s)
        return random.random() * ceiling
