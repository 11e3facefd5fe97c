"""What a receiver accepts: pure decisions."""

import pytest

import landline
from landline.files.limits import (
    ActiveTransfer,
    DirectoryUsage,
    FileLimits,
    check_concurrency,
    check_offer,
    check_space,
    comparison_s,
    transfer_to_end,
)
from landline.files.messages import Offer


def offer(**changes):
    values = {"transfer": b"t" * 8, "key": b"k" * 16, "name": "a", "size_bytes": 1000, "modified_ns": 1}
    return Offer(**{**values, **changes})


def code_of(function, *arguments):
    with pytest.raises(landline.FileRefused) as caught:
        function(*arguments)
    return caught.value.code


def test_a_file_that_is_too_large_or_has_an_invalid_name_is_refused():
    limits = FileLimits(file_bytes=1000)
    check_offer(offer(), limits)
    assert code_of(check_offer, offer(size_bytes=1001), limits) == "too_large"
    assert code_of(check_offer, offer(name="../x"), limits) == "bad_name"


def test_concurrent_files_are_limited_in_all_per_line_and_per_peer():
    limits = FileLimits(concurrent_files=5, files_per_line=2, files_per_peer=3)
    check_concurrency(4, 1, 2, limits)
    assert code_of(check_concurrency, 5, 0, 0, limits) == "busy"
    assert code_of(check_concurrency, 4, 2, 2, limits) == "busy"
    assert code_of(check_concurrency, 4, 0, 3, limits) == "busy"


def test_the_longest_idle_transfer_of_the_peer_with_most_transfers_is_ended():
    limits = FileLimits(idle_s=5)
    transfers = [
        ActiveTransfer("a", 9.0),
        ActiveTransfer("b", 5.0),
        ActiveTransfer("b", 6.0),
        ActiveTransfer("b", 0.0),
    ]
    assert transfer_to_end(transfers, "c", limits) == 2
    assert transfer_to_end(transfers, "a", limits) == 2


def test_a_peer_with_as_many_transfers_gains_nothing_by_another_offer():
    limits = FileLimits(idle_s=5)
    idle = [ActiveTransfer("a", 9.0), ActiveTransfer("b", 5.0), ActiveTransfer("b", 6.0)]
    assert transfer_to_end(idle, "b", limits) is None
    assert transfer_to_end([ActiveTransfer("a", 9.0), ActiveTransfer("b", 9.0)], "b", limits) is None


def test_a_transfer_with_progress_is_not_ended():
    limits = FileLimits(idle_s=5)
    assert transfer_to_end([ActiveTransfer("a", 4.9)] * 32, "b", limits) is None
    assert transfer_to_end([], "b", limits) is None


def test_the_time_to_compare_grows_with_the_partial_file():
    assert comparison_s(0) == 0
    assert comparison_s(50_000_000) == 1
    assert comparison_s(16 * 1024**3) > 300


def test_a_file_must_fit_on_the_disk_and_into_the_quota():
    usage = DirectoryUsage(
        used_bytes=5000, used_files=3, free_bytes=1500, promised_bytes=300, partial_bytes=200
    )

    def check(**limits):
        check_space(offer(), FileLimits(**limits), usage)

    check(min_free_bytes=400, quota_bytes=6100)
    check(min_free_bytes=0, stored_files=4)
    for code, limits in (
        ("no_space", {"min_free_bytes": 401}),
        ("over_quota", {"min_free_bytes": 0, "quota_bytes": 6099}),
        ("over_quota", {"min_free_bytes": 0, "stored_files": 3}),
    ):
        with pytest.raises(landline.FileRefused) as caught:
            check(**limits)
        assert caught.value.code == code


@pytest.mark.parametrize(
    "invalid",
    [
        {"file_bytes": -1},
        {"concurrent_files": 0},
        {"window_bytes": 1},
        {"stall_timeout_s": 0},
        {"quota_bytes": "much"},
        {"partial_retention_s": float("nan")},
    ],
)
def test_an_invalid_limit_is_named(invalid):
    with pytest.raises(landline.ConfigurationError, match=rf"FileLimits\({next(iter(invalid))}="):
        FileLimits(**invalid)
