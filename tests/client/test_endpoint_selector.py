"""Which road is next: pure, so time is only a number here."""

from hypothesis import given, settings
from hypothesis import strategies as st

from landline.client.endpoint_selector import (
    FORGET_S,
    FORGET_S_MAX,
    ROADS_MAX,
    SHORT_LINKS_MAX,
    EndpointSelector,
)

STABLE_S = 10.0
ABC = ("a", "b", "c")


def test_what_nothing_is_known_of_is_tried_as_given():
    assert EndpointSelector(STABLE_S).order(ABC, 0.0) == ["a", "b", "c"]
    assert EndpointSelector(STABLE_S).order(["a", "b", "a"], 0.0) == ["a", "b"]


def test_the_road_that_worked_is_tried_before_those_that_failed():
    roads = EndpointSelector(STABLE_S)
    roads.receive_failed("a", 0.0, "refused")
    roads.receive_connected("b", 1.0)
    assert roads.used == "b"
    assert roads.order(ABC, 100.0) == ["b", "c", "a"]


def test_the_better_road_is_tried_again_after_a_while():
    roads = EndpointSelector(STABLE_S)
    roads.receive_failed("a", 0.0, "refused")
    roads.receive_connected("b", 1.0)
    assert roads.order(ABC, FORGET_S - 1)[0] == "b"
    assert roads.order(ABC, FORGET_S)[0] == "a"


def test_each_further_failure_is_remembered_for_twice_as_long():
    roads = EndpointSelector(STABLE_S)
    now = 0.0
    for number in range(12):
        roads.receive_failed("a", now, "refused")
        lasts_s = min(FORGET_S_MAX, FORGET_S * 2**number)
        assert roads.order(ABC, now + lasts_s - 1)[-1] == "a"
        now += lasts_s
        assert roads.order(ABC, now)[0] == "a"


def test_failures_without_an_end_are_counted_without_an_end():
    roads = EndpointSelector(STABLE_S)
    for number in range(1100):
        roads.receive_failed("a", float(number), "refused")
    assert roads.order(ABC, 1100.0) == ["b", "c", "a"]


def test_when_all_have_failed_the_one_whose_failure_is_oldest_is_first():
    roads = EndpointSelector(STABLE_S)
    for now, road in enumerate(["c", "a", "b"]):
        roads.receive_failed(road, float(now), "refused")
    assert roads.order(ABC, 3.0) == ["c", "a", "b"]
    roads.receive_failed("c", 3.0, "refused")
    assert roads.order(ABC, 4.0) == ["a", "b", "c"]


def test_a_closed_road_is_left_out_and_tried_again_later():
    roads = EndpointSelector(STABLE_S)
    roads.receive_failed("a", 0.0, "not installed", is_closed=True)
    assert roads.order(ABC, 1.0) == ["b", "c"]
    assert roads.order(ABC, FORGET_S) == ["a", "b", "c"]


def test_a_link_that_lasted_wipes_out_what_was_held_against_its_road():
    roads = EndpointSelector(STABLE_S)
    for _ in range(5):
        roads.receive_failed("a", 0.0, "refused")
    roads.receive_connected("a", 10.0)
    assert roads.order(ABC, 10.0)[0] == "a"
    roads.receive_lost(10.0 + STABLE_S, "link lost")
    assert roads.reasons(ABC) == ""
    roads.receive_failed("a", 30.0, "refused")
    assert roads.order(ABC, 30.0 + FORGET_S)[0] == "a"


def test_links_that_do_not_last_are_a_failure_of_their_road():
    roads = EndpointSelector(STABLE_S)
    for number in range(SHORT_LINKS_MAX):
        assert roads.order(ABC, number)[0] == "a"
        roads.receive_connected("a", number)
        roads.receive_lost(number + STABLE_S / 2, "nothing heard")
    assert roads.order(ABC, 20.0) == ["b", "c", "a"]
    assert roads.reasons(ABC) == "a: 2 links in a row did not last: nothing heard"


def test_a_loss_before_any_link_is_nobodys():
    roads = EndpointSelector(STABLE_S)
    roads.receive_lost(0.0, "link lost")
    assert roads.order(ABC, 0.0) == ["a", "b", "c"]


def test_a_reason_is_news_once():
    roads = EndpointSelector(STABLE_S)
    assert roads.receive_failed("a", 0.0, "refused")
    assert not roads.receive_failed("a", 1.0, "refused")
    assert roads.receive_failed("b", 1.0, "refused")
    assert roads.receive_failed("a", 2.0, "unreachable")
    assert roads.reasons(ABC) == "a: unreachable; b: refused"


def test_forgetting_makes_all_as_good_as_new():
    roads = EndpointSelector(STABLE_S)
    roads.receive_failed("a", 0.0, "refused", is_closed=True)
    roads.forget()
    assert roads.order(ABC, 0.0) == ["a", "b", "c"]


def test_roads_that_never_come_back_are_not_kept_for_ever():
    roads = EndpointSelector(STABLE_S)
    for number in range(3 * ROADS_MAX):
        roads.receive_failed(f"r{number}", 0.0, "refused")
    assert len(roads._memories) == ROADS_MAX


@given(
    st.lists(
        st.tuples(st.sampled_from(ABC), st.sampled_from(["fail", "connect", "lose"]), st.floats(0, 2000)),
        max_size=60,
    )
)
@settings(deadline=None, max_examples=100, derandomize=True)
def test_every_road_that_is_not_closed_is_in_every_order_once(happenings):
    roads = EndpointSelector(STABLE_S)
    now = 0.0
    for road, what, pause_s in happenings:
        now += pause_s
        if what == "fail":
            roads.receive_failed(road, now, "refused")
        elif what == "connect":
            roads.receive_connected(road, now)
        else:
            roads.receive_lost(now, "link lost")
        assert sorted(roads.order(ABC, now)) == list(ABC)
