"""Who is asked before a machine acts, and what happens if asking is impossible: a real agent and control server."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest
from tests.fleet.conftest import wait_until

from landline.fleet.agent.execution_reports import ExecutionReports
from landline.fleet.agent.power import PowerError
from landline.fleet.agent.prompt import Answer, Choice, PromptError
from landline.fleet.agent.prompt_status import PromptStatus
from landline.fleet.api import CancelRequest
from landline.fleet.messages import DEFAULT_COUNTDOWN_S
from landline.fleet.model import Action, ExecutionState, Person, Unasked

S = ExecutionState
NOW = Answer(choice=Choice.NOW)
CANCEL = Answer(choice=Choice.CANCEL)
TIMED_OUT = Answer(choice=Choice.TIMED_OUT)
BOB = Person("bob", "pts/1", is_remote=True)
ADA_LATER = (Person("ada", "seat0"),)
ACT, REFUSE = Unasked.ACT, Unasked.REFUSE


def postpone(seconds: float) -> Answer:
    return Answer(choice=Choice.POSTPONE, postpone_s=seconds)


async def said(fleet, job, detail: str) -> None:
    """Waits until this stands in the history of the only execution of a job."""

    async def is_there() -> bool:
        return detail in [event.detail for event in (await fleet.control.job(job.job.id)).events]

    await wait_until(is_there, detail)


# Asking is impossible


async def test_a_machine_that_cannot_ask_its_person_waits_until_the_job_expires(fleet, ada) -> None:
    """With the unit file of the documentation it restarted 0.6 s after the command."""
    await fleet.start()
    machine = await fleet.machine(persons=(ada,)).boot()
    job = await fleet.order(Action.RESTART)
    waiting = await fleet.reached(job, S.WAITING)
    assert waiting.detail == "ada cannot be asked: the agent has no way to ask"
    fleet.offset_s += 60.0 + 120.0 + 1.0
    expired = await fleet.over(job)
    assert (expired.state, expired.detail) == (S.EXPIRED, f"its time ran out; {waiting.detail}")
    assert machine.acted == []
    assert (expired.asked, expired.answered_by, expired.notices) == ("", "", "")


async def test_it_refuses_where_the_operator_wants_that(fleet, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,)).boot()
    refused = await fleet.over(await fleet.order(Action.RESTART, unasked=REFUSE))
    assert (refused.state, refused.detail) == (S.REFUSED, "ada cannot be asked: the agent has no way to ask")
    assert machine.acted == []


async def test_it_acts_after_the_countdown_where_the_operator_wants_that_and_says_so(fleet, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,)).boot()
    job = await fleet.order(Action.LOG_OFF, unasked=ACT, delay_s=0.1, message="exam", requested_by="root")
    done = await fleet.over(job)
    assert done.state is S.DONE
    await said(fleet, job, "ada could not be asked: the agent has no way to ask")
    assert done.notices == "wall"
    [(notice, persons)] = machine.notices.sent
    assert persons == (ada,)
    assert (notice.action, notice.requested_by, notice.message) == (Action.LOG_OFF, "root", "exam")
    assert 0 <= notice.due_in_s <= 0.1


async def test_it_does_not_act_before_the_countdown_is_over(fleet, ada, until) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,)).boot()
    job = await fleet.order(Action.LOG_OFF, unasked=ACT)
    waiting = await fleet.reached(job, S.WAITING)
    assert waiting.detail.endswith("; it is done after the countdown all the same")
    [(notice, _)] = machine.notices.sent
    assert DEFAULT_COUNTDOWN_S - 20 < notice.due_in_s <= DEFAULT_COUNTDOWN_S
    # It looks again and again meanwhile, and nothing happens.
    looks = 0
    look = machine.power.persons

    async def counted() -> tuple[Person, ...]:
        nonlocal looks
        looks += 1
        return await look()

    machine.power.persons = counted
    await until(lambda: looks >= 5)
    assert machine.acted == []
    assert (await fleet.execution(job)).state is S.WAITING


async def test_it_goes_on_when_the_person_has_left(fleet, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,)).boot()
    job = await fleet.order(Action.LOG_OFF)
    await fleet.reached(job, S.WAITING)
    machine.power.log_off()
    assert (await fleet.over(job)).state is S.DONE
    await said(fleet, job, "no person is logged on")
    await fleet.passed(job, S.DONE)
    assert [step for step in await fleet.steps(job) if step != "delivered"] == [
        "queued",
        "waiting",
        "accepted",
        "acting",
        "done",
    ]


async def test_a_waiting_job_continues_when_a_person_can_be_asked(fleet, person, ada, until) -> None:
    await fleet.start()
    prompt = person()
    prompt.problem = "the display :0 does not answer"
    machine = await fleet.machine(persons=(ada,), prompt=prompt).boot()
    await until(lambda: machine.known.facts.asking_problem == prompt.problem)
    job = await fleet.order(Action.LOG_OFF)
    waiting = await fleet.reached(job, S.WAITING)
    assert waiting.detail == "ada cannot be asked: the display :0 does not answer"
    assert prompt.questions == []
    prompt.problem = ""
    prompted = await fleet.reached(job, S.PROMPTED)
    assert (prompted.detail, prompted.asked) == ("asking ada", "ada (seat0)")
    await until(lambda: machine.known.facts.asks_by == "scripted on seat0")
    await until(lambda: prompt.is_asked)
    assert prompt.questions[0].countdown_s == DEFAULT_COUNTDOWN_S
    prompt.answer(NOW)
    done = await fleet.over(job)
    assert (done.state, done.answered_by) == (S.DONE, "ada (seat0)")
    await said(fleet, job, "ada (seat0) agreed")


async def test_an_operator_can_cancel_what_waits(fleet, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,)).boot()
    job = await fleet.order(Action.RESTART)
    await fleet.reached(job, S.WAITING)
    await fleet.control.cancel_job(job.job.id, CancelRequest(cancelled_by="root"))
    assert (await fleet.over(job)).detail == "cancelled by root"
    assert machine.acted == []


# The agent cannot tell who is on.


async def test_a_machine_that_cannot_tell_who_is_on_does_not_act(fleet, until) -> None:
    """It took "the system does not answer" for "no person is logged on", and restarted 0.2 s after the command."""
    await fleet.start()
    machine = await fleet.machine().boot()
    machine.power.cannot_tell = PowerError("logind did not answer")
    job = await fleet.order(Action.RESTART)
    waiting = await fleet.reached(job, S.WAITING)
    assert waiting.detail.startswith("a person who may be logged on (logind did not answer) cannot be asked")
    await until(lambda: not machine.known.facts.knows_persons)
    assert machine.known.facts.persons_problem == "logind did not answer"
    assert machine.acted == []
    machine.power.cannot_tell = None
    await fleet.reached(job, S.ACTING)
    await machine.ended()
    assert machine.acted == [Action.RESTART]


async def test_that_no_person_was_logged_on_is_reported_only_if_known(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).detail == "no person was logged on"
    machine.power.cannot_tell = PowerError("logind did not answer")
    job = await fleet.order(Action.LOG_OFF, unasked=ACT, delay_s=0.05)
    done = await fleet.over(job)
    assert (done.state, done.detail) == (S.DONE, "")
    await said(
        fleet,
        job,
        "a person who may be logged on (logind did not answer) could not be asked: the agent has no way to ask",
    )
    # Everybody who can be reached without a name was warned.
    assert done.notices == "wall"
    assert [persons for _, persons in machine.notices.sent] == [()]


async def test_a_person_who_may_be_on_is_asked(fleet, person, until) -> None:
    await fleet.start()
    machine = await fleet.machine(prompt=person()).boot()
    machine.power.cannot_tell = PowerError("logind did not answer")
    job = await fleet.order(Action.LOG_OFF)
    prompted = await fleet.reached(job, S.PROMPTED)
    assert prompted.detail == "asking on seat0; logind did not answer"
    assert prompted.asked == "a person at seat0"
    await until(lambda: machine.prompt.is_asked)
    assert machine.prompt.questions[0].countdown_s == DEFAULT_COUNTDOWN_S
    machine.prompt.answer(CANCEL)
    cancelled = await fleet.over(job)
    assert (cancelled.state, cancelled.detail) == (S.CANCELLED, "cancelled by a person at seat0")


async def test_an_agent_that_knows_nothing_of_asking_gets_no_order(fleet, monkeypatch) -> None:
    """It is older, and would act at once."""

    monkeypatch.setattr(PromptStatus, "add_to", lambda self, facts: facts)
    await fleet.start()
    machine = await fleet.machine().boot()
    refused = await fleet.over(await fleet.order(Action.RESTART))
    assert refused.state is S.REFUSED
    assert "agent is too old" in refused.detail
    assert machine.acted == []
    assert (await fleet.over(await fleet.order(Action.LOG_OFF, unasked=ACT))).state is S.DONE


# The question cannot be shown after all.


async def test_a_display_that_dies_is_not_consent(fleet, person, ada, until) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person()).boot()
    job = await fleet.order(Action.LOG_OFF)
    await until(lambda: machine.prompt.is_asked)
    machine.prompt.answer(PromptError("the display went away"))
    await fleet.passed(job, S.WAITING)
    await said(fleet, job, "ada cannot be asked: the display went away")
    assert machine.acted == []
    # It is tried again by itself.
    await until(lambda: machine.prompt.is_asked)
    machine.prompt.answer(NOW)
    assert (await fleet.over(job)).state is S.DONE


async def test_a_display_that_dies_is_a_refusal_where_the_operator_wants_that(fleet, person, ada) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person(PromptError("no display"))).boot()
    refused = await fleet.over(await fleet.order(Action.LOG_OFF, unasked=REFUSE))
    assert (refused.state, refused.detail) == (S.REFUSED, "ada cannot be asked: no display")
    assert refused.asked == "ada (seat0)"
    assert machine.acted == []


async def test_a_display_that_dies_leaves_the_rest_of_the_countdown(fleet, person, ada) -> None:
    fleet.set_timing(prompt_retry_first_s=600.0)
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person(PromptError("no display"))).boot()
    job = await fleet.order(Action.LOG_OFF, unasked=ACT, delay_s=0.1)
    assert (await fleet.over(job)).state is S.DONE
    await said(fleet, job, "ada could not be asked: no display")
    assert machine.acted == [Action.LOG_OFF]


async def test_a_display_that_goes_away_during_a_postponement_leaves_the_whole_countdown(
    fleet, person, ada, until
) -> None:
    """The countdown counted from before the postponement: it acted at once, without a notice."""
    fleet.set_timing(postponed_countdown_s=0.1)
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person()).boot()
    job = await fleet.order(Action.LOG_OFF, unasked=ACT, delay_s=0.1)
    await until(lambda: machine.prompt.is_asked)
    machine.prompt.problem = "the X server is gone"
    machine.prompt.answer(postpone(0.3))
    done = await fleet.over(job)
    assert (done.state, done.notices) == (S.DONE, "wall")
    assert [persons for _, persons in machine.notices.sent] == [(ada,)]
    assert "waiting" in await fleet.steps(job)
    await said(fleet, job, "ada could not be asked: the X server is gone")


async def test_waiting_for_the_dialog_of_another_job_is_no_countdown(fleet, person, ada, until) -> None:
    """The other dialog crashed, and what had only waited for its turn was done at once, never shown or told."""
    fleet.set_timing(prompt_retry_first_s=600.0)
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person()).boot()
    shown = await fleet.order(Action.RESTART, unasked=REFUSE)
    await until(lambda: machine.prompt.is_asked)
    waiting = await fleet.order(Action.LOG_OFF, unasked=ACT, delay_s=0.1)
    await fleet.reached(waiting, S.DELIVERED)
    loop = asyncio.get_running_loop()
    over_at = loop.time() + 0.3
    await until(lambda: loop.time() > over_at)
    machine.prompt.answer(PromptError("the dialog crashed"))
    assert (await fleet.over(shown)).state is S.REFUSED
    done = await fleet.over(waiting)
    assert (done.state, done.notices) == (S.DONE, "wall")
    assert [persons for _, persons in machine.notices.sent] == [(ada,)]
    assert "waiting" in await fleet.steps(waiting)


async def test_every_new_countdown_without_a_question_sends_notices(fleet, person, ada, until) -> None:
    """One shorter than the last reminder was not: the person had been told of an earlier one."""
    fleet.set_timing(prompt_retry_first_s=600.0)
    await fleet.start()
    prompt = person()
    prompt.problem = "no display yet"
    machine = await fleet.machine(persons=(ada,), prompt=prompt).boot()
    await fleet.order(Action.LOG_OFF, unasked=ACT, delay_s=9.0)
    await until(lambda: len(machine.notices.sent) == 1)
    prompt.problem = ""
    await until(lambda: prompt.is_asked)
    prompt.answer(PromptError("no display any more"))
    await until(lambda: len(machine.notices.sent) == 2)
    assert machine.acted == []


# Refused postponements


@pytest.mark.parametrize(("delay_s", "countdown_s"), [(0.1, 15.0), (600.0, 600.0)])
async def test_waiting_for_a_refused_postponement_is_not_taken_from_the_person(
    fleet, person, ada, until, monkeypatch, delay_s: float, countdown_s: float
) -> None:
    """The question came back with 0 s left, and counted as not answered."""
    loop = asyncio.get_running_loop()
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person()).boot()
    asked, may_answer = asyncio.Event(), asyncio.Event()
    postponed = ExecutionReports.postpone

    async def slow_postpone(*arguments):
        asked.set()
        await may_answer.wait()
        return await postponed(*arguments)

    monkeypatch.setattr(ExecutionReports, "postpone", slow_postpone)
    began_at = loop.time()
    job = await fleet.order(Action.LOG_OFF, delay_s=delay_s)
    await until(lambda: machine.prompt.is_asked)
    # Longer than the job is valid.
    machine.prompt.answer(postpone(1e6))
    await asked.wait()
    shown_s_max = loop.time() - began_at
    over_at = loop.time() + 0.3
    await until(lambda: loop.time() > over_at)
    may_answer.set()
    await until(lambda: len(machine.prompt.questions) == 2)
    question = machine.prompt.questions[1]
    assert not question.may_postpone
    assert max(countdown_s - shown_s_max, 15.0) <= question.countdown_s <= countdown_s
    await until(lambda: machine.prompt.is_asked)
    machine.prompt.answer(NOW)
    assert (await fleet.over(job)).state is S.DONE


async def test_a_question_that_always_fails_does_not_fill_the_record(fleet, person, ada, monkeypatch) -> None:
    fleet.set_timing(prompt_retry_cap_s=0.04)
    broken = person(*[PromptError("no display")] * 1000)
    await fleet.start()
    await fleet.machine(persons=(ada,), prompt=broken).boot()
    monkeypatch.setattr("landline.fleet.control.jobs.ROUNDS_MAX", 10)
    job = await fleet.order(Action.LOG_OFF)
    for _ in range(2000):
        if len(broken.questions) > 20:
            break
        await asyncio.sleep(0.01)
    assert len(broken.questions) > 20
    assert (await fleet.execution(job)).rounds == 10
    assert len(await fleet.steps(job)) <= 12


# Who answered.


@pytest.mark.parametrize(
    ("answer", "state", "detail", "answered_by"),
    [
        (NOW, S.DONE, "ada (seat0) agreed", "ada (seat0)"),
        (Answer(choice=Choice.NOW, seat="pts/1"), S.DONE, "bob (pts/1) agreed", "bob (pts/1)"),
        (Answer(choice=Choice.NOW, seat="pts/9"), S.DONE, "a person at pts/9 agreed", "a person at pts/9"),
        (CANCEL, S.CANCELLED, "cancelled by ada", "ada (seat0)"),
        (Answer(choice=Choice.CANCEL, seat="pts/1"), S.CANCELLED, "cancelled by bob", "bob (pts/1)"),
        (TIMED_OUT, S.DONE, "no answer (asked on seat0: ada)", ""),
    ],
)
async def test_one_answer_is_one_persons(fleet, person, ada, answer, state, detail, answered_by) -> None:
    """The names of all persons were joined: one key press, and ten had agreed."""
    await fleet.start()
    await fleet.machine(persons=(ada, BOB), prompt=person(answer)).boot()
    job = await fleet.order(Action.LOG_OFF)
    ended = await fleet.over(job)
    assert (ended.state, ended.answered_by) == (state, answered_by)
    await said(fleet, job, detail)
    assert ended.asked == "ada (seat0)"


async def test_an_administrators_terminal_is_not_the_person(fleet, person, ada) -> None:
    await fleet.start()
    prompt = person(NOW)
    prompt.shown_at = "pts/3"
    await fleet.machine(persons=(ada,), prompt=prompt).boot()
    job = await fleet.order(Action.LOG_OFF)
    ended = await fleet.over(job)
    assert ended.answered_by == "a person at pts/3"
    await said(fleet, job, "a person at pts/3 agreed")


async def test_persons_whom_the_question_does_not_reach_are_told(fleet, person, ada, until) -> None:
    await fleet.start()
    machine = await fleet.machine(persons=(ada, BOB), prompt=person()).boot()
    job = await fleet.order(Action.LOG_OFF)
    await until(lambda: machine.notices.sent)
    [(notice, persons)] = machine.notices.sent
    assert persons == (BOB,)
    assert 0 < notice.due_in_s <= DEFAULT_COUNTDOWN_S
    await until(lambda: machine.prompt.is_asked)
    machine.prompt.answer(NOW)
    assert (await fleet.over(job)).notices == "wall"


async def test_notices_that_take_too_long_hold_up_nothing(fleet, ada, until) -> None:
    fleet.set_timing(notices_timeout_s=0.02)

    async def stuck(notice, persons) -> tuple[str, ...]:
        await asyncio.Event().wait()
        return ()

    await fleet.start()
    machine = fleet.machine(persons=(ada,))
    machine.notices = stuck
    await machine.boot()
    done = await fleet.over(await fleet.order(Action.LOG_OFF, unasked=ACT, delay_s=0.1))
    assert (done.state, done.notices) == (S.DONE, "")


async def test_an_answer_belongs_to_its_question(fleet, person, ada) -> None:
    """Who postponed has not agreed to what is done later without an answer."""
    await fleet.start()
    await fleet.machine(persons=(ada,), prompt=person(postpone(0.05), TIMED_OUT)).boot()
    job = await fleet.order(Action.LOG_OFF)
    ended = await fleet.over(job)
    assert (ended.state, ended.asked, ended.answered_by) == (S.DONE, "ada (seat0)", "")
    await said(fleet, job, "postponed by ada for 0 s")
    await said(fleet, job, "no answer (asked on seat0: ada)")


# Persons come while it is under way.


async def test_a_person_who_logs_on_during_the_delay_is_asked(fleet, person, ada, until) -> None:
    fleet.set_timing(persons_poll_s=0.02)
    await fleet.start()
    machine = await fleet.machine(prompt=person()).boot()
    job = await fleet.order(Action.LOG_OFF, delay_s=3600.0)
    await fleet.reached(job, S.DELIVERED)
    machine.power.log_on(ada)
    await fleet.reached(job, S.PROMPTED)
    await until(lambda: machine.prompt.is_asked)
    assert 3500 < machine.prompt.questions[0].countdown_s <= 3600
    machine.prompt.answer(NOW)
    assert (await fleet.over(job)).state is S.DONE


async def test_a_person_who_logs_on_while_another_job_acts_is_asked(fleet, person, ada, until) -> None:
    await fleet.start()
    machine = fleet.machine(prompt=person())
    machine.may_act.clear()
    await machine.boot()
    first = await fleet.order(Action.LOG_OFF)
    await fleet.reached(first, S.ACTING)
    second = await fleet.order(Action.RESTART)
    await fleet.reached(second, S.DELIVERED)
    # Logged on after the first job logged all persons off.
    machine.on_logged_off = lambda: machine.power.log_on(ada)
    machine.may_act.set()
    await fleet.reached(first, S.DONE)
    await fleet.reached(second, S.PROMPTED)
    assert machine.acted == [Action.LOG_OFF]
    await until(lambda: machine.prompt.is_asked)
    machine.prompt.answer(CANCEL)
    assert (await fleet.over(second)).state is S.CANCELLED


def once_granted(fleet, machine, listed) -> None:
    """Lets ``listed`` list the persons of ``machine`` as soon as an action may begin there."""
    list_persons = machine.power.persons

    async def persons() -> tuple[Person, ...]:
        jobs = await fleet.control.jobs(10)
        is_granted = any(execution.state is S.ACTING for job in jobs for execution in job.executions)
        return listed() if is_granted else await list_persons()

    machine.power.persons = persons


async def test_nothing_is_done_to_a_person_who_logs_on_while_the_claim_is_answered(
    fleet, person, ada
) -> None:
    await fleet.start()
    machine = await fleet.machine(prompt=person()).boot()
    once_granted(fleet, machine, lambda: (ada,))
    failed = await fleet.over(await fleet.order(Action.RESTART))
    assert (failed.state, failed.detail) == (
        S.FAILED,
        "nothing was done: no person was logged on, and now ada is",
    )
    assert machine.acted == []


@pytest.mark.parametrize("later", [ADA_LATER, PowerError("logind did not answer")])
async def test_the_persons_are_listed_once_between_the_grant_and_the_action(fleet, later) -> None:
    """A second list, between the one that decided and the action, only chose a sentence."""
    await fleet.start()
    machine = await fleet.machine().boot()
    listed: list[object] = []
    listed_when_done: list[object] = []

    def list_persons() -> tuple[Person, ...]:
        answer = later if listed else ()
        listed.append(answer)
        if isinstance(answer, Exception):
            raise answer
        return answer

    once_granted(fleet, machine, list_persons)
    machine.on_logged_off = lambda: listed_when_done.extend(listed)
    done = await fleet.over(await fleet.order(Action.LOG_OFF))
    assert (done.state, done.detail) == (S.DONE, "no person was logged on")
    assert listed_when_done == [()]


async def test_nothing_is_done_when_the_last_list_of_persons_fails(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()

    def fail() -> tuple[Person, ...]:
        raise PowerError("logind did not answer")

    list_persons = machine.power.persons
    once_granted(fleet, machine, fail)
    failed = await fleet.over(await fleet.order(Action.RESTART))
    assert failed.state is S.FAILED
    assert failed.detail == (
        "nothing was done: no person was logged on, "
        "and now a person who may be logged on (logind did not answer) is"
    )
    assert machine.acted == []
    # The next order is not held up.
    machine.power.persons = list_persons
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is S.DONE


# Postponements and restarts


@pytest.mark.parametrize("restarts_server", [False, True])
async def test_a_person_who_postponed_is_not_asked_again_by_a_new_agent(
    fleet, person, ada, until, caplog, restarts_server: bool
) -> None:
    """It asked again at once."""
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person(postpone(1800.0))).boot()
    job = await fleet.order(Action.LOG_OFF)
    await fleet.reached(job, S.POSTPONED)
    await machine.kill_agent()
    if restarts_server:
        await fleet.stop()
        await fleet.start()
    caplog.set_level(logging.INFO, "landline.agent")
    await machine.start_agent()
    await until(lambda: "postponed (postponed; asked again in" in caplog.text)
    assert len(machine.prompt.questions) == 1
    assert (await fleet.execution(job)).state is S.POSTPONED
    # When its time has come, a new agent asks at once, with the full countdown.
    await machine.kill_agent()
    fleet.offset_s += 1801.0
    await machine.start_agent()
    await until(lambda: machine.prompt.is_asked)
    assert machine.prompt.questions[1].countdown_s == DEFAULT_COUNTDOWN_S
    machine.prompt.answer(NOW)
    assert (await fleet.over(job)).state is S.DONE


async def test_a_new_agent_gives_the_full_countdown_again(fleet, person, ada, until) -> None:
    """The operator's time is over; the person is asked all the same, not given 0 seconds."""
    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=person()).boot()
    job = await fleet.order(Action.LOG_OFF, delay_s=600.0)
    await until(lambda: machine.prompt.is_asked)
    await machine.kill_agent()
    fleet.offset_s += 601.0
    await machine.start_agent()
    await until(lambda: machine.prompt.is_asked)
    assert machine.prompt.questions[1].countdown_s == DEFAULT_COUNTDOWN_S
    machine.prompt.answer(NOW)
    assert (await fleet.over(job)).state is S.DONE


# Log


async def test_the_log_tells_a_job_from_beginning_to_end(fleet, person, ada, caplog) -> None:
    caplog.set_level(logging.INFO, "landline.agent")
    await fleet.start()
    await fleet.machine(persons=(ada,), prompt=person(NOW)).boot()
    job = await fleet.order(Action.LOG_OFF, requested_by="root\n@pc")
    await fleet.over(job)
    execution_id = job.executions[0].id
    lines = [record.getMessage() for record in caplog.records if record.name == "landline.agent"]
    assert "persons at this machine are asked by scripted on seat0" in lines
    assert "logged on: ada" in lines
    told = [line for line in lines if line.startswith(f"logoff {execution_id}: ")]
    # The answer to the claim is "acting".
    received, *steps = (line.partition(": ")[2] for line in told)
    assert re.fullmatch(r"received, requested by root @pc, due in 0 s, expires in 1[78]\d s", received)
    assert steps == [
        "delivered",
        "prompted (asking ada)",
        "shown by scripted on seat0, 60 s to answer",
        "accepted (ada (seat0) agreed)",
        "asking for permission to act",
        "acting",
        "done",
    ]
    assert not any("\n" in line for line in lines)


async def test_the_log_says_at_the_start_that_persons_cannot_be_asked(fleet, ada, until, caplog) -> None:
    fleet.set_timing(persons_poll_s=0.01)
    await fleet.start()
    machine = await fleet.machine(persons=(ada,)).boot()
    [warning] = [record for record in caplog.records if "cannot be asked" in record.getMessage()]
    assert warning.levelno == logging.WARNING
    assert "the agent has no way to ask" in warning.getMessage()
    assert "jobs wait and then expire" in warning.getMessage()
    lists = machine.power.lists
    machine.power.cannot_tell = PowerError("the bus is gone")
    await until(lambda: machine.power.lists > lists + 2)
    told = [
        record
        for record in caplog.records
        if record.getMessage() == "cannot tell who is logged on: the bus is gone"
    ]
    assert len(told) == 1


# Ends of questions


async def test_an_error_in_the_notices_ends_the_agent(fleet, person, ada, until) -> None:
    """It is not lost with the task that sends the notices."""
    await fleet.start()
    machine = fleet.machine(persons=(ada, BOB), prompt=person())

    async def fail(notice, persons) -> tuple[str, ...]:
        raise ZeroDivisionError

    machine.notices = fail
    await machine.boot()
    await fleet.order(Action.LOG_OFF)
    await until(lambda: machine.prompt.is_asked)
    machine.prompt.answer(NOW)
    with pytest.raises(ZeroDivisionError):
        await machine.ended()


async def test_an_answer_after_the_countdown_leaves_no_time(fleet, person, ada) -> None:
    class Late(person):
        async def ask(self, question) -> Answer:
            await asyncio.sleep(question.countdown_s + 0.01)
            return await super().ask(question)

    await fleet.start()
    machine = await fleet.machine(persons=(ada,), prompt=Late(CANCEL, TIMED_OUT)).boot()
    job = await fleet.order(Action.LOG_OFF, may_cancel=False, delay_s=0.05)
    assert (await fleet.over(job)).state is S.DONE
    assert machine.prompt.questions[1].countdown_s == 0.0
