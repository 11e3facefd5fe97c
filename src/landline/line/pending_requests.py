"""Requests of ours that wait for the peer's answer."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec

from landline.codes import Operation
from landline.errors import (
    BufferFull,
    LineClosed,
    NoHandler,
    RequestError,
    RequestLost,
    RequestTimeout,
    outcome,
)
from landline.line.codec import BodyDecoder, decode_value, decoder_of
from landline.line.decoded_size import MESSAGE_OBJECTS
from landline.line.writer import LineWriter
from landline.session.events import MessageReceived
from landline.texts import safe_text


class PendingRequests:
    """The requests of one line that are under way. Correlation ids are never used twice on one line."""

    __slots__ = ("_correlations", "_line", "_loop", "_objects_max", "_pending")

    def __init__(self, line: LineWriter, loop: asyncio.AbstractEventLoop, objects_max: int) -> None:
        self._objects_max = objects_max
        self._line = line
        self._loop = loop
        self._correlations = itertools.count(1)
        self._pending: dict[int, tuple[str, asyncio.Future[MessageReceived]]] = {}

    async def ask(self, name: str, value: Any, timeout_s: float | None, response_type: Any) -> Any:
        """See :meth:`landline.Line.request`."""
        handlers = self._line.handlers
        # Before anything is asked.
        decoder = None if response_type is Any else decoder_of(response_type, handlers.dec_hook)
        body, is_packed = handlers.encode(value)
        correlation = next(self._correlations)
        future: asyncio.Future[MessageReceived] = self._loop.create_future()
        sent = False
        try:
            async with asyncio.timeout(timeout_s):
                await self._line.transmit(
                    Operation.REQUEST, name.encode(), body, correlation=correlation, is_packed=is_packed
                )
                sent = True
                self._pending[correlation] = (name, future)
                answer = await future
        except TimeoutError as error:
            raise outcome(RequestTimeout(name, timeout_s or 0.0)) from error
        finally:
            if sent:
                self._pending.pop(correlation, None)
                if future.cancelled() or not future.done():
                    self._send_cancel(correlation)
        return read_answer(
            name,
            answer.body,
            answer.is_packed,
            decoder,
            is_error=answer.operation is Operation.ERROR,
            objects_max=handlers.message_objects,
        )

    def receive_answer(self, answer: MessageReceived) -> None:
        """A response or an error. One to a request given up meanwhile is of no use to anybody."""
        pending = self._pending.get(answer.correlation)
        if pending is not None and not pending[1].done():
            pending[1].set_result(answer)

    def fail(self, why: str) -> None:
        """No answer will come any more."""
        pending, self._pending = self._pending, {}
        for name, future in pending.values():
            if not future.done():
                future.set_exception(outcome(RequestLost(name, why)))

    def _send_cancel(self, correlation: int) -> None:
        """Best effort: a peer that is gone, or behind a full buffer, has nothing to cancel for us any more."""
        try:
            self._line.transmit_nowait(Operation.CANCEL, b"", b"", correlation=correlation, is_packed=False)
        except (LineClosed, BufferFull):
            return


def read_answer(
    name: str,
    body: bytes,
    is_packed: bool,
    decoder: BodyDecoder | None,
    *,
    is_error: bool,
    objects_max: int = MESSAGE_OBJECTS,
) -> Any:
    """The value of an answer, converted by ``decoder`` if there is one; or raises the error it is."""
    if is_error:
        raise outcome(_decode_error(name, body))
    try:
        return (
            decode_value(body, is_packed, objects_max)
            if decoder is None
            else decoder.decode_body(body, is_packed)
        )
    except msgspec.DecodeError as error:
        raise outcome(
            RequestError("bad_response", f"the answer to {name!r} does not fit: {safe_text(str(error))}")
        ) from error


_error_body = BodyDecoder(tuple[str, str])


def _decode_error(name: str, body: bytes) -> RequestError:
    try:
        code, text = _error_body.decode_body(body, True)
    except msgspec.DecodeError:
        return RequestError("failed", f"the peer answered {name!r} with an error that cannot be read")
    return NoHandler(name) if code == "no_handler" else RequestError(code, text)
