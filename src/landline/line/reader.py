"""What users of a line wait for from the peer: the next message, the answer to a request, a round trip."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Self, TypeVar, overload

from landline.errors import LineClosed, RequestLost, outcome
from landline.line.codec import decode_value
from landline.line.flow_control import wake
from landline.line.line_state import LineState
from landline.line.pending_requests import PendingRequests
from landline.line.writer import LineResources, LineWriter
from landline.runtime.guarded_log import guarded_logger
from landline.runtime.loop_thread import check_thread
from landline.runtime.turns import FRAMES_PER_TURN
from landline.session.events import MessageReceived, PongReceived

logger = guarded_logger("landline")

Response = TypeVar("Response")


class _Waiting:
    """Who waits. Made when somebody first does."""

    __slots__ = ("pings", "reader", "reads")

    def __init__(self) -> None:
        self.reads = 0
        """Messages read since the reader last let others have their turn."""
        self.reader: asyncio.Future[None] | None = None
        self.pings: dict[int, asyncio.Future[float]] = {}


class LineReader(LineWriter):
    """The part of a line that its users wait on.

    :class:`landline.Line` brings what they wait for, or the news that it will not come.
    """

    __slots__ = ("_eof_received", "_inbox", "_requests", "_waiting")

    def __init__(self, owner: LineResources, state: LineState) -> None:
        super().__init__(owner, state)
        self._eof_received = False
        self._inbox: deque[MessageReceived] | None = None
        self._requests: PendingRequests | None = None
        self._waiting: _Waiting | None = None

    # Messages without a handler.

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """The next message without a name. Cancelling loses nothing.

        Iteration ends when the peer said it sends no more or the line ended in order; otherwise it raises what
        ended the line.
        """
        check_thread(self._owner.thread, "line.__anext__")
        waiting = self._ensure_waiting()
        if waiting.reads == FRAMES_PER_TURN:
            # A task that only reads would never let the event loop go on while there is something to read.
            waiting.reads = 0
            await self._owner.turns.pause()
        while not self._inbox:
            if self._state is LineState.CLOSED and self.error is not None:
                raise self.error
            if self._eof_received or self._state is LineState.CLOSED:
                raise StopAsyncIteration
            if waiting.reader is not None:
                raise RuntimeError("two tasks read from one line")
            waiting.reads = 0
            waiting.reader = self._owner.loop.create_future()
            try:
                await waiting.reader
            finally:
                waiting.reader = None
        waiting.reads += 1
        message = self._inbox.popleft()
        self.take(message)
        return decode_value(message.body, message.is_packed, self._owner.handlers.message_objects)

    def _receive_unhandled(self, message: MessageReceived) -> None:
        if message.name:
            self.take(message)
            self.log_peer_error("%r sent a message named %r, for which there is no handler", message.name)
            return
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.append(message)
        if self._waiting is not None:
            wake(self._waiting.reader)

    # Answers.

    @overload
    async def request(
        self, name: str, value: Any = ..., *, timeout: float | None = ..., response_type: type[Response]
    ) -> Response: ...

    @overload
    async def request(
        self, name: str, value: Any = ..., *, timeout: float | None = ..., response_type: Any = ...
    ) -> Any: ...

    async def request(
        self, name: str, value: Any = None, *, timeout: float | None = 30.0, response_type: Any = Any
    ) -> Any:
        """Asks the peer's handler ``name`` and returns its answer, converted to ``response_type`` if given.

        ``timeout`` is in seconds and covers everything, reconnecting included; ``None`` waits while the line lives.
        Cancelling the call, or the timeout, tells the peer to cancel its handler.

        Raises :class:`RequestTimeout`, :class:`RequestLost` (the session ended; whether the peer acted is
        unknown), :class:`NoHandler`, :class:`RequestError` for the handler's own error (and with the code
        ``bad_response`` for an answer that does not fit), and what :meth:`send` raises.
        """
        check_thread(self._owner.thread, "line.request")
        if self._eof_received and self._state is not LineState.CLOSED:
            raise outcome(RequestLost(name, "the peer said it sends no more"))
        if self._requests is None:
            self._requests = PendingRequests(self, self._owner.loop, self._owner.handlers.message_objects)
        return await self._requests.ask(name, value, timeout, response_type)

    # Round trips.

    async def ping(self, *, timeout: float | None = 10.0) -> float:
        """Measures a round trip now; seconds. Raises :class:`TimeoutError`, or :class:`LineClosed`."""
        check_thread(self._owner.thread, "line.ping")
        waiting = self._ensure_waiting()
        future: asyncio.Future[float] = self._owner.loop.create_future()
        session = self._session if self._state is not LineState.CLOSED else self._live_session()
        if session is None or not session.is_attached:
            raise LineClosed("the line is not connected just now")
        number = session.send_ping(self._owner.wheel.time())
        waiting.pings[number] = future
        self._flush_soon()
        try:
            async with asyncio.timeout(timeout):
                return await future
        finally:
            waiting.pings.pop(number, None)

    def _receive_pong(self, event: PongReceived) -> None:
        # Only the answer to the last ping is reported; it answers those before it as well.
        for number, future in self._waiting.pings.items() if self._waiting else ():
            if number <= event.number and not future.done():
                future.set_result(event.round_trip_s)

    def _fail_pings(self, error: Exception) -> None:
        if self._waiting is not None:
            for future in self._waiting.pings.values():
                if not future.done():
                    future.set_exception(error)

    def _receive_eof(self) -> None:
        """The peer sends no more: neither messages nor answers."""
        self._eof_received = True
        self._fail_requests("the peer said it sends no more")
        self._wake_reader()

    def _fail_requests(self, why: str) -> None:
        if self._requests is not None:
            self._requests.fail(why)

    def _wake_reader(self) -> None:
        if self._waiting is not None:
            wake(self._waiting.reader)

    def _ensure_waiting(self) -> _Waiting:
        if self._waiting is None:
            self._waiting = _Waiting()
        return self._waiting
