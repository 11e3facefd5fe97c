"""What a session keeps for its peer: room, order, the window, EOF, and the report of what is unconfirmed."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landline.codes import Code, Operation
from landline.errors import BufferFull, ConfigurationError, LineClosed, MessageTooLarge, Unconfirmed
from landline.session.events import Ended, EofReceived, MessageReceived
from landline.session.frames import FRAGMENT_BYTES, FRAME_BYTES_MAX, FrameReader, Kind, encode_ack, encode_eof
from landline.session.handshake import Limits
from landline.session.outbound import WRITE_BYTES, SendBuffer
from landline.session.state import State
from landline.testing import Pair

SMALL = Limits(message_bytes=1024, window_bytes=4 * FRAGMENT_BYTES, window_frames=128)


def send(session, body=b"", **options):
    session.send(Operation.MESSAGE, b"", body, **options)


def connected(**options):
    pair = Pair(**options)
    pair.connect()
    return pair


def sequences_in(data):
    frames = FrameReader(FRAME_BYTES_MAX).feed(data)
    return [int.from_bytes(body[:8], "big") for kind, body in frames if kind == Kind.DATA]


# What is unconfirmed.


@pytest.mark.parametrize(("value", "is_packed"), [({"a": [1, None]}, True), (b"\x00raw", False)])
def test_an_unconfirmed_message_gives_back_its_value(value, is_packed):
    body = msgspec.msgpack.encode(value) if is_packed else value
    assert Unconfirmed(Operation.MESSAGE, "", body, is_packed).value == value


def test_everything_unconfirmed_is_reported_in_order(make_session):
    session = make_session(peer_limits=Limits(window_bytes=4 * FRAGMENT_BYTES))
    big = [bytes([65 + number]) * (FRAGMENT_BYTES + 1) for number in range(4)]
    session.send(Operation.REQUEST, "näme".encode(), b"first", is_packed=True)
    for body in big:
        send(session, body)
    send(session, b"small")
    send(session, b"bulk", is_bulk=True)
    session.send(Operation.CANCEL, b"", b"")
    session.data_to_send(0.0)
    # By now: the first, two fragmented ones, and the first half of the third. The others wait for the window.
    assert session.buffered_messages - len(session.unconfirmed()) > 0
    rest = [*big, b"small", b"", b"bulk"]
    assert [entry.body for entry in session.unconfirmed()] == [b"first", *rest]
    assert session.unconfirmed()[0] == Unconfirmed(Operation.REQUEST, "näme", b"first", True)
    session.receive_data(encode_ack(1), 0.0, epoch=1)
    assert [entry.body for entry in session.unconfirmed()] == rest
    # Of one operation only: sent whole, in fragments, and waiting.
    for operation in Operation:
        of_it = [entry for entry in session.unconfirmed() if entry.operation is operation]
        assert list(session.unconfirmed(operation=operation)) == of_it


def test_a_fragmented_message_is_unconfirmed_until_its_last_fragment_is_taken(make_session):
    session = make_session()
    big = bytes(2 * FRAGMENT_BYTES + 1)
    session.send(Operation.REQUEST, b"n", big, is_packed=True)
    send(session, bytes(FRAGMENT_BYTES + 1))
    send(session, b"behind")
    session.data_to_send(0.0)
    for taken in (1, 2):
        session.receive_data(encode_ack(taken), 0.0, epoch=1)
        assert session.unconfirmed()[0] == Unconfirmed(Operation.REQUEST, "n", big, True)
        assert len(session.unconfirmed()) == 3
    session.receive_data(encode_ack(3), 0.0, epoch=1)
    assert [len(entry.body) for entry in session.unconfirmed()] == [FRAGMENT_BYTES + 1, 6]
    session.receive_data(encode_ack(5), 0.0, epoch=1)
    assert [entry.body for entry in session.unconfirmed()] == [b"behind"]
    session.receive_data(encode_ack(6), 0.0, epoch=1)
    assert session.unconfirmed() == ()


def test_eof_is_no_message(make_session):
    session = make_session()
    send(session, b"1")
    session.send_eof()
    session.data_to_send(0.0)
    assert [entry.body for entry in session.unconfirmed()] == [b"1"]


# The send buffer.


@pytest.mark.parametrize("options", [{"size_bytes": 4 * FRAGMENT_BYTES - 1}, {"messages": 127}])
def test_a_send_buffer_too_small_to_work_is_refused(options):
    with pytest.raises(ConfigurationError, match="too small"):
        SendBuffer(**options)


@pytest.mark.parametrize("attached", [True, False])
def test_the_send_buffer_is_full_by_number(make_session, attached):
    session = make_session(attached=attached, send_buffer=SendBuffer(messages=128))
    for _ in range(128):
        assert session.has_space(0)
        send(session)
    assert not session.has_space(0)
    with pytest.raises(BufferFull, match="128 messages"):
        send(session)
    assert session.buffered_messages == 128


@pytest.mark.parametrize("attached", [True, False])
def test_the_send_buffer_is_full_by_size(make_session, attached):
    session = make_session(attached=attached, send_buffer=SendBuffer(size_bytes=4 * FRAGMENT_BYTES))
    for _ in range(3):
        send(session, bytes(FRAGMENT_BYTES))
    assert session.has_space(FRAGMENT_BYTES - 200)
    assert not session.has_space(FRAGMENT_BYTES + 1)
    with pytest.raises(BufferFull):
        send(session, bytes(FRAGMENT_BYTES + 1))
    assert session.buffered_bytes <= 4 * FRAGMENT_BYTES


def test_an_empty_send_buffer_takes_any_message(make_session):
    session = make_session(attached=False, send_buffer=SendBuffer(size_bytes=4 * FRAGMENT_BYTES))
    send(session, bytes(100 * FRAGMENT_BYTES))
    assert not session.has_space(0)


def test_acknowledgements_make_room(make_session):
    session = make_session(send_buffer=SendBuffer(messages=128))
    for _ in range(128):
        send(session)
    session.data_to_send(0.0)
    session.receive_data(encode_ack(28), 0.0, epoch=1)
    assert session.buffered_messages == 100
    assert session.has_space(0)


@pytest.mark.parametrize("attached", [True, False])
def test_a_message_above_the_peers_limit_is_refused_and_the_line_goes_on(make_session, attached):
    session = make_session(attached=attached, peer_limits=SMALL)
    send(session, bytes(1024))
    with pytest.raises(MessageTooLarge, match="1025 bytes; the peer takes 1024"):
        send(session, bytes(1025))
    with pytest.raises(MessageTooLarge, match="1025 bytes"):
        session.send(Operation.MESSAGE, b"n" * 25, bytes(1000))
    assert session.buffered_messages == 1


@pytest.mark.parametrize("attached", [True, False])
def test_a_name_too_long_is_refused(make_session, attached):
    session = make_session(attached=attached)
    session.send(Operation.MESSAGE, b"n" * 255, b"")
    with pytest.raises(MessageTooLarge, match="a name of 256 bytes"):
        session.send(Operation.MESSAGE, b"n" * 256, b"")


# The window, and one write.


def test_an_acknowledgement_of_what_was_numbered_but_not_written_is_refused(make_session):
    session = make_session()
    send(session)
    session.data_to_send(0.0)
    send(session)
    session.receive_data(encode_ack(2), 0.0, epoch=1)
    reason = "an acknowledgement of frame 2 where 1 was the last sent"
    assert session.next_events() == [Ended(Code.PROTOCOL_ERROR, reason, by_peer=False)]


def test_a_sender_waits_for_the_window(make_session):
    session = make_session(peer_limits=SMALL, send_buffer=SendBuffer(messages=1000))
    for _ in range(200):
        send(session)
    assert sequences_in(session.data_to_send(0.0)) == list(range(1, 129))
    assert session.data_to_send(0.0) == b""
    session.receive_data(encode_ack(2), 0.0, epoch=1)
    assert sequences_in(session.data_to_send(0.0)) == [129, 130]
    assert session.buffered_messages == 198


def test_one_write_is_not_much_more_than_its_share(make_session):
    session = make_session(peer_limits=Limits(window_bytes=100 * FRAGMENT_BYTES))
    for _ in range(20):
        send(session, bytes(FRAGMENT_BYTES))
    sizes = []
    while data := session.data_to_send(0.0):
        sizes.append(len(data))
    assert len(sizes) > 3
    assert max(sizes) <= WRITE_BYTES + FRAME_BYTES_MAX


@given(
    sizes=st.lists(st.sampled_from([0, 100, 5000, FRAGMENT_BYTES, 3 * FRAGMENT_BYTES]), max_size=200),
    window_frames=st.sampled_from([128, 1000]),
    bulk=st.booleans(),
    with_eof=st.booleans(),
)
def test_less_than_a_write_means_that_it_was_all(make_session, sizes, window_frames, bulk, with_eof):
    session = make_session(peer_limits=Limits(window_frames=window_frames))
    for size in sizes:
        send(session, bytes(size), is_bulk=bulk)
    if with_eof:
        session.send_eof()
    while len(session.data_to_send(0.0)) >= WRITE_BYTES:
        pass
    assert session.data_to_send(0.0) == b""


def test_normal_messages_overtake_bulk_ones_between_fragments():
    pair = Pair()
    pair.connect()
    bulk = bytes(20 * FRAGMENT_BYTES)
    pair.client.send(bulk, bulk=True)
    first = pair.client.session.data_to_send(pair.clock())
    pair.client.send(b"urgent")
    pair.server.session.receive_data(first, pair.clock(), epoch=1)
    pair.deliver()
    assert pair.server.bodies == [b"urgent", bulk]


# EOF.


def test_eof_arrives_behind_everything_and_the_other_direction_goes_on():
    pair = connected()
    pair.client.send(b"1")
    pair.client.send(bytes(3 * FRAGMENT_BYTES), bulk=True)
    pair.client.session.send_eof()
    pair.client.session.send_eof()
    assert not pair.client.session.is_drained
    pair.advance(1.0)
    assert [type(event) for event in pair.server.events] == [MessageReceived, MessageReceived, EofReceived]
    assert pair.client.session.is_drained
    pair.client.session.send_eof()
    pair.server.send(b"still open")
    pair.advance(1.0)
    assert pair.client.bodies == [b"still open"]
    pair.server.session.send_eof()
    pair.advance(1.0)
    assert EofReceived() in pair.client.events
    assert pair.server.session.is_drained
    assert pair.server.events.count(EofReceived()) == 1
    pair.advance(100.0)
    assert pair.client.session.state is State.ATTACHED


@pytest.mark.parametrize("flushed", [True, False])
def test_nothing_is_sent_behind_eof(make_session, flushed):
    session = make_session()
    session.send_eof()
    if flushed:
        assert session.data_to_send(0.0) == encode_eof(1)
    with pytest.raises(LineClosed, match="send_eof"):
        send(session)


@pytest.mark.parametrize("carried", [True, False])
def test_eof_survives_its_transport(carried):
    pair = connected()
    pair.client.send(b"1")
    pair.client.session.send_eof()
    if carried:
        pair.transfer(pair.client)
    else:
        pair.client.session.data_to_send(pair.clock())
    pair.cut()
    pair.connect()
    with pytest.raises(LineClosed):
        pair.client.send(b"2")
    pair.advance(1.0)
    assert pair.server.bodies == [b"1"]
    assert pair.server.events.count(EofReceived()) == 1
    assert pair.client.session.is_drained


def test_eof_said_without_a_transport_is_sent_over_the_next():
    pair = connected()
    pair.cut()
    pair.client.session.send_eof()
    pair.connect()
    pair.advance(1.0)
    assert pair.server.events == [EofReceived()]


def test_eof_keeps_to_the_window():
    pair = connected(server_limits=SMALL, auto_ack=False)
    for _ in range(SMALL.window_frames):
        pair.client.send(b"")
    pair.client.session.send_eof()
    pair.advance(1.0)
    assert pair.server.session.state is State.ATTACHED
    assert EofReceived() not in pair.server.events
    pair.server.ack_all()
    pair.advance(1.0)
    assert pair.server.events[-1] == EofReceived()
    assert pair.client.session.is_drained


def test_answers_can_be_sent_before_eof_and_the_end(make_session):
    session = make_session()
    assert session.can_answer
    session.send_eof()
    assert not session.can_answer
    session.data_to_send(0.0)
    assert not session.can_answer
    ended = make_session()
    ended.close(Code.NORMAL)
    assert not ended.can_answer
