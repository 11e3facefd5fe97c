"""Decisions on jobs: what a person is asked, what stands of it on record, and which agents get an order at all."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fleet.control.test_jobs import T0, S, make_execution, make_job, make_machine

from landline.fleet.control import jobs
from landline.fleet.messages import KnownExecution
from landline.fleet.model import Action, Execution, ExecutionState, Person, Unasked


@pytest.mark.parametrize(
    ("delay_s", "postponed_s", "countdown_s"),
    [(None, 0.0, 60.0), (600.0, 0.0, 60.0), (5.0, 0.0, 5.0), (0.0, 0.0, 0.0), (5.0, 60.0, 60.0)],
)
def test_an_order_says_how_long_a_person_has_at_least(
    delay_s: float | None, postponed_s: float, countdown_s: float
) -> None:
    execution = make_execution(postponed_s=postponed_s)
    assert jobs.order_for(make_job(delay_s=delay_s), execution, T0).countdown_s == countdown_s


@pytest.mark.parametrize("unasked", Unasked)
def test_an_order_carries_the_policy_for_unasked_persons(unasked: Unasked) -> None:
    assert jobs.order_for(make_job(unasked=unasked), make_execution(), T0).unasked is unasked


def test_an_order_says_until_when_it_is_postponed() -> None:
    postponed = make_execution(S.POSTPONED, postponed_s=300.0, due_at=T0 + 300)
    order = jobs.order_for(make_job(), postponed, T0 + 100)
    assert (order.is_postponed, order.due_in_s) == (True, 200.0)
    assert not jobs.order_for(make_job(), postponed, T0 + 300).is_postponed
    # A delay of the operator is none.
    assert not jobs.order_for(make_job(delay_s=300.0), make_execution(due_at=T0 + 300), T0).is_postponed


@pytest.mark.parametrize("unasked", Unasked)
@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize(
    "facts", [{}, {"persons": (Person("ada"),)}, {"asks_by": "tk"}, {"asking_problem": "no display"}]
)
def test_an_agent_that_may_act_without_asking_gets_an_order_only_where_that_is_wanted(
    unasked: Unasked, action: Action, facts: dict[str, Any]
) -> None:
    refusal = jobs.delivery_refusal(make_job(action, unasked=unasked), make_machine(**facts))
    is_old = not ({"asks_by", "asking_problem"} & set(facts))
    assert bool(refusal) == (is_old and action is not Action.WAKE and unasked is not Unasked.ACT)


def test_a_waiting_execution_expires_with_its_reason() -> None:
    waiting = make_execution(S.WAITING, detail="ada cannot be asked: no display")
    expired = jobs.overdue(make_job(), waiting, T0 + 180)
    assert expired is not None
    assert expired.detail == "its time ran out; ada cannot be asked: no display"


def told(execution: Execution, state: ExecutionState, **known: str) -> Execution | None:
    return jobs.receive_report(
        make_job(), execution, KnownExecution("j-1", state, **known), T0 + 1, power="logind"
    )


def test_asked_and_answering_persons_are_recorded_separately() -> None:
    asked = told(make_execution(), S.PROMPTED, asked="ada (:0), bob (tty3)", detail="asking ada, bob")
    assert asked is not None
    assert (asked.asked, asked.answered_by, asked.rounds) == ("ada (:0), bob (tty3)", "", 1)
    agreed = told(asked, S.ACCEPTED, asked=asked.asked, answered_by="ada (:0)", notices="wall")
    assert agreed is not None
    assert (agreed.asked, agreed.answered_by, agreed.notices) == (asked.asked, "ada (:0)", "wall")
    # A new agent that has nothing to say of it takes nothing away; a new question has no answer yet.
    kept = told(agreed, S.FAILED)
    assert kept is not None
    assert (kept.asked, kept.answered_by, kept.notices) == (asked.asked, "ada (:0)", "wall")
    _, later = jobs.postpone(make_job(), asked, 60.0, T0, "", answered_by="ada (:0)")
    assert later is not None
    assert later.answered_by == "ada (:0)"
    again = told(later, S.PROMPTED, asked="bob (tty3)")
    assert again is not None
    assert (again.asked, again.answered_by) == ("bob (tty3)", "")


def test_another_reason_to_wait_is_news_and_the_same_one_is_none() -> None:
    waiting = told(make_execution(), S.WAITING, detail="no display")
    assert waiting is not None
    assert told(waiting, S.WAITING, detail="no display") is None
    other = told(waiting, S.WAITING, detail="logind does not answer")
    assert other is not None
    assert (other.state, other.detail, other.rounds) == (S.WAITING, "logind does not answer", 2)


def test_an_agent_that_goes_back_and_forth_does_not_fill_the_record() -> None:
    execution = make_execution()
    for number in range(3 * jobs.ROUNDS_MAX):
        state = (S.WAITING, S.PROMPTED)[number % 2]
        execution = told(execution, state, detail=str(number)) or execution
    assert execution.rounds == jobs.ROUNDS_MAX
    # What ends it is heard all the same.
    refused = told(execution, S.REFUSED)
    assert refused is not None
    accepted = told(execution, S.ACCEPTED)
    assert accepted is not None
