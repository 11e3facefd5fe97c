"""How the task of a transfer waits for its peer."""

from __future__ import annotations

import asyncio

from landline.line.line import Line
from landline.line.line_state import LineState


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
