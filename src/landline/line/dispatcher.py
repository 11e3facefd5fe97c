"""What a peer's messages and requests set going: handlers run, in order or at once, and answers go back.

A line makes one of these when the first handler is to run; most lines of a server that only sends never need one.
"""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Final

from landline.codes import Operation
from landline.errors import BufferFull, LineClosed, MessageTooLarge, RequestError, RequestLost
from landline.line.codec import BodyError, encode_value
from landline.line.decoded_size import DECODED_FACTOR_MAX, decoded_bytes
from landline.line.handlers import (
    FAILURES,
    Handler,
    Handlers,
    describe_failure,
    is_cancelled,
    is_refusal,
)
from landline.line.writer import LineWriter
from landline.runtime.guarded_log import guarded_logger
from landline.runtime.turns import FRAMES_PER_TURN, Turns
from landline.session.events import MessageReceived
from landline.texts import safe_text

logger = guarded_logger("landline")

REQUESTS_RUNNING_MAX: Final = 64
"""Requests of one peer answered at once; more wait, unacknowledged, and so in the end make the peer wait."""

REQUESTS_RUNNING_WINDOWS: Final = 4
"""... and only while what their bodies take in memory is below so many times the receive window: 32 MiB by default. One
body may take more, if it is the only one."""
BODY_LOOK_BYTES: Final = 1024
"""A packed body of fewer bytes is always counted at the most it can take."""

ANSWER_BYTES_ROOM: Final = 1024
"""A request is not begun while the send buffer has no room for at least this much of an answer."""


class _Running:
    """A request whose handler, or whose answer, is not done."""

    __slots__ = ("body", "held_bytes", "is_cancelled", "task")

    def __init__(self, task: asyncio.Task[None], held_bytes: int, body: bytes | None) -> None:
        self.task = task
        self.held_bytes = held_bytes
        self.body = body
        """Of a request that is counted at the most it can take: what can be looked at."""
        self.is_cancelled = False


class Dispatcher:
    """The handlers at work for one line."""

    __slots__ = (
        "_backlog",
        "_handlers",
        "_has_turn_coming",
        "_line",
        "_loop",
        "_running",
        "_turns",
        "_waiting",
        "_worker",
        "_working_bytes",
        "held_bytes",
    )

    def __init__(
        self, line: LineWriter, handlers: Handlers, loop: asyncio.AbstractEventLoop, turns: Turns
    ) -> None:
        self._line = line
        self._handlers = handlers
        self._loop = loop
        self._turns = turns
        self._has_turn_coming = False
        self.held_bytes = 0
        """What the messages take that are being handled: at most, and about that where much is held."""
        # Of these, what the message takes that the worker has decoded.
        self._working_bytes = 0
        self._backlog: deque[tuple[MessageReceived, Handler]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._running: dict[int, _Running] = {}
        # Untaken, in order, by correlation id. An OrderedDict: its first entry stays cheap to take out.
        self._waiting: OrderedDict[int, tuple[MessageReceived, Handler | None, int]] = OrderedDict()

    @property
    def has_backlog(self) -> bool:
        """Whether messages wait for those before them."""
        return bool(self._backlog)

    def untaken(self) -> Iterator[MessageReceived]:
        """Messages whose handlers have not finished."""
        return (message for message, _ in self._backlog)

    def receive_message(self, message: MessageReceived, handler: Handler) -> None:
        """Runs the handler of a message, after those of the messages before it."""
        if handler.is_async or (self._backlog and not handler.is_reserved):
            self._backlog.append((message, handler))
            if self._worker is None:
                self._worker = self._loop.create_task(self._work())
        else:
            self._line.take(message)
            self._run_plain(handler, message)

    def receive_request(self, message: MessageReceived) -> bool:
        """Runs the handler of a request: at once, or when there is room for it and its answer.

        What waits is not taken, so a peer that asks more than it lets us answer is stopped by its own window. Returns
        ``False`` for a request with the correlation id of one that waits: then the peer has broken the protocol.
        """
        if message.correlation in self._waiting:
            return False
        handler = self._handlers.find(message.name) if message.name else None
        size_bytes = _most_bytes(message)
        if not self._can_start(handler, size_bytes):
            size_bytes = _body_bytes(message)
            if not self._can_start(handler, size_bytes):
                self._waiting[message.correlation] = (message, handler, size_bytes)
                return True
        self._start_request(message, handler, size_bytes)
        return True

    def resume(self) -> None:
        """Starts what waited, as far as there is room now, and time in this turn of the event loop."""
        waiting = self._waiting
        if not waiting or self._has_turn_coming:
            return
        for _ in range(FRAMES_PER_TURN):
            if not waiting:
                return
            correlation, (message, handler, size_bytes) = next(iter(waiting.items()))
            if not self._can_start(handler, size_bytes):
                return
            del waiting[correlation]
            self._start_request(message, handler, size_bytes)
        if waiting:
            self._has_turn_coming = True
            self._turns.wait(self)

    def read_on(self) -> None:
        """The turn for the rest has come."""
        self._has_turn_coming = False
        self.resume()

    def cancel_request(self, correlation: int) -> None:
        """The peer does not want the answer any more. To say so again changes nothing."""
        running = self._running.get(correlation)
        if running is not None:
            if not running.is_cancelled:
                running.is_cancelled = True
                running.task.cancel()
                # A task cancelled before its first step never reaches its own `finally`.
                running.task.add_done_callback(functools.partial(self._request_done, correlation))
            return
        waiting = self._waiting.pop(correlation, None)
        if waiting is not None:
            self._line.take(waiting[0])

    def abandon(self) -> None:
        """The session is gone: nobody is left to answer, and what waits unacknowledged cannot be acknowledged."""
        self._waiting.clear()
        running, self._running = self._running, {}
        for request in running.values():
            # Those who hear of it only later are counted until then.
            request.task.add_done_callback(functools.partial(self._forget, request.held_bytes))
            request.task.cancel()

    def log_failed(self, message: MessageReceived, error: BaseException) -> None:
        """Logs what the handler of a message raised."""
        if self._is_caused_by_end(error):
            logger.info("%r ended while its handler for messages %r ran", self._line, message.name)
        elif isinstance(error, BodyError):
            self._line.log_peer_error(
                "%r sent a message %r that does not fit: %s", message.name, safe_text(str(error))
            )
        elif is_refusal(error):
            # So a handler says no. Nobody waits for an answer to a message, and peers must not write tracebacks.
            self._line.log_peer_error(
                "%r sent a message %r that was refused: %s", message.name, safe_text(str(error))
            )
        elif isinstance(error, RequestError):
            # Of a request of the handler's own, whose answer may be the peer's.
            self._line.log_peer_error(
                "%r sent a message %r whose handler failed: a request of its own ended with: %s",
                message.name,
                safe_text(str(error)),
            )
        else:
            logger.error("the handler for messages %r of %r failed", message.name, self._line, exc_info=error)

    def _is_caused_by_end(self, error: BaseException) -> bool:
        """Whether a handler could not send because the peer has ended the session. Peers must not write tracebacks."""
        return isinstance(error, LineClosed | BufferFull | RequestLost) and self._line.has_ended

    def _run_plain(self, handler: Handler, message: MessageReceived) -> None:
        try:
            handler.function(self._line, handler.decode_body(message.body, message.is_packed))
        except FAILURES as error:
            self.log_failed(message, error)

    async def _work(self) -> None:
        """Runs the handlers of messages one after the other; ends when none waits."""
        backlog = self._backlog
        done = 0
        try:
            while backlog:
                message, handler = backlog[0]
                done += 1
                if done % FRAMES_PER_TURN == 0:
                    # Handlers that never wait for anything would keep everybody else waiting.
                    await self._turns.pause()
                if handler.is_async:
                    self._count_working(decoded_bytes(message.body) if message.is_packed else 0)
                    try:
                        await handler.function(
                            self._line, handler.decode_body(message.body, message.is_packed)
                        )
                    except FAILURES as error:
                        if is_cancelled(error):
                            raise
                        self.log_failed(message, error)
                else:
                    self._run_plain(handler, message)
                backlog.popleft()
                self._line.take(message)
        finally:
            self._worker = None
            self._count_working(0)
            backlog.clear()

    def _count_working(self, size_bytes: int) -> None:
        self.held_bytes += size_bytes - self._working_bytes
        self._working_bytes = size_bytes

    def _can_start(self, handler: Handler | None, size_bytes: int) -> bool:
        session = self._line.session
        if session is None or not session.has_space(ANSWER_BYTES_ROOM):
            return False
        if handler is None or not handler.is_async:
            return True
        if len(self._running) >= REQUESTS_RUNNING_MAX:
            return False
        limit_bytes = REQUESTS_RUNNING_WINDOWS * session.limits.window_bytes
        if not self._running or self.held_bytes + size_bytes <= limit_bytes:
            return True
        self.look_closely()
        return self.held_bytes + size_bytes <= limit_bytes

    def look_closely(self) -> None:
        """Counts what the requests at work take, of those that were counted at the most they can take."""
        for running in self._running.values():
            if running.body is not None:
                exact = len(running.body) + decoded_bytes(running.body)
                self.held_bytes += exact - running.held_bytes
                running.held_bytes, running.body = exact, None

    def _start_request(self, message: MessageReceived, handler: Handler | None, size_bytes: int) -> None:
        self._line.take(message)
        session = self._line.session
        if session is None or not session.can_answer:
            # Nobody would learn what became of it.
            return
        if handler is None:
            self._answer_error(message.correlation, "no_handler", message.name)
        elif message.correlation in self._running:
            self._answer_error(message.correlation, "bad_request", "two requests with one correlation id")
        elif handler.is_async:
            task = self._loop.create_task(self._answer(message, handler))
            is_vague = message.is_packed and size_bytes == _most_bytes(message)
            self._run(message.correlation, _Running(task, size_bytes, message.body if is_vague else None))
        else:
            self._answer_plain(message, handler)

    def _answer_plain(self, message: MessageReceived, handler: Handler) -> None:
        try:
            result = handler.function(self._line, handler.decode_body(message.body, message.is_packed))
            body, is_packed = self._handlers.encode(result)
        except FAILURES as error:
            if self._is_caused_by_end(error):
                logger.info("%r ended while its handler for %r ran", self._line, message.name)
                return
            self._answer_error(message.correlation, *describe_failure(error, message.name, self._line))
        else:
            self._answer_nowait(Operation.RESPONSE, message.correlation, body, is_packed)

    async def _answer(self, message: MessageReceived, handler: Handler) -> None:
        session = self._line.session
        try:
            try:
                result = await handler.function(
                    self._line, handler.decode_body(message.body, message.is_packed)
                )
                body, is_packed = self._handlers.encode(result)
                operation = Operation.RESPONSE
            except FAILURES as error:
                if is_cancelled(error):
                    raise
                if self._is_caused_by_end(error):
                    logger.info("%r ended while its handler for %r ran", self._line, message.name)
                    return
                operation = Operation.ERROR
                body, is_packed = encode_value(describe_failure(error, message.name, self._line))
            if self._line.session is not session:
                return  # The handler outlived the session: a new one knows nothing of this request.
            await self._line.transmit(
                operation, b"", body, correlation=message.correlation, is_packed=is_packed
            )
        except MessageTooLarge as error:
            self._answer_error(message.correlation, "too_large", f"the answer is {error}")
        except LineClosed:
            logger.debug("%r ended before the answer to %r could be sent", self._line, message.name)
        finally:
            self._request_done(message.correlation, asyncio.current_task())

    def _run(self, correlation: int, running: _Running) -> None:
        self._running[correlation] = running
        self.held_bytes += running.held_bytes

    def _request_done(self, correlation: int, task: asyncio.Task[None] | None) -> None:
        running = self._running.get(correlation)
        # A handler that outlived its session may end while a new request bears the same id.
        if running is not None and running.task is task:
            del self._running[correlation]
            self._forget(running.held_bytes)
        self.resume()

    def _forget(self, size_bytes: int, task: asyncio.Task[None] | None = None) -> None:
        self.held_bytes -= size_bytes

    def _answer_error(self, correlation: int, code: str, text: str) -> None:
        body, is_packed = encode_value((code, text))
        self._answer_nowait(Operation.ERROR, correlation, body, is_packed)

    def _answer_nowait(self, operation: Operation, correlation: int, body: bytes, is_packed: bool) -> None:
        try:
            self._line.transmit_nowait(operation, b"", body, correlation=correlation, is_packed=is_packed)
        except BufferFull:
            # There was room for a small answer, and this one is large: few of these can be under way.
            task = self._loop.create_task(self._answer_later(operation, correlation, body, is_packed))
            self._run(correlation, _Running(task, len(body), None))
        except LineClosed:
            logger.debug("%r ended before an answer could be sent", self._line)
        except MessageTooLarge as error:
            self._answer_error(correlation, "too_large", f"the answer is {error}")

    async def _answer_later(
        self, operation: Operation, correlation: int, body: bytes, is_packed: bool
    ) -> None:
        try:
            await self._line.transmit(operation, b"", body, correlation=correlation, is_packed=is_packed)
        except LineClosed:
            logger.debug("%r ended before an answer could be sent", self._line)
        finally:
            self._request_done(correlation, asyncio.current_task())


def _most_bytes(message: MessageReceived) -> int:
    """At most what a request takes while its handler is at work, its body decoded or not."""
    size = message.size_bytes
    return size * DECODED_FACTOR_MAX if message.is_packed else size


def _body_bytes(message: MessageReceived) -> int:
    """The same, looked at."""
    if not message.is_packed or len(message.body) <= BODY_LOOK_BYTES:
        return _most_bytes(message)
    return message.size_bytes + decoded_bytes(message.body)
