"""What an agent did, on disk before it does it: the reason a job runs at most once on a machine (P4).

One JSON object a line. The beginning of an action is written and synced before the action; an agent that finds it
there never acts on that execution again, whatever happened in between.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

import msgspec

from landline.fleet.model import Action, ExecutionState

ENTRIES_KEPT: Final = 2000
"""Executions remembered. An older one has expired on the control server long ago."""


class JournalError(Exception):
    """The journal cannot be read, written or locked; the text says what to do."""


class Entry(msgspec.Struct, frozen=True):
    """The last known step of one execution on this machine."""

    id: str
    action: Action
    state: ExecutionState
    boot_id: str
    detail: str = ""


class Journal:
    """The agent's record. Only one process can have it open."""

    def __init__(self, path: Path, descriptor: int, entries: dict[str, Entry]) -> None:
        self._path = path
        self._descriptor = descriptor
        self._entries = entries

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Opens or creates the journal and shortens it to what is worth remembering.

        A last line cut short by a crash was never acted on and is dropped. Raises :class:`JournalError` when another
        agent has it open, or when it is damaged elsewhere: guessing could repeat an action.
        """
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
            entries, size = _read(path)
            os.truncate(descriptor, size)
            journal = cls(path, descriptor, entries)
            if size and len(entries) > ENTRIES_KEPT:
                journal._shorten()
            return journal
        except OSError as error:
            os.close(descriptor)
            raise JournalError(f"the journal {path} cannot be read: {error.strerror}") from error
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """Closes it; another agent may open it then."""
        os.close(self._descriptor)

    def find(self, execution_id: str) -> Entry | None:
        """What is known of an execution."""
        return self._entries.get(execution_id)

    def entries(self) -> tuple[Entry, ...]:
        """Everything remembered, oldest first."""
        return tuple(self._entries.values())

    def record(self, entry: Entry) -> None:
        """Writes a step; it is on disk when this returns. Raises :class:`JournalError` when it cannot be."""
        line = msgspec.json.encode(entry) + b"\n"
        size = os.fstat(self._descriptor).st_size
        try:
            _write_all(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError as error:
            # A line written in part would make the next one unreadable.
            os.truncate(self._descriptor, size)
            raise JournalError(f"the journal {self._path} cannot be written: {error.strerror}") from error
        self._entries[entry.id] = entry

    def _shorten(self) -> None:
        kept = dict(list(self._entries.items())[-ENTRIES_KEPT // 2 :])
        beside = self._path.with_suffix(".new")
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_all(descriptor, b"".join(msgspec.json.encode(entry) + b"\n" for entry in kept.values()))
            os.fsync(descriptor)
            beside.replace(self._path)
            _sync_directory(self._path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._entries = kept


def _read(path: Path) -> tuple[dict[str, Entry], int]:
    """The entries by id, and the size of the whole lines."""
    data = path.read_bytes()
    size = data.rfind(b"\n") + 1
    entries: dict[str, Entry] = {}
    for number, line in enumerate(data[:size].splitlines(), 1):
        try:
            entry = msgspec.json.decode(line, type=Entry)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise JournalError(
                f"the journal {path} is damaged in line {number} ({error}); move it away if you accept that jobs "
                "in it might be done a second time"
            ) from error
        entries[entry.id] = entry
    return entries, size


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
