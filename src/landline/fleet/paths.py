"""Where a control server and its commands find each other on one machine."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
from pathlib import Path


class UnsafePath(Exception):
    """Another user could change what is at a path; the text names it and says what to do."""


class UnsafeDirectory(UnsafePath):
    """A directory exists but is a link, belongs to another user, or could be written by others."""


class UnsafeFile(UnsafePath):
    """A file is a link, or belongs to another user."""


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

    Raises :class:`UnsafeDirectory` when somebody else owns it or may write to it: a file in there could be
    replaced by another.
    """
    # What is there and is no directory is told below.
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(open_private_directory(path))


def open_private_directory(path: Path) -> int:
    """Returns a descriptor of ``path``; what was opened has been checked.

    Raises :class:`UnsafeDirectory` unless it is a real directory that only this user may write to, and
    :class:`OSError`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        raise UnsafeDirectory(
            f"{path} is a link or no directory; name a real directory of your own."
        ) from error
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.getuid():
            raise UnsafeDirectory(
                f"{path} belongs to another user (uid {status.st_uid}); "
                "choose a directory of your own (for the socket, with LANDLINE_RUNTIME_DIR)."
            )
        if status.st_mode & 0o022:
            raise UnsafeDirectory(
                f"{path} is not safe, because others may write to it; "
                f"forbid it with: chmod go-w {shlex.quote(str(path))}"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_to_all(path: Path | str, mode: int) -> str | None:
    """Returns a sentence on a secret's file of this mode that every user of the machine can read or change."""
    if not mode & (stat.S_IROTH | stat.S_IWOTH):
        return None
    return (
        f"{path} can be read or changed by every user of this machine, and it holds a secret; "
        f"make it private with: chmod 600 {shlex.quote(str(path))}"
    )
