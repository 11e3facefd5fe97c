"""The limit of the memory that all sessions of a server hold together."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Final

from landline.line.line import Line, drivers_of
from landline.runtime.guarded_log import guarded_logger
from landline.runtime.timer_wheel import TimerWheel
from landline.session.constants import WAITING_OVERHEAD_BYTES

logger: Final = guarded_logger("landline")

MEMORY_BYTES: Final = 1024 * 1024 * 1024
MEMORY_BYTES_MIN: Final = 1024 * 1024
CHECK_INTERVAL_S: Final = 1.0


class MemoryLimiter:
    """Checks once a second how much memory the sessions hold, and ends the lines that hold the most if it is too much.

    Each session has limits of its own, but thousands of sessions within their limits may need more than a machine has.
    """

    __slots__ = ("_estimate_bytes", "_limit_bytes", "_lines", "_wheel", "timer_tick")

    def __init__(self, limit_bytes: int, lines: Mapping[bytes, Line]) -> None:
        self._limit_bytes = limit_bytes
        self._lines = lines
        self._wheel: TimerWheel | None = None
        # The bytes held at the last check, and what broadcasts may have added since.
        self._estimate_bytes = 0
        self.timer_tick: int | None = None

    @property
    def held_bytes(self) -> int:
        """The bytes held now."""
        return sum([driver.held_bytes for driver in drivers_of(self._lines.values())])

    def start(self, wheel: TimerWheel) -> None:
        """Start the periodic checks."""
        self._wheel = wheel
        # An earlier wheel may have had a check scheduled when it was closed.
        self.timer_tick = None
        wheel.schedule(self, wheel.time() + CHECK_INTERVAL_S)

    def handle_timer(self, now: float) -> None:
        """Check; called by the timer wheel."""
        assert self._wheel is not None
        self._wheel.schedule(self, now + CHECK_INTERVAL_S)
        self._check()

    def grow(self, messages: int, size_bytes: int) -> None:
        """Count the messages that a broadcast may have added; check at once if the limit may be exceeded."""
        self._estimate_bytes += messages * (size_bytes + WAITING_OVERHEAD_BYTES)
        if self._estimate_bytes > self._limit_bytes:
            self._check()

    def _check(self) -> None:
        held_bytes = self._estimate_bytes = self.held_bytes
        if held_bytes <= self._limit_bytes:
            return
        for driver in drivers_of(self._lines.values()):
            driver.refine_held_bytes()
        held_bytes = self._estimate_bytes = self.held_bytes
        if held_bytes <= self._limit_bytes:
            return
        # A heap, because only a few of thousands of lines are ended.
        drivers = drivers_of(self._lines.values())
        largest = [(-driver.held_bytes, number, driver) for number, driver in enumerate(drivers)]
        heapq.heapify(largest)
        ended = 0
        while self._estimate_bytes > self._limit_bytes:
            size_bytes, _, driver = heapq.heappop(largest)
            self._estimate_bytes += size_bytes
            driver.end_too_slow(f"this line holds {-size_bytes} bytes, and all lines together hold too many")
            ended += 1
        logger.warning(
            "the sessions held %d bytes of the %d allowed; the %d lines that held the most were ended",
            held_bytes,
            self._limit_bytes,
            ended,
        )
