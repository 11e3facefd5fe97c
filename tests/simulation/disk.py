"""What is on a node's disk: the agent's journal, the control server's database. Only what was synced survives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.simulation.node import Node

from landline.fleet.api import StorageError
from landline.fleet.model import Execution, ExecutionEvent, ExecutionState, Job, Machine


class JournalDisk:
    """A :class:`landline.fleet.agent.journal.JournalStore` on a node's disk."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def __str__(self) -> str:
        return "journal"

    def read(self) -> bytes:
        return self._node.disk.get("journal", b"")

    def truncate(self, size_bytes: int) -> None:
        self.replace(self.read()[:size_bytes])

    def append(self, data: bytes) -> None:
        if self._node.world.now_ns < self._node.disk_full_until_ns:
            raise OSError(28, "No space left on device")
        before = self.read()
        half = data[: self._node.rng.randrange(len(data))]
        self._node.write(
            lambda: self._node.disk.update(journal=before + data),
            lambda: self._node.disk.update(journal=before + half),
        )

    def replace(self, data: bytes) -> None:
        self._node.write(lambda: self._node.disk.update(journal=data))

    def close(self) -> None:
        """Do nothing: no file is open."""


class Database:
    """Stands for :class:`landline.fleet.control.storage.Storage`: transactions take time, may fail, and survive a
    crash or not.

    The real one is tested with real processes and ``kill -9``; here its promises are taken for granted.
    """

    def __init__(self, node: Node, recorded: Callable[[Execution], None] = lambda execution: None) -> None:
        self._node = node
        self._recorded = recorded
        self._turn = asyncio.Lock()
        for table in ("machines", "jobs", "executions"):
            node.disk.setdefault(table, {})
        node.disk.setdefault("events", [])

    async def close(self) -> None:
        """Do nothing: no file is open."""

    async def load_machines(self) -> tuple[Machine, ...]:
        await self._read()
        return tuple(sorted(self._node.disk["machines"].values(), key=lambda machine: machine.name))

    async def save_machine(self, machine: Machine) -> None:
        await self.save_machines((machine,))

    async def save_machines(self, machines) -> None:
        if machines:
            table = self._node.disk["machines"]
            await self._write(lambda: table.update({machine.id: machine for machine in machines}))

    async def add_job(self, job: Job, executions) -> Job:
        def find() -> Job | None:
            jobs = self._node.disk["jobs"].values()
            return next((old for old in jobs if job.request_id and old.request_id == job.request_id), None)

        def add() -> None:
            if find() is None:
                self._node.disk["jobs"][job.id] = job
                self._put(executions)

        await self._write(add)
        return find() or job

    async def record(self, executions) -> None:
        if executions:
            await self._write(lambda: self._put(executions))

    async def open_executions(self, since_at: float) -> tuple[Execution, ...]:
        await self._read()
        found = (
            execution
            for execution in self._node.disk["executions"].values()
            if not execution.state.is_final
            or (execution.state is ExecutionState.UNKNOWN and execution.updated_at >= since_at)
        )
        return tuple(sorted(found, key=lambda execution: (execution.due_at, execution.id)))

    async def job(self, job_id_prefix: str) -> tuple[Job, ...]:
        await self._read()
        return tuple(job for job in self._node.disk["jobs"].values() if job.id.startswith(job_id_prefix))[:2]

    async def job_by_request(self, request_id: str) -> Job | None:
        await self._read()
        jobs = self._node.disk["jobs"].values()
        return next((job for job in jobs if job.request_id == request_id), None)

    async def executions_of(self, job_ids) -> tuple[Execution, ...]:
        await self._read()
        return tuple(each for each in self._node.disk["executions"].values() if each.job_id in job_ids)

    async def events_of(self, job_id: str) -> tuple[ExecutionEvent, ...]:
        await self._read()
        return ()

    def _put(self, executions) -> None:
        for execution in executions:
            self._node.disk["executions"][execution.id] = execution
            self._node.disk["events"].append((execution.id, execution.state))
            self._node.world.note(f"on disk: {execution.id} {execution.state.value} {execution.detail}")
            self._recorded(execution)

    async def _read(self) -> None:
        await asyncio.sleep(self._node.rng.random() * 0.005)

    async def _write(self, change) -> None:
        async with self._turn:
            await asyncio.sleep(self._node.rng.random() * 0.02)
            if self._node.world.now_ns < self._node.disk_full_until_ns:
                raise StorageError("the disk is full")
            self._node.write(change)
            await asyncio.sleep(self._node.rng.random() * 0.01)
