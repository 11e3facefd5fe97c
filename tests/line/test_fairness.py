"""One connection never holds the event loop: what it has to say is handled in turns, in order and whole."""

import asyncio
import contextlib
import random

import pytest
from tests.line_internals import driver_of, session_of
from tests.raw_connections import raw_connection, read_frame, shake_hands

import landline
from landline.codes import Code, Operation
from landline.line.driver import LineDriver
from landline.runtime.turns import FRAMES_PER_STEP, FRAMES_PER_TURN
from landline.session.auth import Anonymous
from landline.session.bodies import Bye, Notice, decode_body, encode_body
from landline.session.constants import (
    DATAGRAMS_REFUSED,
    FLAG_MORE,
    FRAGMENT_BYTES,
    REDUNDANT_FRAMES_MAX,
    Kind,
)
from landline.session.frames import (
    ByeFinder,
    encode_ack,
    encode_data,
    encode_datagram,
    encode_eof,
    encode_ping,
)
from landline.session.handshake import ClientHandshake
from landline.session.settings import Limits
from landline.transports import linger as lingering
from landline.transports.base import LinkProtocol, load_transport
from landline.transports.options import TransportOptions

SCHEMES = ["tcp", "tls", "unix", "ws", "wss", "quic"]
HEARTBEAT = landline.Heartbeat(interval_s=0.2, timeout_s=5.0)
MESSAGES = 6000


class Peer(LinkProtocol):
    """A client over any transport that sends only the given bytes."""

    def __init__(self):
        loop = asyncio.get_running_loop()
        self.welcomed, self.lost = loop.create_future(), loop.create_future()
        self.received = b""
        self._handshake = ClientHandshake(
            random=random.SystemRandom(), auth=Anonymous(), identity="peer", limits=Limits(), resume=None
        )

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if self.welcomed.done():
            self.received += data
            return
        self.received = self._handshake.feed(data)
        self.transport.write(self._handshake.data_to_send())
        if self._handshake.welcome is not None:
            self.welcomed.set_result(None)

    def connection_lost(self, exc):
        self.lost.set_result(exc)


@pytest.fixture
def options(certificates, tmp_path):
    """Return the options of the server and of its clients."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")

    def choose(scheme):
        if scheme == "quic":
            return (
                TransportOptions(certificate_file=tmp_path / "server.pem"),
                TransportOptions(ca_file=tmp_path / "ca.pem"),
            )
        if scheme in {"tls", "wss"}:
            return TransportOptions(tls=certificates.server), TransportOptions(tls=certificates.client)
        return TransportOptions(), TransportOptions()

    return choose


@pytest.fixture
def listen(options, tmp_path, datagrams_end):
    """Serves over a scheme; yields what a client needs."""

    @contextlib.asynccontextmanager
    async def open_it(server, scheme):
        here, there = options(scheme)
        url = f"unix://{tmp_path / 'socket'}" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
        async with server.listen(url, options=here) as endpoint:
            yield endpoint, there

    return open_it


@contextlib.asynccontextmanager
async def open_peer(endpoint, options):
    peer = Peer()
    await load_transport(endpoint).connect(endpoint, lambda: peer, options)
    try:
        await peer.welcomed
        yield peer
    finally:
        if not peer.lost.done():
            peer.transport.abort()
        await peer.lost


class Numbers:
    """A server that notes the numbers of messages."""

    def __init__(self, **arguments):
        self.server = landline.Server(**{"heartbeat": HEARTBEAT, **arguments})
        self.seen = []

        @self.server.on("number")
        def take(line, number):
            self.seen.append(number)

        @self.server.on("seen")
        def say(line, body):
            return len(self.seen)


@pytest.fixture
def handled(monkeypatch):
    """Return how many numbered frames were handled in each turn of a connection."""
    counts = []
    receive_data = LineDriver.receive_data

    def count(driver, data):
        before = driver.session.inbound.received
        receive_data(driver, data)
        if driver.session is not None:
            counts.append(driver.session.inbound.received - before)

    monkeypatch.setattr(LineDriver, "receive_data", count)
    return counts


def number_frames(count, first=1):
    packed = [bytes([0xCD]) + number.to_bytes(2, "big") for number in range(first, first + count)]
    return b"".join(
        encode_data(number, 4, Operation.MESSAGE, 0, b"number", body)
        for number, body in enumerate(packed, first)
    )


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_request_is_answered_while_bytes_of_another_peer_wait(listen, handled, scheme):
    numbers = Numbers()
    async with (
        listen(numbers.server, scheme) as (endpoint, options),
        landline.connect(str(endpoint), options=options) as honest,
        open_peer(endpoint, options) as peer,
    ):
        peer.transport.write(number_frames(MESSAGES))
        between = set()
        while len(numbers.seen) < MESSAGES:
            between.add(await honest.request("seen"))
        assert numbers.seen == list(range(1, MESSAGES + 1))
        assert max(handled) <= FRAMES_PER_TURN
        # It had its turns between those of the other.
        assert len([count for count in between if 0 < count < MESSAGES]) >= 3
        assert honest.epoch == 1


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_websocket_frames_of_one_byte_are_read_in_turns_and_in_order(listen, handled, scheme):
    numbers = Numbers()
    count = 600
    async with (
        listen(numbers.server, scheme) as (endpoint, options),
        landline.connect(str(endpoint), options=options) as honest,
        open_peer(endpoint, options) as peer,
    ):
        stream = number_frames(count)
        below = peer.transport._transport
        below.write(b"".join(b"\x82\x81\0\0\0\0" + bytes([byte]) for byte in stream))
        between = set()
        while len(numbers.seen) < count:
            between.add(await honest.request("seen"))
        assert numbers.seen == list(range(1, count + 1))
        # The bytes of them in one turn, and the rest of our frame from the turn before.
        assert max(handled) <= 1 + FRAMES_PER_TURN // (len(stream) // count)
        assert len(between) > 10


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_bye_and_the_end_of_a_connection_come_after_waiting_messages(listen, until, scheme):
    numbers = Numbers()
    async with listen(numbers.server, scheme) as (endpoint, options), open_peer(endpoint, options) as peer:
        [line] = numbers.server.lines
        goodbye = encode_body(Kind.BYE, Bye(int(Code.NORMAL), "that was all"))
        peer.transport.write(number_frames(MESSAGES) + goodbye)
        await until(lambda: line.is_closed)
        assert numbers.seen == list(range(1, MESSAGES + 1))
        assert line.last_change.cause is landline.DisconnectCause.CLOSED_BY_PEER
        assert line.last_change.detail == "that was all"


@pytest.mark.parametrize("scheme", ["tcp", "unix", "ws", "quic"])
async def test_a_broken_connection_is_reported_after_waiting_messages(listen, until, scheme):
    numbers = Numbers()
    states = []
    numbers.server.on_state(lambda line, change: states.append((change.state.value, len(numbers.seen))))
    async with listen(numbers.server, scheme) as (endpoint, options), open_peer(endpoint, options) as peer:
        peer.transport.write(number_frames(MESSAGES))
        # To close a socket of TCP with bytes unread would reset it, and so lose what the server has not read yet.
        (peer.transport.write_eof if peer.transport.can_write_eof() else peer.transport.close)()
        await until(lambda: "reconnecting" in dict(states))
        assert dict(states)["reconnecting"] == MESSAGES
        assert numbers.seen == list(range(1, MESSAGES + 1))


async def test_a_half_close_comes_after_waiting_messages(listen):
    numbers = Numbers()
    ended = asyncio.get_running_loop().create_future()

    @numbers.server.on_line
    async def read(line):
        async for _ in line:
            pass
        ended.set_result(len(numbers.seen))

    async with listen(numbers.server, "tcp") as (endpoint, options), open_peer(endpoint, options) as peer:
        peer.transport.write(number_frames(MESSAGES) + encode_eof(MESSAGES + 1))
        assert await ended == MESSAGES


async def test_a_newer_connection_replaces_one_whose_bytes_wait(pair, until):
    """What waited counts as not received, so the client sends it again: every number once."""
    numbers = Numbers()
    async with pair(numbers.server) as (line, _other):
        for number in range(MESSAGES):
            await line.send(number, name="number")
            if number % 1000 == 500:
                await asyncio.sleep(0)
                line.break_link()
        assert await line.drain(None)
        assert numbers.seen == list(range(MESSAGES))


async def test_large_messages_arrive_complete_and_in_order(listen):
    server = landline.Server()
    received = []
    server.on_message(lambda line, body: received.append(body))
    async with (
        listen(server, "tcp") as (endpoint, options),
        landline.connect(str(endpoint), options=options) as line,
    ):
        sent = [bytes([number]) * (FRAGMENT_BYTES * number) for number in range(1, 60)]
        for body in sent:
            await line.send(body)
        assert await line.drain(None)
        assert received == sent


NUMBERED = [encode_data(number, 0, Operation.MESSAGE, 0, b"", b"x") for number in (1, 2)]
FRAGMENTS = [
    encode_data(number, FLAG_MORE, 1 if number == 1 else 0, 0, b"", b"x")
    for number in range(1, REDUNDANT_FRAMES_MAX + 2)
]
FLOODS = {
    "NOTICE": [encode_body(Kind.NOTICE, Notice(1))] * (REDUNDANT_FRAMES_MAX + 1),
    "ACK": [encode_ack(0)] * (REDUNDANT_FRAMES_MAX + 1),
    "PONG": [encode_ping(Kind.PONG, 1, 0, 0)] * (REDUNDANT_FRAMES_MAX + 1),
    "DATA": [NUMBERED[0]] * (Limits().window_frames + 2),
    "EOF": [encode_eof(1)] * (Limits().window_frames + 2),
    "fragments": FRAGMENTS,
    "datagrams": [encode_datagram(b"", b"", is_packed=False)] * DATAGRAMS_REFUSED,
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_ends_with_a_bye_that_names_the_reason(monkeypatch, kind):
    """Time stands still for the server, so that all of it falls into one window."""
    server = landline.Server(clock=lambda: 1000.0)
    async with server.listen("tcp://127.0.0.1:0") as endpoint, raw_connection(endpoint) as (reader, writer):
        await shake_hands(reader, writer)
        *most, last = FLOODS[kind]
        writer.write(b"".join(most) + encode_ping(Kind.PING, 7, 0, 0))
        answers = []
        while True:
            number, body = await read_frame(reader)
            answers.append(Kind(number))
            if number == Kind.PONG:
                break
        # All of it was taken, but one more is too many.
        assert Kind.BYE not in answers
        writer.write(last)
        number, body = await read_frame(reader)
        while number != Kind.BYE:
            number, body = await read_frame(reader)
        assert decode_body(body, Bye).code == Code.LIMIT_EXCEEDED


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["NOTICE", "ACK", "PONG", "EOF", "messages"])
async def test_other_lines_stay_online_during_a_flood(listen, until, scheme, kind):
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=0.1, timeout_s=5.0))
    server.on_message(lambda line, body: None)
    server.on("echo")(lambda line, body: body)
    async with (
        listen(server, scheme) as (endpoint, options),
        landline.connect(str(endpoint), options=options) as honest,
        open_peer(endpoint, options) as peer,
    ):
        [first] = [line for line in server.lines if line.identity == "peer"]
        frames = [number_frames(20_000)] if kind == "messages" else FLOODS[kind] * 10
        peer.transport.write(b"".join(frames))
        pings = 0
        while pings < 5 or (kind != "messages" and not first.is_closed):
            assert await honest.request("echo", pings) == pings
            await honest.ping()
            pings += 1
        assert (honest.epoch, honest.state) == (1, landline.LineState.ONLINE)
        if kind != "messages":
            assert first.last_change.code is Code.LIMIT_EXCEEDED


async def test_a_correct_peer_at_full_speed_is_not_a_flood(pair):
    """A resume with a full window to send again, requests, pings, and datagrams without a pause."""
    server = landline.Server()
    count = 0

    @server.on_message
    def take(line, body):
        nonlocal count
        count += 1

    server.on("echo")(lambda line, body: body)
    server.on_datagram(lambda line, body: None)
    async with pair(server) as (line, other):
        for _ in range(3):
            for number in range(Limits().window_frames):
                line.send_nowait(number)
            line.break_link()
            await asyncio.gather(*(line.request("echo", number) for number in range(500)))
        for number in range(30_000):
            line.send_datagram(number)
            if number % 60 == 0:
                await asyncio.sleep(0)
        await line.ping()
        assert await line.drain(None)
        assert count == 3 * Limits().window_frames
        assert not other.is_closed
        assert line.datagrams_dropped + other.datagrams_ignored < 30_000


class Counter:
    """Counts the turns of the event loop."""

    def __init__(self):
        self.turns = 0
        self._task = asyncio.create_task(self._count())

    async def _count(self):
        while True:
            await asyncio.sleep(0)
            self.turns += 1

    def stop(self):
        self._task.cancel()


@pytest.fixture
def counter():
    made = []

    def make():
        made.append(Counter())
        return made[-1]

    yield make
    for one in made:
        one.stop()


async def test_a_task_that_only_reads_does_not_block_the_loop(pair, until, counter):
    async with pair() as (line, other):
        for number in range(5000):
            line.send_nowait(number)
        await until(
            lambda: driver_of(other).inbox is not None and len(driver_of(other).inbox.messages) == 5000
        )
        turns = counter()
        await asyncio.sleep(0)
        before = turns.turns
        for number in range(5000):
            assert await anext(other) == number
        assert turns.turns - before >= 5000 // FRAMES_PER_TURN - 1


async def test_coroutine_handlers_that_never_wait_do_not_block_the_loop(pair, counter):
    server = landline.Server()
    seen = []

    @server.on("number")
    async def take(line, number):
        seen.append((number, turns.turns))

    async with pair(server) as (line, _other):
        turns = counter()
        for number in range(5000):
            line.send_nowait(number, name="number")
        assert await line.drain(None)
        assert [number for number, _ in seen] == list(range(5000))
        turn_of = [turn for _, turn in seen]
        assert max(turn_of.count(turn) for turn in set(turn_of)) <= FRAMES_PER_TURN


async def test_requests_that_waited_for_room_are_answered_in_turns(until, counter):
    """A peer that takes no answers for a while, and then all at once."""
    server = landline.Server(send_buffer=landline.SendBuffer(messages=2000))
    answered = []

    @server.on("echo")
    def echo(line, body):
        answered.append(turns.turns)
        return body

    async with server.listen("tcp://127.0.0.1:0") as endpoint, raw_connection(endpoint) as (reader, writer):
        await shake_hands(reader, writer)
        [line] = server.lines
        turns = counter()
        count = 6000
        writer.write(
            b"".join(
                encode_data(number, 0, Operation.REQUEST, number, b"echo", b"") for number in range(1, count)
            )
        )
        await until(lambda: session_of(line).inbound.received == count - 1)
        assert len(answered) == 2000
        writer.write(encode_ack(2000) + encode_ping(Kind.PING, 1, 0, 0))
        await until(lambda: len(answered) == 4000)
        late = answered[2000:]
        assert max(late.count(turn) for turn in set(late)) <= FRAMES_PER_TURN
        line.abort(Code.NORMAL)


async def test_bytes_that_wait_for_a_turn_count_as_memory(until):
    numbers = Numbers()
    most = 0

    @numbers.server.on("held")
    def note(line, body):
        nonlocal most
        most = max(most, numbers.server.memory_held_bytes)

    async with listen_tcp(numbers.server) as endpoint, open_peer(endpoint, TransportOptions()) as peer:
        stream = b"".join(
            encode_data(number, 4, Operation.MESSAGE, 0, b"held", b"\xc0") for number in range(1, 8001)
        )
        peer.transport.write(stream)
        [line] = numbers.server.lines
        await until(lambda: session_of(line).inbound.received == 8000)
        assert FRAMES_PER_STEP * 30 < most <= 2 * 256 * 1024 + 200 * FRAMES_PER_STEP


@contextlib.asynccontextmanager
async def listen_tcp(server):
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        yield endpoint


class Discarded:
    """A transport whose input is discarded."""

    def __init__(self):
        self.is_paused = self.is_closed = False

    def set_protocol(self, protocol):
        self.protocol = protocol

    def can_write_eof(self):
        return False

    def pause_reading(self):
        self.is_paused = True

    def resume_reading(self):
        self.is_paused = False

    def close(self):
        self.is_closed = True

    def abort(self):
        self.is_closed = True


async def test_discarded_bytes_are_scanned_in_turns(until):
    """After its BYE a side still reads, for the peer's BYE; a peer may flood meanwhile."""
    transport, finder = Discarded(), ByeFinder()
    seen = []

    def look(data):
        seen.append(len(data))
        return finder.feed(data)

    rest = encode_ack(1) * 1000
    lingering.linger(asyncio.get_running_loop(), transport, detect_bye=look, trailing_data=rest)
    flood = encode_ack(1) * 10_000
    transport.protocol.data_received(flood)
    first = sum(seen)
    assert first <= len(rest) + lingering.SCAN_BYTES_PER_TURN
    assert transport.is_paused
    # Bytes that a transport delivers nevertheless are queued after it.
    transport.protocol.data_received(encode_body(Kind.BYE, Bye(int(Code.NORMAL))) + flood)
    assert sum(seen) == first
    await until(lambda: transport.is_closed)
    assert max(seen) <= lingering.SCAN_BYTES
    assert len(rest) + len(flood) < sum(seen) < len(rest) + 2 * len(flood)
    transport.protocol.connection_lost(None)


async def test_reading_resumes_after_the_discarded_bytes_are_scanned(until):
    transport = Discarded()
    lingering.linger(asyncio.get_running_loop(), transport, detect_bye=ByeFinder().feed)
    transport.protocol.data_received(encode_ack(1) * 10_000)
    assert transport.is_paused
    await until(lambda: not transport.is_paused)
    assert not transport.is_closed
    # One that ends meanwhile is left alone.
    transport.protocol.data_received(encode_ack(1) * 10_000)
    assert transport.is_paused
    transport.protocol.connection_lost(None)
    for _ in range(5):
        await asyncio.sleep(0)
    assert transport.is_paused


async def test_bytes_of_an_ended_flood_are_discarded_in_turns(until, counter, monkeypatch):
    """Megabytes that were on their way when it was ended."""
    reads = []
    data_received = lingering.LingeringClose.data_received

    def count(self, data):
        reads.append((turns.turns, len(data)))
        data_received(self, data)

    monkeypatch.setattr(lingering.LingeringClose, "data_received", count)
    # However fast this machine is.
    monkeypatch.setattr("landline.runtime.turns.TURN_S", 0.0)
    server = landline.Server()
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        open_peer(endpoint, TransportOptions()) as peer,
    ):
        turns = counter()
        peer.transport.write(FLOODS["NOTICE"][0] * 400_000)
        await until(lambda: peer.lost.done() or not server.lines)
        await until(lambda: peer.lost.done() or sum(size for _, size in reads) > 1_000_000)
    large = [turn for turn, size in reads if size >= 64 * 1024]
    assert max((large.count(turn) for turn in set(large)), default=0) <= 2
