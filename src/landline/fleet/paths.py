"""Where a control server and its commands find each other on one machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class UnsafeDirectory(Exception):
    """A directory for the control socket exists but could be written by others."""


def runtime_directory() -> Path:
    """The directory for sockets: that of LANDLINE_RUNTIME_DIR, of XDG_RUNTIME_DIR, or one in ``/tmp``."""
    if explicit := os.environ.get("LANDLINE_RUNTIME_DIR"):
        return Path(explicit)
    if xdg := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(xdg) / "landline"
    return Path(f"/tmp/landline-{os.getuid()}")  # noqa: S108 - checked for owner and mode before every use


def control_socket() -> Path:
    """The unix socket on which the control server of this user answers its operators."""
    return runtime_directory() / "control.sock"


def data_directory() -> Path:
    """Where the control server keeps its database and the agent its journal unless told otherwise."""
    if explicit := os.environ.get("LANDLINE_DATA_DIR"):
        return Path(explicit)
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "landline"


def make_private_directory(path: Path) -> None:
    """Makes ``path`` readable by its owner only, or checks that it is.

    Raises :class:`UnsafeDirectory` when somebody else owns it or may write to it: a socket in there could be
    replaced by another.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private_directory(path)


def check_private_directory(path: Path) -> None:
    """Raises :class:`UnsafeDirectory` unless ``path`` is a real directory that only this user may write to."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise UnsafeDirectory(
            f"{path} belongs to another user or others may write to it; "
            "choose a directory of your own (for the socket, with LANDLINE_RUNTIME_DIR)."
        )
