"""The jobs that are not over, in memory as they are on disk.

Memory changes at once, so that the next decision stands on it; the promise is kept when the disk has it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar

from landline import RequestError
from landline.fleet.api import JobView, OperationError, StorageError
from landline.fleet.control.event_log import EventLog
from landline.fleet.control.storage import Storage
from landline.fleet.messages import STORAGE_FAILED
from landline.fleet.model import Execution, ExecutionState, Job

UNKNOWN_KEPT_S: Final = 7 * 86_400.0
"""How long an unknown outcome can still be settled by the machine's return."""

_Result = TypeVar("_Result")


class JobStore:
    """Jobs and executions in which something can still change.

    :param changed: called with the id of a changed job.
    :param events: logs what is on disk, and what the disk does not take.
    """

    def __init__(self, storage: Storage, changed: Callable[[str], None], events: EventLog) -> None:
        self._storage = storage
        self._changed = changed
        self._events = events
        self._open: dict[str, Execution] = {}
        self._jobs: dict[str, Job] = {}
        self._executions: dict[str, dict[str, Execution]] = {}
        self._writing: set[asyncio.Task[Any]] = set()
        # Executions whose newest states are on their way to disk: how many writes, and what the disk holds.
        self._unwritten: dict[str, int] = {}
        self._on_disk: dict[str, Execution] = {}
        self._written = asyncio.Event()

    async def load(self, now: float) -> None:
        """Reads from disk what was not over. Raises :class:`StorageError`."""
        executions = await self._storage.open_executions(now - UNKNOWN_KEPT_S)
        # In the order of the executions, soonest due first: so they go out when their machines are back.
        for job_id in _jobs_of(executions):
            (job,) = await self._storage.job(job_id)
            self._remember(job, await self._storage.executions_of([job_id]))

    async def close(self) -> None:
        """Waits for what is being written."""
        if self._writing:
            await asyncio.wait(self._writing)

    # Looking.

    def find(self, execution_id: str) -> Execution | None:
        """An execution of a job that is not over."""
        return self._open.get(execution_id)

    def job_of(self, execution: Execution) -> Job:
        """The job an open execution belongs to."""
        return self._jobs[execution.job_id]

    @property
    def is_writing(self) -> bool:
        """Whether jobs or states are on their way to disk: a new job is among the others only when it is there."""
        return bool(self._writing)

    def executions(self) -> list[Execution]:
        """Every execution of the jobs that are not over."""
        return list(self._open.values())

    def for_machine(self, machine_id: str) -> list[Execution]:
        """Those of one machine."""
        return [execution for execution in self._open.values() if execution.machine_id == machine_id]

    def of_job(self, job_id: str) -> list[Execution]:
        """Those of one job."""
        return list(self._executions.get(job_id, {}).values())

    def open_view(self, job_id: str) -> JobView | None:
        """A job that is not over, with its executions in order of machine name."""
        job = self._jobs.get(job_id)
        if job is None:
            return None
        executions = sorted(self.of_job(job_id), key=lambda execution: execution.machine_name)
        return JobView(job=job, executions=tuple(executions))

    def open_views(self) -> tuple[JobView, ...]:
        """Jobs with something under way.

        A job with an unknown outcome is kept here, for evidence may still come; it is over all the same.
        """
        views = (self.open_view(job_id) for job_id in self._jobs)
        return tuple(
            view
            for view in views
            if view and not all(execution.state.is_final for execution in view.executions)
        )

    async def view(self, job_id_prefix: str) -> JobView:
        """Any job, with its events. Raises :class:`OperationError` when the prefix names none or several."""
        job = await self.find_job(job_id_prefix)
        stored = await self._storage.executions_of([job.id])
        return JobView(
            job=job,
            executions=tuple(self._open.get(execution.id, execution) for execution in stored),
            events=await self._storage.events_of(job.id),
        )

    async def newest(self, limit: int) -> tuple[JobView, ...]:
        """The newest jobs, newest first."""
        return await self._views(await self._storage.jobs(limit))

    async def by_request(self, request_id: str) -> tuple[JobView, ...]:
        """The job that was accepted for ``request_id``, if any."""
        job = await self._storage.job_by_request(request_id)
        return () if job is None else await self._views((job,))

    async def _views(self, stored: Sequence[Job]) -> tuple[JobView, ...]:
        executions: dict[str, list[Execution]] = {job.id: [] for job in stored}
        for execution in await self._storage.executions_of([job.id for job in stored]):
            executions[execution.job_id].append(self._open.get(execution.id, execution))
        return tuple(JobView(job=job, executions=tuple(executions[job.id])) for job in stored)

    async def find_job(self, job_id_prefix: str) -> Job:
        """Any job. Raises :class:`OperationError` when the prefix names none or several."""
        found = await self._storage.job(job_id_prefix)
        shown = repr(job_id_prefix[:80])
        if not found:
            raise OperationError("unknown_job", f"there is no job {shown}; 'landline jobs' shows them")
        if len(found) > 1:
            raise OperationError("ambiguous_job", f"more than one job begins with {shown}; give more of it")
        return found[0]

    # Changing.

    async def add(self, job: Job, executions: Sequence[Execution], added: Callable[[], None]) -> Job:
        """Stores a job; ``added`` is called once it is on disk.

        When its ``request_id`` was used before, the earlier job is returned and nothing is stored. Cancelling stops
        the waiting, not the storing. Raises :class:`StorageError`.
        """
        return await self._to_its_end(self._add(job, executions, added))

    async def record(self, executions: Sequence[Execution]) -> None:
        """Makes new states true: in memory at once, so that the next decision sees them, then on disk.

        When the disk fails, memory goes back to what the disk holds and :class:`RequestError` is raised: what
        could not be recorded was not promised. Cancelling stops the waiting, not the recording.
        """
        if not executions:
            return
        for execution in executions:
            self._on_disk.setdefault(execution.id, self._open[execution.id])
            self._unwritten[execution.id] = self._unwritten.get(execution.id, 0) + 1
            self._put(execution)
        await self._to_its_end(self._write(executions))

    async def written(self, execution_id: str) -> None:
        """Waits until memory and disk agree on an execution.

        Whoever is about to promise something on the ground of its state must know that the disk bears it out.
        """
        while execution_id in self._unwritten:
            self._written.clear()
            await self._written.wait()

    # Inside.

    async def _add(self, job: Job, executions: Sequence[Execution], added: Callable[[], None]) -> Job:
        stored = await self._storage.add_job(job, executions)
        if stored.id == job.id:
            self._remember(job, executions)
            self._changed(job.id)
            self._forget_finished([job.id])
            self._events.job_accepted(job, executions)
            added()
        return stored

    async def _write(self, executions: Sequence[Execution]) -> None:
        try:
            await self._storage.record(executions)
        except StorageError as error:
            for execution in executions:
                # A newer state is being written by somebody else, who will see to it.
                if self._open[execution.id] is execution:
                    self._put(self._on_disk[execution.id])
            self._events.storage_failed(error)
            raise RequestError(STORAGE_FAILED, "the control server could not record this") from error
        else:
            for execution in executions:
                self._on_disk[execution.id] = execution
            self._events.executions_changed(executions)
        finally:
            for execution in executions:
                self._end_write(execution.id)
            self._written.set()
            job_ids = _jobs_of(executions)
            for job_id in job_ids:
                self._changed(job_id)
            self._forget_finished(job_ids)

    def _end_write(self, execution_id: str) -> None:
        self._unwritten[execution_id] -= 1
        if not self._unwritten[execution_id]:
            del self._unwritten[execution_id]
            del self._on_disk[execution_id]

    def _put(self, execution: Execution) -> None:
        self._open[execution.id] = execution
        self._executions[execution.job_id][execution.id] = execution

    def _remember(self, job: Job, executions: Iterable[Execution]) -> None:
        self._jobs[job.id] = job
        self._executions[job.id] = {}
        for execution in executions:
            self._put(execution)

    def _forget_finished(self, job_ids: Iterable[str]) -> None:
        """Drops jobs from memory in which nothing can change any more."""
        for job_id in job_ids:
            executions = self._executions.get(job_id, {})
            if all(
                execution.id not in self._unwritten
                and execution.state.is_final
                and execution.state is not ExecutionState.UNKNOWN
                for execution in executions.values()
            ):
                for execution_id in executions:
                    self._open.pop(execution_id, None)
                self._executions.pop(job_id, None)
                self._jobs.pop(job_id, None)

    async def _to_its_end(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """An agent that is gone takes back its request; memory and disk must agree all the same."""
        task = asyncio.get_running_loop().create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return await asyncio.shield(task)


def _jobs_of(executions: Iterable[Execution]) -> list[str]:
    """The ids of their jobs, each once, in the order in which they appear."""
    return list(dict.fromkeys(execution.job_id for execution in executions))
