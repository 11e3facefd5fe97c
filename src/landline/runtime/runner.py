"""Runs a program on the fastest event loop available."""

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
"""The initial threshold of glibc."""


TERMINATED: Final = 128 + signal.SIGTERM
"""The exit status of a program that SIGTERM ended, as shells report it: 143."""


def run(
    main: Coroutine[Any, Any, Result], *, debug: bool | None = None, handle_sigterm: bool = True
) -> Result:
    """Run ``main`` like :func:`asyncio.run`, on uvloop where it is installed (CPython, not on Windows).

    SIGTERM, which systemd, Docker and Kubernetes send, cancels ``main`` as Ctrl-C does, so that lines and servers say
    goodbye when their contexts are left; then :class:`SystemExit` is raised with the status 143 (128 + 15). A ``main``
    that catches its cancellation and returns decides itself how the program ends. A second SIGTERM changes nothing.

    An event loop that this function did not start is never touched.

    With glibc, large blocks of memory are allocated by mmap(2) for the life of the process (mallopt(3)): uvloop
    allocates 256 KiB for each TLS connection and uses little of it, and unused pages then cost nothing. This changes
    the whole process; set ``MALLOC_MMAP_THRESHOLD_`` in the environment to prevent it.

    :param debug: the debug mode of asyncio.
    :param handle_sigterm: ``False`` ignores the signal. It is also left alone in a thread other than the main one, when
        the program has a handler already, and when ``main`` sets one.
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
    """Cancels a coroutine on SIGTERM, unless the program handles the signal itself."""

    def __init__(self) -> None:
        self.has_come = False

    async def guard(self, main: Coroutine[Any, Any, Result]) -> Result:
        """Run ``main``; return its result."""
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
    """Set the threshold explicitly, which keeps glibc from raising it when a large block is freed (mallopt(3))."""
    try:
        is_glibc = bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):
        return
    if is_glibc and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
