"""A clock that includes the time in suspend."""

from __future__ import annotations

import time


def boot_time() -> float:
    """Return the seconds since boot, including time in suspend where the system counts it (clock_gettime(2))."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
