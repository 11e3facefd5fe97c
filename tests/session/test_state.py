import re
from pathlib import Path

import pytest

from landline.session.state import TRANSITIONS, State, Trigger, next_state

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"


@pytest.mark.parametrize(
    ("state", "trigger", "text"),
    [
        (State.CLOSED, Trigger.ATTACH, "a session that is closed does not accept the trigger 'attach'"),
        (
            State.DETACHED,
            Trigger.LINK_LOST,
            "a session that is detached does not accept the trigger 'link lost'",
        ),
    ],
)
def test_transitions_that_cannot_occur_raise(state, trigger, text):
    with pytest.raises(LookupError, match=text):
        next_state(state, trigger)


def test_closed_has_no_next_state():
    assert not [state for state, _ in TRANSITIONS if state is State.CLOSED]


@pytest.mark.parametrize("state", [state for state in State if state is not State.CLOSED])
def test_every_open_session_can_be_ended_and_attached(state):
    assert next_state(state, Trigger.END) is State.CLOSED
    assert next_state(state, Trigger.ATTACH) is State.ATTACHED


def test_without_a_transport_only_attach_and_end_occur():
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
