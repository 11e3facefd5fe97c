"""The pace of one agent: many at once, then one after the other, and never more on average."""

import pytest

from landline.fleet.control.request_rate import REQUEST_EVERY_S, REQUESTS_AT_ONCE, RequestThrottle


def test_a_burst_is_not_delayed_and_later_requests_are_spaced():
    pace = RequestThrottle()
    assert [pace.wait_s(1000.0) for _ in range(REQUESTS_AT_ONCE)] == [0.0] * REQUESTS_AT_ONCE
    waits = [pace.wait_s(1000.0) for _ in range(3)]
    assert waits == pytest.approx([REQUEST_EVERY_S, 2 * REQUEST_EVERY_S, 3 * REQUEST_EVERY_S])


def test_requests_at_the_allowed_rate_never_wait():
    pace = RequestThrottle()
    for number in range(1000):
        assert pace.wait_s(number * REQUEST_EVERY_S) == 0.0


def test_a_pause_restores_the_burst_but_no_more():
    pace = RequestThrottle()
    for _ in range(REQUESTS_AT_ONCE):
        pace.wait_s(0.0)
    assert pace.wait_s(10 * REQUEST_EVERY_S) == 0.0
    later = 1000.0
    assert [pace.wait_s(later) for _ in range(REQUESTS_AT_ONCE)] == [0.0] * REQUESTS_AT_ONCE
    assert pace.wait_s(later) > 0.0


def test_in_any_time_the_average_holds():
    pace, now, ends = RequestThrottle(), 0.0, []
    for _ in range(2000):
        ends.append(now + pace.wait_s(now))
        now += REQUEST_EVERY_S / 10
    for start in range(0, len(ends) - REQUESTS_AT_ONCE, 50):
        within = [end for end in ends if ends[start] <= end < ends[start] + 1.0]
        assert len(within) <= REQUESTS_AT_ONCE + 1.0 / REQUEST_EVERY_S + 1
