"""The feed of changes for subscribers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from landline.fleet.api import Snapshot, Update

UPDATES_WAITING_MAX: Final = 1000
"""Updates queued for one subscriber. One that is slower gets a new snapshot instead."""


class Subscriptions:
    """The subscribers to updates.

    :param snapshot: returns the complete current state.
    """

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._subscribers: set[Subscriber] = set()

    def __bool__(self) -> bool:
        """Return whether there are subscribers."""
        return bool(self._subscribers)

    async def updates(self) -> AsyncIterator[Update]:
        """Yield a snapshot, then every change. A subscriber that is too slow gets a new snapshot."""
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
        """Queue an update for every subscriber."""
        for subscriber in self._subscribers:
            subscriber.put(update)

    def close(self) -> None:
        """End every subscription."""
        for subscriber in list(self._subscribers):
            subscriber.close()


class Subscriber:
    """The queue of one subscriber."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Update | None] = asyncio.Queue()
        self.needs_snapshot: bool = True
        self.is_closed: bool = False

    def restart(self) -> None:
        """Drop the queued updates: the subscriber is about to get a snapshot."""
        self._queue = asyncio.Queue()
        self.needs_snapshot = False

    def put(self, update: Update) -> None:
        """Queue an update. If the queue is full, the subscriber needs a new snapshot."""
        if self._queue.qsize() >= UPDATES_WAITING_MAX:
            self.needs_snapshot = True
        else:
            self._queue.put_nowait(update)

    async def next_update(self) -> Update | None:
        """Return the next update, or ``None`` if the state of the subscription has changed."""
        return None if self.needs_snapshot else await self._queue.get()

    def close(self) -> None:
        """End the subscription."""
        self.is_closed = True
        self._queue.put_nowait(None)
