"""Deliveries: executions on their way to the machines, and what the machines' agents say of them.

What may become of an execution is decided by :mod:`landline.fleet.control.jobs`; here orders and magic packets are
sent, and what agents ask is answered. What an answer promises is on disk before it is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from weakref import WeakKeyDictionary

import landline
from landline import Line, RequestError, guarded_logger
from landline.fleet.control import clones, jobs
from landline.fleet.control.background_tasks import BackgroundTasks
from landline.fleet.control.job_store import JobStore
from landline.fleet.control.machines import Machines
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

logger = guarded_logger("landline.control")

WAKE_AGAIN_S: Final = 5.0
"""How often the magic packet is repeated: it is a datagram, and network cards miss some while they power up."""


class JobDispatcher:
    """Brings what stands in the job_store to the machines.

    Its methods raise :class:`RequestError` when the disk does not take what is to be recorded.
    """

    def __init__(
        self,
        job_store: JobStore,
        machines: Machines,
        waker: Waker,
        background_tasks: BackgroundTasks,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._job_store = job_store
        self._machines = machines
        self._waker = waker
        self._background_tasks = background_tasks
        self._clock = clock
        # Executions whose orders went over a line and are not taken yet, or were refused.
        self._under_way: WeakKeyDictionary[Line, set[str]] = WeakKeyDictionary()

    def begin(self, job: Job, executions: Iterable[Execution]) -> None:
        """Sets a job going that is on disk: now, or when its machines come."""
        for execution in executions:
            if execution.state.is_final:
                continue
            if job.action is Action.WAKE:
                self._background_tasks.start(self._wake(execution.id))
            elif self._machines.line_of(execution.machine_id) is not None:
                self._background_tasks.start(self._deliver(execution.id))

    def go_on(self) -> None:
        """The control server has started: goes on with what waits for no machine's join."""
        for execution in self._job_store.executions():
            job = self._job_store.job_of(execution)
            if job.action is Action.WAKE and not execution.state.is_final:
                self._background_tasks.start(self._wake(execution.id))

    async def receive_join(self, machine: Machine, known: Sequence[KnownExecution]) -> tuple[Withdraw, ...]:
        """A machine is back: settles what was open for it, and sends what it does not know yet.

        Returns what its agent is at and what ended while it was away.
        """
        now = self._clock()
        known_by_id = {entry.id: entry for entry in known}
        reconciled = []
        for execution in self._job_store.for_machine(machine.id):
            job = self._job_store.job_of(execution)
            after = jobs.reconcile_on_join(job, execution, machine, known_by_id.get(execution.id), now)
            if after is not None:
                reconciled.append(after)
        await self._job_store.record(reconciled)
        for execution in self._job_store.for_machine(machine.id):
            if execution.state.is_final or execution.state is ExecutionState.ACTING:
                continue
            entry = known_by_id.get(execution.id)
            if entry is None or not entry.is_running:
                self._background_tasks.start(self._deliver(execution.id))
        return self._over(known)

    async def receive_clone(self, machine: Machine) -> None:
        """Its identity turned out to be cloned: refuses what could be done by another machine than was meant."""
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

    async def receive_time(self, now: float) -> None:
        """Ends what was not begun or not done in time."""
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
        machine = self._machines[execution.machine_id]
        if self._machines.is_gone(machine, now):
            gone = jobs.complete_when_gone(job, execution, machine.presence, now)
            if gone is not None:
                return gone
        return jobs.overdue(job, execution, now)

    async def cancel(self, job: Job, *, cancelled_by: str) -> int:
        """Stop what has not begun of a job. Return on how many machines that was so."""
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

    # What agents ask.

    async def receive_report(self, line: Line, report: Report) -> bool:
        """An agent tells how far an execution is."""
        machine, execution = await self._execution_of(line, report.execution.id)
        if execution is None:
            return True  # Over long ago: nothing to add.
        job = self._job_store.job_of(execution)
        after = jobs.receive_report(
            job, execution, report.execution, self._clock(), power=machine.facts.power
        )
        if after is not None:
            await self._job_store.record([after])
        return True

    async def receive_claim(self, line: Line, claim: Claim) -> Grant:
        """An agent asks whether it may act now."""
        await self._machines.told_apart(line.identity)
        machine, execution = await self._execution_of(line, claim.execution_id)
        if execution is None:
            return Grant(False, "there is no such job any more")
        if (reason := clones.refusal(machine)) is not None:
            return Grant(False, reason[:TEXT_CHARACTERS_MAX])
        grant, recorded = jobs.claim(execution, claim, self._clock(), hardware=clones.hardware(machine.facts))
        await self._job_store.record(recorded)
        return grant

    async def receive_postpone(self, line: Line, request: Postpone) -> Postponed:
        """A person at the machine wants it later."""
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
        """An agent's machine and one of its executions, in the state that is on disk too."""
        await self._job_store.written(execution_id)
        machine = self._machines.machine_of(line)
        execution = self._job_store.find(execution_id)
        if execution is not None and execution.machine_id != machine.id:
            logger.warning("%s spoke of an execution of %s", machine.name, execution.machine_name)
            raise RequestError("not_yours", "that execution is another machine's")
        return machine, execution

    # What they are told.

    async def _deliver(self, execution_id: str) -> None:
        """Sends an order; when the session is lost before the answer, the next join sends it again."""
        execution = self._job_store.find(execution_id)
        if execution is None or execution.state.is_final:
            return
        line = self._machines.line_of(execution.machine_id)
        machine = self._machines[execution.machine_id]
        if line is None or machine.presence.state is PresenceState.AWAY or machine.claimants:
            # One that goes down gets it when it joins again, in this boot or the next; one of several with the same
            # identity never.
            return
        under_way = self._under_way.setdefault(line, set())
        if execution_id in under_way:
            return
        job = self._job_store.job_of(execution)
        refusal = jobs.delivery_refusal(job, self._machines[execution.machine_id])
        if refusal is not None:
            await self._note_delivery(execution_id, ExecutionState.REFUSED, refusal)
            return
        under_way.add(execution_id)
        order = jobs.order_for(job, execution, self._clock())
        try:
            await line.request("execute", order, timeout=None)
        except (landline.RequestLost, landline.LineClosed):
            under_way.discard(execution_id)
            return
        except RequestError as error:
            is_full = error.code == TOO_MANY_ORDERS
            state = ExecutionState.REFUSED if is_full else ExecutionState.FAILED
            detail = f"the agent did not take it: {error.message}"
        else:
            state, detail = ExecutionState.DELIVERED, ""
            under_way.discard(execution_id)
        await self._note_delivery(execution_id, state, detail)

    async def _note_delivery(self, execution_id: str, state: ExecutionState, detail: str) -> None:
        try:
            await self._advance(execution_id, state, detail)
        except RequestError as error:
            # What the agent reports next leads on from here; an order that it did not take expires.
            logger.warning("%s is %s; %s", execution_id, state.value, error.message)

    def _over(self, known: Sequence[KnownExecution]) -> tuple[Withdraw, ...]:
        """Of what an agent is at, what ended while it was away."""
        over = []
        for told in known:
            stored = self._job_store.find(told.id)
            if told.is_running and (
                stored is None or (stored.state.is_final and not stored.state.has_started)
            ):
                over.append(Withdraw(told.id, "it is over" if stored is None else stored.detail[:200]))
        return tuple(over)

    def _withdraw(self, execution: Execution) -> None:
        line = self._machines.line_of(execution.machine_id)
        if line is not None:
            self._background_tasks.start(
                self._tell_withdrawn(line, Withdraw(execution.id, execution.detail[:200]))
            )

    async def _tell_withdrawn(self, line: Line, withdraw: Withdraw) -> None:
        try:
            await line.request("withdraw", withdraw, timeout=60)
        except (RequestError, landline.LineClosed) as error:
            # The agent will ask before it acts, and be told no.
            logger.debug("withdrawing %s was not answered: %s", withdraw.execution_id, error)

    # Waking.

    async def _wake(self, execution_id: str) -> None:
        """Sends magic packets until the machine is there or the time is up, also while the disk takes nothing."""
        while (execution := self._job_store.find(execution_id)) is not None and not execution.state.is_final:
            try:
                await self._wake_once(execution)
            except RequestError as error:
                logger.warning("waking %s: %s; trying again", execution.machine_name, error.message)
            await asyncio.sleep(WAKE_AGAIN_S)

    async def _wake_once(self, execution: Execution) -> None:
        await self._advance(execution.id, ExecutionState.ACTING)
        machine = self._machines[execution.machine_id]
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
            return
        after = jobs.advance(execution, state, self._clock(), detail)
        if after is not None:
            await self._job_store.record([after])
