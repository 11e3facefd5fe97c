"""WebSocket over TCP (``ws://``) and TLS (``wss://``): for networks that allow only HTTP, and for browsers."""

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
    """A listening TCP socket whose clients open WebSockets."""

    __slots__ = ("_listener", "_policy")

    def __init__(self, listener: Listener, policy: HandshakePolicy) -> None:
        self._listener = listener
        self._policy = policy

    @property
    def endpoint(self) -> Endpoint:
        return self._listener.endpoint

    def close(self) -> None:
        """Stop listening; refuse clients whose opening handshake has not ended."""
        self._policy.is_closed = True
        self._listener.close()


async def connect(endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions) -> None:
    """See :class:`landline.transports.base.TransportModule`.

    :raises landline.ConnectFailed: if the server, or a proxy, refuses temporarily or cannot be reached.
    :raises landline.ProtocolError: if the server does not serve lines at this address.
    :raises landline.ConfigurationError: for invalid headers or an invalid proxy.
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
                f"no WebSocket handshake within {OPENING_HANDSHAKE_TIMEOUT_S:g} s; check that it is a WebSocket server"
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
    """Raise :class:`ConfigurationError` for a header that is invalid or reserved."""
    for name, value in headers.items():
        if not _is_header_name(name) or not _is_header_value(value):
            raise ConfigurationError(
                f"TransportOptions(headers=): invalid HTTP header name or value: {name!r}"
            )
        if name.lower() in _OWN_HEADERS or name.lower().startswith("sec-websocket-"):
            raise ConfigurationError(
                f"TransportOptions(headers=): {name!r} is reserved for the WebSocket handshake"
            )


def choose_proxy(uri: WebSocketURI, wanted: str | bool) -> Proxy | None:
    """Return the proxy to use, or ``None``. Raise :class:`ConfigurationError` for an invalid one."""
    address = get_proxy(uri) if wanted is True else (wanted or None)
    if address is None:
        return None
    try:
        proxy = parse_proxy(address)
    except (InvalidProxy, ValueError) as error:
        # Not the whole text: the address may contain a password.
        why = error.msg if isinstance(error, InvalidProxy) else str(error)
        raise ConfigurationError(f"invalid proxy address: {why}") from None
    if not proxy.scheme.startswith("http"):
        raise ConfigurationError(
            f"proxy {proxy.scheme}://{proxy.host} is not supported; use http:// or https://"
        )
    return proxy


class _Tunnel(HTTPProxyConnection):
    """The proxy connection of the library, without its fault: if a proxy hangs up early, it reports the end of the
    stream to its reader twice, and the reader's exception becomes a traceback in the log of the event loop."""

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.reader.eof:
            super().connection_lost(exc)


async def _open_tunnel(proxy: Proxy, uri: WebSocketURI) -> asyncio.Transport:
    """Return a tunnel to the server. Raise :class:`ProxyError` or :class:`OSError`."""
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
    """Connect as :func:`tcp.connect` does, through a tunnel of the proxy (CONNECT, RFC 9110, section 9.3.6)."""
    try:
        transport = await _open_tunnel(proxy, uri)
    except ProxyError as error:
        raise ConnectFailed(
            f"proxy {proxy.host}:{proxy.port} refused the tunnel: {error.__cause__ or error}"
        ) from error
    except OSError as error:
        raise ConnectFailed(f"proxy {proxy.host}:{proxy.port} cannot be reached: {error}") from error
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
