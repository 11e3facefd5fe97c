"""The journal's file: what was appended is on disk, and one process at a time has it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


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
        """Opens or creates the file. Raises :class:`JournalError` when it cannot, or when another agent has it."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"the journal {path} cannot be opened: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise JournalError(
                    f"another agent uses {path.parent}; stop it, or give this one its own --data directory"
                ) from error
            if os.fstat(descriptor).st_ino != path.stat().st_ino:
                # Its name went to a shortened copy, which the other agent has locked.
                raise JournalError(f"another agent uses {path.parent}; stop it first")
            _sync_directory(path.parent)
        except OSError as error:
            os.close(descriptor)
            raise JournalError(f"the journal {path} cannot be read: {error.strerror}") from error
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def close(self) -> None:
        """Closes it; another agent may open it then."""
        os.close(self._descriptor)

    def read(self) -> bytes:
        return self._path.read_bytes()

    def truncate(self, size_bytes: int) -> None:
        os.truncate(self._descriptor, size_bytes)

    def append(self, data: bytes) -> None:
        size_bytes = os.fstat(self._descriptor).st_size
        try:
            _write_all(self._descriptor, data)
            os.fsync(self._descriptor)
        except OSError:
            # A line written in part would make the next one unreadable.
            os.truncate(self._descriptor, size_bytes)
            raise

    def replace(self, data: bytes) -> None:
        beside = self._path.with_suffix(".new")
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_all(descriptor, data)
            os.fsync(descriptor)
            beside.replace(self._path)
            _sync_directory(self._path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor = descriptor


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
