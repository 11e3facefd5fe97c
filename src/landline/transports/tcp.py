"""TCP, and TLS over TCP."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from landline.errors import ConfigurationError, ConnectFailed
from landline.transports.base import (
    ACCEPTS_PER_WAKEUP,
    ADDRESS_STAGGER_S,
    describe_address_in_use,
    set_listen_backlog,
)
from landline.transports.options import TransportOptions, certified_context, trusting_context
from landline.transports.tls_errors import readable_tls_errors
from landline.transports.urls import Endpoint

KEEPALIVE_IDLE_S = 30
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_COUNT = 3
UNSENT_BYTES_MAX = 128 * 1024
TLS_HANDSHAKE_TIMEOUT_S = 5.0
"""As long as the handshake of a line may take; the event loops' 60 s would keep half-open connections much longer."""


class TcpListener:
    """A listening TCP socket."""

    __slots__ = ("_endpoint", "_server")

    def __init__(self, server: asyncio.Server, endpoint: Endpoint) -> None:
        self._server = server
        self._endpoint = endpoint

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def close(self) -> None:
        self._server.close()


async def connect(
    endpoint: Endpoint, protocol_factory: Callable[[], asyncio.Protocol], options: TransportOptions
) -> None:
    """See :class:`landline.transports.base.TransportModule`."""
    context = client_context(endpoint, options)
    loop = asyncio.get_running_loop()
    # uvloop tries the addresses of a name one after the other and has no such option. A single address needs no race:
    # if asyncio is cancelled at the moment a race is won, it does not close the winner.
    extra: dict[str, Any] = {}
    if isinstance(loop, asyncio.BaseEventLoop) and not _is_address(endpoint.host):
        extra["happy_eyeballs_delay"] = ADDRESS_STAGGER_S
    with readable_tls_errors():
        transport, _ = await loop.create_connection(
            protocol_factory,
            endpoint.host,
            endpoint.port,
            ssl=context,
            server_hostname=(options.server_name or endpoint.host) if context else None,
            **extra,
        )
    tune_socket(transport.get_extra_info("socket"), options.user_timeout_s)


async def listen(
    endpoint: Endpoint, protocol_factory: Callable[[], asyncio.Protocol], options: TransportOptions
) -> TcpListener:
    """See :class:`landline.transports.base.TransportModule`."""
    context = None
    if endpoint.is_encrypted:
        if options.tls is None and options.certificate_file is None:
            raise ConfigurationError(
                f"{endpoint} needs a certificate: pass TransportOptions(certificate_file=...)"
            )
        context = options.tls or certified_context(options.certificate_file or "", options.private_key_file)
    with describe_address_in_use(endpoint):
        server = await asyncio.get_running_loop().create_server(
            protocol_factory,
            endpoint.host,
            endpoint.port,
            ssl=context,
            ssl_handshake_timeout=TLS_HANDSHAKE_TIMEOUT_S if endpoint.is_encrypted else None,
            backlog=ACCEPTS_PER_WAKEUP,
        )
    # With port 0 and several addresses the ports differ; the endpoint has the first one.
    port = server.sockets[0].getsockname()[1]
    for listening in server.sockets:
        # On Linux, accepted sockets inherit these options, which saves five system calls for each of them.
        tune_socket(listening, options.user_timeout_s)
        set_listen_backlog(listening.fileno())
    return TcpListener(server, Endpoint(endpoint.scheme, endpoint.host, port, endpoint.path))


def client_context(endpoint: Endpoint, options: TransportOptions) -> ssl.SSLContext | None:
    """Return the TLS context of a client, or ``None`` for a scheme without encryption.

    By default it trusts the authorities that the system trusts.

    :raises landline.ConnectFailed: if ``ca_file`` cannot be read. It was checked before: another program may be
        replacing it at this moment.
    """
    if not endpoint.is_encrypted:
        return None
    if options.tls is not None:
        return options.tls
    if options.ca_file is None:
        return ssl.create_default_context()
    try:
        return trusting_context(options.ca_file)
    except ConfigurationError as error:
        raise ConnectFailed(str(error)) from error


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def tune_socket(sock: socket.socket, user_timeout_s: float) -> None:
    """Set the keep-alive options of a socket, and keep the kernel's send queue short.

    ``SO_KEEPALIVE`` and ``TCP_USER_TIMEOUT`` (tcp(7)) back up the heartbeats of a line: with them the kernel detects a
    dead peer even while this process is stopped. ``TCP_NOTSENT_LOWAT`` keeps heartbeats from waiting after megabytes
    already passed to the kernel. Options that the platform lacks are skipped.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", int(user_timeout_s * 1000)),
        ("TCP_NOTSENT_LOWAT", UNSENT_BYTES_MAX),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
