"""The unfinished jobs: a write-through cache in front of the storage.

Memory changes first, so that the next decision is based on it. An answer that promises something is sent only after
the storage has it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from landline.fleet.api import JobView, OperationError, StorageError
from landline.fleet.control.event_log import EventLog
from landline.fleet.control.shielded_tasks import ShieldedTasks
from landline.fleet.control.storage import Storage
from landline.fleet.model import Execution, ExecutionState, Job

UNKNOWN_MAX_AGE_S: Final = 7 * 86_400.0
"""How long an unknown outcome can still be resolved by the machine's return."""


class JobStore:
    """Jobs with executions that can still change.

    Every method that reads or writes the storage may raise :class:`landline.fleet.api.StorageError`. Failed writes
    are logged here.

    :param changed: called with the id of a changed job.
    :param events: logs the changes that were stored.
    :param writes: runs the writes, which finish although their caller is cancelled.
    """

    def __init__(
        self, storage: Storage, changed: Callable[[str], None], events: EventLog, writes: ShieldedTasks
    ) -> None:
        self._storage = storage
        self._changed = changed
        self._events = events
        self._writes = writes
        self._open: dict[str, Execution] = {}
        self._jobs: dict[str, Job] = {}
        self._executions: dict[str, dict[str, Execution]] = {}
        # For executions whose newest state is being written: the number of writes, and the stored state.
        self._unwritten: dict[str, int] = {}
        self._on_disk: dict[str, Execution] = {}
        self._written = asyncio.Event()

    async def load(self, now: float) -> None:
        """Read the unfinished jobs."""
        executions = await self._storage.open_executions(now - UNKNOWN_MAX_AGE_S)
        # In order of due time: orders are sent in this order when their machines return.
        for job_id in _job_ids(executions):
            (job,) = await self._storage.job(job_id)
            self._remember(job, await self._storage.executions_of([job_id]))

    # Reading

    def find(self, execution_id: str) -> Execution | None:
        """Return an execution of an unfinished job."""
        return self._open.get(execution_id)

    def job_of(self, execution: Execution) -> Job:
        """Return the job of an unfinished execution."""
        return self._jobs[execution.job_id]

    def executions(self) -> list[Execution]:
        """Return all executions of unfinished jobs."""
        return list(self._open.values())

    def for_machine(self, machine_id: str) -> list[Execution]:
        """Return the executions of unfinished jobs on one machine."""
        return [execution for execution in self._open.values() if execution.machine_id == machine_id]

    def of_job(self, job_id: str) -> list[Execution]:
        """Return the executions of one unfinished job."""
        return list(self._executions.get(job_id, {}).values())

    def open_view(self, job_id: str) -> JobView | None:
        """Return an unfinished job with its executions in order of machine name."""
        job = self._jobs.get(job_id)
        if job is None:
            return None
        executions = sorted(self.of_job(job_id), key=lambda execution: execution.machine_name)
        return JobView(job=job, executions=tuple(executions))

    def open_views(self) -> tuple[JobView, ...]:
        """Return the jobs with an execution that is not final.

        Jobs with an unknown outcome stay in memory, because evidence may still arrive, but they have ended.
        """
        views = (self.open_view(job_id) for job_id in self._jobs)
        return tuple(
            view
            for view in views
            if view and not all(execution.state.is_final for execution in view.executions)
        )

    async def view(self, job_id_prefix: str) -> JobView:
        """Return any job with its events.

        :raises OperationError: if the prefix matches no job or more than one.
        """
        job = await self.find_job(job_id_prefix)
        stored = await self._storage.executions_of([job.id])
        return JobView(
            job=job,
            executions=tuple(self._open.get(execution.id, execution) for execution in stored),
            events=await self._storage.events_of(job.id),
        )

    async def newest(self, limit: int) -> tuple[JobView, ...]:
        """Return the newest jobs, newest first."""
        return await self._views(await self._storage.jobs(limit))

    async def by_request(self, request_id: str) -> JobView | None:
        """Return the job that was accepted for ``request_id``, without its events, or ``None``."""
        job = await self._storage.job_by_request(request_id)
        return None if job is None else (await self._views((job,)))[0]

    async def _views(self, stored: Sequence[Job]) -> tuple[JobView, ...]:
        executions: dict[str, list[Execution]] = {job.id: [] for job in stored}
        for execution in await self._storage.executions_of([job.id for job in stored]):
            executions[execution.job_id].append(self._open.get(execution.id, execution))
        return tuple(JobView(job=job, executions=tuple(executions[job.id])) for job in stored)

    async def find_job(self, job_id_prefix: str) -> Job:
        """Return any job.

        :raises OperationError: if the prefix matches no job or more than one.
        """
        found = await self._storage.job(job_id_prefix)
        shown = repr(job_id_prefix[:80])
        if not found:
            raise OperationError("unknown_job", f"there is no job {shown}; 'landline jobs' lists the jobs")
        if len(found) > 1:
            raise OperationError(
                "ambiguous_job", f"more than one job begins with {shown}; give more of its id"
            )
        return found[0]

    # Writing

    async def add(self, job: Job, executions: Sequence[Execution]) -> Job:
        """Store a new job and return it.

        If its ``request_id`` was used before, return the earlier job and store nothing. Cancelling stops the
        waiting, not the storing.
        """
        return await self._writes.run(self._add(job, executions))

    async def record(self, executions: Sequence[Execution]) -> None:
        """Write through new states, in this order and in one transaction: memory first, then disk.

        If the disk fails, memory returns to what the disk holds and :class:`landline.fleet.api.StorageError` is
        raised. Cancelling stops the waiting, not the recording.
        """
        if not executions:
            return
        for execution in executions:
            self._on_disk.setdefault(execution.id, self._open[execution.id])
            self._unwritten[execution.id] = self._unwritten.get(execution.id, 0) + 1
            self._put(execution)
        await self._writes.run(self._write(executions))

    async def written(self, execution_id: str) -> None:
        """Wait until memory and disk agree on an execution.

        Call it before acknowledging anything based on this execution's state.
        """
        while execution_id in self._unwritten:
            self._written.clear()
            await self._written.wait()

    # Internals

    async def _add(self, job: Job, executions: Sequence[Execution]) -> Job:
        try:
            stored = await self._storage.add_job(job, executions)
        except StorageError as error:
            self._events.storage_failed(error)
            raise
        if stored.id == job.id:
            self._remember(job, executions)
            self._changed(job.id)
            self._forget_finished([job.id])
            self._events.job_accepted(job, executions)
        return stored

    async def _write(self, executions: Sequence[Execution]) -> None:
        try:
            await self._storage.record(executions)
        except StorageError as error:
            for execution in executions:
                # A newer state has a write of its own, which handles its own failure.
                if self._open[execution.id] is execution:
                    self._put(self._on_disk[execution.id])
            self._events.storage_failed(error)
            raise
        else:
            for execution in executions:
                self._on_disk[execution.id] = execution
            self._events.executions_changed(executions)
        finally:
            for execution in executions:
                self._end_write(execution.id)
            self._written.set()
            job_ids = _job_ids(executions)
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
        """Drop jobs from memory in which nothing can change any more."""
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


def _job_ids(executions: Iterable[Execution]) -> list[str]:
    """Return the ids of their jobs, each once, in order of appearance."""
    return list(dict.fromkeys(execution.job_id for execution in executions))
