"""Serving the API: on a unix socket for this machine's user, on TCP for whoever has the token."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Generator, Iterator, Set
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import uvicorn
from litestar import Litestar

from landline import AddressInUse, bind_private_socket, guarded_logger
from landline.fleet.api import Operations
from landline.fleet.file_lock import lock_file
from landline.fleet.paths import make_private_directory
from landline.fleet.web.app import build_app
from landline.fleet.web.sse import KEEP_ALIVE_S

SHUTDOWN_S: Final = 1.0
"""How long answers under way may take to finish when the server ends; then their connections are cut."""

OPERATION_S_MAX: Final = 3
"""How long an operation may go on when the server ends, though nobody waits for its answer any more."""

CONNECTIONS_MAX: Final = 1000
"""More connections than this at once are answered with 503: a guard for file descriptors, not a quota."""

REQUEST_S: Final = 10.0
"""How long a connection may have nothing to say, or half a request; uvicorn waits for the first one for ever."""

REQUEST_S_OF_MANY: Final = 1.0
"""The same while more than half of :data:`CONNECTIONS_MAX` are there: who opens them all locks nobody out."""

logger = guarded_logger(__name__)


class CannotListen(Exception):
    """An address cannot be listened on; one sentence says why and what to do. Nothing was started."""


class ApiServer:
    """The API of ``operations`` on a unix socket, on TCP, or on both; an asynchronous context manager.

    Entering binds every address first and serves only when all are bound: it raises :class:`landline.AddressInUse`,
    :class:`CannotListen` or :class:`landline.fleet.paths.UnsafeDirectory`, and then nothing is
    left behind. Leaving ends update streams, lets answers finish for :data:`SHUTDOWN_S`, and removes the
    socket file. Signals are left to the caller.

    ``tcp`` is ``(host, port)``; port 0 takes a free one, see :attr:`tcp_address`. TCP needs a ``token``; the
    unix socket has none, only its owner can open it. ``allowed_hosts`` are names the server may be called by
    over TCP.
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
        log: logging.Logger = logger,
    ) -> None:
        if tcp is not None and token is None:
            raise ValueError("The API on TCP needs a token; give one, or serve on the unix socket alone.")
        self.tcp_address: tuple[str, int] | None = None
        """The address bound on TCP, once entered."""
        self._unix_path = unix_path
        self._tcp = tcp
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
            server = _Server(app)
            self._servers.append(server)
            self._serving.append(asyncio.create_task(server.serve(sockets=[listener])))
        try:
            for server, serving in zip(self._servers, self._serving, strict=True):
                await _until_listening(server, serving)
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
                await asyncio.wait(self._serving, timeout=SHUTDOWN_S)
            # A client that does not read would keep its socket open for ever.
            for server in self._servers:
                server.abort_connections()
            await asyncio.gather(*self._serving)
        finally:
            self._stack.close()


class _Server(uvicorn.Server):
    """uvicorn without its hold on the process: no signal handlers, no logging set-up, no loop of its own."""

    def __init__(self, app: Litestar) -> None:
        config = uvicorn.Config(
            app,
            loop="none",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=OPERATION_S_MAX,
        )
        super().__init__(config)
        self.listening = asyncio.Event()
        self._silent_since: dict[Any, float] = {}

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.listening.set()

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        self._drop_silent(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    def _drop_silent(self, now: float) -> None:
        """Drops connections that have said no whole request for too long."""
        connections = self.server_state.connections
        allowed_s = REQUEST_S if 2 * len(connections) <= CONNECTIONS_MAX else REQUEST_S_OF_MANY
        silent: dict[Any, float] = {}
        for connection in list(connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                continue
            since = silent[connection] = self._silent_since.get(connection, now)
            if now - since > allowed_s:
                connection.transport.abort()
        self._silent_since = silent

    def abort_connections(self) -> None:
        """Drops every connection that is still there, with what was not read of it."""
        for connection in list(self.server_state.connections):
            transport: Any = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()


async def _until_listening(server: _Server, serving: asyncio.Task[None]) -> None:
    listening = asyncio.create_task(server.listening.wait())
    try:
        await asyncio.wait({listening, serving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        listening.cancel()
    if serving.done():
        await serving


@contextlib.contextmanager
def tcp_listener(host: str, port: int) -> Iterator[socket.socket]:
    """A bound TCP socket, closed at the end. Raises :class:`CannotListen`."""
    address = f"{host}:{port}"
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise CannotListen(
            f"Cannot listen on {address}: the host is not known here; name an address of this machine."
        ) from error
    listener = socket.socket(family, kind, protocol)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listener.bind(target)
            listener.listen()
        except OSError as error:
            raise CannotListen(
                f"Cannot listen on {address}: {_reason(error)}; choose another address."
            ) from error
        listener.setblocking(False)
        yield listener


@contextlib.contextmanager
def unix_listener(path: Path) -> Iterator[socket.socket]:
    """A bound unix socket that only this user can open, from the moment it exists; its file is removed at the
    end.

    The directory is made private. A socket file that nobody answers on is replaced. Raises
    :class:`landline.AddressInUse`, :class:`CannotListen`, :class:`landline.fleet.paths.UnsafeDirectory`.
    """
    make_private_directory(path.parent)
    with _only_one(path), _bound_socket(path) as listener:
        try:
            listener.listen()
            listener.setblocking(False)
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _bound_socket(path: Path) -> socket.socket:
    try:
        return bind_private_socket(path)
    except AddressInUse:
        raise
    except OSError as error:
        raise CannotListen(f"Cannot listen on {path}: {_reason(error)}; choose another path.") from error


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Holds a lock beside ``path``: of two servers that start together, one replaces a stale socket."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            lock_file(lock)
        except BlockingIOError as error:
            raise AddressInUse(
                errno.EADDRINUSE, f"a server already answers on {path}; stop it or choose another path"
            ) from error
        yield
    finally:
        os.close(lock)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
