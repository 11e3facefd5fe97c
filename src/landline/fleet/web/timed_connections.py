"""Connections of HTTP clients that are closed when they stay silent for too long.

uvicorn has a time-out for the next request on a connection, and none for the first one or for half a request. So each
connection consists of a protocol that owns the transport, a protocol of uvicorn, and an ASGI application of
its own, which shows whether a request is being answered.
"""

from __future__ import annotations

import asyncio
import copy
from typing import Any, cast

import msgspec
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits for the connections of one server."""

    connections_max: int = 1000
    """More connections than this at once are answered with 503: a guard for file descriptors, not a quota."""
    request_timeout_s: float = 10.0
    """How long a connection may be idle or have sent only part of a request."""
    crowded_request_timeout_s: float = 1.0
    """The same while more than half of ``connections_max`` are open: idle connections must not keep others out."""


class TimedConnections:
    """The open connections of one server.

    Pass :meth:`protocol` to uvicorn as ``http``.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._open: set[_Connection] = set()

    def protocol(
        self,
        config: uvicorn.Config,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> asyncio.Protocol:
        """Return the protocol of a new connection; uvicorn calls this."""
        return _Connection(self._open, config, server_state, app_state)

    async def close_silent_forever(self, every_s: float = 0.1) -> None:
        """Close silent connections whenever their time is up. Never return."""
        while True:
            await asyncio.sleep(every_s)
            self.close_silent(asyncio.get_running_loop().time())

    def close_silent(self, now: float) -> None:
        """Close the connections that have not sent a whole request in time. ``now`` is on the event loop's clock."""
        is_crowded = 2 * len(self._open) > self._limits.connections_max
        allowed_s = self._limits.crowded_request_timeout_s if is_crowded else self._limits.request_timeout_s
        for connection in list(self._open):
            if connection.silent_since is not None and now - connection.silent_since > allowed_s:
                connection.abort()

    def abort(self) -> None:
        """Close all connections at once; data that the client has not read is lost."""
        for connection in list(self._open):
            connection.abort()


class _Connection(asyncio.Protocol):
    def __init__(
        self,
        connections: set[_Connection],
        config: uvicorn.Config,
        server_state: Any,
        app_state: dict[str, Any],
    ) -> None:
        self._open = connections
        self._app = config.loaded_app
        own = copy.copy(config)
        own.loaded_app = self._answer
        self._uvicorn = H11Protocol(config=own, server_state=server_state, app_state=app_state)
        self._transport: asyncio.Transport | None = None
        self.silent_since: float | None = None
        """Since when no request is being answered, on the event loop's clock; ``None`` while one is."""

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # The transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.Transport, but have all its methods.
        self._transport = cast(asyncio.Transport, transport)
        self.silent_since = asyncio.get_running_loop().time()
        self._open.add(self)
        self._uvicorn.connection_made(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._uvicorn.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._uvicorn.data_received(data)

    def eof_received(self) -> None:
        self._uvicorn.eof_received()

    def pause_writing(self) -> None:
        self._uvicorn.pause_writing()

    def resume_writing(self) -> None:
        self._uvicorn.resume_writing()

    # The application's side

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        self.silent_since = None
        try:
            await self._app(scope, receive, send)
        finally:
            self.silent_since = asyncio.get_running_loop().time()
