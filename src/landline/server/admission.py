"""How many clients a server takes in at a time. Pure: ``now`` is an argument.

Those who come too early are told when to come back, each a moment later than the one before, so that a crowd which
lost its server at once comes back as a queue (the generic cell rate algorithm, ITU-T I.371, with places given out).
"""

from __future__ import annotations

from typing import Final

import msgspec

from landline.errors import ConfigurationError

RETRY_AFTER_S_MAX: Final = 3600.0
"""No client is sent away for longer; the queue is not that sure of itself."""


class Admission(msgspec.Struct, frozen=True):
    """The rate at which a server takes in connections.

    :param per_s: connections a second in the long run.
    :param burst: how many may come at once after a quiet time.
    :param unfinished: handshakes that may be under way at once.
    :raises ConfigurationError: when a value makes no sense.
    """

    per_s: float = 1000.0
    burst: int = 1000
    unfinished: int = 2000

    def __post_init__(self) -> None:
        if not 0 < self.per_s <= 1e6 or self.burst < 1 or self.unfinished < 1:
            raise ConfigurationError(
                f"Admission(per_s={self.per_s:g}, burst={self.burst}, unfinished={self.unfinished}): "
                "all must be above zero, per_s at most 1000000"
            )


class RateLimiter:
    """Keeps to an :class:`Admission`."""

    __slots__ = ("_admitted_until", "_interval_s", "_promised_until", "_tolerance_s", "refused")

    def __init__(self, admission: Admission) -> None:
        self._interval_s = 1.0 / admission.per_s
        self._tolerance_s = (admission.burst - 1) * self._interval_s
        self._admitted_until = 0.0
        self._promised_until = 0.0
        self.refused = 0
        """How many were sent away so far."""

    def admit(self, now: float) -> float | None:
        """``None`` lets a client in; else it is to come back after so many seconds."""
        admitted_until = max(self._admitted_until, now)
        if admitted_until - now <= self._tolerance_s:
            self._admitted_until = admitted_until + self._interval_s
            return None
        self.refused += 1
        # The next place after those given out, and not before the gate has caught up.
        place = max(self._promised_until, admitted_until - self._tolerance_s, now) + self._interval_s
        self._promised_until = min(place, now + RETRY_AFTER_S_MAX)
        return self._promised_until - now
