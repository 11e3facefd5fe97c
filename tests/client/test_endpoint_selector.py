"""The order of endpoints. Pure: time is only a number here."""

from hypothesis import given, settings
from hypothesis import strategies as st

from landline.client.endpoint_selector import EndpointSelector

STABLE_S = 10.0
ABC = ("a", "b", "c")


def test_without_failures_the_given_order_counts():
    assert EndpointSelector(STABLE_S).order(ABC, 0.0) == ["a", "b", "c"]
    assert EndpointSelector(STABLE_S).order(["a", "b", "a"], 0.0) == ["a", "b"]


def test_the_endpoint_that_worked_is_tried_before_those_that_failed():
    selector = EndpointSelector(STABLE_S)
    selector.receive_failed("a", 0.0, "refused")
    selector.receive_connected("b", 1.0)
    assert selector.last_used == "b"
    assert selector.order(ABC, 100.0) == ["b", "c", "a"]


def test_the_better_endpoint_is_tried_again_after_a_while():
    selector = EndpointSelector(STABLE_S)
    selector.receive_failed("a", 0.0, "refused")
    selector.receive_connected("b", 1.0)
    assert selector.order(ABC, 600.0 - 1)[0] == "b"
    assert selector.order(ABC, 600.0)[0] == "a"


def test_each_further_failure_doubles_the_penalty():
    selector = EndpointSelector(STABLE_S)
    now = 0.0
    for number in range(12):
        selector.receive_failed("a", now, "refused")
        lasts_s = min(86_400.0, 600.0 * 2**number)
        assert selector.order(ABC, now + lasts_s - 1)[-1] == "a"
        now += lasts_s
        assert selector.order(ABC, now)[0] == "a"


def test_a_thousand_failures_do_not_overflow():
    selector = EndpointSelector(STABLE_S)
    for number in range(1100):
        selector.receive_failed("a", float(number), "refused")
    assert selector.order(ABC, 1100.0) == ["b", "c", "a"]


def test_when_all_have_failed_the_oldest_failure_is_first():
    selector = EndpointSelector(STABLE_S)
    for now, endpoint in enumerate(["c", "a", "b"]):
        selector.receive_failed(endpoint, float(now), "refused")
    assert selector.order(ABC, 3.0) == ["c", "a", "b"]
    selector.receive_failed("c", 3.0, "refused")
    assert selector.order(ABC, 4.0) == ["a", "b", "c"]


def test_an_unusable_endpoint_is_left_out_until_its_penalty_ends():
    selector = EndpointSelector(STABLE_S)
    selector.receive_failed("a", 0.0, "not installed", is_unusable=True)
    assert selector.order(ABC, 1.0) == ["b", "c"]
    assert selector.order(ABC, 600.0) == ["a", "b", "c"]


def test_a_stable_link_clears_the_failures_of_its_endpoint():
    selector = EndpointSelector(STABLE_S)
    for _ in range(5):
        selector.receive_failed("a", 0.0, "refused")
    selector.receive_connected("a", 10.0)
    assert selector.order(ABC, 10.0)[0] == "a"
    selector.receive_lost(10.0 + STABLE_S, "link lost")
    assert selector.failure_reasons(ABC) == ""
    selector.receive_failed("a", 30.0, "refused")
    assert selector.order(ABC, 30.0 + 600.0)[0] == "a"


def test_short_links_count_as_a_failure_of_their_endpoint():
    selector = EndpointSelector(STABLE_S)
    for number in range(2):
        assert selector.order(ABC, number)[0] == "a"
        selector.receive_connected("a", number)
        selector.receive_lost(number + STABLE_S / 2, "nothing heard")
    assert selector.order(ABC, 20.0) == ["b", "c", "a"]
    assert selector.failure_reasons(ABC) == "a: 2 links in a row did not last: nothing heard"


def test_a_loss_before_the_first_link_changes_nothing():
    selector = EndpointSelector(STABLE_S)
    selector.receive_lost(0.0, "link lost")
    assert selector.order(ABC, 0.0) == ["a", "b", "c"]


def test_each_reason_is_new_once():
    selector = EndpointSelector(STABLE_S)
    assert selector.receive_failed("a", 0.0, "refused")
    assert not selector.receive_failed("a", 1.0, "refused")
    assert selector.receive_failed("b", 1.0, "refused")
    assert selector.receive_failed("a", 2.0, "unreachable")
    assert selector.failure_reasons(ABC) == "a: unreachable; b: refused"


def test_reset_clears_all_failures():
    selector = EndpointSelector(STABLE_S)
    selector.receive_failed("a", 0.0, "refused", is_unusable=True)
    selector.reset()
    assert selector.order(ABC, 0.0) == ["a", "b", "c"]


def test_the_number_of_failure_records_has_a_limit():
    selector = EndpointSelector(STABLE_S)
    for number in range(3 * 256):
        selector.receive_failed(f"r{number}", 0.0, "refused")
    assert selector.records == 256


@given(
    st.lists(
        st.tuples(st.sampled_from(ABC), st.sampled_from(["fail", "connect", "lose"]), st.floats(0, 2000)),
        max_size=60,
    )
)
@settings(deadline=None, max_examples=100, derandomize=True)
def test_every_usable_endpoint_is_in_every_order_once(happenings):
    selector = EndpointSelector(STABLE_S)
    now = 0.0
    for endpoint, what, pause_s in happenings:
        now += pause_s
        if what == "fail":
            selector.receive_failed(endpoint, now, "refused")
        elif what == "connect":
            selector.receive_connected(endpoint, now)
        else:
            selector.receive_lost(now, "link lost")
        assert sorted(selector.order(ABC, now)) == list(ABC)
