"""The HTTP server of the API: on a unix socket for this machine's user, on TCP for holders of the token."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Generator, Set
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import uvicorn
from litestar import Litestar

from landline import guarded_logger
from landline.fleet.api import Operations
from landline.fleet.web.app import build_app
from landline.fleet.web.listeners import tcp_listener, unix_listener
from landline.fleet.web.sse import KEEP_ALIVE_S
from landline.fleet.web.timed_connections import ConnectionLimits, TimedConnections

SHUTDOWN_S: Final = 1.0
"""How long started answers may take when the server ends. After that their connections are closed."""

OPERATION_S_MAX: Final = 3
"""How long an operation may take when the server ends, although its client is gone."""

STARTED_POLL_S: Final = 0.001
"""How often to check whether uvicorn has started; it has no event for that."""

logger: Final = guarded_logger(__name__)


class ApiServer:
    """Serve ``operations`` on a unix socket, on TCP, or on both; an asynchronous context manager.

    Entering binds every address first and serves only when all are bound. Leaving ends update streams, lets answers
    finish for ``shutdown_s``, and removes the socket file. Signals are left to the caller.

    :param unix_path: the path of the unix socket. It needs no token: only its owner can open it.
    :param tcp: host and port; port 0 takes a free one, see :attr:`tcp_address`.
    :param token: the bearer token of requests over TCP; needed there.
    :param allowed_hosts: the host names under which the server may be addressed over TCP.
    :param keep_alive_s: how long an update stream may be without a byte.
    :param shutdown_s: how long started answers may take when the server ends.
    :param operation_s_max: how long an operation may take then, although its client is gone.
    :param limits: limits for the connections of each of the two sockets.

    :raises landline.AddressInUse: when entered, if the unix socket is in use. Nothing is left behind then, nor for:
    :raises landline.fleet.web.listeners.CannotListen: if the system does not allow to listen.
    :raises landline.fleet.paths.UnsafeDirectory: if another user could change the directory of the unix socket.
    """

    def __init__(
        self,
        operations: Operations,
        *,
        unix_path: Path | None = None,
        tcp: tuple[str, int] | None = None,
        token: str | None = None,
        allowed_hosts: Set[str] = frozenset(),
        keep_alive_s: float = KEEP_ALIVE_S,
        shutdown_s: float = SHUTDOWN_S,
        operation_s_max: int = OPERATION_S_MAX,
        limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008 - frozen
        log: logging.Logger = logger,
    ) -> None:
        if tcp is not None and token is None:
            raise ValueError("The API on TCP needs a token; give one, or serve on the unix socket alone.")
        self.tcp_address: tuple[str, int] | None = None
        """The address bound on TCP, once entered."""
        self._unix_path = unix_path
        self._tcp = tcp
        self._shutdown_s = shutdown_s
        self._operation_s_max = operation_s_max
        self._limits = limits
        self._closing = asyncio.Event()
        self._stack = contextlib.ExitStack()
        self._servers: list[_Server] = []
        self._serving: list[asyncio.Task[None]] = []

        def app(token: str | None) -> Litestar:
            return build_app(
                operations,
                token=token,
                allowed_hosts=allowed_hosts,
                closing=self._closing,
                keep_alive_s=keep_alive_s,
                log=log,
            )

        self._unix_app = app(None) if unix_path is not None else None
        self._tcp_app = app(token) if tcp is not None else None

    async def __aenter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            starts: list[tuple[Litestar, socket.socket]] = []
            if self._unix_app is not None and self._unix_path is not None:
                starts.append((self._unix_app, stack.enter_context(unix_listener(self._unix_path))))
            if self._tcp_app is not None and self._tcp is not None:
                tcp = stack.enter_context(tcp_listener(*self._tcp))
                self.tcp_address = tcp.getsockname()[:2]
                starts.append((self._tcp_app, tcp))
            self._stack = stack.pop_all()
        for app, listener in starts:
            server = _Server(app, TimedConnections(self._limits), self._limits, self._operation_s_max)
            self._servers.append(server)
            self._serving.append(asyncio.create_task(server.serve(sockets=[listener])))
        try:
            for server, serving in zip(self._servers, self._serving, strict=True):
                while not server.started and not serving.done():
                    await asyncio.sleep(STARTED_POLL_S)
                if serving.done():
                    await serving
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        self._closing.set()
        for server in self._servers:
            server.should_exit = True
        try:
            if self._serving:
                await asyncio.wait(self._serving, timeout=self._shutdown_s)
            # A client that does not read would keep its connection open without limit.
            for server in self._servers:
                server.connections.abort()
            await asyncio.gather(*self._serving)
        finally:
            self._stack.close()


class _Server(uvicorn.Server):
    """uvicorn without process-wide effects: it installs no signal handlers, logging or event loop."""

    def __init__(
        self, app: Litestar, connections: TimedConnections, limits: ConnectionLimits, operation_s_max: int
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http=connections.protocol,  # type: ignore[arg-type] # a class, or what makes its instances
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=limits.connections_max,
                timeout_graceful_shutdown=operation_s_max,
            )
        )
        self.connections = connections

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the caller."""
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        closing = asyncio.create_task(self.connections.close_silent_forever())
        try:
            await super().serve(sockets)
        finally:
            closing.cancel()
