"""This side's requests that wait for the peer's answer."""

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
from landline.line.interfaces import Driver
from landline.session.events import MessageReceived
from landline.texts import safe_text


class PendingRequests:
    """The unanswered requests of one line. No correlation id is used twice on one line."""

    __slots__ = ("_correlations", "_driver", "_pending")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._correlations = itertools.count(1)
        self._pending: dict[int, tuple[str, asyncio.Future[MessageReceived]]] = {}

    async def request(self, name: str, value: Any, timeout_s: float | None, response_type: Any) -> Any:
        """See :meth:`landline.Line.request`."""
        driver = self._driver
        handlers = driver.host.handlers
        # First, so that a mistake in the call is raised before anything is sent.
        decoder = None if response_type is Any else decoder_of(response_type, handlers.dec_hook)
        body, is_packed = handlers.encode(value)
        correlation = next(self._correlations)
        future: asyncio.Future[MessageReceived] = driver.host.loop.create_future()
        sent = False
        try:
            async with asyncio.timeout(timeout_s):
                await driver.transmit(
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
        """Complete a request with a response or an error; ignore the answer to a request that was given up."""
        pending = self._pending.get(answer.correlation)
        if pending is not None and not pending[1].done():
            pending[1].set_result(answer)

    def fail(self, why: str) -> None:
        """Fail all requests with :class:`landline.RequestLost`: no answer will come."""
        pending, self._pending = self._pending, {}
        for name, future in pending.values():
            if not future.done():
                future.set_exception(outcome(RequestLost(name, why)))

    def _send_cancel(self, correlation: int) -> None:
        """Ask the peer to cancel its handler, if that can be sent at once: best effort."""
        try:
            self._driver.transmit_nowait(Operation.CANCEL, b"", b"", correlation=correlation, is_packed=False)
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
    """Return the value of an answer, converted by ``decoder`` if there is one. Raise the error if it is one."""
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
