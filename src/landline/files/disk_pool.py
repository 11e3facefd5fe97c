"""Disks are waited for in threads, a few for the whole process; and a transfer waits for its peer."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from landline.errors import BufferFull, LineClosed
from landline.files.messages import ALIVE
from landline.line.line import Line
from landline.line.line_state import LineState
from landline.runtime.guarded_log import guarded_logger

logger = guarded_logger("landline")

THREADS: Final = 4
"""Reads, writes and hashes under way at once. The event loop's own threads are left to resolving names."""
ALIVE_EVERY_S: Final = 5.0
"""How often the peer hears that a disk is still at work."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="landline-files")


def submit(function: Callable[[], object]) -> Future[object]:
    """Runs a function in a thread; nobody needs to wait for it. What it raises is logged.

    The interpreter waits for it before it ends.
    """
    future = _pool().submit(function)
    future.add_done_callback(_log_failed)
    return future


async def in_thread(
    line: Line,
    transfer: bytes,
    function: Callable[Arguments, Result],
    *arguments: Arguments.args,
    **named: Arguments.kwargs,
) -> Result:
    """What ``function`` returns or raises; a thread runs it.

    Meanwhile the peer hears from time to time that the transfer is alive. Cancelling leaves the thread to finish what
    it does; what it raises then is logged.
    """
    running = _pool().submit(function, *arguments, **named)
    waiting = asyncio.wrap_future(running)
    try:
        return await alive_while(line, transfer, waiting)
    except asyncio.CancelledError:
        waiting.cancel()
        running.add_done_callback(_log_failed)
        raise


async def alive_while(line: Line, transfer: bytes, waiting: asyncio.Future[Result]) -> Result:
    """The result of ``waiting``; until then the peer hears from time to time that the transfer is alive.

    Cancelling does not cancel ``waiting``.
    """
    while not (await asyncio.wait({waiting}, timeout=ALIVE_EVERY_S))[0]:
        say_alive(line, transfer)
    return waiting.result()


def say_alive(line: Line, transfer: bytes) -> None:
    """Tells the peer that we are at work for the transfer, where that can be done at once."""
    try:
        line.send_nowait(transfer, name=ALIVE)
    except (BufferFull, LineClosed) as error:
        logger.debug("%r was not told that a transfer is alive: %s", line, error)


def _log_failed(future: Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.warning("what was left to be done with a file failed: %s", error)


class Wakeup:
    """Something happened to a transfer; its task looks what."""

    __slots__ = ("_line", "_waiter")

    def __init__(self, line: Line) -> None:
        self._line = line
        self._waiter: asyncio.Future[None] | None = None

    def give(self) -> None:
        """Wakes the task, if it waits. It looks at everything before it waits again, so nothing is missed."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, timeout_s: float | None) -> bool:
        """Waits until something happens. Returns whether it did before ``timeout_s`` passed on one connection.

        Time without a connection, and the end of a connection, are not held against the peer.
        """
        epoch = self._line.epoch
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._waiter
        except TimeoutError:
            is_connected = self._line.state in (LineState.ONLINE, LineState.SUSPECT)
            return not is_connected or self._line.epoch != epoch
        finally:
            self._waiter = None
        return True
