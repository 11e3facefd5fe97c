"""Check who answers on a unix socket: only this user, root, and a service that root set up are trusted.

The path of a socket proves nothing. In ``/tmp`` another user may have made the directory first, and an impostor could
answer "done" for a shutdown that never happens.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final

ROOT: Final = 0
_PEER_CREDENTIALS: Final = struct.Struct("=iII")
"""Process, user and group (unix(7), ``SO_PEERCRED``)."""


class Untrusted(Exception):
    """Another user answers on a socket, or could; the text names the user. Nothing was sent."""


def trusted_users(path: Path) -> frozenset[int]:
    """Return the users whose process may answer on the socket ``path``, by the directory it is in.

    These are this user, root, and the owner of the directory if only root or this user can have made it.

    :raises Untrusted: when another user could replace the socket.
    :raises OSError: when there is no directory.
    """
    directory = path.parent.absolute()
    own = frozenset({os.getuid(), ROOT})
    entry = directory.lstat()
    if stat.S_ISLNK(entry.st_mode):
        if entry.st_uid not in own:
            raise Untrusted(f"{directory} is a link of another user (uid {entry.st_uid})")
        directory = directory.resolve()
        entry = directory.lstat()
    if entry.st_mode & 0o022:
        raise Untrusted(f"other users may write to {directory}")
    if entry.st_uid in own:
        return own
    above = directory.parent.stat()
    if above.st_uid not in own or above.st_mode & 0o022:
        raise Untrusted(f"{directory} belongs to another user (uid {entry.st_uid})")
    return own | {entry.st_uid}


def check_peer(connected: socket.socket, trusted: frozenset[int]) -> None:
    """Raise :class:`Untrusted` unless one of these users listens at the other end.

    On a system without ``SO_PEERCRED`` nothing is checked: the owner of the directory is all that is known.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return
    credentials = connected.getsockopt(socket.SOL_SOCKET, option, _PEER_CREDENTIALS.size)
    _, user, _ = _PEER_CREDENTIALS.unpack(credentials)
    if user not in trusted:
        raise Untrusted(f"another user (uid {user}) answers there")
