"""The paths by which a control server and its commands find each other on one machine."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
import sys
from pathlib import Path
from typing import Final

CONTROL_SOCKET: Final = "control.sock"


class UnsafePath(Exception):
    """Another user could change what is at a path. The text names it and says what to do."""


class UnsafeDirectory(UnsafePath):
    """A directory exists but is a link, belongs to another user, or could be written by others."""


class UnsafeFile(UnsafePath):
    """A file is a link, or belongs to another user."""


SERVICE_DIRECTORY: Final = Path("/run/landline")
"""The directory for the socket of the system's control server: root's own, or a service's (``RuntimeDirectory=``)."""


def runtime_directories() -> tuple[Path, ...]:
    """Return the directories where a control server of this user may have its socket. It uses the first one.

    If LANDLINE_RUNTIME_DIR is set, only that one. For root :data:`SERVICE_DIRECTORY`, because the environment variables
    of a service and of a login shell differ. For other users the one in XDG_RUNTIME_DIR, the one of systemd-logind, and
    one in ``/tmp``.
    """
    if explicit := os.environ.get("LANDLINE_RUNTIME_DIR"):
        return (Path(explicit),)
    user = os.getuid()
    if user == 0:
        return (SERVICE_DIRECTORY,)
    of_user = Path(f"/run/user/{user}")
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    found = [Path(xdg) / "landline"] if xdg else []
    if of_user.is_dir():
        found.append(of_user / "landline")
    found.append(Path(f"/tmp/landline-{user}"))  # noqa: S108 - checked for owner and mode before every use
    return tuple(dict.fromkeys(found))


def control_socket() -> Path:
    """Return the path of the unix socket on which a control server of this user serves operators.

    For a service it is in the directory of ``RuntimeDirectory=`` (systemd.exec(5)).
    """
    if "LANDLINE_RUNTIME_DIR" not in os.environ and (given := os.environ.get("RUNTIME_DIRECTORY")):
        return Path(given.partition(":")[0]) / CONTROL_SOCKET
    return runtime_directories()[0] / CONTROL_SOCKET


def control_sockets() -> tuple[Path, ...]:
    """Return the paths where a command looks for a control server, in order: this user's, then the system's."""
    found = runtime_directories()
    if "LANDLINE_RUNTIME_DIR" not in os.environ:
        found = (*found, SERVICE_DIRECTORY)
    return tuple(directory / CONTROL_SOCKET for directory in dict.fromkeys(found))


def is_there(socket: Path) -> bool:
    """Return whether a file is at the path, or may be there in a directory that this user cannot read."""
    try:
        socket.lstat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def data_directory() -> Path:
    """Return the default directory of the control server's database and the agent's journal."""
    if explicit := os.environ.get("LANDLINE_DATA_DIR"):
        return Path(explicit)
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "landline"


def make_private_directory(path: Path) -> None:
    """Create the directory for its owner only, or check that no other user can write to it.

    :raises UnsafeDirectory: if another user owns it or may write to it, and so could replace files in it.
    """
    # A file that is not a directory is reported below.
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform != "win32":
        os.close(open_private_directory(path))


def open_private_directory(path: Path) -> int:
    """Return a descriptor of a checked directory.

    :raises UnsafeDirectory: unless it is a real directory that only this user may write to.
    :raises OSError: if it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        raise UnsafeDirectory(f"{path} is a link or not a directory; use a directory of your own.") from error
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
    """Return a warning if every user of the machine can read or change a secret's file of this mode, or ``None``."""
    if not mode & (stat.S_IROTH | stat.S_IWOTH):
        return None
    return (
        f"{path} can be read or changed by every user of this machine, and it holds a secret; "
        f"make it private with: chmod 600 {shlex.quote(str(path))}"
    )
