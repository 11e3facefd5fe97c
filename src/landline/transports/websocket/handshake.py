"""The opening handshake of a WebSocket (RFC 6455, section 4), for clients and servers.

Its objects are released when it is complete: an open connection consists of a
:class:`landline.transports.websocket.stream.WebSocketTransport` only.
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
"""As long as the handshake of a line may take, which follows it."""
OPENING_HANDSHAKE_BYTES_MAX: Final = 16 * 1024
"""The longest request, and the longest response, that is read."""
OPENING_HANDSHAKES_MAX: Final = 2_000
"""How many may be unfinished at one listener: as many as handshakes of lines (:class:`landline.Admission`)."""
REASON_CHARACTERS_MAX: Final = 200
"""How much of the text of a refusing response becomes part of the error."""

_HEADERS_END: Final = b"\r\n\r\n"
_TEMPORARY: Final = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)
"""Status codes of temporary refusals, in addition to all from 500 on."""
_WRONG_PATH: Final = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})
"""Status codes of a web application that serves nothing at this path; ASGI servers send the first for WebSockets."""


class HeaderSplitter:
    """Finds the end of the HTTP headers in a stream: nothing after it belongs to the opening handshake."""

    __slots__ = ("_tail", "size_bytes")

    def __init__(self) -> None:
        self._tail = b""
        self.size_bytes: int = 0

    def split(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return the part of ``data`` that belongs to the headers, and the part after them, ``None`` if they go on."""
        joined = self._tail + data
        found = joined.find(_HEADERS_END)
        if found < 0:
            self._tail = joined[1 - len(_HEADERS_END) :]
            self.size_bytes += len(data)
            return data, None
        end = found + len(_HEADERS_END) - len(self._tail)
        self.size_bytes += end
        return data[:end], data[end:]


class HandshakePolicy:
    """Decides on the requests of one listener, and counts its unfinished handshakes.

    :param path: the path of the line; other paths get 404.
    :param allowed_origins: origins whose pages may connect in addition to those of the same host; ``"*"`` means all.
    :param protocol_factory: creates the protocol of each line.
    """

    __slots__ = ("allowed_origins", "is_closed", "path", "protocol_factory", "unfinished")

    def __init__(
        self, path: str, allowed_origins: tuple[str, ...], protocol_factory: ProtocolFactory
    ) -> None:
        self.path: str = path
        self.allowed_origins: tuple[str, ...] = allowed_origins
        self.protocol_factory: ProtocolFactory = protocol_factory
        self.unfinished: int = 0
        self.is_closed: bool = False

    def decide(self, handshake: ServerProtocol, request: Request) -> Response:
        """Return the response to a request: 101, or a refusal with its reason."""
        if self.is_closed:
            return handshake.reject(HTTPStatus.SERVICE_UNAVAILABLE, "the server stops\n")
        # A slash at the end is optional: a server mounted in a web application has one.
        if request.path.partition("?")[0].removesuffix("/") != self.path.removesuffix("/"):
            return handshake.reject(
                HTTPStatus.NOT_FOUND, f"no line is served at this path; use {self.path}\n"
            )
        try:
            origin, host = request.headers.get("Origin"), request.headers.get("Host")
        except MultipleValuesError as error:
            return handshake.reject(
                HTTPStatus.BAD_REQUEST, f"the request has several headers of the name {error}\n"
            )
        if not origins.is_allowed(origin, host, self.allowed_origins):
            return handshake.reject(HTTPStatus.FORBIDDEN, f"the origin {origin} is not allowed to connect\n")
        response = handshake.accept(request)
        if response.status_code == HTTPStatus.UPGRADE_REQUIRED:
            sentence = "this address serves WebSocket connections of programs; there is no web page\n"
            response = handshake.reject(HTTPStatus.UPGRADE_REQUIRED, sentence)
            response.headers["Upgrade"] = "websocket"
        return response


class WebSocketServerHandshake(asyncio.Protocol):
    """The protocol of an accepted transport until its WebSocket is open.

    A client has :data:`OPENING_HANDSHAKE_TIMEOUT_S` and :data:`OPENING_HANDSHAKE_BYTES_MAX` for a valid request.
    Otherwise it gets a response with one sentence that says what was wrong. Failures are not logged.
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
                self._reject(
                    HTTPStatus.SERVICE_UNAVAILABLE, "too many handshakes at the same time; try again later"
                )
            )
            return
        self._deadline = asyncio.get_running_loop().call_later(OPENING_HANDSHAKE_TIMEOUT_S, self._time_out)

    def data_received(self, data: bytes) -> None:
        transport, handshake = self._transport, self._handshake
        if transport is None:
            return
        head, rest = self._splitter.split(data)
        if self._splitter.size_bytes > OPENING_HANDSHAKE_BYTES_MAX:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._refuse(
                self._reject(status, f"the request is longer than {OPENING_HANDSHAKE_BYTES_MAX} bytes")
            )
            return
        handshake.receive_data(head)
        for event in handshake.events_received():
            response = self._policy.decide(handshake, cast(Request, event))
            if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
                self._refuse(response)
                return
            handshake.send_response(response)
            self._release()
            stream = WebSocketTransport(transport, self._policy.protocol_factory(), Side.SERVER)
            transport.write(b"".join(handshake.data_to_send()))
            stream.begin(rest or b"")
            return
        if handshake.handshake_exc is not None:
            # The library answers only input that it recognizes as HTTP.
            written = b"".join(handshake.data_to_send())
            self._refuse(written or self._reject(HTTPStatus.BAD_REQUEST, "this is not an HTTP/1.1 request"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._release()

    def _time_out(self) -> None:
        sentence = f"no complete request within {OPENING_HANDSHAKE_TIMEOUT_S:g} s"
        self._refuse(self._reject(HTTPStatus.REQUEST_TIMEOUT, sentence))

    def _reject(self, status: HTTPStatus, sentence: str) -> Response:
        return self._handshake.reject(status, f"{sentence}\n")

    def _refuse(self, answer: Response | bytes) -> None:
        transport = self._transport
        self._release()
        if transport is not None:
            transport.write(answer if isinstance(answer, bytes) else answer.serialize())
            linger(asyncio.get_running_loop(), transport, peer_waits=True)

    def _release(self) -> None:
        if self._transport is not None:
            self._transport = None
            self._policy.unfinished -= 1
            # The parser is part of a reference cycle, which would wait for the garbage collector.
            self._handshake.parser.close()
        if self._deadline is not None:
            self._deadline.cancel()


class WebSocketClientHandshake(asyncio.Protocol):
    """The protocol of a client's transport until its WebSocket is open.

    :attr:`opened` is done then. It fails with :class:`landline.ConnectFailed` if a retry may succeed, and with
    :class:`landline.ProtocolError` otherwise; the text of the error includes the server's if there is one.
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
                self._fail(
                    ProtocolError(f"the WebSocket server does not speak the subprotocol {SUBPROTOCOL}")
                )
                return
            self.opened.set_result(None)
            WebSocketTransport(self.transport, self._protocol_factory(), Side.CLIENT).begin(rest)
            return
        if rest and handshake.handshake_exc is None:
            # The body of a refusing response.
            self._body_bytes += len(rest)
            handshake.receive_data(rest)
        if handshake.handshake_exc is not None:
            self._fail(refusal(handshake.handshake_exc, self._path))
        elif self._splitter.size_bytes + self._body_bytes > OPENING_HANDSHAKE_BYTES_MAX:
            self._fail(
                ProtocolError(
                    f"the response of the server is longer than {OPENING_HANDSHAKE_BYTES_MAX} bytes"
                )
            )

    def eof_received(self) -> None:
        """Treat the end of the stream as the end of a response whose length is not given."""
        handshake = self._handshake
        if not self.opened.done():
            handshake.receive_eof()
            if isinstance(handshake.handshake_exc, InvalidStatus):
                self._fail(refusal(handshake.handshake_exc, self._path))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(
            ConnectFailed(
                f"the connection was closed before the WebSocket was open{f': {exc}' if exc else ''}"
            )
        )

    def _fail(self, error: LandlineError) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)


def refusal(error: Exception, path: str) -> LandlineError:
    """Return the error of a client that requested ``path``: :class:`ConnectFailed` if a retry may succeed."""
    if not isinstance(error, InvalidStatus):
        return ProtocolError(f"the server did not open a WebSocket: {error.__cause__ or error}")
    response = error.response
    text = " ".join(safe_text(bytes(response.body).decode(errors="replace"), REASON_CHARACTERS_MAX).split())
    status = f"{response.status_code} {safe_text(response.reason_phrase)}"
    sentence = f"the server answered with HTTP {status}{f': {text}' if text else ''}"
    if response.status_code in _TEMPORARY or response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ConnectFailed(sentence)
    if response.status_code in _WRONG_PATH and not text and not path.endswith("/"):
        sentence += f"; a server mounted in a web application may be at {path}/, with a slash at the end"
    return ProtocolError(sentence)
