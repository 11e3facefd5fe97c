"""Executions on their way to the machines, and what the agents report about them.

:mod:`landline.fleet.control.jobs` and :mod:`landline.fleet.control.reconciliation` decide what becomes of an execution.
This module sends orders and magic packets and answers the agents' requests. Whatever an answer promises is on disk
before the answer is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from weakref import WeakKeyDictionary

import landline
from landline import Line, RequestError, guarded_logger
from landline.fleet.api import StorageError
from landline.fleet.control import clones, jobs, reconciliation
from landline.fleet.control.background_tasks import BackgroundTasks
from landline.fleet.control.job_store import JobStore
from landline.fleet.control.machine_registry import MachineRegistry
from landline.fleet.control.machines import Machines
from landline.fleet.control.shielded_tasks import ShieldedTasks
from landline.fleet.control.wake_on_lan import Waker
from landline.fleet.messages import (
    TEXT_CHARACTERS_MAX,
    TOO_MANY_ORDERS,
    Claim,
    Grant,
    KnownExecution,
    Postpone,
    Postponed,
    Report,
    Withdraw,
)
from landline.fleet.model import Action, Execution, ExecutionState, Job, Machine, PresenceState

logger: Final = guarded_logger("landline.control")

WAKE_EVERY_S: Final = 5.0
"""Interval between magic packets. They are datagrams, and network cards miss some while they power up."""


class JobDispatcher:
    """Stores jobs and carries them to the machines.

    Every method that records something may raise :class:`landline.fleet.api.StorageError`.
    """

    def __init__(
        self,
        job_store: JobStore,
        registry: MachineRegistry,
        machines: Machines,
        waker: Waker,
        background_tasks: BackgroundTasks,
        writes: ShieldedTasks,
        *,
        clock: Callable[[], float],
        wake_every_s: float = WAKE_EVERY_S,
    ) -> None:
        self._job_store = job_store
        self._registry = registry
        self._machines = machines
        self._waker = waker
        self._background_tasks = background_tasks
        self._writes = writes
        self._clock = clock
        self._wake_every_s = wake_every_s
        # Executions whose order was sent over a line and is not answered yet, or was refused.
        self._in_flight: WeakKeyDictionary[Line, set[str]] = WeakKeyDictionary()

    # Operators

    async def accept(self, job: Job, executions: Sequence[Execution]) -> Job:
        """Store a job, start it as soon as it is on disk, and return it.

        If its ``request_id`` was used before, return the earlier job and change nothing. Cancelling stops the
        waiting only: a job that is stored is also started.
        """
        return await self._writes.run(self._accept(job, executions))

    async def cancel(self, job: Job, *, cancelled_by: str) -> int:
        """Cancel the executions of a job that have not started. Return on how many machines that was."""
        now = self._clock()
        cancelled = [
            execution
            for before in self._job_store.of_job(job.id)
            if (execution := jobs.cancel(before, now, cancelled_by=cancelled_by)) is not None
        ]
        await self._job_store.record(cancelled)
        for execution in cancelled:
            self._withdraw(execution)
        return len(cancelled)

    async def _accept(self, job: Job, executions: Sequence[Execution]) -> Job:
        stored = await self._job_store.add(job, executions)
        if stored.id == job.id:
            self._start(job, executions)
        return stored

    def _start(self, job: Job, executions: Iterable[Execution]) -> None:
        """Start a stored job where its machines are connected; the others get it when they join."""
        for execution in executions:
            if execution.state.is_final:
                continue
            if job.action is Action.WAKE:
                self._background_tasks.start(self._wake(execution.id))
            elif self._registry.line_of(execution.machine_id) is not None:
                self._background_tasks.start(self._deliver(execution.id))

    # Server start, and deadlines

    def resume(self) -> None:
        """Continue the executions that do not wait for a join. Call once after the start of the control server."""
        for execution in self._job_store.executions():
            job = self._job_store.job_of(execution)
            if job.action is Action.WAKE and not execution.state.is_final:
                self._background_tasks.start(self._wake(execution.id))

    async def receive_time(self, now: float) -> None:
        """End the executions that did not start or finish in time."""
        late = [
            execution
            for before in self._job_store.executions()
            if (execution := self._after_deadline(before, now)) is not None
        ]
        await self._job_store.record(late)
        for execution in late:
            if execution.state is ExecutionState.EXPIRED:
                self._withdraw(execution)

    def _after_deadline(self, execution: Execution, now: float) -> Execution | None:
        job = self._job_store.job_of(execution)
        machine = self._registry[execution.machine_id]
        if self._machines.is_gone(machine, now):
            done = reconciliation.complete_when_gone(job, execution, machine.presence, now)
            if done is not None:
                return done
        return jobs.overdue(job, execution, now)

    # Requests of agents

    async def receive_join(self, machine: Machine, known: Sequence[KnownExecution]) -> tuple[Withdraw, ...]:
        """Reconcile the open executions of a machine that is back, and send the orders that it does not have.

        Return the executions that its agent still works on although they have ended.
        """
        now = self._clock()
        known_by_id = {entry.id: entry for entry in known}
        reconciled = []
        for execution in self._job_store.for_machine(machine.id):
            job = self._job_store.job_of(execution)
            after = reconciliation.reconcile_on_join(
                job, execution, machine, known_by_id.get(execution.id), now
            )
            if after is not None:
                reconciled.append(after)
        await self._job_store.record(reconciled)
        for execution in self._job_store.for_machine(machine.id):
            if execution.state.is_final or execution.state is ExecutionState.ACTING:
                continue
            entry = known_by_id.get(execution.id)
            if entry is None or not entry.is_running:
                self._background_tasks.start(self._deliver(execution.id))
        return self._ended_meanwhile(known)

    async def receive_clone(self, machine: Machine) -> None:
        """Refuse the executions of a cloned identity that have not started: another machine could run them."""
        reason = clones.refusal(machine)
        assert reason is not None
        now = self._clock()
        refused = [
            execution
            for before in self._job_store.for_machine(machine.id)
            if (execution := jobs.refuse_clone(before, now, reason)) is not None
        ]
        await self._job_store.record(refused)
        for execution in refused:
            self._withdraw(execution)

    async def receive_report(self, line: Line, report: Report) -> bool:
        """Record the state that an agent reports."""
        machine, execution = await self._execution_of(line, report.execution.id)
        if execution is None:
            return True  # It ended long ago: there is nothing to add.
        job = self._job_store.job_of(execution)
        after = jobs.receive_report(
            job, execution, report.execution, self._clock(), power=machine.facts.power
        )
        if after is not None:
            await self._job_store.record([after])
        return True

    async def receive_claim(self, line: Line, claim: Claim) -> Grant:
        """Decide whether an agent may act now, and record it before answering."""
        machine, execution = await self._execution_of(line, claim.execution_id)
        if execution is None:
            return Grant(False, "there is no such job any more")
        if (reason := clones.refusal(machine)) is not None:
            return Grant(False, reason[:TEXT_CHARACTERS_MAX])
        grant, recorded = jobs.claim(execution, claim, self._clock(), hardware=clones.hardware(machine.facts))
        await self._job_store.record(recorded)
        return grant

    async def receive_postpone(self, line: Line, request: Postpone) -> Postponed:
        """Handle a postponement requested by a person at the machine."""
        _, execution = await self._execution_of(line, request.execution_id)
        if execution is None:
            return Postponed(False, "there is no such job any more")
        job = self._job_store.job_of(execution)
        reply, after = jobs.postpone(
            job,
            execution,
            request.postpone_s,
            self._clock(),
            request.detail,
            answered_by=request.answered_by,
        )
        if after is not None:
            await self._job_store.record([after])
        return reply

    async def _execution_of(self, line: Line, execution_id: str) -> tuple[Machine, Execution | None]:
        """Return an agent's machine and one of its executions, in a state that is on disk."""
        await self._job_store.written(execution_id)
        machine = self._machines.machine_of(line)
        execution = self._job_store.find(execution_id)
        if execution is not None and execution.machine_id != machine.id:
            logger.warning("%s sent a request about an execution of %s", machine.name, execution.machine_name)
            raise RequestError("not_yours", "that execution belongs to another machine")
        return machine, execution

    def _ended_meanwhile(self, known: Sequence[KnownExecution]) -> tuple[Withdraw, ...]:
        """Return the executions that an agent works on and that ended while it was away."""
        ended = []
        for entry in known:
            stored = self._job_store.find(entry.id)
            if entry.is_running and (
                stored is None or (stored.state.is_final and not stored.state.has_started)
            ):
                ended.append(Withdraw(entry.id, "it has ended" if stored is None else stored.detail[:200]))
        return tuple(ended)

    # Orders

    async def _deliver(self, execution_id: str) -> None:
        """Send an order. If the session is lost before the answer, the next join sends it again."""
        execution = self._job_store.find(execution_id)
        if execution is None or execution.state.is_final:
            return
        line = self._registry.line_of(execution.machine_id)
        machine = self._registry[execution.machine_id]
        if line is None or machine.presence.state is PresenceState.AWAY or machine.claimants:
            # A machine that goes down gets it when it joins again, in this boot or the next; a machine with a cloned
            # identity never does.
            return
        in_flight = self._in_flight.setdefault(line, set())
        if execution_id in in_flight:
            return
        job = self._job_store.job_of(execution)
        refusal = jobs.delivery_refusal(job, machine)
        if refusal is not None:
            await self._record_delivery(execution_id, ExecutionState.REFUSED, refusal)
            return
        in_flight.add(execution_id)
        order = jobs.order_for(job, execution, self._clock())
        try:
            await line.request("execute", order, timeout=None)
        except (landline.RequestLost, landline.LineClosed):
            in_flight.discard(execution_id)
            return
        except RequestError as error:
            is_full = error.code == TOO_MANY_ORDERS
            state = ExecutionState.REFUSED if is_full else ExecutionState.FAILED
            detail = f"the agent did not take it: {error.message}"
        else:
            state, detail = ExecutionState.DELIVERED, ""
            in_flight.discard(execution_id)
        await self._record_delivery(execution_id, state, detail)

    async def _record_delivery(self, execution_id: str, state: ExecutionState, detail: str) -> None:
        try:
            await self._advance(execution_id, state, detail)
        except StorageError as error:
            # The agent's next report continues from here; an order that it refused expires.
            logger.warning("%s is %s, which could not be recorded: %s", execution_id, state.value, error)

    def _withdraw(self, execution: Execution) -> None:
        line = self._registry.line_of(execution.machine_id)
        if line is not None:
            withdraw = Withdraw(execution.id, execution.detail[:200])
            self._background_tasks.start(self._send_withdraw(line, withdraw))

    async def _send_withdraw(self, line: Line, withdraw: Withdraw) -> None:
        try:
            await line.request("withdraw", withdraw, timeout=60)
        except (RequestError, landline.LineClosed) as error:
            # The agent sends a claim before it acts, and that is refused.
            logger.debug("withdrawing %s was not answered: %s", withdraw.execution_id, error)

    # Wake-up

    async def _wake(self, execution_id: str) -> None:
        """Send magic packets until the machine is online or the time is up, also while the disk is full."""
        while (execution := self._job_store.find(execution_id)) is not None and not execution.state.is_final:
            try:
                await self._wake_once(execution)
            except StorageError as error:
                logger.warning("waking %s: %s; trying again", execution.machine_name, error)
            await asyncio.sleep(self._wake_every_s)

    async def _wake_once(self, execution: Execution) -> None:
        await self._advance(execution.id, ExecutionState.ACTING)
        machine = self._registry[execution.machine_id]
        if machine.presence.state is PresenceState.ONLINE:
            # It was on all the time, and its line has resumed.
            await self._advance(execution.id, ExecutionState.DONE, "it is online")
            return
        try:
            self._waker.wake(machine.facts.mac_addresses)
        except OSError as error:
            await self._advance(
                execution.id, ExecutionState.FAILED, f"the wake-up packet was not sent: {error}"
            )

    async def _advance(self, execution_id: str, state: ExecutionState, detail: str = "") -> None:
        execution = self._job_store.find(execution_id)
        if execution is None:
            return  # It ended meanwhile.
        after = jobs.advance(execution, state, self._clock(), detail)
        if after is not None:
            await self._job_store.record([after])
