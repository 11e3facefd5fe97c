"""Running a program on the fastest event loop there is."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

Result = TypeVar("Result")

MMAP_THRESHOLD: Final = -3
"""``M_MMAP_THRESHOLD`` of glibc's ``malloc.h``."""
MMAP_THRESHOLD_BYTES: Final = 128 * 1024
"""What glibc starts with."""


def run(main: Coroutine[Any, Any, Result], *, debug: bool | None = None) -> Result:
    """As :func:`asyncio.run`, on uvloop where it is installed (it is not available on Windows).

    Where the C library is glibc, large blocks of memory keep pages of their own for the life of the process: uvloop
    asks for a buffer of 256 KiB for each TLS connection and touches little of it. Name ``MALLOC_MMAP_THRESHOLD_`` in
    the environment to have it otherwise.
    """
    _pin_mmap_threshold()
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main, debug=debug)
    with asyncio.Runner(debug=debug, loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def _pin_mmap_threshold() -> None:
    """Keeps glibc from raising the threshold when a large block is freed (mallopt(3)), which naming it does."""
    try:
        is_glibc = bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):
        return
    if is_glibc and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
