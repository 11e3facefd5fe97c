"""HTTP connections over a unix socket or TCP."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

from landline.cli.socket_owner import check_peer, trusted_users


class ApiConnection(http.client.HTTPConnection):
    """A connection to the unix socket ``unix_path``, or to ``host`` and ``port`` if that is empty.

    Connecting, and each wait for bytes, raise :class:`TimeoutError` after ``timeout_s``. Connecting to a unix socket
    raises :class:`landline.cli.socket_owner.Untrusted` when another user answers there, or could.
    """

    def __init__(self, unix_path: str, host: str, port: int, *, timeout_s: float) -> None:
        super().__init__(host or "localhost", port or None, timeout=timeout_s)
        self._unix_path = unix_path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        if not self._unix_path:
            super().connect()
            return
        trusted = trusted_users(Path(self._unix_path))
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unix.settimeout(self._timeout_s)
        try:
            unix.connect(self._unix_path)
            check_peer(unix, trusted)
        except BaseException:
            unix.close()
            raise
        self.sock = unix
