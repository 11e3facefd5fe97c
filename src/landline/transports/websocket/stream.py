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

from landline.runtime.turns import FRAMES_PER_STEP, FRAMES_PER_TURN, turns_of
from landline.transports.base import MESSAGE_BYTES_MAX, pause_reading_if_backlogged
from landline.transports.linger import DISCARD_BYTES_MAX, LINGER_TIMEOUT_S, BrokenTransport, read_arrived

_NO_ID: Final = UUID(int=0)
_BINARY: Final = Opcode.BINARY
_CONTINUATION: Final = Opcode.CONT
_ORDERLY: Final = frozenset({CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD})


IDLE_FRAMES_MAX: Final = 512
"""Pings, pongs and empty fragments one behind the other. Each costs us ten microseconds and says nothing. Who pings now
and then never has so many without a payload between them."""

_LENGTH_16: Final = 126


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
        "_frame_rest",
        "_frames",
        "_idle",
        "_is_closing",
        "_is_held",
        "_is_left",
        "_is_paused",
        "_is_reading_paused",
        "_is_waiting",
        "_letting_go",
        "_lost",
        "_position",
        "_protocol",
        "_transport",
        "_unread",
    )

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol, side: Side) -> None:
        # asyncio.Transport would make a dictionary for each connection, of which nothing is read here.
        self._transport = transport
        self._protocol = protocol
        self._frames = Protocol(side, state=State.OPEN, max_size=MESSAGE_BYTES_MAX)
        # An id of its own, for a log nobody asked for, would be 150 bytes of each connection.
        self._frames.id = _NO_ID
        self._is_closing = False
        # Whether what comes from now on is for nobody.
        self._is_left = False
        self._is_paused = False
        # How much more is discarded once it is closing.
        self._discard_bytes = DISCARD_BYTES_MAX
        self._is_reading_paused = False
        # Whether the line wants no more just now.
        self._is_held = False
        # Whether bytes wait for another turn of the event loop: what came, from a position on.
        self._is_waiting = False
        self._unread = b""
        self._position = 0
        # Of the last frame that was begun, the bytes of payload that are still to come.
        self._frame_rest = 0
        self._idle = 0
        self._lost: tuple[Exception | None] | None = None
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
        :data:`landline.transports.linger.LINGER_TIMEOUT_S`.
        """
        if not self.is_closing():
            self._frames.send_close(CloseCode.NORMAL_CLOSURE)
            self._send()
            self._leave()

    def linger(self, discard_bytes_max: int) -> None:
        """See :class:`landline.transports.linger.SupportsLinger`."""
        self._discard_bytes = discard_bytes_max
        self.close()

    def abort(self) -> None:
        """Drops the connection at once, and what was not sent with it."""
        self._is_closing = self._is_left = True
        self._drop_unread()
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
        return not self._is_held and (self._is_waiting or self._transport.is_reading())

    def pause_reading(self) -> None:
        self._is_held = self._is_reading_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._is_held:
            self._is_held = False
            if self._unread or self._lost is not None:
                self._wait()
            else:
                self._resume()

    def can_write_eof(self) -> bool:
        """A WebSocket cannot be closed in one direction only."""
        return False

    # For the transport below: an asyncio.Protocol.

    def data_received(self, data: bytes) -> None:
        if self._is_left:
            self._discard_bytes -= len(data)
            if self._discard_bytes < 0:
                self.abort()
                return
        if self._frames.eof_sent:
            return
        if self._unread:
            data = self._unread[self._position :] + data
        self._unread, self._position = data, 0
        if self._is_waiting or self._is_held:
            self._pause()
        else:
            self._read_turn()

    def read_on(self) -> None:
        """Its turn has come."""
        self._is_waiting = False
        if self._is_held:
            return
        try:
            self._read_turn()
        except BaseException:
            # As the event loops do where a protocol fails to read.
            if self._lost is None:
                self.abort()
            raise

    def _read_turn(self) -> None:
        """Reads as many frames as one turn of the event loop has room for, and hands on what they carry."""
        frames = self._frames
        # What came before the peer's close frame, in the same turn, was said in time; as with TCP, nothing is read
        # after our own close.
        was_left = self._is_left
        payload: list[bytes | bytearray | memoryview] = []
        steps = FRAMES_PER_TURN // FRAMES_PER_STEP
        while step := self._next_step():
            self._read_frames(step, payload)
            if frames.eof_sent or frames.state is State.CLOSED:
                self._drop_unread()
            steps -= 1
            if not steps or not turns_of(asyncio.get_running_loop()).has_time():
                break
        self._send()
        if frames.state is not State.OPEN:
            self._leave()
        if not was_left and (received := b"".join(payload)):
            self._protocol.data_received(received)
        if self._is_held:
            self._pause()
        elif step:
            self._wait()
        elif self._lost is not None:
            self._tell_lost(*self._lost)
        else:
            self._resume()

    def _next_step(self) -> bytes:
        """What came next, up to the end of some frames; nothing when no more than a part of a header is there.

        The library reads whatever it is given to its end, and a frame costs it as much with one byte as with a
        thousand. So their lengths are looked at here (RFC 6455, section 5.2).
        """
        data, start = self._unread, self._position
        position, end, rest = start, len(data), self._frame_rest
        begun = 0
        while position < end:
            if rest:
                taken = min(rest, end - position)
                position += taken
                rest -= taken
                continue
            if begun == FRAMES_PER_STEP or end - position < 2:
                break
            length = data[position + 1]
            header = 6 if length & 0x80 else 2
            length &= 0x7F
            if length >= _LENGTH_16:
                size = 2 if length == _LENGTH_16 else 8
                header += size
                length = int.from_bytes(data[position + 2 : position + 2 + size], "big")
            if end - position < header:
                break
            position += header
            rest = length
            begun += 1
        self._frame_rest = rest
        if position == end:
            self._unread, self._position = b"", 0
            return data[start:] if start else data
        if position == start:
            # A part of a header.
            self._unread, self._position = data[start:], 0
        else:
            self._position = position
        return data[start:position]

    def _read_frames(self, data: bytes, payload: list[bytes | bytearray | memoryview]) -> None:
        """Adds what the frames carry to ``payload``."""
        frames = self._frames
        frames.receive_data(data)
        # Requests and responses are events of opening handshakes only.
        for frame in cast(list[Frame], frames.events_received()):
            if (frame.opcode is _BINARY or frame.opcode is _CONTINUATION) and frame.data:
                self._idle = 0
                payload.append(frame.data)
            elif frame.opcode is Opcode.TEXT:
                # Nothing behind it counts any more.
                frames.fail(CloseCode.UNSUPPORTED_DATA, "a line takes binary messages only")
                return
            else:
                self._idle += 1
                if self._idle > IDLE_FRAMES_MAX and frames.state is State.OPEN:
                    frames.fail(CloseCode.POLICY_VIOLATION, "too many frames that carry nothing")
                    return

    def eof_received(self) -> None:
        """The peer's TCP ended, in order or not; the transport below closes itself then."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        if self._letting_go is not None:
            self._letting_go.cancel()
        if isinstance(exc, OSError):
            self._read_arrived()
        if self._unread and not self._is_left and (self._is_waiting or self._is_held):
            # In its place: behind the bytes that wait.
            self._lost = (exc,)
        else:
            self._tell_lost(exc)

    def _tell_lost(self, exc: Exception | None) -> None:
        self._drop_unread()
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
        arrived = b"".join(read_arrived(broken))
        if arrived:
            self.data_received(arrived)

    def pause_writing(self) -> None:
        self._is_paused = True
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._is_paused = False
        self._protocol.resume_writing()

    # Inside.

    def _wait(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            turns_of(asyncio.get_running_loop()).wait(self)
        self._pause()

    def _pause(self) -> None:
        if self._lost is None:
            self._is_reading_paused = True
            pause_reading_if_backlogged(self._transport, len(self._unread) - self._position)

    def _resume(self) -> None:
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def _drop_unread(self) -> None:
        self._unread, self._position = b"", 0

    def _send(self) -> None:
        for data in self._frames.data_to_send():
            if self._lost is not None:
                continue
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
        self._is_closing = self._is_left = True
        if self._letting_go is None:
            self._letting_go = asyncio.get_running_loop().call_later(LINGER_TIMEOUT_S, self._transport.abort)
