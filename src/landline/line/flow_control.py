"""Flow control of a line: senders that wait for room in the send buffer, and messages dropped for lack of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from landline.errors import ConfigurationError
from landline.line.interfaces import Driver
from landline.runtime.guarded_log import guarded_logger
from landline.session.session import Session

logger: Final = guarded_logger("landline")


class OverflowPolicy(StrEnum):
    """What happens to a message when the send buffer has no room for it."""

    WAIT = "wait"
    """The sender waits until there is room."""
    DROP_OLDEST = "drop oldest"
    """Messages sent with this policy are dropped to make room, the oldest first and those of the same name before
    others: for each other, and for every other message, which they never delay. If that is not enough, this message
    is dropped."""
    DROP_NEWEST = "drop newest"
    """This message is dropped. Once accepted, it is delivered like any other."""
    DISCONNECT = "disconnect"
    """The line is ended with the code ``TOO_SLOW``."""


def check_policy(overflow: OverflowPolicy, max_pending: int | None) -> None:
    """Raise :class:`ConfigurationError` for an invalid policy, or a limit that does not fit it."""
    if not isinstance(overflow, OverflowPolicy):
        raise ConfigurationError(f"overflow={overflow!r} is not a landline.OverflowPolicy")
    if max_pending is not None and (overflow is not OverflowPolicy.DROP_OLDEST or max_pending < 1):
        raise ConfigurationError(
            f"max_pending={max_pending} with overflow={overflow.name}: it must be at least 1, and needs DROP_OLDEST"
        )


class SendFlowControl:
    """Senders that wait for room, callers that wait for the drain, and the count of dropped messages."""

    __slots__ = ("_drained", "_driver", "_is_dropping", "_senders", "messages_dropped")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._senders: deque[asyncio.Future[None]] = deque()
        self._drained: asyncio.Future[None] | None = None
        self.messages_dropped: int = 0
        self._is_dropping = False
        """Whether messages were dropped since the buffer was last half empty: logged once, not for each message."""

    @property
    def has_senders(self) -> bool:
        """Whether senders wait."""
        return bool(self._senders)

    async def wait(self, has_room: Callable[[], bool]) -> None:
        """Wait, first come, first served, until there is room. Cancelling passes the turn on."""
        senders = self._senders
        turn: asyncio.Future[None] = self._driver.host.loop.create_future()
        senders.append(turn)
        try:
            while True:
                await turn
                if has_room():
                    return
                index = senders.index(turn)
                turn = senders[index] = self._driver.host.loop.create_future()
        finally:
            senders.remove(turn)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.wake_sender(self._driver.session)

    def wake_sender(self, session: Session | None) -> None:
        """Wake the first sender that waits, if there is any room."""
        if self._senders and session is not None and session.outbound.has_space(1):
            wake(self._senders[0])

    def receive_acks(self, session: Session) -> None:
        """Wake what waits for acknowledgements: some may have arrived, or there is a new session."""
        self.wake_sender(session)
        if self._drained is not None and session.outbound.is_drained:
            wake(self._drained)
        if self._is_dropping and session.outbound.is_below_low_watermark:
            self._is_dropping = False
            logger.info(
                "%r accepts messages again; %d were dropped so far", self._driver, self.messages_dropped
            )

    async def drain(self, session: Session, timeout_s: float | None) -> bool:
        """See :meth:`landline.Line.drain`."""
        drained = self._drained = self._drained or self._driver.host.loop.create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(drained)
        except TimeoutError:
            pass
        finally:
            # While it is not done, another call may still wait for it.
            if drained.done() and self._drained is drained:
                self._drained = None
        return session.outbound.is_drained

    def count_dropped(self, count: int, session: Session | None) -> None:
        """Count dropped messages. Log the first since the buffer was last half empty.

        A message that is dropped while the buffer has room was dropped because of ``max_pending``: the sender wants
        that, so it is not logged.
        """
        self.messages_dropped += count
        if not self._is_dropping and session is not None and not session.outbound.is_below_low_watermark:
            self._is_dropping = True
            logger.warning("%r is too slow: its send buffer is full, and messages are dropped", self._driver)

    def fail(self, error: Exception) -> None:
        """Fail the senders that wait: the line is closed."""
        for sender in self._senders:
            if not sender.done():
                sender.set_exception(error)
        wake(self._drained)


def wake(future: asyncio.Future[None] | None) -> None:
    """Complete a future, if there is one that is not done."""
    if future is not None and not future.done():
        future.set_result(None)
