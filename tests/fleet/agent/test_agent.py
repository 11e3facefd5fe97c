"""The agent and a real control server: joins, refusals, and goodbyes."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

import landline
from landline import Code, RequestError
from landline.fleet.agent.agent import AgentRefused
from landline.fleet.agent.prompt import Answer, Choice
from landline.fleet.api import StorageError
from landline.fleet.messages import Goodbye, KnownExecution, Report
from landline.fleet.model import Action, Cause, ExecutionState, PresenceState

NOW = Answer(choice=Choice.NOW)
CANCEL = Answer(choice=Choice.CANCEL)
TIMED_OUT = Answer(choice=Choice.TIMED_OUT)


def postpone(seconds: float) -> Answer:
    return Answer(choice=Choice.POSTPONE, postpone_s=seconds)


# Goodbyes and refusals


async def test_an_agent_that_is_stopped_says_goodbye(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    machine.agent.stop(Cause.AGENT_STOPPED, "uninstalled")
    assert machine.agent.is_ending
    assert await machine.ended() == Goodbye(Cause.AGENT_STOPPED, "uninstalled")
    known = await machine.shown(PresenceState.OFFLINE)
    assert (known.presence.cause, known.presence.detail) == (Cause.AGENT_STOPPED, "uninstalled")


@pytest.mark.parametrize(
    ("action", "cause"), [(Action.RESTART, Cause.RESTARTING), (Action.SHUT_DOWN, Cause.SHUT_DOWN)]
)
async def test_a_shutdown_without_a_job_is_reported(fleet, action: Action, cause: Cause) -> None:
    """A person at the machine restarts it: that is not an agent that stopped."""
    await fleet.start()
    machine = await fleet.machine().boot()
    machine.may_go.clear()
    machine.power.go_down(action)
    known = await machine.shown(PresenceState.AWAY)
    assert (known.presence.cause, known.presence.detail) == (cause, "the system goes down")
    # Until its agent is ended, it can be called off.
    refused = await fleet.order(Action.LOG_OFF)
    assert refused.executions[0].detail.startswith(f"it is away ({cause.value})")
    machine.agent.stop()
    assert await machine.ended() == Goodbye(cause, "the system goes down")
    if action is Action.SHUT_DOWN:
        assert (await machine.shown(PresenceState.OFFLINE)).presence.cause is cause


async def test_a_wrong_token_is_rejected(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot(token="another token altogether", wait=False)
    with pytest.raises(landline.Rejected) as caught:
        await machine.ended()
    assert caught.value.code is Code.UNAUTHENTICATED
    assert fleet.control.machines() == ()


@pytest.mark.parametrize(
    "name", ["#", "../etc", "*", "", "-x", "lab 1", "lab\n", "<img>", "a" * 65, "lab-1\n"]
)
async def test_an_invalid_name_is_refused(fleet, name: str) -> None:
    await fleet.start()
    machine = fleet.machine(id="a-machine-id")
    machine.name = name
    await machine.boot(wait=False)
    with pytest.raises(AgentRefused, match="does not take this machine"):
        await machine.ended()
    assert fleet.control.machines() == ()


@pytest.mark.parametrize("identity", ["short", "x" * 65, "machine/../id", "machine#1*", "maschine-nö"])
async def test_an_invalid_identity_is_refused(fleet, identity: str) -> None:
    await fleet.start()
    machine = await fleet.machine(id=identity).boot(wait=False)
    with pytest.raises((AgentRefused, landline.LandlineError)):
        await machine.ended()
    assert fleet.control.machines() == ()


async def test_a_name_is_refused_while_its_machine_is_on_and_taken_over_when_it_is_gone(fleet) -> None:
    await fleet.start()
    older = await fleet.machine("lab-1", id="older-machine").boot()
    newer = await fleet.machine("lab-1", id="newer-machine").boot(wait=False)
    with pytest.raises(AgentRefused, match="start this agent with another --name"):
        await newer.ended()
    older.agent.stop()
    await older.ended()
    await older.shown(PresenceState.OFFLINE)
    await newer.boot()
    assert {machine.id: machine.name for machine in fleet.control.machines()} == {
        "newer-machine": "lab-1",
        "older-machine": "lab-1.old-1",
    }
    # On disk too.
    await fleet.stop()
    await fleet.start()
    assert [machine.name for machine in fleet.control.machines()] == ["lab-1", "lab-1.old-1"]


async def test_requests_that_the_control_server_cannot_record_are_repeated(fleet, monkeypatch, until) -> None:
    from landline.fleet.api import StorageError

    await fleet.start()
    machine = await fleet.machine().boot()
    failures = 0
    record, save = fleet.storage.record, fleet.storage.save_machines

    async def fail(*_: object) -> None:
        nonlocal failures
        failures += 1
        raise StorageError("the disk is full")

    monkeypatch.setattr(fleet.storage, "record", fail)
    job = await fleet.order(Action.LOG_OFF)
    await until(lambda: failures >= 5)
    assert machine.acted == []
    monkeypatch.setattr(fleet.storage, "record", record)
    assert (await fleet.over(job)).state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]
    # An agent that joins meanwhile is kept waiting, not sent away.
    monkeypatch.setattr(fleet.storage, "save_machines", fail)
    failures = 0
    other = await fleet.machine("lab-2").boot(wait=False)
    await until(lambda: failures >= 5)
    monkeypatch.setattr(fleet.storage, "save_machines", save)
    await until(lambda: fleet.joins.get(other.id))
    assert (await fleet.over(await fleet.order(Action.LOG_OFF, "lab-2"))).state is ExecutionState.DONE


async def test_an_agent_cannot_report_on_the_execution_of_another_machine(fleet, person, ada) -> None:
    await fleet.start()
    victim = await fleet.machine("lab-1", persons=(ada,), prompt=person()).boot()
    other = await fleet.machine("lab-2").boot()
    job = await fleet.order(Action.LOG_OFF)
    await fleet.reached(job, ExecutionState.PROMPTED)
    execution_id = job.executions[0].id
    bodies = {
        "report": Report(KnownExecution(execution_id, ExecutionState.DONE)),
        "claim": {"execution_id": execution_id, "boot_id": ""},
        "postpone": {"execution_id": execution_id, "postpone_s": 60.0},
    }
    for name, body in bodies.items():
        with pytest.raises(RequestError) as caught:
            await other.line.request(name, body)
        assert caught.value.code == "not_yours"
    # Its join and its goodbye are about itself only.
    entry = KnownExecution(execution_id, ExecutionState.CANCELLED, is_running=False)
    facts = msgspec.to_builtins(other.known.facts)
    await other.line.request("join", {"facts": facts, "executions": [msgspec.to_builtins(entry)]})
    await other.line.send(Goodbye(Cause.SHUT_DOWN, "", execution_id), name="goodbye")
    await other.shown(PresenceState.AWAY)
    assert (await fleet.execution(job)).state is ExecutionState.PROMPTED
    assert victim.known.presence.state is PresenceState.ONLINE


async def test_requests_before_the_join_are_refused(fleet) -> None:
    await fleet.start()
    auth = landline.SharedToken("an agents' token of enough length")
    bodies = {
        "report": Report(KnownExecution("x", ExecutionState.DONE)),
        "claim": {"execution_id": "x", "boot_id": ""},
        "postpone": {"execution_id": "x", "postpone_s": 60.0},
    }
    async with landline.connect(fleet.url, auth=auth, identity="machine-1") as line:
        for name, body in bodies.items():
            with pytest.raises(RequestError) as caught:
                await line.request(name, body)
            assert caught.value.code == "not_joined"
        await line.send(Goodbye(Cause.SHUT_DOWN), name="goodbye")
        with pytest.raises(RequestError):
            await line.request("join", {"facts": {"name": "lab-1", "mac_addresses": ["not one"]}})
    assert fleet.control.machines() == ()


async def test_an_agent_that_leaves_during_its_join_is_not_online(fleet, until) -> None:
    await fleet.start()
    auth = landline.SharedToken("an agents' token of enough length")
    async with landline.connect(fleet.url, auth=auth, identity="machine-1") as line:
        asking = asyncio.create_task(line.request("join", {"facts": {"name": "lab-1"}}))
        await asyncio.sleep(0)
        line.abort(Code.NORMAL)
        await asyncio.wait([asking])
        assert asking.exception() is not None
    await until(lambda: not fleet.server.lines)
    assert [
        machine for machine in fleet.control.machines() if machine.presence.state is PresenceState.ONLINE
    ] == []


async def test_an_agent_that_never_reached_its_control_server_can_be_stopped(fleet) -> None:
    fleet.url = "tcp://127.0.0.1:1"
    machine = await fleet.machine().boot(wait=False)
    machine.agent.stop()
    assert (await machine.ended()).cause is Cause.AGENT_STOPPED


async def test_an_agent_that_is_stopped_before_the_system_answers_does_not_report_a_shutdown(
    fleet, until
) -> None:
    """The system may still refuse: then the machine has not gone, and the job is not done."""
    await fleet.start()
    machine = await fleet.machine().boot()
    machine.may_act.clear()
    job = await fleet.order(Action.SHUT_DOWN)
    await fleet.reached(job, ExecutionState.ACTING)
    await until(lambda: machine.agent.acting)
    machine.agent.stop()
    assert (await machine.ended()).cause is Cause.AGENT_STOPPED
    assert (await fleet.execution(job)).state is ExecutionState.ACTING


# Joins


async def test_the_line_is_known_before_the_first_order_can_come(fleet, until) -> None:
    await fleet.start()
    machine = fleet.machine()
    known = []
    machine.on_state = lambda line, change: known.append(machine.agent.line is line)
    await machine.start_agent(wait=False)
    await until(lambda: fleet.joins)
    assert known == [True]


async def test_a_join_that_was_not_recorded_is_repeated_in_its_session_only(
    fleet, until, monkeypatch
) -> None:
    fleet.set_timing(control_retry_s=0.3)
    await fleet.start()
    machine = fleet.machine()
    refused = asyncio.Event()

    async def fail(machines) -> None:
        refused.set()
        raise StorageError("the disk is full")

    monkeypatch.setattr(fleet.storage, "save_machines", fail)
    await machine.boot(wait=False)
    await refused.wait()
    # The new session has a join of its own, while the old one's is about to be tried again.
    await fleet.stop()
    await fleet.start()
    await until(lambda: fleet.joins)
    await asyncio.sleep(0.5)
    assert fleet.joins == {machine.id: 1}
    assert not machine.task.done()
