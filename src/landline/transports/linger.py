"""Lingering close: the last frame arrives, although the peer is still sending.

Closing a socket with unread input makes TCP reset the connection, and a unix socket does the same: the peer's next
write fails, and what was on its way to it may be lost. So the side that has written BYE, REJECT or an answer of HTTP
continues to read, and discards, until the peer closes its end, within bounds of time and bytes. Where a transport has a
half-close, the peer also reads the end of the stream. asyncio has none for TLS: there the peer closes first, because
the BYE tells it to.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, cast, runtime_checkable

from landline.runtime.turns import LARGE_READ_BYTES, turns_of
from landline.transports.base import LinkProtocol

LINGER_TIMEOUT_S: Final = 3.0
"""How long a peer may take to read the last frame and to close its end (docs/protocol.md §8.2)."""
DISCARD_BYTES_MAX: Final = 1024 * 1024
"""Input that is discarded beyond the window of a session: acknowledgements, heartbeats and datagrams on their way. A
peer that sends more does not read the last frame."""
SCAN_BYTES: Final = 4 * 1024
"""Of what is discarded so much is looked through for the peer's BYE before the clock is looked at: 0.3 ms of the
smallest frames."""
SCAN_BYTES_PER_TURN: Final = 8 * SCAN_BYTES
"""... and so much in one turn of the event loop; meanwhile the transport is not read."""
READ_BYTES: Final = 64 * 1024
ARRIVED_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of a broken transport so much is read at most; Linux holds 6 MiB by default (tcp_rmem in tcp(7))."""

ByeDetector = Callable[[bytes], bool]
"""Called with all input that is discarded; returns whether the peer sends nothing after it."""


@runtime_checkable
class SupportsLinger(Protocol):
    """A transport of ours that reads on by itself after its ``close()``, because it has an orderly end of its own."""

    def linger(self, discard_bytes_max: int) -> None:
        """As ``close()``. Aborts if the peer sends more than that meanwhile."""
        ...


class LingeringClose(LinkProtocol):
    """The protocol of a transport after its last frame. It keeps nobody else's memory."""

    __slots__ = (
        "_discard_bytes",
        "_forget",
        "_is_waiting",
        "_position",
        "_says_bye",
        "_timer",
        "_transport",
        "_unscanned",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        discard_bytes_max: int,
        detect_bye: ByeDetector | None,
        forget: Callable[[LingeringClose], None] | None,
    ) -> None:
        self._transport: asyncio.Transport | None = transport
        self._discard_bytes = discard_bytes_max
        self._says_bye = detect_bye
        self._forget = forget
        self._timer: asyncio.TimerHandle | None = None
        # What is still to be looked through, from a position on.
        self._unscanned = b""
        self._position = 0
        self._is_waiting = False

    def start_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Abort the transport after :data:`LINGER_TIMEOUT_S`.

        The timer belongs to the event loop: the timer wheel of a server or client ends with its owner.
        """
        self._timer = loop.call_later(LINGER_TIMEOUT_S, self.abort)

    @property
    def is_closed(self) -> bool:
        return self._transport is None

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        self._discard_bytes -= len(data)
        if self._discard_bytes < 0:
            transport.abort()
        elif self._says_bye is not None:
            self.scan(data)
        elif len(data) >= LARGE_READ_BYTES and not turns_of(asyncio.get_running_loop()).has_time():
            self._wait(transport)

    def scan(self, data: bytes) -> None:
        """Look for the peer's BYE in it, in turns: a peer may send frames as fast as it likes."""
        self._unscanned = self._unscanned[self._position :] + data if self._unscanned else data
        self._position = 0
        if not self._is_waiting:
            self._scan_turn()
        elif self._transport is not None:
            self._transport.pause_reading()

    def read_on(self) -> None:
        """Its turn has come."""
        self._is_waiting = False
        if self._unscanned:
            self._scan_turn()
        elif self._transport is not None:
            self._transport.resume_reading()

    def _wait(self, transport: asyncio.Transport) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            turns_of(asyncio.get_running_loop()).wait(self)
        transport.pause_reading()

    def _scan_turn(self) -> None:
        transport = self._transport
        if transport is None or self._says_bye is None:
            return
        turns = turns_of(asyncio.get_running_loop())
        for _ in range(SCAN_BYTES_PER_TURN // SCAN_BYTES):
            step = self._unscanned[self._position : self._position + SCAN_BYTES]
            self._position += len(step)
            if self._says_bye(step):
                # Both have said BYE, and neither would close first.
                self._drop_unscanned()
                transport.close()
                return
            if self._position == len(self._unscanned):
                self._drop_unscanned(keep_looking=True)
                transport.resume_reading()
                return
            if not turns.has_time():
                break
        self._wait(transport)

    def _drop_unscanned(self, *, keep_looking: bool = False) -> None:
        self._unscanned, self._position = b"", 0
        if not keep_looking:
            self._says_bye = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._drop_unscanned()
        if self._timer is not None:
            self._timer.cancel()
        if self._forget is not None:
            self._forget(self)

    def abort(self) -> None:
        """Close the transport at once, if it is not closed yet."""
        if self._transport is not None:
            self._transport.abort()


def linger(
    loop: asyncio.AbstractEventLoop,
    transport: asyncio.Transport,
    *,
    discard_bytes_max: int = DISCARD_BYTES_MAX,
    detect_bye: ByeDetector | None = None,
    trailing_data: bytes = b"",
    is_ended_by_peer: bool = False,
    peer_waits: bool = False,
    forget: Callable[[LingeringClose], None] | None = None,
) -> LingeringClose:
    """Close a transport so that what was written arrives, within :data:`LINGER_TIMEOUT_S`.

    :param detect_bye: over TLS, finds the peer's own BYE in what is discarded.
    :param trailing_data: what was received before, and not looked through for it.
    :param is_ended_by_peer: the peer has said that it sends nothing more, so that nothing is to be discarded.
    :param peer_waits: the peer waits for us to close, as a client of HTTP does; over TLS this side then closes first.
    :param forget: called when it is closed.
    """
    lingering = LingeringClose(transport, discard_bytes_max, detect_bye, forget)
    transport.set_protocol(lingering)
    lingering.start_timer(loop)
    if isinstance(transport, SupportsLinger):
        transport.linger(discard_bytes_max)
    elif is_ended_by_peer:
        transport.close()
    elif transport.can_write_eof():
        _write_eof(transport)
    elif peer_waits:
        transport.close()
    # Else TLS: the peer closes when it has read the last frame.
    transport.resume_reading()
    if trailing_data:
        lingering.scan(trailing_data)
    return lingering


def _write_eof(transport: asyncio.Transport) -> None:
    if transport.is_closing():
        return
    try:
        transport.write_eof()
    except OSError:
        # The peer has reset the connection.
        transport.abort()


class TransportCloser:
    """Closes the transports of one server or client, and knows which of them are not closed yet."""

    __slots__ = ("_all_closed", "_lingering", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lingering: set[LingeringClose] = set()
        self._all_closed: asyncio.Future[None] | None = None

    def close(
        self,
        transport: asyncio.Transport,
        *,
        discard_bytes_max: int = DISCARD_BYTES_MAX,
        detect_bye: ByeDetector | None = None,
        trailing_data: bytes = b"",
        is_ended_by_peer: bool = False,
    ) -> None:
        """See :func:`linger`."""
        lingering = linger(
            self._loop,
            transport,
            discard_bytes_max=discard_bytes_max,
            detect_bye=detect_bye,
            trailing_data=trailing_data,
            is_ended_by_peer=is_ended_by_peer,
            forget=self._forget,
        )
        if not lingering.is_closed:
            self._lingering.add(lingering)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return when all are closed, after ``timeout_s`` at most (:data:`LINGER_TIMEOUT_S` by default).

        Those that are not are aborted then. Cancelling aborts them at once.

        The event loop, or the process, may end next, which would close them with unread input.
        """
        if not self._lingering:
            return
        if self._all_closed is None:
            self._all_closed = self._loop.create_future()
        try:
            await asyncio.wait(
                [self._all_closed], timeout=LINGER_TIMEOUT_S if timeout_s is None else timeout_s
            )
        finally:
            for lingering in list(self._lingering):
                lingering.abort()
        # The event loop closes what was aborted in its next turn.
        await asyncio.sleep(0)

    def _forget(self, lingering: LingeringClose) -> None:
        self._lingering.discard(lingering)
        if not self._lingering and self._all_closed is not None:
            self._all_closed.set_result(None)
            self._all_closed = None


class BrokenTransport:
    """Stands for a transport that broke while what had arrived on it is still read: nothing can be written to it."""

    __slots__ = ("_protocol", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._protocol: asyncio.Protocol | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Drop the bytes: the session keeps what matters."""

    def is_closing(self) -> bool:
        return True

    def can_write_eof(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """There is nothing to pause."""

    def resume_reading(self) -> None:
        """There is nothing to resume."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def close(self) -> None:
        """It is closed already, and a protocol that was set meanwhile hears of it."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(None)

    def abort(self) -> None:
        self.close()

    def linger(self, discard_bytes_max: int) -> None:
        self.close()


def read_arrived(transport: asyncio.Transport) -> Iterator[bytes]:
    """Yield what had arrived on a TCP or unix transport that broke; to be called in its ``connection_lost``.

    Event loops drop a connection on which a write fails without reading what came before: a BYE, perhaps. What came
    over TLS cannot be read any more.
    """
    if not transport.can_write_eof():
        return
    try:
        sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    except OSError:
        return
    with sock:
        sock.setblocking(False)
        read_bytes = 0
        while read_bytes < ARRIVED_BYTES_MAX:
            try:
                data = sock.recv(READ_BYTES)
            except OSError:
                return
            if not data:
                return
            read_bytes += len(data)
            yield data
