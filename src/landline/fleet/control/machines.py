"""The machines: what each says of itself, whether it is on, and over which line it is reached.

What the news of a machine means for its presence is decided by :mod:`landline.fleet.control.presence`. Memory
changes at once, and :meth:`Machines.save` brings the disk up to it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from random import Random
from typing import Final, NoReturn

import msgspec

from landline import (
    Code,
    DisconnectCause,
    LandlineError,
    Line,
    LineState,
    RequestError,
    StateChange,
    guarded_logger,
    safe_text,
)
from landline.fleet.api import OperationError, StorageError
from landline.fleet.control import clones, presence
from landline.fleet.control.request_rate import FACTS_EVERY_S
from landline.fleet.control.storage import Storage
from landline.fleet.messages import (
    CLONED_IDENTITY,
    NOT_JOINED,
    PERSON_CHARACTERS_MAX,
    PERSONS_MAX,
    FactsChecked,
    Goodbye,
    Join,
)
from landline.fleet.model import Cause, Claimant, Facts, Machine, Presence, PresenceState

logger = guarded_logger("landline.control")

PROBE_S: Final = 5.0
"""How long an older line may take to answer when another agent joins with its identity."""

_LOSS_CAUSES: Final = {
    DisconnectCause.SILENT: Cause.SILENT,
    DisconnectCause.LINK_LOST: Cause.LINK_LOST,
    DisconnectCause.CLOSED_BY_PEER: Cause.AGENT_STOPPED,
}


class AgentSession:
    """What a line's ``data`` says: the machine that joined over it."""

    __slots__ = ("facts_at", "is_join_completed", "join", "late_facts", "machine_id")

    def __init__(self, machine_id: str, join: str) -> None:
        self.facts_at = float("-inf")
        """When what the machine said of itself was taken, on the event loop's clock;"""
        self.late_facts: Facts | None = None
        """... and what it said since."""
        self.machine_id = machine_id
        self.join = join
        self.is_join_completed = False


class _Rival:
    """What a line's ``data`` says: a machine whose identity another one has just now."""

    __slots__ = ("claimant", "machine_id")

    def __init__(self, machine_id: str, claimant: Claimant) -> None:
        self.machine_id = machine_id
        self.claimant = claimant


class Machines:
    """Every machine known, online or not.

    :param changed: called with a machine that is new or changed, as :meth:`shown` shows it, and as it was before.
    """

    def __init__(
        self,
        storage: Storage,
        changed: Callable[[Machine, Machine | None], None],
        *,
        clock: Callable[[], float],
        random: Random,
        gone_grace_s: float = presence.GONE_GRACE_S,
    ) -> None:
        self._storage = storage
        self._changed = changed
        self._clock = clock
        self._random = random
        self._gone_grace_s = gone_grace_s
        self._machines: dict[str, Machine] = {}
        self._lines: dict[str, Line] = {}
        # Of cloned identities: the lines of those that came second and wait.
        self._rivals: dict[str, set[Line]] = {}
        self._cloned: set[str] = set()
        # Identities over which two lines are being told apart.
        self._probed: dict[str, asyncio.Event] = {}
        self._unsaved: set[str] = set()
        self.resumes = 0
        """How often a machine's session went on over a new connection."""

    async def load(self, now: float) -> None:
        """Reads from disk what is known. Raises :class:`StorageError`."""
        for machine in await self._storage.load_machines():
            after = presence.after_server_start(machine.presence, now, grace_s=self._gone_grace_s)
            # No line leads to any of them yet.
            claimants = tuple(msgspec.structs.replace(each, is_live=False) for each in machine.claimants)
            self._machines[machine.id] = msgspec.structs.replace(machine, presence=after, claimants=claimants)
            if claimants:
                self._cloned.add(machine.id)

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

    def named(self, name: str) -> Machine:
        """The machine with that name. Raises :class:`OperationError`."""
        found = next((machine for machine in self._machines.values() if machine.name == name), None)
        if found is None:
            raise OperationError("unknown_target", f"there is no machine called {name[:80]!r}")
        return found

    def is_gone(self, machine: Machine, now: float) -> bool:
        """Whether a machine that said it goes down is gone for certain."""
        return presence.is_gone(machine.presence, now, grace_s=self._gone_grace_s)

    def machine_of(self, line: Line) -> Machine:
        """The machine that joined over this line; identity comes from the handshake, never from a body.

        Raises :class:`RequestError` for a line over which none did.
        """
        if not isinstance(line.data, AgentSession):
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
        session = line.data
        if isinstance(session, _Rival):
            if change.state is LineState.CLOSED:
                self._rivals.get(session.machine_id, set()).discard(line)
            self._claimant_changed(session.machine_id, session.claimant, line, change.state)
            return
        if not isinstance(session, AgentSession):
            return
        if self._lines.get(session.machine_id) is line:
            self._claimant_changed(
                session.machine_id, self._claimant_of(self._machines[session.machine_id]), line, change.state
            )
        machine = self._machines[session.machine_id]
        before = machine.presence
        now = self._clock()
        if change.state is LineState.ONLINE:
            if before.state is PresenceState.RESUMING:
                self.resumes += 1
            after = presence.recovered(before, now, join=session.join, address=line.peer)
        elif change.state is LineState.SUSPECT:
            after = presence.suspected(before, now, join=session.join, detail=change.detail)
        elif change.state is LineState.RECONNECTING:
            cause = _LOSS_CAUSES.get(change.cause, Cause.LINK_LOST)
            after = presence.link_lost(before, now, join=session.join, cause=cause, detail=change.detail)
        elif change.state is LineState.CLOSED:
            if self._lines.get(session.machine_id) is line:
                del self._lines[session.machine_id]
            if change.cause is DisconnectCause.CLOSED_HERE:
                # The control server stops: the machine did not go, and the next start takes it up from here.
                return
            cause = _LOSS_CAUSES.get(change.cause, Cause.LINK_LOST)
            after = presence.left(before, now, join=session.join, cause=cause, detail=change.detail)
        else:
            return
        self._set_presence(machine, after)

    async def find_clone(self, line: Line, join: Join) -> None:
        """Before a join: an older line over which a machine still answers leads to another machine.

        An agent has one line at a time, so an answer to a ping that was sent after its join shows that there are two
        of them. Where there are, both are remembered, and this one is refused: raises :class:`RequestError` with the
        code ``CLONED_IDENTITY``. A line that does not answer within :data:`PROBE_S` is a remnant, and in nobody's
        way.
        """
        machine_id = line.identity
        if machine_id not in self._machines or not _is_machine_id(machine_id):
            return
        while (probed := self._probed.get(machine_id)) is not None:
            await probed.wait()
        self._probed[machine_id] = asyncio.Event()
        try:
            while (older := self._lines.get(machine_id)) not in {None, line}:
                assert older is not None
                if await _answers(older):
                    self._receive_clone(line, check_facts(join.facts))
                if self._lines.get(machine_id) is older:
                    return
        finally:
            self._probed.pop(machine_id).set()

    async def told_apart(self, machine_id: str) -> None:
        """Waits while it is found out whether two lines of this identity lead to two machines."""
        while (probed := self._probed.get(machine_id)) is not None:
            await probed.wait()

    def receive_join(self, line: Line, join: Join) -> Machine:
        """A machine arrives over a line; it is there at once, and in the way of no other until :meth:`join_completed`.

        An older line of it is ended. Raises :class:`RequestError` for what cannot be let in.
        """
        machine_id = line.identity
        if not _is_machine_id(machine_id):
            raise RequestError(
                "bad_identity", "the agent's identity is not a machine id; give the agent its own --data"
            )
        if line.is_closed:
            raise RequestError("gone", "the line was closed before its join was read")
        if isinstance(line.data, AgentSession) and not line.data.is_join_completed:
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
            claimants=before.claimants if before else (),
        )
        if machine.claimants:
            assert before is not None
            # The older line, if there is one, is ended below, or is this one.
            known = clones.left(machine.claimants, self._claimant_of(before), now)
            new = clones.claimant(facts, address=line.peer, now=now)
            machine = msgspec.structs.replace(machine, claimants=clones.arrived(known, new))
        self._rivals.get(machine_id, set()).discard(line)
        older = self._lines.get(machine_id)
        self._lines[machine_id] = line
        line.data = AgentSession(machine_id, join_reference)
        self._set_machine(machine)
        if older is not None and older is not line:
            older.abort(Code.REPLACED, "another agent with this identity has joined")
        self._find_identified(machine_id, facts)
        return machine

    def join_completed(self, line: Line) -> None:
        """The join over this line is about to be answered; the next one may come."""
        line.data.is_join_completed = True

    def receive_facts(self, line: Line, facts: FactsChecked, now: float) -> float | None:
        """A machine says anew what it is. Raises :class:`RequestError` for what does not fit.

        Every change is written to disk and told to all who watch, so of what comes faster than
        :data:`FACTS_EVERY_S` only the latest is taken: then the seconds are returned after which
        :meth:`take_late_facts` is to be called. ``now`` is on the event loop's clock.
        """
        self.machine_of(line)
        session: AgentSession = line.data
        checked = check_facts(facts)
        if session.late_facts is not None:
            session.late_facts = checked
            return None
        wait_s = session.facts_at + FACTS_EVERY_S - now
        if wait_s > 0:
            session.late_facts = checked
            return wait_s
        self._take_facts(line, checked, now)
        return None

    def take_late_facts(self, line: Line, now: float) -> None:
        """Takes what :meth:`receive_facts` put off, if the machine did not join anew since."""
        session = line.data
        if isinstance(session, AgentSession) and session.late_facts is not None:
            late, session.late_facts = session.late_facts, None
            if self._lines.get(session.machine_id) is line:
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

    def receive_goodbye(self, line: Line, goodbye: Goodbye) -> None:
        """A machine is about to go; it takes that back with its next join."""
        machine = self.machine_of(line)
        if self._lines.get(machine.id) is not line:
            return  # Another agent took over this identity since: the machine has not gone.
        after = presence.said_goodbye(
            machine.presence,
            self._clock(),
            join=line.data.join,
            cause=goodbye.cause,
            detail=goodbye.detail,
            execution_id=goodbye.execution_id,
        )
        self._set_presence(machine, after)

    def resolve(self, machine_id: str) -> Machine:
        """An operator has decided who keeps a cloned identity.

        Raises :class:`OperationError` while several of them are connected.
        """
        machine = self._machines[machine_id]
        if not machine.claimants:
            raise OperationError("not_cloned", f"the identity of {machine.name} is not cloned")
        if sum(each.is_live for each in machine.claimants) > 1:
            raise OperationError("still_cloned", clones.advice(machine))
        logger.warning("%s has its identity for itself again: an operator says so", machine.name)
        self._set_claimants(machine_id, ())
        return self._machines[machine_id]

    def receive_time(self, now: float) -> None:
        """Ends the waits that took too long."""
        for machine in list(self._machines.values()):
            self._set_presence(machine, presence.overdue(machine.presence, now, grace_s=self._gone_grace_s))

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

    def _receive_clone(self, line: Line, facts: Facts) -> NoReturn:
        machine_id, now = line.identity, self._clock()
        machine = self._machines[machine_id]
        known = machine.claimants
        if not known:
            known = (self._claimant_of(machine),)
        rival = clones.claimant(facts, address=line.peer, now=now)
        is_new = not any(clones.is_same(each, rival) for each in machine.claimants)
        line.data = _Rival(machine_id, rival)
        self._rivals.setdefault(machine_id, set()).add(line)
        self._set_claimants(machine_id, clones.arrived(known, rival))
        if is_new:
            logger.warning("%s", clones.advice(self._machines[machine_id]))
        who = clones.describe(self._machines[machine_id].claimants)
        raise RequestError(
            CLONED_IDENTITY,
            f"another machine with the same identity is connected: {who}; remove the file machine-id in the --data "
            "directory of one of them and start its agent again",
        )

    def _claimant_changed(self, machine_id: str, claimant: Claimant, line: Line, state: LineState) -> None:
        """The line of one of those that claim an identity, if it is cloned, ended or was resumed."""
        claimants, now = self._machines[machine_id].claimants, self._clock()
        if not claimants:
            return
        if state is LineState.ONLINE:
            back = msgspec.structs.replace(claimant, address=line.peer, is_live=True, since_at=now)
            self._set_claimants(machine_id, clones.arrived(claimants, back))
        elif state in {LineState.RECONNECTING, LineState.CLOSED}:
            self._set_claimants(machine_id, clones.left(claimants, claimant, now))

    def _claimant_of(self, machine: Machine) -> Claimant:
        """The machine that joined last, as one of those that claim its identity."""
        address = machine.presence.address
        return clones.claimant(machine.facts, address=address, now=machine.presence.since_at)

    def _find_identified(self, machine_id: str, facts: Facts) -> None:
        """A machine has joined: where it was one of those with a cloned identity, it has got one of its own."""
        for cloned_id in self._cloned - {machine_id}:
            cloned = self._machines[cloned_id]
            claimants = clones.identified(cloned.claimants, facts)
            if claimants == cloned.claimants:
                continue
            if not claimants:
                logger.warning(
                    "%s has its identity for itself again: %s has its own", cloned.name, facts.name
                )
            self._set_claimants(cloned_id, claimants)

    def _set_claimants(self, machine_id: str, claimants: tuple[Claimant, ...]) -> None:
        if claimants:
            self._cloned.add(machine_id)
        else:
            self._cloned.discard(machine_id)
        self._set_machine(msgspec.structs.replace(self._machines[machine_id], claimants=claimants))
        if not claimants:
            # Who waits may join now.
            for line in list(self._rivals.pop(machine_id, ())):
                line.abort(Code.GOING_AWAY, "its identity is its own again", retry_after_s=0.0)

    def _set_presence(self, machine: Machine, after: Presence) -> None:
        if after is not machine.presence:
            self._set_machine(msgspec.structs.replace(machine, presence=after))

    def _set_machine(self, machine: Machine) -> None:
        before = self._machines.get(machine.id)
        self._machines[machine.id] = machine
        self._unsaved.add(machine.id)
        self._changed(self._current(machine), before)

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
            facts = msgspec.structs.replace(other.facts, name=retired)
            self._set_machine(msgspec.structs.replace(other, facts=facts))
            return

    def _free_name(self, stem: str) -> str:
        taken = {machine.name for machine in self._machines.values()}
        return next(name for number in itertools.count(1) if (name := f"{stem}-{number}") not in taken)


async def _answers(line: Line) -> bool:
    try:
        await line.ping(timeout=PROBE_S)
    except (LandlineError, TimeoutError):
        return False
    return True


def check_facts(facts: Facts) -> Facts:
    """Facts within their bounds. Raises :class:`RequestError` for anything else; every field is hostile (P7)."""
    if len(facts.persons) > PERSONS_MAX:
        # Before each of them is looked at.
        raise RequestError("bad_facts", f"the agent names more than {PERSONS_MAX} persons")
    try:
        checked = msgspec.convert(msgspec.to_builtins(facts), FactsChecked)
    except msgspec.ValidationError as error:
        raise RequestError(
            "bad_facts", f"what the agent says of its machine does not fit: {safe_text(str(error))}"
        ) from error
    if any(len(person.name) + len(person.seat) > PERSON_CHARACTERS_MAX for person in checked.persons):
        raise RequestError("bad_facts", "the agent names a person with too long a name")
    return Facts(**{field: getattr(checked, field) for field in Facts.__struct_fields__})


def _is_machine_id(identity: str) -> bool:
    return 8 <= len(identity) <= 64 and all(
        sign.isascii() and (sign.isalnum() or sign == "-") for sign in identity
    )
