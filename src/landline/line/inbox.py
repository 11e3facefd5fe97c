"""Messages without a name and without a handler, which the user of a line reads."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from landline.line.codec import decode_value
from landline.line.flow_control import wake
from landline.line.interfaces import Driver
from landline.runtime.turns import FRAMES_PER_TURN
from landline.session.events import MessageReceived


class Inbox:
    """The messages of one line that wait for its reader. They are acknowledged when they are read."""

    __slots__ = ("_driver", "_objects_max", "_reader", "_reads", "is_at_eof", "messages")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._objects_max = driver.host.handlers.message_objects
        self.messages: deque[MessageReceived] = deque()
        self.is_at_eof: bool = False
        """Whether the peer has sent EOF: no message will follow those that wait."""
        self._reads = 0
        """Messages read since the reader last let other tasks run."""
        self._reader: asyncio.Future[None] | None = None

    def put(self, message: MessageReceived) -> None:
        """Append a message, and wake the reader."""
        self.messages.append(message)
        wake(self._reader)

    def receive_eof(self) -> None:
        """Let the reader end after the messages that wait."""
        self.is_at_eof = True
        wake(self._reader)

    def wake(self) -> None:
        """Wake the reader: the line is closed."""
        wake(self._reader)

    async def wait(self) -> bool:
        """Wait for a message. Return ``False`` when the peer sent EOF or the line was closed in order.

        :raises RuntimeError: when another task waits.
        :raises Exception: the error that closed the line.
        """
        driver = self._driver
        if self._reads == FRAMES_PER_TURN:
            # A task that only reads would never let the event loop continue while there is something to read.
            self._reads = 0
            await driver.host.turns.pause()
        while not self.messages:
            if driver.is_closed and driver.error is not None:
                raise driver.error
            if self.is_at_eof or driver.is_closed:
                return False
            if self._reader is not None:
                raise RuntimeError("two tasks read from one line")
            self._reads = 0
            self._reader = driver.host.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return True

    def must_wait(self) -> bool:
        """Return whether :meth:`wait` must be called before :meth:`pop`."""
        return not self.messages or self._reads == FRAMES_PER_TURN

    def pop(self) -> Any:
        """Acknowledge the oldest message and return its value. Raise :class:`BodyError` if it cannot be decoded."""
        self._reads += 1
        message = self.messages.popleft()
        self._driver.ack(message)
        return decode_value(message.body, True, self._objects_max) if message.is_packed else message.body
