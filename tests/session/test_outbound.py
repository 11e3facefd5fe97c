"""The outbound half of a session: the send buffer, order, the window, EOF, and unconfirmed messages."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landline.codes import Code, Operation
from landline.errors import BufferFull, ConfigurationError, LineClosed, MessageTooLarge, Unconfirmed
from landline.session.constants import FRAGMENT_BYTES, FRAME_BYTES_MAX, WRITE_BYTES, Kind
from landline.session.events import Ended, EofReceived, MessageReceived
from landline.session.frames import FrameReader, encode_ack, encode_eof
from landline.session.settings import Limits, SendBuffer
from landline.session.state import State
from landline.testing import Pair

SMALL = Limits(message_bytes=1024, window_bytes=4 * FRAGMENT_BYTES, window_frames=128)


def send(session, body=b"", **options):
    session.outbound.send(Operation.MESSAGE, b"", body, **options)


def connected(**options):
    pair = Pair(**options)
    pair.connect()
    return pair


def sequences_in(data):
    frames = FrameReader(FRAME_BYTES_MAX).feed(data)
    return [int.from_bytes(body[:8], "big") for kind, body in frames if kind == Kind.DATA]


# What is unconfirmed.


@pytest.mark.parametrize(("value", "is_packed"), [({"a": [1, None]}, True), (b"\x00raw", False)])
def test_an_unconfirmed_message_returns_its_value(value, is_packed):
    body = msgspec.msgpack.encode(value) if is_packed else value
    assert Unconfirmed(Operation.MESSAGE, "", body, is_packed).value == value


def test_unconfirmed_messages_are_reported_in_order(make_session):
    session = make_session(peer_limits=Limits(window_bytes=4 * FRAGMENT_BYTES))
    big = [bytes([65 + number]) * (FRAGMENT_BYTES + 1) for number in range(4)]
    session.outbound.send(Operation.REQUEST, "näme".encode(), b"first", is_packed=True)
    for body in big:
        send(session, body)
    send(session, b"small")
    send(session, b"bulk", is_bulk=True)
    session.outbound.send(Operation.CANCEL, b"", b"")
    session.data_to_send(0.0)
    # By now: the first, two fragmented ones, and the first half of the third. The others wait for the window.
    assert session.outbound.buffered_messages - len(session.outbound.unconfirmed()) > 0
    rest = [*big, b"small", b"", b"bulk"]
    assert [entry.body for entry in session.outbound.unconfirmed()] == [b"first", *rest]
    assert session.outbound.unconfirmed()[0] == Unconfirmed(Operation.REQUEST, "näme", b"first", True)
    session.receive_data(encode_ack(1), 0.0)
    assert [entry.body for entry in session.outbound.unconfirmed()] == rest
    # Of one operation only: sent whole, in fragments, and waiting.
    for operation in Operation:
        of_it = [entry for entry in session.outbound.unconfirmed() if entry.operation is operation]
        assert list(session.outbound.unconfirmed(operation=operation)) == of_it


def test_a_fragmented_message_is_unconfirmed_until_its_last_fragment_is_acknowledged(make_session):
    session = make_session()
    big = bytes(2 * FRAGMENT_BYTES + 1)
    session.outbound.send(Operation.REQUEST, b"n", big, is_packed=True)
    send(session, bytes(FRAGMENT_BYTES + 1))
    send(session, b"later")
    session.data_to_send(0.0)
    for acked in (1, 2):
        session.receive_data(encode_ack(acked), 0.0)
        assert session.outbound.unconfirmed()[0] == Unconfirmed(Operation.REQUEST, "n", big, True)
        assert len(session.outbound.unconfirmed()) == 3
    session.receive_data(encode_ack(3), 0.0)
    assert [len(entry.body) for entry in session.outbound.unconfirmed()] == [FRAGMENT_BYTES + 1, 5]
    session.receive_data(encode_ack(5), 0.0)
    assert [entry.body for entry in session.outbound.unconfirmed()] == [b"later"]
    session.receive_data(encode_ack(6), 0.0)
    assert session.outbound.unconfirmed() == ()


def test_eof_is_not_reported_as_a_message(make_session):
    session = make_session()
    send(session, b"1")
    session.outbound.send_eof()
    session.data_to_send(0.0)
    assert [entry.body for entry in session.outbound.unconfirmed()] == [b"1"]


# The send buffer.


@pytest.mark.parametrize("options", [{"size_bytes": 4 * FRAGMENT_BYTES - 1}, {"messages": 127}])
def test_a_send_buffer_too_small_to_work_is_refused(options):
    with pytest.raises(ConfigurationError, match="too small"):
        SendBuffer(**options)


@pytest.mark.parametrize("attached", [True, False])
def test_the_send_buffer_is_full_by_number(make_session, attached):
    session = make_session(attached=attached, send_buffer=SendBuffer(messages=128))
    for _ in range(128):
        assert session.outbound.has_space(0)
        send(session)
    assert not session.outbound.has_space(0)
    with pytest.raises(BufferFull, match="128 messages"):
        send(session)
    assert session.outbound.buffered_messages == 128


@pytest.mark.parametrize("attached", [True, False])
def test_the_send_buffer_is_full_by_size(make_session, attached):
    session = make_session(attached=attached, send_buffer=SendBuffer(size_bytes=4 * FRAGMENT_BYTES))
    for _ in range(3):
        send(session, bytes(FRAGMENT_BYTES))
    assert session.outbound.has_space(FRAGMENT_BYTES - 200)
    assert not session.outbound.has_space(FRAGMENT_BYTES + 1)
    with pytest.raises(BufferFull):
        send(session, bytes(FRAGMENT_BYTES + 1))
    assert session.outbound.buffered_bytes <= 4 * FRAGMENT_BYTES


def test_an_empty_send_buffer_accepts_any_message(make_session):
    session = make_session(attached=False, send_buffer=SendBuffer(size_bytes=4 * FRAGMENT_BYTES))
    send(session, bytes(100 * FRAGMENT_BYTES))
    assert not session.outbound.has_space(0)


def test_acknowledgements_free_space(make_session):
    session = make_session(send_buffer=SendBuffer(messages=128))
    for _ in range(128):
        send(session)
    session.data_to_send(0.0)
    session.receive_data(encode_ack(28), 0.0)
    assert session.outbound.buffered_messages == 100
    assert session.outbound.has_space(0)


@pytest.mark.parametrize("attached", [True, False])
def test_a_message_above_the_peers_limit_is_refused_and_the_session_continues(make_session, attached):
    session = make_session(attached=attached, peer_limits=SMALL)
    send(session, bytes(1024))
    with pytest.raises(MessageTooLarge, match="1025 bytes; the peer accepts 1024"):
        send(session, bytes(1025))
    with pytest.raises(MessageTooLarge, match="1025 bytes"):
        session.outbound.send(Operation.MESSAGE, b"n" * 25, bytes(1000))
    assert session.outbound.buffered_messages == 1


@pytest.mark.parametrize("attached", [True, False])
def test_a_name_that_is_too_long_is_refused(make_session, attached):
    session = make_session(attached=attached)
    session.outbound.send(Operation.MESSAGE, b"n" * 255, b"")
    with pytest.raises(MessageTooLarge, match="a name of 256 bytes"):
        session.outbound.send(Operation.MESSAGE, b"n" * 256, b"")


# The window, and one write.


def test_an_acknowledgement_of_what_was_numbered_but_not_written_is_refused(make_session):
    session = make_session()
    send(session)
    session.data_to_send(0.0)
    send(session)
    session.receive_data(encode_ack(2), 0.0)
    reason = "the peer acknowledged frame 2, but the last one sent was 1"
    assert session.next_events() == [Ended(Code.PROTOCOL_ERROR, reason, by_peer=False)]


def test_a_sender_waits_for_the_window(make_session):
    session = make_session(peer_limits=SMALL, send_buffer=SendBuffer(messages=1000))
    for _ in range(200):
        send(session)
    assert sequences_in(session.data_to_send(0.0)) == list(range(1, 129))
    assert session.data_to_send(0.0) == b""
    session.receive_data(encode_ack(2), 0.0)
    assert sequences_in(session.data_to_send(0.0)) == [129, 130]
    assert session.outbound.buffered_messages == 198


def test_one_write_has_a_bounded_size(make_session):
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
def test_a_short_write_means_that_nothing_is_left(make_session, sizes, window_frames, bulk, with_eof):
    session = make_session(peer_limits=Limits(window_frames=window_frames))
    for size in sizes:
        send(session, bytes(size), is_bulk=bulk)
    if with_eof:
        session.outbound.send_eof()
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
    pair.server.session.receive_data(first, pair.clock())
    pair.deliver()
    assert pair.server.bodies == [b"urgent", bulk]


# EOF.


def test_eof_arrives_after_all_messages_and_the_other_direction_continues():
    pair = connected()
    pair.client.send(b"1")
    pair.client.send(bytes(3 * FRAGMENT_BYTES), bulk=True)
    pair.client.session.outbound.send_eof()
    pair.client.session.outbound.send_eof()
    assert not pair.client.session.outbound.is_drained
    pair.advance(1.0)
    assert [type(event) for event in pair.server.events] == [MessageReceived, MessageReceived, EofReceived]
    assert pair.client.session.outbound.is_drained
    pair.client.session.outbound.send_eof()
    pair.server.send(b"still open")
    pair.advance(1.0)
    assert pair.client.bodies == [b"still open"]
    pair.server.session.outbound.send_eof()
    pair.advance(1.0)
    assert EofReceived() in pair.client.events
    assert pair.server.session.outbound.is_drained
    assert pair.server.events.count(EofReceived()) == 1
    pair.advance(100.0)
    assert pair.client.session.state is State.ATTACHED


@pytest.mark.parametrize("flushed", [True, False])
def test_no_message_can_be_sent_after_eof(make_session, flushed):
    session = make_session()
    session.outbound.send_eof()
    if flushed:
        assert session.data_to_send(0.0) == encode_eof(1)
    with pytest.raises(LineClosed, match="send_eof"):
        send(session)


@pytest.mark.parametrize("carried", [True, False])
def test_eof_survives_its_transport(carried):
    pair = connected()
    pair.client.send(b"1")
    pair.client.session.outbound.send_eof()
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
    assert pair.client.session.outbound.is_drained


def test_eof_waits_for_a_transport():
    pair = connected()
    pair.cut()
    pair.client.session.outbound.send_eof()
    pair.connect()
    pair.advance(1.0)
    assert pair.server.events == [EofReceived()]


def test_eof_waits_for_the_window():
    pair = connected(server_limits=SMALL, auto_ack=False)
    for _ in range(SMALL.window_frames):
        pair.client.send(b"")
    pair.client.session.outbound.send_eof()
    pair.advance(1.0)
    assert pair.server.session.state is State.ATTACHED
    assert EofReceived() not in pair.server.events
    pair.server.ack_all()
    pair.advance(1.0)
    assert pair.server.events[-1] == EofReceived()
    assert pair.client.session.outbound.is_drained


def test_answers_can_be_sent_before_eof_and_the_end(make_session):
    session = make_session()
    assert session.outbound.can_answer
    session.outbound.send_eof()
    assert not session.outbound.can_answer
    session.data_to_send(0.0)
    assert not session.outbound.can_answer
    ended = make_session()
    ended.close(Code.NORMAL)
    assert not ended.outbound.can_answer


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384])
@pytest.mark.parametrize("options", [{}, {"is_packed": True}, {"is_bulk": True}, {"correlation": 2**64 - 1}])
def test_a_message_numbered_at_once_has_the_bytes_of_one_that_waited(make_session, size, options):
    at_once, waited = make_session(), make_session(attached=False)
    for session in (at_once, waited):
        session.outbound.send(Operation.REQUEST, b"name", bytes(size), **options)
        assert session.outbound.buffered_messages == 1
    waited.attach(0.0, epoch=1, peer_received=0, phase=0.0)
    assert at_once.data_to_send(0.0) == waited.data_to_send(0.0) != b""
