"""One job at a time on a real agent with a real control server: actions, answers, cancellations, refusals."""

from __future__ import annotations

import pytest

from landline.fleet.agent.journal import JournalError
from landline.fleet.agent.power import OutcomeUnknown, PowerError
from landline.fleet.agent.power.dry_run import DryRunPower
from landline.fleet.agent.prompt import Answer, Choice
from landline.fleet.api import CancelRequest
from landline.fleet.control.jobs import POSTPONED_S_MIN
from landline.fleet.messages import DEFAULT_COUNTDOWN_S, KnownExecution, Report
from landline.fleet.model import Action, Cause, ExecutionState, PresenceState

NOW = Answer(choice=Choice.NOW)
CANCEL = Answer(choice=Choice.CANCEL)
TIMED_OUT = Answer(choice=Choice.TIMED_OUT)


def postpone(seconds: float) -> Answer:
    return Answer(choice=Choice.POSTPONE, postpone_s=seconds)


# Actions


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


async def test_a_log_off_is_done_when_the_agent_reports_it(fleet, person, ada, until) -> None:
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


async def test_a_dry_run_reports_that_nothing_was_done(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot(power=DryRunPower())
    job = await fleet.order(Action.SHUT_DOWN, message="power cut")
    ended = await fleet.over(job)
    assert (ended.state, ended.detail) == (ExecutionState.DONE, "dry run: nothing was done")
    assert machine.power.acted == [(Action.SHUT_DOWN, "power cut")]
    assert machine.known.presence.state is PresenceState.ONLINE


# Answers


async def test_the_person_cancels(fleet, person, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person(CANCEL)).boot()
    ended = await fleet.over(await fleet.order(Action.RESTART))
    assert (ended.state, ended.detail) == (ExecutionState.CANCELLED, "cancelled by ada")
    assert machine.acted == []


async def test_a_person_who_may_not_cancel_is_asked_again(fleet, person, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person(CANCEL, TIMED_OUT)).boot()
    ended = await fleet.over(await fleet.order(Action.LOG_OFF, may_cancel=False, delay_s=30.0))
    assert ended.state is ExecutionState.DONE
    first, second = machine.prompt.questions
    assert not first.may_cancel
    assert second.countdown_s <= first.countdown_s <= 30.0


async def test_a_report_of_a_cancellation_that_is_not_allowed_is_ignored(fleet, person, ada) -> None:
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


async def test_a_question_without_an_answer_permits_the_action(fleet, person, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person(TIMED_OUT)).boot()
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is ExecutionState.DONE
    assert machine.acted == [Action.LOG_OFF]


@pytest.mark.parametrize("has_prompt", [True, False])
async def test_where_no_person_is_logged_on_the_action_follows_at_once(
    fleet, person, has_prompt: bool
) -> None:
    await fleet.start()
    machine = await fleet.machine(prompt=person() if has_prompt else None).boot()
    job = await fleet.order(Action.LOG_OFF)
    assert (await fleet.over(job)).state is ExecutionState.DONE
    details = [event.detail for event in (await fleet.control.job(job.job.id)).events]
    assert "no person is logged on" in details
    if has_prompt:
        assert machine.prompt.questions == []


# Cancellation and expiry


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


async def test_a_machine_that_shuts_down_begins_no_other_action(fleet) -> None:
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


# Refusals and failures


async def test_an_unsupported_action_is_refused(fleet) -> None:
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


async def test_an_unknown_outcome_stays_unknown_until_the_machine_is_back(fleet) -> None:
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


async def test_an_action_that_cannot_be_journalled_is_not_done(fleet) -> None:
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
