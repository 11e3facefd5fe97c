"""The bytes of a line in the messages of a WebSocket (RFC 6455), once its opening handshake is done.

The frames of WebSocket are read and made by the sans-I/O layer of the ``websockets`` library; this file moves them
between the TCP or TLS transport and the line. No task belongs to a connection, and no timer while it is open:
landline's own heartbeats notice a peer that is gone, whatever carries them.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast
from uuid import UUID

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Protocol, Side, State

from landline.transports import MESSAGE_BYTES_MAX
from landline.transports.lingering import DISCARD_BYTES_MAX, LINGER_S, BrokenTransport, read_arrived

_NO_ID: Final = UUID(int=0)
_BINARY: Final = Opcode.BINARY
_CONTINUATION: Final = Opcode.CONT
_ORDERLY: Final = frozenset({CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD})


READ_STEP_BYTES: Final = 16 * 1024
"""A larger read is looked through in such steps."""
IDLE_FRAMES_MAX: Final = 512
"""Pings, pongs and empty fragments in one step. Each byte of small ones costs us a microsecond, whoever sent it: a
stranger's megabyte would hold up everybody else for a second. Who pings now and then never has so many together."""


class WebSocketTransport(asyncio.Transport, asyncio.Protocol):
    """An open WebSocket: the protocol of its TCP or TLS transport, and the transport of a line.

    What is written in one piece is one binary message. The payload of whatever arrives is handed on as bytes of the
    stream, fragment by fragment; where messages end says nothing. Pings are answered. A text message ends the
    connection with 1003, a breach of RFC 6455 with the code the library gives it.

    :param transport: carries the WebSocket; its opening handshake is over, and this object its protocol from now on.
    :param protocol: the line's. Its ``connection_made`` is called by :meth:`begin`.
    """

    __slots__ = (
        "_discard_bytes",
        "_frames",
        "_is_closing",
        "_is_paused",
        "_letting_go",
        "_protocol",
        "_transport",
    )

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol, side: Side) -> None:
        # asyncio.Transport would make a dictionary for each connection, of which nothing is read here.
        self._transport = transport
        self._protocol = protocol
        self._frames = Protocol(side, state=State.OPEN, max_size=MESSAGE_BYTES_MAX)
        # An id of its own, for a log nobody asked for, would be 150 bytes of each connection.
        self._frames.id = _NO_ID
        self._is_closing = False
        self._is_paused = False
        # How much more is discarded once it is closing.
        self._discard_bytes = DISCARD_BYTES_MAX
        self._letting_go: asyncio.TimerHandle | None = None
        transport.set_protocol(self)

    def begin(self, rest: bytes) -> None:
        """Tells the line's protocol. ``rest`` are bytes that came behind the opening handshake."""
        self._protocol.connection_made(self)
        if rest:
            self.data_received(rest)

    # For the line: an asyncio.Transport.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends the bytes as one message, or several when they are more than one can hold."""
        if self.is_closing() or not data:
            return
        for start in range(0, len(data), MESSAGE_BYTES_MAX):
            piece = data if len(data) <= MESSAGE_BYTES_MAX else data[start : start + MESSAGE_BYTES_MAX]
            self._frames.send_binary(piece)
        self._send()

    def close(self) -> None:
        """Begins the closing handshake (RFC 6455, section 7.1.2); what was written goes before it.

        What the peer sends meanwhile is discarded. One that does not answer, or does not read, is let go after
        :data:`landline.transports.lingering.LINGER_S`.
        """
        if not self.is_closing():
            self._frames.send_close(CloseCode.NORMAL_CLOSURE)
            self._send()
            self._leave()

    def linger(self, discard_bytes_max: int) -> None:
        """See :class:`landline.transports.lingering.Lingers`."""
        self._discard_bytes = discard_bytes_max
        self.close()

    def abort(self) -> None:
        """Drops the connection at once, and what was not sent with it."""
        self._is_closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._transport.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def is_reading(self) -> bool:
        return self._transport.is_reading()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def can_write_eof(self) -> bool:
        """A WebSocket cannot be closed in one direction only."""
        return False

    # For the transport below: an asyncio.Protocol.

    def data_received(self, data: bytes) -> None:
        frames = self._frames
        was_closing = self._is_closing
        if was_closing:
            self._discard_bytes -= len(data)
            if self._discard_bytes < 0:
                self.abort()
                return
        if self._frames.eof_sent:
            return
        payload: list[bytes | bytearray | memoryview] = []
        if len(data) <= READ_STEP_BYTES:
            self._read_frames(data, payload)
        else:
            for start in range(0, len(data), READ_STEP_BYTES):
                if frames.eof_sent:
                    break
                self._read_frames(data[start : start + READ_STEP_BYTES], payload)
        self._send()
        if frames.state is not State.OPEN:
            self._leave()
        # What came before the peer's close frame, in the same read, was said in time; as with TCP, nothing is read
        # after our own close.
        if not was_closing and (received := b"".join(payload)):
            self._protocol.data_received(received)

    def _read_frames(self, data: bytes, payload: list[bytes | bytearray | memoryview]) -> None:
        """Adds what the frames carry to ``payload``."""
        frames = self._frames
        frames.receive_data(data)
        idle = 0
        # Requests and responses are events of opening handshakes only.
        for frame in cast(list[Frame], frames.events_received()):
            if (frame.opcode is _BINARY or frame.opcode is _CONTINUATION) and frame.data:
                payload.append(frame.data)
            elif frame.opcode is Opcode.TEXT:
                # Nothing behind it counts any more.
                frames.fail(CloseCode.UNSUPPORTED_DATA, "a line takes binary messages only")
                return
            else:
                idle += 1
        if idle > IDLE_FRAMES_MAX and frames.state is State.OPEN:
            frames.fail(CloseCode.POLICY_VIOLATION, "too many frames that carry nothing")

    def eof_received(self) -> None:
        """The peer's TCP ended, in order or not; the transport below closes itself then."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        if self._letting_go is not None:
            self._letting_go.cancel()
        if isinstance(exc, OSError):
            self._read_arrived()
        # It holds what holds it: thousands of connections lost at once are not left to the garbage collector.
        self._frames.parser.close()
        close = self._frames.close_rcvd or self._frames.close_sent
        if exc is None and close is not None and close.code not in _ORDERLY:
            exc = ConnectionAbortedError(f"the WebSocket was closed with {close}")
        self._protocol.connection_lost(exc)

    def _read_arrived(self) -> None:
        """Hands on what came before the transport broke: there may be a BYE in it."""
        broken = self._transport
        self._transport = cast(asyncio.Transport, BrokenTransport(broken))
        for data in read_arrived(broken):
            self.data_received(data)

    def pause_writing(self) -> None:
        self._is_paused = True
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._is_paused = False
        self._protocol.resume_writing()

    # Inside.

    def _send(self) -> None:
        for data in self._frames.data_to_send():
            if data:
                # The pongs of a peer that sends pings and does not read would pile up without end. Not each ping needs
                # one (RFC 6455, section 5.5.3).
                if not self._is_paused or data[0] & 0x0F != Opcode.PONG:
                    self._transport.write(data)
            else:
                self._end_stream()

    def _end_stream(self) -> None:
        """The library's side of the connection is over: both sent a close frame, or this server failed the other's."""
        if self._frames.close_rcvd is not None:
            self._transport.close()
        elif self._transport.can_write_eof():
            # The peer may be sending still, and closing now would reset the connection before it reads why.
            self._transport.write_eof()
        # Else TLS: the peer closes when it has read why, or is let go in time.

    def _leave(self) -> None:
        self._is_closing = True
        if self._letting_go is None:
            self._letting_go = asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)
