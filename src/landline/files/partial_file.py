"""Files that are being received, on disk. Everything here waits for the disk and belongs into threads.

Bytes go into a hidden file beside the place the whole one will have, ``.landline-KEY.part``. A small record beside it,
``.landline-KEY.json``, says up to where it was on disk, and the hash of so much: after any crash the file is read
again up to there, and what is not as the record says is not believed.
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

logger = guarded_logger("landline")

PREFIX: Final = ".landline-"
PART: Final = ".part"
RECORD: Final = ".json"
CHECKPOINT_BYTES: Final = 16 * 1024 * 1024
"""So much may be sent again after a crash of the receiver."""
RECORD_BYTES_MAX: Final = 4096
READ_BYTES: Final = 1024 * 1024

if sys.platform == "win32":

    def _lock(descriptor: int) -> bool:
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        """Locks a file until it is closed (flock(2)). Returns whether nobody else had it locked."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# Opening a pipe nobody writes to would never end, and hold one of the few threads for ever.
_TO_READ: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _NO_LINK


class Record(msgspec.Struct, frozen=True):
    """What is known of a partial file."""

    name: str
    size_bytes: int
    verified_bytes: int
    """So many bytes were on disk."""
    verified_hash: str
    """And this was their BLAKE2b-256, in hex."""


_decode_record = msgspec.json.Decoder(Record).decode


def partial_key(identity: str, to: str, key: bytes) -> str:
    """Names the partial file of one peer's transfer: another identity never sees or continues it."""
    packed = msgspec.msgpack.encode((identity, to, key))
    return hashlib.blake2b(packed, digest_size=KEY_BYTES).hexdigest()


class Partial:
    """One partial file. Its methods may be called from any thread; they wait for each other."""

    def __init__(self, directory: Path, key: str, name: str, size_bytes: int) -> None:
        self._directory = directory
        self._name = name
        self._size_bytes = size_bytes
        self._part = directory / f"{PREFIX}{key}{PART}"
        self._record = directory / f"{PREFIX}{key}{RECORD}"
        self._fresh_record = directory / f"{PREFIX}{key}{RECORD}.new"
        self._descriptor = -1
        self._hash = new_hash()
        self._written_bytes = 0
        self._checkpoint_bytes = 0
        self._lock = threading.Lock()
        self._is_closed = False

    def resume(self) -> tuple[int, bytes] | None:
        """Finds what is left of an earlier try. Returns how much of it is good, and the hash of that.

        Returns ``None`` when another transfer, of this program or of another, has the file open. Returns early, with
        less, when it is stopped or closed meanwhile.
        """
        with self._lock:
            if self._is_closed:
                # Nobody would close, and so unlock, what is opened now.
                return 0, self._hash.digest()
            if not self._open_existing():
                return None
            record = self._read_record()
            if record is not None and self._verify(record):
                self._written_bytes = self._checkpoint_bytes = record.verified_bytes
            elif not self._is_closed:
                self._start_anew()
            return self._written_bytes, self._hash.digest()

    def write(self, data: bytearray, *, restart: bool) -> None:
        """Appends to the file; with ``restart`` what it has is dropped before. Raises :class:`OSError`."""
        with self._lock:
            if self._is_closed:
                return
            if restart:
                self._start_anew()
            self._ensure_open()
            view = memoryview(data)
            while view:
                written = os.write(self._descriptor, view)
                # Whatever fails next: the hash is that of what is in the file.
                self._hash.update(view[:written])
                self._written_bytes += written
                view = view[written:]
            if self._written_bytes - self._checkpoint_bytes >= CHECKPOINT_BYTES:
                self._checkpoint()

    def store(self, final: Path, modified_ns: int, expected: bytes, *, overwrite: bool) -> None:
        """Compares the hash, and gives the file, all of it on disk, its name.

        Raises :class:`FileRefused` with ``damaged`` or ``exists``, and :class:`OSError`.
        """
        with self._lock:
            if self._is_closed:
                return
            if self._hash.digest() != expected:
                raise FileRefused("damaged", "what arrived is not what was sent; send it again")
            self._ensure_open()
            file = self._descriptor if os.utime in os.supports_fd else self._part
            os.utime(file, ns=(modified_ns, modified_ns))
            os.fsync(self._descriptor)
            if os.name == "nt":
                # Windows renames no open file. Elsewhere it stays locked until it has its name.
                self._close()
            if overwrite:
                os.replace(self._part, final)
            else:
                _move_to_new(self._part, final)
            self._remove_record()
            _sync_directory(self._directory)
            self._close()

    def hash_of(self, path: Path) -> bytes:
        """BLAKE2b-256 of a file that is there already. Raises :class:`OSError`, also for what is no regular file.

        Returns early, with the hash of less, when it is stopped or closed meanwhile.
        """
        digest = new_hash()
        with _open_to_read(path) as file:
            while not self._is_closed and (data := file.read(READ_BYTES)):
                digest.update(data)
        return digest.digest()

    def stop(self) -> None:
        """What is still at work here ends with its step. Does not wait: for the event loop, before :meth:`close`."""
        self._is_closed = True

    def close(self, *, keep: bool) -> None:
        """Ends the work. With ``keep`` what was written can be resumed later; else nothing of it stays."""
        self._is_closed = True
        with self._lock:
            if keep and self._descriptor >= 0:
                try:
                    self._checkpoint()
                except OSError as error:
                    # Where the disk is full an earlier record may still be good; without one it begins anew.
                    logger.warning("%s: its record could not be written: %s", self._part, error)
            try:
                if not keep and self._descriptor >= 0:
                    # Before another transfer can have them.
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
                raise FileRefused("busy", "somebody else receives this file; send it later") from error
            _lock(self._descriptor)

    def _open_existing(self) -> bool:
        """Opens and locks the partial file if there is one. Returns whether nobody else has it open."""
        while True:
            try:
                descriptor = os.open(self._part, os.O_RDWR | _NO_LINK)
            except FileNotFoundError:
                return True
            except OSError as error:
                logger.warning("%s cannot be opened, so the file begins anew: %s", self._part, error)
                return True
            if not _lock(descriptor):
                os.close(descriptor)
                return False
            try:
                is_ours = os.path.samestat(os.fstat(descriptor), os.lstat(self._part))
            except FileNotFoundError:
                is_ours = False
            if is_ours:
                self._descriptor = descriptor
                return True
            # Who had it before gave it its name, or removed it.
            os.close(descriptor)

    def _start_anew(self) -> None:
        self._hash = new_hash()
        self._written_bytes = self._checkpoint_bytes = 0
        self._remove_record()
        self._part.unlink(missing_ok=True)
        # Behind the unlinking: nobody else had it in between.
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _checkpoint(self) -> None:
        if self._written_bytes == self._checkpoint_bytes and self._record.exists():
            return
        # First the bytes, then the record of them; a record is whole or the one before.
        os.fsync(self._descriptor)
        record = Record(self._name, self._size_bytes, self._written_bytes, self._hash.hexdigest())
        try:
            # One whose writer was killed; or a link, and what that leads to is not ours to write.
            self._fresh_record.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK
            with open(os.open(self._fresh_record, flags, 0o666), "wb") as file:
                file.write(msgspec.json.encode(record))
            os.replace(self._fresh_record, self._record)
        except OSError:
            self._fresh_record.unlink(missing_ok=True)
            raise
        self._checkpoint_bytes = self._written_bytes

    def _remove_record(self) -> None:
        self._record.unlink(missing_ok=True)
        # One whose writer was killed.
        self._fresh_record.unlink(missing_ok=True)

    def _read_record(self) -> Record | None:
        try:
            with _open_to_read(self._record) as file:
                record = _decode_record(file.read(RECORD_BYTES_MAX))
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning("%s cannot be read, so the file begins anew: %s", self._record, error)
            return None
        is_possible = 0 <= record.verified_bytes <= self._size_bytes == record.size_bytes
        return record if is_possible else None

    def _verify(self, record: Record) -> bool:
        """Whether the file that is open holds what the record says; if so, it ends there now."""
        descriptor = self._descriptor
        if descriptor < 0 or not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        self._hash = new_hash()
        left = record.verified_bytes
        while left and not self._is_closed:
            data = os.read(descriptor, min(left, READ_BYTES))
            if not data:
                break
            self._hash.update(data)
            left -= len(data)
        if left or self._hash.hexdigest() != record.verified_hash:
            if not self._is_closed:
                logger.warning("%s is not what was written to it, so it begins anew", self._part)
            return False
        os.truncate(descriptor, record.verified_bytes)
        return True


def is_there(final: Path, size_bytes: int, modified_ns: int) -> bool:
    """Whether a file of that size and time has the name already: what a receipt that was lost leaves behind.

    Raises :class:`FileRefused` when something else has the name.
    """
    try:
        found = os.lstat(final)
    except FileNotFoundError:
        return False
    if stat.S_ISREG(found.st_mode) and (found.st_size, found.st_mtime_ns) == (size_bytes, modified_ns):
        return True
    raise FileRefused("exists", f"there is a file {final.name!r} already")


def survey(
    directory: Path, key: str, active: Collection[str], promised_bytes: int, limits: FileLimits, now: float
) -> DirectoryUsage:
    """Counts what lies in a directory, and removes partial files nobody sends that are too old or too many.

    ``key`` is the transfer that asks, ``active`` are those under way; ``now`` is in seconds since 1970. Raises
    :class:`OSError`.
    """
    used_bytes = there_bytes = 0
    # What is under way may have nothing on disk yet.
    used_files = len([other for other in active if other != key])
    idle: list[tuple[float, int, str]] = []
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
                there_bytes = found.st_size
            elif not entry.name.startswith(PREFIX):
                used_files += 1
            elif entry.name[len(PREFIX) :].split(".")[0] not in active:
                idle.append((found.st_mtime, found.st_size, entry.name))
    # A partial file and its record are two of them.
    idle.sort()
    surplus = len(idle) - 2 * limits.partial_files
    for number, (modified, size_bytes, name) in enumerate(idle):
        if number < surplus or now - modified > limits.partial_retention_s:
            with suppress(FileNotFoundError):
                os.unlink(directory / name)
            used_bytes -= size_bytes
    return DirectoryUsage(
        used_bytes=used_bytes,
        used_files=used_files,
        free_bytes=shutil.disk_usage(directory).free,
        promised_bytes=promised_bytes,
        there_bytes=there_bytes,
    )


def _open_to_read(path: Path) -> BinaryIO:
    """Opens a regular file. Raises :class:`OSError` for anything else that others may have put there."""
    descriptor = os.open(path, _TO_READ)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _move_to_new(part: Path, final: Path) -> None:
    """Gives a file its name unless something has it, whatever happens at the same time."""
    try:
        os.link(part, final)
    except FileExistsError as error:
        raise FileRefused("exists", f"there is a file {final.name!r} already") from error
    except OSError:
        # No hard links here (FAT): the name is taken first, and the file put over what takes it.
        try:
            os.close(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError as error:
            raise FileRefused("exists", f"there is a file {final.name!r} already") from error
        os.replace(part, final)
    else:
        os.unlink(part)


def _sync_directory(directory: Path) -> None:
    """Puts the new name on disk. Windows has no such call, and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
