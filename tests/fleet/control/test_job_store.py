"""The store of unfinished jobs over a real database: what it shows, and that memory follows the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from landline.fleet.api import StorageError
from landline.fleet.control.event_log import EventLog
from landline.fleet.control.job_store import JobStore
from landline.fleet.control.shielded_tasks import ShieldedTasks
from landline.fleet.control.storage import Storage
from landline.fleet.model import Action, Execution, ExecutionState, Job

S = ExecutionState
DAY_S = 86_400.0


def make_job(job_id: str = "j", **changes: object) -> Job:
    return Job(id=job_id, action=Action.RESTART, targets=("lab-*",), created_at=1000.0, **changes)


def make_execution(number: int = 1, state: ExecutionState = S.QUEUED, job_id: str = "j") -> Execution:
    return Execution(
        id=f"{job_id}-{number}",
        job_id=job_id,
        machine_id=f"id-{number}",
        machine_name=f"lab-{number}",
        state=state,
        updated_at=1000.0,
        due_at=1000.0,
        expires_at=2000.0,
    )


def in_state(execution: Execution, state: ExecutionState, updated_at: float = 1001.0) -> Execution:
    return msgspec.structs.replace(execution, state=state, updated_at=updated_at)


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    opened = await Storage.open(tmp_path / "landline.db")
    yield opened
    await opened.close()


@pytest.fixture
def changed() -> list[str]:
    return []


@pytest.fixture
def store(storage: Storage, changed: list[str]) -> JobStore:
    return JobStore(storage, changed.append, EventLog(), ShieldedTasks())


async def test_a_job_with_an_unknown_outcome_is_kept_but_not_shown(store: JobStore) -> None:
    first, second = make_execution(1), make_execution(2)
    await store.add(make_job(), [first, second])
    assert [view.job.id for view in store.open_views()] == ["j"]
    await store.record([in_state(first, S.ACTING), in_state(first, S.UNKNOWN)])
    # The other machine has not finished.
    assert [view.job.id for view in store.open_views()] == ["j"]
    await store.record([in_state(second, S.CANCELLED)])
    assert store.open_views() == ()
    # Evidence may still arrive.
    found = store.find("j-1")
    assert found is not None
    await store.record([in_state(found, S.DONE)])
    assert store.find("j-1") is None
    assert store.open_view("j") is None


@pytest.mark.parametrize(("age_s", "is_loaded"), [(7 * DAY_S, True), (7 * DAY_S + 1, False)])
async def test_an_unknown_outcome_is_loaded_for_seven_days(
    storage: Storage, store: JobStore, age_s: float, is_loaded: bool
) -> None:
    execution = make_execution()
    await storage.add_job(make_job(), [execution])
    await storage.record([in_state(execution, S.ACTING), in_state(execution, S.UNKNOWN, 5000.0)])
    await store.load(5000.0 + age_s)
    assert (store.find("j-1") is not None) is is_loaded


async def test_two_states_of_one_execution_are_stored_together_or_not_at_all(
    storage: Storage, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = make_execution()
    await store.add(make_job(), [execution])
    states = [in_state(execution, S.ACCEPTED), in_state(execution, S.ACTING)]

    async def fail(_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "record", fail)
        with pytest.raises(StorageError):
            await store.record(states)
    assert store.find("j-1") == execution
    await store.record(states)
    assert store.find("j-1") == states[-1]
    assert await storage.executions_of(["j"]) == (states[-1],)
    assert [event.state for event in await storage.events_of("j")] == ["queued", "accepted", "acting"]


async def test_a_failed_write_does_not_undo_a_newer_state(
    storage: Storage, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = make_execution()
    await store.add(make_job(), [execution])
    record, begun, may_fail = storage.record, asyncio.Event(), asyncio.Event()

    async def fail(_: object) -> None:
        begun.set()
        await may_fail.wait()
        raise StorageError("the disk is full")

    monkeypatch.setattr(storage, "record", fail)
    failing = asyncio.create_task(store.record([in_state(execution, S.DELIVERED)]))
    await begun.wait()
    monkeypatch.setattr(storage, "record", record)
    waiting = asyncio.create_task(store.written("j-1"))
    prompted = in_state(execution, S.PROMPTED)
    await store.record([prompted])
    assert not waiting.done()
    # Disk and memory do not agree for the waiting caller before both writes have ended.
    may_fail.set()
    with pytest.raises(StorageError):
        await failing
    await waiting
    assert store.find("j-1") == prompted


async def test_a_cancelled_caller_does_not_stop_a_write(storage: Storage, store: JobStore) -> None:
    adding = asyncio.create_task(store.add(make_job(), [make_execution()]))
    await asyncio.sleep(0)
    adding.cancel()
    await asyncio.wait([adding])
    while store.find("j-1") is None:
        await asyncio.sleep(0)
    assert await storage.executions_of(["j"]) == (make_execution(),)


async def test_every_write_publishes_its_jobs_once(store: JobStore, changed: list[str]) -> None:
    executions = [make_execution(number) for number in (1, 2)]
    await store.add(make_job(), executions)
    assert changed == ["j"]
    await store.record([in_state(execution, S.DELIVERED) for execution in executions])
    assert changed == ["j", "j"]
    await store.record([])
    assert changed == ["j", "j"]
