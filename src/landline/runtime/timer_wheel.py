"""One timer for many lines.

A line wakes up at least once a heartbeat, and almost always later than it first asked for. A handle of the event
loop for each (about 200 bytes, and a heap operation each time) would be most of an idle line's cost, so lines are
kept in buckets by the tick in which they are due, and one handle wakes the earliest bucket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from time import monotonic
from typing import Protocol

TICK_S = 0.05


class Timed(Protocol):
    """Something that can be woken. ``timer_tick`` belongs to the wheel; start with ``None``."""

    timer_tick: int | None

    def handle_timer(self, now: float) -> None:
        """It is due (or was due earlier and asked for less since); schedule again as needed."""


class TimerWheel:
    """Wakes scheduled things in their tick, at most one tick late. Belongs to one event loop.

    ``time`` is the clock of all deadlines. By default it is not the loop's own, which uvloop reads once per turn and
    in whole milliseconds: too coarse for a round trip, and blind to a turn that took long.
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
        """Wakes ``timed`` at ``due`` on :attr:`time`, unless it is to be woken earlier already."""
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
        """Wakes nobody any more."""
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
                # An entry whose thing was moved to an earlier tick since is stale.
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
