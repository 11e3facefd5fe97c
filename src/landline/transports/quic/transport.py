"""A line's stream of one QUIC connection, as an :class:`asyncio.Transport`.

What a connection says to its line, and when, is decided here; the sockets are in
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
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from landline.runtime.turns import FRAMES_PER_TURN, turns_of
from landline.transports.base import ProtocolFactory
from landline.transports.quic.connection import ALPN, LineConnection

PREAMBLE: Final = b"\x01"
"""The first byte of a client's stream: the server speaks first, but sees a stream only once something is on it."""
HANDSHAKE_TIMEOUT_S: Final = 5.0
"""As long as our own handshake may take: from the first packet to the preamble."""
UNACKNOWLEDGED_BYTES_HIGH: Final = 1024 * 1024
UNACKNOWLEDGED_BYTES_LOW: Final = 512 * 1024
"""aioquic keeps what is written until it is acknowledged. Above the first the protocol is told to pause, below the
second to resume: 80 Mbit/s over 100 ms."""
UNSENT_BYTES_HIGH: Final = 128 * 1024
UNSENT_BYTES_LOW: Final = 32 * 1024
"""The same for what was never sent, as ``TCP_NOTSENT_LOWAT`` for TCP: heartbeats do not wait behind megabytes."""
PACKETS_PER_TURN: Final = 8
"""Packets of one connection handled in one turn of the event loop; aioquic takes 0.05 to 0.15 ms for each, and ten
times that for one full of tiny frames."""
PACKETS_HELD: Final = 256
"""Packets of one connection that wait for its next turn; more are dropped, as they are by a full socket. A sender whose
window is 1 MiB has some 900 on their way at most, and the kernel holds its share."""
PACKETS_HELD_UNPROVEN: Final = 16
"""The same while its handshake is under way."""
DATAGRAMS_HELD: Final = 1024
"""Datagrams received and not handed to the line yet, because it has had its turn; the oldest give way."""
DATAGRAMS_WAITING: Final = 32
"""So many datagrams may wait for congestion control; one more is dropped."""
REASON_SHOWN: Final = 200
"""Characters of a peer's reason that are passed on."""
PACKETS_OF_KEY: Final = 1 << 20
"""After so many packets a client changes the keys, a server after twice as many. RFC 9001 section 6.6 allows AES-GCM
eight times as many, about 10 GB; aioquic leaves it to us."""
TIMER_S: Final = 0.001
"""The shortest timer: what the event loops can keep, and what pacing bursts can make up for."""

CODE_CLOSED: Final = 0
CODE_ABORTED: Final = 1
CODE_PREAMBLE: Final = 2


class Carrier(Protocol):
    """The socket under a transport."""

    def send(self, data: bytes, address: Any) -> None:
        """Sends one datagram."""

    def add_id(self, connection_id: bytes, transport: QuicTransport) -> None:
        """Datagrams for this id belong to the transport."""

    def remove_id(self, connection_id: bytes) -> None:
        """They no longer do."""

    def opened(self, transport: QuicTransport) -> None:
        """The transport has a protocol now."""

    def forget(self, transport: QuicTransport) -> None:
        """The transport is over."""

    def get_extra_info(self, name: str) -> Any:
        """What the socket's own transport knows."""


class QuicTransport(asyncio.Transport):
    """A line's stream of a QUIC connection.

    Beyond a plain transport it sends datagrams (:meth:`send_datagram`), and hands those it receives to
    ``protocol.datagram_received(data)`` if the protocol has that method.
    """

    __slots__ = (
        "_awaits_preamble",
        "_carrier",
        "_connection",
        "_datagram_received",
        "_factory",
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
        "_key_phase",
        "_loop",
        "_on_handshake",
        "_packets_in_turn",
        "_packets_of_key",
        "_packets_of_key_max",
        "_protocol",
        "_timer",
        "_timer_due",
        "_turns",
        "ids",
    )

    def __init__(
        self,
        connection: LineConnection,
        carrier: Carrier,
        factory: ProtocolFactory,
        on_handshake: Callable[[Exception | None], None] | None = None,
    ) -> None:
        super().__init__()
        self._connection = connection
        self._carrier = carrier
        self._factory = factory
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
        self._key_phase = 0
        self._packets_of_key = 0
        # Were both to change them at the same moment, what is on the way would have to be sent again.
        self._packets_of_key_max = PACKETS_OF_KEY * (1 if connection.configuration.is_client else 2)
        self._held: deque[bytes] = deque()
        # What the line, or its share of this turn of the event loop, had no room for. Made when first needed.
        self._held_datagrams: deque[bytes] | None = None
        self._held_packets: deque[tuple[bytes, Any]] | None = None
        self._turns = turns_of(self._loop)
        self._is_waiting = False
        self._packets_in_turn = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._handshake_timer: asyncio.TimerHandle | None = self._loop.call_later(
            HANDSHAKE_TIMEOUT_S, self._give_up_handshake
        )
        self.ids: set[bytes] = set()
        """The connection ids by which the carrier finds it."""

    def __repr__(self) -> str:
        state = "over" if self._is_over else "closing" if self._is_closing else "open"
        return f"<QuicTransport {state} {self.get_extra_info('peername')}>"

    # As a transport.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``peername`` is where the peer's datagrams come from at present; the rest is the UDP socket's."""
        if name == "peername":
            return self._connection.get_peer_address() or default
        value = self._carrier.get_extra_info(name)
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
        """Nothing more is given to the protocol; the peer may send one window of bytes more, and then has to wait."""
        self._is_reading_paused = True

    def resume_reading(self) -> None:
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._run_soon()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queues bytes. They are sent in the next turn of the loop, with all that was written in this one."""
        if not data or self._is_closing:
            return
        if self._connection.send(data):
            self._check_room()
            self._run_soon()

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        """Bytes the peer has not acknowledged."""
        return self._connection.unacknowledged_bytes

    def close(self) -> None:
        """Ends the stream behind what was written, and the connection once all of it is acknowledged."""
        if self._is_closing:
            return
        if self._protocol is None:
            self.abort()
            return
        self._is_closing = True
        self._held.clear()
        if self._connection.send(b"", end=True):
            # Now, not in the next turn: there may be none.
            self._transmit()
        else:
            self.abort()

    def linger(self, discard_bytes_max: int) -> None:
        """As :meth:`close`, which discards what the peer sends. Flow control bounds how much that is."""
        self.close()

    def abort(self) -> None:
        """Closes the connection at once. What was not sent is dropped; the peer is told in one datagram."""
        if self._is_over:
            return
        self._is_closing = True
        self._connection.close(error_code=CODE_ABORTED)
        self._transmit()
        self._lose(None)

    # Datagrams.

    @property
    def datagram_bytes_max(self) -> int:
        """The longest datagram that can be sent, in bytes; 0 where the peer takes none."""
        return self._connection.datagram_bytes_max

    def send_datagram(self, data: bytes) -> bool:
        """Sends a DATAGRAM frame (RFC 9221), once or never.

        Returns ``False``, and drops it, where it is too long or :data:`DATAGRAMS_WAITING` wait for congestion control.
        """
        longest = self._connection.datagram_bytes_max
        if (
            self._is_closing
            or not longest
            or len(data) > longest
            or self._connection.datagrams_waiting >= DATAGRAMS_WAITING
        ):
            return False
        self._connection.send_datagram_frame(data)
        self._run_soon()
        return True

    # For the carrier.

    def begin(self, address: Any) -> None:
        """Sends a client's first packet."""
        self._connection.connect(address, now=monotonic())
        self._transmit()

    def receive(self, data: bytes, address: Any) -> None:
        """A datagram of the connection came. Its events are handled once for all that came in this turn.

        Above :data:`PACKETS_PER_TURN` it waits for the next turn of the event loop.
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
        """The turn of what waits has come."""
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
        """Returns whether the connection goes on."""
        try:
            self._connection.receive_datagram(data, address, now=monotonic())
        except Exception as error:  # noqa: BLE001 - reported; one connection must not take the listener with it
            self._report(error, "aioquic failed on a datagram")
            self.drop(error)
            return False
        return True

    def _hold(self, data: bytes, address: Any) -> None:
        if self._held_packets is None:
            self._held_packets = deque()
        if len(self._held_packets) < (PACKETS_HELD if self._protocol is not None else PACKETS_HELD_UNPROVEN):
            self._held_packets.append((data, address))
        self._wait()

    def _wait(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self._turns.wait(self)

    def fail(self, error: Exception) -> None:
        """Something here cannot go on; the peer is told if it can be reached."""
        if not self._is_over:
            self._connection.close(error_code=CODE_ABORTED)
            self._send_datagrams()
            self._lose(error)

    def drop(self, error: Exception) -> None:
        """The end, without a word to the peer."""
        self._lose(error)

    def receive_new_path(self) -> None:
        """A client sends from another socket from now on: uses another connection id, as RFC 9000 section 9.5 asks, and
        lets the server know at once."""
        if not self._is_over:
            self._connection.change_connection_id()
            self._connection.send_ping(0)
            self._transmit()

    @property
    def has_begun(self) -> bool:
        """Whether the peer has sent a packet that could be decrypted."""
        return self._connection.has_begun

    @property
    def is_open(self) -> bool:
        """Whether anything is still sent or received."""
        return not self._is_over

    # Inside.

    def _run_soon(self) -> None:
        if not self._is_scheduled and not self._is_over:
            self._is_scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        """Handles what came, sends what is due."""
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
            # What a protocol that does not read just now has not taken was acknowledged: it is not lost with the rest.
            if not (self._held and connection.is_closed_by_peer):
                self._lose(self._reason(closing))
            return
        self._arm()
        self._check_room()

    def _send_datagrams(self) -> None:
        datagrams = self._connection.datagrams_to_send(now=monotonic())
        for data, address in datagrams:
            self._carrier.send(data, address)
        self._count_packets(len(datagrams))

    def _count_packets(self, count: int) -> None:
        """Changes the keys when they were used often enough, and begins anew when either side has changed them."""
        phase = self._connection.key_phase
        if phase != self._key_phase:
            self._key_phase, self._packets_of_key = phase, 0
        self._packets_of_key += count
        if self._packets_of_key >= self._packets_of_key_max:
            self._packets_of_key = 0
            self._connection.request_key_update()

    def _arm(self) -> None:
        """Keeps a timer that fires when aioquic wants it, or before; then it is set anew."""
        due = self._connection.get_timer()
        if due is None or (self._timer is not None and self._timer_due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(TIMER_S, due - monotonic())
        self._timer_due = due
        self._timer = self._loop.call_later(delay_s, self._handle_timer)

    def _handle_timer(self) -> None:
        self._timer = None
        now = monotonic()
        due = self._connection.get_timer()
        if due is not None and due <= now:
            self._connection.handle_timer(now)
        self._run()

    def _handle_events(self) -> None:
        pieces: list[bytes] = []
        while not self._is_over and (event := self._connection.next_event()) is not None:
            kind = type(event)
            if kind is StreamDataReceived:
                pieces.append(cast(StreamDataReceived, event).data)
                self._has_received_end |= cast(StreamDataReceived, event).end_stream
            elif kind is DatagramFrameReceived:
                self._receive_datagram(cast(DatagramFrameReceived, event).data)
            elif kind is ConnectionIdIssued:
                self._carrier.add_id(cast(ConnectionIdIssued, event).connection_id, self)
            elif kind is ConnectionIdRetired:
                self._carrier.remove_id(cast(ConnectionIdRetired, event).connection_id)
            elif kind is HandshakeCompleted:
                self._finish_handshake(cast(HandshakeCompleted, event).alpn_protocol)
            elif kind is StreamReset or kind is StopSendingReceived:
                self._connection.close(error_code=CODE_ABORTED)
        if self._held_datagrams is not None and not self._is_reading_paused:
            self._deliver_datagrams(self._held_datagrams)
        if pieces:
            self._receive_stream(b"".join(pieces))
        if self._held and not self._is_reading_paused:
            self._deliver(b"".join(self._held))
        if self._has_received_end and not self._held and not self._is_closing:
            # As asyncio's own transports: who does not want to go on sending has it closed.
            if self._protocol is None:
                self.abort()
            elif not self._call(cast(asyncio.Protocol, self._protocol).eof_received):
                self.close()

    def _receive_datagram(self, data: bytes) -> None:
        if self._datagram_received is None:
            return
        if self._held_datagrams is None:
            self._held_datagrams = deque(maxlen=DATAGRAMS_HELD)
        self._held_datagrams.append(data)

    def _deliver_datagrams(self, datagrams: deque[bytes]) -> None:
        """Hands over as many as one turn has room for."""
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
            # A peer that names no protocol at all gets past aioquic (RFC 9001 section 8.1).
            self._connection.close(error_code=CODE_ABORTED, reason_phrase=f"the protocol is not {ALPN}")
        elif not self._awaits_preamble:
            self._connection.send(PREAMBLE)
            self._open()

    def _receive_stream(self, data: bytes) -> None:
        if self._awaits_preamble and data:
            if data[:1] != PREAMBLE:
                self._connection.close(
                    error_code=CODE_PREAMBLE, reason_phrase="the stream does not begin with the byte 1"
                )
                return
            self._awaits_preamble = False
            self._connection.taken_bytes += len(PREAMBLE)
            data = data[len(PREAMBLE) :]
            self._open()
        if data:
            self._held.append(data)

    def _deliver(self, data: bytes) -> None:
        self._held.clear()
        self._connection.taken_bytes += len(data)
        if not self._is_closing and self._protocol is not None:
            self._call(cast(asyncio.Protocol, self._protocol).data_received, data)

    def _open(self) -> None:
        """The connection carries a line from now on."""
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
            self._handshake_timer = None
        self._connection.forget_handshake()
        self._carrier.opened(self)
        protocol = self._factory()
        self.set_protocol(protocol)
        self._call(protocol.connection_made, self)
        if self._on_handshake is not None:
            self._on_handshake(None)
            self._on_handshake = None

    def _give_up_handshake(self) -> None:
        self._handshake_timer = None
        self._connection.close(error_code=CODE_ABORTED, reason_phrase="the handshake took too long")
        self._transmit()

    def _check_room(self) -> None:
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
        """Calls the protocol. What it raises is reported and ends the transport, as with asyncio's own."""
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
        """What the protocol is told; ``None`` for a connection that ended in order."""
        if closing.error_code == CODE_CLOSED and closing.frame_type is None:
            return None
        if self._is_closing and not self._connection.is_closed_by_peer:
            return None
        code = f"code {closing.error_code:#x}"
        if self._connection.is_closed_by_peer:
            # The peer's words: whatever they hold, they stay on one line.
            said = f" {closing.reason_phrase[:REASON_SHOWN]!r}" if closing.reason_phrase else ""
            return ConnectionResetError(f"the peer closed the QUIC connection:{said} ({code})")
        return ConnectionAbortedError(f"the QUIC connection failed: {closing.reason_phrase or code}")

    def _lose(self, error: Exception | None) -> None:
        """The connection is over; the protocol hears of it in the next turn.

        RFC 9000 section 10.2 wants a closed connection to be kept for three probe timeouts, so that late packets are
        not answered; nothing answers packets of connections that are not known here.
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
        self._carrier.forget(self)
        if self._protocol is not None:
            self._loop.call_soon(self._tell_lost, error)
        if self._on_handshake is not None:
            self._on_handshake(error or ConnectionAbortedError("the QUIC connection was given up"))
            self._on_handshake = None

    def _tell_lost(self, error: Exception | None) -> None:
        assert self._protocol is not None
        self._call(self._protocol.connection_lost, error)
