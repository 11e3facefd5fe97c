"""The decision before every act: all combinations of who is on, whether they can be asked, and what was ordered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landline.fleet.agent import consent
from landline.fleet.agent.consent import Act, Answerer, Ask, Hold, Refuse, Terms
from landline.fleet.messages import DEFAULT_COUNTDOWN_S, Order
from landline.fleet.model import Action, Facts, Person, Unasked

NOW = 1000.0
ANNA, BOB = Person("anna", ":0"), Person("bob", "tty3", is_remote=True)

NOBODY = Facts(name="pc", knows_persons=True)
ANNA_ON = Facts(name="pc", knows_persons=True, persons=(ANNA,))
CANNOT_TELL = Facts(name="pc", persons_problem="logind does not answer")
OLD_AGENT = Facts(name="pc")
"""What rows and agents say that know nothing of these fields."""
OLD_AGENT_ANNA = Facts(name="pc", persons=(ANNA,))

CAN_ASK = {"asks_by": "tk on :0"}
CANNOT_ASK = {"asking_problem": "no display"}
NEVER_SAID: dict[str, str] = {}


def facts_of(persons: Facts, asking: dict[str, str]) -> Facts:
    return Facts(
        name="pc",
        persons=persons.persons,
        knows_persons=persons.knows_persons,
        persons_problem=persons.persons_problem,
        **asking,
    )


def step(
    facts: Facts, unasked: Unasked, *, due_in_s: float, countdown_s: float = 60.0, since_s: float = 0.0
) -> consent.Step:
    """The step ``since_s`` after persons were noticed, ``due_in_s`` before the operator's time."""
    terms = Terms(due_at=NOW + due_in_s, countdown_s=countdown_s, unasked=unasked)
    return consent.next_step(terms, facts, NOW, NOW - since_s)


@pytest.mark.parametrize("unasked", Unasked)
@pytest.mark.parametrize("asking", [CAN_ASK, CANNOT_ASK, NEVER_SAID])
@pytest.mark.parametrize("due_in_s", [-100.0, 0.0, 0.001, 30.0])
def test_where_it_is_known_that_nobody_is_on_only_the_time_counts(
    unasked: Unasked, asking: dict[str, str], due_in_s: float
) -> None:
    taken = step(facts_of(NOBODY, asking), unasked, due_in_s=due_in_s)
    if due_in_s <= 0:
        assert taken == Act("no person is logged on", is_free=True)
    else:
        assert isinstance(taken, Hold)
        assert (taken.until, taken.is_asking_impossible, taken.acts_at) == (NOW + due_in_s, False, None)


PERHAPS_ON = [ANNA_ON, CANNOT_TELL, OLD_AGENT, OLD_AGENT_ANNA]


@pytest.mark.parametrize("unasked", Unasked)
@pytest.mark.parametrize("persons", PERHAPS_ON)
@pytest.mark.parametrize(
    ("due_in_s", "countdown_s", "asked_for_s"),
    [
        (-100.0, 60.0, 60.0),  # The time has come: the full countdown all the same.
        (0.0, 60.0, 60.0),
        (0.0, 5.0, 5.0),  # The operator gave less.
        (0.0, 0.0, 0.0),
        (30.0, 60.0, 60.0),
        (600.0, 60.0, 600.0),  # The operator gave more.
    ],
)
def test_persons_who_can_be_asked_are_asked_for_the_full_countdown(
    unasked: Unasked, persons: Facts, due_in_s: float, countdown_s: float, asked_for_s: float
) -> None:
    facts = facts_of(persons, CAN_ASK)
    assert step(facts, unasked, due_in_s=due_in_s, countdown_s=countdown_s, since_s=500.0) == Ask(asked_for_s)


@pytest.mark.parametrize("persons", PERHAPS_ON)
@pytest.mark.parametrize("asking", [CANNOT_ASK, NEVER_SAID])
@pytest.mark.parametrize("due_in_s", [-1e6, 0.0, 600.0])
@pytest.mark.parametrize("since_s", [0.0, 1e6])
def test_persons_who_cannot_be_asked_are_waited_for_however_long_that_takes(
    persons: Facts, asking: dict[str, str], due_in_s: float, since_s: float
) -> None:
    taken = step(facts_of(persons, asking), Unasked.WAIT, due_in_s=due_in_s, since_s=since_s)
    assert isinstance(taken, Hold)
    assert (taken.until, taken.is_asking_impossible, taken.acts_at) == (None, True, None)
    assert "cannot be asked" in taken.detail


@pytest.mark.parametrize("persons", PERHAPS_ON)
@pytest.mark.parametrize("asking", [CANNOT_ASK, NEVER_SAID])
@pytest.mark.parametrize("due_in_s", [-1e6, 0.0, 600.0])
def test_or_it_is_refused_at_once(persons: Facts, asking: dict[str, str], due_in_s: float) -> None:
    taken = step(facts_of(persons, asking), Unasked.REFUSE, due_in_s=due_in_s)
    assert isinstance(taken, Refuse)
    assert "cannot be asked" in taken.detail


@pytest.mark.parametrize("persons", PERHAPS_ON)
@pytest.mark.parametrize("asking", [CANNOT_ASK, NEVER_SAID])
@pytest.mark.parametrize(
    ("due_in_s", "countdown_s", "since_s", "left_s"),
    [
        (0.0, 60.0, 0.0, 60.0),
        (-1e6, 60.0, 0.0, 60.0),
        (0.0, 60.0, 59.0, 1.0),
        (0.0, 60.0, 60.0, 0.0),
        (0.0, 60.0, 1e6, 0.0),
        (600.0, 60.0, 0.0, 600.0),
        (600.0, 60.0, 1e6, 600.0),
        (0.0, 5.0, 0.0, 5.0),
    ],
)
def test_or_it_acts_after_the_full_countdown_and_says_so(
    persons: Facts,
    asking: dict[str, str],
    due_in_s: float,
    countdown_s: float,
    since_s: float,
    left_s: float,
) -> None:
    facts = facts_of(persons, asking)
    taken = step(facts, Unasked.ACT, due_in_s=due_in_s, countdown_s=countdown_s, since_s=since_s)
    if left_s:
        assert isinstance(taken, Hold)
        assert (taken.until, taken.acts_at, taken.is_asking_impossible) == (NOW + left_s, NOW + left_s, True)
    else:
        assert isinstance(taken, Act)
        assert not taken.is_free
        assert "could not be asked" in taken.detail


@given(
    persons=st.sampled_from([NOBODY, *PERHAPS_ON]),
    asking=st.sampled_from([CAN_ASK, CANNOT_ASK, NEVER_SAID]),
    unasked=st.sampled_from(list(Unasked)),
    due_in_s=st.floats(-1e6, 1e6),
    countdown_s=st.floats(0, 60),
    since_s=st.floats(0, 1e6),
)
def test_nothing_is_ever_done_at_once_but_where_nobody_is_on(
    persons: Facts,
    asking: dict[str, str],
    unasked: Unasked,
    due_in_s: float,
    countdown_s: float,
    since_s: float,
) -> None:
    """The rule above all, over everything there can be."""
    taken = step(
        facts_of(persons, asking), unasked, due_in_s=due_in_s, countdown_s=countdown_s, since_s=since_s
    )
    if isinstance(taken, Act):
        assert due_in_s <= 1e-6
        if persons is not NOBODY:
            assert unasked is Unasked.ACT
            assert asking is not CAN_ASK
            assert since_s >= countdown_s - 1e-6
        assert taken.is_free == (persons is NOBODY)


def test_who_is_on_and_why_is_said() -> None:
    who = consent.who_is_on
    assert who(ANNA_ON) == who(OLD_AGENT_ANNA) == "anna"
    assert who(NOBODY) == "no person"
    assert who(CANNOT_TELL) == "a person who may be logged on (logind does not answer)"
    assert who(OLD_AGENT) == "a person who may be logged on (the agent cannot tell who is logged on)"
    held = step(facts_of(ANNA_ON, CANNOT_ASK), Unasked.WAIT, due_in_s=0)
    assert held == Hold("anna cannot be asked: no display", is_asking_impossible=True)


def test_the_countdown_without_a_question_begins_again_with_each_log_on() -> None:
    since = consent.countdown_since
    assert since(None, NOBODY, 1.0) is None
    assert since(None, ANNA_ON, 2.0) == 2.0
    assert since(2.0, CANNOT_TELL, 3.0) == 2.0
    assert since(2.0, NOBODY, 4.0) is None


def test_the_countdown_without_a_question_begins_when_asking_becomes_impossible() -> None:
    """It began at the first look, and was over when the display went away: the order was done at once, untold."""
    terms = Terms(due_at=0.0, countdown_s=60.0, unasked=Unasked.ACT)
    can_ask, cannot_ask = facts_of(ANNA_ON, CAN_ASK), facts_of(ANNA_ON, CANNOT_ASK)
    since = consent.countdown_since(None, can_ask, 1.0)
    assert since is None
    since = consent.countdown_since(since, cannot_ask, 500.0)
    taken = consent.next_step(terms, cannot_ask, 500.0, since)
    assert isinstance(taken, Hold)
    assert taken.acts_at == 560.0
    # And again each time.
    assert consent.countdown_since(since, can_ask, 501.0) is None


def test_the_terms_of_an_order() -> None:
    order = Order(
        execution_id="j-1",
        action=Action.RESTART,
        requested_by="",
        message="",
        due_in_s=5.0,
        has_delay=True,
        expires_in_s=9.0,
        may_cancel=True,
        may_postpone=True,
    )
    terms = Terms(due_at=NOW + 5, countdown_s=DEFAULT_COUNTDOWN_S, unasked=Unasked.WAIT)
    assert consent.terms_of(order, NOW) == terms


@pytest.mark.parametrize(
    ("told_in_s", "acts_in_s", "again_in_s"),
    [
        (0, 60, 50),
        (50, 60, None),
        (0, 5, None),
        (0, 3600, 3300),
        (3300, 3600, 3540),
        (0, 61, 1),
        (0, 10, None),
    ],
)
def test_persons_are_told_again_before_it_happens(
    told_in_s: float, acts_in_s: float, again_in_s: float | None
) -> None:
    assert consent.next_notice_at(told_in_s, acts_in_s) == again_in_s


# Who answered is who answered.


@pytest.mark.parametrize(
    ("seat", "name", "full"),
    [
        (":0", "anna", "anna (:0)"),
        (":0.0", "anna", "anna (:0)"),
        ("tty3", "bob", "bob (tty3)"),
        ("/dev/tty3", "bob", "bob (tty3)"),
        ("pts/7", "a person at pts/7", "a person at pts/7"),
        (":1", "a person at :1", "a person at :1"),
        ("", "a person", "a person"),
    ],
)
def test_an_answer_is_given_to_the_person_at_its_seat_and_to_nobody_else(
    seat: str, name: str, full: str
) -> None:
    assert consent.answerer((ANNA, BOB), seat) == Answerer(name, full)


def test_an_only_person_has_not_answered_from_somewhere_else() -> None:
    """An administrator's terminal, where the agent runs: that anna alone is on does not make it her answer."""
    assert consent.answerer((ANNA,), "pts/3").name == "a person at pts/3"
    assert consent.answerer((ANNA,), "").name == "a person"
    assert consent.answerer((), ":0").name == "a person at :0"


def test_persons_who_share_a_seat_or_have_none() -> None:
    carol = Person("carol", ":0")
    assert consent.answerer((ANNA, carol), ":0").name == "a person at :0"
    assert consent.answerer((ANNA, Person("anna", ":0")), ":0").name == "anna"
    assert consent.answerer((Person("dan"),), "").name == "a person"


def test_who_is_asked() -> None:
    assert consent.asked_persons((ANNA, BOB), ":0") == (ANNA,)
    # A Wayland session is on tty2, and its windows on :0.
    assert consent.asked_persons((BOB,), ":0") == (BOB,)
    assert consent.asked_text((ANNA, BOB), ":0") == "anna (:0), bob (tty3)"
    assert consent.asked_text((), ":0") == "a person at :0"
    assert consent.asking_text(ANNA_ON, (ANNA, BOB), ":0") == "asking anna, bob"
    assert consent.asking_text(CANNOT_TELL, (), ":0") == "asking on :0; logind does not answer"
    assert consent.unanswered_text((ANNA,), ":0") == "no answer (asked on :0: anna)"
    assert consent.unanswered_text((ANNA,), "") == "no answer (asked: anna)"
    assert consent.unanswered_text((), ":0") == "no answer (asked on :0)"
    assert consent.unanswered_text((), "") == "no answer"


def test_many_names_are_counted() -> None:
    crowd = [Person(f"p{number}") for number in range(10)]
    assert consent.names_of([*crowd, *crowd]) == "p0, p1, p2, p3, p4 and 5 more"
