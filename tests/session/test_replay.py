import pytest

from landline.errors import ProtocolError
from landline.session.replay import ReplayBuffer


def filled(count, *, written=0, size=10):
    replay = ReplayBuffer()
    for number in range(1, count + 1):
        replay.append(bytes([number]) * size)
    if written:
        assert len(replay.next_unwritten(written * size)) == written
    return replay


def test_frames_are_numbered_from_one():
    replay = ReplayBuffer()
    assert replay.last_sequence == 0
    replay.append(b"a")
    assert (replay.last_sequence, replay.size_bytes, replay.unwritten_bytes) == (1, 1, 1)


def test_frames_are_returned_once_in_order_about_the_limit_at_a_time():
    replay = filled(5)
    assert [frame[0] for frame in replay.next_unwritten(11)] == [1, 2]
    assert replay.unwritten_bytes == 30
    assert [frame[0] for frame in replay.next_unwritten(1)] == [3]
    assert [frame[0] for frame in replay.next_unwritten(1000)] == [4, 5]
    assert replay.next_unwritten(1000) == []
    assert (replay.unwritten_bytes, replay.size_bytes) == (0, 50)


def test_the_returned_list_may_be_changed():
    replay = filled(2)
    replay.next_unwritten(1000).clear()
    assert replay.last_sequence == 2


def test_an_ack_removes_all_frames_up_to_it():
    replay = filled(5, written=4)
    assert replay.receive_ack(3) == 3
    assert (replay.acked, replay.written, replay.size_bytes, replay.last_sequence) == (3, 1, 20, 5)
    assert replay.receive_ack(4) == 1
    assert [frame[0] for frame in replay.next_unwritten(1000)] == [5]
    assert replay.receive_ack(5) == 1
    assert (replay.frames, replay.size_bytes, replay.written) == ([], 0, 0)


@pytest.mark.parametrize("acked", [0, 1, 2])
def test_an_old_ack_is_ignored(acked):
    replay = filled(3, written=3)
    replay.receive_ack(2)
    assert replay.receive_ack(acked) == 0
    assert replay.acked == 2


@pytest.mark.parametrize("acked", [3, 4, 2**64 - 1])
def test_an_ack_of_an_unwritten_frame_is_refused(acked):
    replay = filled(3, written=2)
    with pytest.raises(ProtocolError, match=f"frame {acked}, but the last one sent was 2"):
        replay.receive_ack(acked)
    assert len(replay.frames) == 3


def test_a_rewind_writes_unreceived_frames_again():
    replay = filled(5, written=4)
    replay.receive_ack(1)
    replay.rewind(3)
    assert replay.unwritten_bytes == 20
    assert [frame[0] for frame in replay.next_unwritten(1000)] == [4, 5]


@pytest.mark.parametrize("received", [0, 5])
def test_received_numbers_outside_of_the_possible_range_are_refused(received):
    replay = filled(5, written=4)
    replay.receive_ack(1)
    with pytest.raises(ProtocolError, match="1 to 4 are possible"):
        replay.rewind(received)
    assert replay.written == 3


def test_a_frame_of_an_earlier_transport_may_have_been_received():
    replay = filled(5, written=4)
    replay.rewind(0)
    replay.rewind(0)
    replay.check_received(4)
    with pytest.raises(ProtocolError):
        replay.check_received(5)
