"""The state of a transfer on both sides, without I/O."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import landline
from landline.files.chunk_queue import ChunkQueue
from landline.files.limits import FileLimits
from landline.files.messages import CHUNK_BYTES_MAX, Accept
from landline.files.transfer import PROGRESS_BYTES, IdleTimer, ReceiveWindow, SendWindow, Stage
from landline.files.wakeup import Wakeup

WINDOW = CHUNK_BYTES_MAX


def accept(**changes):
    values = {"transfer": b"t" * 8, "offset": 0, "hash": bytes(32), "window_bytes": 4096, "chunk_bytes": 1024}
    return Accept(**{**values, **changes})


def receive_window(size_bytes=1000, offset=0):
    made = ReceiveWindow(size_bytes, WINDOW)
    made.accept(offset)
    return made


def code_of(function, *arguments):
    with pytest.raises(landline.FileRefused) as caught:
        function(*arguments)
    return caught.value.code


class TestReceiveWindow:
    def test_consecutive_chunks_are_accepted_until_the_end(self):
        made = receive_window(1000)
        assert made.receive_chunk(0, 600) is False
        assert made.receive_chunk(600, 400) is False
        made.receive_end()
        assert made.stage is Stage.ENDED

    def test_the_first_chunk_resumes_or_restarts_the_file(self):
        assert receive_window(1000, 700).receive_chunk(700, 300) is False
        restarted = receive_window(1000, 700)
        assert restarted.receive_chunk(0, 300) is True
        assert (restarted.received_bytes, restarted.resumed_from) == (300, 0)

    @pytest.mark.parametrize("offset", [0, 1, 599, 601, 2**64 - 1])
    def test_a_later_chunk_at_a_wrong_offset_is_refused(self, offset):
        made = receive_window(1000, 500)
        made.receive_chunk(500, 100)
        assert code_of(made.receive_chunk, offset, 1) == "broken"

    @pytest.mark.parametrize("size_bytes", [0, 1001, CHUNK_BYTES_MAX + 1])
    def test_empty_and_oversized_chunks_are_refused(self, size_bytes):
        assert code_of(receive_window(1000).receive_chunk, 0, size_bytes) == "broken"

    def test_bytes_beyond_the_window_are_refused_and_written_bytes_free_it(self):
        made = receive_window(10 * WINDOW)
        made.receive_chunk(0, WINDOW)
        made.add_written(1)
        made.receive_chunk(WINDOW, 1)
        assert code_of(made.receive_chunk, WINDOW + 1, 1) == "broken"

    def test_chunk_and_end_before_accept_are_refused(self):
        made = ReceiveWindow(1000, WINDOW)
        assert code_of(made.receive_chunk, 0, 10) == "broken"
        assert code_of(made.receive_end) == "broken"

    def test_an_early_end_and_messages_after_the_end_are_refused(self):
        assert code_of(receive_window(1000).receive_end) == "broken"
        made = receive_window(0)
        made.receive_end()
        assert code_of(made.receive_end) == "broken"
        assert code_of(made.receive_chunk, 0, 1) == "broken"

    def test_credit_is_due_after_each_quarter_of_the_window_and_at_the_end(self):
        made = receive_window(WINDOW)
        made.receive_chunk(0, WINDOW)
        assert made.add_written(WINDOW // 4 - 1) is False
        assert made.add_written(1) is True
        assert made.add_written(WINDOW // 4 - 1) is False
        assert made.add_written(WINDOW - WINDOW // 2 + 1) is True


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
def test_any_input_keeps_within_the_window_and_the_offered_size(size_bytes, resumed, steps):
    made = receive_window(size_bytes, min(resumed, size_bytes))
    for step, value in steps:
        held = made.received_bytes - made.written_bytes
        try:
            if step == "write":
                made.add_written(min(value, held))
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


class TestSendWindow:
    def test_chunks_are_sent_until_the_window_is_full(self):
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

    def test_the_last_chunk_has_the_remaining_bytes(self):
        made = SendWindow(1500, accept(offset=1000), 65_536, is_same=True)
        assert made.next_bytes == 500
        made.sent_bytes += 500
        assert made.next_bytes == 0
        assert made.is_all_sent

    def test_a_different_beginning_restarts_the_file(self):
        made = SendWindow(1500, accept(offset=1000), 65_536, is_same=False)
        assert (made.sent_bytes, made.resumed_from) == (0, 0)

    def test_a_window_smaller_than_a_chunk_limits_the_chunk(self):
        assert SendWindow(10_000, accept(window_bytes=512), 65_536, is_same=True).next_bytes == 512

    @pytest.mark.parametrize("written", [0, 1025])
    def test_an_impossible_credit_is_refused(self, written):
        made = SendWindow(10_000, accept(), 65_536, is_same=True)
        made.sent_bytes = 1024
        made.receive_credit(10)
        assert code_of(made.receive_credit, written) == "broken"

    def test_an_offset_after_the_end_is_refused(self):
        with pytest.raises(landline.FileRefused, match="1001 bytes of a file of 1000"):
            SendWindow(1000, accept(offset=1001), 65_536, is_same=True)


def test_small_writes_are_not_progress():
    timer = IdleTimer()
    timer.start(100.0)
    timer.add_written(PROGRESS_BYTES - 1, 105.0)
    assert timer.idle_s(106.0) == 6.0
    timer.add_written(1, 107.0)
    assert timer.idle_s(107.5) == 0.5
    assert timer.idle_s(107.0 - 1) == 0.0


class TestChunkQueue:
    """Idle time counts only while the transfer waits for its sender."""

    @pytest.fixture
    def chunks(self):
        made = ChunkQueue(10 * PROGRESS_BYTES, FileLimits(first_byte_timeout_s=10.0), Wakeup(None))
        made.accept(0, 100.0)
        return made

    async def test_the_sender_is_idle_until_bytes_are_written(self, chunks):
        assert chunks.idle_s(107.0) == 7.0
        chunks.receive_chunk(0, memoryview(bytes(PROGRESS_BYTES)))
        assert chunks.idle_s(108.0) == 0.0, "received, but not written"
        assert await chunks.next_write() == (bytearray(PROGRESS_BYTES), False)
        assert chunks.idle_s(109.0) == 0.0, "being written"
        chunks.write_done(PROGRESS_BYTES, 110.0)
        assert chunks.idle_s(117.0) == 7.0

    async def test_a_sender_that_has_sent_everything_is_not_idle(self, chunks):
        chunks.receive_chunk(0, memoryview(bytes(CHUNK_BYTES_MAX)))
        chunks.receive_chunk(CHUNK_BYTES_MAX, memoryview(bytes(CHUNK_BYTES_MAX)))
        chunks.receive_chunk(
            2 * CHUNK_BYTES_MAX, memoryview(bytes(10 * PROGRESS_BYTES - 2 * CHUNK_BYTES_MAX))
        )
        data, _ = await chunks.next_write()
        chunks.write_done(len(data), 101.0)
        chunks.receive_end(bytes(32))
        assert chunks.idle_s(200.0) == 0.0
        assert await chunks.next_write() is None

    def test_the_time_to_compare_a_partial_file_is_not_idle(self):
        chunks = ChunkQueue(10**9, FileLimits(), Wakeup(None))
        chunks.accept(500_000_000, 100.0)
        assert chunks.idle_s(110.0) == 0.0
        assert chunks.idle_s(111.0) == 1.0

    def test_nothing_is_idle_before_it_is_accepted(self):
        assert ChunkQueue(10, FileLimits(), Wakeup(None)).idle_s(1e9) == 0.0
