"""Datagrams: at most once, never kept, first to be dropped, and no burden to anything else."""

import pytest

from landline.codes import Code, Operation
from landline.errors import LineClosed, MessageTooLarge
from landline.session.constants import (
    DATAGRAM_BYTES_MAX,
    DATAGRAM_BYTES_WAITING_MAX,
    DATAGRAMS_MAX,
    DATAGRAMS_UNREAD_MAX,
    DATAGRAMS_WAITING_MAX,
    DATAGRAMS_WINDOW_S,
    NAME_BYTES_MAX,
    Kind,
)
from landline.session.events import DatagramReceived, Ended, MessageReceived, Recovered
from landline.session.frames import FrameReader, encode_datagram, encode_frame, encode_ping
from landline.session.state import State
from landline.testing import Pair


def datagram(body=b"", name=b""):
    return encode_datagram(name, body, is_packed=False)


def kinds(data):
    return [Kind(kind).name for kind, _ in FrameReader(20_000).feed(data)]


def bodies(side):
    return [received.body for received in side.datagrams]


@pytest.fixture
def pair():
    pair = Pair()
    pair.connect()
    pair.deliver()
    return pair


# Sending.


def test_a_datagram_arrives_with_its_name(pair):
    assert pair.client.send_datagram(b"\0one", name="état")
    assert pair.server.session.send_datagram(encode_datagram(b"", b"\x01", is_packed=True))
    pair.deliver()
    assert pair.server.datagrams == [DatagramReceived("état", b"\0one", False)]
    assert pair.client.datagrams == [DatagramReceived("", b"\x01", True)]


def test_datagrams_are_written_after_control_frames_and_before_data(make_session):
    session = make_session()
    session.outbound.send(Operation.MESSAGE, b"", b"data")
    session.send_datagram(datagram(b"1"))
    session.send_datagram(datagram(b"2"))
    session.receive_data(encode_ping(Kind.PING, 1, 0, 0), 0.0)
    assert kinds(session.data_to_send(0.0)) == ["PONG", "DATAGRAM", "DATAGRAM", "DATA"]
    session.send_datagram(datagram(b"3"))
    assert kinds(session.data_to_send(0.0)) == ["DATAGRAM"]
    assert session.data_to_send(0.0) == b""


def test_a_datagram_is_not_held_and_not_acknowledged(pair):
    session = pair.client.session
    pair.client.send_datagram(b"x")
    assert session.outbound.is_drained
    assert session.outbound.buffered_bytes == session.held_bytes == 0
    assert session.outbound.unconfirmed() == ()
    pair.deliver()
    assert pair.server.session.data_to_send(pair.clock()) == b""
    assert pair.server.session.inbound.received == 0


def test_a_datagram_is_not_written_to_a_second_transport(pair):
    pair.client.send_datagram(b"lost")
    pair.client.send(b"kept")
    assert kinds(pair.client.session.data_to_send(pair.clock())) == ["DATAGRAM", "DATA"]
    pair.cut()
    pair.connect()
    pair.deliver()
    assert (bodies(pair.server), pair.server.bodies) == ([], [b"kept"])
    assert pair.client.session.datagrams_dropped == 0


@pytest.mark.parametrize("how", ["cut", "paused", "taken over"])
def test_waiting_datagrams_are_dropped_with_their_transport(pair, how):
    session = pair.client.session
    assert pair.client.send_datagram(b"1")
    assert pair.client.send_datagram(b"2")
    if how == "cut":
        pair.cut()
        pair.connect()
    elif how == "paused":
        session.pause_writing()
        session.resume_writing()
    else:
        session.attach(pair.clock(), epoch=9, peer_received=0, phase=0.0)
        pair.server.session.attach(pair.clock(), epoch=9, peer_received=0, phase=0.0)
    assert session.datagrams_dropped == 2
    pair.deliver()
    assert bodies(pair.server) == []
    assert pair.client.send_datagram(b"3")
    pair.deliver()
    assert bodies(pair.server) == [b"3"]


@pytest.mark.parametrize("how", ["away", "paused"])
def test_a_datagram_that_cannot_be_written_now_is_dropped(pair, how):
    session = pair.client.session
    if how == "away":
        pair.cut()
    else:
        session.pause_writing()
    assert not pair.client.send_datagram(b"1")
    assert session.datagrams_dropped == 1
    if how == "away":
        pair.connect()
    else:
        session.resume_writing()
    pair.deliver()
    assert pair.client.send_datagram(b"2")
    pair.deliver()
    assert bodies(pair.server) == [b"2"]
    assert session.datagrams_dropped == 1


@pytest.mark.parametrize(
    ("size", "count"), [(0, DATAGRAMS_WAITING_MAX), (1000, DATAGRAM_BYTES_WAITING_MAX // 1007)]
)
def test_the_number_of_waiting_datagrams_is_limited(pair, size, count):
    taken = [pair.client.send_datagram(bytes(size)) for _ in range(100)]
    assert taken == [True] * count + [False] * (100 - count)
    assert pair.client.session.datagrams_dropped == 100 - count
    pair.deliver()
    assert bodies(pair.server) == [bytes(size)] * count
    assert pair.client.send_datagram(bytes(size))


def test_the_largest_datagram_is_sent_and_a_larger_one_refused():
    assert len(datagram(bytes(DATAGRAM_BYTES_MAX - 6), b"name")) == DATAGRAM_BYTES_MAX + 5
    with pytest.raises(
        MessageTooLarge, match="a datagram of 1201 bytes with its name; at most 1200 are allowed"
    ):
        datagram(bytes(DATAGRAM_BYTES_MAX - 5), b"name")
    with pytest.raises(MessageTooLarge, match="a name of 256 bytes; at most 255 are allowed"):
        datagram(b"", bytes(NAME_BYTES_MAX + 1))


def test_datagrams_can_be_sent_after_eof(pair):
    pair.client.session.outbound.send_eof()
    pair.deliver()
    assert pair.client.send_datagram(b"still there")
    pair.deliver()
    assert bodies(pair.server) == [b"still there"]


def test_waiting_datagrams_are_written_before_a_bye(pair):
    pair.client.send_datagram(b"last")
    pair.client.session.close(Code.NORMAL)
    with pytest.raises(LineClosed, match="the line is closed"):
        pair.client.send_datagram(b"too late")
    pair.deliver()
    assert bodies(pair.server) == [b"last"]
    assert pair.client.session.datagrams_dropped == 0


def test_waiting_datagrams_are_dropped_by_a_bye_to_a_paused_transport(make_session):
    session = make_session()
    session.pause_writing()
    session.send_datagram(datagram(b"x"))
    session.close(Code.NORMAL)
    assert kinds(session.data_to_send(0.0)) == ["BYE"]


# Receiving.


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (b"", Code.PROTOCOL_ERROR, "a datagram of 0 bytes is shorter than its header and name"),
        (b"\0", Code.PROTOCOL_ERROR, "a datagram of 1 bytes"),
        (b"\0\x02n", Code.PROTOCOL_ERROR, "a datagram of 3 bytes"),
        (b"\x01\0", Code.PROTOCOL_ERROR, "unknown flags 0x1 in a datagram"),
        (b"\x84\0", Code.PROTOCOL_ERROR, "unknown flags 0x84"),
        (b"\0\x01\xff", Code.PROTOCOL_ERROR, "a name that is not UTF-8"),
        (bytes(DATAGRAM_BYTES_MAX + 1), Code.LIMIT_EXCEEDED, "a datagram of 1201 bytes; at most 1200 are"),
    ],
)
@pytest.mark.parametrize("outside", [False, True])
def test_a_malformed_datagram_ends_the_session(make_session, data, code, reason, outside):
    session = make_session()
    if outside:
        session.receive_datagram(data, 0.0)
    else:
        session.receive_data(encode_frame(Kind.DATAGRAM, data), 0.0)
    [ended] = session.next_events()
    assert isinstance(ended, Ended)
    assert ended.code is code
    assert reason in ended.reason
    assert session.next_datagrams() == []
    assert kinds(session.data_to_send(0.0)) == ["BYE"]


def test_a_datagram_may_arrive_outside_of_the_stream(make_session):
    session = make_session()
    assert not session.has_datagrams
    assert session.next_datagrams() == []
    session.receive_datagram(datagram(b"2", b"n")[5:], 0.0)
    session.receive_data(datagram(b"1", b"n"), 0.0)
    assert session.has_datagrams
    assert session.next_datagrams() == [
        DatagramReceived("n", b"2", False),
        DatagramReceived("n", b"1", False),
    ]
    assert not session.has_datagrams
    assert session.next_events() == []


def test_datagrams_without_a_transport_are_ignored(make_session):
    session = make_session()
    session.receive_link_lost()
    session.receive_datagram(datagram(b"late")[5:], 1.0)
    assert (session.next_datagrams(), session.next_events()) == ([], [])
    assert session.state is State.DETACHED


@pytest.mark.parametrize("outside", [False, True])
def test_a_datagram_counts_as_a_sign_of_life(make_session, outside):
    session = make_session()
    session.handle_timeout(14.0)
    assert session.state is State.SUSPECT
    session.next_events()
    if outside:
        session.receive_datagram(datagram()[5:], 14.5)
    else:
        session.receive_data(datagram(), 14.5)
    assert session.state is State.ATTACHED
    assert session.next_events() == [Recovered()]
    session.handle_timeout(29.0)
    assert session.is_attached


def test_the_oldest_of_too_many_unread_datagrams_are_ignored(make_session):
    session = make_session()
    count = DATAGRAMS_UNREAD_MAX + 5
    session.receive_data(b"".join(datagram(b"%d" % number) for number in range(count)), 0.0)
    assert [received.body for received in session.next_datagrams()] == [b"%d" % n for n in range(5, count)]
    assert session.datagrams_ignored == 5


def test_datagrams_dropped_outside_of_the_session_are_counted(make_session):
    session = make_session()
    assert session.datagrams_dropped == session.datagrams_ignored == 0
    session.count_datagram_dropped()
    session.count_datagram_ignored()
    session.count_datagram_ignored()
    assert (session.datagrams_dropped, session.datagrams_ignored) == (1, 2)


def test_a_flood_of_datagrams_does_not_affect_messages(pair):
    for number in range(200):
        pair.client.send(b"%d" % number)
        for _ in range(3):
            pair.client.send_datagram(bytes(900))
        if number % 10 == 0:
            pair.deliver()
    pair.deliver()
    assert pair.server.bodies == [b"%d" % number for number in range(200)]
    assert pair.client.session.datagrams_dropped == 600 - len(pair.server.datagrams)
    assert not [event for event in pair.server.events if not isinstance(event, MessageReceived)]
    pair.advance(1.0)
    assert pair.client.session.outbound.is_drained


def test_no_more_datagrams_are_sent_than_the_limit(pair):
    session = pair.client.session
    for now in (0.0, DATAGRAMS_WINDOW_S):
        assert [session.may_send_datagram(now) for _ in range(DATAGRAMS_MAX)] == [True] * DATAGRAMS_MAX
        assert not session.may_send_datagram(now + DATAGRAMS_WINDOW_S / 2)
    assert session.datagrams_dropped == 2
