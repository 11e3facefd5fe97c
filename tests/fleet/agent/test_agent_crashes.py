"""Agents that crash during a job: the machine acts at most once, and the outcome is true."""

from __future__ import annotations

import pytest

import landline
from landline.fleet.agent.power import PowerError
from landline.fleet.agent.prompt import Answer, Choice
from landline.fleet.model import Action, ExecutionState

NOW = Answer(choice=Choice.NOW)
CANCEL = Answer(choice=Choice.CANCEL)
TIMED_OUT = Answer(choice=Choice.TIMED_OUT)


def postpone(seconds: float) -> Answer:
    return Answer(choice=Choice.POSTPONE, postpone_s=seconds)


async def test_a_crash_before_the_claim_asks_again(fleet, person, ada, until) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person()).boot()
    job = await fleet.order(Action.LOG_OFF)
    await until(lambda: machine.prompt.is_asked)
    await machine.kill_agent()
    assert machine.acted == []
    await machine.start_agent()
    await until(lambda: machine.prompt.is_asked)
    machine.prompt.answer(NOW)
    assert (await fleet.over(job)).state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]


@pytest.mark.parametrize("action", [Action.LOG_OFF, Action.RESTART, Action.SHUT_DOWN])
async def test_a_crash_between_claim_and_journal_is_failed(fleet, crashed, action: Action) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    machine.journal.fails = crashed()
    job = await fleet.order(action)
    with pytest.raises(crashed):
        await machine.ended()
    assert (await fleet.execution(job)).state is ExecutionState.ACTING
    await machine.start_agent()
    failed = await fleet.over(job)
    assert (failed.state, failed.detail) == (ExecutionState.FAILED, "the agent stopped before it could act")
    assert machine.acted == []


@pytest.mark.parametrize("action", [Action.LOG_OFF, Action.RESTART, Action.SHUT_DOWN])
async def test_a_crash_between_journal_and_act_is_unknown_and_not_repeated(
    fleet, crashed, action: Action
) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.fails_before_acting = crashed()
    await machine.boot()
    job = await fleet.order(action)
    with pytest.raises(crashed):
        await machine.ended()
    machine.fails_before_acting = None
    await machine.start_agent()
    assert (await fleet.over(job)).state is ExecutionState.UNKNOWN
    assert machine.acted == []
    # Nor after one more start, nor by a later order's delivery.
    await machine.kill_agent()
    await machine.start_agent()
    other = await fleet.over(await fleet.order(Action.LOG_OFF))
    assert other.state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]


async def test_a_crash_between_act_and_report_is_not_repeated(fleet, crashed) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.fails_after_acting = crashed()
    await machine.boot()
    job = await fleet.order(Action.LOG_OFF)
    with pytest.raises(crashed):
        await machine.ended()
    await machine.start_agent()
    unknown = await fleet.over(job)
    assert (unknown.state, unknown.detail) == (
        ExecutionState.UNKNOWN,
        "the agent stopped while it acted; not repeated",
    )
    assert machine.acted == [Action.LOG_OFF]


@pytest.mark.parametrize("action", [Action.RESTART, Action.SHUT_DOWN])
async def test_a_new_boot_id_proves_a_restart_without_a_goodbye(fleet, crashed, action) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.fails_after_acting = crashed()
    await machine.boot()
    job = await fleet.order(action)
    with pytest.raises(crashed):
        await machine.ended()
    machine.fails_after_acting = None
    await machine.boot()
    assert (await fleet.over(job)).state is ExecutionState.DONE
    assert machine.acted == [action]


async def test_a_failure_whose_report_was_lost_is_reported_from_the_journal(fleet, crashed) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.fails_before_acting = PowerError("an inhibitor holds it")
    await machine.boot()
    machine.journal.crashes_after = ExecutionState.FAILED
    job = await fleet.order(Action.RESTART)
    with pytest.raises(crashed):
        await machine.ended()
    # A person presses the reset button: that is not the restart which failed.
    await machine.boot()
    failed = await fleet.over(job)
    assert (failed.state, failed.detail) == (ExecutionState.FAILED, "an inhibitor holds it")


async def test_a_repeated_order_is_carried_out_once(fleet, person, ada, until) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person()).boot()
    job = await fleet.order(Action.LOG_OFF)
    await until(lambda: machine.prompt.is_asked)
    [line] = fleet.server.lines
    order = {
        "execution_id": job.executions[0].id,
        "action": "logoff",
        "requested_by": "",
        "message": "",
        "due_in_s": 0.0,
        "has_delay": False,
        "expires_in_s": 60.0,
        "may_cancel": True,
        "may_postpone": True,
    }
    assert await line.request("execute", order) is True
    assert len(machine.prompt.questions) == 1
    machine.prompt.answer(NOW)
    await fleet.over(job)
    # Nor after it is done, when only the journal remembers.
    assert await line.request("execute", order) is True
    await machine.kill_agent()
    machine.persons = ()
    await machine.start_agent()
    [line] = [line for line in fleet.server.lines if line.state is landline.LineState.ONLINE]
    assert await line.request("execute", order) is True
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF, Action.LOG_OFF]
    assert len(machine.prompt.questions) == 1


async def test_withdrawing_a_running_or_unknown_order_changes_nothing(fleet, until) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.may_act.clear()
    await machine.boot()
    job = await fleet.order(Action.LOG_OFF)
    await fleet.reached(job, ExecutionState.ACTING)
    await until(lambda: machine.agent.acting)
    [line] = fleet.server.lines
    for execution_id in (job.executions[0].id, "nothing"):
        assert await line.request("withdraw", {"execution_id": execution_id, "reason": ""}) is False
    machine.may_act.set()
    assert (await fleet.over(job)).state is ExecutionState.DONE
