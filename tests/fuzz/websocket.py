"""The opening handshake of WebSocket and its framing, both sides, as targets of :mod:`tests.fuzz.targets`."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections import deque
from collections.abc import Iterable
from typing import Final

from tests.fuzz.pieces import pieces_of
from websockets.client import ClientProtocol
from websockets.uri import parse_uri
from websockets.utils import accept_key

from landline.errors import ConnectFailed, ProtocolError
from landline.transports.base import MESSAGE_BYTES_MAX
from landline.transports.websocket.handshake import (
    OPENING_HANDSHAKE_BYTES_MAX,
    HandshakePolicy,
    WebSocketClientHandshake,
    WebSocketServerHandshake,
)
from landline.transports.websocket.stream import WebSocketTransport

KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
URI: Final = parse_uri("ws://host/")
REQUEST: Final = (
    f"GET / HTTP/1.1\r\nHost: host\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: landline.1\r\nOrigin: http://host\r\n\r\n"
).encode()
ANSWER: Final = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {accept_key(KEY)}\r\nSec-WebSocket-Protocol: landline.1\r\n\r\n"
).encode()


class StillLoop(asyncio.AbstractEventLoop):
    """A loop in which no time passes, and whose turns go on when they are asked for."""

    def __init__(self) -> None:
        self._soon: deque[asyncio.Handle] = deque()

    def call_soon(self, callback, *args, context=None):
        self._soon.append(asyncio.Handle(callback, args, self, context))
        return self._soon[-1]

    def call_exception_handler(self, context):
        raise context["exception"]

    def run_turns(self) -> None:
        """Run callbacks until none is scheduled."""
        while self._soon:
            self._soon.popleft()._run()

    def call_later(self, delay, callback, *args, context=None):
        return asyncio.TimerHandle(delay, callback, args, self, context)

    def create_future(self):
        return asyncio.Future(loop=self)

    def get_debug(self):
        return False

    def _timer_handle_cancelled(self, handle):
        """Do nothing: there are no timers."""


class Below(asyncio.Transport):
    """The TCP transport below: keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_over = False
        self.is_reading_paused = False
        self.protocol: asyncio.Protocol

    def write(self, data) -> None:
        assert not self.is_over, "written after the end"
        self.written += data

    def set_protocol(self, protocol) -> None:
        self.protocol = protocol

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_over = True

    def close(self) -> None:
        self.is_over = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_over

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False


class Line(asyncio.Protocol):
    """The protocol of a line that only listens."""

    def __init__(self) -> None:
        self.received = b""
        self.is_open = False
        self.is_lost = False

    def connection_made(self, transport) -> None:
        assert not self.is_open
        self.is_open = True

    def data_received(self, data) -> None:
        assert self.is_open
        assert not self.is_lost
        assert isinstance(data, bytes)
        assert data
        self.received += data

    def connection_lost(self, exc) -> None:
        assert not self.is_lost
        self.is_lost = True


def websocket_server(data: bytes) -> None:
    """What strangers send to a server of ``ws://``; the first byte puts a good request in front."""
    stream = (REQUEST if data[:1] > b"\x20" else b"") + data[1:]

    def make(line: Line) -> asyncio.Protocol:
        return WebSocketServerHandshake(HandshakePolicy("/", (), lambda: line))

    _check(stream, make)


def websocket_client(data: bytes) -> None:
    """The same to a client, from a peer that answers in the place of the server."""
    stream = (ANSWER if data[:1] > b"\x20" else b"") + data[1:]

    def make(line: Line) -> asyncio.Protocol:
        opening = WebSocketClientHandshake(URI, {}, lambda: line)
        opening._handshake = ClientProtocol(URI, subprotocols=opening._handshake.available_subprotocols)
        opening._handshake.key = KEY
        return opening

    _check(stream, make)


def _check(stream: bytes, make) -> None:
    loop = StillLoop()
    events._set_running_loop(loop)
    try:
        whole = _run(loop, iter([stream]), make)
        one_by_one, in_pieces = (_run(loop, pieces_of(stream, seed), make) for seed in (0, len(stream)))
        assert one_by_one == in_pieces == whole
    finally:
        events._set_running_loop(None)


def _run(loop: StillLoop, pieces: Iterable[bytes], make) -> tuple[bool, bytes, bool]:
    """Return whether the WebSocket was opened, what the line received, and whether it was ended."""
    below, line = Below(), Line()
    opening = below.protocol = make(line)
    opening.connection_made(below)
    for piece in pieces:
        if below.is_over:
            break
        below.protocol.data_received(piece)
        loop.run_turns()
        assert not below.is_reading_paused
        if isinstance(below.protocol, WebSocketTransport):
            assert len(below.protocol._frames.reader.buffer) <= MESSAGE_BYTES_MAX
        elif below.protocol is opening:
            assert len(opening._handshake.reader.buffer) <= OPENING_HANDSHAKE_BYTES_MAX
        if isinstance(opening, WebSocketClientHandshake) and opening.opened.done() and not line.is_open:
            assert isinstance(opening.opened.exception(), ConnectFailed | ProtocolError)
            below.close()
    is_ending = below.is_over or (line.is_open and below.protocol.is_closing())
    below.protocol.eof_received()
    below.is_over = True
    below.protocol.connection_lost(None)
    loop.run_turns()
    if isinstance(opening, WebSocketClientHandshake):
        assert (opening.opened.exception() is None) == line.is_open
    assert line.is_lost == line.is_open
    return line.is_open, line.received, is_ending
