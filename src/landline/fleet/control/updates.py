"""Telling everybody who watches what changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from landline.fleet.api import Snapshot, Update

UPDATES_WAITING_MAX: Final = 1000
"""Updates kept for one subscriber; a slower one gets a new snapshot instead."""


class Subscriptions:
    """The readers of updates."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._subscribers: set[Subscriber] = set()

    def __bool__(self) -> bool:
        """Whether anybody reads."""
        return bool(self._subscribers)

    async def updates(self) -> AsyncIterator[Update]:
        """A snapshot, then every change; a subscriber too slow to follow gets a new snapshot."""
        subscriber = Subscriber()
        self._subscribers.add(subscriber)
        try:
            while not subscriber.is_closed:
                if subscriber.needs_snapshot:
                    subscriber.restart()
                    yield self._snapshot()
                update = await subscriber.next_update()
                if update is not None:
                    yield update
        finally:
            self._subscribers.discard(subscriber)

    def publish(self, update: Update) -> None:
        """Tells every subscriber."""
        for subscriber in self._subscribers:
            subscriber.put(update)

    def close(self) -> None:
        """Ends every subscription."""
        for subscriber in list(self._subscribers):
            subscriber.close()


class Subscriber:
    """What one subscriber has not read yet."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Update | None] = asyncio.Queue()
        self.needs_snapshot: bool = True
        self.is_closed: bool = False

    def restart(self) -> None:
        """Forgets what waits: a snapshot is about to say it all."""
        self._queue = asyncio.Queue()
        self.needs_snapshot = False

    def put(self, update: Update) -> None:
        """Adds an update; a subscriber too far behind is to start over."""
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
