"""The control server: machines on one side, operators on the other, and the record of jobs in between.

Decisions are made by :mod:`landline.fleet.presence` and :mod:`landline.fleet.jobs`; this file moves them to disk and
over the lines. Memory is changed and read in one go, without waiting, so that a decision always stands on what is
true; what an answer promises is on disk before the answer is sent.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from random import Random, SystemRandom
from typing import Any, Final

import msgspec

import landline
from landline import Code, Line, LineState, LossKind, RequestError, Server, StateChange
from landline.fleet import jobs, presence
from landline.fleet.api import (
    CancelRequest,
    JobChanged,
    JobRequest,
    JobView,
    MachineChanged,
    OperationError,
    Preview,
    PreviewRequest,
    ServerStatus,
    Snapshot,
    Target,
    Update,
)
from landline.fleet.clock import SteadyClock
from landline.fleet.ledger import Ledger
from landline.fleet.messages import (
    NOT_JOINED,
    STORAGE_FAILED,
    Claim,
    FactsChecked,
    Goodbye,
    Grant,
    Join,
    Joined,
    KnownExecution,
    Postpone,
    Postponed,
    Report,
    Withdraw,
)
from landline.fleet.model import (
    Action,
    Cause,
    Execution,
    ExecutionState,
    Facts,
    Job,
    Machine,
    Presence,
    PresenceState,
)
from landline.fleet.storage import Storage, StorageError
from landline.fleet.subscriptions import Subscriptions
from landline.fleet.wake import Waker

logger = logging.getLogger("landline.control")

SWEEP_EVERY_S: Final = 0.5
"""How often deadlines are looked at."""
ROUND_TRIP_EVERY_S: Final = 5.0
WAKE_AGAIN_S: Final = 5.0
"""How often the magic packet is repeated: it is a datagram, and network cards miss some while they power up."""
CLOCK_AHEAD_S_MAX: Final = 1.0
"""A clock that is further ahead of the time of day, because that was set back, follows it when nobody waits."""
ID_ALPHABET: Final = "23456789abcdefghjkmnpqrstvwxyz"
"""Without look-alikes: people type these."""

_LOSS_CAUSES: Final = {
    LossKind.SILENT: Cause.SILENT,
    LossKind.LINK_LOST: Cause.LINK_LOST,
    LossKind.CLOSED_BY_PEER: Cause.AGENT_STOPPED,
}


class _Guest:
    """A line, and the machine that joined over it."""

    __slots__ = ("deliveries", "is_settled", "join", "machine_id")

    def __init__(self, machine_id: str, join: str, deliveries: set[str]) -> None:
        self.machine_id = machine_id
        self.join = join
        self.is_settled = False
        self.deliveries = deliveries
        """Executions whose orders are on their way over this line."""


class Control:
    """Carries out :class:`landline.fleet.api.Operations` for the machines that join over ``server``.

    Make it with :meth:`start`. The server's handlers and callbacks are taken over by it.
    """

    def __init__(
        self,
        server: Server,
        storage: Storage,
        *,
        waker: Waker,
        agents_url: str = "",
        clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        self._server = server
        self._storage = storage
        self._waker = waker
        self._clock = clock
        self._random = random or SystemRandom()
        self._machines: dict[str, Machine] = {}
        self._lines: dict[str, Line] = {}
        self._ledger = Ledger(storage, self._publish_job)
        self._subscriptions = Subscriptions(self._snapshot)
        self._unsaved_machines: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._started_at = clock()
        self.agents_url = agents_url
        self.resumes = 0
        """How often a machine's session went on over a new connection."""
        self.on_joined: Callable[[Line, Machine], None] | None = None
        """Called when a machine has joined over a new session."""

    @classmethod
    async def start(
        cls,
        server: Server,
        storage: Storage,
        *,
        waker: Waker,
        agents_url: str = "",
        clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> Control:
        """Loads what was on disk, takes over the server's handlers and begins to watch deadlines.

        Raises :class:`StorageError`.
        """
        control = cls(server, storage, waker=waker, agents_url=agents_url, clock=clock, random=random)
        await control._load()
        control._register(server)
        control._start(control._sweep_forever())
        return control

    def close_readers(self) -> None:
        """Ends every subscription to updates."""
        self._subscriptions.close()

    async def stop(self) -> None:
        """Ends its own work and stores what is not stored yet; the server and the storage stay open."""
        self.close_readers()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._ledger.close()
        try:
            await self._save_machines()
        except StorageError as error:
            # The next start takes the machines up from what is there.
            logger.error("%s", error)

    # Operations.

    def status(self) -> ServerStatus:
        online = sum(machine.presence.state is PresenceState.ONLINE for machine in self._machines.values())
        return ServerStatus(
            version=landline.__version__,
            started_at=self._started_at,
            now_at=self._clock(),
            machines=len(self._machines),
            online=online,
            agents_url=self.agents_url,
        )

    def machines(self) -> tuple[Machine, ...]:
        return tuple(
            sorted(
                (self._current(machine) for machine in self._machines.values()), key=lambda found: found.name
            )
        )

    def preview(self, request: PreviewRequest) -> Preview:
        found = jobs.resolve_targets(request.targets, request.all_machines, self._machines.values())
        return Preview(machines=tuple(_target(machine) for machine in found))

    async def create_job(self, request: JobRequest) -> JobView:
        jobs.check_request(request)
        machines = self._frozen(request)
        now = self._clock()
        job = Job(
            id=self._new_job_id(),
            action=request.action,
            targets=("*",) if request.all_machines else request.targets,
            created_at=now,
            requested_by=request.requested_by,
            message=request.message,
            delay_s=request.delay_s,
            valid_for_s=request.valid_for_s,
            queue_for_s=request.queue_for_s,
            may_cancel=request.may_cancel,
            may_postpone=request.may_postpone,
            request_id=request.request_id,
        )
        executions = [
            jobs.plan(job, machine, f"{job.id}-{number}") for number, machine in enumerate(machines, 1)
        ]
        stored = await self._ledger.add(job, executions, lambda: self._begin(job, executions))
        if stored.id != job.id:
            return await self.job(stored.id)
        return JobView(job=job, executions=tuple(executions))

    async def jobs(self, limit: int) -> tuple[JobView, ...]:
        return await self._ledger.newest(limit)

    async def job(self, job_id: str) -> JobView:
        return await self._ledger.view(job_id)

    async def cancel_job(self, job_id: str, request: CancelRequest) -> JobView:
        job = await self._ledger.find_job(job_id)
        now = self._clock()
        cancelled = [
            execution
            for before in self._ledger.of_job(job.id)
            if (execution := jobs.cancel(before, now, cancelled_by=request.cancelled_by)) is not None
        ]
        await self._ledger.record(cancelled)
        for execution in cancelled:
            self._withdraw(execution.machine_id, execution.id, execution.detail)
        return await self.job(job.id)

    def updates(self) -> AsyncIterator[Update]:
        return self._subscriptions.updates()

    # The server's lines.

    def _register(self, server: Server) -> None:
        server.on_state(self._line_changed)
        server.on("join", Join)(self._receive_join)
        server.on("facts", FactsChecked)(self._receive_facts)
        server.on("report", Report)(self._receive_report)
        server.on("claim", Claim)(self._receive_claim)
        server.on("postpone", Postpone)(self._receive_postpone)
        server.on("goodbye", Goodbye)(self._receive_goodbye)

    def _line_changed(self, line: Line, change: StateChange) -> None:
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

    async def _receive_join(self, line: Line, join: Join) -> Joined:
        machine_id = line.identity
        if not _is_machine_id(machine_id):
            raise RequestError(
                "bad_identity", "the agent's identity is not a machine id; give the agent its own --data"
            )
        if line.is_closed:
            raise RequestError("gone", "the line was closed before its join was read")
        if isinstance(line.data, _Guest) and not line.data.is_settled:
            raise RequestError("joining", "the join before this one is not answered yet")
        facts = _checked(join.facts)
        now = self._clock()
        self._give_up_name(facts.name, machine_id, now)
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
        earlier = line.data.deliveries if isinstance(line.data, _Guest) else set()
        guest = line.data = _Guest(machine_id, join_reference, earlier)
        self._set_machine(machine)
        if older is not None and older is not line:
            older.end(Code.REPLACED, "another agent with this identity has joined")
        try:
            # With the machine that gave up its name, if one did.
            await self._save_machines()
            await self._settle(machine, join.executions)
        except StorageError as error:
            logger.error("%s", error)
            raise RequestError(STORAGE_FAILED, "the control server could not record this") from error
        finally:
            guest.is_settled = True
        if self.on_joined is not None:
            self.on_joined(line, machine)
        return Joined(facts.name, self._over(join.executions))

    def _give_up_name(self, name: str, machine_id: str, now: float) -> None:
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

    async def _settle(self, machine: Machine, known: Sequence[KnownExecution]) -> None:
        """A machine is back: settles what was open for it, and sends what it does not know yet."""
        now = self._clock()
        known_by_id = {entry.id: entry for entry in known}
        settled = []
        for execution in self._ledger.for_machine(machine.id):
            job = self._ledger.job_of(execution)
            after = jobs.settle_on_join(job, execution, machine, known_by_id.get(execution.id), now)
            if after is not None:
                settled.append(after)
        await self._ledger.record(settled)
        for execution in self._ledger.for_machine(machine.id):
            if execution.state.is_final or execution.state is ExecutionState.ACTING:
                continue
            entry = known_by_id.get(execution.id)
            if entry is None or not entry.is_running:
                self._start(self._deliver(execution.id))

    def _over(self, known: Sequence[KnownExecution]) -> tuple[Withdraw, ...]:
        """Of what an agent is at, what ended while it was away."""
        over = []
        for told in known:
            stored = self._ledger.find(told.id)
            if told.is_running and (stored is None or (stored.state.is_final and not stored.state.has_begun)):
                over.append(Withdraw(told.id, "it is over" if stored is None else stored.detail[:200]))
        return tuple(over)

    def _receive_facts(self, line: Line, facts: FactsChecked) -> None:
        machine = self._machine_of(line)
        # The name and the boot belong to the join.
        kept = msgspec.structs.replace(
            _checked(facts), name=machine.facts.name, boot_id=machine.facts.boot_id, power=machine.facts.power
        )
        self._set_machine(msgspec.structs.replace(machine, facts=kept))

    async def _receive_report(self, line: Line, report: Report) -> bool:
        machine, execution = await self._execution_of(line, report.execution.id)
        if execution is None:
            return True  # Over long ago: nothing to add.
        job = self._ledger.job_of(execution)
        after = jobs.receive_report(
            job, execution, report.execution, self._clock(), power=machine.facts.power
        )
        if after is not None:
            await self._ledger.record([after])
        return True

    async def _receive_claim(self, line: Line, claim: Claim) -> Grant:
        _, execution = await self._execution_of(line, claim.execution_id)
        if execution is None:
            return Grant(False, "there is no such job any more")
        grant, after = jobs.claim(execution, self._clock(), boot_id=claim.boot_id)
        if after is not None:
            await self._ledger.record([after])
        return grant

    async def _receive_postpone(self, line: Line, request: Postpone) -> Postponed:
        _, execution = await self._execution_of(line, request.execution_id)
        if execution is None:
            return Postponed(False, "there is no such job any more")
        job = self._ledger.job_of(execution)
        reply, after = jobs.postpone(job, execution, request.postpone_s, self._clock(), request.detail)
        if after is not None:
            await self._ledger.record([after])
        return reply

    async def _receive_goodbye(self, line: Line, goodbye: Goodbye) -> None:
        machine = self._machine_of(line)
        if self._lines.get(machine.id) is not line:
            return  # Another agent took over this identity since: the machine has not gone.
        now = self._clock()
        join = line.data.join
        if goodbye.cause not in {Cause.RESTARTING, Cause.SHUT_DOWN, Cause.AGENT_STOPPED}:
            goodbye = Goodbye(Cause.AGENT_STOPPED, goodbye.detail)
        after = presence.said_goodbye(
            machine.presence, now, join=join, cause=goodbye.cause, detail=goodbye.detail
        )
        self._set_presence(machine, after)
        settled = [
            execution
            for before in self._ledger.for_machine(machine.id)
            if (execution := jobs.settle_on_goodbye(self._ledger.job_of(before), before, goodbye, now))
            is not None
        ]
        await self._ledger.record(settled)

    def _machine_of(self, line: Line) -> Machine:
        """The machine that joined over this line; identity comes from the handshake, never from a body."""
        if not isinstance(line.data, _Guest):
            raise RequestError(NOT_JOINED, "join first")
        return self._machines[line.data.machine_id]

    async def _execution_of(self, line: Line, execution_id: str) -> tuple[Machine, Execution | None]:
        """An agent's machine and one of its executions, in the state that is on disk too."""
        await self._ledger.written(execution_id)
        machine = self._machine_of(line)
        execution = self._ledger.find(execution_id)
        if execution is not None and execution.machine_id != machine.id:
            logger.warning("%s spoke of an execution of %s", machine.name, execution.machine_name)
            raise RequestError("not_yours", "that execution is another machine's")
        return machine, execution

    # Executions.

    def _begin(self, job: Job, executions: Sequence[Execution]) -> None:
        for execution in executions:
            if execution.state.is_final:
                continue
            if job.action is Action.WAKE:
                self._start(self._wake(execution.id))
            elif execution.machine_id in self._lines:
                self._start(self._deliver(execution.id))

    async def _deliver(self, execution_id: str) -> None:
        """Sends an order; when the session is lost before the answer, the next join sends it again."""
        execution = self._ledger.find(execution_id)
        if execution is None or execution.state.is_final:
            return
        line = self._lines.get(execution.machine_id)
        if line is None or execution_id in line.data.deliveries:
            return
        deliveries: set[str] = line.data.deliveries
        deliveries.add(execution_id)
        job = self._ledger.job_of(execution)
        order = jobs.order_for(job, execution, self._clock())
        try:
            await line.request("execute", order, timeout=None)
        except (landline.RequestLost, landline.LineClosed):
            deliveries.discard(execution_id)
            return
        except RequestError as error:
            state, detail = ExecutionState.FAILED, f"the agent did not take it: {error.message}"
        else:
            state, detail = ExecutionState.DELIVERED, ""
            deliveries.discard(execution_id)
        try:
            await self._advance(execution_id, state, detail)
        except RequestError as error:
            # What the agent reports next leads on from here; an order that it did not take expires.
            logger.warning("%s is %s; %s", execution_id, state.value, error.message)

    async def _wake(self, execution_id: str) -> None:
        """Sends magic packets until the machine is there or the time is up, also while the disk takes nothing."""
        while (execution := self._ledger.find(execution_id)) is not None and not execution.state.is_final:
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

    def _withdraw(self, machine_id: str, execution_id: str, reason: str) -> None:
        line = self._lines.get(machine_id)
        if line is not None:
            self._start(self._tell_withdrawn(line, Withdraw(execution_id, reason[:200])))

    async def _tell_withdrawn(self, line: Line, withdraw: Withdraw) -> None:
        try:
            await line.request("withdraw", withdraw, timeout=60)
        except (RequestError, landline.LineClosed) as error:
            # The agent will ask before it acts, and be told no.
            logger.debug("withdrawing %s was not answered: %s", withdraw.execution_id, error)

    async def _advance(self, execution_id: str, state: ExecutionState, detail: str = "") -> None:
        execution = self._ledger.find(execution_id)
        if execution is None:
            return
        after = jobs.advance(execution, state, self._clock(), detail)
        if after is not None:
            await self._ledger.record([after])

    # Deadlines.

    async def _sweep_forever(self) -> None:
        last_round_trips = 0.0
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            try:
                await self._sweep()
                await self._save_machines()
            except (StorageError, RequestError) as error:
                logger.error("%s; trying again", error)
            now = asyncio.get_running_loop().time()
            if now - last_round_trips >= ROUND_TRIP_EVERY_S and self._subscriptions:
                last_round_trips = now
                self._publish_round_trips()

    async def _sweep(self) -> None:
        now = self._clock()
        late = [
            execution
            for before in self._ledger.executions()
            if (execution := jobs.overdue(self._ledger.job_of(before), before, now)) is not None
        ]
        await self._ledger.record(late)
        for execution in late:
            if execution.state is ExecutionState.EXPIRED:
                self._withdraw(execution.machine_id, execution.id, execution.detail)
        for machine in list(self._machines.values()):
            self._set_presence(machine, presence.overdue(machine.presence, now))
        self._set_clock()

    def _set_clock(self) -> None:
        """The time of day was set back: this server's clock follows when no deadline could be missed by that."""
        clock = self._clock
        if not isinstance(clock, SteadyClock) or (ahead_s := clock.ahead_s) < CLOCK_AHEAD_S_MAX:
            return
        waits = (
            self._ledger.is_writing
            or any(not execution.state.is_final for execution in self._ledger.executions())
            or any(
                machine.presence.state in {PresenceState.AWAY, PresenceState.RESUMING}
                for machine in self._machines.values()
            )
        )
        if not waits:
            logger.warning("the time of day was set back by %.0f s; following it", ahead_s)
            clock.follow_wall()

    # Machines.

    async def _load(self) -> None:
        now = self._clock()
        for machine in await self._storage.load_machines():
            after = presence.after_server_start(machine.presence, now)
            self._machines[machine.id] = msgspec.structs.replace(machine, presence=after)
        await self._ledger.load(now)
        if isinstance(self._clock, SteadyClock):
            pending = (it.updated_at for it in self._ledger.executions() if not it.state.is_final)
            self._clock.begin_at(max(pending, default=0.0))
        for execution in self._ledger.executions():
            job = self._ledger.job_of(execution)
            if job.action is Action.WAKE and not execution.state.is_final:
                self._start(self._wake(execution.id))

    def _set_presence(self, machine: Machine, after: Presence) -> None:
        if after is not machine.presence:
            self._set_machine(msgspec.structs.replace(machine, presence=after))

    def _set_machine(self, machine: Machine) -> None:
        self._machines[machine.id] = machine
        self._unsaved_machines.add(machine.id)
        self._subscriptions.publish(MachineChanged(now_at=self._clock(), machine=self._current(machine)))

    async def _save_machines(self) -> None:
        unsaved, self._unsaved_machines = self._unsaved_machines, set()
        try:
            await self._storage.save_machines([self._machines[machine_id] for machine_id in sorted(unsaved)])
        except StorageError:
            # One machine the database does not take must not keep it from the others.
            await self._save_one_by_one(unsaved)
        except BaseException:
            self._unsaved_machines |= unsaved
            raise

    async def _save_one_by_one(self, machine_ids: set[str]) -> None:
        failure: StorageError | None = None
        for machine_id in sorted(machine_ids):
            try:
                await self._storage.save_machine(self._machines[machine_id])
            except StorageError as error:
                self._unsaved_machines.add(machine_id)
                failure = error
        if failure is not None:
            raise failure

    def _current(self, machine: Machine) -> Machine:
        """The machine with what only its line knows now."""
        line = self._lines.get(machine.id)
        if line is None or line.round_trip_s is None:
            return machine
        return msgspec.structs.replace(machine, round_trip_s=line.round_trip_s)

    # Finding.

    def _frozen(self, request: JobRequest) -> list[Machine]:
        found = (
            jobs.resolve_targets(request.targets, request.all_machines, self._machines.values())
            if request.targets or request.all_machines or request.machine_ids is None
            else []
        )
        if request.machine_ids is None:
            return found
        if not request.machine_ids:
            raise OperationError("empty_target", "the list of machines is empty")
        missing = [machine_id for machine_id in request.machine_ids if machine_id not in self._machines]
        if missing:
            raise OperationError("unknown_target", f"there is no machine with the id {missing[0][:80]!r}")
        frozen = {machine_id: self._machines[machine_id] for machine_id in request.machine_ids}
        return sorted(frozen.values(), key=lambda machine: machine.name)

    def _new_job_id(self) -> str:
        return "".join(self._random.choice(ID_ALPHABET) for _ in range(8))

    # Publishing.

    def _snapshot(self) -> Snapshot:
        return Snapshot(now_at=self._clock(), machines=self.machines(), jobs=self._ledger.open_views())

    def _publish_job(self, job_id: str) -> None:
        view = self._ledger.open_view(job_id) if self._subscriptions else None
        if view is not None:
            self._subscriptions.publish(JobChanged(now_at=self._clock(), job=view))

    def _publish_round_trips(self) -> None:
        now = self._clock()
        for machine_id in self._lines:
            self._subscriptions.publish(
                MachineChanged(now_at=now, machine=self._current(self._machines[machine_id]))
            )

    # Tasks.

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the control server failed", exc_info=error)


def _checked(facts: Facts) -> Facts:
    """Facts within their bounds. Raises :class:`RequestError` for anything else; every field is hostile (P7)."""
    try:
        checked = msgspec.convert(msgspec.to_builtins(facts), FactsChecked)
    except msgspec.ValidationError as error:
        raise RequestError(
            "bad_facts", f"what the agent says of its machine does not fit: {error}"
        ) from error
    if len(checked.persons) > 100 or any(
        len(person.name) + len(person.seat) > 300 for person in checked.persons
    ):
        raise RequestError("bad_facts", "the agent names too many persons, or one with too long a name")
    return Facts(**{field: getattr(checked, field) for field in Facts.__struct_fields__})


def _is_machine_id(identity: str) -> bool:
    return 8 <= len(identity) <= 64 and all(
        sign.isascii() and (sign.isalnum() or sign == "-") for sign in identity
    )


def _target(machine: Machine) -> Target:
    return Target(
        machine_id=machine.id,
        name=machine.name,
        presence=machine.presence.state,
        detail=machine.presence.cause.value,
        persons=machine.facts.persons,
    )
