"""A control server in memory, for tests of the API and of the command line."""

import asyncio
import fnmatch
from collections.abc import AsyncIterator

import msgspec

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
from landline.fleet.model import (
    Cause,
    Execution,
    ExecutionEvent,
    ExecutionState,
    Facts,
    Job,
    Machine,
    Person,
    Presence,
    PresenceState,
)

NOW = 1_750_000_000.0


class FakeOperations:
    """Carries out nothing; a test says what becomes of a job with :meth:`report`."""

    def __init__(self, names: list[str] | None = None, *, server_id: str = "fake") -> None:
        self.server_id = server_id
        self.now = NOW
        self.by_id: dict[str, Machine] = {}
        self.views: dict[str, JobView] = {}
        self.requests: list[JobRequest] = []
        self.readers: list[asyncio.Queue[Update]] = []
        self.failure: Exception | None = None
        """Raised by the next operation."""
        self.outcome: tuple[ExecutionState, str] | None = None
        """What becomes of every execution at once."""
        self.first_reader = asyncio.Event()
        for name in names if names is not None else ["lab-1", "lab-2", "lab-3"]:
            self.add(name)

    def add(
        self,
        name: str,
        state: PresenceState = PresenceState.ONLINE,
        cause: Cause = Cause.NONE,
        *,
        os: str = "Debian",
        person: str = "ada",
        since_s: float = 60,
        **facts: object,
    ) -> None:
        online = state is PresenceState.ONLINE
        self.put(
            Machine(
                id=f"m-{name}",
                facts=Facts(
                    **{
                        "name": name,
                        "host_name": f"{name}.lan",
                        "os": os,
                        "persons": (Person(name=person),) if person else (),
                        "knows_persons": True,
                        "asks_by": "tk on :0",
                        **facts,
                    }
                ),
                presence=Presence(
                    state=state,
                    cause=cause,
                    since_at=self.now - since_s,
                    address="10.0.0.7:40112" if online else "",
                ),
                first_seen_at=self.now - 1000,
                round_trip_s=0.0123 if online else None,
            )
        )

    def put(self, machine: Machine) -> None:
        self.by_id[machine.id] = machine
        self._tell(MachineChanged(now_at=self.now, machine=machine))

    def report(self, job_id: str, machine: str, state: ExecutionState, detail: str = "") -> None:
        view = self.views[job_id]
        executions = tuple(
            msgspec.structs.replace(e, state=state, detail=detail, updated_at=self.now)
            if e.machine_name == machine
            else e
            for e in view.executions
        )
        event = ExecutionEvent(execution_id=f"{job_id}/m-{machine}", at=self.now, state=state, detail=detail)
        self._keep(msgspec.structs.replace(view, executions=executions, events=(*view.events, event)))

    def _keep(self, view: JobView) -> None:
        self.views[view.job.id] = view
        self._tell(JobChanged(now_at=self.now, job=msgspec.structs.replace(view, events=())))

    def _tell(self, update: Update) -> None:
        for reader in self.readers:
            reader.put_nowait(update)

    def _may_fail(self) -> None:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    # The operations.

    def status(self) -> ServerStatus:
        self._may_fail()
        online = sum(m.presence.state is PresenceState.ONLINE for m in self.by_id.values())
        return ServerStatus(
            version="0.1.0",
            started_at=self.now - 3600,
            now_at=self.now,
            machines=len(self.by_id),
            online=online,
            agents_url="tcp://127.0.0.1:5463",
        )

    def machines(self) -> tuple[Machine, ...]:
        self._may_fail()
        return tuple(sorted(self.by_id.values(), key=lambda m: m.name))

    def preview(self, request: PreviewRequest) -> Preview:
        self._may_fail()
        matched = self._matched(request.targets, request.all_machines)
        return Preview(
            machines=tuple(
                Target(
                    machine_id=m.id,
                    name=m.name,
                    presence=m.presence.state,
                    persons=m.facts.persons,
                    knows_persons=m.facts.knows_persons,
                    asks_by=m.facts.asks_by,
                    asking_problem=m.facts.asking_problem,
                )
                for m in matched
            )
        )

    def _matched(self, targets: tuple[str, ...], all_machines: bool) -> list[Machine]:
        if not targets and not all_machines:
            raise OperationError("empty_target", "No machine is named; name one, or say --all.")
        for target in targets:
            if not any(fnmatch.fnmatchcase(m.name, target) for m in self.by_id.values()):
                raise OperationError("unknown_target", f"No machine is called '{target}'; see 'landline ls'.")
        return [
            m for m in self.machines() if all_machines or any(fnmatch.fnmatchcase(m.name, t) for t in targets)
        ]

    async def create_job(self, request: JobRequest) -> JobView:
        self._may_fail()
        self.requests.append(request)
        for view in self.views.values():
            if request.request_id is not None and view.job.request_id == request.request_id:
                return view
        job_id = f"{len(self.views) + 1:04d}abcd"
        job = Job(
            id=job_id,
            action=request.action,
            targets=request.targets,
            created_at=self.now,
            requested_by=request.requested_by,
            message=request.message,
            unasked=request.unasked,
            request_id=request.request_id,
        )
        chosen = (
            [self.by_id[i] for i in request.machine_ids]
            if request.machine_ids is not None
            else self._matched(request.targets, request.all_machines)
        )
        state, detail = self.outcome or (ExecutionState.QUEUED, "")
        view = JobView(
            job=job,
            executions=tuple(
                Execution(
                    id=f"{job_id}/{m.id}",
                    job_id=job_id,
                    machine_id=m.id,
                    machine_name=m.name,
                    state=state,
                    detail=detail,
                    updated_at=self.now,
                    due_at=self.now + 60,
                    expires_at=self.now + 180,
                )
                for m in chosen
            ),
        )
        self._keep(view)
        return view

    async def jobs(self, limit: int, request_id: str | None = None) -> tuple[JobView, ...]:
        self._may_fail()
        newest = reversed(list(self.views.values()))
        return tuple(view for view in newest if request_id in {None, view.job.request_id})[:limit]

    async def job(self, job_id: str) -> JobView:
        self._may_fail()
        found = [view for key, view in self.views.items() if key.startswith(job_id)]
        if not found:
            raise OperationError("unknown_job", f"There is no job '{job_id}'; see 'landline jobs'.")
        if len(found) > 1:
            raise OperationError("ambiguous_job", f"'{job_id}' names {len(found)} jobs; give more of the id.")
        return found[0]

    async def cancel_job(self, job_id: str, request: CancelRequest) -> JobView:
        view = await self.job(job_id)
        for execution in view.executions:
            if not execution.state.is_final and not execution.state.has_started:
                self.report(
                    view.job.id,
                    execution.machine_name,
                    ExecutionState.CANCELLED,
                    f"cancelled by {request.cancelled_by}",
                )
        return self.views[view.job.id]

    async def resolve_machine(self, name: str) -> Machine:
        self._may_fail()
        found = next((machine for machine in self.by_id.values() if machine.name == name), None)
        if found is None:
            raise OperationError("unknown_target", f"there is no machine called {name!r}")
        if sum(each.is_live for each in found.claimants) > 1:
            raise OperationError("still_cloned", f"2 machines use the identity of {name}")
        self.put(msgspec.structs.replace(found, claimants=()))
        return self.by_id[found.id]

    async def updates(self) -> AsyncIterator[Update]:
        queue: asyncio.Queue[Update] = asyncio.Queue()
        self.readers.append(queue)
        self.first_reader.set()
        try:
            yield Snapshot(
                now_at=self.now,
                machines=self.machines(),
                jobs=tuple(
                    view for view in self.views.values() if not all(e.state.is_final for e in view.executions)
                ),
                server_id=self.server_id,
            )
            while True:
                yield await queue.get()
        finally:
            self.readers.remove(queue)
