"""Running a program on the fastest event loop there is."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

Result = TypeVar("Result")

MMAP_THRESHOLD: Final = -3
"""``M_MMAP_THRESHOLD`` of glibc's ``malloc.h``."""
MMAP_THRESHOLD_BYTES: Final = 128 * 1024
"""What glibc starts with."""


TERMINATED: Final = 128 + signal.SIGTERM
"""The exit status of a program that SIGTERM ended, as shells give it: 143."""


def run(
    main: Coroutine[Any, Any, Result], *, debug: bool | None = None, handle_sigterm: bool = True
) -> Result:
    """Run ``main`` as :func:`asyncio.run` does, on uvloop where it is installed (CPython, and not on Windows).

    SIGTERM, which systemd, Docker and Kubernetes send, cancels ``main`` as Ctrl-C does, so that lines and servers say
    goodbye when their contexts are left; then :class:`SystemExit` is raised with the status 143 (128 + 15). A ``main``
    that catches its cancellation and returns ends the program in its own way. While it ends, a second SIGTERM changes
    nothing.
    ``handle_sigterm=False`` leaves the signal alone; so does a thread other than the main one, a handler that is there
    already, and one that ``main`` sets. What runs in an event loop of somebody else's is never touched.

    Where the C library is glibc, large blocks of memory keep pages of their own for the life of the process: uvloop
    asks for a buffer of 256 KiB for each TLS connection and touches little of it. Name ``MALLOC_MMAP_THRESHOLD_`` in
    the environment to have it otherwise.
    """
    _pin_mmap_threshold()
    try:
        import uvloop
    except ImportError:
        loop_factory = None
    else:
        loop_factory = uvloop.new_event_loop
    termination = _Termination() if handle_sigterm else None
    try:
        with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
            return runner.run(main if termination is None else termination.guard(main))
    except asyncio.CancelledError:
        if termination is not None and termination.has_come:
            raise SystemExit(TERMINATED) from None
        raise


class _Termination:
    """Cancels a coroutine when SIGTERM comes, where nobody else handles it."""

    def __init__(self) -> None:
        self.has_come = False

    async def guard(self, main: Coroutine[Any, Any, Result]) -> Result:
        """Return or raise what ``main`` does."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def terminate() -> None:
            if not self.has_come:
                self.has_come = True
                task.cancel()

        if (
            threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        ):
            return await main
        try:
            loop.add_signal_handler(signal.SIGTERM, terminate)
        except NotImplementedError:  # Windows, which sends no SIGTERM.
            return await main
        try:
            return await main
        finally:
            loop.remove_signal_handler(signal.SIGTERM)


def _pin_mmap_threshold() -> None:
    """Keeps glibc from raising the threshold when a large block is freed (mallopt(3)), which naming it does."""
    try:
        is_glibc = bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):
        return
    if is_glibc and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
