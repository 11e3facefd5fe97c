"""What is told of a transfer, and how often."""

import pytest

from landline.files.progress import ProgressTracker


def test_it_is_told_ten_times_a_second_at_most_and_always_at_the_end():
    pace = ProgressTracker(1000, 0, 100.0)
    told = [pace.update(done, 100.0 + done / 1000) for done in range(1, 1001)]
    assert 9 <= sum(each is not None for each in told) <= 11
    assert told[-1].bytes_done == 1000
    assert told[-1].seconds_left == 0.0
    assert pace.update(1000, 102.0) is None


def test_the_rate_is_that_of_the_last_seconds():
    pace = ProgressTracker(10_000, 0, 0.0)
    for second in range(1, 11):
        pace.update(100 * second, float(second))
    for second in range(11, 21):
        told = pace.update(1000 + 500 * (second - 10), float(second))
    assert told.rate_bytes_per_s == pytest.approx(500)
    assert told.seconds_left == pytest.approx((10_000 - 6000) / 500)


def test_what_was_there_before_is_not_counted_as_fast():
    pace = ProgressTracker(1000, 900, 0.0)
    assert pace.update(900, 0.0).seconds_left is None
    told = pace.update(950, 1.0)
    assert told.rate_bytes_per_s == pytest.approx(50)
    assert told.resumed_from == 900


def test_a_clock_that_stands_still_makes_no_rate():
    pace = ProgressTracker(10, 0, 5.0)
    assert pace.update(5, 5.0).rate_bytes_per_s == 0.0
