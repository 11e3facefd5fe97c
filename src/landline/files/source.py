"""The file that is sent. Everything here waits for the disk and runs in threads."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Final

from landline.errors import ConfigurationError, FileChanged
from landline.files.messages import encode_chunk, new_hash

READ_BYTES: Final = 1024 * 1024


class Source:
    """An open file with the hash of what was read from it. Notices when another program writes to the file.

    The methods may be called from any thread and exclude each other.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        :raises OSError: it cannot be opened.
        :raises ConfigurationError: it is not a regular file.
        """
        self.path = path
        # Non-blocking: opening a pipe without a writer would never return.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
        found = os.fstat(descriptor)
        # Before open(): that refuses the descriptor of a directory with an error about a number, and does not close it.
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise ConfigurationError(f"{path} is not a regular file; only regular files can be sent")
        self._file = open(descriptor, "rb", buffering=0)  # noqa: SIM115 - close() closes it
        self.size_bytes: int = found.st_size
        self._modified_ns = found.st_mtime_ns
        self._hash = new_hash()
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def modified_ns(self) -> int:
        """Time of the last modification in ns since 1970; 0 for an older file."""
        return max(0, self._modified_ns)

    @property
    def hash(self) -> bytes:
        """BLAKE2b-256 of what was read so far."""
        return self._hash.digest()

    def read_chunk(self, transfer_id: bytes, offset: int, size_bytes: int) -> bytes:
        """Read the next bytes and return them as the body of a CHUNK.

        :raises FileChanged: the file was modified after it was opened.
        :raises OSError: it cannot be read.
        """
        with self._lock:
            data = self._read(size_bytes)
            self._check_unchanged()
        return encode_chunk(transfer_id, offset, data)

    def read_prefix(self, size_bytes: int) -> bytes:
        """Read the first bytes and return their hash. Raises what :meth:`read_chunk` raises.

        Returns early, with the hash of fewer bytes, when the source is stopped or closed meanwhile.
        """
        with self._lock:
            self._rewind()
            left_bytes = size_bytes
            while left_bytes and not self._is_closed:
                left_bytes -= len(self._read(min(left_bytes, READ_BYTES)))
            if not self._is_closed:
                self._check_unchanged()
            return self._hash.digest()

    def check_unchanged(self) -> None:
        """Raise :class:`FileChanged` if the file was modified after it was opened."""
        with self._lock:
            self._check_unchanged()

    def rewind(self) -> None:
        """Read from the beginning again."""
        with self._lock:
            self._rewind()

    def stop(self) -> None:
        """End a running operation after its current step. Does not block: call it before :meth:`close`."""
        self._is_closed = True

    def close(self) -> None:
        """Close the file. Waits for the current step of a running operation."""
        self._is_closed = True
        with self._lock:
            self._file.close()

    def _rewind(self) -> None:
        self._file.seek(0)
        self._hash = new_hash()

    def _read(self, size_bytes: int) -> bytes:
        data = self._file.read(size_bytes)
        while len(data) < size_bytes:
            more = self._file.read(size_bytes - len(data))
            if not more:
                raise FileChanged(f"{self.path} became shorter while it was sent")
            data += more
        self._hash.update(data)
        return data

    def _check_unchanged(self) -> None:
        found = os.fstat(self._file.fileno())
        if found.st_size != self.size_bytes or found.st_mtime_ns != self._modified_ns:
            raise FileChanged(f"{self.path} was modified while it was sent")
