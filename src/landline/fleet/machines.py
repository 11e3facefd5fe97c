"""The machines: what each says of itself, whether it is on, and over which line it is reached.

What the news of a machine means for its presence is decided by :mod:`landline.fleet.presence`. Memory changes at
once, and :meth:`Machines.save` brings the disk up to it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from random import Random
from typing import Final

import msgspec

from landline import Code, Line, LineState, LossKind, RequestError, StateChange
from landline.fleet import presence
from landline.fleet.messages import NOT_JOINED, FactsChecked, Goodbye, Join
from landline.fleet.model import Cause, Facts, Machine, Presence, PresenceState
from landline.fleet.pace import FACTS_EVERY_S
from landline.fleet.storage import Storage, StorageError

logger = logging.getLogger("landline.control")

PERSONS_MAX: Final = 100
PERSON_CHARACTERS_MAX: Final = 300
"""A person's name and seat together."""

_LOSS_CAUSES: Final = {
    LossKind.SILENT: Cause.SILENT,
    LossKind.LINK_LOST: Cause.LINK_LOST,
    LossKind.CLOSED_BY_PEER: Cause.AGENT_STOPPED,
}


class _Guest:
    """What a line's ``data`` says: the machine that joined over it."""

    __slots__ = ("facts_at", "is_settled", "join", "late_facts", "machine_id")

    def __init__(self, machine_id: str, join: str) -> None:
        self.facts_at = float("-inf")
        """When what the machine said of itself was taken, on the event loop's clock;"""
        self.late_facts: Facts | None = None
        """... and what it said since."""
        self.machine_id = machine_id
        self.join = join
        self.is_settled = False


class Machines:
    """Every machine known, online or not.

    :param changed: called with a machine that is new or changed, as :meth:`shown` shows it.
    """

    def __init__(
        self,
        storage: Storage,
        changed: Callable[[Machine], None],
        *,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self._storage = storage
        self._changed = changed
        self._clock = clock
        self._random = random
        self._machines: dict[str, Machine] = {}
        self._lines: dict[str, Line] = {}
        self._unsaved: set[str] = set()
        self.resumes = 0
        """How often a machine's session went on over a new connection."""

    async def load(self, now: float) -> None:
        """Reads from disk what is known. Raises :class:`StorageError`."""
        for machine in await self._storage.load_machines():
            after = presence.after_server_start(machine.presence, now)
            self._machines[machine.id] = msgspec.structs.replace(machine, presence=after)

    # Looking.

    def __len__(self) -> int:
        return len(self._machines)

    def __iter__(self) -> Iterator[Machine]:
        return iter(self._machines.values())

    def __getitem__(self, machine_id: str) -> Machine:
        return self._machines[machine_id]

    def __contains__(self, machine_id: str) -> bool:
        return machine_id in self._machines

    def shown(self) -> tuple[Machine, ...]:
        """All in order of name, with what only their lines know now."""
        current = (self._current(machine) for machine in self._machines.values())
        return tuple(sorted(current, key=lambda machine: machine.name))

    def reached(self) -> list[Machine]:
        """Those with a line, with what only that knows now."""
        return [self._current(self._machines[machine_id]) for machine_id in self._lines]

    def line_of(self, machine_id: str) -> Line | None:
        """The line over which a machine joined last, unless it is closed."""
        return self._lines.get(machine_id)

    def machine_of(self, line: Line) -> Machine:
        """The machine that joined over this line; identity comes from the handshake, never from a body.

        Raises :class:`RequestError` for a line over which none did.
        """
        if not isinstance(line.data, _Guest):
            raise RequestError(NOT_JOINED, "join first")
        return self._machines[line.data.machine_id]

    @property
    def is_awaiting(self) -> bool:
        """Whether the presence of one of them changes at a deadline."""
        return any(
            machine.presence.state in {PresenceState.AWAY, PresenceState.RESUMING}
            for machine in self._machines.values()
        )

    # News of them.

    def line_changed(self, line: Line, change: StateChange) -> None:
        """A line of the server changed its state; one over which no machine joined is none of ours."""
        guest = line.data
        if not isinstance(guest, _Guest):
            return
        machine = self._machines[guest.machine_id]
        before = machine.presence
        now = self._clock()
        if change.state is LineState.ONLINE:
            if before.state is PresenceState.RESUMING:
                self.resumes += 1
            after = presence.recovered(before, now, join=guest.join, address=line.peer)
        elif change.state is LineState.SUSPECT:
            after = presence.suspected(before, now, join=guest.join, detail=change.detail)
        elif change.state is LineState.RECONNECTING:
            cause = _LOSS_CAUSES.get(change.cause, Cause.LINK_LOST)
            after = presence.link_lost(before, now, join=guest.join, cause=cause, detail=change.detail)
        elif change.state is LineState.CLOSED:
            if self._lines.get(guest.machine_id) is line:
                del self._lines[guest.machine_id]
            if change.cause is LossKind.CLOSED_HERE:
                # The control server stops: the machine did not go, and the next start takes it up from here.
                return
            cause = _LOSS_CAUSES.get(change.cause, Cause.LINK_LOST)
            after = presence.left(before, now, join=guest.join, cause=cause, detail=change.detail)
        else:
            return
        self._set_presence(machine, after)

    def receive_join(self, line: Line, join: Join) -> Machine:
        """A machine arrives over a line; it is there at once, and in the way of no other until :meth:`settled`.

        An older line of it is ended. Raises :class:`RequestError` for what cannot be let in.
        """
        machine_id = line.identity
        if not _is_machine_id(machine_id):
            raise RequestError(
                "bad_identity", "the agent's identity is not a machine id; give the agent its own --data"
            )
        if line.is_closed:
            raise RequestError("gone", "the line was closed before its join was read")
        if isinstance(line.data, _Guest) and not line.data.is_settled:
            raise RequestError("joining", "the join before this one is not answered yet")
        facts = check_facts(join.facts)
        now = self._clock()
        self._give_up_name(facts.name, machine_id)
        before = self._machines.get(machine_id)
        join_reference = self._random.randbytes(8).hex()
        arrived = presence.joined(now, join=join_reference, address=line.peer)
        if line.state is LineState.RECONNECTING:
            arrived = presence.link_lost(
                arrived, now, join=join_reference, cause=Cause.LINK_LOST, detail="lost while it joined"
            )
        machine = Machine(
            id=machine_id,
            facts=facts,
            presence=arrived,
            first_seen_at=before.first_seen_at if before else now,
        )
        older = self._lines.get(machine_id)
        self._lines[machine_id] = line
        line.data = _Guest(machine_id, join_reference)
        self._set_machine(machine)
        if older is not None and older is not line:
            older.end(Code.REPLACED, "another agent with this identity has joined")
        return machine

    def settled(self, line: Line) -> None:
        """The join over this line is about to be answered; the next one may come."""
        line.data.is_settled = True

    def receive_facts(self, line: Line, facts: FactsChecked, now: float) -> float | None:
        """A machine says anew what it is. Raises :class:`RequestError` for what does not fit.

        Every change is written to disk and told to all who watch, so of what comes faster than
        :data:`FACTS_EVERY_S` only the latest is taken: then the seconds are returned after which
        :meth:`take_late_facts` is to be called. ``now`` is on the event loop's clock.
        """
        self.machine_of(line)
        guest: _Guest = line.data
        checked = check_facts(facts)
        if guest.late_facts is not None:
            guest.late_facts = checked
            return None
        wait_s = guest.facts_at + FACTS_EVERY_S - now
        if wait_s > 0:
            guest.late_facts = checked
            return wait_s
        self._take_facts(line, checked, now)
        return None

    def take_late_facts(self, line: Line, now: float) -> None:
        """Takes what :meth:`receive_facts` put off, if the machine did not join anew since."""
        guest = line.data
        if isinstance(guest, _Guest) and guest.late_facts is not None:
            late, guest.late_facts = guest.late_facts, None
            if self._lines.get(guest.machine_id) is line:
                self._take_facts(line, late, now)

    def _take_facts(self, line: Line, facts: Facts, now: float) -> None:
        line.data.facts_at = now
        machine = self.machine_of(line)
        # The name and the boot belong to the join.
        kept = msgspec.structs.replace(
            facts, name=machine.facts.name, boot_id=machine.facts.boot_id, power=machine.facts.power
        )
        if kept != machine.facts:
            self._set_machine(msgspec.structs.replace(machine, facts=kept))

    def receive_goodbye(self, line: Line, goodbye: Goodbye) -> bool:
        """A machine is about to go. Returns whether it is this line's to say."""
        machine = self.machine_of(line)
        if self._lines.get(machine.id) is not line:
            return False  # Another agent took over this identity since: the machine has not gone.
        after = presence.said_goodbye(
            machine.presence, self._clock(), join=line.data.join, cause=goodbye.cause, detail=goodbye.detail
        )
        self._set_presence(machine, after)
        return True

    def receive_time(self, now: float) -> None:
        """Ends the waits that took too long."""
        for machine in list(self._machines.values()):
            self._set_presence(machine, presence.overdue(machine.presence, now))

    # Storing.

    async def save(self) -> None:
        """Stores what has changed. Raises :class:`StorageError`; what was not stored is tried again the next time."""
        unsaved, self._unsaved = self._unsaved, set()
        try:
            await self._storage.save_machines([self._machines[machine_id] for machine_id in sorted(unsaved)])
        except StorageError:
            # One machine the database does not take must not keep it from the others.
            await self._save_one_by_one(unsaved)
        except BaseException:
            self._unsaved |= unsaved
            raise

    async def _save_one_by_one(self, machine_ids: set[str]) -> None:
        # Those that are left when this is cancelled are not stored either.
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
            raise failure

    # Inside.

    def _set_presence(self, machine: Machine, after: Presence) -> None:
        if after is not machine.presence:
            self._set_machine(msgspec.structs.replace(machine, presence=after))

    def _set_machine(self, machine: Machine) -> None:
        self._machines[machine.id] = machine
        self._unsaved.add(machine.id)
        self._changed(self._current(machine))

    def _current(self, machine: Machine) -> Machine:
        """The machine with what only its line knows now."""
        line = self._lines.get(machine.id)
        if line is None or line.round_trip_s is None:
            return machine
        return msgspec.structs.replace(machine, round_trip_s=line.round_trip_s)

    def _give_up_name(self, name: str, machine_id: str) -> None:
        """A machine that was set up anew gets its old name; one whose name another has just now is refused."""
        for other in self._machines.values():
            if other.name != name or other.id == machine_id:
                continue
            if other.presence.state is not PresenceState.OFFLINE:
                raise RequestError(
                    "name_taken",
                    f"another machine is called {name!r} and is {other.presence.state.value}; "
                    "start this agent with another --name",
                )
            retired = self._free_name(f"{name[:50]}.old")
            logger.warning(
                "%s is now the name of %s; the machine that had it is called %s", name, machine_id, retired
            )
            facts = msgspec.structs.replace(other.facts, name=retired)
            self._set_machine(msgspec.structs.replace(other, facts=facts))
            return

    def _free_name(self, stem: str) -> str:
        taken = {machine.name for machine in self._machines.values()}
        return next(name for number in itertools.count(1) if (name := f"{stem}-{number}") not in taken)


def check_facts(facts: Facts) -> Facts:
    """Facts within their bounds. Raises :class:`RequestError` for anything else; every field is hostile (P7)."""
    try:
        checked = msgspec.convert(msgspec.to_builtins(facts), FactsChecked)
    except msgspec.ValidationError as error:
        raise RequestError(
            "bad_facts", f"what the agent says of its machine does not fit: {error}"
        ) from error
    if len(checked.persons) > PERSONS_MAX or any(
        len(person.name) + len(person.seat) > PERSON_CHARACTERS_MAX for person in checked.persons
    ):
        raise RequestError("bad_facts", "the agent names too many persons, or one with too long a name")
    return Facts(**{field: getattr(checked, field) for field in Facts.__struct_fields__})


def _is_machine_id(identity: str) -> bool:
    return 8 <= len(identity) <= 64 and all(
        sign.isascii() and (sign.isalnum() or sign == "-") for sign in identity
    )
