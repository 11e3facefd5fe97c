"""The inbound half of a session: order, limits, fragments, EOF, and acknowledgements."""

import pytest

from landline.codes import Code, Operation
from landline.session.bodies import Notice, encode_body
from landline.session.constants import (
    ACK_DELAY_S,
    ACK_FRAMES,
    ACK_WINDOW_SHARE,
    FLAG_BULK,
    FLAG_MORE,
    FLAG_PACKED,
    FRAGMENT_BYTES,
    FRAME_BYTES_MAX,
    Kind,
)
from landline.session.events import Ended, EofReceived, MessageReceived, NoticeReceived
from landline.session.frames import (
    DATA_HEADER_BYTES,
    FrameReader,
    decode_ping,
    encode_ack,
    encode_data,
    encode_eof,
    encode_frame,
    encode_ping,
)
from landline.session.settings import Limits
from landline.session.state import State
from landline.testing import Pair

SMALL = Limits(message_bytes=1024, window_bytes=4 * FRAGMENT_BYTES, window_frames=128)
CONTINUE = Operation.CONTINUE


def data_frame(sequence, body=b"", *, flags=0, operation=Operation.MESSAGE, name=b"", correlation=0):
    return encode_data(sequence, flags, operation, correlation, name, body)


def send(session, body=b"", **options):
    session.outbound.send(Operation.MESSAGE, b"", body, **options)


def feed(session, *frames, now=0.0):
    session.receive_data(b"".join(frames), now)
    return session.next_events()


def frames_in(data):
    return list(FrameReader(FRAME_BYTES_MAX).feed(data))


def sequences_in(data):
    return [int.from_bytes(body[:8], "big") for kind, body in frames_in(data) if kind == Kind.DATA]


def refused(session, *frames):
    """The code and reason with which a session ends on these frames, which must come last."""
    ended = feed(session, *frames)[-1]
    assert isinstance(ended, Ended)
    assert not ended.by_peer
    assert session.state is State.CLOSED
    assert frames_in(session.data_to_send(0.0))[-1][0] == Kind.BYE
    return ended.code, ended.reason


# One frame.


@pytest.mark.parametrize("operation", [op for op in Operation if op is not CONTINUE])
@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("is_bulk", [True, False])
def test_every_kind_of_message_arrives_as_it_was_sent(make_session, operation, is_packed, is_bulk):
    sender, receiver = make_session(), make_session()
    sender.outbound.send(
        operation, "é".encode(), b"body", correlation=2**64 - 1, is_packed=is_packed, is_bulk=is_bulk
    )
    sent = sender.data_to_send(0.0)
    assert sequences_in(sent) == [1]
    (message,) = feed(receiver, sent)
    assert message == MessageReceived(1, operation, 2**64 - 1, "é", b"body", is_packed, message.size_bytes)
    assert message.operation is operation


ALL_KINDS = (
    data_frame(1, b"one", name=b"n")
    + data_frame(2, b"a" * 40, flags=FLAG_MORE | FLAG_BULK)
    + encode_frame(Kind.ACK, bytes(8))
    + data_frame(3, b"", operation=Operation.REQUEST, correlation=9)
    + encode_ping(Kind.PING, 1, 2, 0)
    + encode_ping(Kind.PONG, 1, 2, 0)
    + data_frame(3, b"twice")
    + encode_body(Kind.NOTICE, Notice(206, "fewer"))
    + data_frame(4, b"b" * 40, flags=FLAG_BULK, operation=CONTINUE)
    + encode_eof(5)
)


@pytest.mark.parametrize("size", [2, 3, 24, 25, 26, 10_000])
def test_frames_arrive_the_same_in_pieces_of_any_size(make_session, size):
    whole, pieces = make_session(), make_session()
    expected, events = feed(whole, ALL_KINDS), []
    for start in range(0, len(ALL_KINDS), size):
        events += feed(pieces, ALL_KINDS[start : start + size])
    assert events == expected
    assert [type(event).__name__ for event in events] == [
        "MessageReceived",
        "MessageReceived",
        "NoticeReceived",
        "MessageReceived",
        "EofReceived",
    ]
    assert events[2] == NoticeReceived(Code.TOO_MANY_PINGS, "fewer")
    assert (pieces.inbound.received, pieces.inbound.duplicates_dropped) == (5, 1)
    assert pieces.data_to_send(0.0) == whole.data_to_send(0.0)


def test_frames_arrive_the_same_byte_by_byte_and_trailing_bytes_wait(make_session):
    whole, bytewise = make_session(), make_session()
    trailing = data_frame(6)[:7]
    expected = feed(whole, ALL_KINDS + trailing)
    assert [
        event for i in range(len(ALL_KINDS)) for event in feed(bytewise, ALL_KINDS[i : i + 1])
    ] == expected
    assert whole.state is State.ATTACHED


@pytest.mark.parametrize(
    ("frame", "code", "reason"),
    [
        (b"\0\0\0\0", Code.PROTOCOL_ERROR, "an empty frame"),
        (b"\0\0\0\0\x10" + bytes(20), Code.PROTOCOL_ERROR, "an empty frame"),
        (b"\xff\xff\xff\xff", Code.LIMIT_EXCEEDED, "a frame of 4294967295 bytes"),
        ((FRAME_BYTES_MAX + 1).to_bytes(4, "big"), Code.LIMIT_EXCEEDED, f"{FRAME_BYTES_MAX} are allowed"),
        (
            (FRAME_BYTES_MAX + 1).to_bytes(4, "big") + data_frame(1)[4:],
            Code.LIMIT_EXCEEDED,
            f"{FRAME_BYTES_MAX} are allowed",
        ),
        (
            b"\0\0\0\x0a\x10" + bytes(9),
            Code.PROTOCOL_ERROR,
            "a DATA frame of 14 bytes is shorter than its header",
        ),
        (
            b"\0\0\0\x0a\x10" + bytes(30),
            Code.PROTOCOL_ERROR,
            "a DATA frame of 14 bytes is shorter than its header",
        ),
        (
            b"\0\0\0\x0a\x10\0\0\0\0\0\0\0\x01" + bytes(30),
            Code.PROTOCOL_ERROR,
            "shorter than its header of 24",
        ),
        (data_frame(1)[:23] + b"\x01", Code.PROTOCOL_ERROR, "too short for its name of 1"),
        (data_frame(1, name=b"\xff"), Code.PROTOCOL_ERROR, "not UTF-8"),
        (data_frame(2), Code.PROTOCOL_ERROR, "frame 2 arrived after frame 0"),
        (encode_eof(2), Code.PROTOCOL_ERROR, "frame 2 arrived after frame 0"),
        (data_frame(1, flags=0x08), Code.PROTOCOL_ERROR, "unknown flags 0x8"),
        (data_frame(1, operation=6), Code.PROTOCOL_ERROR, "operation 6"),
        (encode_frame(Kind.CHALLENGE, b""), Code.PROTOCOL_ERROR, "kind 1,"),
        (b"\0\0\0\1\x18", Code.PROTOCOL_ERROR, "a frame of kind 24,"),
        (b"\0\0\0\1\xff", Code.PROTOCOL_ERROR, "a frame of kind 255,"),
        (encode_frame(Kind.ACK, bytes(7)), Code.PROTOCOL_ERROR, "a sequence number of 7 bytes"),
        (encode_frame(Kind.EOF, bytes(9)), Code.PROTOCOL_ERROR, "a sequence number of 9 bytes"),
        (encode_frame(Kind.PING, bytes(28)), Code.PROTOCOL_ERROR, "checksum"),
        (encode_frame(Kind.PONG, bytes(27)), Code.PROTOCOL_ERROR, "27 bytes"),
        (encode_ack(1), Code.PROTOCOL_ERROR, "the peer acknowledged frame 1, but the last one sent was 0"),
        (
            encode_ping(Kind.PING, 1, 1, 1),
            Code.PROTOCOL_ERROR,
            "the peer acknowledged frame 1, but the last one sent was 0",
        ),
        (
            encode_ping(Kind.PONG, 1, 1, 1),
            Code.PROTOCOL_ERROR,
            "the peer acknowledged frame 1, but the last one sent was 0",
        ),
    ],
)
def test_a_bad_frame_ends_the_session_with_a_bye(make_session, frame, code, reason):
    session = make_session()
    seen_code, seen_reason = refused(session, frame)
    assert seen_code is code
    assert reason in seen_reason


def test_the_good_frames_before_a_bad_one_count(make_session):
    session = make_session()
    good, ended = feed(session, data_frame(1, b"good"), data_frame(3))
    assert (good.body, ended.code) == (b"good", Code.PROTOCOL_ERROR)
    assert session.inbound.received == 1


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("is_alone", [True, False])
def test_only_the_number_of_a_repeated_frame_is_checked(make_session, number, is_alone):
    session = make_session()
    feed(session, data_frame(1, b"1"))
    impossible = data_frame(number, flags=0xFF, operation=99)[:-1] + b"\xff"
    assert feed(session, impossible + (b"" if is_alone else data_frame(2, b"2")))[1:] == []
    assert session.inbound.duplicates_dropped == 1
    assert session.is_attached


def test_a_repeated_frame_without_its_header_is_refused(make_session):
    session = make_session()
    feed(session, data_frame(1, b"1"))
    short = encode_frame(Kind.DATA, (1).to_bytes(8, "big") + bytes(10))
    assert refused(session, short + data_frame(2)) == (
        Code.PROTOCOL_ERROR,
        "a DATA frame of 23 bytes is shorter than its header of 24",
    )


def test_trailing_data_is_available_after_the_end(make_session):
    session = make_session()
    feed(session, data_frame(1)[:9])
    session.close(Code.NORMAL)
    assert session.inbound.pop_trailing_data() == data_frame(1)[:9]
    assert session.inbound.pop_trailing_data() == b""


def test_a_repeated_frame_is_dropped_and_counted(make_session):
    session = make_session()
    events = feed(session, data_frame(1, b"1"), data_frame(2, b"2"), data_frame(1, b"x"), data_frame(2, b"x"))
    assert [event.body for event in events] == [b"1", b"2"]
    assert session.inbound.duplicates_dropped == 2
    assert session.inbound.received == 2


# Limits.


def test_a_message_at_the_limit_is_accepted_and_one_above_is_refused(make_session):
    session = make_session(limits=SMALL)
    assert len(feed(session, data_frame(1, bytes(1000), name=b"n" * 24))) == 1
    assert refused(session, data_frame(2, bytes(1000), name=b"n" * 25))[0] is Code.LIMIT_EXCEEDED


@pytest.mark.parametrize("flags", [0, FLAG_BULK, FLAG_MORE, FLAG_BULK | FLAG_MORE])
@pytest.mark.parametrize("character", ["n", "\N{GREEK SMALL LETTER LAMDA}"])
def test_the_limit_of_a_message_holds_on_both_lanes_and_for_fragments(make_session, flags, character):
    session = make_session(limits=SMALL)
    name = character.encode() * (26 // len(character.encode()))
    (message,) = feed(make_session(limits=SMALL), data_frame(1, bytes(998), name=name))
    assert message.size_bytes == DATA_HEADER_BYTES + 1024
    code, reason = refused(session, data_frame(1, bytes(999), name=name, flags=flags))
    assert (code, "more than 1024 bytes" in reason) == (Code.LIMIT_EXCEEDED, True)


def test_a_message_may_not_grow_above_the_limit_by_fragments(make_session):
    session = make_session(limits=SMALL)
    begun = data_frame(1, bytes(1000), flags=FLAG_MORE)
    assert feed(session, begun, data_frame(2, bytes(24), flags=FLAG_MORE, operation=CONTINUE)) == []
    assert refused(session, data_frame(3, b"x", operation=CONTINUE))[0] is Code.LIMIT_EXCEEDED


def test_a_peer_may_fill_the_window_of_frames_and_no_more(make_session):
    session = make_session(limits=SMALL)
    events = feed(session, *(data_frame(number) for number in range(1, 129)))
    session.inbound.ack(events[0])
    assert len(feed(session, data_frame(129))) == 1
    code, reason = refused(session, data_frame(130))
    assert (code, reason) == (
        Code.LIMIT_EXCEEDED,
        "129 frames are unacknowledged; at most 128 are allowed",
    )


def test_a_peer_may_fill_the_window_of_bytes_and_little_more(make_session):
    limits = Limits(message_bytes=FRAGMENT_BYTES, window_bytes=4 * FRAGMENT_BYTES, window_frames=128)
    session = make_session(limits=limits)
    frames = [data_frame(number, bytes(FRAGMENT_BYTES)) for number in range(1, 7)]
    assert len(feed(session, *frames[:5])) == 5
    assert refused(session, frames[5])[0] is Code.LIMIT_EXCEEDED


def test_fragments_do_not_slip_through_the_window_of_bytes(make_session):
    limits = Limits(message_bytes=64 * 1024, window_bytes=64 * 1024, window_frames=1_000_000)
    session = make_session(limits=limits)
    number = 0
    while session.state is State.ATTACHED:
        begin = data_frame(number + 1, bytes(FRAGMENT_BYTES), flags=FLAG_MORE)
        end = data_frame(number + 2, bytes(FRAGMENT_BYTES), operation=CONTINUE)
        feed(session, begin, end)
        number += 2
    assert number * FRAGMENT_BYTES <= (64 + 2 * 64 + 64) * 1024


def test_a_name_counted_with_its_message_does_not_break_the_window():
    """Fragments are acknowledged before their message: the remaining frames must fit, however they are counted."""
    limits = Limits(message_bytes=2 * FRAGMENT_BYTES, window_bytes=4 * FRAGMENT_BYTES)
    pair = Pair(server_limits=limits, auto_ack=False)
    pair.connect()
    pair.client.send(bytes(FRAGMENT_BYTES + 1), name="n" * 255)
    pair.advance(1.0)
    for size in (12_000, 3000, 900, 200, 50, 1):
        for _ in range(10):
            pair.client.send(bytes(size))
            pair.advance(1.0)
    assert pair.server.session.state is State.ATTACHED
    for _ in range(20):
        pair.server.ack_all()
        pair.advance(1.0)
    assert len(pair.server.bodies) == 61
    assert pair.client.session.outbound.is_drained


@pytest.mark.parametrize("body", [FRAGMENT_BYTES, FRAGMENT_BYTES + 1, 100])
def test_an_honest_sender_never_breaks_the_window_and_is_never_stuck(body):
    limits = Limits(message_bytes=2 * FRAGMENT_BYTES, window_bytes=4 * FRAGMENT_BYTES, window_frames=128)
    pair = Pair(server_limits=limits, auto_ack=False)
    pair.connect()
    for number in range(200):
        pair.client.send(bytes(body), bulk=number % 3 == 0)
    for _ in range(200):
        pair.advance(0.2)
        assert pair.server.session.state is State.ATTACHED
        pair.server.ack_all()
    assert len(pair.server.bodies) == 200
    assert pair.client.session.outbound.is_drained


# Fragments.


def test_a_large_message_arrives_whole():
    pair = Pair(seed=3)
    pair.connect()
    body = pair.random.randbytes(10 * FRAGMENT_BYTES + 1)
    pair.client.send(body, name="näme")
    pair.advance(1.0)
    (message,) = pair.server.events
    assert (message.body, message.name, message.sequence) == (body, "näme", 11)
    assert pair.client.session.outbound.is_drained


def test_one_message_per_lane_may_be_incomplete(make_session):
    session = make_session()
    events = feed(
        session,
        data_frame(1, b"b1", flags=FLAG_MORE | FLAG_BULK, operation=Operation.REQUEST, name=b"bulk"),
        data_frame(2, b"n1", flags=FLAG_MORE | FLAG_PACKED, name=b"normal", correlation=7),
        data_frame(3, b"b2", flags=FLAG_MORE | FLAG_BULK, operation=CONTINUE),
        data_frame(4, b"n2", operation=CONTINUE),
        data_frame(5, b"whole"),
        data_frame(6, b"b3", flags=FLAG_BULK, operation=CONTINUE),
    )
    assert [(e.sequence, e.name, e.correlation, e.body, e.is_packed) for e in events] == [
        (4, "normal", 7, b"n1n2", True),
        (5, "", 0, b"whole", False),
        (6, "bulk", 0, b"b1b2b3", False),
    ]
    assert events[2].operation is Operation.REQUEST


@pytest.mark.parametrize("lane", [0, FLAG_BULK])
def test_fragments_survive_their_transport(make_session, lane):
    session = make_session()
    feed(session, data_frame(1, b"1", flags=lane | FLAG_MORE))
    session.receive_link_lost()
    session.attach(1.0, epoch=2, peer_received=0, phase=0.0)
    assert session.ticket.received == 1
    (message,) = feed(session, data_frame(2, b"2", flags=lane, operation=CONTINUE))
    assert message.body == b"12"


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([data_frame(1, b"x", operation=CONTINUE)], "without a first fragment"),
        (
            [data_frame(1, b"x", flags=FLAG_MORE | FLAG_BULK), data_frame(2, b"x", operation=CONTINUE)],
            "without a first fragment",
        ),
        ([data_frame(1, b"x", flags=FLAG_MORE), data_frame(2, b"x", flags=FLAG_MORE)], "started before"),
        ([data_frame(1, b"x", flags=FLAG_MORE), data_frame(2, b"x")], "started before"),
        (
            [
                data_frame(1, b"x", flags=FLAG_MORE | FLAG_BULK),
                data_frame(2, b"x", flags=FLAG_MORE),
                data_frame(3, b"x", flags=FLAG_BULK, operation=CONTINUE),
                data_frame(4, b"x"),
            ],
            "started before",
        ),
        (
            [data_frame(1, b"x", flags=FLAG_MORE | FLAG_BULK), data_frame(2, b"x", flags=FLAG_BULK)],
            "started before",
        ),
        ([data_frame(1, flags=FLAG_MORE)], "an empty fragment"),
        ([data_frame(1, b"x", flags=FLAG_MORE), data_frame(2, operation=CONTINUE)], "an empty fragment"),
    ],
)
def test_fragments_out_of_place_break_the_protocol(make_session, frames, reason):
    code, seen = refused(make_session(), *frames)
    assert (code, reason in seen) == (Code.PROTOCOL_ERROR, True)


def test_fragments_are_acknowledged_as_they_come(make_session):
    limits = Limits(window_bytes=4 * FRAGMENT_BYTES)
    session = make_session(limits=limits)
    feed(session, data_frame(1, bytes(FRAGMENT_BYTES // 2 + 1), flags=FLAG_MORE))
    assert session.data_to_send(0.0) == encode_ack(1)


# EOF.


@pytest.mark.parametrize(
    ("after_eof", "reason"),
    [
        (data_frame(2), "a DATA frame after EOF"),
        (data_frame(2, b"x", flags=FLAG_BULK), "a DATA frame after EOF"),
        (data_frame(2, b"x", operation=Operation.CONTINUE), "a DATA frame after EOF"),
        (encode_eof(2), "a second EOF"),
        (encode_eof(3), "frame 3 arrived after frame 1"),
    ],
)
def test_frames_after_eof_break_the_protocol(make_session, after_eof, reason):
    session = make_session()
    session.receive_data(encode_eof(1) + after_eof, 0.0)
    assert session.next_events() == [EofReceived(), Ended(Code.PROTOCOL_ERROR, reason, False)]


def test_eof_repeated_by_a_resume_is_dropped(make_session):
    session = make_session()
    session.receive_data(encode_eof(1) + encode_eof(1), 0.0)
    assert session.next_events() == [EofReceived()]
    assert session.inbound.duplicates_dropped == 1


@pytest.mark.parametrize("flags", [FLAG_MORE, FLAG_MORE | FLAG_BULK])
def test_eof_in_the_middle_of_a_message_breaks_the_protocol(make_session, flags):
    session = make_session()
    session.receive_data(data_frame(1, b"begun", flags=flags) + encode_eof(2), 0.0)
    assert session.next_events() == [Ended(Code.PROTOCOL_ERROR, "EOF in the middle of a message", False)]


# Acknowledgements.


def taking(session, count, body=b"", first=1, now=0.0):
    for message in feed(session, *(data_frame(first + i, body) for i in range(count)), now=now):
        session.inbound.ack(message)


def test_an_acknowledgement_waits_for_more_messages(make_session):
    session = make_session()
    taking(session, 1)
    assert session.data_to_send(0.0) == b""
    assert session.next_timeout() == ACK_DELAY_S
    taking(session, 1, first=2)
    assert session.data_to_send(ACK_DELAY_S / 2) == b""
    assert session.next_timeout() == ACK_DELAY_S
    session.handle_timeout(ACK_DELAY_S)
    assert session.data_to_send(ACK_DELAY_S) == encode_ack(2)
    assert session.data_to_send(10.0) == b""
    assert session.next_timeout() > 1


def test_an_acknowledgement_is_written_when_a_transport_resumes(make_session):
    session = make_session()
    (message,) = feed(session, data_frame(1))
    session.pause_writing()
    session.inbound.ack(message)
    assert session.data_to_send(0.0) == b""
    session.resume_writing()
    assert frames_in(session.data_to_send(0.0)) == [(Kind.ACK, (1).to_bytes(8, "big"))]


def test_an_acknowledgement_does_not_wait_for_many_frames(make_session):
    session = make_session()
    taking(session, ACK_FRAMES - 1)
    assert session.data_to_send(0.0) == b""
    taking(session, 1, first=ACK_FRAMES)
    assert session.data_to_send(0.0) == encode_ack(ACK_FRAMES)


def test_an_acknowledgement_does_not_wait_for_much_of_the_window(make_session):
    session = make_session()
    count = session.inbound.limits.window_bytes // ACK_WINDOW_SHARE // FRAGMENT_BYTES
    assert count < ACK_FRAMES * 2
    half = bytes(FRAGMENT_BYTES)
    session = make_session(limits=Limits(window_bytes=16 * FRAGMENT_BYTES))
    taking(session, 1, half)
    assert session.data_to_send(0.0) == b""
    taking(session, 1, half, first=2)
    assert session.data_to_send(0.0) == encode_ack(2)


def test_only_messages_that_the_application_has_are_acknowledged(make_session):
    session = make_session()
    first, second, third = feed(session, data_frame(1), data_frame(2), data_frame(3))
    assert session.data_to_send(1.0) == b""
    session.inbound.ack(third)
    assert session.data_to_send(2.0) == b""
    session.inbound.ack(first)
    session.data_to_send(3.0)
    assert session.data_to_send(4.0) == encode_ack(1)
    session.inbound.ack(second)
    session.data_to_send(5.0)
    assert session.data_to_send(6.0) == encode_ack(3)


def test_messages_acknowledged_out_of_order_leave_no_gap(make_session):
    session = make_session()
    messages = feed(session, *(data_frame(number) for number in range(1, 6)))
    for index, told in ((4, 0), (1, 0), (3, 0), (0, 2), (2, 5)):
        session.inbound.ack(messages[index])
        session.send_ping(0.0)
        assert decode_ping(frames_in(session.data_to_send(0.0))[0][1])[2] == told


def test_pings_and_pongs_acknowledge_too(make_session):
    session = make_session()
    taking(session, 1)
    feed(session, encode_ping(Kind.PING, 5, 77, 0))
    assert session.data_to_send(0.0) == encode_ping(Kind.PONG, 5, 77, 1)
    taking(session, 1, first=2)
    assert session.send_ping(3.0) == 1
    assert session.data_to_send(3.0) == encode_ping(Kind.PING, 1, 3_000_000, 2)
    session.handle_timeout(3.2)
    assert session.data_to_send(3.2) == b""


@pytest.mark.parametrize("kind", [Kind.PING, Kind.PONG])
def test_an_acknowledgement_in_a_heartbeat_counts(make_session, kind):
    session = make_session()
    send(session)
    session.data_to_send(0.0)
    assert not session.outbound.is_drained
    feed(session, encode_ping(kind, 1, 1, 1))
    assert session.outbound.is_drained
