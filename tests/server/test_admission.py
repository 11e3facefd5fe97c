"""The gate: a rate in the long run, a burst after quiet, and a queue for those who come too early."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landline import Admission, ConfigurationError
from landline.server.admission import RateLimiter


def test_a_burst_is_let_in_and_then_the_rate_counts():
    gate = RateLimiter(Admission(per_s=10, burst=3))
    assert [gate.admit(100.0) for _ in range(3)] == [None] * 3
    assert gate.admit(100.0) is not None
    assert gate.admit(100.11) is None
    assert gate.admit(100.12) is not None
    assert gate.refused == 2
    # After a quiet time the burst is there again.
    assert [gate.admit(200.0) for _ in range(3)] == [None] * 3


def test_early_clients_get_increasing_delays():
    gate = RateLimiter(Admission(per_s=10, burst=1))
    assert gate.admit(0.0) is None
    assert [gate.admit(0.0) for _ in range(4)] == pytest.approx([0.2, 0.3, 0.4, 0.5])


def test_the_delay_of_a_refused_client_has_a_limit():
    gate = RateLimiter(Admission(per_s=0.001, burst=1))
    assert gate.admit(0.0) is None
    assert max(gate.admit(0.0) for _ in range(10)) == 3600.0


@given(st.floats(1, 1000), st.integers(1, 50), st.lists(st.floats(0, 0.5), max_size=200))
def test_never_more_than_the_burst_and_the_rate(per_s, burst, waits):
    gate = RateLimiter(Admission(per_s=per_s, burst=burst))
    now, admitted = 0.0, []
    for wait in waits:
        now += wait
        if gate.admit(now) is None:
            admitted.append(now)
    for index, begun in enumerate(admitted):
        for count, at in enumerate(admitted[index:], 1):
            assert count <= burst + (at - begun) * per_s + 1 + 1e-6


def test_a_crowd_that_obeys_is_let_in_at_the_rate():
    gate = RateLimiter(Admission(per_s=100, burst=10))
    waiting, now, admitted = dict.fromkeys(range(1000), 0.0), 0.0, []
    while waiting:
        number = min(waiting, key=waiting.get)
        now = max(now, waiting[number])
        wait_s = gate.admit(now)
        if wait_s is None:
            admitted.append(now)
            del waiting[number]
        else:
            waiting[number] = now + wait_s
    assert len(admitted) == 1000
    # Ten seconds' worth, and not twice as long: the places are kept.
    assert admitted[-1] < 11
    assert gate.refused < 1100


@pytest.mark.parametrize("arguments", [{"per_s": 0}, {"per_s": 1e7}, {"burst": 0}, {"unfinished": 0}])
def test_values_out_of_range_are_rejected(arguments):
    with pytest.raises(ConfigurationError, match="must be above zero"):
        Admission(**arguments)
