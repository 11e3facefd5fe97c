"""Lines that have something to write: one callback for all of them, at the end of a turn of the event loop.

A handle of the event loop for each line would be most of what a broadcast to thousands costs besides the system calls,
and enough garbage to set off the collector.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Writer(Protocol):
    """Something that may have bytes to write."""

    def write_out(self) -> None:
        """Writes them; called once for each time it was added."""


class FlushQueue:
    """Lets writers write at the end of the current turn, in the order in which they came. Belongs to one event loop."""

    __slots__ = ("_is_armed", "_loop", "_turn", "_writers")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writers: list[Writer] = []
        self._turn = 1
        self._is_armed = False

    def turn(self) -> int:
        """The number of the current turn, from 1 on: for writers that write at once, but only once in a turn."""
        if not self._is_armed:
            self._is_armed = True
            self._loop.call_soon(self._write_all)
        return self._turn

    def add(self, writer: Writer) -> None:
        """Many small sends make one write."""
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
