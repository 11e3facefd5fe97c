"""Unix stream sockets (``unix://``)."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from landline.errors import AddressInUse
from landline.transports.base import ACCEPTS_PER_WAKEUP, ProtocolFactory, set_listen_backlog
from landline.transports.options import TransportOptions
from landline.transports.urls import Endpoint

PROBE_TIMEOUT_S: Final = 1.0
"""How long a server may take to accept on an existing socket; after that it counts as busy, not as dead."""


class UnixListener:
    """A listening unix socket. Closing it removes its file."""

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
        # Another server may have bound its own socket to this path since.
        if path.exists() and path.stat().st_ino == self._inode:
            path.unlink()


async def connect(endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions) -> None:
    """See :class:`landline.transports.base.TransportModule`."""
    await asyncio.get_running_loop().create_unix_connection(protocol_factory, endpoint.path)


async def listen(
    endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions
) -> UnixListener:
    """See :class:`landline.transports.base.TransportModule`. Only the owner can use the socket file (mode 0600)."""
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
    """Return a stream socket bound to ``path`` whose file only its owner can open (mode 0600).

    The mode is right before the first client can connect: it is set by the umask of the process, for the moment of
    the bind. The socket file of a server that has died is replaced. Binding and replacing are not atomic: of two
    processes that start together, the second may replace the socket of the first, unless the caller holds a lock.

    The caller calls ``listen()``, closes the socket and removes the file.

    :raises landline.AddressInUse: if a server answers on ``path``, or a file that is not a socket is there.
    :raises OSError: if the system refuses, for example because the directory does not exist.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale_socket(path)
        previous = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(previous)
    except OSError as error:
        sock.close()
        # The system reports "no such file or directory" without the path. An error without a number is Python's own.
        if error.errno is not None and not isinstance(error, AddressInUse):
            error.filename = error.filename or str(path)
        raise
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale_socket(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AddressInUse(
            errno.EADDRINUSE, f"{path} exists and is not a socket; remove it or choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):
            pass  # The backlog is full: a server is there, and is busy.
    raise AddressInUse(
        errno.EADDRINUSE, f"a server already answers on {path}; stop it or choose another path"
    )
