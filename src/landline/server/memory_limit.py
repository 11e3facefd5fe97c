"""The memory that all sessions of a server hold together, and its limit."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Final

from landline.line.line import Line
from landline.runtime.guarded_log import guarded_logger
from landline.runtime.timer_wheel import TimerWheel
from landline.session.outbound import WAITING_OVERHEAD_BYTES

logger = guarded_logger("landline")

MEMORY_BYTES: Final = 1024 * 1024 * 1024
MEMORY_BYTES_MIN: Final = 1024 * 1024
LOOK_INTERVAL_S: Final = 1.0


class MemoryLimiter:
    """Looks once a second at what sessions hold, and ends the lines that hold the most when it is too much.

    Each session has limits of its own; those of thousands together may still be more than a machine has.
    """

    __slots__ = ("_estimate_bytes", "_limit_bytes", "_lines", "_wheel", "timer_tick")

    def __init__(self, limit_bytes: int, lines: Mapping[bytes, Line]) -> None:
        self._limit_bytes = limit_bytes
        self._lines = lines
        self._wheel: TimerWheel | None = None
        # What was held at the last look, and what broadcasts may have added since.
        self._estimate_bytes = 0
        self.timer_tick: int | None = None

    @property
    def held_bytes(self) -> int:
        """What is held just now."""
        return sum([line.held_bytes for line in self._lines.values()])

    def start(self, wheel: TimerWheel) -> None:
        """Looks from now on."""
        self._wheel = wheel
        wheel.schedule(self, wheel.time() + LOOK_INTERVAL_S)

    def handle_timer(self, now: float) -> None:
        """The timer wheel's call."""
        assert self._wheel is not None
        self._wheel.schedule(self, now + LOOK_INTERVAL_S)
        self._look()

    def grow(self, messages: int, size_bytes: int) -> None:
        """A broadcast may have added so many messages of that size: looks at once when that may be too much."""
        self._estimate_bytes += messages * (size_bytes + WAITING_OVERHEAD_BYTES)
        if self._estimate_bytes > self._limit_bytes:
            self._look()

    def _look(self) -> None:
        held_bytes = self._estimate_bytes = self.held_bytes
        if held_bytes <= self._limit_bytes:
            return
        for line in self._lines.values():
            line.look_closely()
        held_bytes = self._estimate_bytes = self.held_bytes
        if held_bytes <= self._limit_bytes:
            return
        # A heap: of thousands of lines, a few are to go.
        largest = [(-line.held_bytes, number, line) for number, line in enumerate(self._lines.values())]
        heapq.heapify(largest)
        ended = 0
        while self._estimate_bytes > self._limit_bytes:
            size_bytes, _, line = heapq.heappop(largest)
            self._estimate_bytes += size_bytes
            line.end_too_slow(f"{-size_bytes} bytes are held for this line, and for all together too many")
            ended += 1
        logger.warning(
            "sessions held %d bytes where %d are allowed; the %d that held the most were ended",
            held_bytes,
            self._limit_bytes,
            ended,
        )
