"""What an agent did, on disk before it does it: the reason a job runs at most once on a machine (P4).

One JSON object a line. The beginning of an action is written and synced before the action; an agent that finds it
there never acts on that execution again, whatever happened in between.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol, Self

import msgspec

from landline.fleet.agent.journal_file import JournalError, JournalFile
from landline.fleet.model import Action, ExecutionState

ENTRIES_KEPT: Final = 2000
"""Executions remembered. An older one has expired on the control server long ago."""


class JournalStore(Protocol):
    """Where a journal is kept, for one process at a time; ``str()`` names it to people.

    Everything but ``close`` may raise :class:`OSError`.
    """

    def read(self) -> bytes:
        """Everything in it."""
        ...

    def truncate(self, size_bytes: int) -> None:
        """Drops what is behind the first ``size_bytes``."""
        ...

    def append(self, data: bytes) -> None:
        """Adds to its end; it survives a power loss when this returns, and nothing of it is there when this raises."""
        ...

    def replace(self, data: bytes) -> None:
        """Puts ``data`` in the place of everything: whole, or not at all."""
        ...

    def close(self) -> None:
        """Lets it go; another process may have it then."""
        ...


class Entry(msgspec.Struct, frozen=True):
    """The last known step of one execution on this machine."""

    id: str
    action: Action
    state: ExecutionState
    boot_id: str
    detail: str = ""


class Journal:
    """The agent's record. Reads it, and shortens it to what is worth remembering.

    A last line cut short by a crash was never acted on and is dropped. Raises :class:`JournalError` when the store
    cannot be read, or is damaged elsewhere: guessing could repeat an action.
    """

    def __init__(self, store: JournalStore) -> None:
        self._store = store
        try:
            self._entries, size_bytes = _read(store)
            store.truncate(size_bytes)
            if len(self._entries) > ENTRIES_KEPT:
                self._shorten()
        except OSError as error:
            raise JournalError(f"the journal {store} cannot be read: {error.strerror}") from error

    @classmethod
    def open(cls, path: Path) -> Self:
        """The journal in a file. Raises :class:`JournalError`, also when another agent has it open."""
        store = JournalFile.open(path)
        try:
            return cls(store)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Closes it; another agent may open it then."""
        self._store.close()

    def find(self, execution_id: str) -> Entry | None:
        """What is known of an execution."""
        return self._entries.get(execution_id)

    def entries(self) -> tuple[Entry, ...]:
        """Everything remembered, oldest first."""
        return tuple(self._entries.values())

    def record(self, entry: Entry) -> None:
        """Writes a step; it is on disk when this returns. Raises :class:`JournalError` when it cannot be."""
        try:
            if len(self._entries) > ENTRIES_KEPT:
                # First, so that what fails here has recorded nothing.
                self._shorten()
            self._store.append(msgspec.json.encode(entry) + b"\n")
        except OSError as error:
            raise JournalError(f"the journal {self._store} cannot be written: {error.strerror}") from error
        self._entries[entry.id] = entry

    def _shorten(self) -> None:
        kept = dict(list(self._entries.items())[-ENTRIES_KEPT // 2 :])
        self._store.replace(b"".join(msgspec.json.encode(entry) + b"\n" for entry in kept.values()))
        self._entries = kept


def _read(store: JournalStore) -> tuple[dict[str, Entry], int]:
    """The entries by id, and the size of the whole lines."""
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
