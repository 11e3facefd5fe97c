"""The control server's clock: the time of day, on which time never runs slower than it passes.

Deadlines are kept as times of day, because they must outlive the process. But the time of day can be set. Set
forward, deadlines pass early: a job expires that need not have, which is safe. Set back, a job would stay valid for
longer than the operator allowed, which is not (P4). So this clock does not go back with it while anybody waits for a
deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from landline.fleet.boot_clock import boot_time


class SteadyClock:
    """Called, it tells the time in seconds since 1970.

    It follows ``wall`` forward, and where that was set back, it goes on from where it was with what has ``elapsed``,
    until :meth:`follow_wall` is called.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = boot_time
    ) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._read_at = elapsed()
        self._now = wall()

    def __call__(self) -> float:
        elapsed = self._elapsed()
        self._now = max(self._wall(), self._now + max(0.0, elapsed - self._read_at))
        self._read_at = elapsed
        return self._now

    @property
    def ahead_s(self) -> float:
        """How far this clock is ahead of the time of day, because that was set back."""
        return self() - self._wall()

    def begin_at(self, moment: float) -> None:
        """Does not tell an earlier time than this one: it was told before, by the process before this one."""
        self._now = max(self(), moment)

    def follow_wall(self) -> None:
        """Goes back to the time of day. Only for when nobody waits for a deadline."""
        self._read_at = self._elapsed()
        self._now = self._wall()
