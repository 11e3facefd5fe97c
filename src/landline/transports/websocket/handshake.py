"""The opening handshake of a WebSocket (RFC 6455, section 4), both sides of it.

What belongs to it is let go once it is over: an open connection is a
:class:`landline.transports.websocket.stream.WebSocketTransport` and nothing else.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final, cast

from websockets.client import ClientProtocol
from websockets.datastructures import MultipleValuesError
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response
from websockets.protocol import Side, State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from landline.errors import ConnectFailed, LandlineError, ProtocolError
from landline.texts import safe_text
from landline.transports import origins
from landline.transports.base import SUBPROTOCOL, ProtocolFactory
from landline.transports.linger import linger
from landline.transports.websocket.stream import WebSocketTransport

OPENING_HANDSHAKE_TIMEOUT_S: Final = 5.0
"""As long as our own handshake may take, which comes after it."""
OPENING_HANDSHAKE_BYTES_MAX: Final = 16 * 1024
"""The longest request, and the longest answer to one, that is read."""
OPENING_HANDSHAKES_MAX: Final = 2_000
"""How many may be unfinished at one listener, as many as handshakes of ours (:class:`landline.Admission`)."""
REASON_CHARACTERS_MAX: Final = 200
"""So much of the text of an answer that says no becomes part of the error."""

_END: Final = b"\r\n\r\n"
_MAY_CHANGE: Final = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)
"""Answers that say no for the moment only, as all from 500 on do."""
_NOT_HERE: Final = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})
"""Answers of a web application that has nothing at this path; ASGI servers say the first of a WebSocket."""


class HeaderSplitter:
    """Finds the end of the first head of HTTP in a stream: nothing behind it belongs to the opening handshake."""

    __slots__ = ("_last", "size_bytes")

    def __init__(self) -> None:
        self._last = b""
        self.size_bytes = 0

    def split(self, data: bytes) -> tuple[bytes, bytes | None]:
        """What of ``data`` belongs to the head, and what comes behind it; ``None`` while the head is not over."""
        joined = self._last + data
        found = joined.find(_END)
        if found < 0:
            self._last = joined[1 - len(_END) :]
            self.size_bytes += len(data)
            return data, None
        end = found + len(_END) - len(self._last)
        self.size_bytes += end
        return data[:end], data[end:]


class HandshakePolicy:
    """What the openings of one listener share.

    :param path: where the line is served; 404 elsewhere.
    :param allowed_origins: the web pages that may connect beside those of the same host; ``"*"`` stands for all.
    :param protocol_factory: makes the protocol of each line.
    """

    __slots__ = ("allowed_origins", "is_closed", "path", "protocol_factory", "unfinished")

    def __init__(
        self, path: str, allowed_origins: tuple[str, ...], protocol_factory: ProtocolFactory
    ) -> None:
        self.path = path
        self.allowed_origins = allowed_origins
        self.protocol_factory = protocol_factory
        self.unfinished = 0
        self.is_closed = False

    def decide(self, handshake: ServerProtocol, request: Request) -> Response:
        """The answer to a request: 101, or why not."""
        if self.is_closed:
            return handshake.reject(HTTPStatus.SERVICE_UNAVAILABLE, "the server stops\n")
        # With or without a slash at its end: where a server is mounted in a web application, it has one.
        if request.path.partition("?")[0].removesuffix("/") != self.path.removesuffix("/"):
            return handshake.reject(HTTPStatus.NOT_FOUND, f"no line is served here; it is at {self.path}\n")
        try:
            origin, host = request.headers.get("Origin"), request.headers.get("Host")
        except MultipleValuesError as error:
            return handshake.reject(
                HTTPStatus.BAD_REQUEST, f"a request can have one header of the name {error}\n"
            )
        if not origins.is_allowed(origin, host, self.allowed_origins):
            return handshake.reject(HTTPStatus.FORBIDDEN, f"pages of {origin} may not connect\n")
        response = handshake.accept(request)
        if response.status_code == HTTPStatus.UPGRADE_REQUIRED:
            sentence = (
                "this is a line for programs that speak WebSocket; there is nothing to see for browsers\n"
            )
            response = handshake.reject(HTTPStatus.UPGRADE_REQUIRED, sentence)
            response.headers["Upgrade"] = "websocket"
        return response


class WebSocketServerHandshake(asyncio.Protocol):
    """The protocol of an accepted transport until its WebSocket is open.

    A client that fails gets one sentence that says what was wrong. It has :data:`OPENING_HANDSHAKE_TIMEOUT_S` and
    :data:`OPENING_HANDSHAKE_BYTES_MAX` to send a valid request. No failure is logged.
    """

    __slots__ = ("_deadline", "_handshake", "_policy", "_splitter", "_transport")

    def __init__(self, policy: HandshakePolicy) -> None:
        self._policy = policy
        self._handshake = ServerProtocol(subprotocols=[Subprotocol(SUBPROTOCOL)])
        self._splitter = HeaderSplitter()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.Transport, but have all its methods.
        self._transport = cast(asyncio.Transport, transport)
        self._policy.unfinished += 1
        if self._policy.unfinished > OPENING_HANDSHAKES_MAX:
            self._refuse(
                self._reject(HTTPStatus.SERVICE_UNAVAILABLE, "too many come at once; come back later")
            )
            return
        self._deadline = asyncio.get_running_loop().call_later(OPENING_HANDSHAKE_TIMEOUT_S, self._be_late)

    def data_received(self, data: bytes) -> None:
        transport, handshake = self._transport, self._handshake
        if transport is None:
            return
        head, rest = self._splitter.split(data)
        if self._splitter.size_bytes > OPENING_HANDSHAKE_BYTES_MAX:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._refuse(self._reject(status, f"a request can have {OPENING_HANDSHAKE_BYTES_MAX} bytes here"))
            return
        handshake.receive_data(head)
        for event in handshake.events_received():
            response = self._policy.decide(handshake, cast(Request, event))
            if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
                self._refuse(response)
                return
            handshake.send_response(response)
            self._forget()
            stream = WebSocketTransport(transport, self._policy.protocol_factory(), Side.SERVER)
            transport.write(b"".join(handshake.data_to_send()))
            stream.begin(rest or b"")
            return
        if handshake.handshake_exc is not None:
            # The library answers only what it takes for HTTP.
            written = b"".join(handshake.data_to_send())
            self._refuse(written or self._reject(HTTPStatus.BAD_REQUEST, "this is not a request of HTTP/1.1"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()

    def _be_late(self) -> None:
        sentence = f"there was no whole request within {OPENING_HANDSHAKE_TIMEOUT_S:g} s"
        self._refuse(self._reject(HTTPStatus.REQUEST_TIMEOUT, sentence))

    def _reject(self, status: HTTPStatus, sentence: str) -> Response:
        return self._handshake.reject(status, f"{sentence}\n")

    def _refuse(self, answer: Response | bytes) -> None:
        transport = self._transport
        self._forget()
        if transport is not None:
            transport.write(answer if isinstance(answer, bytes) else answer.serialize())
            linger(asyncio.get_running_loop(), transport, peer_waits=True)

    def _forget(self) -> None:
        if self._transport is not None:
            self._transport = None
            self._policy.unfinished -= 1
            # It holds what holds it, and is not left to the garbage collector.
            self._handshake.parser.close()
        if self._deadline is not None:
            self._deadline.cancel()


class WebSocketClientHandshake(asyncio.Protocol):
    """The protocol of a client's transport until its WebSocket is open.

    :attr:`opened` is done then, and fails with :class:`landline.ConnectFailed` when trying again makes sense, or with
    :class:`landline.ProtocolError`, which has the server's own text if it gave one.
    """

    def __init__(self, uri: WebSocketURI, headers: dict[str, str], protocol_factory: ProtocolFactory) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._handshake = ClientProtocol(uri, subprotocols=[Subprotocol(SUBPROTOCOL)])
        self._path = uri.path
        self._headers = headers
        self._protocol_factory = protocol_factory
        self._splitter = HeaderSplitter()
        self._body_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        request = self._handshake.connect()
        request.headers.update(self._headers)
        self._handshake.send_request(request)
        self.transport.write(b"".join(self._handshake.data_to_send()))

    def data_received(self, data: bytes) -> None:
        if self.opened.done():
            return
        handshake = self._handshake
        assert self.transport is not None
        if self._body_bytes:
            head, rest = b"", data
        else:
            head, found = self._splitter.split(data)
            rest = found or b""
            handshake.receive_data(head)
        if handshake.state is State.OPEN:
            if handshake.subprotocol != SUBPROTOCOL:
                self._fail(ProtocolError(f"the server speaks WebSocket, but not {SUBPROTOCOL}"))
                return
            self.opened.set_result(None)
            WebSocketTransport(self.transport, self._protocol_factory(), Side.CLIENT).begin(rest)
            return
        if rest and handshake.handshake_exc is None:
            # The text of an answer that says no.
            self._body_bytes += len(rest)
            handshake.receive_data(rest)
        if handshake.handshake_exc is not None:
            self._fail(refusal(handshake.handshake_exc, self._path))
        elif self._splitter.size_bytes + self._body_bytes > OPENING_HANDSHAKE_BYTES_MAX:
            self._fail(
                ProtocolError(f"the server's answer is longer than {OPENING_HANDSHAKE_BYTES_MAX} bytes")
            )

    def eof_received(self) -> None:
        """The end of the stream may be the end of an answer, too."""
        handshake = self._handshake
        if not self.opened.done():
            handshake.receive_eof()
            if isinstance(handshake.handshake_exc, InvalidStatus):
                self._fail(refusal(handshake.handshake_exc, self._path))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(
            ConnectFailed(f"the connection ended before the WebSocket was open{f': {exc}' if exc else ''}")
        )

    def _fail(self, error: LandlineError) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)


def refusal(error: Exception, path: str) -> LandlineError:
    """What a failed opening handshake means to a client that asked for ``path``: to try again, or not."""
    if not isinstance(error, InvalidStatus):
        return ProtocolError(f"the server did not open a WebSocket: {error.__cause__ or error}")
    response = error.response
    text = " ".join(safe_text(bytes(response.body).decode(errors="replace"), REASON_CHARACTERS_MAX).split())
    status = f"{response.status_code} {safe_text(response.reason_phrase)}"
    sentence = f"the server answered with HTTP {status}{f': {text}' if text else ''}"
    if response.status_code in _MAY_CHANGE or response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ConnectFailed(sentence)
    if response.status_code in _NOT_HERE and not text and not path.endswith("/"):
        sentence += f"; a server mounted in a web application may be at {path}/, with a slash at the end"
    return ProtocolError(sentence)
