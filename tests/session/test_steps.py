"""A session parses at most the requested number of frames, and the others, in order, in later steps."""

import pytest

from landline.codes import Code, Operation
from landline.session.bodies import Bye, encode_body
from landline.session.constants import FRAGMENT_BYTES, READ_BYTES_MAX, Kind
from landline.session.events import Ended, EofReceived, MessageReceived, PeerSilent
from landline.session.frames import encode_data, encode_eof, encode_ping
from landline.session.settings import Heartbeat
from landline.session.state import State


def numbered(count, size=0):
    return [
        encode_data(i, 0, Operation.MESSAGE, 0, b"", b"%d" % i + bytes(size)) for i in range(1, count + 1)
    ]


def bodies(session):
    return [int(event.body.rstrip(b"\0")) for event in session.next_events()]


def test_a_step_parses_at_most_frames_max_frames(make_session):
    session = make_session()
    session.receive_data(b"".join(numbered(10)), 0.0, frames_max=4)
    assert bodies(session) == [1, 2, 3, 4]
    assert session.inbound.has_unread
    session.receive_data(b"", 0.0, frames_max=4)
    assert bodies(session) == [5, 6, 7, 8]
    session.receive_data(b"", 0.0, frames_max=4)
    assert bodies(session) == [9, 10]
    assert not session.inbound.has_unread
    assert session.inbound.received == 10


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_bytes_that_arrive_between_two_steps_are_parsed_later(make_session, cut):
    session = make_session()
    stream = b"".join(numbered(12))
    session.receive_data(stream[:-cut], 0.0, frames_max=3)
    session.receive_data(stream[-cut:], 0.0, frames_max=3)
    found = bodies(session)
    assert found == [1, 2, 3, 4, 5, 6]
    while session.inbound.has_unread:
        session.receive_data(b"", 0.0, frames_max=3)
        found += bodies(session)
    assert found == list(range(1, 13))


def test_unread_bytes_count_as_memory(make_session):
    session = make_session()
    stream = b"".join(numbered(10, size=1000))
    session.receive_data(stream, 0.0, frames_max=1)
    [message] = session.next_events()
    session.inbound.ack(message)
    assert session.inbound.unread_bytes == len(stream) - message.size_bytes
    # As long as one of them waits, all that came with it is kept.
    assert session.held_bytes >= len(stream)
    session.receive_data(b"", 0.0)
    for message in session.next_events():
        session.inbound.ack(message)
    assert session.held_bytes == 0


def test_a_step_of_large_frames_ends_at_its_byte_limit(make_session):
    session = make_session()
    frame_bytes = len(numbered(1, FRAGMENT_BYTES - 10)[0])
    count = 3 * READ_BYTES_MAX // frame_bytes
    session.receive_data(b"".join(numbered(count, FRAGMENT_BYTES - 10)), 0.0, frames_max=1000)
    steps = [bodies(session)]
    while session.inbound.has_unread:
        session.receive_data(b"", 0.0, frames_max=1000)
        steps.append(bodies(session))
    assert [number for step in steps for number in step] == list(range(1, count + 1))
    assert max(map(len, steps)) * frame_bytes <= READ_BYTES_MAX
    assert 3 <= len(steps) <= 4


def test_an_incomplete_frame_does_not_count_as_unread(make_session):
    session = make_session()
    stream = b"".join(numbered(3))
    session.receive_data(stream[:-1], 0.0, frames_max=3)
    assert bodies(session) == [1, 2]
    assert not session.inbound.has_unread
    session.receive_data(stream[-1:], 0.0, frames_max=3)
    assert bodies(session) == [3]


def test_a_peer_with_unread_bytes_is_not_silent(make_session):
    session = make_session(heartbeat=Heartbeat(interval_s=1.0, timeout_s=1.0))
    session.receive_data(b"".join(numbered(3)), 0.0, frames_max=1)
    session.next_events()
    for now in (1.0, 3.0, 30.0):
        session.handle_timeout(now)
        assert session.state is State.ATTACHED
    session.receive_data(b"", 30.0)
    session.next_events()
    now = 30.0
    while session.state is not State.DETACHED:
        assert now < 33.0
        now += 0.01
        session.handle_timeout(now)
    [*_, silent] = session.next_events()
    assert isinstance(silent, PeerSilent)


def test_a_bye_is_handled_in_order_and_drops_later_bytes(make_session):
    session = make_session()
    one, two = numbered(2)
    bye = encode_body(Kind.BYE, Bye(int(Code.NORMAL), "done"))
    session.receive_data(one + encode_ping(Kind.PING, 1, 0, 0) + two + bye + one, 0.0, frames_max=2)
    assert bodies(session) == [1]
    session.receive_data(b"", 0.0, frames_max=2)
    message, ended = session.next_events()
    assert isinstance(message, MessageReceived)
    assert isinstance(ended, Ended)
    assert not session.inbound.has_unread
    session.receive_data(b"", 0.0, frames_max=2)
    assert not session.next_events()


def test_eof_is_reported_after_unread_messages(make_session):
    session = make_session()
    session.receive_data(b"".join(numbered(2)) + encode_eof(3), 0.0, frames_max=2)
    assert bodies(session) == [1, 2]
    session.receive_data(b"", 0.0, frames_max=2)
    assert session.next_events() == [EofReceived()]


@pytest.mark.parametrize("how", ["lost", "breach", "newer"])
def test_unread_bytes_are_dropped_with_their_transport(make_session, how):
    session = make_session()
    stream = numbered(3)
    if how == "breach":
        stream[1] = b"\0\0\0\0"
    session.receive_data(b"".join(stream), 0.0, frames_max=1)
    if how == "lost":
        session.receive_link_lost()
    elif how == "newer":
        session.attach(0.0, epoch=2, peer_received=0, phase=0.0)
    else:
        session.receive_data(b"", 0.0, frames_max=1)
        assert session.state is State.CLOSED
    assert not session.inbound.has_unread
    session.next_events()
    if how != "breach":
        # It was not received, so the peer sends it again.
        assert session.inbound.received == 1
        if how == "lost":
            session.attach(0.0, epoch=2, peer_received=0, phase=0.0)
        session.receive_data(b"".join(stream[1:]), 0.0)
        assert bodies(session) == [2, 3]
