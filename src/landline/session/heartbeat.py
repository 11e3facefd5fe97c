"""When to ping, when to suspect, when to give up; the round-trip time (``docs/protocol.md`` §6)."""

from __future__ import annotations

from enum import Enum, auto

from landline.session.constants import (
    IDLE_FACTOR,
    LAG_TOLERANCE_S,
    PINGS_PER_INTERVAL_MAX,
    PINGS_PER_INTERVAL_WARN,
    READ_FIRST_S,
    SUSPECT_SHARE,
)
from landline.session.settings import Heartbeat


class Verdict(Enum):
    """The action that :meth:`Liveness.handle_timeout` asks for."""

    NOTHING = auto()
    PING = auto()
    SUSPECT = auto()
    DEAD = auto()


class PingTolerance(Enum):
    """Whether the rate of received pings is within the limit."""

    FINE = auto()
    WARN = auto()
    TOO_MANY = auto()


class Liveness:
    """The heartbeat of one session on one transport at a time.

    Any byte received proves that the peer lives. The heartbeat leader (the server, which sets the timing) pings every
    interval; the other side pings only when it received, or sent, nothing for longer. So each side receives something
    in every interval, even while data flows in one direction only.
    """

    __slots__ = (
        "_awaits_pong",
        "_excused_for",
        "_excused_until",
        "_flood_count",
        "_flood_from",
        "_interval_s",
        "_is_heartbeat_leader",
        "_ping_number",
        "_pinged_at",
        "_ponged_number",
        "_read_for",
        "_timeout_s",
        "is_suspect",
        "last_received_at",
        "last_sent_at",
        "round_trip_s",
    )

    def __init__(self, heartbeat: Heartbeat, *, is_heartbeat_leader: bool) -> None:
        self._interval_s = heartbeat.interval_s
        self._timeout_s = heartbeat.timeout_s
        self._is_heartbeat_leader = is_heartbeat_leader
        self._ping_number = 0
        # The highest number the peer has answered.
        self._ponged_number = 0
        self.start(0.0, phase=0.0)

    def start(self, now: float, *, phase: float, round_trip_s: float | None = None) -> None:
        """Start on a new transport.

        :param phase: a number in [0, 1) that spreads first pings over [interval/2, interval).
        """
        self.round_trip_s = round_trip_s
        self.last_received_at: float = now
        self.last_sent_at: float = now
        self._pinged_at = now - self._interval_s * (0.5 - phase / 2)
        self.is_suspect: bool = False
        self._awaits_pong = False
        self._excused_until = 0.0
        self._excused_for: float | None = None
        self._read_for: float | None = None
        self._flood_from = now
        self._flood_count = 0

    def next_timeout(self) -> float:
        """Return when to call :meth:`handle_timeout`, at the latest."""
        return min(self._ping_due(), self._dead_due() if self.is_suspect else self._suspect_due())

    def handle_timeout(self, now: float) -> Verdict:
        """Return the action due now; call again until it is ``NOTHING``.

        When a deadline is noticed much too late, the peer is not declared dead: this process was busy, and the bytes
        of the peer may wait to be read. The peer gets a ping and one more full timeout. Even when a deadline is noticed
        in time, the bytes that arrived meanwhile are read first.
        """
        dead_due = self._dead_due()
        if now >= dead_due:
            # Each grace period is granted once per silence; otherwise a process that is always late would never declare
            # a peer dead.
            if now - dead_due > LAG_TOLERANCE_S and self._excused_for != self.last_received_at:
                self._excused_for = self.last_received_at
                self._excused_until = now + self._timeout_s
                return Verdict.PING
            if self._read_for == self.last_received_at:
                return Verdict.DEAD
            self._read_for = self.last_received_at
            self._excused_until = now + READ_FIRST_S
        if not self.is_suspect and now >= self._suspect_due():
            self.is_suspect = True
            return Verdict.SUSPECT
        if now >= self._ping_due():
            return Verdict.PING
        return Verdict.NOTHING

    def next_ping(self, now: float) -> int:
        """Count a ping that is sent now and return its number."""
        self._ping_number += 1
        self._awaits_pong = True
        self._pinged_at = now
        self.last_sent_at = now
        return self._ping_number

    def is_awaited(self, number: int) -> bool:
        """Return whether a ping of that number was sent and neither it nor a later one is answered yet."""
        return self._ponged_number < number <= self._ping_number

    def receive_pong(self, number: int, now: float) -> float | None:
        """Count the ping of that number, which must be awaited (:meth:`is_awaited`), and those before it as answered.

        Return the round-trip time in seconds, or ``None`` when this does not answer the last ping. It is measured with
        the recorded time of that ping: the time that the peer echoes is not trusted.
        """
        self._ponged_number = number
        if number != self._ping_number or not self._awaits_pong:
            return None
        self._awaits_pong = False
        self.round_trip_s = now - self._pinged_at
        return self.round_trip_s

    def receive_ping(self, now: float) -> PingTolerance:
        """Count a ping of the peer and return whether the rate is within the limit."""
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
        if self._is_heartbeat_leader:
            return self._pinged_at + self._interval_s
        quiet_since = max(min(self.last_received_at, self.last_sent_at), self._pinged_at)
        return quiet_since + self._interval_s * IDLE_FACTOR

    def _suspect_due(self) -> float:
        return max(
            self.last_received_at + self._interval_s + self._timeout_s * SUSPECT_SHARE, self._excused_until
        )

    def _dead_due(self) -> float:
        return max(self.last_received_at + self._interval_s + self._timeout_s, self._excused_until)
