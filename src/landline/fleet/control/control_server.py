"""The control server: machines on one side, operators on the other, the record of jobs in between.

:mod:`landline.fleet.control.presence`, :mod:`landline.fleet.control.jobs` and
:mod:`landline.fleet.control.reconciliation` make the decisions. :mod:`landline.fleet.control.machines` and
:mod:`landline.fleet.control.job_dispatcher` carry them out; this module connects them to the lines and to the
operations. Memory is read and changed without awaiting in between, so that each decision is based on the current state.
Whatever an answer promises is on disk before the answer is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random, SystemRandom
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import msgspec

import landline
from landline import Line, RequestError, Server
from landline.fleet.api import (
    AnswerUnavailable,
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
from landline.fleet.control.cloned_identities import PROBE_TIMEOUT_S, ClonedIdentities
from landline.fleet.control.event_log import EventLog
from landline.fleet.control.job_dispatcher import WAKE_EVERY_S, JobDispatcher
from landline.fleet.control.job_store import JobStore
from landline.fleet.control.machine_registry import MachineRegistry
from landline.fleet.control.machines import Machines
from landline.fleet.control.presence import GONE_GRACE_S
from landline.fleet.control.request_rate import RequestThrottle
from landline.fleet.control.shielded_tasks import ShieldedTasks
from landline.fleet.control.storage import Storage
from landline.fleet.control.targets import resolve_targets
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
    Report,
)
from landline.fleet.model import Cause, Machine, PresenceState

SWEEP_EVERY_S: Final = 0.5
"""How often deadlines are checked."""
ROUND_TRIP_EVERY_S: Final = 5.0
"""How often the round-trip times are published while anyone subscribes to updates."""
CLOCK_AHEAD_S_MAX: Final = 1.0
"""A clock that is further ahead of the time of day, which was set back, follows it when no deadline is pending."""
GOODBYE_CAUSES: Final = frozenset({Cause.RESTARTING, Cause.SHUT_DOWN, Cause.GOING_DOWN, Cause.AGENT_STOPPED})
"""The causes that a goodbye may have. Any other counts as ``AGENT_STOPPED``."""
ID_ALPHABET: Final = "23456789abcdefghjkmnpqrstvwxyz"
"""Without characters that look alike: people type job ids."""
JOB_ID_CHARACTERS: Final = 8

_Body = TypeVar("_Body")
_Answer = TypeVar("_Answer")


class ControlTiming(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals and time-outs of a control server, in seconds."""

    gone_grace_s: float = GONE_GRACE_S
    """How long a machine that said goodbye must stay away before it counts as gone."""
    sweep_every_s: float = SWEEP_EVERY_S
    wake_every_s: float = WAKE_EVERY_S
    probe_timeout_s: float = PROBE_TIMEOUT_S


class ControlServer:
    """Implements :class:`landline.fleet.api.Operations` for the machines that join over ``server``.

    Make one with :meth:`start`. It takes over the server's handlers and callbacks.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        waker: Waker,
        agents_url: str = "",
        clock: Callable[[], float] = time.time,
        random: Random | None = None,
        timing: ControlTiming = ControlTiming(),  # noqa: B008 - frozen
    ) -> None:
        self._clock = clock
        self._random = random or SystemRandom()
        self._timing = timing
        self._background_tasks = BackgroundTasks()
        self._writes = ShieldedTasks()
        self.events: EventLog = EventLog()
        self._registry = MachineRegistry(storage, self._machine_changed, self.events)
        self._cloned = ClonedIdentities(self._registry, clock=clock, probe_timeout_s=timing.probe_timeout_s)
        self._machines = Machines(
            self._registry, self._cloned, clock=clock, random=self._random, gone_grace_s=timing.gone_grace_s
        )
        self._job_store = JobStore(storage, self._publish_job, self.events, self._writes)
        self._job_dispatcher = JobDispatcher(
            self._job_store,
            self._registry,
            self._machines,
            waker,
            self._background_tasks,
            self._writes,
            clock=clock,
            wake_every_s=timing.wake_every_s,
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
        timing: ControlTiming = ControlTiming(),  # noqa: B008 - frozen
    ) -> ControlServer:
        """Load the stored state, take over the server's handlers and begin to check deadlines.

        :raises StorageError: if the state cannot be read.
        """
        control = cls(storage, waker=waker, agents_url=agents_url, clock=clock, random=random, timing=timing)
        await control._load()
        control._register(server)
        control._background_tasks.start(control._sweep_forever())
        return control

    def close_subscriptions(self) -> None:
        """End every subscription to updates."""
        self._subscriptions.close()

    async def stop(self) -> None:
        """End the background work and write what is not written yet. The server and the storage stay open."""
        self.close_subscriptions()
        await self._background_tasks.stop()
        await self._writes.wait()
        # A failure is logged; the next start continues from what is on disk.
        with contextlib.suppress(StorageError):
            await self._registry.save()

    @property
    def resumes(self) -> int:
        """How often a machine's session continued over a new connection."""
        return self._machines.resumes

    # Operations

    def status(self) -> ServerStatus:
        online = sum(machine.presence.state is PresenceState.ONLINE for machine in self._registry)
        return ServerStatus(
            version=landline.__version__,
            started_at=self._started_at,
            now_at=self._clock(),
            machines=len(self._registry),
            online=online,
            agents_url=self.agents_url,
        )

    def machines(self) -> tuple[Machine, ...]:
        return self._registry.shown()

    def preview(self, request: PreviewRequest) -> Preview:
        found = resolve_targets(request.targets, request.all_machines, self._registry)
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
            machines = self._machines_for(request)
        except OperationError:
            # A request that was accepted once is not refused when it is repeated, whatever its targets match by now.
            if request.request_id is None or (earlier := await self._earlier_job(request)) is None:
                raise
            return earlier
        job = jobs.new_job(request, job_id=self._new_job_id(), now=self._clock())
        executions = [
            jobs.plan(job, machine, f"{job.id}-{number}") for number, machine in enumerate(machines, 1)
        ]
        stored = await self._job_dispatcher.accept(job, executions)
        if stored.id != job.id:
            try:
                earlier = await self._earlier_job(request)
            except StorageError as error:
                raise AnswerUnavailable(f"the job {stored.id} was accepted before, but {error}") from error
            assert earlier is not None
            return earlier
        return JobView(job=job, executions=tuple(executions))

    async def _earlier_job(self, request: JobRequest) -> JobView | None:
        """Return the job that was accepted for the same request before, if any.

        :raises OperationError: if its ``request_id`` was used for a different request.
        """
        assert request.request_id is not None
        earlier = await self._job_store.by_request(request.request_id)
        if earlier is None:
            return None
        if not jobs.is_same_request(request, earlier.job, earlier.executions):
            raise OperationError(
                "request_id_used",
                f"the request id {request.request_id!r} was used for another job, {earlier.job.id}; "
                "give a new job a new request id",
            )
        return await self._job_store.view(earlier.job.id)

    async def jobs(self, limit: int, request_id: str | None = None) -> tuple[JobView, ...]:
        if request_id is not None:
            found = await self._job_store.by_request(request_id)
            return () if found is None else (found,)[:limit]
        return await self._job_store.newest(limit)

    async def job(self, job_id: str) -> JobView:
        return await self._job_store.view(job_id)

    async def cancel_job(self, job_id: str, request: CancelRequest) -> JobView:
        job = await self._job_store.find_job(job_id)
        cancelled = await self._job_dispatcher.cancel(job, cancelled_by=request.cancelled_by)
        self.events.job_cancelled(job, request.cancelled_by, cancelled)
        try:
            return await self.job(job.id)
        except StorageError as error:
            raise AnswerUnavailable(f"the job {job.id} was cancelled, but {error}") from error

    async def resolve_machine(self, name: str) -> Machine:
        machine = self._cloned.resolve(self._registry.named(name).id)
        try:
            await self._registry.save()
        except StorageError as error:
            # It is resolved in memory, and the next sweep saves it.
            raise AnswerUnavailable(f"the identity of {name} was resolved, but {error}") from error
        return machine

    def updates(self) -> AsyncIterator[Update]:
        return self._subscriptions.updates()

    # Start

    async def _load(self) -> None:
        now = self._clock()
        await self._registry.load(lambda machine: self._machines.after_server_start(machine, now))
        self._cloned.load()
        await self._job_store.load(now)
        if isinstance(self._clock, SteadyClock):
            pending = (it.updated_at for it in self._job_store.executions() if not it.state.is_final)
            self._clock.begin_at(max(pending, default=0.0))
        self._job_dispatcher.resume()

    # Requests of agents

    def _register(self, server: Server) -> None:
        server.on_state(self._machines.line_changed)
        server.on("facts", FactsChecked)(self._receive_facts)
        server.on("join", Join)(self._agent_handler(self._receive_join))
        server.on("report", Report)(self._agent_handler(self._job_dispatcher.receive_report))
        server.on("claim", Claim)(self._agent_handler(self._receive_claim))
        server.on("postpone", Postpone)(self._agent_handler(self._job_dispatcher.receive_postpone))
        server.on("goodbye", Goodbye)(self._agent_handler(self._receive_goodbye))

    def _agent_handler(
        self, function: Callable[[Line, _Body], Coroutine[Any, Any, _Answer]]
    ) -> Callable[[Line, _Body], Coroutine[Any, Any, _Answer]]:
        """Return a handler that throttles each agent's requests and translates storage errors for the line."""

        async def handle(line: Line, body: _Body) -> _Answer:
            await self._throttle(line)
            try:
                return await function(line, body)
            except StorageError as error:
                raise RequestError(STORAGE_FAILED, "the control server could not record this") from error

        return handle

    async def _throttle(self, line: Line) -> None:
        """Delay the requests of an agent that exceeds its share."""
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

    async def _receive_claim(self, line: Line, claim: Claim) -> Grant:
        await self._cloned.wait_while_probed(line.identity)
        return await self._job_dispatcher.receive_claim(line, claim)

    async def _receive_join(self, line: Line, join: Join) -> Joined:
        try:
            await self._cloned.probe(line, join)
            machine = self._machines.receive_join(line, join)
        except RequestError as error:
            if error.code == CLONED_IDENTITY:
                # ClonedIdentities logs a warning, once.
                await self._job_dispatcher.receive_clone(self._registry[line.identity])
            else:
                self.events.join_refused(line.identity, line.peer, error)
            raise
        try:
            # Together with the machine that gave up its name, if one did.
            await self._registry.save()
            over = await self._job_dispatcher.receive_join(machine, join.executions)
        finally:
            self._machines.join_completed(line)
        if self.on_joined is not None:
            self.on_joined(line, machine)
        return Joined(machine.name, over)

    async def _receive_goodbye(self, line: Line, goodbye: Goodbye) -> None:
        if goodbye.cause not in GOODBYE_CAUSES:
            goodbye = Goodbye(Cause.AGENT_STOPPED, goodbye.detail)
        self._machines.receive_goodbye(line, goodbye)
        await self._registry.save()

    # Deadlines

    async def _sweep_forever(self) -> None:
        last_round_trips = 0.0
        while True:
            await asyncio.sleep(self._timing.sweep_every_s)
            # Failed writes are logged where they happen; the next sweep tries again.
            with contextlib.suppress(StorageError):
                await self._sweep()
                await self._registry.save()
            now = asyncio.get_running_loop().time()
            if now - last_round_trips >= ROUND_TRIP_EVERY_S and self._subscriptions:
                last_round_trips = now
                for machine in self._registry.connected():
                    self._publish_machine(machine)

    async def _sweep(self) -> None:
        now = self._clock()
        await self._job_dispatcher.receive_time(now)
        self._machines.receive_time(now)
        self._set_clock()

    def _set_clock(self) -> None:
        """Follow a time of day that was set back, if no deadline could be missed by that."""
        clock = self._clock
        if not isinstance(clock, SteadyClock) or (ahead_s := clock.ahead_s) < CLOCK_AHEAD_S_MAX:
            return
        has_deadlines = (
            # A new job is among the executions only when it is on disk.
            self._writes
            or any(not execution.state.is_final for execution in self._job_store.executions())
            or self._machines.has_deadlines
        )
        if not has_deadlines:
            self.events.event("clock_set_back", by_s=ahead_s)
            clock.follow_wall()

    # Targets

    def _machines_for(self, request: JobRequest) -> list[Machine]:
        """Return the machines of a request: those of its list, or else those that its targets match.

        :raises OperationError: if there are none, or one of them does not exist.
        """
        if request.machine_ids is None:
            return resolve_targets(request.targets, request.all_machines, self._registry)
        if not request.machine_ids:
            raise OperationError("empty_target", "the list of machines is empty; name at least one")
        missing = [machine_id for machine_id in request.machine_ids if machine_id not in self._registry]
        if missing:
            raise OperationError("unknown_target", f"there is no machine with the id {missing[0][:80]!r}")
        machines = {machine_id: self._registry[machine_id] for machine_id in request.machine_ids}
        return sorted(machines.values(), key=lambda machine: machine.name)

    def _new_job_id(self) -> str:
        return "".join(self._random.choice(ID_ALPHABET) for _ in range(JOB_ID_CHARACTERS))

    # Updates

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
