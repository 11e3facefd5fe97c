"""The agent against a real control server: one job at a time, through every turn a person or a failure can take."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.fleet.conftest import Switch

import landline
from landline import Code, RequestError
from landline.fleet.agent.agent import AgentRefused
from landline.fleet.agent.journal import JournalError
from landline.fleet.agent.power import OutcomeUnknown, PowerError
from landline.fleet.agent.power.dry_run import DryRunPower
from landline.fleet.agent.prompt import Answer, Choice
from landline.fleet.api import CancelRequest, StorageError
from landline.fleet.control.jobs import POSTPONED_S_MIN
from landline.fleet.messages import DEFAULT_COUNTDOWN_S, Goodbye, KnownExecution, Report
from landline.fleet.model import Action, Cause, ExecutionState, PresenceState

NOW = Answer(choice=Choice.NOW)
CANCEL = Answer(choice=Choice.CANCEL)
TIMED_OUT = Answer(choice=Choice.TIMED_OUT)


def postpone(seconds: float) -> Answer:
    return Answer(choice=Choice.POSTPONE, postpone_s=seconds)


# The three actions.


async def test_a_restart_is_done_when_the_machine_is_back_with_another_boot_id(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    job = await fleet.order(Action.RESTART)
    goodbye = await machine.ended()
    assert goodbye.cause is Cause.RESTARTING
    assert goodbye.execution_id == job.executions[0].id
    assert (await machine.shown(PresenceState.AWAY)).presence.cause is Cause.RESTARTING
    assert (await fleet.execution(job)).state is ExecutionState.ACTING
    await machine.boot()
    ended = await fleet.over(job)
    assert (ended.state, ended.detail) == (ExecutionState.DONE, "back with a new boot id")
    assert ended.boot_id_before == "lab-1-boot-1"
    assert machine.acted == [Action.RESTART]
    # The answer to the order and the agent's own report race; either may come first.
    steps = await fleet.steps(job)
    assert [step for step in steps if step != "delivered"] == ["queued", "accepted", "acting", "done"]


async def test_an_agent_that_is_back_in_the_same_boot_has_not_restarted(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    job = await fleet.order(Action.RESTART)
    await machine.ended()
    await machine.start_agent()
    assert (await fleet.over(job)).state is ExecutionState.UNKNOWN
    await machine.kill_agent()
    # The proof may still come.
    await machine.boot()
    await fleet.reached(job, ExecutionState.DONE)
    assert machine.acted == [Action.RESTART]


async def test_a_shutdown_is_done_by_its_goodbye(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    job = await fleet.order(Action.SHUT_DOWN)
    assert (await machine.ended()).cause is Cause.SHUT_DOWN
    ended = await fleet.over(job)
    assert (ended.state, ended.detail) == (ExecutionState.DONE, "it said goodbye and went")
    assert (await machine.shown(PresenceState.OFFLINE)).presence.cause is Cause.SHUT_DOWN
    assert machine.acted == [Action.SHUT_DOWN]


async def test_a_log_off_is_done_when_the_agent_says_so(fleet, person, ada, until) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person(NOW)).boot()
    job = await fleet.order(Action.LOG_OFF, message="closing time", requested_by="root")
    assert (await fleet.over(job)).state is ExecutionState.DONE
    await until(lambda: machine.known.facts.persons == ())
    assert machine.acted == [Action.LOG_OFF]
    [question] = machine.prompt.questions
    assert (question.action, question.message, question.requested_by) == (
        Action.LOG_OFF,
        "closing time",
        "root",
    )
    assert question.countdown_s == DEFAULT_COUNTDOWN_S


async def test_a_dry_run_says_that_nothing_was_done(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot(power=DryRunPower())
    job = await fleet.order(Action.SHUT_DOWN, message="power cut")
    ended = await fleet.over(job)
    assert (ended.state, ended.detail) == (ExecutionState.DONE, "dry run: nothing was done")
    assert machine.power.acted == [(Action.SHUT_DOWN, "power cut")]
    assert machine.known.presence.state is PresenceState.ONLINE


# The person.


async def test_the_person_cancels(fleet, person, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person(CANCEL)).boot()
    ended = await fleet.over(await fleet.order(Action.RESTART))
    assert (ended.state, ended.detail) == (ExecutionState.CANCELLED, "cancelled by ada")
    assert machine.acted == []


async def test_a_person_who_may_not_cancel_is_asked_on(fleet, person, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person(CANCEL, TIMED_OUT)).boot()
    ended = await fleet.over(await fleet.order(Action.LOG_OFF, may_cancel=False, delay_s=30.0))
    assert ended.state is ExecutionState.DONE
    first, second = machine.prompt.questions
    assert not first.may_cancel
    assert second.countdown_s <= first.countdown_s <= 30.0


async def test_a_lie_that_the_person_cancelled_is_not_believed(fleet, person, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person()).boot()
    job = await fleet.order(Action.LOG_OFF, may_cancel=False)
    await fleet.reached(job, ExecutionState.PROMPTED)
    lie = KnownExecution(job.executions[0].id, ExecutionState.CANCELLED, "cancelled by nobody")
    assert await machine.line.request("report", Report(lie)) is True
    assert (await fleet.execution(job)).state is ExecutionState.PROMPTED


async def test_the_person_postpones(fleet, person, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person(postpone(0.05), NOW)).boot()
    ended = await fleet.over(await fleet.order(Action.LOG_OFF))
    assert ended.state is ExecutionState.DONE
    assert ended.postponed_s == POSTPONED_S_MIN
    assert machine.acted == [Action.LOG_OFF]
    assert len(machine.prompt.questions) == 2


async def test_a_postponement_that_goes_too_far_is_refused_and_not_offered_again(fleet, person, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person(postpone(9 * 3600.0), TIMED_OUT)).boot()
    ended = await fleet.over(await fleet.order(Action.LOG_OFF))
    assert (ended.state, ended.postponed_s) == (ExecutionState.DONE, 0.0)
    assert [question.may_postpone for question in machine.prompt.questions] == [True, False]


async def test_a_postponement_that_the_operator_does_not_allow(fleet, person, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person(postpone(60.0), TIMED_OUT)).boot()
    ended = await fleet.over(await fleet.order(Action.LOG_OFF, may_postpone=False))
    assert (ended.state, ended.postponed_s) == (ExecutionState.DONE, 0.0)
    assert [question.may_postpone for question in machine.prompt.questions] == [False, False]


async def test_an_unanswered_question_is_consent(fleet, person, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person(TIMED_OUT)).boot()
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]


@pytest.mark.parametrize("has_prompt", [True, False])
async def test_where_nobody_is_on_it_is_done_at_once(fleet, person, has_prompt: bool) -> None:
    await fleet.start()
    machine = await fleet.machine(prompt=person() if has_prompt else None).boot()
    job = await fleet.order(Action.LOG_OFF)
    assert (await fleet.over(job)).state is ExecutionState.DONE
    details = [event.detail for event in (await fleet.control.job(job.job.id)).events]
    assert "no person is logged on" in details
    if has_prompt:
        assert machine.prompt.questions == []


# The operator changes his mind; time runs out.


async def test_the_operator_cancels_while_the_person_is_asked(fleet, person, ada, until) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person()).boot()
    job = await fleet.order(Action.RESTART)
    await until(lambda: machine.prompt.is_asked)
    await fleet.reached(job, ExecutionState.PROMPTED)
    view = await fleet.control.cancel_job(job.job.id, CancelRequest(cancelled_by="root"))
    assert (view.executions[0].state, view.executions[0].detail) == (
        ExecutionState.CANCELLED,
        "cancelled by root",
    )
    await until(lambda: machine.prompt.withdrawn == 1)
    assert machine.acted == []


async def test_the_operator_cancels_during_the_countdown(fleet, until) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    job = await fleet.order(Action.RESTART, delay_s=3600.0)
    await fleet.reached(job, ExecutionState.DELIVERED)
    await fleet.control.cancel_job(job.job.id, CancelRequest())
    assert (await fleet.over(job)).detail == "cancelled by the operator"
    # A later order is not kept waiting by the one that was withdrawn.
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]


async def test_time_runs_out_while_the_person_is_asked(fleet, person, ada, until) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person()).boot()
    job = await fleet.order(Action.RESTART)
    await until(lambda: machine.prompt.is_asked)
    await fleet.reached(job, ExecutionState.PROMPTED)
    fleet.offset_s += 60.0 + 120.0 + 1.0
    assert (await fleet.over(job)).state is ExecutionState.EXPIRED
    await until(lambda: machine.prompt.withdrawn == 1)
    assert machine.acted == []


async def test_an_order_with_a_long_delay_does_not_hold_up_another(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    later = await fleet.order(Action.RESTART, delay_s=3600.0)
    await fleet.reached(later, ExecutionState.DELIVERED)
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]


async def test_a_postponed_order_does_not_hold_up_another(fleet, person, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person(postpone(3600.0), NOW)).boot()
    later = await fleet.order(Action.RESTART)
    await fleet.reached(later, ExecutionState.POSTPONED)
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]


async def test_a_machine_that_goes_down_begins_nothing_else(fleet) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.may_act.clear()
    await machine.boot()
    first = await fleet.order(Action.RESTART)
    await fleet.reached(first, ExecutionState.ACTING)
    second = await fleet.order(Action.RESTART)
    await fleet.reached(second, ExecutionState.DELIVERED)
    machine.may_act.set()
    await machine.ended()
    assert machine.acted == [Action.RESTART]
    # What was left is for the machine's next life.
    await machine.boot()
    await fleet.reached(first, ExecutionState.DONE)
    await machine.ended()
    await machine.boot()
    await fleet.reached(second, ExecutionState.DONE)
    assert machine.acted == [Action.RESTART, Action.RESTART]


# The machine refuses.


async def test_a_machine_that_cannot_do_it_refuses(fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unwilling(DryRunPower):
        async def unsupported_reason(self, action: Action) -> str | None:
            if action is Action.RESTART:
                raise PowerError("the bus is gone")
            return "not here"

    await fleet.start()
    machine = await fleet.machine().boot(power=Unwilling())
    refused = await fleet.over(await fleet.order(Action.SHUT_DOWN))
    assert (refused.state, refused.detail) == (ExecutionState.REFUSED, "not here")
    refused = await fleet.over(await fleet.order(Action.RESTART))
    assert (refused.state, refused.detail) == (ExecutionState.REFUSED, "the bus is gone")
    assert machine.power.acted == []


async def test_an_action_that_fails_is_failed_and_the_agent_lives(fleet) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.fails_before_acting = PowerError("polkit says no")
    await machine.boot()
    job = await fleet.order(Action.RESTART)
    failed = await fleet.over(job)
    assert (failed.state, failed.detail) == (ExecutionState.FAILED, "polkit says no")
    machine.fails_before_acting = None
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is ExecutionState.DONE


async def test_an_outcome_nobody_knows_is_unknown_until_the_machine_is_back(fleet, monkeypatch) -> None:
    fleet.set_timing(uncertain_timeout_s=0.05)
    await fleet.start()
    machine = fleet.machine()
    machine.fails_before_acting = OutcomeUnknown("the answer got lost")
    await machine.boot()
    job = await fleet.order(Action.RESTART)
    unknown = await fleet.over(job)
    assert (unknown.state, unknown.detail) == (ExecutionState.UNKNOWN, "the answer got lost")
    await machine.kill_agent()
    await machine.boot()
    await fleet.reached(job, ExecutionState.DONE)


async def test_what_cannot_be_journalled_is_not_done(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    machine.journal.fails = JournalError("no room")
    failed = await fleet.over(await fleet.order(Action.RESTART))
    assert (failed.state, failed.detail) == (ExecutionState.FAILED, "nothing was done: no room")
    assert machine.acted == []


async def test_an_error_of_any_length_does_not_keep_the_agent_from_joining(fleet) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.fails_before_acting = PowerError("no " * 10_000)
    await machine.boot()
    failed = await fleet.over(await fleet.order(Action.RESTART))
    assert failed.state is ExecutionState.FAILED
    await machine.kill_agent()
    await machine.start_agent()
    await machine.shown(PresenceState.ONLINE)


# Agents that crash: the machine acts at most once, and the job ends with the truth.


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
async def test_a_machine_that_went_without_a_goodbye_is_believed_by_its_boot_id(
    fleet, crashed, action
) -> None:
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


async def test_a_failure_whose_report_got_lost_is_told_by_the_journal(fleet, crashed, monkeypatch) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.fails_before_acting = PowerError("an inhibitor holds it")
    await machine.boot()
    machine.journal.crashes_after = ExecutionState.FAILED
    job = await fleet.order(Action.RESTART)
    with pytest.raises(crashed):
        await machine.ended()
    # Somebody presses the reset button: that is not the restart which failed.
    await machine.boot()
    failed = await fleet.over(job)
    assert (failed.state, failed.detail) == (ExecutionState.FAILED, "an inhibitor holds it")


async def test_an_order_that_comes_twice_is_taken_once(fleet, person, ada, until) -> None:
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


async def test_withdrawing_what_has_begun_or_is_not_known_changes_nothing(fleet, until) -> None:
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


# ShutdownWatcher, being refused.


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
async def test_a_system_that_goes_down_by_itself_is_told(fleet, action: Action, cause: Cause) -> None:
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
async def test_a_name_that_is_none_is_refused(fleet, name: str) -> None:
    await fleet.start()
    machine = fleet.machine(id="a-machine-id")
    machine.name = name
    await machine.boot(wait=False)
    with pytest.raises(AgentRefused, match="does not take this machine"):
        await machine.ended()
    assert fleet.control.machines() == ()


@pytest.mark.parametrize("identity", ["short", "x" * 65, "machine/../id", "machine#1*", "maschine-nö"])
async def test_an_identity_that_is_none_is_refused(fleet, identity: str) -> None:
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


async def test_a_control_server_that_cannot_record_is_asked_again(fleet, monkeypatch, until) -> None:
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


async def test_an_agent_cannot_speak_of_another_machines_execution(fleet, person, ada) -> None:
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


async def test_who_has_not_joined_is_told_nothing(fleet) -> None:
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


async def test_an_agent_that_joined_and_left_in_one_breath_is_not_online(fleet, until) -> None:
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


async def test_an_agent_that_is_stopped_before_the_system_answered_does_not_claim_the_shutdown(
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


# Going down, and not.


@pytest.mark.parametrize("action", [Action.RESTART, Action.SHUT_DOWN])
async def test_a_shutdown_that_is_called_off_is_failed_and_the_machine_stays(
    fleet, action: Action, until
) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.may_go.clear()
    await machine.boot()
    job = await fleet.order(action)
    await machine.shown(PresenceState.AWAY)
    waiting = await fleet.order(Action.LOG_OFF, queue_for_s=3600.0)
    assert (await fleet.execution(job)).state is ExecutionState.ACTING
    machine.power.call_off()
    failed = await fleet.over(job)
    assert (failed.state, failed.detail) == (ExecutionState.FAILED, "it was called off on the machine")
    await machine.shown(PresenceState.ONLINE)
    assert not machine.task.done()
    # It is managed as before: what waited for it is done, and so is what comes after.
    assert (await fleet.over(waiting)).state is ExecutionState.DONE
    machine.may_go.set()
    again = await fleet.order(action)
    await machine.ended()
    if action is Action.RESTART:
        await machine.boot()
    assert (await fleet.over(again)).state is ExecutionState.DONE
    assert machine.acted == [action, Action.LOG_OFF, action]


async def test_a_shutdown_of_somebody_else_that_is_called_off_changes_nothing(fleet) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.may_go.clear()
    await machine.boot()
    machine.power.go_down(Action.SHUT_DOWN)
    await machine.shown(PresenceState.AWAY)
    machine.power.call_off()
    await machine.shown(PresenceState.ONLINE)
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is ExecutionState.DONE


async def test_a_shutdown_called_off_while_the_line_was_broken_is_taken_back(fleet, until) -> None:
    # The control server that is started again gives it as much time as any other.
    fleet.control_timing = msgspec.structs.replace(fleet.control_timing, gone_grace_s=3600.0)
    await fleet.start()
    machine = fleet.machine()
    machine.may_go.clear()
    await machine.boot()
    job = await fleet.order(Action.SHUT_DOWN)
    await machine.shown(PresenceState.AWAY)
    await fleet.kill()
    machine.power.call_off()
    await fleet.start()
    assert (await fleet.over(job)).detail == "it was called off on the machine"
    await machine.shown(PresenceState.ONLINE)


async def test_an_agent_that_is_started_again_in_the_same_boot_has_not_gone(fleet) -> None:
    """The goodbye was said and the line ended; the system gave up its shutdown, and started the agent again."""
    fleet.control_timing = msgspec.structs.replace(fleet.control_timing, gone_grace_s=3600.0)
    await fleet.start()
    machine = await fleet.machine().boot()
    job = await fleet.order(Action.SHUT_DOWN)
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    assert (await fleet.execution(job)).state is ExecutionState.ACTING
    await machine.start_agent()
    unknown = await fleet.over(job)
    assert unknown.state is ExecutionState.UNKNOWN
    assert "was not shut down since" in unknown.detail
    await machine.shown(PresenceState.ONLINE)


async def test_a_goodbye_is_said_again_to_a_control_server_that_lost_the_session(fleet) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.may_go.clear()
    await machine.boot()
    await fleet.stop()
    machine.power.go_down(Action.SHUT_DOWN)
    await fleet.start()
    await machine.shown(PresenceState.AWAY)


async def test_a_system_that_goes_down_is_not_held_up_for_a_control_server_that_is_not_there(
    fleet, monkeypatch
) -> None:
    fleet.set_timing(goodbye_timeout_s=3600.0)
    await fleet.start()
    machine = await fleet.machine().boot()
    await fleet.stop()
    released = asyncio.Event()
    monkeypatch.setattr(machine.power, "release_shutdown", lambda: release(released))
    machine.power.go_down(Action.SHUT_DOWN)
    async with asyncio.timeout(10):
        await released.wait()


async def release(released: asyncio.Event) -> None:
    released.set()


@pytest.mark.parametrize("action", [Action.RESTART, Action.SHUT_DOWN])
async def test_an_agent_that_is_ended_together_with_its_power_command_is_settled_by_the_next_boot(
    fleet, action: Action, until
) -> None:
    """As under systemd: what the command began ends the command before it can answer, and the agent too."""
    await fleet.start()
    machine = fleet.machine()
    machine.fails_before_acting = OutcomeUnknown("shutdown was ended by SIGTERM.")
    await machine.boot()
    job = await fleet.order(action)
    await fleet.reached(job, ExecutionState.ACTING)
    await until(lambda: machine.agent.acting)
    machine.power.going = action  # What systemd says when it is asked.
    machine.agent.stop()
    goodbye = await machine.ended()
    assert goodbye.cause is (Cause.RESTARTING if action is Action.RESTART else Cause.SHUT_DOWN)
    assert goodbye.execution_id == job.executions[0].id
    if action is Action.RESTART:
        assert (await machine.shown(PresenceState.AWAY)).presence.cause is Cause.RESTARTING
        machine.fails_before_acting = None
        await machine.boot()
    assert (await fleet.over(job)).state is ExecutionState.DONE


async def test_an_agent_that_is_ended_while_its_command_runs_is_settled_by_the_next_boot(
    fleet, until
) -> None:
    """Nothing tells it that the system goes down."""
    await fleet.start()
    machine = fleet.machine()
    machine.may_act.clear()
    await machine.boot()
    job = await fleet.order(Action.RESTART)
    await fleet.reached(job, ExecutionState.ACTING)
    await until(lambda: machine.agent.acting)
    machine.agent.stop()
    goodbye = await machine.ended()
    assert goodbye == Goodbye(
        Cause.AGENT_STOPPED, "stopped while the machine was to be restarted", job.executions[0].id
    )
    assert (await fleet.execution(job)).state is ExecutionState.ACTING
    machine.may_act.set()
    await machine.boot()
    assert (await fleet.over(job)).state is ExecutionState.DONE


class Silent(Switch):
    """Takes an order and announces nothing; whether the system goes down cannot be told."""

    def go_down(self, action: Action) -> None:
        pass

    async def pending_shutdown(self):
        raise PowerError("this system does not say whether it goes down")


@pytest.mark.parametrize("action", [Action.RESTART, Action.SHUT_DOWN])
async def test_an_agent_that_cannot_tell_whether_the_system_goes_does_not_claim_it(
    fleet, action: Action, until
) -> None:
    """It was stopped for an upgrade, say, after a command that returned 0 and did nothing."""
    await fleet.start()
    machine = fleet.machine()
    await machine.boot(power=Silent(machine))
    job = await fleet.order(action)
    await until(lambda: machine.agent.accepted)
    machine.agent.stop()
    goodbye = await machine.ended()
    detail = f"stopped while the machine was to be {action.past}"
    assert goodbye == Goodbye(Cause.AGENT_STOPPED, detail, job.executions[0].id)
    await machine.shown(PresenceState.OFFLINE)
    assert (await fleet.execution(job)).state is ExecutionState.ACTING
    await machine.start_agent()
    assert (await fleet.over(job)).state is ExecutionState.UNKNOWN
    await machine.kill_agent()
    await machine.boot()
    await fleet.reached(job, ExecutionState.DONE)


@pytest.mark.parametrize("action", [Action.RESTART, Action.SHUT_DOWN])
async def test_an_accepted_order_that_never_shows_is_unknown_and_holds_up_nothing(
    fleet, action: Action, monkeypatch, until
) -> None:
    fleet.set_timing(shutdown_start_timeout_s=0.05)
    fleet.orders_max = 1
    await fleet.start()
    machine = fleet.machine()
    await machine.boot(power=Silent(machine))
    job = await fleet.order(action)
    unknown = await fleet.over(job)
    assert (unknown.state, unknown.detail) == (
        ExecutionState.UNKNOWN,
        "the system accepted it and announced nothing in 0.05 s",
    )
    await until(lambda: machine.agent.held_executions == 0)
    # It is on record, and the one place for a job is free again.
    entry = machine.journal.find(job.executions[0].id)
    assert entry is not None
    assert entry.state is ExecutionState.UNKNOWN
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is ExecutionState.DONE
    await machine.kill_agent()
    await machine.boot()
    await fleet.reached(job, ExecutionState.DONE)


async def test_the_system_bus_is_tried_again_soon(fleet, monkeypatch, until) -> None:
    fleet.set_timing(power_retry_first_s=0.01, power_retry_cap_s=0.02)

    class Losing(Switch):
        opened = 0

        async def open(self) -> None:
            self.opened += 1
            if 1 < self.opened < 4:
                raise PowerError("no bus")

        async def wait_for_shutdown(self):
            if self.opened < 4:
                raise PowerError("the bus is gone")
            return await super().wait_for_shutdown()

    await fleet.start()
    machine = fleet.machine()
    power = Losing(machine)
    await machine.boot(power=power)
    await until(lambda: power.opened == 4)
    power.go_down(Action.RESTART)
    assert (await machine.ended()).cause is Cause.RESTARTING


# Joining.


async def test_the_line_is_known_before_the_first_order_can_come(fleet, until) -> None:
    await fleet.start()
    machine = fleet.machine()
    known = []
    await machine.start_agent(wait=False)
    machine.agent._on_state = lambda line, change: known.append(machine.agent.line is line)
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
