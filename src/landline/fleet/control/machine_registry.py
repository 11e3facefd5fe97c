"""Every known machine and the line that leads to it: a write-behind cache in front of the storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from landline import Line
from landline.fleet.api import OperationError, StorageError
from landline.fleet.control.event_log import EventLog
from landline.fleet.control.storage import Storage
from landline.fleet.model import Machine


class MachineRegistry:
    """The machines by id. Memory changes at once; :meth:`save` writes the changes to disk.

    :param changed: called with a new or changed machine, as :meth:`shown` returns it, and with its earlier value.
    :param events: logs failed writes.
    """

    def __init__(
        self, storage: Storage, changed: Callable[[Machine, Machine | None], None], events: EventLog
    ) -> None:
        self._storage = storage
        self._changed = changed
        self._events = events
        self._machines: dict[str, Machine] = {}
        self._lines: dict[str, Line] = {}
        self._unsaved: set[str] = set()

    async def load(self, convert: Callable[[Machine], Machine]) -> None:
        """Read all machines from disk and keep what ``convert`` makes of them.

        :raises StorageError: if they cannot be read.
        """
        for machine in await self._storage.load_machines():
            self._machines[machine.id] = convert(machine)

    # Reading

    def __len__(self) -> int:
        return len(self._machines)

    def __iter__(self) -> Iterator[Machine]:
        return iter(self._machines.values())

    def __getitem__(self, machine_id: str) -> Machine:
        return self._machines[machine_id]

    def __contains__(self, machine_id: str) -> bool:
        return machine_id in self._machines

    def find(self, machine_id: str) -> Machine | None:
        """Return the machine with that id, or ``None``."""
        return self._machines.get(machine_id)

    def named(self, name: str) -> Machine:
        """Return the machine with that name.

        :raises OperationError: if there is none.
        """
        found = next((machine for machine in self._machines.values() if machine.name == name), None)
        if found is None:
            raise OperationError(
                "unknown_target",
                f"there is no machine called {name[:80]!r}; 'landline ls' shows all names",
            )
        return found

    def shown(self) -> tuple[Machine, ...]:
        """Return all machines in order of name, with the round-trip times of their lines."""
        current = (self._with_round_trip(machine) for machine in self._machines.values())
        return tuple(sorted(current, key=lambda machine: machine.name))

    def connected(self) -> list[Machine]:
        """Return the machines that have a line, with its round-trip time."""
        return [self._with_round_trip(self._machines[machine_id]) for machine_id in self._lines]

    # Lines

    def line_of(self, machine_id: str) -> Line | None:
        """Return the line over which the machine joined last, unless it is closed."""
        return self._lines.get(machine_id)

    def set_line(self, machine_id: str, line: Line) -> Line | None:
        """Remember the line over which the machine joined. Return the one it replaces, if any."""
        replaced = self._lines.get(machine_id)
        self._lines[machine_id] = line
        return None if replaced is line else replaced

    def remove_line(self, machine_id: str, line: Line) -> None:
        """Forget a closed line, unless the machine has another one by now."""
        if self._lines.get(machine_id) is line:
            del self._lines[machine_id]

    # Writing

    def put(self, machine: Machine) -> None:
        """Add or replace a machine, and publish the change."""
        before = self._machines.get(machine.id)
        self._machines[machine.id] = machine
        self._unsaved.add(machine.id)
        self._changed(self._with_round_trip(machine), before)

    async def save(self) -> None:
        """Write the changed machines to disk.

        :raises StorageError: if some could not be written. The failure is logged, and the next call tries them again.
        """
        unsaved, self._unsaved = self._unsaved, set()
        try:
            await self._storage.save_machines([self._machines[machine_id] for machine_id in sorted(unsaved)])
        except StorageError:
            # One machine that the database does not take must not keep the others from being saved.
            await self._save_one_by_one(unsaved)
        except BaseException:
            self._unsaved |= unsaved
            raise

    async def _save_one_by_one(self, machine_ids: set[str]) -> None:
        # Cancelled, this leaves the remaining ones unsaved.
        self._unsaved |= machine_ids
        failure: StorageError | None = None
        for machine_id in sorted(machine_ids):
            self._unsaved.discard(machine_id)
            try:
                await self._storage.save_machine(self._machines[machine_id])
            except StorageError as error:
                self._unsaved.add(machine_id)
                failure = error
            except BaseException:
                self._unsaved.add(machine_id)
                raise
        if failure is not None:
            self._events.storage_failed(failure)
            raise failure

    def _with_round_trip(self, machine: Machine) -> Machine:
        line = self._lines.get(machine.id)
        if line is None or line.round_trip_s is None:
            return machine
        return msgspec.structs.replace(machine, round_trip_s=line.round_trip_s)
