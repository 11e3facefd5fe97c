"""Messages that may be dropped: what gives way to what, and what never does."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from landline.codes import Operation
from landline.errors import BufferFull, MessageTooLarge
from landline.session.constants import (
    FRAGMENT_BYTES,
    FRAME_OVERHEAD_BYTES,
    UNACKED_OVERHEAD_BYTES,
    WAITING_OVERHEAD_BYTES,
)
from landline.session.frames import DATA_HEADER_BYTES
from landline.session.settings import Limits, SendBuffer
from landline.testing import Pair

SMALL = SendBuffer(size_bytes=4 * FRAGMENT_BYTES, messages=128)


def send(session, body=b"x", *, name=b"", droppable=False, max_pending=None, bulk=False):
    return session.outbound.send(
        Operation.MESSAGE,
        name,
        body,
        is_droppable=droppable,
        max_pending=max_pending,
        is_bulk=bulk,
        is_packed=False,
    )


def waiting(session):
    return [entry.body for entry in session.outbound.unconfirmed()]


@pytest.fixture
def away(make_session):
    """A session without a transport, where everything waits."""
    return make_session(attached=False, send_buffer=SMALL)


def test_no_message_is_dropped_while_there_is_space(away):
    assert [send(away, b"%d" % number, droppable=True) for number in range(128)] == [0] * 128
    assert len(waiting(away)) == 128


def test_the_newest_message_replaces_the_oldest(away):
    send(away, b"promised")
    for number in range(127):
        send(away, b"%d" % number, droppable=True)
    assert send(away, b"new", droppable=True) == 1
    assert waiting(away) == [b"promised", *(b"%d" % number for number in range(1, 127)), b"new"]


def test_a_large_message_replaces_as_many_as_it_needs(away):
    for number in range(8):
        send(away, b"%d" % number + bytes(FRAGMENT_BYTES // 2 - 1), droppable=True)
    assert send(away, bytes(FRAGMENT_BYTES), droppable=True) == 2
    assert [body[:1] for body in waiting(away)] == [b"2", b"3", b"4", b"5", b"6", b"7", b"\0"]


def test_messages_of_other_names_are_dropped_when_none_of_the_own_name_is_left(away):
    for number in range(64):
        send(away, b"a%d" % number, name=b"a", droppable=True)
        send(away, b"b%d" % number, name=b"b", droppable=True)
    assert send(away, b"a64", name=b"a", droppable=True) == 1
    assert send(away, b"c", name=b"c", droppable=True) == 1
    assert waiting(away)[:3] == [b"a1", b"b1", b"a2"]


def test_a_message_that_is_not_droppable_is_never_dropped(away):
    for number in range(128):
        send(away, b"%d" % number)
    before = waiting(away)
    with pytest.raises(BufferFull):
        send(away, b"new", droppable=True)
    assert waiting(away) == before


def test_droppable_messages_make_way_for_others(away):
    for number in range(128):
        send(away, b"%d" % number, droppable=number % 2 == 0)
    for _ in range(64):
        assert away.outbound.has_space(1)
        assert send(away, b"new") == 1
    assert not away.outbound.has_space(1)
    with pytest.raises(BufferFull):
        send(away)
    assert waiting(away) == [b"%d" % number for number in range(1, 128, 2)] + [b"new"] * 64


def test_a_buffer_of_droppable_messages_counts_as_empty(away):
    send(away, bytes(3 * FRAGMENT_BYTES), droppable=True)
    assert away.outbound.has_space(20 * FRAGMENT_BYTES)
    assert send(away, bytes(20 * FRAGMENT_BYTES)) == 1
    assert away.outbound.buffered_messages == 1


def test_a_message_that_cannot_fit_drops_nothing(away):
    send(away, bytes(3 * FRAGMENT_BYTES))
    send(away, bytes(FRAGMENT_BYTES // 2), droppable=True)
    with pytest.raises(BufferFull):
        send(away, bytes(2 * FRAGMENT_BYTES))
    with pytest.raises(MessageTooLarge):
        send(away, bytes(Limits().message_bytes + 1), droppable=True)
    assert away.outbound.buffered_messages == 2


@pytest.mark.parametrize("max_pending", [1, 3])
def test_the_number_of_waiting_messages_of_a_name_is_limited(away, max_pending):
    send(away, b"promised", name=b"a")
    send(away, b"other", name=b"b", droppable=True)
    for number in range(10):
        assert send(away, b"%d" % number, name=b"a", droppable=True, max_pending=max_pending) == (
            number >= max_pending
        )
    assert waiting(away) == [
        b"promised",
        b"other",
        *(b"%d" % number for number in range(10 - max_pending, 10)),
    ]


def test_max_pending_does_not_apply_to_other_messages(away):
    send(away, b"1", name=b"a", droppable=True)
    assert send(away, b"2", name=b"a", max_pending=1) == 0
    assert waiting(away) == [b"1", b"2"]


def test_a_numbered_message_cannot_be_dropped(make_session):
    session = make_session(send_buffer=SMALL)
    for number in range(128):
        send(session, b"%d" % number, droppable=True)
    assert session.data_to_send(0.0)
    with pytest.raises(BufferFull):
        send(session, b"new", droppable=True)


def test_below_low_watermark_up_to_half_of_the_buffer(away):
    for _ in range(63):
        send(away)
        assert away.outbound.is_below_low_watermark
    send(away)
    assert not away.outbound.is_below_low_watermark


def test_a_few_large_messages_exceed_the_low_watermark(away):
    send(away, bytes(2 * FRAGMENT_BYTES))
    assert not away.outbound.is_below_low_watermark


# What is held.


def test_waiting_and_sent_messages_count_as_memory(make_session):
    session = make_session(attached=False)
    assert session.held_bytes == 0
    send(session, bytes(2 * FRAGMENT_BYTES), name=b"n")
    size = 2 * FRAGMENT_BYTES + 1
    assert session.held_bytes == size + WAITING_OVERHEAD_BYTES
    session.attach(0.0, epoch=1, peer_received=0, phase=0.0)
    session.data_to_send(0.0)
    # Both frames, and the whole message, which could be asked back.
    assert session.held_bytes == 2 * size + 2 * (DATA_HEADER_BYTES + FRAME_OVERHEAD_BYTES)


def test_a_partly_numbered_message_counts_whole():
    pair = Pair(client_limits=Limits(window_bytes=65_536))
    pair.connect()
    session = pair.server.session
    send(session, bytes(8 * FRAGMENT_BYTES))
    session.data_to_send(0.0)
    frames = session.outbound.buffered_messages - 1
    assert 1 <= frames <= 4
    assert session.held_bytes == (
        8 * FRAGMENT_BYTES
        + WAITING_OVERHEAD_BYTES
        + frames * (FRAGMENT_BYTES + DATA_HEADER_BYTES + FRAME_OVERHEAD_BYTES)
    )


def test_received_unacknowledged_messages_count_as_memory():
    pair = Pair(auto_ack=False)
    pair.connect()
    for _ in range(10):
        pair.client.send(b"12345")
    pair.deliver()
    assert pair.server.session.held_bytes == 10 * (5 + DATA_HEADER_BYTES + UNACKED_OVERHEAD_BYTES)
    pair.server.ack_all()
    assert pair.server.session.held_bytes == 0


def test_incomplete_messages_and_frames_count_as_memory():
    pair = Pair()
    pair.connect()
    pair.client.send(bytes(2 * FRAGMENT_BYTES))
    data = pair.client.session.data_to_send(pair.clock())
    session = pair.server.session
    first = DATA_HEADER_BYTES + FRAGMENT_BYTES
    session.receive_data(data[:first], pair.clock())
    assert session.held_bytes == FRAGMENT_BYTES
    session.receive_data(data[first : FRAGMENT_BYTES + 100], pair.clock())
    assert session.held_bytes == FRAGMENT_BYTES + 100 - DATA_HEADER_BYTES


# Whatever the mix.


class Mixture(RuleBasedStateMachine):
    """Promised and droppable messages on both lanes, to a peer that takes them now and then."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed):
        self.pair = Pair(
            seed=seed,
            client_limits=Limits(message_bytes=4 * FRAGMENT_BYTES, window_bytes=65_536, window_frames=128),
            send_buffer=SMALL,
            auto_ack=False,
        )
        self.pair.connect()
        self.sent = {kind: [] for kind in ("pn", "pb", "dn", "db")}
        self.dropped = 0

    @rule(
        droppable=st.booleans(),
        bulk=st.booleans(),
        name=st.sampled_from(["", "a", "b"]),
        max_pending=st.sampled_from([None, None, 1, 5]),
        count=st.sampled_from([1, 10, 60]),
        size=st.sampled_from([0, 300, FRAGMENT_BYTES + 9]),
    )
    def send(self, droppable, bulk, name, max_pending, count, size):
        session = self.pair.server.session
        kind = "pd"[droppable] + "nb"[bulk]
        for _ in range(count):
            body = b"%s%d " % (kind.encode(), len(self.sent[kind])) + bytes(size)
            before = waiting(session)
            try:
                dropped = send(
                    session,
                    body,
                    name=name.encode(),
                    droppable=droppable,
                    max_pending=max_pending if droppable else None,
                    bulk=bulk,
                )
            except BufferFull:
                assert not session.outbound.has_space(len(name) + len(body))
                assert waiting(session) == before
                return
            self.sent[kind].append(body)
            self.dropped += dropped

    @rule()
    def take(self):
        self.pair.client.ack_all()

    @rule()
    def deliver(self):
        self.pair.deliver()

    @rule()
    def cut(self):
        self.pair.cut()

    @rule()
    def resume(self):
        assert self.pair.connect() is True

    @rule(full=st.booleans())
    def fill_the_transport(self, full):
        session = self.pair.server.session
        if full:
            session.pause_writing()
        else:
            session.resume_writing()

    def of_kind(self, kind, bodies):
        return [body for body in bodies if body[:2] == kind.encode()]

    @invariant()
    def promised_messages_arrive_once_and_in_order_and_others_at_most_once(self):
        received = self.pair.client.bodies
        for kind, sent in self.sent.items():
            ours = self.of_kind(kind, received)
            if kind[0] == "p":
                assert ours == sent[: len(ours)]
            else:
                place = {body: index for index, body in enumerate(sent)}
                places = [place[body] for body in ours]
                assert places == sorted(set(places))

    @invariant()
    def every_message_is_dropped_or_delivered_or_kept(self):
        known = Counter(self.pair.client.bodies) | Counter(waiting(self.pair.server.session))
        assert max(known.values(), default=1) == 1
        assert len(known) + self.dropped == sum(map(len, self.sent.values()))
        for kind in ("pn", "pb"):
            assert set(self.sent[kind]) <= set(known)

    @invariant()
    def the_buffer_keeps_to_its_limits(self):
        session = self.pair.server.session
        assert session.outbound.buffered_messages <= SMALL.messages + 4
        assert session.outbound.buffered_bytes <= SMALL.size_bytes + 4096

    def teardown(self):
        if not hasattr(self, "pair"):
            return
        self.pair.connect()
        for _ in range(200):
            self.pair.client.ack_all()
            self.pair.advance(0.2)
            if self.pair.server.session.outbound.is_drained:
                break
        received = self.pair.client.bodies
        for kind in ("pn", "pb"):
            assert self.of_kind(kind, received) == self.sent[kind]
        assert len(received) + self.dropped == sum(map(len, self.sent.values()))


TestMixture = Mixture.TestCase
TestMixture.settings = settings(deadline=None, max_examples=100, stateful_step_count=40, derandomize=True)
