"""One timer for many lines.

A line wakes up at least once per heartbeat, and almost always later than it first asked for. One event loop handle per
line (about 200 bytes, and a heap operation each time) would be most of the cost of an idle line. Therefore lines are
kept in buckets by the tick in which they are due, and a single handle wakes the earliest bucket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from time import monotonic
from typing import Final, Protocol

TICK_S: Final = 0.05
"""The width of a bucket: a wake-up is at most this late."""


class Timed(Protocol):
    """An object that can be woken. Only the wheel changes ``timer_tick``, which is ``None`` at first."""

    timer_tick: int | None

    def handle_timer(self, now: float) -> None:
        """Handle what is due, which may be nothing when the deadline has moved; schedule again as needed."""


class TimerWheel:
    """Wakes scheduled objects in their tick, at most one tick late. Belongs to one event loop.

    :param time: the clock of all deadlines, in seconds. By default it is not the clock of the loop, which uvloop reads
        once per iteration and in whole milliseconds: too coarse for a round trip, and blind to a slow iteration.
    """

    __slots__ = ("_buckets", "_handle", "_handle_tick", "_loop", "_ticks", "time")

    def __init__(self, loop: asyncio.AbstractEventLoop, time: Callable[[], float] = monotonic) -> None:
        self.time: Callable[[], float] = time
        self._loop = loop
        self._buckets: dict[int, list[Timed]] = {}
        self._ticks: list[int] = []
        self._handle: asyncio.TimerHandle | None = None
        self._handle_tick = 0

    def schedule(self, timed: Timed, due: float) -> None:
        """Wake ``timed`` at ``due`` on :attr:`time`, unless an earlier wake-up is already scheduled."""
        tick = int(due / TICK_S) + 1
        if timed.timer_tick is not None and timed.timer_tick <= tick:
            return
        timed.timer_tick = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = [timed]
            heappush(self._ticks, tick)
            if self._handle is None or tick < self._handle_tick:
                self._arm(tick)
        else:
            bucket.append(timed)

    def close(self) -> None:
        """Cancel all wake-ups."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._buckets.clear()
        self._ticks.clear()

    def _arm(self, tick: int) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle_tick = tick
        self._handle = self._loop.call_later(max(0.0, tick * TICK_S - self.time()), self._fire)

    def _fire(self) -> None:
        self._handle = None
        now = self.time()
        while self._ticks and self._ticks[0] * TICK_S <= now:
            tick = heappop(self._ticks)
            for timed in self._buckets.pop(tick):
                # An entry is stale if its object was moved to an earlier tick.
                if timed.timer_tick == tick:
                    timed.timer_tick = None
                    self._wake(timed, now)
        if self._ticks:
            self._arm(self._ticks[0])

    def _wake(self, timed: Timed, now: float) -> None:
        try:
            timed.handle_timer(now)
        except Exception as error:  # noqa: BLE001 - reported; the other lines of the bucket must still be woken
            self._loop.call_exception_handler(
                {"message": "a timer of a line failed", "exception": error, "line": timed}
            )
