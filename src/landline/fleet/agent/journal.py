"""The agent's journal: every action is on disk before it begins, so a job runs at most once on a machine (P4).

One JSON object per line. The beginning of an action is written and synced before the action; an agent that finds it in
the journal never acts on that execution again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol, Self

import msgspec

from landline.fleet.agent.journal_file import JournalError, JournalFile
from landline.fleet.model import Action, ExecutionState

ENTRIES_MAX: Final = 2000
"""Executions in the journal. Older ones have expired on the control server long ago."""


class JournalStore(Protocol):
    """Storage of a journal, for one process at a time; ``str()`` names it in messages.

    All methods but ``close`` may raise :class:`OSError`.
    """

    def read(self) -> bytes:
        """Return the whole content."""
        ...

    def truncate(self, size_bytes: int) -> None:
        """Drop everything after the first ``size_bytes``."""
        ...

    def append(self, data: bytes) -> None:
        """Append ``data``. It is safe from a power loss when this returns; if this raises, none of it is stored."""
        ...

    def replace(self, data: bytes) -> None:
        """Replace the whole content by ``data``, atomically."""
        ...

    def close(self) -> None:
        """Release the storage; another process may open it then."""
        ...


class Entry(msgspec.Struct, frozen=True):
    """The last known step of one execution on this machine."""

    id: str
    action: Action
    state: ExecutionState
    boot_id: str
    detail: str = ""


class Journal:
    """The agent's record of its executions. Reads the store and drops old entries.

    A last line that a crash cut short was never acted on, and is dropped.

    :raises JournalError: if the store cannot be read or is damaged elsewhere: guessing could repeat an action.
    """

    def __init__(self, store: JournalStore) -> None:
        self._store = store
        try:
            self._entries, size_bytes = _read(store)
            store.truncate(size_bytes)
            if len(self._entries) > ENTRIES_MAX:
                self._shorten()
        except OSError as error:
            raise JournalError(f"the journal {store} cannot be read: {error.strerror}") from error

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the journal in a file. Raise :class:`JournalError`, also if another agent has it open."""
        store = JournalFile.open(path)
        try:
            return cls(store)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Close the journal; another agent may open it then."""
        self._store.close()

    def find(self, execution_id: str) -> Entry | None:
        """Return the last entry of an execution."""
        return self._entries.get(execution_id)

    def entries(self) -> tuple[Entry, ...]:
        """Return the last entry of every execution, oldest first."""
        return tuple(self._entries.values())

    def record(self, entry: Entry) -> None:
        """Write an entry; it is on disk when this returns. Raise :class:`JournalError` if that fails."""
        try:
            if len(self._entries) > ENTRIES_MAX:
                # First, so that a failure here has recorded nothing.
                self._shorten()
            self._store.append(msgspec.json.encode(entry) + b"\n")
        except OSError as error:
            raise JournalError(f"the journal {self._store} cannot be written: {error.strerror}") from error
        self._entries[entry.id] = entry

    def _shorten(self) -> None:
        kept = dict(list(self._entries.items())[-ENTRIES_MAX // 2 :])
        self._store.replace(b"".join(msgspec.json.encode(entry) + b"\n" for entry in kept.values()))
        self._entries = kept


def _read(store: JournalStore) -> tuple[dict[str, Entry], int]:
    """Return the entries by id, and the size of the complete lines."""
    data = store.read()
    size_bytes = data.rfind(b"\n") + 1
    entries: dict[str, Entry] = {}
    for number, line in enumerate(data[:size_bytes].splitlines(), 1):
        try:
            entry = msgspec.json.decode(line, type=Entry)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise JournalError(
                f"the journal {store} is damaged in line {number} ({error}); move it away if you accept that jobs "
                "in it might be done a second time"
            ) from error
        entries[entry.id] = entry
    return entries, size_bytes
