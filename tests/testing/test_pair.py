from random import Random

import pytest

from landline.codes import Operation
from landline.errors import ConnectFailed, Unconfirmed
from landline.session.state import State
from landline.testing import Clock, Link, Pair


def test_the_clock_stands_still_until_it_is_moved():
    clock = Clock(5.0)
    assert clock() == clock() == 5.0
    clock.advance(1.5)
    assert clock() == 6.5
    with pytest.raises(ValueError, match=r"cannot go back by 1 s"):
        clock.advance(-1.0)


def test_a_plain_link_carries_bytes_as_they_are():
    link = Link(Random(1))
    assert link.carry(b"abc") == [b"abc"]
    assert link.carry(b"") == []
    assert link.carried_bytes == 3


def test_segments_are_random_and_repeat_with_the_seed():
    pieces = Link(Random(1), segment_bytes_max=3).carry(bytes(range(50)))
    assert b"".join(pieces) == bytes(range(50))
    assert {len(piece) for piece in pieces[:-1]} == {1, 2, 3}
    assert Link(Random(1), segment_bytes_max=3).carry(bytes(range(50))) == pieces
    assert Link(Random(2), segment_bytes_max=3).carry(bytes(range(50))) != pieces


def test_a_link_breaks_where_it_was_told():
    link = Link(Random(1), cut_after_bytes=4)
    assert (link.carry(b"abcd"), link.is_cut) == ([b"abcd"], False)
    assert (link.carry(b"e"), link.is_cut) == ([], True)
    link = Link(Random(1), cut_after_bytes=4)
    assert (link.carry(b"abcde"), link.is_cut) == ([b"abcd"], True)


def test_a_silent_link_swallows_and_does_not_tell():
    link = Link(Random(1), silent_after_bytes=2)
    assert (link.carry(b"abc"), link.carry(b"d"), link.is_cut) == ([b"ab"], [], False)
    link = Link(Random(1))
    link.carry(b"abc")
    link.silence()
    assert (link.carry(b"d"), link.is_cut) == ([], False)


def test_a_lossy_link_ends_one_way_or_the_other():
    random, ways = Random(1), []
    for _ in range(200):
        link = Link.lossy(random, bytes_max=100)
        assert len(b"".join(link.carry(bytes(200)))) < 100
        ways.append(link.is_cut)
    assert 100 < sum(ways) < 190


def test_both_sides_talk_through_cuts():
    pair = Pair(seed=7)
    assert pair.connect() is False
    pair.client.send(b"one", name="n")
    pair.server.send(b"two")
    pair.cut()
    assert pair.client.session.state is pair.server.session.state is State.DETACHED
    assert pair.connect() is True
    pair.advance(1.0)
    assert (pair.server.bodies, pair.client.bodies) == ([b"one"], [b"two"])
    assert pair.clock() == 1001.0
    assert (pair.epoch, pair.client.session.epoch, pair.server.session.epoch) == (2, 2, 2)


def test_a_link_that_breaks_while_carrying_cuts_both_sides():
    pair = Pair()
    pair.connect()
    pair.link.cut_after_bytes = pair.link.carried_bytes + 10
    pair.client.send(b"lost")
    pair.deliver()
    assert pair.client.session.state is pair.server.session.state is State.DETACHED
    assert pair.server.bodies == []


@pytest.mark.parametrize(
    ("end", "match", "attached"),
    [
        ({"cut_after_bytes": 10}, "HELLO", False),
        ({"cut_after_bytes": 300}, "WELCOME", False),
        ({"silent_after_bytes": 300}, "WELCOME", True),
    ],
)
def test_a_link_may_end_within_the_handshake(end, match, attached):
    pair = Pair()
    with pytest.raises(ConnectFailed, match=match):
        pair.connect(Link(pair.random, **end))
    if match == "WELCOME":
        assert pair.server.session.is_attached is attached
    assert pair.connect() is False
    pair.client.send(b"x")
    pair.deliver()
    assert pair.server.bodies == [b"x"]


def test_a_forgotten_session_is_reported():
    pair = Pair(auto_ack=False)
    pair.connect()
    pair.client.send(b"delivered, not taken")
    pair.deliver()
    pair.server.send(b"unheard")
    pair.lose_server_session()
    assert pair.connect() is False
    assert pair.client.lost == [Unconfirmed(Operation.MESSAGE, "", b"delivered, not taken", False)]
    assert [entry.body for entry in pair.server.lost] == [b"unheard"]
    pair.server.ack_all()
    assert pair.server.session.inbound.received == 0


def test_a_client_that_closed_begins_anew():
    pair = Pair()
    pair.connect()
    first = pair.client.session
    pair.client.session.close(200)
    pair.deliver()
    assert pair.connect() is False
    assert pair.client.session is not first


def test_an_application_that_does_not_take_is_not_taken_for_one_that_does():
    pair = Pair(auto_ack=False)
    pair.connect()
    pair.client.send(b"x")
    pair.advance(30.0)
    assert not pair.client.session.outbound.is_drained
    pair.server.ack_all()
    pair.advance(1.0)
    assert pair.client.session.outbound.is_drained


def test_two_sides_that_never_rest_are_noticed(monkeypatch):
    monkeypatch.setattr("landline.testing.pair.STEPS_MAX", 3)
    pair = Pair()
    pair.connect()
    with pytest.raises(AssertionError, match="time does not advance"):
        pair.advance(10_000.0)
