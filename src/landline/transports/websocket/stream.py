"""The stream of a line in the messages of a WebSocket (RFC 6455), after the opening handshake.

The sans-I/O layer of the ``websockets`` library parses and creates the frames; this module moves them between the TCP
or TLS transport and the line. A connection has no task, and no timer while it is open: the heartbeats of the line
detect a dead peer on every transport.
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
"""How many pings, pongs and empty fragments may follow one another. Each costs ten microseconds and carries nothing. A
peer that sends an occasional ping never sends that many without a payload between them."""

_LENGTH_16: Final = 126


class WebSocketTransport(asyncio.Transport, asyncio.Protocol):
    """An open WebSocket: the protocol of its TCP or TLS transport, and the transport of a line.

    Each write becomes one binary message, or several if it is longer than one may be. The payload of received messages
    is passed on as bytes of the stream, fragment by fragment; message boundaries have no meaning. Pings are answered. A
    text message closes the connection with 1003, a violation of RFC 6455 with the code that the library chooses.

    :param transport: carries the WebSocket, after the opening handshake; this object becomes its protocol.
    :param protocol: the protocol of the line. :meth:`begin` calls its ``connection_made``.
    """

    __slots__ = (
        "_discard_bytes",
        "_frames",
        "_idle_frames",
        "_is_closing",
        "_is_discarding",
        "_is_held",
        "_is_paused",
        "_is_reading_paused",
        "_is_waiting",
        "_linger_timer",
        "_lost",
        "_payload_missing",
        "_position",
        "_protocol",
        "_transport",
        "_unread",
    )

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol, side: Side) -> None:
        # asyncio.Transport.__init__ would create a dictionary per connection that nothing reads.
        self._transport = transport
        self._protocol = protocol
        self._frames = Protocol(side, state=State.OPEN, max_size=MESSAGE_BYTES_MAX)
        # The library uses the id in log records only; one per connection would take 150 bytes each.
        self._frames.id = _NO_ID
        self._is_closing = False
        # Whether further input is discarded.
        self._is_discarding = False
        self._is_paused = False
        # How many bytes are still discarded while closing; the transport is aborted after that.
        self._discard_bytes = DISCARD_BYTES_MAX
        self._is_reading_paused = False
        # Whether the line has paused reading.
        self._is_held = False
        # Whether bytes wait for another iteration of the event loop: those of _unread from _position on.
        self._is_waiting = False
        self._unread = b""
        self._position = 0
        # Missing payload bytes of the last frame that has started.
        self._payload_missing = 0
        self._idle_frames = 0
        self._lost: tuple[Exception | None] | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)

    def begin(self, trailing_data: bytes) -> None:
        """Start the line's protocol. ``trailing_data`` was received after the opening handshake."""
        self._protocol.connection_made(self)
        if trailing_data:
            self.data_received(trailing_data)

    # The asyncio.Transport of the line.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send the bytes as one message, or as several if they do not fit into one."""
        if self.is_closing() or not data:
            return
        for start in range(0, len(data), MESSAGE_BYTES_MAX):
            piece = data if len(data) <= MESSAGE_BYTES_MAX else data[start : start + MESSAGE_BYTES_MAX]
            self._frames.send_binary(piece)
        self._send()

    def close(self) -> None:
        """Start the closing handshake (RFC 6455, section 7.1.2) after everything written before.

        Further input is discarded. The transport is aborted after
        :data:`landline.transports.linger.LINGER_TIMEOUT_S` if the peer does not answer or does not read.
        """
        if not self.is_closing():
            self._frames.send_close(CloseCode.NORMAL_CLOSURE)
            self._send()
            self._start_lingering()

    def linger(self, discard_bytes_max: int) -> None:
        """See :class:`landline.transports.linger.SupportsLinger`."""
        self._discard_bytes = discard_bytes_max
        self.close()

    def abort(self) -> None:
        """Close the connection at once; unsent data is lost."""
        self._is_closing = self._is_discarding = True
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
        """Return ``False``: a WebSocket cannot be closed in one direction only."""
        return False

    # The asyncio.Protocol of the TCP or TLS transport.

    def data_received(self, data: bytes) -> None:
        if self._is_discarding:
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
        """Continue in the next iteration of the event loop."""
        self._is_waiting = False
        if self._is_held:
            return
        try:
            self._read_turn()
        except BaseException:
            # As the event loops do when data_received() of a protocol raises.
            if self._lost is None:
                self.abort()
            raise

    def _read_turn(self) -> None:
        """Parse as many frames as one iteration of the event loop may take, and pass on their payload."""
        frames = self._frames
        # Payload that precedes the peer's close frame in the same iteration is still delivered; as with TCP, nothing is
        # read after this side has closed.
        was_left = self._is_discarding
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
            self._start_lingering()
        if not was_left and (received := b"".join(payload)):
            self._protocol.data_received(received)
        if self._is_held:
            self._pause()
        elif step:
            self._wait()
        elif self._lost is not None:
            self._report_lost(*self._lost)
        else:
            self._resume()

    def _next_step(self) -> bytes:
        """Return the next input up to the end of some frames; nothing if only a part of a header is there.

        The library parses all input that it gets, and a frame of one byte takes it as long as one of a thousand bytes.
        So the number of frames is limited here, by reading their lengths (RFC 6455, section 5.2).
        """
        data, start = self._unread, self._position
        position, end, missing = start, len(data), self._payload_missing
        started = 0
        while position < end:
            if missing:
                present = min(missing, end - position)
                position += present
                missing -= present
                continue
            if started == FRAMES_PER_STEP or end - position < 2:
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
            missing = length
            started += 1
        self._payload_missing = missing
        if position == end:
            self._unread, self._position = b"", 0
            return data[start:] if start else data
        if position == start:
            # Only a part of a header.
            self._unread, self._position = data[start:], 0
        else:
            self._position = position
        return data[start:position]

    def _read_frames(self, data: bytes, payload: list[bytes | bytearray | memoryview]) -> None:
        """Parse the frames and append their payload to ``payload``."""
        frames = self._frames
        frames.receive_data(data)
        # After the opening handshake all events are frames.
        for frame in cast(list[Frame], frames.events_received()):
            if (frame.opcode is _BINARY or frame.opcode is _CONTINUATION) and frame.data:
                self._idle_frames = 0
                payload.append(frame.data)
            elif frame.opcode is Opcode.TEXT:
                # The frames after it are ignored.
                frames.fail(CloseCode.UNSUPPORTED_DATA, "only binary messages are accepted")
                return
            else:
                self._idle_frames += 1
                if self._idle_frames > IDLE_FRAMES_MAX and frames.state is State.OPEN:
                    frames.fail(CloseCode.POLICY_VIOLATION, "too many frames without payload")
                    return

    def eof_received(self) -> None:
        """Let the TCP transport close: the peer has closed its end, properly or not."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        if isinstance(exc, OSError):
            self._read_arrived()
        if self._unread and not self._is_discarding and (self._is_waiting or self._is_held):
            # Reported in order: after the bytes that still wait.
            self._lost = (exc,)
        else:
            self._report_lost(exc)

    def _report_lost(self, exc: Exception | None) -> None:
        self._drop_unread()
        # The parser is part of a reference cycle. Thousands of connections lost at once would wait for the garbage
        # collector.
        self._frames.parser.close()
        close = self._frames.close_rcvd or self._frames.close_sent
        if exc is None and close is not None and close.code not in _ORDERLY:
            exc = ConnectionAbortedError(f"the WebSocket was closed with {close}")
        self._protocol.connection_lost(exc)

    def _read_arrived(self) -> None:
        """Deliver data that arrived before the transport broke: it may contain a BYE."""
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

    # Reading in slices, and sending

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
                # Pongs for a peer that sends pings and does not read would accumulate without limit. Not every ping
                # needs one (RFC 6455, section 5.5.3).
                if not self._is_paused or data[0] & 0x0F != Opcode.PONG:
                    self._transport.write(data)
            else:
                self._end_stream()

    def _end_stream(self) -> None:
        """End the stream: both sides have sent a close frame, or this side has failed the connection."""
        if self._frames.close_rcvd is not None:
            self._transport.close()
        elif self._transport.can_write_eof():
            # The peer may still be sending: closing now would reset the connection before it reads the reason.
            self._transport.write_eof()
        # Otherwise TLS: the peer closes when it has read the reason; the timer aborts the transport at the latest.

    def _start_lingering(self) -> None:
        self._is_closing = self._is_discarding = True
        if self._linger_timer is None:
            self._linger_timer = asyncio.get_running_loop().call_later(
                LINGER_TIMEOUT_S, self._transport.abort
            )
