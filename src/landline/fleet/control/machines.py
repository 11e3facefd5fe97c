"""What agents and their lines tell about machines: joins, facts, goodbyes, and lost connections.

:mod:`landline.fleet.control.presence` decides what that means for a machine's presence. Memory changes at once;
:meth:`landline.fleet.control.machine_registry.MachineRegistry.save` writes it to disk.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import msgspec

from landline import Code, DisconnectCause, Line, LineState, RequestError, StateChange
from landline.fleet.control import presence
from landline.fleet.control.agent_session import AgentSession, RefusedClone
from landline.fleet.control.cloned_identities import ClonedIdentities
from landline.fleet.control.fact_checks import check_facts, is_machine_id
from landline.fleet.control.machine_names import take_name
from landline.fleet.control.machine_registry import MachineRegistry
from landline.fleet.control.request_rate import FACTS_EVERY_S
from landline.fleet.messages import NOT_JOINED, FactsChecked, Goodbye, Join
from landline.fleet.model import Cause, Facts, Machine, Presence, PresenceState

_LOSS_CAUSES: Final = {
    DisconnectCause.SILENT: Cause.SILENT,
    DisconnectCause.LINK_LOST: Cause.LINK_LOST,
    DisconnectCause.CLOSED_BY_PEER: Cause.AGENT_STOPPED,
}


class Machines:
    """Keeps the registry up to date with what agents report and what happens to their lines.

    :param gone_grace_s: how long a machine that said goodbye must stay away before it counts as gone.
    """

    def __init__(
        self,
        registry: MachineRegistry,
        cloned: ClonedIdentities,
        *,
        clock: Callable[[], float],
        random: Random,
        gone_grace_s: float = presence.GONE_GRACE_S,
    ) -> None:
        self._registry = registry
        self._cloned = cloned
        self._clock = clock
        self._random = random
        self._gone_grace_s = gone_grace_s
        self.resumes: int = 0
        """How often a machine's session continued over a new connection."""

    def after_server_start(self, machine: Machine, now: float) -> Machine:
        """Return a stored machine as it is for a control server that has just started: no line leads to it."""
        claimants = tuple(msgspec.structs.replace(each, is_live=False) for each in machine.claimants)
        after = presence.after_server_start(machine.presence, now, grace_s=self._gone_grace_s)
        return msgspec.structs.replace(machine, presence=after, claimants=claimants)

    def machine_of(self, line: Line) -> Machine:
        """Return the machine that joined over this line. Its identity comes from the handshake, never from a body.

        :raises RequestError: if no machine joined over it.
        """
        if not isinstance(line.data, AgentSession):
            raise RequestError(NOT_JOINED, "join first")
        return self._registry[line.data.machine_id]

    def is_gone(self, machine: Machine, now: float) -> bool:
        """Return whether a machine that announced its end is gone for certain."""
        return presence.is_gone(machine.presence, now, grace_s=self._gone_grace_s)

    @property
    def has_deadlines(self) -> bool:
        """Whether the presence of any machine changes at a deadline."""
        return any(
            machine.presence.state in {PresenceState.AWAY, PresenceState.RESUMING}
            for machine in self._registry
        )

    # Lines

    def line_changed(self, line: Line, change: StateChange) -> None:
        """Handle a state change of a line of the server. Lines over which no machine joined are ignored."""
        session = line.data
        if not isinstance(session, AgentSession | RefusedClone):
            return
        self._cloned.line_changed(line, change.state)
        if isinstance(session, RefusedClone):
            return
        machine = self._registry[session.machine_id]
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
            self._registry.remove_line(session.machine_id, line)
            if change.cause is DisconnectCause.CLOSED_HERE:
                # The control server stops. The machine did not leave, and the next start continues from here.
                return
            cause = _LOSS_CAUSES.get(change.cause, Cause.LINK_LOST)
            after = presence.left(before, now, join=session.join, cause=cause, detail=change.detail)
        else:
            return
        self._set_presence(machine, after)

    # Requests of agents

    def receive_join(self, line: Line, join: Join) -> Machine:
        """Handle a join: the machine is online at once. Its next join must wait for :meth:`join_completed`.

        An older line of the machine is ended.

        :raises RequestError: if the machine cannot be admitted.
        """
        machine_id = line.identity
        if not is_machine_id(machine_id):
            raise RequestError(
                "bad_identity", "the agent's identity is not a machine id; give the agent its own --data"
            )
        if line.is_closed:
            raise RequestError("gone", "the line was closed before its join was read")
        if isinstance(line.data, AgentSession) and not line.data.is_join_completed:
            raise RequestError("joining", "the previous join is not answered yet")
        facts = check_facts(join.facts)
        now = self._clock()
        if (retired := take_name(facts.name, machine_id, list(self._registry))) is not None:
            self._registry.put(retired)
        before = self._registry.find(machine_id)
        session = AgentSession(machine_id, self._random.randbytes(8).hex())
        machine = Machine(
            id=machine_id,
            facts=facts,
            presence=_presence_after_join(line, session.join, now),
            first_seen_at=before.first_seen_at if before else now,
            claimants=self._cloned.claimants_after_join(before, facts, line, now),
        )
        replaced = self._registry.set_line(machine_id, line)
        line.data = session
        self._registry.put(machine)
        if replaced is not None:
            replaced.abort(Code.REPLACED, "another agent with this identity has joined")
        self._cloned.joined(line, facts)
        return machine

    def join_completed(self, line: Line) -> None:
        """Note that the join over this line is about to be answered, so that the next one may come."""
        line.data.is_join_completed = True

    def receive_facts(self, line: Line, facts: FactsChecked, now: float) -> float | None:
        """Handle new facts of a machine. ``now`` is on the event loop's clock.

        Every change is written to disk and published. So facts are taken at most once in :data:`FACTS_EVERY_S`; of
        those that arrive faster, only the latest. If the facts are not taken now, the result may be the number of
        seconds after which to call :meth:`take_late_facts`.

        :raises RequestError: if a field is out of its bounds.
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
        """Take the facts that :meth:`receive_facts` postponed, unless the machine has joined again since."""
        session = line.data
        if isinstance(session, AgentSession) and session.late_facts is not None:
            late, session.late_facts = session.late_facts, None
            if self._registry.line_of(session.machine_id) is line:
                self._take_facts(line, late, now)

    def _take_facts(self, line: Line, facts: Facts, now: float) -> None:
        line.data.facts_at = now
        machine = self.machine_of(line)
        # Name, boot and power back end belong to the join.
        kept = msgspec.structs.replace(
            facts, name=machine.facts.name, boot_id=machine.facts.boot_id, power=machine.facts.power
        )
        if kept != machine.facts:
            self._registry.put(msgspec.structs.replace(machine, facts=kept))

    def receive_goodbye(self, line: Line, goodbye: Goodbye) -> None:
        """Handle the goodbye of a machine that is about to go. Its next join takes the goodbye back.

        A goodbye over a line that another join has replaced changes nothing: it belongs to an older join.
        """
        machine = self.machine_of(line)
        after = presence.said_goodbye(
            machine.presence,
            self._clock(),
            join=line.data.join,
            cause=goodbye.cause,
            detail=goodbye.detail,
            execution_id=goodbye.execution_id,
        )
        self._set_presence(machine, after)

    # Deadlines

    def receive_time(self, now: float) -> None:
        """End the waits that took too long."""
        for machine in list(self._registry):
            after = presence.overdue(machine.presence, now, grace_s=self._gone_grace_s)
            self._set_presence(machine, after)

    def _set_presence(self, machine: Machine, after: Presence) -> None:
        if after is not machine.presence:
            self._registry.put(msgspec.structs.replace(machine, presence=after))


def _presence_after_join(line: Line, join: str, now: float) -> Presence:
    arrived = presence.joined(now, join=join, address=line.peer)
    if line.state is not LineState.RECONNECTING:
        return arrived
    return presence.link_lost(arrived, now, join=join, cause=Cause.LINK_LOST, detail="lost while it joined")
