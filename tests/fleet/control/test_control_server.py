"""The control server with real agents: what it shows, what it survives, what it refuses."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from landline.fleet.agent.prompt import Answer, Choice
from landline.fleet.api import (
    AnswerUnavailable,
    CancelRequest,
    JobChanged,
    JobRequest,
    OperationError,
    PreviewRequest,
    Snapshot,
    StorageError,
)
from landline.fleet.control import machines
from landline.fleet.control import request_rate as pace
from landline.fleet.control import updates as subscriptions
from landline.fleet.control.clock import SteadyClock
from landline.fleet.model import Action, ExecutionState, PresenceState, Unasked

NOW = Answer(choice=Choice.NOW)


# What is asked of it


async def test_an_offline_machine_is_refused_with_the_cause(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    await fleet.over(await fleet.order(Action.SHUT_DOWN))
    await machine.shown(PresenceState.OFFLINE)
    job = await fleet.order(Action.RESTART)
    assert job.executions[0].state is ExecutionState.REFUSED
    assert job.executions[0].detail == "it is offline (shut down); use --queue-for to wait for it"
    assert await fleet.steps(job) == ["refused"]


async def test_a_job_queued_for_an_offline_machine_is_done_on_its_arrival(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    machine.agent.stop()
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    job = await fleet.order(Action.LOG_OFF, queue_for_s=8 * 3600.0)
    assert job.executions[0].state is ExecutionState.QUEUED
    fleet.offset_s += 7 * 3600.0
    await machine.boot()
    assert (await fleet.over(job)).state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]


async def test_a_queued_job_that_waited_too_long_expires(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    machine.agent.stop()
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    job = await fleet.order(Action.LOG_OFF, queue_for_s=3600.0)
    fleet.offset_s += 3601.0
    expired = await fleet.over(job)
    assert (expired.state, expired.detail) == (ExecutionState.EXPIRED, "it never reached the machine")
    await machine.boot()
    await fleet.over(await fleet.order(Action.LOG_OFF))
    assert machine.acted == [Action.LOG_OFF]


async def test_a_request_id_makes_one_job_only(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    jobs = await asyncio.gather(*(fleet.order(Action.LOG_OFF, request_id="r-1") for _ in range(5)))
    assert len({job.job.id for job in jobs}) == 1
    assert (await fleet.over(jobs[0])).state is ExecutionState.DONE
    again = await fleet.order(Action.LOG_OFF, request_id="r-1")
    assert again.job.id == jobs[0].job.id
    assert again.executions[0].state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]
    assert len(await fleet.control.jobs(10)) == 1


async def test_a_repeated_request_is_recognised_after_a_restart_and_without_matching_targets(
    fleet,
) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    first = await fleet.order(Action.LOG_OFF, request_id="r-1")
    await fleet.over(first)
    await fleet.kill()
    await fleet.start()
    again = await fleet.order(Action.LOG_OFF, request_id="r-1")
    await machine.kill_agent()
    machine.facts = {"name": "another-name-by-now"}
    await machine.start_agent()
    renamed = await fleet.order(Action.LOG_OFF, request_id="r-1")
    assert again.job.id == renamed.job.id == first.job.id
    assert renamed.executions[0].state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]
    assert [view.job.id for view in await fleet.control.jobs(10, "r-1")] == [first.job.id]
    assert await fleet.control.jobs(10, "r-2") == ()
    with pytest.raises(OperationError, match="lab-1"):
        await fleet.order(Action.LOG_OFF, request_id="r-2")


@pytest.mark.parametrize(
    "changes",
    [
        {"action": Action.RESTART},
        {"targets": ("lab-2",)},
        {"targets": ("gone",)},
        {"targets": (), "all_machines": True},
        {"machine_ids": ("id-of-lab-2",)},
        {"message": "another"},
        {"requested_by": "bo"},
        {"delay_s": 61.0},
        {"valid_for_s": 121.0},
        {"queue_for_s": 1.0},
        {"may_cancel": False},
        {"may_postpone": False},
        {"unasked": Unasked.ACT},
    ],
    ids=str,
)
async def test_a_request_id_of_another_request_is_refused(fleet, changes) -> None:
    await fleet.start()
    for name in ("lab-1", "lab-2"):
        await fleet.machine(name).boot()
    request = JobRequest(action=Action.LOG_OFF, targets=("lab-1",), delay_s=3600.0, request_id="r-1")
    first = await fleet.control.create_job(request)
    with pytest.raises(OperationError) as caught:
        await fleet.control.create_job(msgspec.structs.replace(request, **changes))
    assert caught.value.code == "request_id_used"
    assert first.job.id in caught.value.message
    assert [view.job for view in await fleet.control.jobs(10)] == [first.job]
    # The list of machines that the job was accepted for is the same request.
    frozen = msgspec.structs.replace(request, machine_ids=("id-of-lab-1",))
    assert (await fleet.control.create_job(frozen)).job == first.job


async def test_a_failing_read_after_a_change_does_not_claim_that_nothing_was_done(fleet, monkeypatch) -> None:
    await fleet.start()
    await fleet.machine().boot()
    job = await fleet.order(Action.LOG_OFF, delay_s=3600.0, request_id="r-1")

    async def fail(*_: object) -> None:
        raise StorageError("the disk is failing")

    with monkeypatch.context() as patch:
        patch.setattr(fleet.storage, "events_of", fail)
        with pytest.raises(AnswerUnavailable, match="was cancelled, but the disk is failing"):
            await fleet.control.cancel_job(job.job.id, CancelRequest(cancelled_by="root"))
        with pytest.raises(AnswerUnavailable, match="was accepted before, but the disk is failing"):
            await fleet.order(Action.LOG_OFF, delay_s=3600.0, request_id="r-1")
    assert (await fleet.execution(job)).state is ExecutionState.CANCELLED


async def test_targets_are_resolved_before_anything_is_sent(fleet) -> None:
    await fleet.start()
    for name in ("lab-1", "lab-2", "desk"):
        await fleet.machine(name).boot()
    preview = fleet.control.preview(PreviewRequest(targets=("lab-*",)))
    assert [target.name for target in preview.machines] == ["lab-1", "lab-2"]
    for request, code in (
        (JobRequest(action=Action.RESTART), "empty_target"),
        (JobRequest(action=Action.RESTART, targets=("lab-1", "lab-9")), "unknown_target"),
        (JobRequest(action=Action.RESTART, targets=("lab-1",), all_machines=True), "bad_request"),
        (JobRequest(action=Action.RESTART, machine_ids=()), "empty_target"),
        (JobRequest(action=Action.RESTART, machine_ids=("id-of-lab-9",)), "unknown_target"),
        (JobRequest(action=Action.RESTART, targets=("lab-1",), valid_for_s=float("nan")), "bad_request"),
    ):
        with pytest.raises(OperationError) as caught:
            await fleet.control.create_job(request)
        assert caught.value.code == code
    assert await fleet.control.jobs(10) == ()
    frozen = await fleet.control.create_job(
        JobRequest(action=Action.LOG_OFF, targets=("lab-*",), machine_ids=("id-of-lab-1",))
    )
    assert [execution.machine_name for execution in frozen.executions] == ["lab-1"]
    for job_id, code in (("nothing", "unknown_job"), ("", "unknown_job")):
        with pytest.raises(OperationError) as caught:
            await fleet.control.job(job_id)
        assert caught.value.code == code
    status = fleet.control.status()
    assert (status.machines, status.online) == (3, 3)


async def test_cancellation_stops_every_execution_that_has_not_started(fleet, until) -> None:
    await fleet.start()
    machines = [await fleet.machine(f"lab-{number}").boot() for number in range(1, 4)]
    job = await fleet.order(Action.RESTART, "lab-*", delay_s=3600.0)
    view = await fleet.control.cancel_job(job.job.id, CancelRequest(cancelled_by="root"))
    assert {execution.state for execution in view.executions} == {ExecutionState.CANCELLED}
    assert all(machine.acted == [] for machine in machines)
    # Once more changes nothing.
    assert await fleet.control.cancel_job(job.job.id, CancelRequest()) == view


async def test_a_job_that_cannot_be_stored_is_not_accepted(fleet, monkeypatch) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()

    async def fail(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(fleet.storage, "add_job", fail)
        with pytest.raises(StorageError):
            await fleet.order(Action.RESTART)
    assert await fleet.control.jobs(10) == ()
    assert machine.acted == []


async def test_a_cancelled_request_still_starts_its_stored_job(fleet, monkeypatch, until) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    add_job, gate = fleet.storage.add_job, asyncio.Event()

    async def slow(*arguments: object) -> object:
        stored = await add_job(*arguments)
        await gate.wait()
        return stored

    monkeypatch.setattr(fleet.storage, "add_job", slow)
    ordering = asyncio.create_task(fleet.order(Action.LOG_OFF, request_id="r-1"))

    async def is_stored() -> object:
        return await fleet.storage.job_by_request("r-1")

    await until(is_stored)
    ordering.cancel()
    await asyncio.wait([ordering])
    gate.set()
    monkeypatch.undo()
    [job] = await fleet.control.jobs(1)
    assert (await fleet.over(job)).state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]


# Updates


async def test_a_subscriber_gets_a_snapshot_and_then_every_change(fleet) -> None:
    await fleet.start()
    await fleet.machine().boot()
    updates = fleet.control.updates()
    first = await anext(updates)
    assert isinstance(first, Snapshot)
    assert [machine.name for machine in first.machines] == ["lab-1"]
    assert first.jobs == ()
    job = await fleet.order(Action.LOG_OFF)
    seen = []
    while seen[-1:] != [ExecutionState.DONE]:
        update = await anext(updates)
        if isinstance(update, JobChanged):
            assert update.job.job.id == job.job.id
            seen.append(update.job.executions[0].state)
    assert seen[0] is ExecutionState.QUEUED
    assert ExecutionState.ACTING in seen

    async def read_on() -> None:
        async for _ in updates:
            pass

    reading = asyncio.create_task(read_on())
    await asyncio.sleep(0)
    fleet.control.close_subscriptions()
    await reading


async def test_a_slow_subscriber_gets_a_new_snapshot(fleet, monkeypatch, until) -> None:
    monkeypatch.setattr(subscriptions, "UPDATES_WAITING_MAX", 10)
    monkeypatch.setattr(machines, "FACTS_EVERY_S", 0.0)
    await fleet.start()
    machine = await fleet.machine().boot()
    updates = fleet.control.updates()
    assert isinstance(await anext(updates), Snapshot)
    for number in range(30):
        await machine.line.send({"name": "lab-1", "os": f"os {number}"}, name="facts")
    await until(lambda: machine.known.facts.os == "os 29")
    kinds, last = [], None
    while last is None or last.os != "os 29":
        update = await anext(updates)
        kinds.append(type(update))
        last = (update.machines[0] if isinstance(update, Snapshot) else update.machine).facts
    assert Snapshot in kinds
    assert len(kinds) < 20
    await updates.aclose()


async def test_a_snapshot_contains_the_unfinished_jobs(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    await fleet.over(await fleet.order(Action.LOG_OFF))
    open_job = await fleet.order(Action.RESTART, delay_s=3600.0)
    updates = fleet.control.updates()
    snapshot = await anext(updates)
    assert isinstance(snapshot, Snapshot)
    assert [view.job.id for view in snapshot.jobs] == [open_job.job.id]
    await updates.aclose()
    assert machine.acted == [Action.LOG_OFF]


# Its own end and return


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_jobs_in_every_state_survive_the_control_server(fleet, person, ada, until, how: str) -> None:
    await fleet.start()
    # One machine for each state; each has one job.
    queued = await fleet.machine("queued").boot()
    queued.agent.stop()
    await queued.ended()
    await queued.shown(PresenceState.OFFLINE)
    delivered = await fleet.machine("delivered").boot()
    prompted = await fleet.machine("prompted", persons=(ada,), prompt=person()).boot()
    later = Answer(choice=Choice.POSTPONE, postpone_s=1.0)
    postponed = await fleet.machine("postponed", persons=(ada,), prompt=person(later)).boot()
    acting = fleet.machine("acting")
    acting.may_act.clear()
    await acting.boot()
    leaving = fleet.machine("leaving")
    leaving.may_act.clear()
    await leaving.boot()
    done = await fleet.machine("done").boot()
    jobs = {
        "queued": await fleet.order(Action.LOG_OFF, "queued", queue_for_s=3600.0),
        "delivered": await fleet.order(Action.LOG_OFF, "delivered", delay_s=1.0),
        "prompted": await fleet.order(Action.LOG_OFF, "prompted"),
        "postponed": await fleet.order(Action.LOG_OFF, "postponed"),
        "acting": await fleet.order(Action.LOG_OFF, "acting"),
        "leaving": await fleet.order(Action.RESTART, "leaving"),
        "done": await fleet.order(Action.LOG_OFF, "done"),
    }
    for name, state in (
        ("delivered", ExecutionState.DELIVERED),
        ("prompted", ExecutionState.PROMPTED),
        ("postponed", ExecutionState.POSTPONED),
        ("acting", ExecutionState.ACTING),
        ("leaving", ExecutionState.ACTING),
        ("done", ExecutionState.DONE),
    ):
        # Two of them continue by themselves, on a slow machine before this check.
        await fleet.passed(jobs[name], state)
    await until(lambda: prompted.prompt.is_asked)

    await (fleet.stop() if how == "stop" else fleet.kill())
    # Meanwhile the machines continue.
    prompted.prompt.answer(NOW)
    acting.may_act.set()
    leaving.may_act.set()
    await leaving.ended()
    await fleet.start()
    await leaving.boot()
    await queued.boot()
    await until(lambda: postponed.prompt.is_asked)
    postponed.prompt.answer(NOW)

    for name, job in jobs.items():
        ended = await fleet.over(job)
        assert ended.state is ExecutionState.DONE, (name, ended)
    for machine in fleet.machines:
        assert len(machine.acted) == 1, machine.name
    assert done.known.presence.state is PresenceState.ONLINE
    assert delivered.known.presence.state is PresenceState.ONLINE


async def test_nothing_acts_twice_when_the_control_server_is_killed(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    jobs = []
    for _ in range(5):
        jobs.append(await fleet.order(Action.LOG_OFF, queue_for_s=3600.0, valid_for_s=3600.0))
        await fleet.kill()
        await fleet.start()
    for job in jobs:
        ended = await fleet.over(job)
        assert ended.state is ExecutionState.DONE
    assert len(machine.acted) == 5


# Clocks


async def test_a_clock_that_was_set_back_is_followed_when_no_deadline_is_pending(fleet, until) -> None:
    fleet.clock = SteadyClock(fleet.now)
    await fleet.start()
    machine = await fleet.machine().boot()
    machine.agent.stop()
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    add_job, gate = fleet.storage.add_job, asyncio.Event()

    async def add_slowly(*arguments):
        await gate.wait()
        return await add_job(*arguments)

    fleet.storage.add_job = add_slowly
    ordering = asyncio.create_task(fleet.order(Action.LOG_OFF, queue_for_s=60, valid_for_s=60))
    await asyncio.sleep(0)
    fleet.offset_s = -86_400
    # The job has its deadline already, and is not yet among those that are open.
    await fleet.control._sweep()
    assert fleet.clock.ahead_s > 86_000
    gate.set()
    job = await ordering
    await fleet.control._sweep()
    assert fleet.clock.ahead_s > 86_000
    assert (await fleet.execution(job)).expires_at <= fleet.clock() + 120
    await fleet.control.cancel_job(job.job.id, CancelRequest(cancelled_by="me"))
    await until(lambda: fleet.clock.ahead_s < 1)


async def test_requests_of_one_agent_are_throttled(fleet, monkeypatch) -> None:
    """Each report may cause a write to disk and updates. Requests of other agents are handled meanwhile."""
    monkeypatch.setattr(pace, "REQUESTS_AT_ONCE", 3)
    monkeypatch.setattr(pace, "REQUEST_EVERY_S", 3600.0)
    await fleet.start()
    hasty, other = await fleet.machine("lab-1").boot(), await fleet.machine("lab-2").boot()
    report = {"execution": {"id": "none-1", "state": "delivered"}}

    async def ask(machine):
        return await machine.line.request("report", report)

    # The join was the first.
    assert await ask(hasty)
    assert await ask(hasty)
    late = [asyncio.create_task(ask(hasty)) for _ in range(100)]
    await asyncio.wait(late, timeout=0.05)
    assert not any(task.done() for task in late)
    assert await ask(other)
    assert await hasty.line.ping() > 0
    for task in late:
        task.cancel()
    await asyncio.wait(late)
