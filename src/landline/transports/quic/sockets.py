"""QUIC (RFC 9000): one line over one stream of one connection, and datagrams beside it.

aioquic keeps the protocol, without I/O; this file has the sockets, and :class:`QuicTransport` shows each connection to
its line. There is no task for a connection. How a line uses QUIC is written in §2.5 of docs/protocol.md.
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

logger = guarded_logger("landline")

UNFINISHED: Final = 2000
"""Handshakes a listener has under way at once; first packets beyond them are dropped, and their senders repeat them."""
RETRY_ABOVE: Final = 64
"""With more handshakes under way than this, a client must prove its address with a Retry (RFC 9000 section 8.1.2)
before anything is kept of it or computed for it. With fewer that would only cost it a round trip."""
RECEIVE_BUFFER_BYTES: Final = 4 * 1024 * 1024
"""Asked of the kernel for a listener, whose lines all share one socket. It gives what ``net.core.rmem_max`` allows."""
MIGRATE_AGAIN_S: Final = 1.0
"""A new socket that fails sooner than this was no help."""


class QuicListener(asyncio.DatagramProtocol):
    """A UDP socket with the connections that came to it."""

    def __init__(self, configuration: QuicConfiguration, factory: ProtocolFactory) -> None:
        self._configuration = configuration
        self._factory = factory
        self._retry = QuicRetryTokenHandler()
        self._by_id: dict[bytes, QuicTransport] = {}
        self._transports: set[QuicTransport] = set()
        self._unfinished: set[QuicTransport] = set()
        self._is_closing = False
        self._udp: asyncio.DatagramTransport | None = None
        self._endpoint: Endpoint

    async def open(self, endpoint: Endpoint) -> None:
        """Binds the socket to the first address of the host. Raises :class:`OSError`."""
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
        """Takes no new connection. The socket, and so its port, is kept until the last accepted one is over."""
        if self._is_closing:
            return
        self._is_closing = True
        for transport in list(self._unfinished):
            transport.abort()
        self._close_if_last()

    @property
    def is_open(self) -> bool:
        """Whether it still has its socket."""
        return self._udp is not None and not self._udp.is_closing()

    # The socket's protocol.

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if not data:
            return
        if not data[0] & 0x80:
            # A short header: the connection id stands behind the first byte (RFC 9000 section 17.3.1).
            transport = self._by_id.get(data[1 : 1 + CONNECTION_ID_BYTES])
        else:
            transport = self._find_or_accept(data, addr)
        if transport is not None:
            transport.receive(data, addr)

    def error_received(self, exc: Exception) -> None:
        # It names no connection. The one it was about is found dead by its heartbeat.
        logger.debug("%s: %s", self._endpoint, exc)

    # Of its transports.

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

    # Inside.

    def _close_if_last(self) -> None:
        if self._is_closing and not self._transports and self._udp is not None:
            self._udp.close()

    def _find_or_accept(self, data: bytes, address: Any) -> QuicTransport | None:
        """The transport a packet with a long header belongs to, a new one, or none: then the packet is dropped."""
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_BYTES)
        except ValueError:
            return None
        transport = self._by_id.get(header.destination_cid)
        if transport is not None:
            return transport
        if self._is_closing or len(data) < SMALLEST_MAX_DATAGRAM_SIZE:
            # Shorter ones cannot begin a connection (RFC 9000 section 14.1), and an answer could be longer than they.
            return None
        if header.version not in self._configuration.supported_versions:
            if header.packet_type != QuicPacketType.VERSION_NEGOTIATION:
                answer = encode_quic_version_negotiation(
                    source_cid=header.destination_cid,
                    destination_cid=header.source_cid,
                    supported_versions=self._configuration.supported_versions,
                )
                self.send(answer, address)
            return None
        if header.packet_type != QuicPacketType.INITIAL or len(header.destination_cid) < 8:
            return None
        if not header.token and len(self._unfinished) >= RETRY_ABOVE:
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
            return None
        original_id, retry_id = header.destination_cid, None
        if header.token:
            try:
                original_id = self._retry.validate_token(
                    address=address,
                    destination_cid=header.destination_cid,
                    token=header.token,
                    now=monotonic(),
                )
            except ValueError:
                # Not ours, or too old. Its sender gives up by itself and begins anew.
                return None
            retry_id = header.destination_cid
        if len(self._unfinished) >= UNFINISHED:
            return None
        return self._accept(header.destination_cid, original_id, retry_id, data, address)

    def _accept(
        self, first_id: bytes, original_id: bytes, retry_id: bytes | None, data: bytes, address: Any
    ) -> QuicTransport | None:
        connection = LineConnection(
            self._configuration,
            original_destination_connection_id=original_id,
            retry_source_connection_id=retry_id,
        )
        transport = QuicTransport(connection, self, self._factory)
        self._transports.add(transport)
        self._unfinished.add(transport)
        self.add_id(first_id, transport)
        self.add_id(connection.host_cid, transport)
        transport.receive(data, address)
        if not transport.has_begun:
            # It only looked like a first packet.
            transport.drop(ConnectionAbortedError("the first packet could not be decrypted"))
        return None


class _ClientCarrier:
    """The connected UDP socket of one client's connection; another one when the network changes."""

    def __init__(self, family: int, address: Any) -> None:
        self._family = family
        self._address = address
        self._udp: asyncio.DatagramTransport | None = None
        self._transport: QuicTransport | None = None
        self._migrating: asyncio.Task[None] | None = None
        self._migrated_at = float("-inf")
        self._is_over = False

    async def open(self) -> None:
        """Opens a socket, in the place of the one there was. Raises :class:`OSError` when nothing leads there."""
        sock = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            # Sends nothing, but names the route, and lets the kernel tell of a port where nobody listens.
            sock.connect(self._address)
            udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _ClientSocket(self), sock=sock
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
        """Begins the connection."""
        self._transport = transport
        transport.begin(self._address)

    def migrate(self) -> None:
        """Goes on over a new socket, with whatever address the system now gives it (RFC 9000 section 9)."""
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

    # Of the socket.

    def receive(self, data: bytes) -> None:
        """A datagram of the server."""
        if self._transport is not None:
            self._transport.receive(data, self._address)

    def receive_error(self, error: OSError) -> None:
        """The kernel says that a datagram could not be sent, or was not taken.

        A port where nobody listens means that the server is gone. Anything else is about the way there, and another
        socket may have another one.
        """
        if self._transport is None or self._migrating is not None:
            return
        if isinstance(error, ConnectionRefusedError) or monotonic() - self._migrated_at < MIGRATE_AGAIN_S:
            self._transport.fail(error)
        else:
            self.migrate()

    # Of the transport.

    def send(self, data: bytes, address: Any) -> None:
        if self._udp is not None:
            self._udp.sendto(data)

    def add_id(self, connection_id: bytes, transport: QuicTransport) -> None:
        """Everything that comes is the transport's."""

    def remove_id(self, connection_id: bytes) -> None:
        """Everything that comes is the transport's."""

    def opened(self, transport: QuicTransport) -> None:
        """There is nothing to count."""

    def forget(self, transport: QuicTransport) -> None:
        self._is_over = True
        self._transport = None
        if self._udp is not None:
            self._udp.close()

    def get_extra_info(self, name: str) -> Any:
        return self._udp.get_extra_info(name) if self._udp is not None else None


class _ClientSocket(asyncio.DatagramProtocol):
    """One socket of a client. Once another one took its place, its errors are nobody's."""

    def __init__(self, carrier: _ClientCarrier) -> None:
        self._carrier = carrier
        self._udp: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._udp = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._carrier.receive(data)

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError) and self._udp is not None and not self._udp.is_closing():
            self._carrier.receive_error(exc)


async def connect(endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions) -> None:
    """See :class:`landline.transports.base.TransportModule`. The host's addresses are tried in turn.

    Raises :class:`ConnectionError` when the handshake fails, such as for a certificate that is not trusted, and
    :class:`landline.ConfigurationError` when ``ca_file`` cannot be used.
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
    carrier = _ClientCarrier(family, address)
    await carrier.open()
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def receive_handshake(error: Exception | None) -> None:
        if finished.done():
            return
        if error is None:
            finished.set_result(None)
        else:
            finished.set_exception(error)

    transport = QuicTransport(LineConnection(configuration), carrier, protocol_factory, receive_handshake)
    carrier.carry(transport)
    try:
        await finished
    except BaseException:
        transport.abort()
        raise


async def listen(
    endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions
) -> QuicListener:
    """See :class:`landline.transports.base.TransportModule`. Listens on the first address of the host.

    Raises :class:`landline.ConfigurationError` without a certificate.
    """
    listener = QuicListener(server_configuration(endpoint, options), protocol_factory)
    with describe_address_in_use(endpoint):
        await listener.open(endpoint)
    return listener
