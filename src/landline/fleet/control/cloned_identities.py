"""Machines with a cloned identity: detecting them, keeping the list of claimants, ending the mark.

:mod:`landline.fleet.control.clones` makes the decisions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NoReturn

import msgspec

from landline import Code, LandlineError, Line, LineState, RequestError, guarded_logger
from landline.fleet.api import OperationError
from landline.fleet.control import clones
from landline.fleet.control.agent_session import RefusedClone
from landline.fleet.control.fact_checks import check_facts, is_machine_id
from landline.fleet.control.machine_registry import MachineRegistry
from landline.fleet.messages import CLONED_IDENTITY, Join
from landline.fleet.model import Claimant, Facts, Machine

logger: Final = guarded_logger("landline.control")

PROBE_TIMEOUT_S: Final = 5.0
"""How long an older line may take to answer when another agent joins with its identity."""


class ClonedIdentities:
    """The identities that several machines use, and the lines of the machines that were refused."""

    def __init__(
        self,
        registry: MachineRegistry,
        *,
        clock: Callable[[], float],
        probe_timeout_s: float = PROBE_TIMEOUT_S,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._probe_timeout_s = probe_timeout_s
        self._cloned: set[str] = set()
        # By identity: the lines of machines that came second and wait.
        self._refused: dict[str, set[Line]] = {}
        # Identities whose older line is being probed.
        self._probes: dict[str, asyncio.Event] = {}

    def load(self) -> None:
        """Take over the marks of the machines that were read from disk."""
        self._cloned = {machine.id for machine in self._registry if machine.claimants}

    async def probe(self, line: Line, join: Join) -> None:
        """Before a join: find out whether the identity's older line leads to another machine.

        An agent has one line at a time, so an older line that answers a ping sent after this join leads to another
        machine. Then both are remembered, and this join is refused. A line that does not answer within
        :data:`PROBE_TIMEOUT_S` is a remnant of the same machine.

        :raises RequestError: with the code ``CLONED_IDENTITY`` if the join is refused.
        """
        machine_id = line.identity
        if machine_id not in self._registry or not is_machine_id(machine_id):
            return
        await self.wait_while_probed(machine_id)
        self._probes[machine_id] = asyncio.Event()
        try:
            while (older := self._registry.line_of(machine_id)) not in {None, line}:
                assert older is not None
                if await _answers(older, self._probe_timeout_s):
                    self._refuse(line, check_facts(join.facts))
                if self._registry.line_of(machine_id) is older:
                    return
        finally:
            self._probes.pop(machine_id).set()

    async def wait_while_probed(self, machine_id: str) -> None:
        """Wait until it is known whether two lines of this identity lead to two machines."""
        while (probe := self._probes.get(machine_id)) is not None:
            await probe.wait()

    def claimants_after_join(
        self, before: Machine | None, facts: Facts, line: Line, now: float
    ) -> tuple[Claimant, ...]:
        """Return the claimants of the identity of a machine that joins; none if the identity is not cloned."""
        if before is None or not before.claimants:
            return ()
        # The older line, if there is one, is ended or is this one.
        known = clones.left(before.claimants, _claimant(before), now)
        return clones.arrived(known, clones.claimant(facts, address=line.peer, now=now))

    def joined(self, line: Line, facts: Facts) -> None:
        """Handle a completed join: the machine waits no more, and may have left another, cloned identity."""
        self._refused.get(line.identity, set()).discard(line)
        for cloned_id in self._cloned - {line.identity}:
            cloned = self._registry[cloned_id]
            claimants = clones.identified(cloned.claimants, facts)
            if claimants == cloned.claimants:
                continue
            if not claimants:
                logger.warning(
                    "the identity of %s is no longer cloned: %s has its own", cloned.name, facts.name
                )
            self._set_claimants(cloned_id, claimants)

    def line_changed(self, line: Line, state: LineState) -> None:
        """Handle a change of a line over which a machine joined or was refused."""
        refused = line.data
        if isinstance(refused, RefusedClone):
            if state is LineState.CLOSED:
                self._refused.get(refused.machine_id, set()).discard(line)
            self._claimant_changed(refused.machine_id, refused.claimant, line, state)
        elif self._registry.line_of(refused.machine_id) is line:
            claimant = _claimant(self._registry[refused.machine_id])
            self._claimant_changed(refused.machine_id, claimant, line, state)

    def resolve(self, machine_id: str) -> Machine:
        """End the mark because an operator has decided which machine keeps the identity.

        :raises OperationError: if the identity is not cloned, or several of its machines are connected.
        """
        machine = self._registry[machine_id]
        if not machine.claimants:
            raise OperationError("not_cloned", f"the identity of {machine.name} is not cloned")
        if sum(each.is_live for each in machine.claimants) > 1:
            raise OperationError("still_cloned", clones.advice(machine))
        logger.warning("the identity of %s is no longer cloned: an operator resolved it", machine.name)
        self._set_claimants(machine_id, ())
        return self._registry[machine_id]

    def _refuse(self, line: Line, facts: Facts) -> NoReturn:
        machine_id = line.identity
        machine = self._registry[machine_id]
        rival = clones.claimant(facts, address=line.peer, now=self._clock())
        is_new = not any(clones.is_same(each, rival) for each in machine.claimants)
        line.data = RefusedClone(machine_id, rival)
        self._refused.setdefault(machine_id, set()).add(line)
        self._set_claimants(machine_id, clones.arrived(machine.claimants or (_claimant(machine),), rival))
        if is_new:
            logger.warning("%s", clones.advice(self._registry[machine_id]))
        claimants = clones.describe(self._registry[machine_id].claimants)
        raise RequestError(
            CLONED_IDENTITY,
            f"another machine with the same identity is connected: {claimants}; remove the file machine-id in the "
            "--data directory of one of them and start its agent again",
        )

    def _claimant_changed(self, machine_id: str, claimant: Claimant, line: Line, state: LineState) -> None:
        claimants, now = self._registry[machine_id].claimants, self._clock()
        if not claimants:
            return
        if state is LineState.ONLINE:
            back = msgspec.structs.replace(claimant, address=line.peer, is_live=True, since_at=now)
            self._set_claimants(machine_id, clones.arrived(claimants, back))
        elif state in {LineState.RECONNECTING, LineState.CLOSED}:
            self._set_claimants(machine_id, clones.left(claimants, claimant, now))

    def _set_claimants(self, machine_id: str, claimants: tuple[Claimant, ...]) -> None:
        if claimants:
            self._cloned.add(machine_id)
        else:
            self._cloned.discard(machine_id)
        self._registry.put(msgspec.structs.replace(self._registry[machine_id], claimants=claimants))
        if not claimants:
            # The refused machines may join now.
            for line in list(self._refused.pop(machine_id, ())):
                line.abort(Code.GOING_AWAY, "the identity is no longer cloned", retry_after_s=0.0)


def _claimant(machine: Machine) -> Claimant:
    """Return the machine that joined last, as a claimant of its identity."""
    return clones.claimant(machine.facts, address=machine.presence.address, now=machine.presence.since_at)


async def _answers(line: Line, timeout_s: float) -> bool:
    try:
        await line.ping(timeout=timeout_s)
    except (LandlineError, TimeoutError):
        return False
    return True
