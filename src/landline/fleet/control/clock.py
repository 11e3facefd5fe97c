"""The control server's clock: the time of day, but never slower than elapsed time.

Deadlines are times of day, because they must outlive the process. But the time of day can be set. If it is set
forward, deadlines pass early, and a job expires too soon, which is safe. If it is set back, a job would stay valid for
longer than the operator allowed, which is not (promise P4). So this clock does not go back while a deadline is pending.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from landline.fleet.boot_clock import boot_time


class SteadyClock:
    """Return the time in seconds since 1970 when called.

    It follows ``wall`` forward. If ``wall`` is set back, it continues from its last value by ``elapsed`` time, until
    :meth:`follow_wall` is called.
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
        """By how many seconds this clock is ahead of the time of day, because that was set back."""
        return self() - self._wall()

    def begin_at(self, moment: float) -> None:
        """Never return an earlier time than ``moment``, which the previous process has returned."""
        self._now = max(self(), moment)

    def follow_wall(self) -> None:
        """Go back to the time of day. Call it only when no deadline is pending."""
        self._read_at = self._elapsed()
        self._now = self._wall()
