"""The life cycle of an execution: every state has its row, and nothing goes back."""

from __future__ import annotations

import pytest

from landline.fleet.model import FINAL_STATES, LIFE_CYCLE, Action, ExecutionState, Facts, Person

S = ExecutionState

ORDER = [S.QUEUED, S.DELIVERED, S.WAITING, S.PROMPTED, S.POSTPONED, S.ACCEPTED, S.ACTING]
BEFORE_CONSENT = {S.WAITING, S.PROMPTED, S.POSTPONED}


def test_every_state_has_a_row_and_every_entry_is_a_state() -> None:
    assert set(LIFE_CYCLE) == set(ExecutionState)
    assert all(after in LIFE_CYCLE for afters in LIFE_CYCLE.values() for after in afters)


def test_no_state_follows_itself() -> None:
    assert all(state not in LIFE_CYCLE[state] for state in ExecutionState)


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
def test_only_an_unknown_final_state_leads_on(state: ExecutionState) -> None:
    assert LIFE_CYCLE[state] == ({S.DONE, S.FAILED} if state is S.UNKNOWN else set())


@pytest.mark.parametrize("state", ORDER)
def test_there_is_no_way_back_but_among_waiting_prompted_and_postponed(state: ExecutionState) -> None:
    earlier = {
        after for after in LIFE_CYCLE[state] if after in ORDER and ORDER.index(after) < ORDER.index(state)
    }
    assert earlier <= (BEFORE_CONSENT - {state} if state in BEFORE_CONSENT else set())


@pytest.mark.parametrize("state", sorted(BEFORE_CONSENT))
def test_waiting_prompted_and_postponed_follow_each_other_as_needed(state: ExecutionState) -> None:
    assert BEFORE_CONSENT - {state} <= LIFE_CYCLE[state]
    assert state in LIFE_CYCLE[S.QUEUED]
    assert state in LIFE_CYCLE[S.DELIVERED]
    assert state not in LIFE_CYCLE[S.ACCEPTED]


@pytest.mark.parametrize(
    ("facts", "is_free", "says_how_it_asks"),
    [
        (Facts(name="a"), False, False),
        (Facts(name="a", knows_persons=True), True, False),
        (Facts(name="a", knows_persons=True, persons=(Person("ada"),)), False, False),
        (Facts(name="a", persons=(Person("ada"),)), False, False),
        (Facts(name="a", persons_problem="no bus", asks_by="tk"), False, True),
        (Facts(name="a", asking_problem="no display"), False, True),
    ],
)
def test_a_machine_is_free_only_where_that_is_known(
    facts: Facts, is_free: bool, says_how_it_asks: bool
) -> None:
    assert (facts.is_free, facts.says_how_it_asks) == (is_free, says_how_it_asks)


def test_nothing_begins_twice() -> None:
    # Once a state is left towards acting or beyond, nothing leads to acting again.
    reached = [S.ACTING]
    for state in reached:
        reached += [after for after in LIFE_CYCLE[state] if after not in reached]
    assert set(reached) == {S.ACTING, S.DONE, S.FAILED, S.UNKNOWN}


def test_started_executions_cannot_be_cancelled() -> None:
    for state in ExecutionState:
        if state.has_started:
            assert not LIFE_CYCLE[state] & {S.CANCELLED, S.REFUSED, S.EXPIRED}


@pytest.mark.parametrize("state", [state for state in ExecutionState if not state.is_final])
def test_every_state_that_is_not_final_leads_to_an_end(state: ExecutionState) -> None:
    assert LIFE_CYCLE[state] & FINAL_STATES
    assert S.FAILED in LIFE_CYCLE[state]


def test_properties_agree_with_the_table() -> None:
    assert {state for state in ExecutionState if state.is_final} == FINAL_STATES
    assert {state for state in ExecutionState if state.has_started} == {S.ACTING, S.DONE, S.UNKNOWN}


def test_every_action_has_a_past() -> None:
    assert [action.past for action in Action] == ["logged off", "restarted", "shut down", "woken"]
