"""Telling everybody who watches what changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from landline.fleet.api import Snapshot, Update

UPDATES_WAITING_MAX: Final = 1000
"""Updates kept for one reader; a slower one gets a new snapshot instead."""


class Subscriptions:
    """The readers of updates."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._readers: set[_Reader] = set()

    def __bool__(self) -> bool:
        """Whether anybody reads."""
        return bool(self._readers)

    async def updates(self) -> AsyncIterator[Update]:
        """A snapshot, then every change; a reader too slow to follow gets a new snapshot."""
        reader = _Reader()
        self._readers.add(reader)
        try:
            while not reader.is_closed:
                if reader.needs_snapshot:
                    reader.restart()
                    yield self._snapshot()
                update = await reader.next_update()
                if update is not None:
                    yield update
        finally:
            self._readers.discard(reader)

    def publish(self, update: Update) -> None:
        """Tells every reader."""
        for reader in self._readers:
            reader.put(update)

    def close(self) -> None:
        """Ends every subscription."""
        for reader in list(self._readers):
            reader.close()


class _Reader:
    """What one subscriber has not read yet."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Update | None] = asyncio.Queue()
        self.needs_snapshot = True
        self.is_closed = False

    def restart(self) -> None:
        """Forgets what waits: a snapshot is about to say it all."""
        self._queue = asyncio.Queue()
        self.needs_snapshot = False

    def put(self, update: Update) -> None:
        """Adds an update; a reader too far behind is to start over."""
        if self._queue.qsize() >= UPDATES_WAITING_MAX:
            self.needs_snapshot = True
        else:
            self._queue.put_nowait(update)

    async def next_update(self) -> Update | None:
        """The next update, or ``None`` to look again."""
        return None if self.needs_snapshot else await self._queue.get()

    def close(self) -> None:
        """Ends the subscription."""
        self.is_closed = True
        self._queue.put_nowait(None)
