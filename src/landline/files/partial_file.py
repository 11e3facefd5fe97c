"""Partly received files on disk. Everything here waits for the disk and runs in threads.

Bytes are written to a hidden file in the final directory, ``.landline-KEY.part``. A small record beside it,
``.landline-KEY.json``, says how many bytes are certainly on disk, and their hash. After a crash the file is read up to
there and compared with the record; if it differs, it is discarded.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import sys
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from landline.errors import FileRefused
from landline.files.limits import DirectoryUsage, FileLimits
from landline.files.messages import KEY_BYTES, new_hash
from landline.runtime.guarded_log import guarded_logger

logger: Final = guarded_logger("landline")

PREFIX: Final = ".landline-"
PART: Final = ".part"
RECORD: Final = ".json"
CHECKPOINT_BYTES: Final = 16 * 1024 * 1024
"""At most this much is sent again after a crash of the receiver."""
RECORD_BYTES_MAX: Final = 4096
READ_BYTES: Final = 1024 * 1024

if sys.platform == "win32":

    def _lock(descriptor: int) -> bool:
        return True

else:

    def _lock(descriptor: int) -> bool:
        """Lock a file until it is closed (flock(2)). Return ``False`` if another descriptor holds the lock."""
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# Opening a pipe without a writer would never return, and would occupy one of the few threads.
_TO_READ: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _NO_LINK


class Record(msgspec.Struct, frozen=True):
    """What is certain about a partial file."""

    name: str
    size_bytes: int
    verified_bytes: int
    """Number of bytes that were on disk."""
    verified_hash: str
    """Their BLAKE2b-256, in hex."""


_decode_record = msgspec.json.Decoder(Record).decode


def partial_key(identity: str, to: str, key: bytes) -> str:
    """Return the key in the name of a partial file. Another identity has another key: it cannot resume the file."""
    packed = msgspec.msgpack.encode((identity, to, key))
    return hashlib.blake2b(packed, digest_size=KEY_BYTES).hexdigest()


class PartialFile:
    """One partial file. Its methods may be called from any thread and exclude each other."""

    def __init__(self, directory: Path, key: str, name: str, size_bytes: int) -> None:
        self._directory = directory
        self._name = name
        self._size_bytes = size_bytes
        self._part = directory / f"{PREFIX}{key}{PART}"
        self._record = directory / f"{PREFIX}{key}{RECORD}"
        self._new_record = directory / f"{PREFIX}{key}{RECORD}.new"
        self._descriptor = -1
        self._hash = new_hash()
        self._written_bytes = 0
        self._checkpoint_bytes = 0
        self._lock = threading.Lock()
        self._is_closed = False

    def resume(self) -> tuple[int, bytes] | None:
        """Open the partial file of an earlier attempt. Return how many bytes of it are intact, and their hash.

        Return ``None`` when another transfer, of this program or of another, has the file open. Returns early, with
        fewer bytes, when it is stopped or closed meanwhile.
        """
        with self._lock:
            if self._is_closed:
                # close() has run: a file that is opened now would stay open and locked.
                return 0, self._hash.digest()
            if not self._open_existing():
                return None
            record = self._read_record()
            if record is not None and self._verify(record):
                self._written_bytes = self._checkpoint_bytes = record.verified_bytes
            elif not self._is_closed:
                self._start_again()
            return self._written_bytes, self._hash.digest()

    def write(self, data: bytearray, *, restart: bool) -> None:
        """Append to the file; with ``restart`` discard its contents first. Raise :class:`OSError`."""
        with self._lock:
            if self._is_closed:
                return
            if restart:
                self._start_again()
            self._ensure_open()
            view = memoryview(data)
            while view:
                written = os.write(self._descriptor, view)
                # After each write, so that the hash matches the file if the next one fails.
                self._hash.update(view[:written])
                self._written_bytes += written
                view = view[written:]
            if self._written_bytes - self._checkpoint_bytes >= CHECKPOINT_BYTES:
                self._checkpoint()

    def store(self, final: Path, modified_ns: int, expected: bytes, *, overwrite: bool) -> None:
        """Compare the hash, flush the file to disk, and rename it to its final name.

        :raises FileRefused: with the code ``damaged`` or ``exists``.
        :raises OSError: the file system failed.
        """
        with self._lock:
            if self._is_closed:
                return
            if self._hash.digest() != expected:
                raise FileRefused("damaged", "the received file differs from the sent one; send it again")
            self._ensure_open()
            file = self._descriptor if os.utime in os.supports_fd else self._part
            os.utime(file, ns=(modified_ns, modified_ns))
            os.fsync(self._descriptor)
            if os.name == "nt":
                # Windows cannot rename an open file. Elsewhere the file stays locked until it has its name.
                self._close()
            if overwrite:
                os.replace(self._part, final)
            else:
                _move_to_new(self._part, final)
            self._remove_record()
            _sync_directory(self._directory)
            self._close()

    def hash_of(self, path: Path) -> bytes:
        """Return the BLAKE2b-256 of another file. Raise :class:`OSError`, also if it is not a regular file.

        Returns early, with the hash of fewer bytes, when it is stopped or closed meanwhile.
        """
        digest = new_hash()
        with _open_to_read(path) as file:
            while not self._is_closed and (data := file.read(READ_BYTES)):
                digest.update(data)
        return digest.digest()

    def stop(self) -> None:
        """End a running operation after its current step. Does not block: call it before :meth:`close`."""
        self._is_closed = True

    def close(self, *, keep: bool) -> None:
        """Close the file. With ``keep`` it can be resumed later; otherwise it is removed."""
        self._is_closed = True
        with self._lock:
            if keep and self._descriptor >= 0:
                try:
                    self._checkpoint()
                except OSError as error:
                    # On a full disk an earlier record may still be valid; without one the next transfer starts again.
                    logger.warning("cannot write the record of %s: %s", self._part, error)
            try:
                if not keep and self._descriptor >= 0:
                    # Before closing releases the lock and another transfer can open them.
                    self._part.unlink(missing_ok=True)
                    self._remove_record()
            finally:
                self._close()

    def _ensure_open(self) -> None:
        if self._descriptor < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK
            try:
                self._descriptor = os.open(self._part, flags, 0o666)
            except FileExistsError as error:
                raise locked_by_another() from error
            _lock(self._descriptor)

    def _open_existing(self) -> bool:
        """Open and lock the partial file if it exists. Return ``False`` if another transfer has it open."""
        while True:
            try:
                descriptor = os.open(self._part, os.O_RDWR | _NO_LINK)
            except FileNotFoundError:
                return True
            except OSError as error:
                logger.warning("cannot open %s, receiving the file from its beginning: %s", self._part, error)
                return True
            if not _lock(descriptor):
                os.close(descriptor)
                return False
            try:
                is_current = os.path.samestat(os.fstat(descriptor), os.lstat(self._part))
            except FileNotFoundError:
                is_current = False
            if is_current:
                self._descriptor = descriptor
                return True
            # The transfer that had it open has renamed or removed it.
            os.close(descriptor)

    def _start_again(self) -> None:
        self._hash = new_hash()
        self._written_bytes = self._checkpoint_bytes = 0
        self._remove_record()
        self._part.unlink(missing_ok=True)
        # After unlinking: no other transfer could open it in between.
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _checkpoint(self) -> None:
        if self._written_bytes == self._checkpoint_bytes and self._record.exists():
            return
        # First the bytes, then their record. The record is replaced atomically.
        os.fsync(self._descriptor)
        record = Record(self._name, self._size_bytes, self._written_bytes, self._hash.hexdigest())
        try:
            # Left by a process that was killed; or a link, whose target must not be written to.
            self._new_record.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK
            with open(os.open(self._new_record, flags, 0o666), "wb") as file:
                file.write(msgspec.json.encode(record))
            os.replace(self._new_record, self._record)
        except OSError:
            self._new_record.unlink(missing_ok=True)
            raise
        self._checkpoint_bytes = self._written_bytes

    def _remove_record(self) -> None:
        self._record.unlink(missing_ok=True)
        # Left by a process that was killed.
        self._new_record.unlink(missing_ok=True)

    def _read_record(self) -> Record | None:
        try:
            with _open_to_read(self._record) as file:
                record = _decode_record(file.read(RECORD_BYTES_MAX))
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning("cannot read %s, receiving the file from its beginning: %s", self._record, error)
            return None
        is_possible = 0 <= record.verified_bytes <= self._size_bytes == record.size_bytes
        return record if is_possible else None

    def _verify(self, record: Record) -> bool:
        """Return whether the open file matches the record. If so, truncate it to the verified bytes."""
        descriptor = self._descriptor
        if descriptor < 0 or not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        self._hash = new_hash()
        left_bytes = record.verified_bytes
        while left_bytes and not self._is_closed:
            data = os.read(descriptor, min(left_bytes, READ_BYTES))
            if not data:
                break
            self._hash.update(data)
            left_bytes -= len(data)
        if left_bytes or self._hash.hexdigest() != record.verified_hash:
            if not self._is_closed:
                logger.warning("%s was modified, receiving the file from its beginning", self._part)
            return False
        os.truncate(descriptor, record.verified_bytes)
        return True


def is_stored(final: Path, size_bytes: int, modified_ns: int) -> bool:
    """Return whether a file of that name, size and time exists, as after a receipt that was lost.

    :raises FileRefused: with the code ``exists``, when another file or directory has the name.
    """
    try:
        found = os.lstat(final)
    except FileNotFoundError:
        return False
    if stat.S_ISREG(found.st_mode) and (found.st_size, found.st_mtime_ns) == (size_bytes, modified_ns):
        return True
    raise _already_exists(final)


def locked_by_another() -> FileRefused:
    """Return the error for a partial file that another program, or a transfer that ends too slowly, has open."""
    return FileRefused("busy", "another transfer is receiving this file; send it later")


def _already_exists(final: Path) -> FileRefused:
    return FileRefused("exists", f"a file {final.name!r} already exists")


def measure_directory(
    directory: Path, key: str, active: Collection[str], promised_bytes: int, limits: FileLimits, now: float
) -> DirectoryUsage:
    """Measure a directory, and remove inactive partial files that are too old or too many.

    :param key: the key of the transfer that asks.
    :param active: the keys of the active transfers.
    :param promised_bytes: bytes that the active transfers have still to write.
    :param now: seconds since 1970.
    :raises OSError: the directory cannot be read, or a file not removed.
    """
    used_bytes = partial_bytes = 0
    # An active transfer may not have a file on disk yet.
    used_files = len([other for other in active if other != key])
    inactive: list[tuple[float, int, str]] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(found.st_mode):
                continue
            used_bytes += found.st_size
            if entry.name == f"{PREFIX}{key}{PART}":
                partial_bytes = found.st_size
            elif not entry.name.startswith(PREFIX):
                used_files += 1
            elif entry.name[len(PREFIX) :].split(".")[0] not in active:
                inactive.append((found.st_mtime, found.st_size, entry.name))
    # Two entries each: a partial file and its record.
    inactive.sort()
    surplus = len(inactive) - 2 * limits.partial_files
    for number, (modified, size_bytes, name) in enumerate(inactive):
        if number < surplus or now - modified > limits.partial_retention_s:
            with suppress(FileNotFoundError):
                os.unlink(directory / name)
            used_bytes -= size_bytes
    return DirectoryUsage(
        used_bytes=used_bytes,
        used_files=used_files,
        free_bytes=shutil.disk_usage(directory).free,
        promised_bytes=promised_bytes,
        partial_bytes=partial_bytes,
    )


def _open_to_read(path: Path) -> BinaryIO:
    """Open a regular file. Raise :class:`OSError` for anything else that another program may have put there."""
    descriptor = os.open(path, _TO_READ)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _move_to_new(part: Path, final: Path) -> None:
    """Rename a file without replacing another one, atomically."""
    try:
        os.link(part, final)
    except FileExistsError as error:
        raise _already_exists(final) from error
    except OSError:
        # A file system without hard links (FAT): create an empty file of that name first, and replace it.
        try:
            os.close(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError as error:
            raise _already_exists(final) from error
        os.replace(part, final)
    else:
        os.unlink(part)


def _sync_directory(directory: Path) -> None:
    """Flush the new name to disk. Windows has no such call, and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
