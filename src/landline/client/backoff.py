"""When to try again: full jitter from the first try on, under the server's own wishes."""

from __future__ import annotations

from typing import Final

import msgspec

from landline.errors import ConfigurationError
from landline.session.handshake import RandomSource

WISHES_AT_ONCE_MAX: Final = 8
"""So often in a row a server may call a client back at once; then no sooner than after its policy's first delay."""


class Backoff(msgspec.Struct, frozen=True):
    """A reconnect policy: the n-th delay is drawn from ``U(0, min(cap_s, first_s · 2ⁿ))``, n counted from 0.

    The jitter is applied after the cap, so that many clients which lost the same server do not return together,
    however long it was gone (AWS Architecture Blog, "Exponential Backoff And Jitter", the *full jitter* form).

    :param first_s: seconds; the range of the first delay.
    :param cap_s: seconds; no delay of the policy's own is longer.
    :param attempts: how many attempts in a row may fail before giving up; ``None`` for no end.
    :param stable_after_s: seconds a link must stay up before the count starts again from 0.
    :raises ConfigurationError: when a value makes no sense.
    """

    first_s: float = 0.5
    cap_s: float = 30.0
    attempts: int | None = None
    stable_after_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.cap_s <= 86_400:
            raise ConfigurationError(
                f"Backoff(first_s={self.first_s:g}, cap_s={self.cap_s:g}): 0 < first_s <= cap_s <= 86400 is needed"
            )
        if self.attempts is not None and self.attempts < 1:
            raise ConfigurationError(f"Backoff(attempts={self.attempts}): at least one attempt is needed")
        if self.stable_after_s < 0:
            raise ConfigurationError(
                f"Backoff(stable_after_s={self.stable_after_s:g}): it cannot be negative"
            )


class Schedule:
    """One client's course through a :class:`Backoff`. Pure: ``now`` and the dice are arguments."""

    __slots__ = ("_backoff", "_connected_at", "_delays", "failures")

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._connected_at: float | None = None
        self._delays = 0
        self.failures = 0
        """Attempts in a row that led to no stable link."""

    def receive_connected(self, now: float) -> None:
        """An attempt led to a link."""
        self._connected_at = now

    def next_delay(
        self,
        now: float,
        random: RandomSource,
        *,
        retry_after_s: float | None = None,
        spread_s: float = 0.0,
    ) -> float | None:
        """Seconds to wait after a failed attempt or a lost link; ``None`` when the policy gives up.

        A server that named a time gets its wish: ``retry_after_s`` plus a random part of ``spread_s``. One that never
        keeps its word does not make its clients spin.
        """
        is_loss = self._connected_at is not None
        if self._connected_at is not None and now - self._connected_at >= self._backoff.stable_after_s:
            self.failures = 0
            self._delays = 0
        else:
            self.failures += 1
        self._connected_at = None
        allowed = self._backoff.attempts
        # The loss of a link that was not stable counts, but leaves one more attempt: it is not one that failed.
        if allowed is not None and self.failures >= allowed + is_loss:
            return None
        ceiling = min(self._backoff.cap_s, self._backoff.first_s * 2.0 ** min(self._delays, 64))
        self._delays += 1
        if retry_after_s is not None:
            least = self._backoff.first_s if self.failures > WISHES_AT_ONCE_MAX else 0.0
            return max(least, retry_after_s + random.random() * spread_s)
        return random.random() * ceiling
