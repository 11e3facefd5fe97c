"""The control server: machines on one side, operators on the other, and the record of jobs in between.

Decisions are made by :mod:`landline.fleet.control.presence` and :mod:`landline.fleet.control.jobs`, and moved to
disk and over the lines by :mod:`landline.fleet.control.machines`, :mod:`landline.fleet.control.job_dispatcher` and
:mod:`landline.fleet.control.job_store`; here they
are put together. Memory is changed and read in one go, without waiting, so that a decision always stands on what is
true; what an answer promises is on disk before the answer is sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from random import Random, SystemRandom
from typing import Final
from weakref import WeakKeyDictionary

import landline
from landline import Line, RequestError, Server, guarded_logger
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
    StorageError,
    Target,
    Update,
)
from landline.fleet.control import jobs
from landline.fleet.control.background_tasks import BackgroundTasks
from landline.fleet.control.clock import SteadyClock
from landline.fleet.control.event_log import EventLog
from landline.fleet.control.job_dispatcher import JobDispatcher
from landline.fleet.control.job_store import JobStore
from landline.fleet.control.machines import Machines
from landline.fleet.control.presence import GONE_GRACE_S
from landline.fleet.control.request_rate import RequestThrottle
from landline.fleet.control.storage import Storage
from landline.fleet.control.updates import Subscriptions
from landline.fleet.control.wake_on_lan import Waker
from landline.fleet.messages import (
    CLONED_IDENTITY,
    STORAGE_FAILED,
    Claim,
    FactsChecked,
    Goodbye,
    Grant,
    Join,
    Joined,
    Postpone,
    Postponed,
    Report,
)
from landline.fleet.model import Cause, Job, Machine, PresenceState

logger = guarded_logger("landline.control")

SWEEP_EVERY_S: Final = 0.5
"""How often deadlines are looked at."""
ROUND_TRIP_EVERY_S: Final = 5.0
CLOCK_AHEAD_S_MAX: Final = 1.0
"""A clock that is further ahead of the time of day, because that was set back, follows it when nobody waits."""
GOODBYE_CAUSES: Final = frozenset({Cause.RESTARTING, Cause.SHUT_DOWN, Cause.GOING_DOWN, Cause.AGENT_STOPPED})
"""What an agent may say of its going; of itself it stops, whatever else it says."""
ID_ALPHABET: Final = "23456789abcdefghjkmnpqrstvwxyz"
"""Without look-alikes: people type these."""


class ControlServer:
    """Carries out :class:`landline.fleet.api.Operations` for the machines that join over ``server``.

    Make it with :meth:`start`. The server's handlers and callbacks are taken over by it.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        waker: Waker,
        agents_url: str = "",
        clock: Callable[[], float] = time.time,
        random: Random | None = None,
        gone_grace_s: float = GONE_GRACE_S,
    ) -> None:
        self._clock = clock
        self._random = random or SystemRandom()
        self._background_tasks = BackgroundTasks()
        self.events = EventLog()
        self._machines = Machines(
            storage, self._machine_changed, clock=clock, random=self._random, gone_grace_s=gone_grace_s
        )
        self._job_store = JobStore(storage, self._publish_job, self.events)
        self._job_dispatcher = JobDispatcher(
            self._job_store, self._machines, waker, self._background_tasks, clock=clock
        )
        self._subscriptions = Subscriptions(self._snapshot)
        self._started_at = clock()
        self._throttles: WeakKeyDictionary[Line, RequestThrottle] = WeakKeyDictionary()
        self.agents_url = agents_url
        self.server_id = ""
        """Identifies this server's data in snapshots; see :class:`landline.fleet.api.Snapshot`."""
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
        gone_grace_s: float = GONE_GRACE_S,
    ) -> ControlServer:
        """Loads what was on disk, takes over the server's handlers and begins to watch deadlines.

        Raises :class:`StorageError`.
        """
        control = cls(
            storage, waker=waker, agents_url=agents_url, clock=clock, random=random, gone_grace_s=gone_grace_s
        )
        await control._load()
        control._register(server)
        control._background_tasks.start(control._sweep_forever())
        return control

    def close_subscriptions(self) -> None:
        """Ends every subscription to updates."""
        self._subscriptions.close()

    async def stop(self) -> None:
        """Ends its own work and stores what is not stored yet; the server and the storage stay open."""
        self.close_subscriptions()
        await self._background_tasks.stop()
        await self._job_store.close()
        try:
            await self._machines.save()
        except StorageError as error:
            # The next start takes the machines up from what is there.
            self.events.storage_failed(error)

    @property
    def resumes(self) -> int:
        """How often a machine's session went on over a new connection."""
        return self._machines.resumes

    # Operations.

    def status(self) -> ServerStatus:
        online = sum(machine.presence.state is PresenceState.ONLINE for machine in self._machines)
        return ServerStatus(
            version=landline.__version__,
            started_at=self._started_at,
            now_at=self._clock(),
            machines=len(self._machines),
            online=online,
            agents_url=self.agents_url,
        )

    def machines(self) -> tuple[Machine, ...]:
        return self._machines.shown()

    def preview(self, request: PreviewRequest) -> Preview:
        found = jobs.resolve_targets(request.targets, request.all_machines, self._machines)
        return Preview(machines=tuple(_target(machine) for machine in found))

    async def create_job(self, request: JobRequest) -> JobView:
        try:
            return await self._create_job(request)
        except OperationError as error:
            self.events.job_refused(request, error)
            raise

    async def _create_job(self, request: JobRequest) -> JobView:
        jobs.check_request(request)
        try:
            machines = self._frozen(request)
        except OperationError:
            # What was accepted once is not refused when it is asked for again, whatever its targets match by now.
            if request.request_id is not None:
                for earlier in await self._job_store.by_request(request.request_id):
                    return await self.job(earlier.job.id)
            raise
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
            unasked=request.unasked,
            request_id=request.request_id,
        )
        executions = [
            jobs.plan(job, machine, f"{job.id}-{number}") for number, machine in enumerate(machines, 1)
        ]
        stored = await self._job_store.add(
            job, executions, lambda: self._job_dispatcher.begin(job, executions)
        )
        if stored.id != job.id:
            return await self.job(stored.id)
        return JobView(job=job, executions=tuple(executions))

    async def jobs(self, limit: int, request_id: str | None = None) -> tuple[JobView, ...]:
        if request_id is not None:
            return (await self._job_store.by_request(request_id))[:limit]
        return await self._job_store.newest(limit)

    async def job(self, job_id: str) -> JobView:
        return await self._job_store.view(job_id)

    async def cancel_job(self, job_id: str, request: CancelRequest) -> JobView:
        job = await self._job_store.find_job(job_id)
        cancelled = await self._job_dispatcher.cancel(job, cancelled_by=request.cancelled_by)
        self.events.job_cancelled(job, request.cancelled_by, cancelled)
        return await self.job(job.id)

    async def resolve_machine(self, name: str) -> Machine:
        machine = self._machines.resolve(self._machines.named(name).id)
        await self._machines.save()
        return machine

    def updates(self) -> AsyncIterator[Update]:
        return self._subscriptions.updates()

    # Its own life.

    async def _load(self) -> None:
        now = self._clock()
        await self._machines.load(now)
        await self._job_store.load(now)
        if isinstance(self._clock, SteadyClock):
            pending = (it.updated_at for it in self._job_store.executions() if not it.state.is_final)
            self._clock.begin_at(max(pending, default=0.0))
        self._job_dispatcher.go_on()

    # What agents say.

    def _register(self, server: Server) -> None:
        server.on_state(self._machines.line_changed)
        server.on("join", Join)(self._receive_join)
        server.on("facts", FactsChecked)(self._receive_facts)
        server.on("report", Report)(self._receive_report)
        server.on("claim", Claim)(self._receive_claim)
        server.on("postpone", Postpone)(self._receive_postpone)
        server.on("goodbye", Goodbye)(self._receive_goodbye)

    async def _throttle(self, line: Line) -> None:
        """Lets an agent wait that asks for more than its share."""
        throttle = self._throttles.get(line)
        if throttle is None:
            throttle = self._throttles[line] = RequestThrottle()
        wait_s = throttle.wait_s(asyncio.get_running_loop().time())
        if wait_s:
            await asyncio.sleep(wait_s)

    def _receive_facts(self, line: Line, facts: FactsChecked) -> None:
        loop = asyncio.get_running_loop()
        wait_s = self._machines.receive_facts(line, facts, loop.time())
        if wait_s is not None:
            loop.call_later(wait_s, self._machines.take_late_facts, line, loop.time() + wait_s)

    async def _receive_report(self, line: Line, report: Report) -> bool:
        await self._throttle(line)
        return await self._job_dispatcher.receive_report(line, report)

    async def _receive_claim(self, line: Line, claim: Claim) -> Grant:
        await self._throttle(line)
        return await self._job_dispatcher.receive_claim(line, claim)

    async def _receive_postpone(self, line: Line, postpone: Postpone) -> Postponed:
        await self._throttle(line)
        return await self._job_dispatcher.receive_postpone(line, postpone)

    async def _receive_join(self, line: Line, join: Join) -> Joined:
        await self._throttle(line)
        try:
            await self._machines.find_clone(line, join)
            machine = self._machines.receive_join(line, join)
        except RequestError as error:
            if error.code == CLONED_IDENTITY:
                # Which the machines warn of, once.
                await self._job_dispatcher.receive_clone(self._machines[line.identity])
            else:
                self.events.join_refused(line.identity, line.peer, error)
            raise
        try:
            # With the machine that gave up its name, if one did.
            await self._machines.save()
            over = await self._job_dispatcher.receive_join(machine, join.executions)
        except StorageError as error:
            self.events.storage_failed(error)
            raise RequestError(STORAGE_FAILED, "the control server could not record this") from error
        finally:
            self._machines.join_completed(line)
        if self.on_joined is not None:
            self.on_joined(line, machine)
        return Joined(machine.name, over)

    async def _receive_goodbye(self, line: Line, goodbye: Goodbye) -> None:
        await self._throttle(line)
        if goodbye.cause not in GOODBYE_CAUSES:
            goodbye = Goodbye(Cause.AGENT_STOPPED, goodbye.detail)
        self._machines.receive_goodbye(line, goodbye)
        try:
            await self._machines.save()
        except StorageError as error:
            self.events.storage_failed(error)
            raise RequestError(STORAGE_FAILED, "the control server could not record this") from error

    # Deadlines.

    async def _sweep_forever(self) -> None:
        last_round_trips = 0.0
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            try:
                await self._sweep()
                await self._machines.save()
            except StorageError as error:
                self.events.storage_failed(error)
            except RequestError as error:
                logger.debug("the deadlines are looked at again: %s", error)
            now = asyncio.get_running_loop().time()
            if now - last_round_trips >= ROUND_TRIP_EVERY_S and self._subscriptions:
                last_round_trips = now
                for machine in self._machines.reached():
                    self._publish_machine(machine)

    async def _sweep(self) -> None:
        now = self._clock()
        await self._job_dispatcher.receive_time(now)
        self._machines.receive_time(now)
        self._set_clock()

    def _set_clock(self) -> None:
        """The time of day was set back: this server's clock follows when no deadline could be missed by that."""
        clock = self._clock
        if not isinstance(clock, SteadyClock) or (ahead_s := clock.ahead_s) < CLOCK_AHEAD_S_MAX:
            return
        waits = (
            self._job_store.is_writing
            or any(not execution.state.is_final for execution in self._job_store.executions())
            or self._machines.is_awaiting
        )
        if not waits:
            self.events.event("clock_set_back", by_s=ahead_s)
            clock.follow_wall()

    # Finding.

    def _frozen(self, request: JobRequest) -> list[Machine]:
        found = (
            jobs.resolve_targets(request.targets, request.all_machines, self._machines)
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
        return Snapshot(
            now_at=self._clock(),
            machines=self.machines(),
            jobs=self._job_store.open_views(),
            server_id=self.server_id,
        )

    def _publish_job(self, job_id: str) -> None:
        view = self._job_store.open_view(job_id) if self._subscriptions else None
        if view is not None:
            self._subscriptions.publish(JobChanged(now_at=self._clock(), job=view))

    def _machine_changed(self, machine: Machine, before: Machine | None) -> None:
        self.events.machine_changed(before, machine)
        self._publish_machine(machine)

    def _publish_machine(self, machine: Machine) -> None:
        self._subscriptions.publish(MachineChanged(now_at=self._clock(), machine=machine))


def _target(machine: Machine) -> Target:
    return Target(
        machine_id=machine.id,
        name=machine.name,
        presence=machine.presence.state,
        detail=machine.presence.cause.value,
        persons=machine.facts.persons,
        knows_persons=machine.facts.knows_persons,
        persons_problem=machine.facts.persons_problem,
        asks_by=machine.facts.asks_by,
        asking_problem=machine.facts.asking_problem,
    )
