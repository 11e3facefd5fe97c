"""When to ping, when to suspect, when to give up; the round-trip time (``docs/protocol.md`` §6)."""

from __future__ import annotations

from enum import Enum, auto
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from landline.errors import ConfigurationError

SUSPECT_SHARE: Final = 0.4
"""The part of the timeout after which an unanswered peer is called suspect."""
IDLE_FACTOR: Final = 1.1
"""The side that did not choose the timing pings only after this many intervals, so that on a healthy link the
pings of the other side suffice and each interval costs one ping, not two."""
LAG_TOLERANCE_S: Final = 0.5
"""A wake-up this much too late means that we were busy, stopped or suspended."""
READ_FIRST_S: Final = 0.02
"""A deadline that has passed is looked at once more after this: enough for a turn of the event loop that reads."""
PINGS_PER_INTERVAL_WARN: Final = 20
PINGS_PER_INTERVAL_MAX: Final = 40

SECONDS_MIN: Final = 0.01
"""The floor keeps a careless or hostile server from making its clients ping without end."""
SECONDS_MAX: Final = 86_400.0

Seconds = Annotated[float, Meta(ge=SECONDS_MIN, le=SECONDS_MAX)]


class Heartbeat(msgspec.Struct, frozen=True):
    """The timing a server dictates: a dead peer is noticed within ``interval_s + timeout_s`` of its last byte."""

    interval_s: Seconds = 10.0
    timeout_s: Seconds = 5.0

    def __post_init__(self) -> None:
        for seconds in (self.interval_s, self.timeout_s):
            if not SECONDS_MIN <= seconds <= SECONDS_MAX:
                raise ConfigurationError(
                    f"Heartbeat(interval_s={self.interval_s:g}, timeout_s={self.timeout_s:g}): "
                    f"{SECONDS_MIN:g} to {SECONDS_MAX:g} seconds are possible"
                )


class Verdict(Enum):
    """What :meth:`Liveness.handle_timeout` wants done."""

    NOTHING = auto()
    PING = auto()
    SUSPECT = auto()
    DEAD = auto()


class PingTolerance(Enum):
    """How a received ping sits with the rate allowed."""

    FINE = auto()
    WARN = auto()
    TOO_MANY = auto()


class Liveness:
    """The heartbeat of one session on one transport at a time.

    Any byte received counts as life. The side that dictates the timing pings every interval; the other side
    pings only when it heard, or said, nothing for longer. So each side hears something within every interval,
    even while the other is busy sending in one direction only.
    """

    __slots__ = (
        "_awaits_pong",
        "_dictates",
        "_excused_for",
        "_excused_until",
        "_flood_count",
        "_flood_from",
        "_interval_s",
        "_ping_number",
        "_pinged_at",
        "_ponged_number",
        "_read_for",
        "_timeout_s",
        "heard_at",
        "is_suspect",
        "round_trip_s",
        "said_at",
    )

    def __init__(self, heartbeat: Heartbeat, *, dictates: bool) -> None:
        self._interval_s = heartbeat.interval_s
        self._timeout_s = heartbeat.timeout_s
        self._dictates = dictates
        self._ping_number = 0
        # The highest number the peer has answered.
        self._ponged_number = 0
        self.start(0.0, phase=0.0)

    def start(self, now: float, *, phase: float, round_trip_s: float | None = None) -> None:
        """A new transport carries the session. ``phase`` in [0, 1) spreads first pings over [interval/2, interval)."""
        self.round_trip_s = round_trip_s
        self.heard_at: float = now
        self.said_at: float = now
        self._pinged_at = now - self._interval_s * (0.5 - phase / 2)
        self.is_suspect: bool = False
        self._awaits_pong = False
        self._excused_until = 0.0
        self._excused_for: float | None = None
        self._read_for: float | None = None
        self._flood_from = now
        self._flood_count = 0

    def next_timeout(self) -> float:
        """When :meth:`handle_timeout` wants to be called, at the latest."""
        return min(self._ping_due(), self._dead_due() if self.is_suspect else self._suspect_due())

    def handle_timeout(self, now: float) -> Verdict:
        """What is to be done now; call again until it is ``NOTHING``.

        A deadline noticed much too late is not held against the peer: its bytes may be waiting behind the very
        event that kept us from looking. It gets a ping and the full timeout once more. Even one noticed in time
        is not believed before what had come meanwhile was read.
        """
        dead_due = self._dead_due()
        if now >= dead_due:
            # Both once for one silence: a process that is always late must not believe in the dead for ever.
            if now - dead_due > LAG_TOLERANCE_S and self._excused_for != self.heard_at:
                self._excused_for = self.heard_at
                self._excused_until = now + self._timeout_s
                return Verdict.PING
            if self._read_for == self.heard_at:
                return Verdict.DEAD
            self._read_for = self.heard_at
            self._excused_until = now + READ_FIRST_S
        if not self.is_suspect and now >= self._suspect_due():
            self.is_suspect = True
            return Verdict.SUSPECT
        if now >= self._ping_due():
            return Verdict.PING
        return Verdict.NOTHING

    def next_ping(self, now: float) -> int:
        """Counts a ping sent now and returns its number."""
        self._ping_number += 1
        self._awaits_pong = True
        self._pinged_at = now
        self.said_at = now
        return self._ping_number

    def is_awaited(self, number: int) -> bool:
        """Whether a ping of that number was sent and neither it nor a later one is answered yet."""
        return self._ponged_number < number <= self._ping_number

    def receive_pong(self, number: int, now: float) -> float | None:
        """Counts the ping of that number, one that :meth:`is_awaited`, as answered, and those before it.

        Returns the round-trip time in seconds, or ``None`` when this does not answer the last ping. Measured from our
        own record of that ping: the time a peer echoes is not believed.
        """
        self._ponged_number = number
        if number != self._ping_number or not self._awaits_pong:
            return None
        self._awaits_pong = False
        self.round_trip_s = now - self._pinged_at
        return self.round_trip_s

    def receive_ping(self, now: float) -> PingTolerance:
        """Counts a ping of the peer against the rate allowed."""
        if now - self._flood_from >= self._interval_s:
            self._flood_from = now
            self._flood_count = 0
        self._flood_count += 1
        if self._flood_count > PINGS_PER_INTERVAL_MAX:
            return PingTolerance.TOO_MANY
        if self._flood_count == PINGS_PER_INTERVAL_WARN:
            return PingTolerance.WARN
        return PingTolerance.FINE

    def _ping_due(self) -> float:
        if self._dictates:
            return self._pinged_at + self._interval_s
        quiet_since = max(min(self.heard_at, self.said_at), self._pinged_at)
        return quiet_since + self._interval_s * IDLE_FACTOR

    def _suspect_due(self) -> float:
        return max(self.heard_at + self._interval_s + self._timeout_s * SUSPECT_SHARE, self._excused_until)

    def _dead_due(self) -> float:
        return max(self.heard_at + self._interval_s + self._timeout_s, self._excused_until)
