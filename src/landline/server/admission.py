"""The rate at which a server accepts connections. Pure: ``now`` is an argument.

A client that connects too early learns when to try again, each one a little later than the one before. So many clients
that lost their server at the same moment return one after the other (the generic cell rate algorithm, ITU-T I.371, with
assigned times).
"""

from __future__ import annotations

from typing import Final

import msgspec

from landline.errors import ConfigurationError

RETRY_AFTER_S_MAX: Final = 3600.0
"""The longest delay that a client is given; the forecast is not reliable for longer."""


class Admission(msgspec.Struct, frozen=True):
    """The rate at which a server accepts connections, and when refused clients may return.

    :param per_s: connections per second in the long run.
    :param burst: how many connections may be accepted at once after a quiet time.
    :param unfinished: how many handshakes may be in progress at once.
    :param busy_retry_after_s: the seconds after which a client may return when the server has ``max_lines`` or
        ``unfinished`` handshakes, or cannot check identities.
    :param busy_spread_s: the seconds over which those clients spread their return.
    :raises ConfigurationError: when a value is out of range.
    """

    per_s: float = 1000.0
    burst: int = 1000
    unfinished: int = 2000
    busy_retry_after_s: float = 5.0
    busy_spread_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.per_s <= 1e6 or self.burst < 1 or self.unfinished < 1:
            raise ConfigurationError(
                f"Admission(per_s={self.per_s:g}, burst={self.burst}, unfinished={self.unfinished}): "
                "all must be above zero, per_s at most 1000000"
            )
        if not (
            0 <= self.busy_retry_after_s <= RETRY_AFTER_S_MAX and 0 <= self.busy_spread_s <= RETRY_AFTER_S_MAX
        ):
            raise ConfigurationError(
                f"Admission(busy_retry_after_s={self.busy_retry_after_s:g}, busy_spread_s={self.busy_spread_s:g}): "
                f"both must be 0 to {RETRY_AFTER_S_MAX:g} seconds"
            )


class RateLimiter:
    """Applies an :class:`Admission`."""

    __slots__ = ("_admitted_until", "_interval_s", "_promised_until", "_tolerance_s", "refused")

    def __init__(self, admission: Admission) -> None:
        self._interval_s = 1.0 / admission.per_s
        self._tolerance_s = (admission.burst - 1) * self._interval_s
        self._admitted_until = 0.0
        self._promised_until = 0.0
        self.refused: int = 0
        """The number of connections refused so far."""

    def admit(self, now: float) -> float | None:
        """Return ``None`` to accept a client, or the seconds after which it may try again."""
        admitted_until = max(self._admitted_until, now)
        if admitted_until - now <= self._tolerance_s:
            self._admitted_until = admitted_until + self._interval_s
            return None
        self.refused += 1
        # The next time after those assigned, and not before the limiter would accept it.
        assigned = max(self._promised_until, admitted_until - self._tolerance_s, now) + self._interval_s
        self._promised_until = min(assigned, now + RETRY_AFTER_S_MAX)
        return self._promised_until - now
