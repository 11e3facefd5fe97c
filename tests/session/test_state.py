import re
from itertools import product
from pathlib import Path

import pytest

from landline.session.state import TRANSITIONS, State, Trigger, next_state

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"


@pytest.mark.parametrize(("state", "trigger"), list(product(State, Trigger)))
def test_every_input_in_every_state_follows_the_table_or_raises(state, trigger):
    if (state, trigger) in TRANSITIONS:
        assert next_state(state, trigger) is TRANSITIONS[state, trigger]
    else:
        with pytest.raises(LookupError, match=f"{state.value} cannot take '{trigger.value}'"):
            next_state(state, trigger)


def test_closed_is_the_end():
    assert not [state for state, _ in TRANSITIONS if state is State.CLOSED]


@pytest.mark.parametrize("state", [state for state in State if state is not State.CLOSED])
def test_every_session_can_be_ended_and_taken_over(state):
    assert next_state(state, Trigger.END) is State.CLOSED
    assert next_state(state, Trigger.ATTACH) is State.ATTACHED


def test_without_a_transport_nothing_is_heard_or_missed():
    inputs = {trigger for state, trigger in TRANSITIONS if state is State.DETACHED}
    assert inputs == {Trigger.ATTACH, Trigger.END}


def test_the_specification_shows_this_table():
    section = re.split(r"^## 9\b", PROTOCOL.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    section = re.split(r"^## ", section, flags=re.MULTILINE)[0]
    states, inputs = {state.value for state in State}, {trigger.value for trigger in Trigger}
    rows = [
        tuple(cell.strip(" `") for cell in line.strip("| ").split("|"))
        for line in section.splitlines()
        if line.startswith("|")
    ]
    shown = [row for row in rows if len(row) == 3 and row[0] in states and row[1] in inputs]
    assert sorted(shown) == sorted((a.value, b.value, c.value) for (a, b), c in TRANSITIONS.items())
