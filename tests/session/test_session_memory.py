"""A peer cannot make a session hold more than its limits, whatever it sends and whatever it leaves unread.

Measured in bytes of Python objects, not counted in bytes of the wire, by walking all that the session and the messages
not taken refer to, and by tracemalloc beside it.
"""

import tracemalloc

import pytest
from msgspec import structs
from tests.fuzz.memory import held_bytes

from landline.codes import Code, Operation
from landline.session.bodies import Notice, encode_body
from landline.session.constants import (
    DATAGRAM_BYTES_MAX,
    DATAGRAM_BYTES_WAITING_MAX,
    DATAGRAMS_MAX,
    DATAGRAMS_REFUSED,
    DATAGRAMS_UNREAD_MAX,
    DATAGRAMS_WINDOW_S,
    FLAG_BULK,
    FLAG_MORE,
    FRAGMENT_BYTES,
    FRAME_BYTES_MAX,
    NAME_BYTES_MAX,
    PAUSED_CONTROL_FRAMES_MAX,
    PINGS_PER_INTERVAL_MAX,
    REDUNDANT_FRAMES_MAX,
    REDUNDANT_WINDOW_S,
    SMALL_FRAGMENT_BYTES,
    Kind,
)
from landline.session.events import Ended, MessageReceived
from landline.session.frames import (
    DATA_HEADER_BYTES,
    encode_ack,
    encode_data,
    encode_datagram,
    encode_eof,
    encode_frame,
    encode_ping,
)
from landline.session.session import Session
from landline.session.settings import Heartbeat, Limits, SendBuffer
from landline.session.state import State

READ_BYTES = 64 * 1024
"""What a transport hands over at once."""
EMPTY_BYTES = 2_000
"""A session that holds nothing."""
SMALL = Limits(message_bytes=8 * FRAGMENT_BYTES, window_bytes=16 * FRAGMENT_BYTES, window_frames=1024)


class SlowApplication:
    """Receives data and acknowledges none; fetches datagrams and drops them."""

    def __init__(self, session):
        self.session = session
        self.datagrams = 0
        self.untaken = []
        self.ended = None
        self.now = 0.0

    def receive_in_time(self, frames):
        """Receive, in each period, the allowed number of redundant frames."""
        for start in range(0, len(frames), REDUNDANT_FRAMES_MAX):
            self.now += REDUNDANT_WINDOW_S
            self.receive(b"".join(frames[start : start + REDUNDANT_FRAMES_MAX]), self.now)

    def receive(self, data, now=0.0):
        for start in range(0, len(data), READ_BYTES):
            self.session.receive_data(data[start : start + READ_BYTES], now)
            for event in self.session.next_events():
                if isinstance(event, MessageReceived):
                    self.untaken.append(event)
                elif isinstance(event, Ended):
                    self.ended = event
            self.datagrams += len(self.session.next_datagrams())

    def held_bytes(self):
        return held_bytes(self.session, self.untaken)


@pytest.fixture
def slow(make_session):
    return lambda **options: SlowApplication(make_session(**options))


def data_frames(count, *, first=1, flags=0, operation=Operation.MESSAGE, correlation=0, name=b"", body=b""):
    return b"".join(each_frame(count, first, flags, operation, correlation, name, body))


def each_frame(count, first=1, flags=0, operation=Operation.MESSAGE, correlation=0, name=b"", body=b""):
    return [encode_data(first + i, flags, operation, correlation, name, body) for i in range(count)]


WORST_NAME = "\U0001f600".encode() + b"n" * (NAME_BYTES_MAX - 4)
"""One character beyond the BMP makes CPython keep four bytes for each of the others."""


@pytest.mark.parametrize(
    ("frame", "bytes_each"),
    [
        # 25 bytes on the wire become 7 times as many: the event, its numbers, the body and its place in a list.
        ({"body": b"12", "correlation": 2**64 - 1}, 200),
        ({"operation": Operation.CANCEL, "correlation": 2**64 - 1}, 180),
        ({"name": b"name", "body": b"12"}, 250),
        ({"name": WORST_NAME}, 1_400),
        ({"body": bytes(200)}, 400),
    ],
)
def test_a_full_window_of_tiny_frames_costs_the_stated_memory(slow, frame, bytes_each):
    """With the default limits that is 3.3 MB for nameless frames, and at the very worst, by names, 23 MB."""
    count = Limits().window_frames
    stream = data_frames(count, **frame)
    application = slow()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        application.receive(stream)
        traced_bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(application.untaken) == count
    assert application.session.state is State.ATTACHED
    assert application.held_bytes() <= EMPTY_BYTES + count * bytes_each
    assert traced_bytes <= EMPTY_BYTES + count * bytes_each
    application.receive(data_frames(1, first=count + 1, **frame))
    assert application.ended.code is Code.LIMIT_EXCEEDED


def test_large_messages_cost_their_size(slow):
    application = slow(limits=SMALL)
    frame_bytes = FRAGMENT_BYTES + DATA_HEADER_BYTES
    bytes_max = SMALL.window_bytes + 2 * (SMALL.message_bytes + DATA_HEADER_BYTES)
    application.receive(data_frames(1 + bytes_max // frame_bytes, body=bytes(FRAGMENT_BYTES)))
    assert application.ended.code is Code.LIMIT_EXCEEDED
    assert application.held_bytes() <= EMPTY_BYTES + bytes_max + READ_BYTES + FRAME_BYTES_MAX + 200 * 40


@pytest.mark.parametrize("size", [1, 100, FRAGMENT_BYTES])
def test_unfinished_messages_hold_one_message_per_lane(slow, size):
    """Fragments are acknowledged at once, so only the limit of a message ends them, however small they are."""
    application, sequence = slow(limits=SMALL), 1
    for flags in (FLAG_MORE, FLAG_MORE | FLAG_BULK):
        application.receive(encode_data(sequence, flags, Operation.MESSAGE, 0, b"", bytes(size)))
        count = SMALL.message_bytes // size - 1
        application.receive_in_time(
            each_frame(count, sequence + 1, flags, Operation.CONTINUE, body=bytes(size))
        )
        sequence += count + 1
    assert application.session.state is State.ATTACHED
    # A growing buffer keeps an eighth to spare.
    assert application.held_bytes() <= EMPTY_BYTES + 2 * SMALL.message_bytes * 9 // 8
    more = encode_data(sequence, FLAG_MORE, Operation.CONTINUE, 0, b"", bytes(size))
    application.receive(more)
    assert application.ended.code is Code.LIMIT_EXCEEDED


def test_fragments_after_an_unacknowledged_message_count_as_frames(slow):
    application = slow(limits=SMALL)
    application.receive(data_frames(1, body=b"not acknowledged"))
    application.receive(encode_data(2, FLAG_MORE, Operation.MESSAGE, 0, b"", b"x"))
    rest = SMALL.window_frames - 2
    application.receive_in_time(each_frame(rest, 3, FLAG_MORE, Operation.CONTINUE, body=b"x"))
    assert application.session.state is State.ATTACHED
    # A number and its place in a set that is at least a quarter full.
    assert application.held_bytes() <= EMPTY_BYTES + SMALL.window_frames * (32 + 4 * 16)
    application.receive(encode_data(rest + 3, FLAG_MORE, Operation.CONTINUE, 0, b"", b"x"))
    assert application.ended.code is Code.LIMIT_EXCEEDED


USELESS = {
    "ACK": encode_ack(0),
    "PONG": encode_ping(Kind.PONG, 1, 0, 0),
    "NOTICE": encode_body(Kind.NOTICE, Notice(1, "n" * 500)),
    "small NOTICE": encode_body(Kind.NOTICE, Notice(1)),
}


@pytest.mark.parametrize("name", USELESS)
def test_redundant_frames_hold_no_memory_and_too_many_end_the_session(slow, name):
    frame = USELESS[name]
    application = slow(limits=SMALL)
    application.receive(data_frames(1, body=b"untaken"))
    before = application.held_bytes()
    application.receive_in_time([frame] * 20_000)
    assert application.session.state is State.ATTACHED
    # Part of a frame, and counters that became larger.
    assert application.held_bytes() <= before + len(frame) + 400
    application.receive(frame, application.now)
    assert application.ended.code is Code.LIMIT_EXCEEDED


def test_only_fragments_with_little_payload_count_as_redundant_frames(slow):
    application = slow()
    numbers = range(1, REDUNDANT_FRAMES_MAX + 1)
    small = b"".join(fragment(number, SMALL_FRAGMENT_BYTES - 1) for number in numbers)
    application.receive(small + fragment(REDUNDANT_FRAMES_MAX + 1, SMALL_FRAGMENT_BYTES))
    assert application.ended is None
    application.receive(fragment(REDUNDANT_FRAMES_MAX + 2, SMALL_FRAGMENT_BYTES - 1))
    assert application.ended.code is Code.LIMIT_EXCEEDED


def fragment(sequence, size):
    """A fragment of one message, which is not the last."""
    operation = Operation.MESSAGE if sequence == 1 else Operation.CONTINUE
    return encode_data(sequence, FLAG_MORE, operation, 0, b"", bytes(size))


@pytest.mark.parametrize("is_eof", [False, True])
def test_a_transport_may_repeat_one_window_of_frames(slow, is_eof):
    application = slow(limits=SMALL)
    frame = encode_eof(1) if is_eof else encode_data(1, 0, Operation.MESSAGE, 0, b"", bytes(100))
    application.receive(frame)
    before = application.held_bytes()
    for epoch in (1, 2):
        if epoch == 2:
            application.session.receive_link_lost()
            application.session.attach(0.0, epoch=2, peer_received=0, phase=0.0)
        for _ in range(SMALL.window_frames):
            application.session.receive_data(frame, 0.0)
        assert application.session.state is State.ATTACHED
        assert application.held_bytes() <= before + 400
    application.session.receive_data(frame, 0.0)
    assert application.session.state is State.CLOSED
    [*_, ended] = application.session.next_events()
    assert ended.code is Code.LIMIT_EXCEEDED


@pytest.mark.parametrize(("name", "size"), [(b"", 0), (b"name", 1000)])
def test_datagrams_above_the_rate_are_dropped_and_far_too_many_end_the_session(slow, name, size):
    application = slow(limits=SMALL)
    frame = encode_datagram(name, bytes(size), is_packed=False)
    before = application.held_bytes()
    for now in (0.0, DATAGRAMS_WINDOW_S, 2 * DATAGRAMS_WINDOW_S):
        application.datagrams = 0
        for _ in range(DATAGRAMS_REFUSED // 100):
            application.receive(frame * 100, now)
        assert application.datagrams == DATAGRAMS_MAX
    assert application.session.datagrams_ignored == 3 * (DATAGRAMS_REFUSED - 1 - DATAGRAMS_MAX)
    assert application.held_bytes() <= before + len(frame) + 500
    application.receive(frame, 2 * DATAGRAMS_WINDOW_S)
    assert application.ended.code is Code.LIMIT_EXCEEDED


@pytest.mark.parametrize(("name", "bytes_each"), [(b"", 200), (WORST_NAME, 1_400)])
def test_unfetched_datagrams_are_limited_to_the_newest(slow, name, bytes_each):
    """An owner fetches them after each read; what one read can leave is what this measures."""
    application = slow()
    for body in (b"", bytes(DATAGRAM_BYTES_MAX - 2 - len(name))):
        frame = encode_datagram(name, body, is_packed=False)
        for window in range(20):
            application.session.receive_data(frame * 1500, float(window))
        held_each = bytes_each + len(body)
        assert application.held_bytes() <= EMPTY_BYTES + DATAGRAMS_UNREAD_MAX * held_each + 1000
    assert len(application.session.next_datagrams()) == DATAGRAMS_UNREAD_MAX


@pytest.mark.parametrize("size", [0, 100, DATAGRAM_BYTES_MAX - 2])
def test_datagrams_that_wait_to_be_written_are_limited(slow, size):
    application = slow()
    taken = [
        application.session.send_datagram(encode_datagram(b"", bytes(size), is_packed=False))
        for _ in range(1000)
    ]
    assert 20 < sum(taken) < 100
    assert application.held_bytes() <= EMPTY_BYTES + DATAGRAM_BYTES_WAITING_MAX + 64 * 60 + 800
    application.session.pause_writing()
    assert application.held_bytes() <= EMPTY_BYTES + 300


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_ping_flood_of_a_peer_that_does_not_read_holds_few_answers(slow, is_paused):
    """As many pings as are tolerated, window after window of the shortest heartbeat."""
    application = slow(heartbeat=Heartbeat(interval_s=0.01, timeout_s=86_400))
    session, now, written_bytes, most_bytes = application.session, 0.0, 0, 0
    if is_paused:
        session.pause_writing()
    ping = encode_ping(Kind.PING, 1, 0, 0)
    for _ in range(2_000):
        application.receive(ping * PINGS_PER_INTERVAL_MAX, now)
        most_bytes = max(most_bytes, application.held_bytes())
        written_bytes += len(session.data_to_send(now))
        now += 0.0101
    assert session.state is State.ATTACHED
    # Between a read and the next write: the answers to the read, a warning, and the two held from before.
    assert most_bytes <= EMPTY_BYTES + (PINGS_PER_INTERVAL_MAX + 3) * 200
    assert application.held_bytes() <= EMPTY_BYTES + 3 * 200
    if is_paused:
        assert written_bytes <= PAUSED_CONTROL_FRAMES_MAX * 200
    application.receive(ping * (PINGS_PER_INTERVAL_MAX + 1), now)
    assert application.ended.code is Code.TOO_MANY_PINGS


@pytest.mark.parametrize(
    "kind", [Kind.DATA, Kind.BYE, Kind.NOTICE, Kind.PING, Kind.ACK, Kind.EOF, Kind.DATAGRAM]
)
def test_an_incomplete_frame_holds_less_than_its_limit(slow, kind):
    application = slow()
    frame = encode_frame(kind, bytes(FRAME_BYTES_MAX - 1))
    for start in range(0, len(frame) - 1, 1000):
        application.receive(frame[start : min(start + 1000, len(frame) - 1)])
    assert application.session.state is State.ATTACHED
    assert application.held_bytes() <= EMPTY_BYTES + len(frame)


def test_a_length_above_the_limit_is_refused_without_buffering(slow):
    for length in (FRAME_BYTES_MAX + 1, 2**31, 2**32 - 1):
        application = slow()
        application.receive(length.to_bytes(4, "big"))
        assert application.ended.code is Code.LIMIT_EXCEEDED
        assert application.held_bytes() <= EMPTY_BYTES


def test_a_session_shares_the_limits_of_a_peer_that_has_the_same():
    def session(peer_limits):
        return Session(
            session_id=bytes(16),
            secret=bytes(32),
            is_server=True,
            limits=SMALL,
            peer_limits=peer_limits,
            heartbeat=Heartbeat(),
            send_buffer=SendBuffer(),
        )

    assert session(structs.replace(SMALL)).outbound.peer_limits is SMALL
    other = Limits()
    assert session(other).outbound.peer_limits is other
