"""Runs the handlers for a peer's messages and requests, and sends the answers."""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any, Final

from landline.codes import Operation
from landline.errors import BufferFull, LineClosed, MessageTooLarge, RequestError, RequestLost
from landline.line.codec import BodyError, encode_value
from landline.line.decoded_size import DECODED_FACTOR_MAX, decoded_bytes
from landline.line.handlers import (
    FAILURES,
    Handler,
    describe_failure,
    is_cancelled,
    is_refusal,
)
from landline.line.interfaces import Driver
from landline.runtime.guarded_log import guarded_logger
from landline.runtime.turns import FRAMES_PER_TURN
from landline.session.events import MessageReceived
from landline.texts import safe_text

logger: Final = guarded_logger("landline")

REQUESTS_RUNNING_MAX: Final = 64
"""Requests of one peer that are handled at the same time. More wait unacknowledged, which in the end stops the peer."""

REQUESTS_RUNNING_WINDOWS: Final = 4
"""The limit of the memory for the bodies of those requests, as a multiple of the receive window: 32 MiB by default. A
single body may take more if no other request is being handled."""
BODY_LOOK_BYTES: Final = 1024
"""Packed bodies up to this size are always counted at the maximum that they can take in memory."""

ANSWER_ROOM_BYTES: Final = 1024
"""A request waits until the send buffer has this much room for its answer."""


class _Running:
    """A request whose handler runs, or whose answer waits for room."""

    __slots__ = ("body", "held_bytes", "is_cancelled", "task")

    def __init__(self, task: asyncio.Task[None], held_bytes: int, body: bytes | None) -> None:
        self.task = task
        self.held_bytes: int = held_bytes
        self.body = body
        """The body, while it is counted at the maximum that it can take in memory; it can be counted exactly."""
        self.is_cancelled = False


class Dispatcher:
    """Runs the handlers of one line: those for messages one after the other, those for requests at the same time.

    It does not keep the :class:`landline.Line`: a closed line must not be held by its own parts.
    """

    __slots__ = (
        "_backlog",
        "_driver",
        "_has_turn_coming",
        "_host",
        "_running",
        "_waiting",
        "_worker",
        "_working_bytes",
        "held_bytes",
    )

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._host = driver.host
        self._has_turn_coming = False
        self.held_bytes: int = 0
        """The memory that the messages being handled take: an upper bound, and close to it where much is held."""
        # The share of the message that the worker has decoded.
        self._working_bytes = 0
        self._backlog: deque[tuple[MessageReceived, Handler]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._running: dict[int, _Running] = {}
        # Unacknowledged, in order, by correlation id. An OrderedDict: removing its first entry stays cheap.
        self._waiting: OrderedDict[int, tuple[MessageReceived, Handler | None, int]] = OrderedDict()

    @property
    def has_backlog(self) -> bool:
        """Whether messages wait for the handlers of those before them."""
        return bool(self._backlog)

    def unacked(self) -> Iterator[MessageReceived]:
        """Return the messages whose handlers have not finished."""
        return (message for message, _ in self._backlog)

    def receive_message(self, line: Any, message: MessageReceived, handler: Handler) -> None:
        """Run the handler of a message, after those of the messages before it."""
        if handler.is_async or (self._backlog and not handler.is_reserved):
            self._backlog.append((message, handler))
            if self._worker is None:
                self._worker = self._host.loop.create_task(self._work(line))
        else:
            self._driver.ack(message)
            self._run_plain(line, handler, message)

    def receive_request(self, line: Any, message: MessageReceived) -> bool:
        """Run the handler of a request: at once, or when there is room for it and its answer.

        Requests that wait are not acknowledged, so a peer that sends requests but reads no answers is stopped by its
        own window. Return ``False`` for the correlation id of a request that waits: a violation of the protocol.
        """
        if message.correlation in self._waiting:
            return False
        handler = self._host.handlers.find(message.name) if message.name else None
        size_bytes = _size_bytes_max(message)
        if not self._can_start(handler, size_bytes):
            size_bytes = _size_bytes_of(message)
            if not self._can_start(handler, size_bytes):
                self._waiting[message.correlation] = (message, handler, size_bytes)
                return True
        self._start_request(line, message, handler, size_bytes)
        return True

    def resume(self) -> None:
        """Start requests that wait, while there is room, and time in this turn of the event loop."""
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
            self._start_request(self._driver.line, message, handler, size_bytes)
        if waiting:
            self._has_turn_coming = True
            self._host.turns.wait(self)

    def read_on(self) -> None:
        """Start the rest: its turn has come."""
        self._has_turn_coming = False
        self.resume()

    def cancel_request(self, correlation: int) -> None:
        """Cancel the handler of a request: the peer no longer wants the answer. Idempotent."""
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
            self._driver.ack(waiting[0])

    def discard_session(self) -> None:
        """Cancel all requests: the session is lost, so they can be neither acknowledged nor answered."""
        self._waiting.clear()
        running, self._running = self._running, {}
        for request in running.values():
            # A handler that ends later is counted until then.
            request.task.add_done_callback(functools.partial(self._release, request.held_bytes))
            request.task.cancel()

    def log_failed(self, message: MessageReceived, error: BaseException) -> None:
        """Log what the handler of a message raised."""
        if self._is_caused_by_end(error):
            logger.info("%r ended while its handler for messages %r ran", self._driver, message.name)
        elif isinstance(error, BodyError):
            self._driver.log_peer_error(
                "%r sent a message %r that does not fit: %s", message.name, safe_text(str(error))
            )
        elif is_refusal(error):
            # The handler refuses the message, which has no answer. A peer must not be able to cause tracebacks.
            self._driver.log_peer_error(
                "%r sent a message %r that was refused: %s", message.name, safe_text(str(error))
            )
        elif isinstance(error, RequestError):
            # The error of a request that the handler sent, perhaps to this peer.
            self._driver.log_peer_error(
                "%r sent a message %r whose handler failed: a request of its own ended with: %s",
                message.name,
                safe_text(str(error)),
            )
        else:
            logger.error(
                "the handler for messages %r of %r failed", message.name, self._driver, exc_info=error
            )

    def _is_caused_by_end(self, error: BaseException) -> bool:
        """Return whether a handler could not send because the session has ended: peers must not cause tracebacks."""
        return isinstance(error, LineClosed | BufferFull | RequestLost) and self._driver.has_ended

    def _run_plain(self, line: Any, handler: Handler, message: MessageReceived) -> None:
        try:
            handler.function(line, handler.decode_body(message.body, message.is_packed))
        except FAILURES as error:
            self.log_failed(message, error)

    async def _work(self, line: Any) -> None:
        """Run the handlers of messages one after the other; return when none waits."""
        backlog = self._backlog
        done = 0
        try:
            while backlog:
                message, handler = backlog[0]
                done += 1
                if done % FRAMES_PER_TURN == 0:
                    # Handlers that never wait would keep all other tasks waiting.
                    await self._host.turns.pause()
                if handler.is_async:
                    self._count_working(decoded_bytes(message.body) if message.is_packed else 0)
                    try:
                        await handler.function(line, handler.decode_body(message.body, message.is_packed))
                    except FAILURES as error:
                        if is_cancelled(error):
                            raise
                        self.log_failed(message, error)
                else:
                    self._run_plain(line, handler, message)
                backlog.popleft()
                self._driver.ack(message)
        finally:
            self._worker = None
            self._count_working(0)
            backlog.clear()

    def _count_working(self, size_bytes: int) -> None:
        self.held_bytes += size_bytes - self._working_bytes
        self._working_bytes = size_bytes

    def _can_start(self, handler: Handler | None, size_bytes: int) -> bool:
        session = self._driver.session
        if session is None or not session.outbound.has_space(ANSWER_ROOM_BYTES):
            return False
        if handler is None or not handler.is_async:
            return True
        if len(self._running) >= REQUESTS_RUNNING_MAX:
            return False
        limit_bytes = REQUESTS_RUNNING_WINDOWS * session.inbound.limits.window_bytes
        if not self._running or self.held_bytes + size_bytes <= limit_bytes:
            return True
        self.refine_held_bytes()
        return self.held_bytes + size_bytes <= limit_bytes

    def refine_held_bytes(self) -> None:
        """Count exactly the requests that were counted at the maximum that they can take in memory."""
        for running in self._running.values():
            if running.body is not None:
                exact = len(running.body) + decoded_bytes(running.body)
                self.held_bytes += exact - running.held_bytes
                running.held_bytes, running.body = exact, None

    def _start_request(
        self, line: Any, message: MessageReceived, handler: Handler | None, size_bytes: int
    ) -> None:
        self._driver.ack(message)
        session = self._driver.session
        if session is None or not session.outbound.can_answer:
            # The result could not be sent.
            return
        if handler is None:
            self._answer_error(message.correlation, "no_handler", message.name)
        elif message.correlation in self._running:
            self._answer_error(message.correlation, "bad_request", "two requests with one correlation id")
        elif handler.is_async:
            task = self._host.loop.create_task(self._answer(line, message, handler))
            is_estimate = message.is_packed and size_bytes == _size_bytes_max(message)
            self._run(message.correlation, _Running(task, size_bytes, message.body if is_estimate else None))
        else:
            self._answer_plain(line, message, handler)

    def _answer_plain(self, line: Any, message: MessageReceived, handler: Handler) -> None:
        try:
            result = handler.function(line, handler.decode_body(message.body, message.is_packed))
            body, is_packed = self._host.handlers.encode(result)
        except FAILURES as error:
            if self._is_caused_by_end(error):
                logger.info("%r ended while its handler for %r ran", self._driver, message.name)
                return
            self._answer_error(message.correlation, *describe_failure(error, message.name, self._driver))
        else:
            self._answer_nowait(Operation.RESPONSE, message.correlation, body, is_packed)

    async def _answer(self, line: Any, message: MessageReceived, handler: Handler) -> None:
        session = self._driver.session
        try:
            try:
                result = await handler.function(line, handler.decode_body(message.body, message.is_packed))
                body, is_packed = self._host.handlers.encode(result)
                operation = Operation.RESPONSE
            except FAILURES as error:
                if is_cancelled(error):
                    raise
                if self._is_caused_by_end(error):
                    logger.info("%r ended while its handler for %r ran", self._driver, message.name)
                    return
                operation = Operation.ERROR
                body, is_packed = encode_value(describe_failure(error, message.name, self._driver))
            if self._driver.session is not session:
                return  # The handler outlived the session; in the new one this request does not exist.
            await self._driver.transmit(
                operation, b"", body, correlation=message.correlation, is_packed=is_packed
            )
        except MessageTooLarge as error:
            self._answer_error(message.correlation, "too_large", f"the answer is {error}")
        except LineClosed:
            logger.debug("%r ended before the answer to %r could be sent", self._driver, message.name)
        finally:
            self._request_done(message.correlation, asyncio.current_task())

    def _run(self, correlation: int, running: _Running) -> None:
        self._running[correlation] = running
        self.held_bytes += running.held_bytes

    def _request_done(self, correlation: int, task: asyncio.Task[None] | None) -> None:
        running = self._running.get(correlation)
        # A handler that outlived its session may end while a new request has the same id.
        if running is not None and running.task is task:
            del self._running[correlation]
            self._release(running.held_bytes)
        self.resume()

    def _release(self, size_bytes: int, task: asyncio.Task[None] | None = None) -> None:
        self.held_bytes -= size_bytes

    def _answer_error(self, correlation: int, code: str, text: str) -> None:
        body, is_packed = encode_value((code, text))
        self._answer_nowait(Operation.ERROR, correlation, body, is_packed)

    def _answer_nowait(self, operation: Operation, correlation: int, body: bytes, is_packed: bool) -> None:
        try:
            self._driver.transmit_nowait(operation, b"", body, correlation=correlation, is_packed=is_packed)
        except BufferFull:
            # There was room for a small answer, and this one is large: few such tasks can exist at once.
            task = self._host.loop.create_task(self._answer_later(operation, correlation, body, is_packed))
            self._run(correlation, _Running(task, len(body), None))
        except LineClosed:
            logger.debug("%r ended before an answer could be sent", self._driver)
        except MessageTooLarge as error:
            self._answer_error(correlation, "too_large", f"the answer is {error}")

    async def _answer_later(
        self, operation: Operation, correlation: int, body: bytes, is_packed: bool
    ) -> None:
        try:
            await self._driver.transmit(operation, b"", body, correlation=correlation, is_packed=is_packed)
        except LineClosed:
            logger.debug("%r ended before an answer could be sent", self._driver)
        finally:
            self._request_done(correlation, asyncio.current_task())


def _size_bytes_max(message: MessageReceived) -> int:
    """Return the maximum memory that a request takes while its handler runs, its body decoded or not."""
    size = message.size_bytes
    return size * DECODED_FACTOR_MAX if message.is_packed else size


def _size_bytes_of(message: MessageReceived) -> int:
    """Return the same by a look at the body, where that is worth it."""
    if not message.is_packed or len(message.body) <= BODY_LOOK_BYTES:
        return _size_bytes_max(message)
    return message.size_bytes + decoded_bytes(message.body)
