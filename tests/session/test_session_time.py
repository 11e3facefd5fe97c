"""Heartbeats and the paused transport: what a session does as time goes by."""

import pytest

from landline.codes import Code, Operation
from landline.errors import LineClosed
from landline.session.constants import (
    FRAGMENT_BYTES,
    PAUSED_CONTROL_FRAMES_MAX,
    PINGS_PER_INTERVAL_MAX,
    PINGS_PER_INTERVAL_WARN,
    READ_FIRST_S,
    Kind,
)
from landline.session.events import Ended, NoticeReceived, PeerSilent, PongReceived, Recovered, Suspected
from landline.session.frames import FrameReader, encode_ack, encode_data, encode_ping
from landline.session.settings import Heartbeat, Limits
from landline.session.state import State
from landline.testing import Pair

HEARTBEAT = Heartbeat(interval_s=10, timeout_s=5)


def connected(**options):
    pair = Pair(heartbeat=HEARTBEAT, **options)
    pair.connect()
    return pair


def data_frame(sequence, body=b""):
    return encode_data(sequence, 0, Operation.MESSAGE, 0, b"", body)


def kinds_in(data):
    return [Kind(kind) for kind, _ in FrameReader(20_000).feed(data)]


def of_type(side, *types):
    return [event for event in side.events if isinstance(event, types)]


# A healthy line.


def test_an_idle_line_stays_up_with_one_ping_per_interval():
    pair = connected()
    pair.advance(1000.0)
    assert pair.client.session.state is pair.server.session.state is State.ATTACHED
    assert 99 <= len(of_type(pair.server, PongReceived)) <= 101
    assert pair.client.events == []


@pytest.mark.parametrize("seed", range(5))
def test_the_first_ping_is_in_the_second_half_of_the_first_interval(seed):
    pair = connected(seed=seed)
    pair.advance(4.99)
    assert pair.server.events == []
    pair.advance(5.02)
    assert len(of_type(pair.server, PongReceived)) == 1


@pytest.mark.parametrize("talker", ["client", "server"])
def test_a_side_that_sends_nothing_receives_pings(talker):
    pair = connected(auto_ack=False)
    for _ in range(60):
        getattr(pair, talker).send(b"flood")
        pair.advance(1.0)
    assert 5 <= len(of_type(pair.server, PongReceived)) <= 7
    assert of_type(pair.client, Suspected, PeerSilent) == []
    assert of_type(pair.server, Suspected, PeerSilent) == []


def test_the_client_pings_when_the_server_does_not(make_session):
    session = make_session(is_server=False, heartbeat=HEARTBEAT)
    assert session.next_timeout() == pytest.approx(11.0)
    session.handle_timeout(10.9)
    assert session.data_to_send(10.9) == b""
    session.handle_timeout(11.0)
    assert kinds_in(session.data_to_send(11.0)) == [Kind.PING]


def test_traffic_in_both_directions_replaces_the_clients_ping(make_session):
    session = make_session(is_server=False, heartbeat=HEARTBEAT)
    session.outbound.send(Operation.MESSAGE, b"", b"x")
    session.data_to_send(8.0)
    session.receive_data(encode_ack(1), 9.0)
    assert session.next_timeout() == pytest.approx(8.0 + 11.0)


def test_a_control_frame_counts_as_sent_data(make_session):
    session = make_session(is_server=False, heartbeat=HEARTBEAT)
    session.receive_data(encode_ping(Kind.PING, 1, 1, 0), 9.0)
    session.data_to_send(9.0)
    assert session.next_timeout() == pytest.approx(9.0 + 11.0)


def test_a_ping_on_demand_is_answered_at_once():
    pair = connected()
    number = pair.client.session.send_ping(pair.clock())
    pair.transfer(pair.client)
    pair.clock.advance(0.25)
    pair.transfer(pair.server)
    assert pair.client.events == [PongReceived(number, 0.25)]
    assert pair.client.session.round_trip_s == 0.25


def test_the_round_trip_is_measured_by_the_sender_of_the_ping(make_session):
    session = make_session()
    number = session.send_ping(1.0)
    lie = encode_ping(Kind.PONG, number, 0, 0)
    session.receive_data(lie, 1.5)
    assert session.next_events() == [PongReceived(number, 0.5)]
    assert session.round_trip_s == 0.5
    session.receive_data(lie, 9.0)
    assert session.next_events() == []
    assert session.round_trip_s == 0.5


# Silence.


@pytest.mark.parametrize("is_server", [True, False])
@pytest.mark.parametrize("last_heard_s", [0.0, 3.0, 7.0, 9.99])
def test_a_dead_peer_is_suspected_and_then_declared_dead_in_time(make_session, is_server, last_heard_s):
    session = make_session(is_server=is_server, heartbeat=HEARTBEAT)
    session.receive_data(data_frame(1), last_heard_s)
    session.next_events()
    told, pings, suspect_at = [], 0, 1e9
    while session.is_attached:
        now = session.next_timeout()
        session.handle_timeout(now)
        pings += kinds_in(session.data_to_send(now)).count(Kind.PING)
        told += session.next_events()
        if session.state is State.SUSPECT:
            suspect_at = min(suspect_at, now)
    assert told == [Suspected(pytest.approx(12.0)), PeerSilent(pytest.approx(15.0 + READ_FIRST_S))]
    assert suspect_at == pytest.approx(last_heard_s + 12.0)
    assert now == pytest.approx(last_heard_s + 15.0 + READ_FIRST_S)
    assert pings >= 1
    assert session.state is State.DETACHED
    assert session.next_timeout() is None
    assert session.data_to_send(now) == b""


def test_both_sides_of_a_silent_link_give_it_up_and_resume_later():
    pair = connected()
    pair.advance(33.0)
    pair.link.silence()
    pair.client.send(b"unheard")
    pair.advance(15.1)
    assert pair.client.session.state is pair.server.session.state is State.DETACHED
    assert len(of_type(pair.client, PeerSilent)) == len(of_type(pair.server, PeerSilent)) == 1
    assert pair.connect() is True
    pair.advance(1.0)
    assert pair.server.bodies == [b"unheard"]


def test_a_suspected_peer_that_sends_recovers(make_session):
    session = make_session(heartbeat=HEARTBEAT)
    session.handle_timeout(12.0)
    assert session.state is State.SUSPECT
    assert session.is_attached
    session.receive_data(data_frame(1)[:1], 12.5)
    assert session.next_events() == [Suspected(12.0), Recovered()]
    assert session.state is State.ATTACHED
    assert session.next_timeout() <= 12.5 + 12.0
    session.handle_timeout(24.4)
    assert session.state is State.ATTACHED
    session.handle_timeout(24.5)
    assert session.state is State.SUSPECT


@pytest.mark.parametrize("how", ["link lost", "attach", "end"])
def test_a_suspected_session_can_leave_its_transport(make_session, how):
    session = make_session(heartbeat=HEARTBEAT)
    session.handle_timeout(12.0)
    if how == "link lost":
        session.receive_link_lost()
        assert session.state is State.DETACHED
    elif how == "attach":
        session.attach(13.0, epoch=2, peer_received=0, phase=0.0)
        assert session.state is State.ATTACHED
        session.handle_timeout(24.9)
        assert session.state is State.ATTACHED
    else:
        session.close(Code.NORMAL)
        assert session.state is State.CLOSED


def test_a_late_timer_does_not_end_a_live_peer():
    pair = connected()
    pair.advance(3.0)
    pair.clock.advance(600.0)
    pair.wake()
    pair.advance(60.0)
    assert pair.client.session.state is pair.server.session.state is State.ATTACHED
    assert of_type(pair.server, PeerSilent) == of_type(pair.client, PeerSilent) == []


def test_a_late_timer_grants_a_dead_peer_one_more_timeout(make_session):
    session = make_session(heartbeat=HEARTBEAT)
    session.handle_timeout(600.0)
    assert kinds_in(session.data_to_send(600.0)) == [Kind.PING]
    assert session.next_events() == []
    assert session.next_timeout() == pytest.approx(605.0)
    session.handle_timeout(604.9)
    assert session.is_attached
    session.handle_timeout(605.0)
    session.handle_timeout(605.0 + READ_FIRST_S)
    assert session.next_events()[-1] == PeerSilent(605.0 + READ_FIRST_S)


def test_bytes_of_an_incomplete_frame_count_as_a_sign_of_life(make_session):
    session = make_session(heartbeat=HEARTBEAT)
    slow = data_frame(1, bytes(100))
    for second, byte in enumerate(slow):
        session.receive_data(bytes([byte]), second)
        session.handle_timeout(second)
        assert session.state is State.ATTACHED


# Too many pings.


def test_a_ping_flood_gets_a_warning_and_then_ends_the_session():
    pair = connected()
    client = pair.client.session
    for _ in range(PINGS_PER_INTERVAL_WARN - 1):
        client.send_ping(pair.clock())
        pair.deliver()
    assert of_type(pair.client, NoticeReceived) == []
    client.send_ping(pair.clock())
    pair.deliver()
    assert [event.code for event in of_type(pair.client, NoticeReceived)] == [Code.TOO_MANY_PINGS]
    for _ in range(PINGS_PER_INTERVAL_MAX - PINGS_PER_INTERVAL_WARN):
        client.send_ping(pair.clock())
        pair.deliver()
    assert client.state is State.ATTACHED
    client.send_ping(pair.clock())
    pair.deliver()
    (ended,) = of_type(pair.client, Ended)
    assert (ended.code, ended.by_peer) == (Code.TOO_MANY_PINGS, True)
    assert len(of_type(pair.client, NoticeReceived)) == 1


def test_occasional_pings_are_no_flood():
    pair = connected()
    for _ in range(200):
        pair.client.session.send_ping(pair.clock())
        pair.advance(1.0)
    assert of_type(pair.client, NoticeReceived, Ended) == []


# A transport that asks to pause.


def test_a_paused_transport_gets_no_data_until_it_resumes(make_session):
    session = make_session()
    session.outbound.send(Operation.MESSAGE, b"", b"1")
    session.pause_writing()
    session.outbound.send(Operation.MESSAGE, b"", b"2")
    session.outbound.send_eof()
    assert session.data_to_send(0.0) == b""
    session.resume_writing()
    assert kinds_in(session.data_to_send(0.0)) == [Kind.DATA, Kind.DATA, Kind.EOF]


def test_a_paused_transport_gets_heartbeats_with_acknowledgements(make_session):
    session = make_session(heartbeat=HEARTBEAT)
    session.pause_writing()
    session.receive_data(data_frame(1), 1.0)
    session.inbound.ack(session.next_events()[0])
    assert session.data_to_send(5.0) == b""
    session.receive_data(encode_ping(Kind.PING, 7, 8, 0), 6.0)
    assert session.data_to_send(6.0) == encode_ping(Kind.PONG, 7, 8, 1)


def test_output_to_a_paused_transport_is_bounded_without_loss(make_session):
    session = make_session(heartbeat=Heartbeat(interval_s=1000, timeout_s=5))
    session.pause_writing()
    given = kept = b""
    for number in range(1, 19):
        session.receive_data(data_frame(number), 1.0)
        session.inbound.ack(session.next_events()[-1])
        session.receive_data(encode_ping(Kind.PING, number, 1, 0), 1.0)
        given += session.data_to_send(1.0)
    assert len(kinds_in(given)) == PAUSED_CONTROL_FRAMES_MAX
    session.resume_writing()
    kept = session.data_to_send(1.0) + session.data_to_send(1.0 + 0.2)
    assert len(kinds_in(kept)) <= 4
    assert kept.startswith(encode_ping(Kind.PONG, 17, 1, 17))
    assert kept.endswith(encode_ping(Kind.PONG, 18, 1, 18) + encode_ack(18))
    session.pause_writing()
    session.receive_data(encode_ping(Kind.PING, 50, 1, 0), 1.5)
    assert kinds_in(session.data_to_send(1.5)) == [Kind.PONG]


def test_a_paused_transport_never_leaves_a_deadline_in_the_past(make_session):
    session = make_session(heartbeat=HEARTBEAT)
    session.receive_data(data_frame(1), 0.0)
    session.inbound.ack(session.next_events()[0])
    session.data_to_send(0.0)
    assert session.next_timeout() < 1.0
    session.pause_writing()
    now, written, number = 0.0, b"", 0
    while now < 300.0:
        number += 1
        session.handle_timeout(now)
        written += session.data_to_send(now)
        due = session.next_timeout()
        assert due is not None
        assert due > now
        now = due
        session.receive_data(data_frame(1), now)
    assert number < 50
    assert len(kinds_in(written)) == PAUSED_CONTROL_FRAMES_MAX
    session.handle_timeout(now)
    session.resume_writing()
    kept = session.data_to_send(now)
    assert kinds_in(kept) == [Kind.PING] * 3
    assert kept.endswith(encode_ping(Kind.PING, session.send_ping(now) - 1, int(now * 1e6), 1))


def test_a_peer_that_never_reads_is_declared_dead(make_session):
    session = make_session(heartbeat=HEARTBEAT)
    session.pause_writing()
    session.outbound.send(Operation.MESSAGE, b"", bytes(FRAGMENT_BYTES))
    while session.is_attached:
        now = session.next_timeout()
        session.handle_timeout(now)
        session.data_to_send(now)
    assert now == pytest.approx(15.0 + READ_FIRST_S)
    assert [entry.body for entry in session.outbound.unconfirmed()] == [bytes(FRAGMENT_BYTES)]


def test_a_new_transport_is_not_paused(make_session):
    session = make_session()
    session.pause_writing()
    session.outbound.send(Operation.MESSAGE, b"", b"1")
    session.attach(1.0, epoch=2, peer_received=0, phase=0.0)
    assert kinds_in(session.data_to_send(1.0)) == [Kind.DATA]


def test_many_messages_cost_few_acknowledgements():
    pair = connected(server_limits=Limits())
    acks = 0
    for _ in range(100):
        for _ in range(10):
            pair.client.send(b"x")
        pair.transfer(pair.client)
        while data := pair.server.session.data_to_send(pair.clock()):
            acks += kinds_in(data).count(Kind.ACK)
            pair.client.session.receive_data(data, pair.clock())
    assert 14 <= acks <= 16


def test_a_detached_session_does_not_ping(make_session):
    session = make_session(attached=False)
    with pytest.raises(LineClosed, match="not connected"):
        session.send_ping(1.0)
    assert session.data_to_send(1.0) == b""
