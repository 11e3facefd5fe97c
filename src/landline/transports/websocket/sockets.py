"""WebSocket, over TCP (``ws://``) and TLS (``wss://``): for what only lets HTTP through, and for browsers."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import Final

from websockets.asyncio.client import HTTPProxyConnection
from websockets.exceptions import InvalidProxy, ProxyError
from websockets.proxy import Proxy, get_proxy, parse_proxy
from websockets.uri import WebSocketURI, parse_uri

from landline.errors import ConfigurationError, ConnectFailed
from landline.transports import tcp
from landline.transports.base import Listener, ProtocolFactory
from landline.transports.options import TransportOptions
from landline.transports.tls_errors import readable_tls_errors
from landline.transports.urls import Endpoint
from landline.transports.websocket.handshake import (
    OPENING_HANDSHAKE_TIMEOUT_S,
    HandshakePolicy,
    WebSocketClientHandshake,
    WebSocketServerHandshake,
)

_is_header_name: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+").fullmatch
_is_header_value: Final = re.compile(r"[\x20-\x7e]*").fullmatch
_OWN_HEADERS: Final = frozenset({"host", "upgrade", "connection", "content-length", "transfer-encoding"})


class WebSocketListener:
    """A listening TCP socket whose visitors open WebSockets."""

    __slots__ = ("_listener", "_policy")

    def __init__(self, listener: Listener, policy: HandshakePolicy) -> None:
        self._listener = listener
        self._policy = policy

    @property
    def endpoint(self) -> Endpoint:
        return self._listener.endpoint

    def close(self) -> None:
        """Stops listening, and lets nobody in who has begun an opening handshake."""
        self._policy.is_closed = True
        self._listener.close()


async def connect(endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions) -> None:
    """See :class:`landline.transports.base.TransportModule`.

    Raises :class:`landline.ConnectFailed` when the server, or a proxy on the way, says no for the moment,
    :class:`landline.ProtocolError` when it is no server of lines, and :class:`landline.ConfigurationError`.
    """
    check_headers(options.headers)
    uri = parse_uri(str(endpoint))
    proxy = choose_proxy(uri, options.proxy)
    handshake = WebSocketClientHandshake(uri, options.headers, protocol_factory)
    try:
        if proxy is None:
            await tcp.connect(endpoint, lambda: handshake, options)
        else:
            await _connect_through(proxy, uri, endpoint, handshake, options)
        try:
            async with asyncio.timeout(OPENING_HANDSHAKE_TIMEOUT_S):
                await handshake.opened
        except TimeoutError as error:
            raise ConnectFailed(
                f"no WebSocket within {OPENING_HANDSHAKE_TIMEOUT_S:g} s; is it a WebSocket server?"
            ) from error
    except BaseException:
        if handshake.transport is not None:
            handshake.transport.abort()
        raise


async def listen(
    endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions
) -> Listener:
    """See :class:`landline.transports.base.TransportModule`."""
    policy = HandshakePolicy(parse_uri(str(endpoint)).path, options.origins, protocol_factory)
    return WebSocketListener(
        await tcp.listen(endpoint, lambda: WebSocketServerHandshake(policy), options), policy
    )


def check_headers(headers: dict[str, str]) -> None:
    """Raises :class:`ConfigurationError` for what cannot be a header of ours."""
    for name, value in headers.items():
        if not _is_header_name(name) or not _is_header_value(value):
            raise ConfigurationError(
                f"TransportOptions(headers=): {name!r} cannot be a header of HTTP, or its value not"
            )
        if name.lower() in _OWN_HEADERS or name.lower().startswith("sec-websocket-"):
            raise ConfigurationError(f"TransportOptions(headers=): {name!r} belongs to the WebSocket itself")


def choose_proxy(uri: WebSocketURI, wanted: str | bool) -> Proxy | None:
    """The proxy to go through. Raises :class:`ConfigurationError` for one that cannot be used."""
    address = get_proxy(uri) if wanted is True else (wanted or None)
    if address is None:
        return None
    try:
        proxy = parse_proxy(address)
    except (InvalidProxy, ValueError) as error:
        # Not the whole text: the address may hold a password.
        why = error.msg if isinstance(error, InvalidProxy) else str(error)
        raise ConfigurationError(f"no proxy can be used as it is given: {why}") from None
    if not proxy.scheme.startswith("http"):
        raise ConfigurationError(
            f"the proxy {proxy.scheme}://{proxy.host} cannot be used: only http:// and https:// can"
        )
    return proxy


class _Tunnel(HTTPProxyConnection):
    """The library tells its reader twice of the end where a proxy hangs up early, which that answers with an exception
    in the event loop, and that with a traceback in the log."""

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.reader.eof:
            super().connection_lost(exc)


async def _open_tunnel(proxy: Proxy, uri: WebSocketURI) -> asyncio.Transport:
    """Raises :class:`ProxyError` and :class:`OSError`."""
    transport, tunnel = await asyncio.get_running_loop().create_connection(
        lambda: _Tunnel(uri, proxy),
        proxy.host,
        proxy.port,
        ssl=ssl.create_default_context() if proxy.scheme == "https" else None,
    )
    try:
        await tunnel.response
    except BaseException:
        transport.abort()
        raise
    return transport


async def _connect_through(
    proxy: Proxy,
    uri: WebSocketURI,
    endpoint: Endpoint,
    handshake: WebSocketClientHandshake,
    options: TransportOptions,
) -> None:
    """The same as :func:`tcp.connect`, through a tunnel that the proxy makes (CONNECT, RFC 9110, section 9.3.6)."""
    try:
        transport = await _open_tunnel(proxy, uri)
    except ProxyError as error:
        raise ConnectFailed(
            f"the proxy {proxy.host}:{proxy.port} made no way: {error.__cause__ or error}"
        ) from error
    except OSError as error:
        raise ConnectFailed(f"the proxy {proxy.host}:{proxy.port} cannot be reached: {error}") from error
    handshake.transport = transport
    tcp.tune_socket(transport.get_extra_info("socket"), options.user_timeout_s)
    transport.set_protocol(handshake)
    context = tcp.client_context(endpoint, options)
    if context is not None:
        with readable_tls_errors():
            encrypted = await asyncio.get_running_loop().start_tls(
                transport, handshake, context, server_hostname=options.server_name or endpoint.host
            )
        assert encrypted is not None
        transport = encrypted
    handshake.connection_made(transport)
