from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landline.client.backoff import Backoff, Schedule
from landline.errors import ConfigurationError


class ConstantRandom:
    """A random generator that always returns the same fraction."""

    def __init__(self, fraction):
        self.fraction = fraction

    def random(self):
        return self.fraction

    def randbytes(self, n):
        raise AssertionError("no secrets are needed here")


def delays(backoff, count, *, fraction=1.0):
    schedule = Schedule(backoff)
    return [schedule.next_delay(0.0, ConstantRandom(fraction)) for _ in range(count)]


def test_the_range_doubles_up_to_the_cap():
    assert delays(Backoff(first_s=1, cap_s=10), 6) == [1, 2, 4, 8, 10, 10]


def test_the_jitter_is_full_from_the_first_try_on():
    assert delays(Backoff(first_s=1, cap_s=10), 6, fraction=0.0) == [0] * 6
    assert delays(Backoff(first_s=1, cap_s=10), 6, fraction=0.5) == [0.5, 1, 2, 4, 5, 5]


def test_an_endless_outage_does_not_overflow():
    schedule = Schedule(Backoff(first_s=1, cap_s=10))
    for _ in range(3000):
        delay = schedule.next_delay(0.0, ConstantRandom(1.0))
    assert delay == 10


def test_it_gives_up_after_the_allowed_attempts():
    assert delays(Backoff(first_s=1, cap_s=1, attempts=3), 4) == [1, 1, None, None]


def test_a_lost_link_is_not_a_failed_attempt():
    schedule = Schedule(Backoff(first_s=1, cap_s=1, attempts=1, stable_after_s=10))
    for _ in range(2):
        schedule.receive_connected(0.0)
        assert schedule.next_delay(20.0, ConstantRandom(1.0)) == 1
    assert schedule.next_delay(21.0, ConstantRandom(1.0)) is None


def test_a_flapping_link_gives_up_in_the_end():
    schedule = Schedule(Backoff(first_s=1, cap_s=1, attempts=2, stable_after_s=10))
    seen = []
    for _ in range(3):
        schedule.receive_connected(0.0)
        seen.append(schedule.next_delay(1.0, ConstantRandom(1.0)))
    assert seen == [1, 1, None]


def test_the_delay_named_by_the_server_is_used():
    schedule = Schedule(Backoff(first_s=1, cap_s=10))
    assert schedule.next_delay(0.0, ConstantRandom(0.5), retry_after_s=100.0, spread_s=60.0) == 130.0
    assert schedule.next_delay(0.0, ConstantRandom(0.5), retry_after_s=0.0) == 0.0
    assert schedule.failures == 2


def test_a_server_that_always_says_at_once_does_not_cause_a_busy_loop():
    schedule = Schedule(Backoff(first_s=0.5))
    wishes = [schedule.next_delay(0.0, ConstantRandom(0.5), retry_after_s=0.0) for _ in range(10)]
    assert wishes == [0.0] * 8 + [0.5, 0.5]
    # Later than that is its right.
    assert schedule.next_delay(0.0, ConstantRandom(0.5), retry_after_s=3.0) == 3.0
    # A link that lasted shows that its word is good.
    schedule.receive_connected(0.0)
    assert schedule.next_delay(10.0, ConstantRandom(0.5), retry_after_s=0.0) == 0.0


def test_a_delay_named_by_the_server_does_not_exceed_the_attempts():
    schedule = Schedule(Backoff(first_s=1, cap_s=10, attempts=1))
    schedule.next_delay(0.0, ConstantRandom(0.5))
    assert schedule.next_delay(0.0, ConstantRandom(0.5), retry_after_s=1.0) is None


@pytest.mark.parametrize(("up_s", "failures"), [(9.9, 4), (10.0, 0), (1000.0, 0)])
def test_only_a_stable_link_resets_the_count(up_s, failures):
    schedule = Schedule(Backoff(stable_after_s=10.0))
    for _ in range(3):
        schedule.next_delay(0.0, ConstantRandom(1.0))
    schedule.receive_connected(50.0)
    assert schedule.failures == 3
    schedule.next_delay(50.0 + up_s, ConstantRandom(1.0))
    assert schedule.failures == failures


def test_a_stable_link_counts_once():
    schedule = Schedule(Backoff(stable_after_s=10.0))
    schedule.receive_connected(0.0)
    schedule.next_delay(20.0, ConstantRandom(1.0))
    schedule.next_delay(40.0, ConstantRandom(1.0))
    assert schedule.failures == 1


@pytest.mark.parametrize(
    "options",
    [
        {"first_s": 0},
        {"first_s": -1},
        {"first_s": 31},
        {"first_s": float("nan")},
        {"cap_s": 86_401},
        {"attempts": 0},
        {"stable_after_s": -0.1},
    ],
)
def test_a_value_out_of_range_is_rejected(options):
    with pytest.raises(ConfigurationError, match=r"Backoff\("):
        Backoff(**options)


@given(
    st.integers(0, 2**32),
    st.floats(0.001, 100),
    st.floats(1, 1000),
    st.integers(1, 80),
)
@settings(deadline=None, max_examples=50, derandomize=True)
def test_every_delay_is_within_its_range(seed, first, factor, tries):
    backoff = Backoff(first_s=first, cap_s=min(first * factor, 86_400))
    schedule, rng = Schedule(backoff), Random(seed)
    for number in range(tries):
        delay = schedule.next_delay(0.0, rng)
        assert 0 <= delay <= min(backoff.cap_s, backoff.first_s * 2.0**number)
