"""Batches the writes of all lines into one callback per iteration of the event loop.

One event loop handle per line would be most of the cost of a broadcast to thousands of lines, apart from the system
calls, and would create enough garbage to start the garbage collector.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Writer(Protocol):
    """An object that may have bytes to write."""

    def write_out(self) -> None:
        """Write them; called once for each call of :meth:`FlushQueue.add`."""


class FlushQueue:
    """Calls writers at the end of the current iteration of its event loop, in the order in which they were added."""

    __slots__ = ("_is_armed", "_loop", "_turn", "_writers")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writers: list[Writer] = []
        self._turn = 1
        self._is_armed = False

    def turn(self) -> int:
        """Return the number of the current iteration, from 1: for writers that write at once, but only once in each."""
        if not self._is_armed:
            self._is_armed = True
            self._loop.call_soon(self._write_all)
        return self._turn

    def add(self, writer: Writer) -> None:
        """Call ``writer.write_out()`` at the end of the current iteration."""
        self._writers.append(writer)
        if not self._is_armed:
            self._is_armed = True
            self._loop.call_soon(self._write_all)

    def _write_all(self) -> None:
        self._is_armed = False
        self._turn += 1
        writers, self._writers = self._writers, []
        for writer in writers:
            try:
                writer.write_out()
            except Exception as error:  # noqa: BLE001 - reported; the other lines must still be written
                self._loop.call_exception_handler(
                    {"message": "a line could not be written", "exception": error, "line": writer}
                )
