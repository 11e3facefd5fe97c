"""Transports, the order of writing, and the end of a session. Data and time are tested in other files."""

import pytest

from landline.codes import Code, Operation
from landline.errors import (
    ConnectFailed,
    LineClosed,
    ProtocolError,
    Unconfirmed,
)
from landline.session.bodies import Bye, ResumeTicket, decode_body, encode_body
from landline.session.constants import FRAGMENT_BYTES, FRAME_BYTES_MAX, REASON_CHARACTERS_MAX, Kind
from landline.session.events import Ended
from landline.session.frames import FrameReader, encode_ack, encode_data, encode_frame, encode_ping
from landline.session.settings import Limits
from landline.session.state import State
from landline.testing import Link, Pair

SMALL = Limits(message_bytes=1024, window_bytes=4 * FRAGMENT_BYTES, window_frames=128)


def data_frame(sequence, body=b"", *, flags=0, operation=Operation.MESSAGE, name=b""):
    return encode_data(sequence, flags, operation, 0, name, body)


def send(session, body=b"", **options):
    session.outbound.send(Operation.MESSAGE, b"", body, **options)


def bye_in(frame):
    assert frame[4] == Kind.BYE
    return decode_body(frame[5:], Bye)


def connected(**options):
    pair = Pair(**options)
    assert pair.connect() is False
    return pair


# Transports.


def test_a_session_starts_without_a_transport(make_session):
    session = make_session(attached=False)
    assert (session.state, session.is_attached, session.epoch) == (State.DETACHED, False, 0)
    assert session.next_timeout() is None
    session.handle_timeout(1e9)
    session.receive_link_lost()
    session.resume_writing()
    send(session, b"waits")
    assert session.data_to_send(0.0) == b""
    assert session.next_events() == []


def test_messages_wait_for_a_transport():
    pair = connected()
    pair.cut()
    for body in (b"1", b"2", b"3"):
        pair.client.send(body)
    assert pair.client.session.outbound.buffered_messages == 3
    assert pair.connect() is True
    pair.deliver()
    assert pair.server.bodies == [b"1", b"2", b"3"]


def test_only_unreceived_frames_are_written_again():
    pair = connected(auto_ack=False)
    pair.client.send(b"1")
    pair.deliver()
    pair.client.send(b"2")
    assert pair.client.session.data_to_send(pair.clock()) == data_frame(2, b"2")
    pair.cut()
    assert pair.connect() is True
    assert pair.client.session.data_to_send(pair.clock()) == data_frame(2, b"2")


def test_bytes_without_a_transport_are_ignored(make_session):
    session = make_session()
    session.receive_link_lost()
    session.receive_data(data_frame(1), 1.0)
    assert (session.next_events(), session.inbound.received) == ([], 0)


def test_an_incomplete_frame_is_dropped_with_its_transport(make_session):
    session = make_session()
    session.receive_data(data_frame(1, b"abc")[:20], 0.0)
    session.receive_link_lost()
    session.attach(1.0, epoch=2, peer_received=0, phase=0.0)
    session.receive_data(data_frame(1, b"abc"), 1.0)
    assert [event.body for event in session.next_events()] == [b"abc"]


def test_control_frames_are_dropped_with_their_transport(make_session):
    session = make_session()
    session.receive_data(encode_ping(Kind.PING, 1, 2, 0), 0.0)
    session.receive_link_lost()
    assert session.data_to_send(0.0) == b""


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_an_epoch_that_is_not_newer_is_refused_without_a_change(make_session, epoch):
    session = make_session()
    session.attach(1.0, epoch=2, peer_received=0, phase=0.0)
    with pytest.raises(ProtocolError, match=f"epoch {epoch} after epoch 2"):
        session.attach(2.0, epoch=epoch, peer_received=0, phase=0.0)
    assert (session.epoch, session.state) == (2, State.ATTACHED)


def test_an_impossible_received_number_is_refused_without_a_change(make_session):
    session = make_session()
    send(session, b"sent")
    session.data_to_send(0.0)
    send(session, b"numbered, and not yet written")
    session.receive_link_lost()
    for received in (2, 3):
        with pytest.raises(ProtocolError, match="0 to 1 are possible"):
            session.check_resumable(received)
        with pytest.raises(ProtocolError, match="0 to 1 are possible"):
            session.attach(1.0, epoch=2, peer_received=received, phase=0.0)
    assert (session.epoch, session.state) == (1, State.DETACHED)
    session.check_resumable(1)


def test_a_newer_transport_replaces_the_current_one(make_session):
    session = make_session()
    send(session, b"1")
    session.data_to_send(0.0)
    session.attach(1.0, epoch=2, peer_received=0, phase=0.0, round_trip_s=0.5)
    assert session.data_to_send(1.0) == data_frame(1, b"1")
    assert session.round_trip_s == 0.5


def test_an_acknowledgement_lost_with_its_transport_is_repeated():
    pair = connected()
    pair.server.send(b"x")
    pair.transfer(pair.server)
    pair.client.session.send_ping(pair.clock())
    assert pair.client.session.data_to_send(pair.clock())  # lost
    pair.cut()
    pair.connect()
    pair.advance(0.2)
    assert pair.server.session.outbound.is_drained


def test_link_replaced_detaches_and_keeps_the_session(make_session):
    session = make_session()
    bye = encode_body(Kind.BYE, Bye(int(Code.LINK_REPLACED)))
    session.receive_data(bye + data_frame(1), 0.0)
    assert (session.state, session.inbound.received, session.next_events()) == (State.DETACHED, 0, [])
    session.attach(1.0, epoch=2, peer_received=0, phase=0.0)
    session.receive_data(data_frame(1, b"here"), 1.0)
    assert [event.body for event in session.next_events()] == [b"here"]


def test_the_ticket_contains_the_last_received_number(make_session):
    session = make_session(session_id=b"i" * 16, secret=b"k" * 32)
    session.receive_data(data_frame(1), 0.0)
    assert session.ticket == ResumeTicket(b"i" * 16, b"k" * 32, 1, 1)


def test_unconfirmed_messages_of_a_lost_session_are_reported():
    pair = connected()
    pair.client.send(b"lost")
    pair.lose_server_session()
    pair.cut()
    assert pair.connect() is False
    assert pair.client.lost == [Unconfirmed(Operation.MESSAGE, "", b"lost", False)]
    pair.client.send(b"new")
    pair.deliver()
    assert pair.server.bodies == [b"new"]


def test_closing_keeps_the_report(make_session):
    session = make_session()
    send(session, b"1")
    session.close(Code.NORMAL)
    assert [entry.body for entry in session.outbound.unconfirmed()] == [b"1"]


# What is written first.


def test_control_frames_go_before_data(make_session):
    session = make_session()
    for _ in range(3):
        send(session, bytes(FRAGMENT_BYTES))
    send(session, bytes(FRAGMENT_BYTES), is_bulk=True)
    session.receive_data(encode_ping(Kind.PING, 1, 1, 0), 0.0)
    kinds = [kind for kind, _ in FrameReader(FRAME_BYTES_MAX).feed(session.data_to_send(0.0))]
    assert kinds == [Kind.PONG, Kind.DATA, Kind.DATA, Kind.DATA, Kind.DATA]


# The end.


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.LINK_REPLACED])
def test_a_bye_arrives_with_all_its_fields(code):
    pair = connected()
    pair.server.session.close(code, "because", retry_after_s=3.0, spread_s=2.0, alternatives=("tcp://b",))
    pair.deliver()
    assert pair.client.events == [Ended(code, "because", True, 3.0, 2.0, ("tcp://b",))]
    assert pair.client.session.state is pair.server.session.state is State.CLOSED
    assert pair.server.events == []


def test_a_bye_of_a_later_version_stands_for_its_range(make_session):
    session = make_session()
    session.receive_data(encode_body(Kind.BYE, Bye(150)), 0.0)
    assert session.next_events() == [Ended(Code.GOING_AWAY, "", True)]


def test_close_is_idempotent(make_session):
    session = make_session()
    session.close(Code.NORMAL, "r" * 1000)
    session.close(Code.OVERLOADED)
    assert bye_in(session.data_to_send(0.0)) == Bye(200, "r" * REASON_CHARACTERS_MAX)
    assert session.data_to_send(0.0) == b""


def test_close_acknowledges_before_the_bye(make_session):
    session = make_session()
    session.receive_data(data_frame(1), 0.0)
    session.inbound.ack(session.next_events()[0])
    session.close(Code.NORMAL)
    data = session.data_to_send(0.0)
    assert data[:13] == encode_ack(1)
    assert bye_in(data[13:]) == Bye(200)


def test_a_message_acknowledged_before_a_bye_is_not_unconfirmed():
    pair = connected()
    pair.client.send(b"acked")
    pair.transfer(pair.client)
    pair.server.session.close(Code.GOING_AWAY)
    pair.deliver()
    assert pair.client.session.outbound.unconfirmed() == ()


def test_close_without_a_transport_writes_nothing(make_session):
    session = make_session(attached=False)
    session.close(Code.NORMAL)
    assert (session.state, session.data_to_send(0.0)) == (State.CLOSED, b"")


def test_abort_writes_nothing_and_is_idempotent(make_session):
    session = make_session()
    session.abort()
    session.abort()
    assert (session.state, session.data_to_send(0.0)) == (State.CLOSED, b"")


def test_a_bye_does_not_wait_for_data_or_a_paused_transport(make_session):
    session = make_session()
    send(session, b"waits")
    session.pause_writing()
    session.close(Code.NORMAL)
    assert bye_in(session.data_to_send(0.0)) == Bye(200)


def test_a_closed_session_does_nothing(make_session):
    session = make_session()
    session.close(Code.NORMAL)
    session.data_to_send(0.0)
    session.receive_data(data_frame(1), 0.0)
    session.receive_link_lost()
    session.handle_timeout(1e9)
    session.resume_writing()
    assert (session.next_events(), session.next_timeout(), session.data_to_send(0.0)) == ([], None, b"")
    for refused in (lambda: send(session), session.outbound.send_eof):
        with pytest.raises(LineClosed, match="the line is closed"):
            refused()


def test_frames_after_a_bye_are_ignored(make_session):
    session = make_session()
    bye = encode_body(Kind.BYE, Bye(200))
    session.receive_data(data_frame(1, b"before") + bye + data_frame(2) + b"\xff" * 9, 0.0)
    before, ended = session.next_events()
    assert (before.body, ended) == (b"before", Ended(Code.NORMAL, "", True))


@pytest.mark.parametrize("body", [b"", b"\x80", b"\x81" + b"\xa1k" + b"\x91" * 5000])
@pytest.mark.parametrize("kind", [Kind.BYE, Kind.NOTICE])
def test_a_bad_bye_or_notice_breaks_the_protocol(make_session, kind, body):
    session = make_session()
    session.receive_data(encode_frame(kind, body), 0.0)
    (ended,) = session.next_events()
    assert (ended.code, ended.by_peer) == (Code.PROTOCOL_ERROR, False)


def test_a_breach_of_the_protocol_is_reported_to_both_sides():
    pair = connected()
    pair.server.session.receive_data(data_frame(5), pair.clock())
    pair.server.collect()
    pair.deliver()
    assert pair.server.events == [Ended(Code.PROTOCOL_ERROR, "frame 5 arrived after frame 0", False)]
    assert pair.client.events == [Ended(Code.PROTOCOL_ERROR, "frame 5 arrived after frame 0", True)]


def test_a_lost_welcome_does_not_end_the_session():
    pair = connected()
    pair.client.send(b"1")
    pair.deliver()
    pair.cut()
    pair.client.send(b"2")
    with pytest.raises(ConnectFailed, match="before WELCOME"):
        pair.connect(Link(pair.random, cut_after_bytes=500))
    assert pair.server.session.epoch == 2
    assert pair.connect() is True
    pair.deliver()
    assert pair.server.bodies == [b"1", b"2"]
    assert pair.epoch == 3
