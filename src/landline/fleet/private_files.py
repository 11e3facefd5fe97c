"""Files that only this user may read or change: secrets, the machine's id, the journal.

Another user must not be able to redirect what a process of root writes. So the directory is checked, files in it are
opened by descriptor, links are not followed, and an existing file is written to only if it belongs to this user.
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
"""The most that :func:`read_private_file` reads. Ids and tokens have less than a hundred bytes."""

_MODE: Final = 0o600


def read_private_file(path: Path, *, repair: bool = False) -> bytes:
    """Return the content of a private file.

    :param repair: make a file private (0600) that other users may read or change.
    :raises FileNotFoundError: if there is none.
    :raises landline.fleet.paths.UnsafeFile: if it is a link, too large, or belongs to another user.
    :raises landline.fleet.paths.UnsafeDirectory: if another user could change the directory.
    :raises OSError: if it cannot be read.
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
            f"{path} has more than {PRIVATE_FILE_BYTES_MAX} bytes, so it is another file; remove it."
        )
    return data


def write_private_file(path: Path, data: bytes) -> None:
    """Replace the file by ``data`` with mode 0600: completely or not at all, also if the machine loses power.

    :raises landline.fleet.paths.UnsafeDirectory: if another user could change the directory.
    :raises OSError: if it cannot be written.
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
    """Open the file ``path.name`` in an open directory. With ``O_CREAT`` it is created with mode 0600.

    :raises landline.fleet.paths.UnsafeFile: if it is not a regular file of this user.
    :raises OSError: if it cannot be opened.
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
            raise UnsafeFile(f"{path} is not a regular file; remove it.")
        if status.st_uid != os.getuid():
            raise UnsafeFile(f"{path} belongs to another user; remove it, or choose another directory.")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def replace_private_file(
    directory: int, path: Path, data: bytes, flags: int = os.O_WRONLY, *, lock: bool = False
) -> int:
    """Write a new file, rename it to ``path.name``, and return its descriptor, opened with ``flags``.

    When this returns, the file is on disk under its name. When this raises, the earlier file is unchanged.

    :param lock: lock the file (flock(2)) before it gets its name.
    """
    # An unpredictable name, and a file that did not exist before.
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

    :raises landline.fleet.paths.UnsafeDirectory: if another user could change it.
    :raises OSError: if it cannot be opened.
    """
    descriptor = open_private_directory(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``, in as many calls as it takes."""
    while data:
        data = data[os.write(descriptor, data) :]


def _is_link(directory: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False
