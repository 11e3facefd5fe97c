"""How a side of a transfer tells its peer that it is working."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from landline.errors import BufferFull, LineClosed
from landline.files.disk_pool import disk_operation
from landline.files.messages import ALIVE
from landline.line.line import Line
from landline.runtime.guarded_log import guarded_logger

logger: Final = guarded_logger("landline")

ALIVE_INTERVAL_S: Final = 5.0
"""How often the peer is notified that a disk operation still runs."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


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
