"""The stream of a QUIC connection as an :class:`asyncio.Transport`.

This module decides which events of a connection its line gets, and when; the sockets are in
:mod:`landline.transports.quic.sockets`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Protocol, cast

from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    DatagramFrameReceived,
    HandshakeCompleted,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from landline.runtime.turns import FRAMES_PER_TURN, turns_of
from landline.texts import safe_text
from landline.transports.base import ProtocolFactory
from landline.transports.quic.connection import ALPN, LineConnection

PREAMBLE: Final = b"\x01"
"""The first byte of a client's stream. The server sends first on a line, but sees a stream only with its first data."""
HANDSHAKE_TIMEOUT_S: Final = 5.0
"""As long as the handshake of a line may take: from the first packet to the preamble."""
UNACKNOWLEDGED_BYTES_HIGH: Final = 1024 * 1024
UNACKNOWLEDGED_BYTES_LOW: Final = 512 * 1024
"""aioquic keeps written data until it is acknowledged. The protocol is paused above the first value and resumed below
the second: enough for 80 Mbit/s over 100 ms."""
UNSENT_BYTES_HIGH: Final = 128 * 1024
UNSENT_BYTES_LOW: Final = 32 * 1024
"""The same for unsent data, as ``TCP_NOTSENT_LOWAT`` for TCP: heartbeats do not wait after megabytes."""
PACKETS_PER_TURN: Final = 8
"""How many packets of one connection are handled per iteration of the event loop. aioquic takes 0.05 to 0.15 ms for
each, and ten times that for one full of tiny frames."""
PACKETS_HELD_MAX: Final = 256
"""How many packets of one connection wait for the next iteration; more are dropped, as a full socket drops them. A
sender with a window of 1 MiB has at most some 900 in flight, and the kernel holds part of them."""
PACKETS_HELD_UNPROVEN_MAX: Final = 16
"""The same during the handshake."""
DATAGRAMS_HELD_MAX: Final = 1024
"""How many received datagrams wait for the next iteration; the oldest ones are dropped."""
DATAGRAMS_WAITING_MAX: Final = 32
"""How many datagrams may wait for congestion control; more are dropped."""
REASON_CHARACTERS_MAX: Final = 200
"""How many characters of a peer's reason become part of an error."""
TIMER_MIN_S: Final = 0.001
"""The shortest timer: event loops are not more precise, and bursts of the pacing compensate for it."""

CODE_CLOSED: Final = 0
CODE_ABORTED: Final = 1
CODE_PREAMBLE: Final = 2


class QuicSocket(Protocol):
    """The UDP socket of a transport."""

    def send(self, data: bytes, address: Any) -> None:
        """Send one datagram."""

    def add_id(self, connection_id: bytes, transport: QuicTransport) -> None:
        """Pass datagrams with this connection id to the transport from now on."""

    def remove_id(self, connection_id: bytes) -> None:
        """Stop passing datagrams with this connection id."""

    def opened(self, transport: QuicTransport) -> None:
        """Record that the handshake of the transport is complete."""

    def forget(self, transport: QuicTransport) -> None:
        """Record that the transport has ended."""

    def get_extra_info(self, name: str) -> Any:
        """Return information of the UDP socket's own transport."""


class QuicTransport(asyncio.Transport):
    """The stream of a QUIC connection.

    In addition to the methods of :class:`asyncio.Transport`, it sends datagrams (:meth:`send_datagram`), and passes
    received ones to ``protocol.datagram_received(data)`` if the protocol has that method.
    """

    __slots__ = (
        "_awaits_preamble",
        "_connection",
        "_datagram_received",
        "_handshake_timer",
        "_has_received_end",
        "_held",
        "_held_datagrams",
        "_held_packets",
        "_is_closing",
        "_is_over",
        "_is_reading_paused",
        "_is_scheduled",
        "_is_waiting",
        "_is_writing_paused",
        "_loop",
        "_on_handshake",
        "_packets_in_turn",
        "_protocol",
        "_protocol_factory",
        "_socket",
        "_timer",
        "_timer_due",
        "_turns",
        "ids",
    )

    def __init__(
        self,
        connection: LineConnection,
        socket: QuicSocket,
        factory: ProtocolFactory,
        on_handshake: Callable[[Exception | None], None] | None = None,
    ) -> None:
        super().__init__()
        self._connection = connection
        self._socket = socket
        self._protocol_factory = factory
        self._on_handshake = on_handshake
        self._awaits_preamble = not connection.configuration.is_client
        self._loop = asyncio.get_running_loop()
        self._protocol: asyncio.BaseProtocol | None = None
        self._datagram_received: Callable[[bytes], None] | None = None
        self._is_closing = False
        self._is_over = False
        self._is_scheduled = False
        self._is_writing_paused = False
        self._is_reading_paused = False
        self._has_received_end = False
        self._held: deque[bytes] = deque()
        # What waits until the line resumes, or for the next iteration of the event loop. Created on first use.
        self._held_datagrams: deque[bytes] | None = None
        self._held_packets: deque[tuple[bytes, Any]] | None = None
        self._turns = turns_of(self._loop)
        self._is_waiting = False
        self._packets_in_turn = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._handshake_timer: asyncio.TimerHandle | None = self._loop.call_later(
            HANDSHAKE_TIMEOUT_S, self._time_out_handshake
        )
        self.ids: set[bytes] = set()
        """The connection ids by which the socket finds it."""

    def __repr__(self) -> str:
        state = "over" if self._is_over else "closing" if self._is_closing else "open"
        return f"<QuicTransport {state} {self.get_extra_info('peername')}>"

    # The asyncio.Transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return information: ``peername`` is the peer's current address, all other is the UDP socket's."""
        if name == "peername":
            return self._connection.get_peer_address() or default
        value = self._socket.get_extra_info(name)
        return default if value is None else value

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._datagram_received = getattr(protocol, "datagram_received", None)

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return not self._is_reading_paused and not self._is_closing

    def pause_reading(self) -> None:
        """Deliver nothing until :meth:`resume_reading`. The peer can send one more window of bytes."""
        self._is_reading_paused = True

    def resume_reading(self) -> None:
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._run_soon()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes. They are sent in the next iteration of the event loop, with all others of this one."""
        if not data or self._is_closing:
            return
        if self._connection.send(data):
            self._check_write_buffer()
            self._run_soon()

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that the peer has not acknowledged."""
        return self._connection.unacknowledged_bytes

    def close(self) -> None:
        """End the stream after everything written, and the connection when all of it is acknowledged."""
        if self._is_closing:
            return
        if self._protocol is None:
            self.abort()
            return
        self._is_closing = True
        self._held.clear()
        if self._connection.send(b"", end=True):
            # Now, not in the next iteration: the event loop may end before.
            self._transmit()
        else:
            self.abort()

    def linger(self, discard_bytes_max: int) -> None:
        """Close as :meth:`close` does; it discards further input, which flow control limits."""
        self.close()

    def abort(self) -> None:
        """Close the connection at once. Unsent data is dropped; the peer is notified with one datagram."""
        if self._is_over:
            return
        self._is_closing = True
        self._connection.close(error_code=CODE_ABORTED)
        self._transmit()
        self._lose(None)

    # Datagrams

    @property
    def datagram_bytes_max(self) -> int:
        """The longest datagram that can be sent, in bytes; 0 if the peer accepts none."""
        return self._connection.datagram_bytes_max

    def send_datagram(self, data: bytes) -> bool:
        """Send a DATAGRAM frame (RFC 9221), at most once.

        Return ``False``, and drop it, if it is too long or :data:`DATAGRAMS_WAITING_MAX` wait for congestion control.
        """
        longest = self._connection.datagram_bytes_max
        if (
            self._is_closing
            or not longest
            or len(data) > longest
            or self._connection.datagrams_waiting >= DATAGRAMS_WAITING_MAX
        ):
            return False
        self._connection.send_datagram_frame(data)
        self._run_soon()
        return True

    # Called by the socket

    def start(self, address: Any) -> None:
        """Send the first packet of a client."""
        self._connection.connect(address, now=monotonic())
        self._transmit()

    def receive(self, data: bytes, address: Any) -> None:
        """Receive a UDP datagram of the connection.

        The events of all datagrams of one iteration of the event loop are handled together. Above
        :data:`PACKETS_PER_TURN`, a datagram waits for the next iteration.
        """
        if self._is_over:
            return
        if self._held_packets is not None or self._packets_in_turn == PACKETS_PER_TURN:
            self._hold(data, address)
        else:
            self._packets_in_turn += 1
            if self._receive_packet(data, address):
                self._run_soon()

    def read_on(self) -> None:
        """Handle waiting packets, in the next iteration of the event loop."""
        self._is_waiting = False
        if self._is_over:
            return
        packets = self._held_packets
        if packets is not None:
            for _ in range(min(len(packets), PACKETS_PER_TURN)):
                if not self._receive_packet(*packets.popleft()):
                    return
                if not self._turns.has_time():
                    break
            if packets:
                self._wait()
            else:
                self._held_packets = None
        self._run()

    def _receive_packet(self, data: bytes, address: Any) -> bool:
        """Return whether the connection is still usable."""
        try:
            self._connection.receive_datagram(data, address, now=monotonic())
        except Exception as error:  # noqa: BLE001 - reported; one connection must not stop the listener
            self._report(error, "aioquic failed on a datagram")
            self.drop(error)
            return False
        return True

    def _hold(self, data: bytes, address: Any) -> None:
        if self._held_packets is None:
            self._held_packets = deque()
        if len(self._held_packets) < (
            PACKETS_HELD_MAX if self._protocol is not None else PACKETS_HELD_UNPROVEN_MAX
        ):
            self._held_packets.append((data, address))
        self._wait()

    def _wait(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self._turns.wait(self)

    def fail(self, error: Exception) -> None:
        """End the connection because of a local error; notify the peer if possible."""
        if not self._is_over:
            self._connection.close(error_code=CODE_ABORTED)
            self._send_datagrams()
            self._lose(error)

    def drop(self, error: Exception) -> None:
        """End the connection without notifying the peer."""
        self._lose(error)

    def receive_new_path(self) -> None:
        """Use another connection id after a change of the socket (RFC 9000 section 9.5); notify the server at once."""
        if not self._is_over:
            self._connection.change_connection_id()
            self._connection.send_ping(0)
            self._transmit()

    @property
    def has_started(self) -> bool:
        """Whether the peer has sent a packet that could be decrypted."""
        return self._connection.has_started

    @property
    def is_open(self) -> bool:
        """Whether the connection has not ended."""
        return not self._is_over

    # Sending and timers

    def _run_soon(self) -> None:
        if not self._is_scheduled and not self._is_over:
            self._is_scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        """Handle received events, then send what is due."""
        self._is_scheduled = False
        self._packets_in_turn = 0
        if self._is_over:
            return
        self._handle_events()
        if not self._is_over:
            self._transmit()

    def _transmit(self) -> None:
        connection = self._connection
        if self._is_closing and connection.is_delivered:
            connection.close(error_code=CODE_CLOSED)
        self._send_datagrams()
        closing = connection.closing
        if closing is not None:
            # Data that a paused protocol has not read is acknowledged already, so it must still be delivered.
            if not (self._held and connection.is_closed_by_peer):
                self._lose(self._reason(closing))
            return
        self._arm()
        self._check_write_buffer()

    def _send_datagrams(self) -> None:
        for data, address in self._connection.datagrams_to_send(now=monotonic()):
            self._socket.send(data, address)

    def _arm(self) -> None:
        """Set a timer that fires when aioquic is due, or earlier; then it is set again."""
        due = self._connection.get_timer()
        if due is None or (self._timer is not None and self._timer_due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(TIMER_MIN_S, due - monotonic())
        self._timer_due = due
        self._timer = self._loop.call_later(delay_s, self._handle_timer)

    def _handle_timer(self) -> None:
        self._timer = None
        now = monotonic()
        due = self._connection.get_timer()
        if due is not None and due <= now:
            self._connection.handle_timer(now)
        self._run()

    # Receiving

    def _handle_events(self) -> None:
        pieces: list[bytes] = []
        while not self._is_over and (event := self._connection.next_event()) is not None:
            if type(event) is StreamDataReceived:
                pieces.append(event.data)
                self._has_received_end |= event.end_stream
            else:
                self._handle_event(event)
        if self._held_datagrams is not None and not self._is_reading_paused:
            self._deliver_datagrams(self._held_datagrams)
        if pieces:
            self._receive_stream(b"".join(pieces))
        if self._held and not self._is_reading_paused:
            self._deliver(b"".join(self._held))
        if self._has_received_end and not self._held and not self._is_closing:
            self._handle_end()

    def _handle_event(self, event: QuicEvent) -> None:
        match event:
            case DatagramFrameReceived():
                self._receive_datagram(event.data)
            case ConnectionIdIssued():
                self._socket.add_id(event.connection_id, self)
            case ConnectionIdRetired():
                self._socket.remove_id(event.connection_id)
            case HandshakeCompleted():
                self._finish_handshake(event.alpn_protocol)
            case StreamReset() | StopSendingReceived():
                self._connection.close(error_code=CODE_ABORTED)

    def _handle_end(self) -> None:
        """Close at the end of the peer's stream, as asyncio does, unless the protocol wants to continue sending."""
        if self._protocol is None:
            self.abort()
        elif not self._call(cast(asyncio.Protocol, self._protocol).eof_received):
            self.close()

    def _receive_datagram(self, data: bytes) -> None:
        if self._datagram_received is None:
            return
        if self._held_datagrams is None:
            self._held_datagrams = deque(maxlen=DATAGRAMS_HELD_MAX)
        self._held_datagrams.append(data)

    def _deliver_datagrams(self, datagrams: deque[bytes]) -> None:
        """Deliver as many datagrams as one iteration of the event loop may."""
        for _ in range(FRAMES_PER_TURN):
            if not datagrams or self._is_over or self._datagram_received is None:
                self._held_datagrams = None
                return
            self._call(self._datagram_received, datagrams.popleft())
        if datagrams:
            self._wait()
        else:
            self._held_datagrams = None

    def _finish_handshake(self, alpn: str | None) -> None:
        if alpn != ALPN:
            # aioquic accepts a peer that offers no protocol at all (RFC 9001 section 8.1).
            self._connection.close(error_code=CODE_ABORTED, reason_phrase=f"the ALPN protocol is not {ALPN}")
        elif not self._awaits_preamble:
            self._connection.send(PREAMBLE)
            self._open()

    def _receive_stream(self, data: bytes) -> None:
        if self._awaits_preamble and data:
            if data[:1] != PREAMBLE:
                self._connection.close(
                    error_code=CODE_PREAMBLE, reason_phrase="the stream does not start with the byte 1"
                )
                return
            self._awaits_preamble = False
            self._connection.read_bytes += len(PREAMBLE)
            data = data[len(PREAMBLE) :]
            self._open()
        if data:
            self._held.append(data)

    def _deliver(self, data: bytes) -> None:
        self._held.clear()
        self._connection.read_bytes += len(data)
        if not self._is_closing and self._protocol is not None:
            self._call(cast(asyncio.Protocol, self._protocol).data_received, data)

    def _open(self) -> None:
        """Start the protocol: the handshake is complete."""
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
            self._handshake_timer = None
        self._connection.release_handshake()
        self._socket.opened(self)
        protocol = self._protocol_factory()
        self.set_protocol(protocol)
        self._call(protocol.connection_made, self)
        if self._on_handshake is not None:
            self._on_handshake(None)
            self._on_handshake = None

    def _time_out_handshake(self) -> None:
        self._handshake_timer = None
        self._connection.close(error_code=CODE_ABORTED, reason_phrase="the handshake took too long")
        self._transmit()

    def _check_write_buffer(self) -> None:
        connection, protocol = self._connection, self._protocol
        if protocol is None:
            return
        kept, unsent = connection.unacknowledged_bytes, connection.unsent_bytes
        if not self._is_writing_paused:
            if kept > UNACKNOWLEDGED_BYTES_HIGH or unsent > UNSENT_BYTES_HIGH:
                self._is_writing_paused = True
                self._call(protocol.pause_writing)
        elif kept <= UNACKNOWLEDGED_BYTES_LOW and unsent <= UNSENT_BYTES_LOW:
            self._is_writing_paused = False
            self._call(protocol.resume_writing)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of the protocol. An exception is reported and ends the transport, as in asyncio."""
        try:
            return function(*arguments)
        except Exception as error:  # noqa: BLE001 - reported, and the transport ends
            self._report(error, f"the protocol of {self!r} failed")
            self.fail(error)
            return None

    def _report(self, error: Exception, message: str) -> None:
        self._loop.call_exception_handler(
            {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
        )

    def _reason(self, closing: ConnectionTerminated) -> Exception | None:
        """Return the exception for the protocol; ``None`` for a connection that was closed properly."""
        if closing.error_code == CODE_CLOSED and closing.frame_type is None:
            return None
        if self._is_closing and not self._connection.is_closed_by_peer:
            return None
        code = f"code {closing.error_code:#x}"
        if self._connection.is_closed_by_peer:
            reason = safe_text(closing.reason_phrase, REASON_CHARACTERS_MAX)
            quoted = f" {reason!r}" if reason else ""
            return ConnectionResetError(f"the peer closed the QUIC connection:{quoted} ({code})")
        return ConnectionAbortedError(f"the QUIC connection failed: {closing.reason_phrase or code}")

    def _lose(self, error: Exception | None) -> None:
        """End the connection; the protocol is notified in the next iteration of the event loop.

        RFC 9000 section 10.2 keeps a closed connection for three probe timeouts so that late packets get no answer.
        That is not needed here: packets of unknown connections get no answer either.
        """
        if self._is_over:
            return
        self._is_over = self._is_closing = True
        self._held.clear()
        self._held_datagrams = self._held_packets = None
        for timer in (self._timer, self._handshake_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._handshake_timer = None
        self._socket.forget(self)
        if self._protocol is not None:
            self._loop.call_soon(self._report_lost, error)
        if self._on_handshake is not None:
            self._on_handshake(
                error or ConnectionAbortedError("the QUIC connection was closed during its handshake")
            )
            self._on_handshake = None

    def _report_lost(self, error: Exception | None) -> None:
        assert self._protocol is not None
        self._call(self._protocol.connection_lost, error)
