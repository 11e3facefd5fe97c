"""Lingering close: the last frame arrives although the peer is still sending.

Closing a socket with unread input makes TCP reset the connection; a unix socket does the same. The peer's next write
then fails, and data in flight to it may be lost. So the side that has written BYE, REJECT or an HTTP response
continues to read, and discards the input, until the peer closes its end. Time and bytes are limited. If the transport
has a half-close, the peer also reads the end of the stream. asyncio has none for TLS: there the peer closes first, as
the BYE asks it to.
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
"""How long a peer may take to read the last frame and to close its end, in seconds (docs/protocol.md §8.2)."""
DISCARD_BYTES_MAX: Final = 1024 * 1024
"""Input that is discarded in addition to the window of a session: acknowledgements, heartbeats and datagrams in
flight. The transport is aborted if the peer sends more: such a peer does not read the last frame."""
SCAN_BYTES: Final = 4 * 1024
"""How much discarded input is searched for the peer's BYE before the clock is read again: 0.3 ms of the smallest
frames."""
SCAN_BYTES_PER_TURN: Final = 8 * SCAN_BYTES
"""How much is searched in one iteration of the event loop; the transport is paused until the next one."""
READ_BYTES: Final = 64 * 1024
ARRIVED_BYTES_MAX: Final = 16 * 1024 * 1024
"""How much is read from a broken transport; Linux buffers up to 6 MiB by default (tcp_rmem in tcp(7))."""

ByeDetector = Callable[[bytes], bool]
"""Called with all discarded input; returns whether it contains the peer's BYE, after which the peer sends nothing."""


@runtime_checkable
class SupportsLinger(Protocol):
    """A transport that has a closing handshake, and so continues to read after its own ``close()``."""

    def linger(self, discard_bytes_max: int) -> None:
        """Close as ``close()`` does; abort if the peer sends more than ``discard_bytes_max`` bytes in the meantime."""
        ...


class LingeringClose(LinkProtocol):
    """The protocol of a transport after its last frame. It holds no reference to the line or the session."""

    __slots__ = (
        "_discard_bytes",
        "_is_waiting",
        "_on_closed",
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
        on_closed: Callable[[LingeringClose], None] | None,
    ) -> None:
        self._transport: asyncio.Transport | None = transport
        self._discard_bytes = discard_bytes_max
        self._says_bye = detect_bye
        self._on_closed = on_closed
        self._timer: asyncio.TimerHandle | None = None
        # Input not yet searched: that from the position on.
        self._unscanned = b""
        self._position = 0
        self._is_waiting = False

    def start_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Abort the transport after :data:`LINGER_TIMEOUT_S`.

        The timer belongs to the event loop, because the timer wheel of a server or client ends with its owner.
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
        """Search the data for the peer's BYE, in slices: a peer may send frames as fast as it wants."""
        self._unscanned = self._unscanned[self._position :] + data if self._unscanned else data
        self._position = 0
        if not self._is_waiting:
            self._scan_turn()
        elif self._transport is not None:
            self._transport.pause_reading()

    def read_on(self) -> None:
        """Continue in the next iteration of the event loop."""
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
                # Both sides have sent BYE; without this, each would wait for the other to close.
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
        if self._on_closed is not None:
            self._on_closed(self)

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
    on_closed: Callable[[LingeringClose], None] | None = None,
) -> LingeringClose:
    """Close a transport so that everything written before arrives; abort it after :data:`LINGER_TIMEOUT_S`.

    :param discard_bytes_max: how much input is discarded, in bytes; the transport is aborted if the peer sends more.
    :param detect_bye: finds the peer's own BYE in the discarded input; needed over TLS.
    :param trailing_data: input received before, in which the BYE has not been searched yet.
    :param is_ended_by_peer: the peer has announced that it sends nothing more, so nothing has to be discarded.
    :param peer_waits: the peer waits for this side to close, as an HTTP client does; over TLS this side closes first.
    :param on_closed: called when the transport is closed.
    :return: the new protocol of the transport.
    """
    lingering = LingeringClose(transport, discard_bytes_max, detect_bye, on_closed)
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
    # Otherwise TLS: the peer closes when it has read the last frame.
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
    """Closes the transports of one server or client, and tracks those that are still open."""

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
        """Close a transport as :func:`linger` does, without waiting."""
        lingering = linger(
            self._loop,
            transport,
            discard_bytes_max=discard_bytes_max,
            detect_bye=detect_bye,
            trailing_data=trailing_data,
            is_ended_by_peer=is_ended_by_peer,
            on_closed=self._remove,
        )
        if not lingering.is_closed:
            self._lingering.add(lingering)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Wait until all transports are closed, for at most ``timeout_s`` (:data:`LINGER_TIMEOUT_S` by default).

        The remaining ones are aborted then. Cancelling aborts them at once.

        Call this before the event loop or the process ends: that would close the transports with unread input.
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
        # The event loop closes aborted transports in its next iteration.
        await asyncio.sleep(0)

    def _remove(self, lingering: LingeringClose) -> None:
        self._lingering.discard(lingering)
        if not self._lingering and self._all_closed is not None:
            self._all_closed.set_result(None)
            self._all_closed = None


class BrokenTransport:
    """Replaces a broken transport while the data that had arrived on it is still read. Writing has no effect."""

    __slots__ = ("_protocol", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._protocol: asyncio.Protocol | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Drop the bytes: the session keeps what has to be sent again."""

    def is_closing(self) -> bool:
        return True

    def can_write_eof(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Do nothing: there is nothing to pause."""

    def resume_reading(self) -> None:
        """Do nothing: there is nothing to resume."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def close(self) -> None:
        """Notify the protocol that was set in the meantime: the transport is already closed."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(None)

    def abort(self) -> None:
        self.close()

    def linger(self, discard_bytes_max: int) -> None:
        self.close()


def read_arrived(transport: asyncio.Transport) -> Iterator[bytes]:
    """Yield the data that had arrived on a broken TCP or unix transport. Call it in ``connection_lost``.

    If a write fails, event loops drop the connection without reading what had arrived before, perhaps a BYE. Data that
    arrived over TLS can no longer be read.
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
