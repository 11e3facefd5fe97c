"""The UDP sockets of QUIC (RFC 9000): one line per connection, on one stream, with datagrams in addition.

aioquic implements the protocol without I/O. This module has the sockets; :class:`QuicTransport` is the transport of a
line. A connection has no task. docs/protocol.md §2.5 specifies how a line uses QUIC.
"""

from __future__ import annotations

import asyncio
import os
import socket
from time import monotonic
from typing import Any, Final

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # it re-exports without saying so
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from landline.runtime.guarded_log import guarded_logger
from landline.transports.base import ProtocolFactory, describe_address_in_use
from landline.transports.options import TransportOptions
from landline.transports.quic.connection import (
    CONNECTION_ID_BYTES,
    LineConnection,
    client_configuration,
    server_configuration,
)
from landline.transports.quic.transport import QuicTransport
from landline.transports.urls import Endpoint

logger: Final = guarded_logger("landline")

HANDSHAKES_MAX: Final = 2000
"""How many handshakes a listener has at once. Further first packets are dropped; their senders repeat them."""
RETRY_ABOVE_HANDSHAKES: Final = 64
"""From this number of handshakes on, a client must prove its address with a Retry (RFC 9000 section 8.1.2) before the
listener stores or computes anything for it. Below it, a Retry would only cost the client a round trip."""
RECEIVE_BUFFER_BYTES: Final = 4 * 1024 * 1024
"""The receive buffer of a listener, whose lines all share one socket; ``net.core.rmem_max`` limits it."""
MIGRATE_AGAIN_AFTER_S: Final = 1.0
"""A new socket that fails within this time is not replaced again: the connection fails."""


class QuicListener(asyncio.DatagramProtocol):
    """A listening UDP socket, with its connections."""

    def __init__(self, configuration: QuicConfiguration, factory: ProtocolFactory) -> None:
        self._configuration = configuration
        self._protocol_factory = factory
        self._retry = QuicRetryTokenHandler()
        self._by_id: dict[bytes, QuicTransport] = {}
        self._transports: set[QuicTransport] = set()
        self._unfinished: set[QuicTransport] = set()
        self._is_closing = False
        self._udp: asyncio.DatagramTransport | None = None
        self._endpoint: Endpoint

    async def open(self, endpoint: Endpoint) -> None:
        """Bind the socket to the first address of the host. Raise :class:`OSError` if that fails."""
        loop = asyncio.get_running_loop()
        [family, _, _, _, address], *_ = await loop.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            self._endpoint = Endpoint(endpoint.scheme, endpoint.host, sock.getsockname()[1])
            self._udp, _ = await loop.create_datagram_endpoint(lambda: self, sock=sock)
        except BaseException:
            sock.close()
            raise

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def close(self) -> None:
        """Accept no new connections. The socket keeps its port until the last accepted connection has ended."""
        if self._is_closing:
            return
        self._is_closing = True
        for transport in list(self._unfinished):
            transport.abort()
        self._close_if_last()

    @property
    def is_open(self) -> bool:
        """Whether its socket is still open."""
        return self._udp is not None and not self._udp.is_closing()

    @property
    def connections(self) -> int:
        """The number of connections, those in their handshake included."""
        return len(self._transports)

    @property
    def handshakes(self) -> int:
        """The number of connections whose handshake is not complete."""
        return len(self._unfinished)

    @property
    def connection_ids(self) -> int:
        """The number of connection ids by which packets find their connection."""
        return len(self._by_id)

    # The protocol of the UDP socket

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if not data:
            return
        if not data[0] & 0x80:
            # A short header: the connection id follows the first byte (RFC 9000 section 17.3.1).
            transport = self._by_id.get(data[1 : 1 + CONNECTION_ID_BYTES])
        else:
            transport = self._find_or_accept(data, addr)
        if transport is not None:
            transport.receive(data, addr)

    def error_received(self, exc: Exception) -> None:
        # The error does not name a connection. The heartbeat of the line detects that its peer is dead.
        logger.debug("%s: %s", self._endpoint, exc)

    # The socket of its transports (see QuicSocket)

    def send(self, data: bytes, address: Any) -> None:
        assert self._udp is not None
        self._udp.sendto(data, address)

    def add_id(self, connection_id: bytes, transport: QuicTransport) -> None:
        self._by_id[connection_id] = transport
        transport.ids.add(connection_id)

    def remove_id(self, connection_id: bytes) -> None:
        transport = self._by_id.pop(connection_id, None)
        if transport is not None:
            transport.ids.discard(connection_id)

    def opened(self, transport: QuicTransport) -> None:
        self._unfinished.discard(transport)

    def forget(self, transport: QuicTransport) -> None:
        for connection_id in transport.ids:
            del self._by_id[connection_id]
        transport.ids.clear()
        self._unfinished.discard(transport)
        self._transports.discard(transport)
        self._close_if_last()

    def get_extra_info(self, name: str) -> Any:
        return self._udp.get_extra_info(name) if self._udp is not None else None

    # Accepting connections

    def _close_if_last(self) -> None:
        if self._is_closing and not self._transports and self._udp is not None:
            self._udp.close()

    def _find_or_accept(self, data: bytes, address: Any) -> QuicTransport | None:
        """Return the transport of a packet with a long header; ``None`` if the packet is answered or dropped here."""
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_BYTES)
        except ValueError:
            return None
        transport = self._by_id.get(header.destination_cid)
        if transport is not None:
            return transport
        if self._is_closing or len(data) < SMALLEST_MAX_DATAGRAM_SIZE:
            # Shorter packets cannot start a connection (RFC 9000 section 14.1), and an answer could be longer.
            return None
        if header.version not in self._configuration.supported_versions:
            self._negotiate_version(header, address)
        elif header.packet_type != QuicPacketType.INITIAL or len(header.destination_cid) < 8:
            pass
        elif not header.token and len(self._unfinished) >= RETRY_ABOVE_HANDSHAKES:
            self._send_retry(header, address)
        else:
            original_id = self._original_id(header, address)
            if original_id is not None and len(self._unfinished) < HANDSHAKES_MAX:
                retry_id = header.destination_cid if header.token else None
                self._accept(header.destination_cid, original_id, retry_id, data, address)
        return None

    def _negotiate_version(self, header: QuicHeader, address: Any) -> None:
        if header.packet_type == QuicPacketType.VERSION_NEGOTIATION:
            return
        answer = encode_quic_version_negotiation(
            source_cid=header.destination_cid,
            destination_cid=header.source_cid,
            supported_versions=self._configuration.supported_versions,
        )
        self.send(answer, address)

    def _send_retry(self, header: QuicHeader, address: Any) -> None:
        assert header.version is not None
        source_id = os.urandom(CONNECTION_ID_BYTES)
        token = self._retry.create_token(
            address=address,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source_id,
            now=monotonic(),
        )
        answer = encode_quic_retry(
            version=header.version,
            source_cid=source_id,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )
        self.send(answer, address)

    def _original_id(self, header: QuicHeader, address: Any) -> bytes | None:
        """Return the first connection id of a client; ``None`` if it has an invalid Retry token."""
        if not header.token:
            return header.destination_cid
        try:
            return self._retry.validate_token(
                address=address,
                destination_cid=header.destination_cid,
                token=header.token,
                now=monotonic(),
            )
        except ValueError:
            # Another listener's token, or an expired one. The client gives up and starts again.
            return None

    def _accept(
        self, first_id: bytes, original_id: bytes, retry_id: bytes | None, data: bytes, address: Any
    ) -> None:
        connection = LineConnection(
            self._configuration,
            original_destination_connection_id=original_id,
            retry_source_connection_id=retry_id,
        )
        transport = QuicTransport(connection, self, self._protocol_factory)
        self._transports.add(transport)
        self._unfinished.add(transport)
        self.add_id(first_id, transport)
        self.add_id(connection.host_cid, transport)
        transport.receive(data, address)
        if not transport.has_started:
            transport.drop(ConnectionAbortedError("the first packet could not be decrypted"))


class _ClientSocket:
    """The connected UDP socket of a client's connection; it is replaced when the network changes."""

    def __init__(self, family: int, address: Any) -> None:
        self._family = family
        self._address = address
        self._udp: asyncio.DatagramTransport | None = None
        self._transport: QuicTransport | None = None
        self._migrating: asyncio.Task[None] | None = None
        self._migrated_at = float("-inf")
        self._is_over = False

    async def open(self) -> None:
        """Open a new socket, replacing the old one. Raise :class:`OSError` if there is no route."""
        sock = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            # Sends nothing, but selects the route, and lets the kernel report a port on which no server listens.
            sock.connect(self._address)
            udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _ClientSocketProtocol(self), sock=sock
            )
        except BaseException:
            sock.close()
            raise
        old, self._udp = self._udp, udp
        if old is not None:
            old.close()
        if self._is_over:
            udp.close()

    def carry(self, transport: QuicTransport) -> None:
        """Start the connection."""
        self._transport = transport
        transport.start(self._address)

    def migrate(self) -> None:
        """Continue over a new socket, with the address that the system now chooses (RFC 9000 section 9)."""
        if self._migrating is None and not self._is_over:
            self._migrating = asyncio.get_running_loop().create_task(self._migrate())

    async def _migrate(self) -> None:
        self._migrated_at = monotonic()
        try:
            await self.open()
        except OSError as error:
            if self._transport is not None:
                self._transport.fail(error)
        else:
            if self._transport is not None:
                self._transport.receive_new_path()
        finally:
            self._migrating = None

    # Called by the protocol of the UDP socket

    def receive(self, data: bytes) -> None:
        """Receive a datagram of the server."""
        if self._transport is not None:
            self._transport.receive(data, self._address)

    def receive_error(self, error: OSError) -> None:
        """Handle the kernel's report that a datagram could not be sent, or was refused.

        A port on which no process listens means that the server has ended. Any other error concerns the route, and
        another socket may have another route.
        """
        if self._transport is None or self._migrating is not None:
            return
        if (
            isinstance(error, ConnectionRefusedError)
            or monotonic() - self._migrated_at < MIGRATE_AGAIN_AFTER_S
        ):
            self._transport.fail(error)
        else:
            self.migrate()

    # The socket of its transport (see QuicSocket)

    def send(self, data: bytes, address: Any) -> None:
        if self._udp is not None:
            self._udp.sendto(data)

    def add_id(self, connection_id: bytes, transport: QuicTransport) -> None:
        """Do nothing: all datagrams belong to the one transport."""

    def remove_id(self, connection_id: bytes) -> None:
        """Do nothing: all datagrams belong to the one transport."""

    def opened(self, transport: QuicTransport) -> None:
        """Do nothing: there are no handshakes to count."""

    def forget(self, transport: QuicTransport) -> None:
        self._is_over = True
        self._transport = None
        if self._udp is not None:
            self._udp.close()

    def get_extra_info(self, name: str) -> Any:
        return self._udp.get_extra_info(name) if self._udp is not None else None


class _ClientSocketProtocol(asyncio.DatagramProtocol):
    """The protocol of one UDP socket of a client. Errors of a replaced socket are ignored."""

    def __init__(self, client_socket: _ClientSocket) -> None:
        self._owner = client_socket
        self._udp: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._udp = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._owner.receive(data)

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError) and self._udp is not None and not self._udp.is_closing():
            self._owner.receive_error(exc)


async def connect(endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions) -> None:
    """See :class:`landline.transports.base.TransportModule`. The addresses of the host are tried in turn.

    :raises ConnectionError: if the handshake fails, for example because the certificate is not trusted.
    :raises landline.ConnectFailed: if ``ca_file`` cannot be used.
    """
    configuration = client_configuration(endpoint, options)
    found = await asyncio.get_running_loop().getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
    failure: OSError | None = None
    for family, _, _, _, address in found:
        try:
            await _connect(family, address, configuration, protocol_factory)
        except OSError as error:
            failure = failure or error
        else:
            return
    raise failure or ConnectionError(f"{endpoint.host} has no address")


async def _connect(
    family: int, address: Any, configuration: QuicConfiguration, protocol_factory: ProtocolFactory
) -> None:
    client_socket = _ClientSocket(family, address)
    await client_socket.open()
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def receive_handshake(error: Exception | None) -> None:
        if finished.done():
            return
        if error is None:
            finished.set_result(None)
        else:
            finished.set_exception(error)

    transport = QuicTransport(
        LineConnection(configuration), client_socket, protocol_factory, receive_handshake
    )
    client_socket.carry(transport)
    try:
        await finished
    except BaseException:
        transport.abort()
        raise


async def listen(
    endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions
) -> QuicListener:
    """See :class:`landline.transports.base.TransportModule`. It listens on the first address of the host.

    :raises landline.ConfigurationError: without a certificate.
    """
    listener = QuicListener(server_configuration(endpoint, options), protocol_factory)
    with describe_address_in_use(endpoint):
        await listener.open(endpoint)
    return listener
