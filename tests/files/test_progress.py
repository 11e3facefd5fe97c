"""What is reported of a transfer, and how often."""

import pytest

from landline.files.progress import ProgressTracker


def test_reports_are_at_least_0_1_s_apart_and_the_end_is_always_reported():
    tracker = ProgressTracker(1000, 0, 100.0)
    reports = [tracker.update(done, 100.0 + done / 1000) for done in range(1, 1001)]
    assert 9 <= sum(report is not None for report in reports) <= 11
    assert reports[-1].bytes_done == 1000
    assert reports[-1].seconds_left == 0.0
    assert tracker.update(1000, 102.0) is None


def test_the_rate_is_the_average_of_the_last_five_seconds():
    tracker = ProgressTracker(10_000, 0, 0.0)
    for second in range(1, 11):
        tracker.update(100 * second, float(second))
    for second in range(11, 21):
        progress = tracker.update(1000 + 500 * (second - 10), float(second))
    assert progress.rate_bytes_per_s == pytest.approx(500)
    assert progress.seconds_left == pytest.approx((10_000 - 6000) / 500)


def test_bytes_that_were_already_there_do_not_count_in_the_rate():
    tracker = ProgressTracker(1000, 900, 0.0)
    assert tracker.update(900, 0.0).seconds_left is None
    progress = tracker.update(950, 1.0)
    assert progress.rate_bytes_per_s == pytest.approx(50)
    assert progress.resumed_from == 900


def test_the_rate_is_0_while_no_time_has_passed():
    tracker = ProgressTracker(10, 0, 5.0)
    assert tracker.update(5, 5.0).rate_bytes_per_s == 0.0
