"""The control server with real agents: what it shows, what it survives, what it refuses."""

from __future__ import annotations

import asyncio

import pytest

import landline
from landline import Heartbeat
from landline.fleet import subscriptions
from landline.fleet.agent.agent import Agent
from landline.fleet.agent.prompt import Answer, Choice
from landline.fleet.api import (
    CancelRequest,
    JobChanged,
    JobRequest,
    MachineChanged,
    OperationError,
    PreviewRequest,
    Snapshot,
)
from landline.fleet.clock import SteadyClock
from landline.fleet.control import _checked
from landline.fleet.messages import Claim, Grant
from landline.fleet.model import Action, Cause, ExecutionState, Facts, Person, PresenceState
from landline.fleet.storage import StorageError
from landline.fleet.wake import MagicPackets
from landline.testing import FaultProxy

NOW = Answer(choice=Choice.NOW)


# Presence.


async def test_a_cut_link_is_resuming_and_then_online_again(house, until) -> None:
    await house.start()
    machine = await house.machine().boot()
    updates = house.control.updates()
    assert isinstance(await anext(updates), Snapshot)
    machine.line.break_link("somebody pulled the cable")
    seen = []
    while PresenceState.RESUMING not in seen or seen[-1] is not PresenceState.ONLINE:
        update = await anext(updates)
        # A new round trip is told too, and the state with it.
        if isinstance(update, MachineChanged) and update.machine.presence.state not in seen[-1:]:
            seen.append(update.machine.presence.state)
    assert seen[-2:] == [PresenceState.RESUMING, PresenceState.ONLINE]
    assert set(seen) == {PresenceState.RESUMING, PresenceState.ONLINE}
    await updates.aclose()
    assert house.joins == {machine.id: 1}
    assert house.control.resumes == 1


async def test_a_frozen_machine_is_silent_then_resuming_then_offline(house) -> None:
    house.heartbeat = Heartbeat(interval_s=0.05, timeout_s=0.3)
    house.resume_window_s = 0.3
    await house.start()
    async with FaultProxy(house.endpoint.host, house.endpoint.port) as between:
        house.url = between.url
        machine = await house.machine().boot()
        updates = house.control.updates()
        await anext(updates)
        # Nothing comes through, and the sockets stay open.
        between.hold()
        seen = []
        while not seen or seen[-1][0] is not PresenceState.OFFLINE:
            update = await anext(updates)
            if isinstance(update, MachineChanged):
                seen.append((update.machine.presence.state, update.machine.presence.cause))
        await updates.aclose()
        await machine.kill_agent()
    states = [state for state, _ in seen]
    # A busy machine may find it silent more than once before the timeout.
    assert states[-2:] == [PresenceState.RESUMING, PresenceState.OFFLINE]
    assert PresenceState.SILENT in states
    assert seen[-1][1] is Cause.SILENT


async def test_the_round_trip_is_shown(house, until) -> None:
    house.heartbeat = Heartbeat(interval_s=0.05, timeout_s=5)
    await house.start()
    machine = await house.machine().boot()
    round_trip_s = await until(lambda: machine.known.round_trip_s)
    assert 0 < round_trip_s < 20


async def test_a_restarting_machine_that_stays_away_did_not_return(house, until) -> None:
    await house.start()
    machine = await house.machine().boot()
    await house.order(Action.RESTART)
    await machine.ended()
    await machine.shown(PresenceState.AWAY)
    house.offset_s += 16 * 60.0
    assert (await machine.shown(PresenceState.OFFLINE)).presence.cause is Cause.DID_NOT_RETURN


async def test_after_an_orderly_stop_machines_are_not_said_to_be_lost(house) -> None:
    await house.start()
    machine = await house.machine().boot()
    gone = await house.machine("lab-2").boot()
    gone.agent.stop()
    await gone.ended()
    await gone.shown(PresenceState.OFFLINE)
    await house.stop()
    await machine.kill_agent()
    await house.start()
    presence = machine.known.presence
    assert (presence.state, presence.cause) == (PresenceState.RESUMING, Cause.SERVER_STARTED)
    assert gone.known.presence.cause is Cause.AGENT_STOPPED
    house.offset_s += 91.0
    assert (await machine.shown(PresenceState.OFFLINE)).presence.cause is Cause.SERVER_STARTED


async def test_facts_follow_the_machine_but_for_its_name_and_boot(house, ada, until) -> None:
    await house.start()
    machine = await house.machine().boot()
    await machine.line.send(
        {"name": "lab-9", "boot_id": "forged", "os": "Debian", "persons": [{"name": "ada"}]}, name="facts"
    )
    await until(lambda: machine.known.facts.os == "Debian")
    facts = machine.known.facts
    assert (facts.name, facts.boot_id, facts.persons) == ("lab-1", machine.boot_id, (Person("ada"),))
    await machine.line.send({"name": "lab-1", "os": "x" * 501}, name="facts")
    await machine.line.send({"name": "lab-1", "os": "Fedora"}, name="facts")
    await until(lambda: machine.known.facts.os == "Fedora")


HOSTILE_FACTS = [
    {"name": "#"},
    {"name": "*"},
    {"name": "../lab"},
    {"name": "lab/1"},
    {"name": "<b>lab</b>"},
    {"name": "lab-1\n"},
    {"name": "l\x1b[31m"},
    {"name": ""},
    {"name": ".hidden"},
    {"name": "x" * 65},
    {"os": "x" * 501},
    {"host_name": "x" * 501},
    {"boot_id": "x" * 501},
    {"agent_version": "x" * 501},
    {"power": "x" * 501},
    {"mac_addresses": ("02:00:00:00:00:0g",)},
    {"mac_addresses": ("02:00:00:00:00:00\n",)},
    {"mac_addresses": ("02:00:00:00:00:01",) * 33},
    {"persons": (Person("x" * 301),)},
    {"persons": (Person("ada", "s" * 300),)},
    {"persons": (Person("ada"),) * 101},
]


@pytest.mark.parametrize("hostile", HOSTILE_FACTS, ids=lambda facts: repr(facts)[:40])
def test_facts_that_do_not_fit_are_refused(hostile: dict[str, object]) -> None:
    with pytest.raises(landline.RequestError) as caught:
        _checked(Facts(**{"name": "lab-1", **hostile}))
    assert caught.value.code == "bad_facts"


def test_facts_that_fit_are_kept_as_they_are() -> None:
    facts = Facts(
        name="lab-1.example_x",
        os="<img src=x onerror=alert(1)>",  # Text is text: it is for the console to show it as such.
        mac_addresses=("02:00:00:00:00:01",) * 32,
        persons=(Person("ada", "seat0", True, 1.5),) * 100,
    )
    assert _checked(facts) == facts


# What is asked of it.


async def test_an_offline_machine_is_refused_with_the_cause(house) -> None:
    await house.start()
    machine = await house.machine().boot()
    await house.over(await house.order(Action.SHUT_DOWN))
    await machine.shown(PresenceState.OFFLINE)
    job = await house.order(Action.RESTART)
    assert job.executions[0].state is ExecutionState.REFUSED
    assert job.executions[0].detail == "it is offline (shut down); use --queue-for to wait for it"
    assert await house.steps(job) == ["refused"]


async def test_a_job_queued_for_an_offline_machine_is_done_on_its_arrival(house) -> None:
    await house.start()
    machine = await house.machine().boot()
    machine.agent.stop()
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    job = await house.order(Action.LOG_OFF, queue_for_s=8 * 3600.0)
    assert job.executions[0].state is ExecutionState.QUEUED
    house.offset_s += 7 * 3600.0
    await machine.boot()
    assert (await house.over(job)).state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]


async def test_a_queued_job_that_waited_too_long_expires(house) -> None:
    await house.start()
    machine = await house.machine().boot()
    machine.agent.stop()
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    job = await house.order(Action.LOG_OFF, queue_for_s=3600.0)
    house.offset_s += 3601.0
    expired = await house.over(job)
    assert (expired.state, expired.detail) == (ExecutionState.EXPIRED, "it never reached the machine")
    await machine.boot()
    await house.over(await house.order(Action.LOG_OFF))
    assert machine.acted == [Action.LOG_OFF]


async def test_what_waits_for_a_machine_reaches_it_in_the_order_in_which_it_is_due(house) -> None:
    """Also when the control server was started again meanwhile."""
    await house.start()
    machine = await house.machine().boot()
    machine.agent.stop()
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    messages = [f"number {number}" for number in range(8)]
    for message in messages:
        await house.order(Action.LOG_OFF, queue_for_s=3600.0, message=message)
    await house.stop()
    await house.start()
    begun = []
    receive = Agent._receive_order

    async def received(agent, line, order) -> bool:
        begun.append(order.message)
        return await receive(agent, line, order)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Agent, "_receive_order", received)
        await machine.boot()
    for view in await house.control.jobs(10):
        await house.over(view)
    assert begun == messages


async def test_a_request_id_makes_one_job_only(house) -> None:
    await house.start()
    machine = await house.machine().boot()
    jobs = await asyncio.gather(*(house.order(Action.LOG_OFF, request_id="r-1") for _ in range(5)))
    assert len({job.job.id for job in jobs}) == 1
    assert (await house.over(jobs[0])).state is ExecutionState.DONE
    again = await house.order(Action.LOG_OFF, request_id="r-1")
    assert again.job.id == jobs[0].job.id
    assert again.executions[0].state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]
    assert len(await house.control.jobs(10)) == 1


async def test_targets_are_resolved_before_anything_is_sent(house) -> None:
    await house.start()
    for name in ("lab-1", "lab-2", "desk"):
        await house.machine(name).boot()
    preview = house.control.preview(PreviewRequest(targets=("lab-*",)))
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
            await house.control.create_job(request)
        assert caught.value.code == code
    assert await house.control.jobs(10) == ()
    frozen = await house.control.create_job(
        JobRequest(action=Action.LOG_OFF, targets=("lab-*",), machine_ids=("id-of-lab-1",))
    )
    assert [execution.machine_name for execution in frozen.executions] == ["lab-1"]
    for job_id, code in (("nothing", "unknown_job"), ("", "unknown_job")):
        with pytest.raises(OperationError) as caught:
            await house.control.job(job_id)
        assert caught.value.code == code
    status = house.control.status()
    assert (status.machines, status.online) == (3, 3)


async def test_one_cancellation_stops_every_machine_that_has_not_begun(house, until) -> None:
    await house.start()
    machines = [await house.machine(f"lab-{number}").boot() for number in range(1, 4)]
    job = await house.order(Action.RESTART, "lab-*", delay_s=3600.0)
    view = await house.control.cancel_job(job.job.id, CancelRequest(cancelled_by="root"))
    assert {execution.state for execution in view.executions} == {ExecutionState.CANCELLED}
    assert all(machine.acted == [] for machine in machines)
    # Once more changes nothing.
    assert await house.control.cancel_job(job.job.id, CancelRequest()) == view


async def test_what_the_disk_does_not_take_is_not_accepted(house, monkeypatch) -> None:
    await house.start()
    machine = await house.machine().boot()

    async def fail(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(house.storage, "add_job", fail)
        with pytest.raises(StorageError):
            await house.order(Action.RESTART)
    assert await house.control.jobs(10) == ()
    assert machine.acted == []


async def test_a_caller_that_goes_away_leaves_no_job_that_never_begins(house, monkeypatch, until) -> None:
    await house.start()
    machine = await house.machine().boot()
    add_job, gate = house.storage.add_job, asyncio.Event()

    async def slow(*arguments: object) -> object:
        stored = await add_job(*arguments)
        await gate.wait()
        return stored

    monkeypatch.setattr(house.storage, "add_job", slow)
    ordering = asyncio.create_task(house.order(Action.LOG_OFF, request_id="r-1"))

    async def is_stored() -> object:
        return await house.storage.job_by_request("r-1")

    await until(is_stored)
    ordering.cancel()
    await asyncio.wait([ordering])
    gate.set()
    monkeypatch.undo()
    [job] = await house.control.jobs(1)
    assert (await house.over(job)).state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]


# Waking.


class NetworkCard(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.packets.append(data)


async def test_a_machine_is_woken_by_magic_packets_until_it_is_there(house, until) -> None:
    loop = asyncio.get_running_loop()
    transport, card = await loop.create_datagram_endpoint(NetworkCard, local_addr=("127.0.0.1", 0))
    house.waker = MagicPackets(host="127.0.0.1", port=transport.get_extra_info("sockname")[1])
    house.closing.callback(transport.close)
    await house.start()
    machine = house.machine()
    machine.facts = {"mac_addresses": ("02:00:00:00:00:01",)}
    await machine.boot()
    assert (await house.order(Action.WAKE)).executions[0].detail == "it is on already"
    await house.over(await house.order(Action.SHUT_DOWN))
    await machine.shown(PresenceState.OFFLINE)
    job = await house.order(Action.WAKE)
    await until(lambda: len(card.packets) >= 3)
    assert set(card.packets) == {b"\xff" * 6 + bytes.fromhex("020000000001") * 16}
    assert (await house.execution(job)).state is ExecutionState.ACTING
    # Also across a restart of the control server.
    await house.stop()
    sent = len(card.packets)
    await house.start()
    await until(lambda: len(card.packets) > sent)
    await machine.boot()
    woken = await house.over(job)
    assert (woken.state, woken.detail) == (ExecutionState.DONE, "it is online")


async def test_a_wake_up_outlives_a_full_disk(house, until, monkeypatch) -> None:
    await house.start()
    machine = house.machine()
    machine.facts = {"mac_addresses": ("02:00:00:00:00:01",)}
    await machine.boot()
    await house.over(await house.order(Action.SHUT_DOWN))
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    record, failed = house.storage.record, []

    async def fail(executions) -> None:
        failed.append(executions)
        raise StorageError("the disk is full")

    monkeypatch.setattr(house.storage, "record", fail)
    job = await house.order(Action.WAKE)
    await until(lambda: len(failed) > 1)
    assert house.waker.woken == []
    monkeypatch.setattr(house.storage, "record", record)
    await until(lambda: house.waker.woken)
    await machine.boot()
    assert (await house.over(job)).state is ExecutionState.DONE


async def test_a_machine_that_does_not_wake_has_failed(house, until) -> None:
    await house.start()
    machine = house.machine()
    machine.facts = {"mac_addresses": ("02:00:00:00:00:01",)}
    await machine.boot()
    await house.over(await house.order(Action.SHUT_DOWN))
    await machine.shown(PresenceState.OFFLINE)
    job = await house.order(Action.WAKE)
    await until(lambda: house.waker.woken)
    house.offset_s += 5 * 60.0
    failed = await house.over(job)
    assert (failed.state, failed.detail) == (ExecutionState.FAILED, "it did not come online")
    house.waker.error = OSError("network is unreachable")
    failed = await house.over(await house.order(Action.WAKE))
    assert failed.detail == "the wake-up packet was not sent: network is unreachable"


async def test_waking_a_machine_that_was_on_all_the_time_is_done_when_its_line_resumes(house, until) -> None:
    await house.start()
    async with FaultProxy(house.endpoint.host, house.endpoint.port) as between:
        house.url = between.url
        machine = house.machine()
        machine.facts = {"mac_addresses": ("02:00:00:00:00:01",)}
        await machine.boot()
        between.hold()
        between.reset()
        await machine.shown(PresenceState.RESUMING)
        job = await house.order(Action.WAKE)
        await until(lambda: house.waker.woken)
        between.heal()
        assert (await house.over(job)).state is ExecutionState.DONE
        assert house.joins[machine.id] == 1
        await machine.kill_agent()


async def test_a_machine_without_an_address_cannot_be_woken(house) -> None:
    await house.start()
    machine = await house.machine().boot()
    machine.agent.stop()
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    [execution] = (await house.order(Action.WAKE)).executions
    assert execution.state is ExecutionState.REFUSED
    assert "(MAC) is not known" in execution.detail


# Updates.


async def test_a_subscriber_gets_a_snapshot_and_then_every_change(house) -> None:
    await house.start()
    await house.machine().boot()
    updates = house.control.updates()
    first = await anext(updates)
    assert isinstance(first, Snapshot)
    assert [machine.name for machine in first.machines] == ["lab-1"]
    assert first.jobs == ()
    job = await house.order(Action.LOG_OFF)
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
    house.control.close_readers()
    await reading


async def test_a_slow_subscriber_gets_a_new_snapshot(house, monkeypatch, until) -> None:
    monkeypatch.setattr(subscriptions, "UPDATES_WAITING_MAX", 10)
    await house.start()
    machine = await house.machine().boot()
    updates = house.control.updates()
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


async def test_a_snapshot_holds_what_is_not_over(house) -> None:
    await house.start()
    machine = await house.machine().boot()
    await house.over(await house.order(Action.LOG_OFF))
    open_job = await house.order(Action.RESTART, delay_s=3600.0)
    updates = house.control.updates()
    snapshot = await anext(updates)
    assert isinstance(snapshot, Snapshot)
    assert [view.job.id for view in snapshot.jobs] == [open_job.job.id]
    await updates.aclose()
    assert machine.acted == [Action.LOG_OFF]


# Its own end and return.


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_jobs_in_every_state_survive_the_control_server(house, person, ada, until, how: str) -> None:
    await house.start()
    # One machine for each state; each has one job.
    queued = await house.machine("queued").boot()
    queued.agent.stop()
    await queued.ended()
    await queued.shown(PresenceState.OFFLINE)
    delivered = await house.machine("delivered").boot()
    prompted = await house.machine("prompted", persons=(ada,), prompt=person()).boot()
    later = Answer(choice=Choice.POSTPONE, postpone_s=1.0)
    postponed = await house.machine("postponed", persons=(ada,), prompt=person(later)).boot()
    acting = house.machine("acting")
    acting.may_act.clear()
    await acting.boot()
    leaving = house.machine("leaving")
    leaving.may_act.clear()
    await leaving.boot()
    done = await house.machine("done").boot()
    jobs = {
        "queued": await house.order(Action.LOG_OFF, "queued", queue_for_s=3600.0),
        "delivered": await house.order(Action.LOG_OFF, "delivered", delay_s=1.0),
        "prompted": await house.order(Action.LOG_OFF, "prompted"),
        "postponed": await house.order(Action.LOG_OFF, "postponed"),
        "acting": await house.order(Action.LOG_OFF, "acting"),
        "leaving": await house.order(Action.RESTART, "leaving"),
        "done": await house.order(Action.LOG_OFF, "done"),
    }
    for name, state in (
        ("delivered", ExecutionState.DELIVERED),
        ("prompted", ExecutionState.PROMPTED),
        ("postponed", ExecutionState.POSTPONED),
        ("acting", ExecutionState.ACTING),
        ("leaving", ExecutionState.ACTING),
        ("done", ExecutionState.DONE),
    ):
        # Two of them go on by themselves, on a slow machine before this is looked at.
        await house.passed(jobs[name], state)
    await until(lambda: prompted.prompt.is_asked)

    await (house.stop() if how == "stop" else house.kill())
    # Meanwhile the world goes on.
    prompted.prompt.answer(NOW)
    acting.may_act.set()
    leaving.may_act.set()
    await leaving.ended()
    await house.start()
    await leaving.boot()
    await queued.boot()
    await until(lambda: postponed.prompt.is_asked)
    postponed.prompt.answer(NOW)

    for name, job in jobs.items():
        ended = await house.over(job)
        assert ended.state is ExecutionState.DONE, (name, ended)
    for machine in house.machines:
        assert len(machine.acted) == 1, machine.name
    assert done.known.presence.state is PresenceState.ONLINE
    assert delivered.known.presence.state is PresenceState.ONLINE


async def test_a_question_whose_job_was_stopped_meanwhile_is_taken_off_the_screen(
    house, person, ada, until
) -> None:
    await house.start()
    cancelled = await house.machine("cancelled", persons=(ada,), prompt=person()).boot()
    expired = await house.machine("expired", persons=(ada,), prompt=person()).boot()
    first = await house.order(Action.RESTART, "cancelled", valid_for_s=3600.0)
    second = await house.order(Action.RESTART, "expired")
    await until(lambda: cancelled.prompt.is_asked and expired.prompt.is_asked)
    await house.reached(first, ExecutionState.PROMPTED)
    await house.reached(second, ExecutionState.PROMPTED)
    listening = house.url
    await house.kill()
    # It comes back where nobody finds it, stops one job and lets the other expire, and moves to its old place.
    house.url = "tcp://127.0.0.1:0"
    house.offset_s += 300.0
    await house.start()
    await house.control.cancel_job(first.job.id, CancelRequest(cancelled_by="root"))
    assert (await house.over(second)).state is ExecutionState.EXPIRED
    await house.stop()
    house.url = listening
    await house.start()
    await until(lambda: cancelled.prompt.withdrawn == 1 and expired.prompt.withdrawn == 1)
    assert (cancelled.acted, expired.acted) == ([], [])


async def test_nothing_acts_twice_however_often_links_break(house, until) -> None:
    await house.start()
    machine = await house.machine().boot()
    done = []
    for number in range(20):
        job = await house.order(Action.LOG_OFF)
        machine.line.break_link(f"cut {number}")
        done.append(job)
    for job in done:
        assert (await house.over(job)).state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF] * 20
    assert house.joins[machine.id] == 1


async def test_nothing_acts_twice_however_often_the_control_server_dies(house) -> None:
    await house.start()
    machine = await house.machine().boot()
    jobs = []
    for _ in range(5):
        jobs.append(await house.order(Action.LOG_OFF, queue_for_s=3600.0, valid_for_s=3600.0))
        await house.kill()
        await house.start()
    for job in jobs:
        ended = await house.over(job)
        assert ended.state is ExecutionState.DONE
    assert len(machine.acted) == 5


async def test_names_that_change_hands_often_keep_nobody_out(house) -> None:
    await house.start()
    for number in range(3):
        machine = await house.machine("pc", id=f"aaaaaaaa-{number}").boot()
        machine.agent.stop()
        await machine.ended()
        await machine.shown(PresenceState.OFFLINE)
    await house.machine("innocent").boot()
    names = {machine.name for machine in house.control.machines()}
    assert names == {"pc", "pc.old-1", "pc.old-2", "innocent"}


async def test_a_state_is_not_promised_on_before_the_disk_bears_it_out(house, monkeypatch) -> None:
    """A claim whose record failed must not be granted to an agent that asked again in the meantime."""
    await house.start()
    machine = await house.machine().boot()
    machine.may_act.clear()
    reached, may_fail = asyncio.Event(), asyncio.Event()
    record = house.storage.record

    async def failing(executions) -> None:
        if any(execution.state is ExecutionState.ACTING for execution in executions):
            reached.set()
            await may_fail.wait()
            raise StorageError("the disk is full")
        await record(executions)

    monkeypatch.setattr(house.storage, "record", failing)
    job = await house.order(Action.LOG_OFF)
    await reached.wait()
    execution = (await house.control.job(job.job.id)).executions[0]
    again = asyncio.create_task(
        machine.line.request("claim", Claim(execution.id, machine.boot_id), response_type=Grant)
    )
    await machine.line.ping()
    assert not again.done()
    may_fail.set()
    with pytest.raises(landline.RequestError, match="could not record"):
        await again
    assert machine.acted == []


# Clocks.


async def test_a_clock_that_was_set_back_is_followed_when_nobody_waits_for_a_deadline(house, until) -> None:
    house.clock = SteadyClock(house.now)
    await house.start()
    machine = await house.machine().boot()
    machine.agent.stop()
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    add_job, gate = house.storage.add_job, asyncio.Event()

    async def add_slowly(*arguments):
        await gate.wait()
        return await add_job(*arguments)

    house.storage.add_job = add_slowly
    ordering = asyncio.create_task(house.order(Action.LOG_OFF, queue_for_s=60, valid_for_s=60))
    await asyncio.sleep(0)
    house.offset_s = -86_400
    # The job has its deadline already, and is not yet among those that are open.
    await house.control._sweep()
    assert house.clock.ahead_s > 86_000
    gate.set()
    job = await ordering
    await house.control._sweep()
    assert house.clock.ahead_s > 86_000
    assert (await house.execution(job)).expires_at <= house.clock() + 120
    await house.control.cancel_job(job.job.id, CancelRequest(cancelled_by="me"))
    await until(lambda: house.clock.ahead_s < 1)
