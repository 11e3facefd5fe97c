"""The journal's file: appended data is on disk, and one process at a time has the file open."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from landline.fleet.file_lock import lock_file
from landline.fleet.paths import UnsafePath, make_private_directory
from landline.fleet.private_files import (
    open_private_file,
    private_directory,
    replace_private_file,
    write_all,
)


class JournalError(Exception):
    """The journal cannot be read, written or locked; the text says what to do."""


class JournalFile:
    """A :class:`landline.fleet.agent.journal.JournalStore` in a file; make it with :meth:`open`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def __str__(self) -> str:
        return str(self._path)

    @classmethod
    def open(cls, path: Path) -> JournalFile:
        """Open or create the file, with mode 0600, in a directory that only this user may write to.

        :raises JournalError: if that fails, if the file is a link, or if another agent has it open.
        """
        try:
            make_private_directory(path.parent)
            with private_directory(path.parent) as directory:
                descriptor = open_private_file(directory, path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
                try:
                    _lock(descriptor, directory, path)
                    os.fsync(directory)
                except BaseException:
                    os.close(descriptor)
                    raise
        except UnsafePath as error:
            raise JournalError(f"the journal cannot be opened: {error}") from error
        except OSError as error:
            raise JournalError(f"the journal {path} cannot be opened: {error.strerror}") from error
        return cls(path, descriptor)

    def close(self) -> None:
        """Close the file; another agent may open it then."""
        os.close(self._descriptor)

    def read(self) -> bytes:
        size_bytes = os.fstat(self._descriptor).st_size
        data = bytearray()
        while piece := os.pread(self._descriptor, size_bytes, len(data)):
            data += piece
        return bytes(data)

    def truncate(self, size_bytes: int) -> None:
        os.truncate(self._descriptor, size_bytes)

    def append(self, data: bytes) -> None:
        size_bytes = os.fstat(self._descriptor).st_size
        try:
            write_all(self._descriptor, data)
            os.fsync(self._descriptor)
        except OSError:
            # A partial line would make the next one unreadable.
            os.truncate(self._descriptor, size_bytes)
            raise

    def replace(self, data: bytes) -> None:
        try:
            with private_directory(self._path.parent) as directory:
                if not _is_named(self._descriptor, directory, self._path.name):
                    raise OSError(errno.ESTALE, "the directory was replaced by another", str(self._path))
                descriptor = replace_private_file(
                    directory, self._path, data, os.O_RDWR | os.O_APPEND, lock=True
                )
        except UnsafePath as error:
            raise OSError(errno.EPERM, str(error), str(self._path)) from error
        os.close(self._descriptor)
        self._descriptor = descriptor


def _lock(descriptor: int, directory: int, path: Path) -> None:
    try:
        lock_file(descriptor)
    except BlockingIOError as error:
        raise JournalError(
            f"another agent uses {path.parent}; stop it, or give this one its own --data directory"
        ) from error
    if not _is_named(descriptor, directory, path.name):
        # The name now belongs to a shortened copy, which the other agent has locked.
        raise JournalError(f"another agent uses {path.parent}; stop it first")


def _is_named(descriptor: int, directory: int, name: str) -> bool:
    try:
        named = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), named)
