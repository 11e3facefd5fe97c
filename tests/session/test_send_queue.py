import pytest

from landline.codes import Operation
from landline.session.constants import FLAG_BULK, FLAG_MORE, FLAG_PACKED, FRAGMENT_BYTES
from landline.session.frames import encode_data
from landline.session.send_queue import Outgoing, SendQueue


def message(body, *, flags=0, name=b"n", is_droppable=False):
    return Outgoing(Operation.REQUEST, flags, 9, name, body, is_droppable=is_droppable)


@pytest.mark.parametrize("size", [0, 1, FRAGMENT_BYTES])
def test_a_message_up_to_a_fragment_is_one_frame(size):
    frame, is_last = message(bytes(size), flags=FLAG_PACKED).next_fragment(7)
    assert is_last
    assert frame == encode_data(7, FLAG_PACKED, Operation.REQUEST, 9, b"n", bytes(size))


def test_a_larger_message_continues_without_name_and_correlation():
    body = b"a" * FRAGMENT_BYTES + b"b" * FRAGMENT_BYTES + b"c"
    outgoing = message(body, flags=FLAG_BULK)
    more = FLAG_BULK | FLAG_MORE
    assert [outgoing.next_fragment(number) for number in (1, 2, 3)] == [
        (encode_data(1, more, Operation.REQUEST, 9, b"n", b"a" * FRAGMENT_BYTES), False),
        (encode_data(2, more, Operation.CONTINUE, 0, b"", b"b" * FRAGMENT_BYTES), False),
        (encode_data(3, FLAG_BULK, Operation.CONTINUE, 0, b"", b"c"), True),
    ]


def test_normal_messages_interrupt_bulk_ones_between_two_fragments():
    lanes = SendQueue()
    bulk = message(bytes(2 * FRAGMENT_BYTES), flags=FLAG_BULK)
    lanes.append(bulk)
    assert lanes.next_frame(1)[1] is bulk
    first, second = message(b"1"), message(b"2")
    lanes.append(first)
    lanes.append(second)
    assert list(lanes) == [first, second, bulk]
    assert [lanes.next_frame(number)[1] for number in (2, 3, 4)] == [first, second, bulk]


def test_the_send_queue_counts_waiting_messages():
    lanes = SendQueue()
    lanes.append(message(bytes(FRAGMENT_BYTES + 5)))
    lanes.append(message(b"", flags=FLAG_BULK, name=b"name"))
    assert (lanes.count, lanes.size_bytes) == (2, FRAGMENT_BYTES + 5 + 1 + 4)
    lanes.next_frame(1)
    assert (lanes.count, lanes.size_bytes) == (2, 5 + 1 + 4)
    lanes.next_frame(2)
    assert (lanes.count, lanes.size_bytes) == (1, 4)
    lanes.next_frame(3)
    assert (lanes.count, lanes.size_bytes) == (0, 0)
    with pytest.raises(LookupError):
        lanes.next_frame(4)


def test_the_oldest_droppable_message_of_the_name_goes_first_then_the_oldest_of_any():
    lanes = SendQueue()
    kept = message(b"kept")
    x1, y1, x2 = (message(b"12", name=name, is_droppable=True) for name in (b"x", b"y", b"x"))
    y2 = message(b"12", name=b"y", is_droppable=True, flags=FLAG_BULK)
    for each in (y1, kept, x1, y2, x2):
        lanes.append(each)
    assert (lanes.droppable_count, lanes.droppable_bytes) == (4, 12)
    assert [lanes.count_droppable(name) for name in (b"x", b"y", b"z")] == [2, 2, 0]
    lanes.drop_oldest(b"x")
    assert list(lanes) == [y1, kept, x2, y2]
    lanes.drop_oldest(b"none of that name")
    assert list(lanes) == [kept, x2, y2]
    lanes.drop_oldest()
    assert list(lanes) == [kept, x2]
    lanes.drop_oldest(b"x")
    assert list(lanes) == [kept]
    assert (lanes.count, lanes.size_bytes) == (1, 5)
    assert (lanes.droppable_count, lanes.droppable_bytes, lanes.count_droppable(b"x")) == (0, 0, 0)
    with pytest.raises(LookupError):
        lanes.drop_oldest()


def test_a_message_with_a_number_cannot_be_dropped_any_more():
    lanes = SendQueue()
    begun, waiting = (message(bytes(FRAGMENT_BYTES + 1), is_droppable=True) for _ in range(2))
    lanes.append(begun)
    lanes.append(waiting)
    assert lanes.next_frame(1)[1] is begun
    assert lanes.partly_numbered_bytes == FRAGMENT_BYTES
    lanes.drop_oldest(b"n")
    assert list(lanes) == [begun]
    with pytest.raises(LookupError):
        lanes.drop_oldest(b"n")
    assert lanes.next_frame(2)[1:] == (begun, True)
    assert (lanes.count, lanes.size_bytes, lanes.partly_numbered_bytes) == (0, 0, 0)
