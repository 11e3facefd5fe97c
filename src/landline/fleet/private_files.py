"""Files that only this user may read or change: secrets, the machine's id, the journal.

A process of root that writes into a directory must not be led elsewhere. So the directory is checked, files are opened
in it by descriptor, no link is followed, and nothing that is there already is written to unless it is this user's own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from landline.fleet.file_lock import lock_file
from landline.fleet.paths import UnsafeFile, open_private_directory

PRIVATE_FILE_BYTES_MAX: Final = 64 * 1024
"""How much :func:`read_private_file` reads: ids and tokens have less than a hundred bytes."""

_MODE: Final = 0o600


def read_private_file(path: Path, *, repair: bool = False) -> bytes:
    """Return what the file holds; with ``repair``, one that others may read or change is made private (0600).

    Raise :class:`FileNotFoundError` when there is none, :class:`landline.fleet.paths.UnsafeFile` for a link or what
    belongs to another user, :class:`landline.fleet.paths.UnsafeDirectory`, and :class:`OSError`.
    """
    if sys.platform == "win32":
        with path.open("rb") as file:
            data = file.read(PRIVATE_FILE_BYTES_MAX + 1)
    else:
        with private_directory(path.parent) as directory:
            descriptor = open_private_file(directory, path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if repair and os.fstat(descriptor).st_mode & 0o077:
                os.fchmod(descriptor, _MODE)
            data = file.read(PRIVATE_FILE_BYTES_MAX + 1)
    if len(data) > PRIVATE_FILE_BYTES_MAX:
        raise UnsafeFile(
            f"{path} has more than {PRIVATE_FILE_BYTES_MAX} bytes; it is not what belongs there."
        )
    return data


def write_private_file(path: Path, data: bytes) -> None:
    """Put ``data`` in the place of the file: all of it or nothing, whatever happens to the machine. Mode 0600.

    Raise :class:`landline.fleet.paths.UnsafeDirectory` and
    :class:`OSError`.
    """
    if sys.platform == "win32":
        # The directory's access list, which the file inherits, keeps other users out.
        new = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
        try:
            with new.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    else:
        with private_directory(path.parent) as directory:
            os.close(replace_private_file(directory, path, data))


def open_private_file(directory: int, path: Path, flags: int) -> int:
    """Open the file called ``path.name`` in an open directory; with ``O_CREAT`` it is made with mode 0600.

    Raise :class:`landline.fleet.paths.UnsafeFile` for what is no regular file of this user, and :class:`OSError`.
    """
    try:
        descriptor = os.open(path.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE, dir_fd=directory)
    except OSError:
        if _is_link(directory, path.name):
            raise UnsafeFile(f"{path} is a link, which is not followed; remove it.") from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeFile(f"{path} is no regular file; remove it.")
        if status.st_uid != os.getuid():
            raise UnsafeFile(f"{path} belongs to another user; remove it, or choose another directory.")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def replace_private_file(
    directory: int, path: Path, data: bytes, flags: int = os.O_WRONLY, *, lock: bool = False
) -> int:
    """Write a new file and give it the name ``path.name``; return its descriptor, open with ``flags``.

    It is on disk, with its name, when this returns; when this raises, the earlier file is as it was. With ``lock``
    it is locked (flock(2)) before it has its name.
    """
    # A name nobody can foresee, and a file that did not exist before.
    new_name = f".{path.name}.{secrets.token_hex(8)}.new"
    flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(new_name, flags, _MODE, dir_fd=directory)
    try:
        if lock:
            lock_file(descriptor)
        write_all(descriptor, data)
        os.fsync(descriptor)
        os.replace(new_name, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    except BaseException:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new_name, dir_fd=directory)
        raise
    return descriptor


@contextlib.contextmanager
def private_directory(path: Path) -> Iterator[int]:
    """The descriptor of a directory that only this user may write to.

    Raise :class:`landline.fleet.paths.UnsafeDirectory` and :class:`OSError`.
    """
    descriptor = open_private_directory(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``, in as many steps as the system takes."""
    while data:
        data = data[os.write(descriptor, data) :]


def _is_link(directory: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False
