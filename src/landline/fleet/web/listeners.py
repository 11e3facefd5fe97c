"""The listening sockets of the HTTP API."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from landline import AddressInUse, bind_private_socket
from landline.fleet.file_lock import lock_file
from landline.fleet.paths import make_private_directory


class CannotListen(Exception):
    """The server cannot listen on an address. The text is one sentence with the reason. Nothing was started."""


@contextlib.contextmanager
def tcp_listener(host: str, port: int) -> Iterator[socket.socket]:
    """A listening TCP socket, closed at the end.

    :raises CannotListen: if the host is unknown or the system refuses.
    """
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
    """A listening unix socket that only this user can open; its file is removed at the end.

    The directory is made private, and the socket file of a server that has died is replaced.

    :raises landline.AddressInUse: if a server answers on the path, or a file that is not a socket is there.
    :raises CannotListen: if the system refuses.
    :raises landline.fleet.paths.UnsafeDirectory: if another user could change the directory.
    """
    make_private_directory(path.parent)
    with _socket_lock(path), _bound_socket(path) as listener:
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
def _socket_lock(path: Path) -> Iterator[None]:
    """Hold a lock file beside ``path``: two servers that start together must not replace each other's socket."""
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
