"""Deliveries over real lines: orders that reach their machines once, and magic packets."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.fleet.conftest import TOKEN
from tests.line_internals import session_of

import landline
from landline.fleet.agent.executor import ORDERS_MAX, Executor
from landline.fleet.agent.journal import Entry
from landline.fleet.api import CancelRequest, StorageError
from landline.fleet.control.wake_on_lan import MagicPackets
from landline.fleet.messages import TEXT_CHARACTERS_MAX, Claim, Grant
from landline.fleet.model import Action, ExecutionState, PresenceState
from landline.testing import FaultProxy

# Orders


async def test_waiting_orders_are_sent_in_order_of_due_time(fleet) -> None:
    """Also when the control server was started again meanwhile."""
    await fleet.start()
    machine = await fleet.machine().boot()
    machine.agent.stop()
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    messages = [f"number {number}" for number in range(8)]
    for message in messages:
        await fleet.order(Action.LOG_OFF, queue_for_s=3600.0, message=message)
    await fleet.stop()
    await fleet.start()
    begun = []
    receive = Executor.receive_order

    def received(executor, order) -> None:
        begun.append(order.message)
        receive(executor, order)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Executor, "receive_order", received)
        await machine.boot()
        for view in await fleet.control.jobs(10):
            await fleet.over(view)
    assert begun == messages


async def test_an_agent_refuses_orders_beyond_its_limit(fleet, until) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    jobs = [await fleet.order(Action.LOG_OFF, delay_s=3600.0) for _ in range(ORDERS_MAX + 5)]
    executions = [await fleet.execution(job) for job in jobs]

    async def are_all_answered() -> bool:
        nonlocal executions
        executions = [await fleet.execution(job) for job in jobs]
        return all(execution.state is not ExecutionState.QUEUED for execution in executions)

    await until(are_all_answered)
    refused = [execution for execution in executions if execution.state is ExecutionState.REFUSED]
    assert len(refused) == 5
    assert {execution.detail for execution in refused} == {
        f"the agent did not take it: the machine holds {ORDERS_MAX} jobs, and takes more when some are over"
    }
    # The machine continues with the others when the control server is back.
    joins = fleet.joins[machine.id]
    await fleet.kill()
    await fleet.start()
    await until(lambda: fleet.joins[machine.id] > joins)
    assert not machine.task.done()
    # One that is over makes room for another.
    await fleet.control.cancel_job(jobs[0].job.id, CancelRequest())
    await until(lambda: machine.agent.held_executions < ORDERS_MAX)
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is ExecutionState.DONE


async def test_many_old_jobs_in_the_journal_do_not_end_the_agent(fleet) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.directory.mkdir()
    with (machine.directory / "journal.jsonl").open("wb") as file:
        for number in range(3000):
            entry = Entry(f"old-{number}", Action.LOG_OFF, ExecutionState.DONE, "boot-0", "x" * 400)
            file.write(msgspec.json.encode(entry) + b"\n")
    await machine.boot()
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is ExecutionState.DONE


async def test_an_agents_error_is_stored_short_and_harmless(fleet, until) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()

    async def refuse(line, order) -> bool:
        raise landline.RequestError("no", "\x1b[2J" + "x" * 100_000 + "\n")

    machine.agent.connector._host.handlers.find("execute").function = refuse
    job = await fleet.order(Action.LOG_OFF)
    ended = await fleet.over(job)
    assert ended.state is ExecutionState.FAILED
    assert len(ended.detail) == TEXT_CHARACTERS_MAX
    assert ended.detail.isprintable()

    async def is_stored() -> bool:
        [stored] = await fleet.storage.executions_of([job.job.id])
        return stored.detail == ended.detail

    await until(is_stored)


@pytest.mark.parametrize("name", ["facts", "join", "report"])
async def test_a_message_of_megabytes_ends_the_session_before_it_is_decoded(fleet, until, name: str) -> None:
    await fleet.start()
    honest = await fleet.machine("honest").boot()
    body = {"facts": {"name": "hostile", "persons": [{"name": ""}] * 600_000}}
    assert len(msgspec.msgpack.encode(body)) > 4_000_000
    decoded = []
    for each in ("facts", "join", "report"):
        handler = fleet.server._host.handlers.find(each)
        take = handler.decode_body
        handler.decode_body = lambda body, is_packed, take=take: (
            decoded.append(len(body)) or take(body, is_packed)
        )
    async with landline.connect(fleet.url, auth=landline.SharedToken(TOKEN), identity="hostile-1") as line:
        with pytest.raises(landline.MessageTooLarge):
            await line.request(name, body)
        # It does not care what the server takes.
        session_of(line).outbound.peer_limits = landline.Limits(message_bytes=16 * 1024 * 1024)
        with pytest.raises(landline.LandlineError):
            await line.request(name, body, timeout=20)
        await until(lambda: line.is_closed)
    assert all(size_bytes < 1000 for size_bytes in decoded)
    assert (await fleet.over(await fleet.order(Action.LOG_OFF, "honest"))).state is ExecutionState.DONE
    assert not honest.task.done()


async def test_the_question_of_an_ended_job_is_withdrawn(fleet, person, ada, until) -> None:
    await fleet.start()
    cancelled = await fleet.machine("cancelled", persons=(ada,), prompt=person()).boot()
    expired = await fleet.machine("expired", persons=(ada,), prompt=person()).boot()
    first = await fleet.order(Action.RESTART, "cancelled", valid_for_s=3600.0)
    second = await fleet.order(Action.RESTART, "expired")
    await until(lambda: cancelled.prompt.is_asked and expired.prompt.is_asked)
    await fleet.reached(first, ExecutionState.PROMPTED)
    await fleet.reached(second, ExecutionState.PROMPTED)
    listening = fleet.url
    await fleet.kill()
    # It starts at an address that no agent knows, cancels one job, lets the other expire, and returns to its address.
    fleet.url = "tcp://127.0.0.1:0"
    fleet.offset_s += 300.0
    await fleet.start()
    await fleet.control.cancel_job(first.job.id, CancelRequest(cancelled_by="root"))
    assert (await fleet.over(second)).state is ExecutionState.EXPIRED
    await fleet.stop()
    fleet.url = listening
    await fleet.start()
    await until(lambda: cancelled.prompt.withdrawn == 1 and expired.prompt.withdrawn == 1)
    assert (cancelled.acted, expired.acted) == ([], [])


async def test_nothing_acts_twice_when_links_break(fleet, until) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    done = []
    for number in range(20):
        job = await fleet.order(Action.LOG_OFF)
        machine.line.break_link(f"cut {number}")
        done.append(job)
    for job in done:
        assert (await fleet.over(job)).state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF] * 20
    assert fleet.joins[machine.id] == 1


async def test_no_grant_is_based_on_a_state_that_is_not_on_disk(fleet, monkeypatch) -> None:
    """A claim whose record failed must not be granted to an agent that asked again in the meantime."""
    await fleet.start()
    machine = await fleet.machine().boot()
    machine.may_act.clear()
    reached, may_fail = asyncio.Event(), asyncio.Event()
    record = fleet.storage.record

    async def failing(executions) -> None:
        if any(execution.state is ExecutionState.ACTING for execution in executions):
            reached.set()
            await may_fail.wait()
            raise StorageError("the disk is full")
        await record(executions)

    monkeypatch.setattr(fleet.storage, "record", failing)
    job = await fleet.order(Action.LOG_OFF)
    await reached.wait()
    execution = (await fleet.control.job(job.job.id)).executions[0]
    again = asyncio.create_task(
        machine.line.request("claim", Claim(execution.id, machine.boot_id), response_type=Grant)
    )
    await machine.line.ping()
    assert not again.done()
    may_fail.set()
    with pytest.raises(landline.RequestError, match="could not record"):
        await again
    assert machine.acted == []


async def test_a_job_that_ends_while_its_order_is_unanswered_stays_as_it_ended(fleet, caplog) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    received, may_answer = asyncio.Event(), asyncio.Event()

    async def answer_late(line, order) -> bool:
        received.set()
        await may_answer.wait()
        return True

    machine.agent.connector._host.handlers.find("execute").function = answer_late
    job = await fleet.order(Action.LOG_OFF)
    await received.wait()
    await fleet.control.cancel_job(job.job.id, CancelRequest(cancelled_by="root"))
    may_answer.set()
    # The answer to the order and the answer to a ping take the same way: the first has been handled then.
    await machine.line.ping()
    await machine.line.ping()
    assert await fleet.steps(job) == ["queued", "cancelled"]
    assert "a task of the control server failed" not in caplog.text


async def test_an_order_that_was_taken_is_delivered_without_a_detail(fleet) -> None:
    await fleet.start()
    await fleet.machine().boot()
    job = await fleet.order(Action.LOG_OFF, delay_s=3600.0)
    await fleet.passed(job, ExecutionState.DELIVERED)
    delivered = (await fleet.control.job(job.job.id)).events[-1]
    assert (delivered.state, delivered.detail) == (ExecutionState.DELIVERED, "")


async def test_a_claim_records_acceptance_and_action_in_one_transaction(fleet, monkeypatch) -> None:
    await fleet.start()
    await fleet.machine().boot()
    record, transactions = fleet.storage.record, []

    async def watched(executions) -> None:
        transactions.append([execution.state for execution in executions])
        await record(executions)

    monkeypatch.setattr(fleet.storage, "record", watched)
    job = await fleet.order(Action.LOG_OFF)
    await fleet.over(job)
    assert [states for states in transactions if states != [ExecutionState.DELIVERED]] == [
        [ExecutionState.ACCEPTED, ExecutionState.ACTING],
        [ExecutionState.DONE],
    ]
    view = await fleet.control.job(job.job.id)
    assert [event.detail for event in view.events if event.state is ExecutionState.ACCEPTED] == [
        "no person is logged on"
    ]


# Waking


class NetworkCard(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.packets.append(data)


async def test_magic_packets_are_sent_until_the_machine_is_online(fleet, until) -> None:
    loop = asyncio.get_running_loop()
    transport, card = await loop.create_datagram_endpoint(NetworkCard, local_addr=("127.0.0.1", 0))
    fleet.waker = MagicPackets(host="127.0.0.1", port=transport.get_extra_info("sockname")[1])
    fleet.closing.callback(transport.close)
    await fleet.start()
    machine = fleet.machine()
    machine.facts = {"mac_addresses": ("02:00:00:00:00:01",)}
    await machine.boot()
    assert (await fleet.order(Action.WAKE)).executions[0].detail == "it is on already"
    await fleet.over(await fleet.order(Action.SHUT_DOWN))
    await machine.shown(PresenceState.OFFLINE)
    job = await fleet.order(Action.WAKE)
    await until(lambda: len(card.packets) >= 3)
    assert set(card.packets) == {b"\xff" * 6 + bytes.fromhex("020000000001") * 16}
    waking = await fleet.execution(job)
    assert (waking.state, waking.detail) == (ExecutionState.ACTING, "")
    # Also across a restart of the control server.
    await fleet.stop()
    sent = len(card.packets)
    await fleet.start()
    await until(lambda: len(card.packets) > sent)
    await machine.boot()
    woken = await fleet.over(job)
    assert (woken.state, woken.detail) == (ExecutionState.DONE, "it is online")


async def test_a_wake_up_outlives_a_full_disk(fleet, until, monkeypatch) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.facts = {"mac_addresses": ("02:00:00:00:00:01",)}
    await machine.boot()
    await fleet.over(await fleet.order(Action.SHUT_DOWN))
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    record, failed = fleet.storage.record, []

    async def fail(executions) -> None:
        failed.append(executions)
        raise StorageError("the disk is full")

    monkeypatch.setattr(fleet.storage, "record", fail)
    job = await fleet.order(Action.WAKE)
    await until(lambda: len(failed) > 1)
    assert fleet.waker.woken == []
    monkeypatch.setattr(fleet.storage, "record", record)
    await until(lambda: fleet.waker.woken)
    await machine.boot()
    assert (await fleet.over(job)).state is ExecutionState.DONE


async def test_a_machine_that_does_not_wake_has_failed(fleet, until) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.facts = {"mac_addresses": ("02:00:00:00:00:01",)}
    await machine.boot()
    await fleet.over(await fleet.order(Action.SHUT_DOWN))
    await machine.shown(PresenceState.OFFLINE)
    job = await fleet.order(Action.WAKE)
    await until(lambda: fleet.waker.woken)
    fleet.offset_s += 5 * 60.0
    failed = await fleet.over(job)
    assert (failed.state, failed.detail) == (ExecutionState.FAILED, "it did not come online")
    fleet.waker.error = OSError("network is unreachable")
    failed = await fleet.over(await fleet.order(Action.WAKE))
    assert failed.detail == "the wake-up packet was not sent: network is unreachable"


async def test_waking_a_machine_that_was_on_all_the_time_is_done_when_its_line_resumes(fleet, until) -> None:
    await fleet.start()
    async with FaultProxy(fleet.endpoint.host, fleet.endpoint.port) as between:
        fleet.url = between.url
        machine = fleet.machine()
        machine.facts = {"mac_addresses": ("02:00:00:00:00:01",)}
        await machine.boot()
        between.hold()
        between.reset()
        await machine.shown(PresenceState.RESUMING)
        job = await fleet.order(Action.WAKE)
        await until(lambda: fleet.waker.woken)
        between.heal()
        assert (await fleet.over(job)).state is ExecutionState.DONE
        assert fleet.joins[machine.id] == 1
        await machine.kill_agent()


async def test_a_machine_without_an_address_cannot_be_woken(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    machine.agent.stop()
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    [execution] = (await fleet.order(Action.WAKE)).executions
    assert execution.state is ExecutionState.REFUSED
    assert "(MAC) is not known" in execution.detail
