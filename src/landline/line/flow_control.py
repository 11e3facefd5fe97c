"""Room in the send buffer of a line: who waits for it, and what happens to messages for which there is none."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from landline.errors import ConfigurationError
from landline.runtime.guarded_log import guarded_logger
from landline.session.session import Session

logger = guarded_logger("landline")


class OverflowPolicy(StrEnum):
    """What happens to a message when the send buffer has no room for it."""

    WAIT = "wait"
    """The sender waits until there is room."""
    DROP_OLDEST = "drop oldest"
    """Messages sent like this make room for each other, oldest first, those of the same name before others; and
    for every other message, which they never keep waiting. If that is not enough, this one is dropped."""
    DROP_NEWEST = "drop newest"
    """This message is dropped. Once taken, it is promised as any other."""
    DISCONNECT = "disconnect"
    """The line is ended with the code ``TOO_SLOW``."""


def check_policy(overflow: OverflowPolicy, max_pending: int | None) -> None:
    """Raises :class:`ConfigurationError` when these do not go together."""
    if not isinstance(overflow, OverflowPolicy):
        raise ConfigurationError(f"overflow={overflow!r} is no landline.OverflowPolicy")
    if max_pending is not None and (overflow is not OverflowPolicy.DROP_OLDEST or max_pending < 1):
        raise ConfigurationError(
            f"max_pending={max_pending} with overflow={overflow.name}: it needs DROP_OLDEST and to be at least 1"
        )


class HasSession(Protocol):
    """A line, as far as its room needs to know it."""

    @property
    def session(self) -> Session | None:
        """The session whose send buffer it is, just now."""


class SendFlowControl:
    """Those who wait for room, or for all of it, and what was dropped for want of it.

    A line makes one when it is first needed; most lines are idle most of the time.
    """

    __slots__ = ("_drained", "_line", "_loop", "_senders", "is_dropping", "messages_dropped")

    def __init__(self, line: HasSession, loop: asyncio.AbstractEventLoop) -> None:
        self._line = line
        self._loop = loop
        self._senders: deque[asyncio.Future[None]] = deque()
        self._drained: asyncio.Future[None] | None = None
        self.messages_dropped = 0
        self.is_dropping = False
        """Whether messages were dropped since the buffer was last half empty: logged once, not for each."""

    @property
    def has_senders(self) -> bool:
        """Whether senders wait."""
        return bool(self._senders)

    async def wait(self, has_room: Callable[[], bool]) -> None:
        """Waits in line until there is room and nobody waits before us. Cancelling passes the turn on."""
        senders = self._senders
        turn: asyncio.Future[None] = self._loop.create_future()
        senders.append(turn)
        try:
            while True:
                await turn
                if has_room():
                    return
                index = senders.index(turn)
                turn = senders[index] = self._loop.create_future()
        finally:
            senders.remove(turn)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.wake_sender(self._line.session)

    def wake_sender(self, session: Session | None) -> None:
        """Wakes who waits first, if there is any room."""
        if self._senders and session is not None and session.has_space(1):
            wake(self._senders[0])

    def receive_acks(self, session: Session) -> None:
        """Acknowledgements may have come, or a new session."""
        self.wake_sender(session)
        if self._drained is not None and session.is_drained:
            wake(self._drained)
        if self.is_dropping and session.is_below_low_watermark:
            self.is_dropping = False
            logger.info("%r takes messages again; %d were dropped so far", self._line, self.messages_dropped)

    async def drain(self, session: Session, timeout_s: float | None) -> bool:
        """See :meth:`landline.Line.drain`."""
        drained = self._drained = self._drained or self._loop.create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(drained)
        except TimeoutError:
            pass
        finally:
            # Not done: another call may still wait for it.
            if drained.done() and self._drained is drained:
                self._drained = None
        return session.is_drained

    def count_dropped(self, count: int, session: Session | None) -> None:
        """Counts messages that were dropped; logs the first since the buffer was last half empty.

        What is dropped in a buffer with room is dropped by the sender's own wish, and not worth a warning.
        """
        self.messages_dropped += count
        if not self.is_dropping and session is not None and not session.is_below_low_watermark:
            self.is_dropping = True
            logger.warning("%r is too slow: its send buffer is full, and messages are dropped", self._line)

    def fail(self, error: Exception) -> None:
        """The line is over."""
        for sender in self._senders:
            if not sender.done():
                sender.set_exception(error)
        wake(self._drained)


def wake(future: asyncio.Future[None] | None) -> None:
    """Lets go on who waits for it, if anybody does and was not woken yet."""
    if future is not None and not future.done():
        future.set_result(None)
