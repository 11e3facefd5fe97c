"""Invariants of a session, checked with many random events."""

import contextlib
import itertools
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.fuzz import targets
from tests.fuzz.conversation import LIES, LIMITS, Conversation

from landline.errors import ConnectFailed
from landline.session.bodies import Bye, Notice, encode_body
from landline.session.constants import FRAGMENT_BYTES, Kind
from landline.session.events import Ended, MessageReceived
from landline.session.frames import (
    encode_ack,
    encode_data,
    encode_datagram,
    encode_eof,
    encode_frame,
    encode_ping,
)
from landline.session.state import State
from landline.testing import Link, Pair

QUICK = settings(deadline=None, max_examples=200, derandomize=True)

which = st.sampled_from([0, 1])
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
    st.builds(encode_datagram, st.sampled_from([b"", b"n", b"\xff"]), payloads, is_packed=st.booleans()),
    st.builds(encode_frame, st.sampled_from(list(Kind)), payloads),
    payloads,
)


@given(st.lists(frames, max_size=12).map(b"".join))
@example(b"\0\0\0\x05\x16\xff\xff\xff\xff")
@QUICK
def test_arbitrary_bytes_end_in_nothing_or_events_or_the_end(make_session, data):
    session = make_session()
    session.receive_data(data, 1.0)
    events = session.next_events()
    ends = [event for event in events if isinstance(event, Ended)]
    assert (session.state is State.CLOSED) == (len(ends) == 1)
    assert ends == ([events[-1]] if ends else [])
    numbers = [event.sequence for event in events if isinstance(event, MessageReceived)]
    assert numbers == sorted(set(numbers))
    assert not numbers or numbers[-1] <= session.inbound.received
    if ends and not ends[0].by_peer:
        assert session.data_to_send(1.0)


@given(st.binary(max_size=300))
@example(b"\x01" + b"\x00\x00\x00\x00\x00\x00" * 40)
@settings(deadline=None, max_examples=150, derandomize=True)
def test_a_program_of_frames_and_events_holds_the_fuzzed_invariants(data):
    targets.session(data)


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
    whole.receive_data(data, 1.0)
    for start, end in itertools.pairwise(edges):
        chunked.receive_data(data[start:end], 1.0)

    def outcome(session):
        events = session.next_events()
        if events and isinstance(events[-1], Ended):
            events[-1].reason = ""  # A bad frame may be noticed a little earlier, and called by another name.
        datagrams = session.next_datagrams()
        return events, datagrams, session.state, session.inbound.received, session.inbound.duplicates_dropped

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
    assert pair.client.session.outbound.is_drained
    assert pair.server.session.outbound.is_drained


class TwoSessions(RuleBasedStateMachine):
    """Two sides talk while everything happens to the transports under them, and to the sides themselves."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed):
        self.talk = Conversation(seed)

    @rule(
        which=which,
        bulk=st.booleans(),
        count=st.sampled_from([1, 1, 5, 100]),
        size=st.sampled_from([0, 3, 900, FRAGMENT_BYTES, 2 * FRAGMENT_BYTES + 7]),
    )
    def send(self, which, bulk, count, size):
        self.talk.send(which, bulk=bulk, count=count, size=size)

    @rule(which=which, count=st.sampled_from([1, 1, 5, 100]), size=st.sampled_from([0, 3, 1000]))
    def send_datagrams(self, which, count, size):
        self.talk.send_datagrams(which, count=count, size=size)

    @rule(which=which, sure=st.integers(0, 7))
    def finish(self, which, sure):
        if sure == 7:
            self.talk.finish(which)

    @rule(which=which, how=st.sampled_from(["all", "some"]))
    def ack(self, which, how):
        self.talk.ack(which, how)

    @rule(which=which)
    def transfer(self, which):
        self.talk.transfer(which)

    @rule(resumes=st.booleans())
    def cut(self, resumes):
        self.talk.cut(resumes=resumes)

    @rule(how=st.sampled_from(["whole", "lossy", "lossy", "silent"]))
    def resume(self, how):
        self.talk.resume(how)

    @rule(which=which, seconds=st.sampled_from([0.0, 20.0]))
    def pause(self, which, seconds):
        self.talk.pause(which, seconds)

    @rule(which=which)
    def ping(self, which):
        self.talk.ping(which)

    @rule(seconds=st.sampled_from([0.01, 0.15, 3.0, 16.0]))
    def advance(self, seconds):
        self.talk.advance(seconds)

    @rule(seconds=st.sampled_from([1.0, 100.0]))
    def sleep(self, seconds):
        self.talk.sleep(seconds)

    @rule()
    def repeat_old_bytes(self):
        self.talk.repeat_old_bytes()

    @rule(which=which)
    def resume_with_an_impossible_number(self, which):
        self.talk.resume_with_an_impossible_number(which)

    @rule(which=which, how=st.sampled_from(["close", "forget", "", "", "", *LIES]))
    def end_the_session(self, which, how):
        if how == "close":
            self.talk.close(which)
        elif how == "forget":
            self.talk.forget()
        elif how:
            self.talk.lie(which, how)

    @invariant()
    def all_is_as_the_model_says(self):
        self.talk.check()

    def teardown(self):
        if hasattr(self, "talk"):
            self.talk.end()


TestTwoSessions = TwoSessions.TestCase
TestTwoSessions.settings = settings(deadline=None, max_examples=150, stateful_step_count=50, derandomize=True)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_gives_the_same_run(seed):
    def story():
        pair = Pair(seed=seed)
        pair.connect()
        for _ in range(10):
            pair.client.send(pair.random.randbytes(2000))
            pair.server.send_datagram(pair.random.randbytes(20))
            with contextlib.suppress(ConnectFailed):
                pair.connect(Link.lossy(Random(seed)))
            pair.advance(7.0)
        return pair.clock(), pair.epoch, pair.server.events, pair.client.events, pair.client.datagrams

    assert story() == story()
