"""What is taken and what may be sent, without any I/O."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import landline
from landline.files.limits import (
    DirectoryUsage,
    FileLimits,
    Place,
    check_count,
    check_offer,
    check_room,
    compare_s,
    place_to_give_up,
)
from landline.files.messages import CHUNK_BYTES_MAX, Accept, Offer
from landline.files.transfer import ReceiveWindow, SendWindow, Stage

WINDOW = CHUNK_BYTES_MAX


def offer(**changes):
    values = {"transfer": b"t" * 8, "key": b"k" * 16, "name": "a", "size_bytes": 1000, "modified_ns": 1}
    return Offer(**{**values, **changes})


def accept(**changes):
    values = {"transfer": b"t" * 8, "offset": 0, "hash": bytes(32), "window_bytes": 4096, "chunk_bytes": 1024}
    return Accept(**{**values, **changes})


def reception(size_bytes=1000, offset=0):
    made = ReceiveWindow(size_bytes, WINDOW)
    made.accept(offset)
    return made


def code_of(function, *arguments):
    with pytest.raises(landline.FileRefused) as caught:
        function(*arguments)
    return caught.value.code


class TestReception:
    def test_chunks_follow_each_other_to_the_end(self):
        made = reception(1000)
        assert made.receive_chunk(0, 600) is False
        assert made.receive_chunk(600, 400) is False
        made.receive_end()
        assert made.stage is Stage.ENDED

    def test_the_first_chunk_goes_on_or_begins_anew(self):
        assert reception(1000, 700).receive_chunk(700, 300) is False
        anew = reception(1000, 700)
        assert anew.receive_chunk(0, 300) is True
        assert (anew.received_bytes, anew.resumed_from) == (300, 0)

    @pytest.mark.parametrize("offset", [0, 1, 599, 601, 2**64 - 1])
    def test_a_later_chunk_at_another_offset_is_refused(self, offset):
        made = reception(1000, 500)
        made.receive_chunk(500, 100)
        assert code_of(made.receive_chunk, offset, 1) == "broken"

    @pytest.mark.parametrize("size_bytes", [0, 1001, CHUNK_BYTES_MAX + 1])
    def test_chunks_that_are_empty_or_more_than_offered_are_refused(self, size_bytes):
        assert code_of(reception(1000).receive_chunk, 0, size_bytes) == "broken"

    def test_more_than_the_window_is_refused_and_what_is_written_makes_room(self):
        made = reception(10 * WINDOW)
        made.receive_chunk(0, WINDOW)
        made.wrote(1)
        made.receive_chunk(WINDOW, 1)
        assert code_of(made.receive_chunk, WINDOW + 1, 1) == "broken"

    def test_nothing_is_taken_before_the_offer_is(self):
        made = ReceiveWindow(1000, WINDOW)
        assert code_of(made.receive_chunk, 0, 10) == "broken"
        assert code_of(made.receive_end) == "broken"

    def test_an_end_too_early_and_anything_behind_the_end_are_refused(self):
        assert code_of(reception(1000).receive_end) == "broken"
        made = reception(0)
        made.receive_end()
        assert code_of(made.receive_end) == "broken"
        assert code_of(made.receive_chunk, 0, 1) == "broken"

    def test_credit_is_told_by_quarters_of_the_window_and_at_the_end(self):
        made = reception(WINDOW)
        made.receive_chunk(0, WINDOW)
        assert made.wrote(WINDOW // 4 - 1) is False
        assert made.wrote(1) is True
        assert made.wrote(WINDOW // 4 - 1) is False
        assert made.wrote(WINDOW - WINDOW // 2 + 1) is True


@given(
    size_bytes=st.integers(0, 4 * WINDOW),
    resumed=st.integers(0, 4 * WINDOW),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("next"), st.integers(0, CHUNK_BYTES_MAX + 1)),
            st.tuples(st.just("write"), st.integers(0, WINDOW)),
            st.tuples(st.just("at"), st.integers(0, 2**64 - 1)),
            st.tuples(st.just("end"), st.just(0)),
        ),
        max_size=40,
    ),
)
def test_whatever_a_peer_sends_no_more_is_held_than_the_window_and_no_more_is_stored_than_offered(
    size_bytes, resumed, steps
):
    made = reception(size_bytes, min(resumed, size_bytes))
    for step, value in steps:
        held = made.received_bytes - made.written_bytes
        try:
            if step == "write":
                made.wrote(min(value, held))
            elif step == "end":
                made.receive_end()
            else:
                offset = made.received_bytes if step == "next" else value
                made.receive_chunk(offset, value if step == "next" else 1)
        except landline.FileRefused:
            break
        assert 0 <= made.received_bytes - made.written_bytes <= WINDOW
        assert made.received_bytes <= size_bytes
        assert made.stage is not Stage.ENDED or made.received_bytes == size_bytes


class TestEmission:
    def test_so_much_is_sent_as_the_window_takes(self):
        made = SendWindow(100_000, accept(), 65_536, is_same=True)
        sent = 0
        while size_bytes := made.next_bytes:
            made.sent_bytes += size_bytes
            sent += 1
        assert (sent, made.sent_bytes) == (4, 4096)
        made.receive_credit(1)
        assert made.next_bytes == 0
        made.receive_credit(1024)
        assert made.next_bytes == 1024

    def test_the_last_chunk_is_what_is_left(self):
        made = SendWindow(1500, accept(offset=1000), 65_536, is_same=True)
        assert made.next_bytes == 500
        made.sent_bytes += 500
        assert made.next_bytes == 0
        assert made.is_all_sent

    def test_another_beginning_is_sent_anew(self):
        made = SendWindow(1500, accept(offset=1000), 65_536, is_same=False)
        assert (made.sent_bytes, made.resumed_from) == (0, 0)

    def test_a_window_smaller_than_a_chunk_still_lets_something_through(self):
        assert SendWindow(10_000, accept(window_bytes=512), 65_536, is_same=True).next_bytes == 512

    @pytest.mark.parametrize("written", [0, 1025])
    def test_a_credit_that_cannot_be_is_refused(self, written):
        made = SendWindow(10_000, accept(), 65_536, is_same=True)
        made.sent_bytes = 1024
        made.receive_credit(10)
        assert code_of(made.receive_credit, written) == "broken"

    def test_an_offset_behind_the_end_is_refused(self):
        with pytest.raises(landline.FileRefused, match="1001 bytes of a file of 1000"):
            SendWindow(1000, accept(offset=1001), 65_536, is_same=True)


class TestOffers:
    def test_what_is_too_large_or_badly_named_is_refused(self):
        limits = FileLimits(file_bytes=1000)
        check_offer(offer(), limits)
        assert code_of(check_offer, offer(size_bytes=1001), limits) == "too_large"
        assert code_of(check_offer, offer(name="../x"), limits) == "bad_name"

    def test_so_many_at_once(self):
        limits = FileLimits(concurrent_files=5, files_per_line=2, files_per_peer=3)
        check_count(4, 1, 2, limits)
        assert code_of(check_count, 5, 0, 0, limits) == "busy"
        assert code_of(check_count, 4, 2, 2, limits) == "busy"
        assert code_of(check_count, 4, 0, 3, limits) == "busy"

    def test_a_place_is_given_up_by_the_idlest_of_the_peer_with_the_most(self):
        limits = FileLimits(idle_s=5)
        places = [Place("a", 9.0), Place("b", 5.0), Place("b", 6.0), Place("b", 0.0)]
        assert place_to_give_up(places, "c", limits) == 2
        assert place_to_give_up(places, "a", limits) == 2
        # No more than its own, and nobody gains by offering again.
        assert place_to_give_up(places, "b", limits) is None
        assert place_to_give_up([Place("a", 9.0), Place("b", 9.0)], "b", limits) is None

    def test_who_makes_progress_keeps_its_place(self):
        limits = FileLimits(idle_s=5)
        assert place_to_give_up([Place("a", 4.9)] * 32, "b", limits) is None
        assert place_to_give_up([], "b", limits) is None

    def test_a_peer_may_take_its_time_to_read_what_is_there(self):
        assert compare_s(0) == 0
        assert compare_s(16 * 1024**3) > 300

    def test_room_on_the_disk_and_in_the_quota(self):
        found = DirectoryUsage(
            used_bytes=5000, used_files=3, free_bytes=1500, promised_bytes=300, there_bytes=200
        )
        check_room(offer(), FileLimits(min_free_bytes=400, quota_bytes=6100), found)
        assert code_of(check_room, offer(), FileLimits(min_free_bytes=401), found) == "no_space"
        assert (
            code_of(check_room, offer(), FileLimits(min_free_bytes=0, quota_bytes=6099), found)
            == "over_quota"
        )
        check_room(offer(), FileLimits(min_free_bytes=0, stored_files=4), found)
        assert (
            code_of(check_room, offer(), FileLimits(min_free_bytes=0, stored_files=3), found) == "over_quota"
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"file_bytes": -1},
        {"concurrent_files": 0},
        {"window_bytes": 1},
        {"stall_timeout_s": 0},
        {"quota_bytes": "much"},
        {"partial_retention_s": float("nan")},
    ],
)
def test_limits_that_make_no_sense_are_named(wrong):
    with pytest.raises(landline.ConfigurationError, match=rf"FileLimits\({next(iter(wrong))}="):
        FileLimits(**wrong)
