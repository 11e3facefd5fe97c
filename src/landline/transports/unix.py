"""Unix stream sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from pathlib import Path

from landline.errors import AddressInUse
from landline.transports.base import ACCEPTS_PER_WAKEUP, ProtocolFactory, set_listen_backlog
from landline.transports.options import TransportOptions
from landline.transports.urls import Endpoint


class UnixListener:
    """A listening unix socket; its file goes with it."""

    __slots__ = ("_endpoint", "_inode", "_server")

    def __init__(self, server: asyncio.Server, endpoint: Endpoint, inode: int) -> None:
        self._server = server
        self._endpoint = endpoint
        self._inode = inode

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def close(self) -> None:
        self._server.close()
        path = Path(self._endpoint.path)
        # Another server may have put its own socket there since.
        if path.exists() and path.stat().st_ino == self._inode:
            path.unlink()


async def connect(endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions) -> None:
    """See :class:`landline.transports.TransportModule`."""
    await asyncio.get_running_loop().create_unix_connection(protocol_factory, endpoint.path)


async def listen(
    endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions
) -> UnixListener:
    """See :class:`landline.transports.TransportModule`. The socket file is for its owner only (mode 0600)."""
    sock = bind_private_socket(Path(endpoint.path))
    inode = Path(endpoint.path).stat().st_ino
    try:
        server = await asyncio.get_running_loop().create_unix_server(
            protocol_factory, sock=sock, backlog=ACCEPTS_PER_WAKEUP
        )
        set_listen_backlog(sock.fileno())
    except BaseException:
        sock.close()
        raise
    return UnixListener(server, endpoint, inode)


def bind_private_socket(path: Path) -> socket.socket:
    """Binds a socket file that only its owner can use, from its first moment on.

    The file of a server that died is replaced; one that still answers raises :class:`AddressInUse`.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        previous = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(previous)
    except OSError as error:
        sock.close()
        # The system says "no such file or directory", and not which.
        error.filename = error.filename or str(path)
        raise
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise AddressInUse(errno.EADDRINUSE, f"{path} exists and is not a socket; choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):
            pass  # A full backlog: somebody lives there, and is busy.
    raise AddressInUse(
        errno.EADDRINUSE, f"a server already answers on {path}; stop that one or choose another path"
    )
