"""The file that is sent. Everything here waits for the disk and belongs into threads."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Final

from landline.errors import ConfigurationError, FileChanged
from landline.files.messages import encode_chunk, new_hash

HASH_STEP_BYTES: Final = 1024 * 1024


class Source:
    """An open file, the hash of what was read of it, and how to tell that somebody writes to it."""

    def __init__(self, path: Path) -> None:
        """Opens the file. Raises :class:`OSError`, and :class:`ConfigurationError` for what is no file."""
        self.path = path
        # Without waiting: opening a pipe nobody writes to would never end.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
        found = os.fstat(descriptor)
        # Before it is wrapped: open() refuses the descriptor of a directory, names that number, and does not close it.
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise ConfigurationError(f"{path} is not a file that can be sent; name a regular file")
        self._file = open(descriptor, "rb", buffering=0)  # noqa: SIM115 - close() closes it
        self.size_bytes = found.st_size
        self._modified_ns = found.st_mtime_ns
        self._hash = new_hash()
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def modified_ns(self) -> int:
        """When it was last written to, in ns since 1970; 0 for a file that is older."""
        return max(0, self._modified_ns)

    @property
    def hash(self) -> bytes:
        """BLAKE2b-256 of what was read so far."""
        return self._hash.digest()

    def read_chunk(self, transfer: bytes, offset: int, size_bytes: int) -> bytes:
        """The next bytes, as the body of a chunk. Raises :class:`FileChanged`, or :class:`OSError`."""
        with self._lock:
            data = self._read(size_bytes)
            self._check_unchanged()
        return encode_chunk(transfer, offset, data)

    def read_prefix(self, size_bytes: int) -> bytes:
        """Reads from the beginning so far, and returns the hash. Raises what :meth:`read_chunk` does.

        Returns early, with the hash of less, when it is stopped or closed meanwhile.
        """
        with self._lock:
            self._rewind()
            left = size_bytes
            while left and not self._is_closed:
                left -= len(self._read(min(left, HASH_STEP_BYTES)))
            if not self._is_closed:
                self._check_unchanged()
            return self._hash.digest()

    def check_unchanged(self) -> None:
        """Raises :class:`FileChanged` when somebody has written to it since it was opened."""
        with self._lock:
            self._check_unchanged()

    def rewind(self) -> None:
        """Begins anew."""
        with self._lock:
            self._rewind()

    def stop(self) -> None:
        """What is still at work here ends with its step. Does not wait: for the event loop, before :meth:`close`."""
        self._is_closed = True

    def close(self) -> None:
        """Closes the file, once the thread that reads it has done a step."""
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
            raise FileChanged(f"{self.path} was written to while it was sent")
