"""What holds whatever happens, checked with many random happenings."""

import contextlib
import itertools
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from landline.errors import BufferFull, ConnectFailed
from landline.session.events import Ended, EofReceived, MessageReceived
from landline.session.handshake import Bye, Limits, Notice, encode_body
from landline.session.liveness import Heartbeat
from landline.session.session import SendBuffer
from landline.session.state import State
from landline.session.wire import (
    FRAGMENT_BYTES,
    Kind,
    encode_ack,
    encode_data,
    encode_eof,
    encode_frame,
    encode_ping,
)
from landline.testing import Link, Pair

QUICK = settings(deadline=None, max_examples=200, derandomize=True)
LIMITS = Limits(message_bytes=3 * FRAGMENT_BYTES, window_bytes=4 * FRAGMENT_BYTES, window_frames=128)

small = st.integers(0, 8)
payloads = st.binary(max_size=30)
frames = st.one_of(
    st.builds(
        encode_data,
        small,
        st.sampled_from([0, 0, 1, 2, 3, 4, 8]),
        st.integers(0, 7),
        small,
        st.sampled_from([b"", b"n", b"\xff"]),
        payloads,
    ),
    st.builds(encode_ack, small),
    st.builds(encode_eof, small),
    st.builds(encode_ping, st.sampled_from([Kind.PING, Kind.PONG]), small, small, small),
    st.builds(lambda code: encode_body(Kind.BYE, Bye(code)), st.sampled_from([100, 105, 200, 999])),
    st.builds(lambda code: encode_body(Kind.NOTICE, Notice(code)), small),
    st.builds(encode_frame, st.sampled_from(list(Kind)), payloads),
    payloads,
)


@given(st.lists(frames, max_size=12).map(b"".join))
@example(b"\0\0\0\x05\x16\xff\xff\xff\xff")
@QUICK
def test_arbitrary_bytes_end_in_nothing_or_events_or_the_end(make_session, data):
    session = make_session()
    session.receive_data(data, 1.0, epoch=1)
    events = session.next_events()
    ends = [event for event in events if isinstance(event, Ended)]
    assert (session.state is State.CLOSED) == (len(ends) == 1)
    assert ends == ([events[-1]] if ends else [])
    numbers = [event.sequence for event in events if isinstance(event, MessageReceived)]
    assert numbers == sorted(set(numbers))
    assert not numbers or numbers[-1] <= session.received
    if ends and not ends[0].by_peer:
        assert session.data_to_send(1.0)


@st.composite
def plausible_streams(draw):
    """Frames that are mostly in order, so that they get far."""
    number, stream = 0, []
    for frame in draw(st.lists(frames, max_size=15)):
        if frame[4:5] == bytes([Kind.DATA]) and draw(st.integers(0, 9)):
            number += 1
            frame = frame[:5] + number.to_bytes(8, "big") + frame[13:]
        stream.append(frame)
    return b"".join(stream)


@given(plausible_streams(), st.lists(st.integers(0, 400), max_size=8), st.booleans())
@QUICK
def test_chunks_make_no_difference(make_session, data, cuts, bytewise):
    edges = (
        list(range(len(data) + 1)) if bytewise else sorted({0, len(data), *(min(c, len(data)) for c in cuts)})
    )
    whole, chunked = make_session(), make_session()
    whole.receive_data(data, 1.0, epoch=1)
    for start, end in itertools.pairwise(edges):
        chunked.receive_data(data[start:end], 1.0, epoch=1)

    def outcome(session):
        events = session.next_events()
        if events and isinstance(events[-1], Ended):
            events[-1].reason = ""  # A bad frame may be noticed a little earlier, and called by another name.
        return events, session.state, session.received, session.duplicates_dropped

    assert outcome(chunked) == outcome(whole)


@given(st.integers(0, 2**32), st.booleans())
@settings(deadline=None, max_examples=40, derandomize=True)
def test_everything_arrives_over_links_that_break_at_random_bytes(seed, bulk):
    pair = Pair(seed=seed, client_limits=LIMITS, server_limits=LIMITS)
    pair.connect()
    sent = [pair.random.randbytes(pair.random.choice([0, 1, 300, 4000, 17_000])) for _ in range(12)]
    for body in sent:
        pair.client.send(body, bulk=bulk)
        pair.server.send(body, bulk=bulk)
    for _ in range(12):
        try:
            pair.connect(Link.lossy(pair.random, bytes_max=pair.random.choice([2000, 20_000])))
        except ConnectFailed:
            continue
        pair.advance(pair.random.choice([0.05, 1.0, 20.0]))
    pair.connect()
    pair.advance(5.0)
    assert pair.server.bodies == pair.client.bodies == sent
    assert pair.client.session.is_drained
    assert pair.server.session.is_drained


class Conversation(RuleBasedStateMachine):
    """Two sides talk while everything happens to the transports under them."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed):
        self.pair = Pair(
            seed=seed,
            heartbeat=Heartbeat(interval_s=10, timeout_s=5),
            client_limits=LIMITS,
            server_limits=LIMITS,
            send_buffer=SendBuffer(size_bytes=6 * FRAGMENT_BYTES, messages=200),
            takes=False,
        )
        self.pair.connect()
        self.sides = (self.pair.client, self.pair.server)
        self.sent = {side: {False: [], True: []} for side in self.sides}
        self.finished = set()

    @rule(
        which=st.booleans(),
        bulk=st.booleans(),
        count=st.sampled_from([1, 1, 5, 100]),
        size=st.sampled_from([0, 3, 900, FRAGMENT_BYTES, 2 * FRAGMENT_BYTES + 7]),
    )
    def send(self, which, bulk, count, size):
        side = self.sides[which]
        for _ in range(count):
            if side in self.finished:
                return
            mark = b"%c%d " % (b"nb"[bulk], len(self.sent[side][bulk]))
            try:
                side.send(mark + bytes(size), bulk=bulk)
            except BufferFull:
                assert not side.session.has_room(len(mark) + size)
                return
            self.sent[side][bulk].append(mark + bytes(size))

    @rule(which=st.booleans(), sure=st.integers(0, 7))
    def finish(self, which, sure):
        if sure < 7:
            return
        self.sides[which].session.send_eof()
        self.finished.add(self.sides[which])

    @rule(which=st.booleans())
    def take(self, which):
        self.sides[which].take_all()

    @rule(which=st.booleans())
    def transfer(self, which):
        self.pair.transfer(self.sides[which])

    @rule(resumes=st.booleans())
    def cut(self, resumes):
        self.pair.cut()
        if resumes:
            assert self.pair.connect() is True

    @rule(how=st.sampled_from(["whole", "lossy", "lossy", "silent"]))
    def resume(self, how):
        """Over a new transport, which breaks at a random byte (perhaps of the handshake) or falls silent."""
        lossy = Link.lossy(self.pair.random, bytes_max=self.pair.random.choice([700, 60_000]))
        try:
            assert self.pair.connect(lossy if how == "lossy" else None) is True
        except ConnectFailed:
            assert how == "lossy"
        if how == "silent":
            self.pair.deliver()
            self.pair.link.silence()

    @rule(which=st.booleans(), seconds=st.sampled_from([0.0, 20.0]))
    def pause(self, which, seconds):
        session = self.sides[which].session
        session.pause_writing()
        self.pair.advance(seconds)
        session.resume_writing()

    @rule(seconds=st.sampled_from([0.01, 0.15, 3.0, 16.0]))
    def advance(self, seconds):
        self.pair.advance(seconds)
        self.no_deadline_is_left_in_the_past()

    @rule(seconds=st.sampled_from([1.0, 100.0]))
    def sleep(self, seconds):
        self.pair.clock.advance(seconds)
        self.pair.wake()
        self.no_deadline_is_left_in_the_past()

    def no_deadline_is_left_in_the_past(self):
        for side in self.sides:
            due = side.session.next_timeout()
            assert due is None or due > self.pair.clock()

    def received(self, side):
        lanes = {False: [], True: []}
        for body in side.bodies:
            lanes[body[:1] == b"b"].append(body)
        return lanes

    def peer(self, side):
        return self.sides[1 - self.sides.index(side)]

    @invariant()
    def received_is_a_beginning_of_sent_in_order_without_duplicates(self):
        for side in self.sides:
            sent, received = self.sent[self.peer(side)], self.received(side)
            for bulk in (False, True):
                assert received[bulk] == sent[bulk][: len(received[bulk])]
            assert side.events.count(EofReceived()) <= 1

    @invariant()
    def nobody_breaks_the_protocol(self):
        for side in self.sides:
            assert side.session.state is not State.CLOSED
            assert not [event for event in side.events if isinstance(event, Ended)]

    @invariant()
    def nothing_is_unaccounted_for(self):
        """Every message sent was received or is still kept by its sender; what is drained was received."""
        for side in self.sides:
            received, kept = self.received(self.peer(side)), side.session.unconfirmed()
            for bulk in (False, True):
                sent = self.sent[side][bulk]
                ours = [entry.body for entry in kept if (entry.body[:1] == b"b") == bulk]
                assert ours == sent[len(sent) - len(ours) :]
                assert len(received[bulk]) + len(ours) >= len(sent)

    @invariant()
    def buffers_keep_to_their_limits(self):
        for side in self.sides:
            session = side.session
            assert session.buffered_messages <= 200 + 8
            assert session.buffered_bytes <= 6 * FRAGMENT_BYTES + 4096

    @invariant()
    def only_an_attached_side_has_a_deadline(self):
        for side in self.sides:
            due = side.session.next_timeout()
            assert side.session.is_attached == (due is not None)

    def teardown(self):
        if not hasattr(self, "pair"):
            return
        self.pair.connect()
        for _ in range(300):
            for side in self.sides:
                side.take_all()
            self.pair.advance(0.2)
            if all(side.session.is_drained for side in self.sides):
                break
        for side in self.sides:
            assert self.received(side) == self.sent[self.peer(side)]
            assert side.session.unconfirmed() == ()
            assert side.session.buffered_bytes == side.session.buffered_messages == 0
            assert (EofReceived() in side.events) == (self.peer(side) in self.finished)


TestConversation = Conversation.TestCase
TestConversation.settings = settings(
    deadline=None, max_examples=150, stateful_step_count=50, derandomize=True
)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_tells_the_same_story(seed):
    def story():
        pair = Pair(seed=seed)
        pair.connect()
        for _ in range(10):
            pair.client.send(pair.random.randbytes(2000))
            with contextlib.suppress(ConnectFailed):
                pair.connect(Link.lossy(Random(seed)))
            pair.advance(7.0)
        return pair.clock(), pair.epoch, pair.server.events, pair.client.events

    assert story() == story()
