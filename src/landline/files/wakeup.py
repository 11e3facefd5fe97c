"""How the task of a transfer waits for its peer, and how it tells the peer that it is working."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from landline.errors import BufferFull, LineClosed
from landline.files.disk_pool import disk_operation
from landline.files.messages import ALIVE
from landline.line.line import Line
from landline.line.line_state import LineState
from landline.runtime.guarded_log import guarded_logger

logger: Final = guarded_logger("landline")

ALIVE_INTERVAL_S: Final = 5.0
"""How often the peer is told that a disk operation still runs."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Wakeup:
    """Wakes the task of a transfer when something has happened to it."""

    __slots__ = ("_line", "_waiter")

    def __init__(self, line: Line) -> None:
        self._line = line
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the task if it waits. It checks everything before it waits again, so no wake-up is lost."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, timeout_s: float | None) -> bool:
        """Wait for :meth:`set`. Return whether the peer is in time.

        The peer is late when ``timeout_s`` passed over one connection. Time without a connection, and the end of a
        connection, do not count against it.
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


class Keepalive:
    """Tells the peer from time to time that this side works on a transfer, while it waits for a disk or a person."""

    __slots__ = ("_line", "_transfer_id")

    def __init__(self, line: Line, transfer_id: bytes) -> None:
        self._line = line
        self._transfer_id = transfer_id

    async def in_thread(
        self,
        function: Callable[Arguments, Result],
        *arguments: Arguments.args,
        **keywords: Arguments.kwargs,
    ) -> Result:
        """Run a function in a thread, as :func:`landline.files.disk_pool.in_thread` does, and return its result."""
        with disk_operation(function, *arguments, **keywords) as waiting:
            return await self.result_of(waiting)

    async def result_of(self, waiting: asyncio.Future[Result]) -> Result:
        """Wait for a future and return its result. Cancelling does not cancel the future."""
        while not (await asyncio.wait({waiting}, timeout=ALIVE_INTERVAL_S))[0]:
            self._send()
        return waiting.result()

    def _send(self) -> None:
        try:
            self._line.send_nowait(self._transfer_id, name=ALIVE)
        except (BufferFull, LineClosed) as error:
            logger.debug("%r: cannot report that a transfer is alive: %s", self._line, error)
