"""Receivers that do not read, on real sockets: who waits, what is dropped, who is ended, and what it costs."""

import asyncio
import contextlib
import logging
import os
import random
import socket
import subprocess
import sys
import threading
import time

import pytest
from tests.line_internals import link_of, session_of, transport_of

import landline
from landline.session import handshake
from landline.session.auth import Anonymous
from landline.session.constants import Kind
from landline.session.frames import encode_ping
from landline.session.handshake import ClientHandshake
from landline.session.settings import Limits

KIB = 1024
SMALL = landline.SendBuffer(size_bytes=64 * KIB, messages=128)
PATIENT = landline.Heartbeat(interval_s=60, timeout_s=60)
DROP_OLDEST, DROP_NEWEST = landline.OverflowPolicy.DROP_OLDEST, landline.OverflowPolicy.DROP_NEWEST
DISCONNECT, WAIT = landline.OverflowPolicy.DISCONNECT, landline.OverflowPolicy.WAIT


class MutePeer:
    """A client that shakes hands on a plain socket and then never reads it."""

    def __init__(self, endpoint: landline.Endpoint) -> None:
        family = socket.AF_UNIX if endpoint.scheme == "unix" else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._address = endpoint.path or (endpoint.host, endpoint.port)

    async def __aenter__(self) -> "MutePeer":
        await asyncio.to_thread(self._connect)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.socket.close()

    def _connect(self) -> None:
        self.socket.connect(self._address)
        handshake = ClientHandshake(
            random=random.SystemRandom(), auth=Anonymous(), identity="mute", limits=Limits(), resume=None
        )
        while handshake.welcome is None:
            handshake.feed(self.socket.recv(8192))
            self.may_answer.wait()
            self.socket.sendall(handshake.data_to_send())


async def read_number(line: landline.Line, count: int) -> list:
    return [await anext(line) for _ in range(count)]


async def fill(line: landline.Line, body: bytes) -> int:
    """Send until nothing more goes in, not even into the transport; returns how many went in."""
    count = 0
    while True:
        try:
            line.send_nowait(body)
        except landline.BufferFull:
            return count
        count += 1
        await asyncio.sleep(0)


# Who waits.


@pytest.mark.parametrize(("size_bytes", "fits", "count"), [(1, 128, 300), (8 * KIB, 7, 40)])
async def test_send_waits_at_either_limit_until_the_peer_acknowledges(pair, until, size_bytes, fits, count):
    sent = []

    async def send_all(line):
        for number in range(count):
            await line.send(bytes([number % 256]) * size_bytes)
            sent.append(number)

    async with pair(send_buffer=SMALL) as (line, other):
        sender = asyncio.create_task(send_all(line))
        await until(lambda: len(sent) >= fits)
        await line.ping()
        await line.ping()
        assert len(sent) == fits
        received = await read_number(other, 1)
        # Room for many frames is reported at once, for a few within the delay of acknowledgements.
        await until(lambda: len(sent) == fits + 1)
        received += await read_number(other, count - 1)
        await sender
    assert received == [bytes([number % 256]) * size_bytes for number in range(count)]


async def test_send_raises_after_its_timeout(pair):
    async with pair(send_buffer=SMALL) as (line, other):
        count = await fill(line, b"one of many")
        with pytest.raises(landline.SendTimeout):
            await line.send("too late", timeout=0.05)
        waiting = asyncio.create_task(line.send("in time", timeout=30))
        assert await read_number(other, count) == [b"one of many"] * count
        await waiting
        # What was not sent in time is not sent later.
        assert await anext(other) == "in time"


@pytest.mark.parametrize("kind", ["does not take", "does not read"])
async def test_a_receiver_that_does_not_read_stops_its_own_sender_only(quick, until, kind):
    server = landline.Server(send_buffer=SMALL, heartbeat=PATIENT)
    sent = {}

    @server.on_line
    async def serve(line):
        sent[line] = 0
        for number in range(3000):
            await line.send(number)
            sent[line] += 1

    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        url = str(endpoint)
        idle = landline.connect(url, backoff=quick) if kind == "does not take" else MutePeer(endpoint)
        async with idle:
            await until(lambda: server.lines and sent.get(server.lines[0], 0) >= 128)
            [stuck] = server.lines
            async with (
                landline.connect(url, backoff=quick) as one,
                landline.connect(url, backoff=quick) as two,
            ):
                assert (
                    await asyncio.gather(read_number(one, 3000), read_number(two, 3000))
                    == [list(range(3000))] * 2
                )
            assert sent[stuck] == 128
            assert not stuck.is_closed
            stuck.abort(landline.Code.NORMAL)


async def test_unread_tiny_messages_are_limited_with_their_overhead_in_python(pair, until):
    server = landline.Server(limits=landline.Limits(window_frames=1000))
    async with pair(server) as (line, other):
        sender = asyncio.create_task(send_many(line, 5000))
        await until(lambda: session_of(other).inbound.received == 1000)
        await line.ping()
        assert session_of(other).inbound.received == 1000
        assert 1000 * 100 <= server.memory_held_bytes <= 1000 * 250
        assert await read_number(other, 5000) == [b""] * 5000
        await sender
        assert server.memory_held_bytes == 0


async def send_many(line, count):
    for _ in range(count):
        await line.send(b"")


# The policies.


async def test_without_room_the_newest_or_the_oldest_is_dropped_and_counted(pair, until, caplog):
    caplog.set_level(logging.INFO, "landline")
    server = landline.Server(send_buffer=SMALL)
    async with pair(server) as (line, other):
        other.break_link()  # Until it is resumed everything waits, and what waits has no number.
        assert await other.send("promised")
        for number in range(127):
            assert await other.send(number, overflow=DROP_OLDEST)
        assert other.messages_dropped == 0
        # What is promised once taken goes before what may be dropped.
        assert other.send_nowait("newest", overflow=DROP_NEWEST)
        for number in range(127, 137):
            assert other.send_nowait(number, overflow=DROP_OLDEST)
        assert other.messages_dropped == 11
        assert other.send_nowait("promised too")
        assert other.messages_dropped == server.messages_dropped == 12
        assert await read_number(line, 128) == [
            "promised",
            *range(12, 127),
            "newest",
            *range(127, 137),
            "promised too",
        ]
        assert await other.drain()
        assert caplog.text.count("is too slow: its send buffer is full") == 1
        assert caplog.text.count("accepts messages again; 12 were dropped so far") == 1
    assert server.messages_dropped == 12


async def test_accepted_messages_are_not_dropped_for_others(pair):
    server = landline.Server(send_buffer=SMALL)
    async with pair(server) as (line, other):
        other.break_link()
        for number in range(128):
            other.send_nowait(number)
        assert not await other.send("new", overflow=DROP_OLDEST)
        assert not await other.send("new", overflow=DROP_NEWEST)
        with pytest.raises(landline.BufferFull):
            other.send_nowait("new", overflow=WAIT)
        assert other.messages_dropped == 2
        assert await read_number(line, 128) == list(range(128))


async def test_max_pending_keeps_only_the_newest_messages_of_a_name(pair, caplog):
    server = landline.Server(send_buffer=SMALL)
    async with pair(server) as (line, other):
        other.break_link()
        for number in range(1000):
            assert other.send_nowait(number, overflow=DROP_OLDEST, max_pending=1)
        other.send_nowait("end")
        assert await read_number(line, 2) == [999, "end"]
        assert other.messages_dropped == server.messages_dropped == 999
        # It was asked for.
        assert "too slow" not in caplog.text


async def test_droppable_messages_do_not_delay_waiting_senders(pair, until):
    server = landline.Server(send_buffer=SMALL)
    async with pair(server) as (line, other):
        for number in range(128):
            other.send_nowait(number)
        senders = [asyncio.create_task(other.send(number)) for number in range(128, 133)]
        await asyncio.sleep(0)
        assert not other.send_nowait("dropped", overflow=DROP_NEWEST)
        assert not other.send_nowait("dropped too", overflow=DROP_OLDEST)
        assert await read_number(line, 133) == list(range(133))
        await asyncio.gather(*senders)


async def test_disconnect_ends_a_line_whose_buffer_is_full(pair, until, states):
    server = landline.Server(send_buffer=SMALL)
    lost = []

    @server.on_session_lost
    def record(line, unconfirmed):
        lost.extend(unconfirmed)

    seen = states()
    async with pair(server, on_state=seen) as (line, other):
        # The client stops reading, and what goes beyond the sockets' buffers stays with us.
        transport_of(line).pause_reading()
        assert await fill(other, bytes(1000)) >= 60
        held = len(lost)
        reader = asyncio.create_task(anext(other))
        await asyncio.sleep(0)
        with pytest.raises(landline.LineClosed, match="send buffer is full") as refused:
            await other.send("urgent", overflow=DISCONNECT)
        assert refused.value.code is landline.Code.TOO_SLOW
        assert (held, len(lost) > 0) == (0, True)
        assert other.is_closed
        assert other.last_change.cause is landline.DisconnectCause.TOO_SLOW
        with pytest.raises(landline.LineClosed):
            await reader
        assert server.lines_too_slow == 1
        transport_of(line).resume_reading()
        # It receives the reason, and may come back.
        await until(lambda: [change for change in seen.changes if "send buffer is full" in change.detail])
        await until(lambda: line.state is landline.LineState.ONLINE and line.epoch == 1)


async def test_disconnect_ends_the_line_of_a_client_too(pair):
    async with pair(send_buffer=SMALL) as (line, _):
        for number in range(128):
            line.send_nowait(number)
        with pytest.raises(landline.SessionLost) as lost:
            await line.send("urgent", overflow=DISCONNECT)
        assert [entry.is_packed for entry in lost.value.unconfirmed] == [True] * 128
        assert lost.value.code is landline.Code.TOO_SLOW
        assert line.is_closed
        with pytest.raises(landline.SessionLost):
            await line.send("again", overflow=DROP_OLDEST)


async def test_every_policy_sends_while_there_is_room(pair):
    async with pair() as (line, other):
        for policy in landline.OverflowPolicy:
            assert await line.send(policy.value, overflow=policy) is True
            assert line.send_nowait(policy.value, overflow=policy) is True
        assert await read_number(other, 8) == [
            policy.value for policy in landline.OverflowPolicy for _ in "12"
        ]
        assert line.messages_dropped == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"overflow": "wait"}, "overflow='wait' is not a landline.OverflowPolicy"),
        ({"max_pending": 1}, "max_pending=1 with overflow=WAIT"),
        ({"overflow": DROP_NEWEST, "max_pending": 1}, "max_pending=1 with overflow=DROP_NEWEST"),
        ({"overflow": DROP_OLDEST, "max_pending": 0}, "max_pending=0"),
    ],
)
async def test_invalid_policies_raise(pair, options, text):
    server = landline.Server()
    async with pair(server) as (line, _):
        with pytest.raises(landline.ConfigurationError, match=text):
            await line.send(1, **options)
        with pytest.raises(landline.ConfigurationError, match=text):
            line.send_nowait(1, **options)
        if options != {"max_pending": 1}:
            with pytest.raises(landline.ConfigurationError, match=text):
                server.broadcast(1, **options)
        with pytest.raises(landline.ConfigurationError, match="a broadcast does not wait"):
            server.group("all").broadcast(1, overflow=WAIT)


async def test_a_broadcast_does_what_its_policy_says(pair, quick, until):
    server = landline.Server(send_buffer=SMALL, resume_window_s=0)
    async with server.listen("tcp://127.0.0.1:0") as endpoint, landline.connect(str(endpoint)) as line:
        [live] = server.lines
        async with MutePeer(endpoint):
            await until(lambda: len(server.lines) == 2)
            mute = server.lines[1]
            session_of(mute).pause_writing()  # As its transport will, in the end.
            for number in range(128):
                assert server.broadcast(number, overflow=DROP_OLDEST) == landline.BroadcastResult(2, 0)
                assert await anext(line) == number
            assert await live.drain()
            assert server.broadcast("a", overflow=DROP_OLDEST) == landline.BroadcastResult(2, 0, 0, 1)
            for number in range(128):
                server.broadcast(number)
                assert await anext(line) == ("a" if number == 0 else number - 1)
            assert mute.messages_dropped == server.messages_dropped == 129
            assert await anext(line) == 127
            assert await live.drain()
            assert server.broadcast("b") == landline.BroadcastResult(1, 1)
            assert server.broadcast("c", overflow=DISCONNECT) == landline.BroadcastResult(1, 0, 1)
            assert server.lines == [live]
            assert server.lines_too_slow == 1
            assert server.messages_dropped == 130
            assert await read_number(line, 2) == ["b", "c"]


# The memory of all lines.


async def test_only_the_line_that_holds_the_most_memory_is_ended(quick, until, caplog):
    server = landline.Server(memory_bytes=1024 * KIB)
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        url = str(endpoint)
        async with landline.connect(url, backoff=quick) as one, landline.connect(url, backoff=quick):
            first, second = server.lines
            await second.send(bytes(200 * KIB))
            for _ in range(9):
                await first.send(bytes(100 * KIB))
            await first.ping()
            assert 1100 * KIB < server.memory_held_bytes < 2300 * KIB
            await until(lambda: first.is_closed)
            assert not second.is_closed
            assert first.last_change.code is landline.Code.TOO_SLOW
            assert 200 * KIB < server.memory_held_bytes < 500 * KIB
            assert server.lines_too_slow == 1
            assert "the 1 lines that held the most were ended" in caplog.text
            # It may come back, with a new session.
            await until(lambda: len(server.lines) == 2)
            [again] = set(server.lines) - {second}
            await again.send("hello")
            assert await read_number(one, 10) == [bytes(100 * KIB)] * 9 + ["hello"]


async def test_unacknowledged_messages_and_detached_lines_count_as_memory(quick, until):
    server = landline.Server(memory_bytes=1024 * KIB)
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        async with landline.connect(str(endpoint), backoff=quick) as line:
            [other] = server.lines
            for _ in range(12):
                await line.send(bytes(100 * KIB))
            await until(lambda: other.is_closed)
            assert server.lines_too_slow == 1
            await until(lambda: line.is_closed)
        [] = server.lines
        mute = MutePeer(endpoint)
        async with mute:
            await until(lambda: server.lines)
        [away] = server.lines
        await until(lambda: away.state is landline.LineState.RECONNECTING)
        for _ in range(6):
            away.send_nowait(bytes(200 * KIB))
        await until(lambda: away.is_closed)
        assert server.memory_held_bytes == 0


async def test_a_broadcast_above_the_memory_limit_ends_lines_at_once(pair):
    server = landline.Server(memory_bytes=1024 * KIB)
    async with pair(server) as (_, other):
        other.break_link()
        for _ in range(6):
            assert server.broadcast(bytes(200 * KIB)).sent == 1
        assert other.is_closed


def test_an_invalid_memory_limit_raises():
    with pytest.raises(landline.ConfigurationError, match="memory_bytes=1000"):
        landline.Server(memory_bytes=1000)


# Transports that never drain.


def open_sockets() -> int:
    paths = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sum(os.path.exists(path) and os.readlink(path).startswith("socket:") for path in paths)


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
@pytest.mark.parametrize("how", ["end", "protocol error", "server closes"])
async def test_a_closed_transport_that_the_peer_does_not_read_is_aborted(
    scheme, how, tmp_path, until, monkeypatch
):
    monkeypatch.setattr("landline.transports.linger.LINGER_TIMEOUT_S", 0.1)
    url = f"unix://{tmp_path}/line" if scheme == "unix" else "tcp://127.0.0.1:0"
    server = landline.Server(heartbeat=PATIENT)
    async with server.listen(url) as endpoint:
        before = open_sockets()
        async with MutePeer(endpoint) as mute:
            await until(lambda: server.lines)
            [line] = server.lines
            assert open_sockets() == before + 2
            await fill(line, bytes(1000 * KIB))
            if how == "end":
                line.abort(landline.Code.NORMAL)
            elif how == "protocol error":
                mute.socket.sendall(bytes(100))
                await until(lambda: line.is_closed)
            else:
                await server.close(timeout=0)
                before -= 1  # Its own listening socket.
            assert line.is_closed
            await until(lambda: open_sockets() == before + 1)


async def test_a_replaced_transport_that_the_peer_does_not_read_is_aborted(pair, until, monkeypatch):
    monkeypatch.setattr("landline.transports.linger.LINGER_TIMEOUT_S", 0.1)
    server = landline.Server(heartbeat=PATIENT)
    async with pair(server) as (line, other):
        abandoned = transport_of(line)
        abandoned.pause_reading()
        count = await fill(other, bytes(1000 * KIB))
        sockets = open_sockets()
        # The client gives its transport up without a word to the server.
        link_of(line).transport = unheard_of = MuteTransport(abandoned)
        line.break_link()
        assert unheard_of.is_aborted
        await until(lambda: other.epoch == 2)
        await until(lambda: open_sockets() == sockets + 1)
        assert await read_number(line, count) == [bytes(1000 * KIB)] * count
        abandoned.abort()


class MuteTransport:
    """Stands for a transport whose socket stays open though it was aborted, as after the loss of a route."""

    def __init__(self, transport) -> None:
        self._transport = transport
        self.is_aborted = False

    def get_extra_info(self, name):
        return self._transport.get_extra_info(name)

    def abort(self) -> None:
        self.is_aborted = True


async def test_a_refused_client_that_does_not_read_is_disconnected(until):
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        before = open_sockets()
        with socket.create_connection((endpoint.host, endpoint.port)) as peer:
            await until(lambda: open_sockets() == before + 2)
            peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
            await until(lambda: open_sockets() == before + 1)


# Who was late.


class BusyPeer(threading.Thread):
    """A client in a thread of its own that says something all the time, whatever becomes of the server's loop."""

    def __init__(self, endpoint: landline.Endpoint) -> None:
        super().__init__()
        self.peer = MutePeer(endpoint)
        self.stops = threading.Event()
        self.start()

    def run(self) -> None:
        self.peer._connect()
        number = 0
        with self.peer.socket:
            while not self.stops.wait(0.15):
                number += 1
                self.peer.socket.sendall(encode_ping(Kind.PING, number, 0, 0))


@pytest.mark.parametrize("blocked_s", [0.62, 0.7, 0.95, 1.3])
async def test_a_blocked_event_loop_does_not_suspect_live_peers(blocked_s, until, states):
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=0.3, timeout_s=0.3))
    seen = states()
    server.on_state(seen)
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        peers = [BusyPeer(endpoint) for _ in range(5)]
        await until(lambda: len(server.lines) == 5)
        for turn in range(3):
            time.sleep(blocked_s)
            await asyncio.sleep(0.1 * turn)
        await asyncio.sleep(0.7)
        for peer in peers:
            peer.stops.set()
        assert {line.state for line in server.lines} == {landline.LineState.ONLINE}
        assert not seen.find(landline.LineState.RECONNECTING)
        assert [line.epoch for line in server.lines] == [1] * 5
        for peer in peers:
            await asyncio.to_thread(peer.join)


@pytest.mark.parametrize("blocked_s", [0.62, 0.8])
async def test_a_blocking_callback_ends_no_other_line(blocked_s, until, states):
    """Called by the timer that judges the others next, before anything can be read."""
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=0.3, timeout_s=0.3))
    gone = []

    @server.on_state
    def changed(line, change):
        if change.state is landline.LineState.SUSPECT and line is silent:
            time.sleep(blocked_s)
        if change.state is landline.LineState.RECONNECTING:
            gone.append(line)

    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        peers = [BusyPeer(endpoint) for _ in range(5)]
        await until(lambda: len(server.lines) == 5)
        async with MutePeer(endpoint):
            await until(lambda: len(server.lines) == 6)
            silent = server.lines[-1]
            await until(lambda: gone)
            await asyncio.sleep(0.5)
        for peer in peers:
            peer.stops.set()
        assert gone == [silent]
        assert [line.epoch for line in server.lines] == [1] * 6
        for peer in peers:
            await asyncio.to_thread(peer.join)


async def test_after_blocking_the_loop_reads_before_a_handshake_times_out(until, monkeypatch):
    monkeypatch.setattr(handshake.ServerHandshake.__init__, "__kwdefaults__", {"timeout_s": 0.3})
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint, landline.connect(str(endpoint)) as line:
        peer = MutePeer(endpoint)
        peer.may_answer.clear()

        # Blocked while it reads: event loops look at their timers before they read again.
        @server.on_message
        def block(line, message):
            peer.may_answer.set()
            time.sleep(0.7)

        connecting = asyncio.create_task(asyncio.to_thread(peer._connect))
        await until(lambda: server._host.acceptor.unfinished)
        line.send_nowait("block")
        await connecting
        await until(lambda: len(server.lines) == 2)
        peer.socket.close()


async def test_after_blocking_sessions_whose_clients_reconnect_are_resumed(until, quick):
    server = landline.Server(resume_window_s=0.3)
    async with server.listen("tcp://127.0.0.1:0") as endpoint, landline.connect(str(endpoint)) as line:
        [other] = server.lines
        other.break_link()
        time.sleep(1.0)
        await until(lambda: line.epoch == 2 or line.session_id != other.session_id)
        assert line.epoch == 2
        assert server.lines == [other]


# A thousand lines.

SERVER = """
import asyncio, sys
import landline

def private_bytes():
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Anonymous:"))

async def main():
    server = landline.Server(
        send_buffer=landline.SendBuffer(size_bytes=128 * 1024, messages=256),
        heartbeat=landline.Heartbeat(interval_s=60, timeout_s=60),
    )
    lines = await asyncio.get_running_loop().run_in_executor(None, int, sys.argv[1])
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        print(endpoint.port, flush=True)
        while len(server.lines) < lines:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        before, least, skipped = private_bytes(), lines, 0
        for turn in range(20):
            for number in range(10):
                result = server.broadcast(bytes(2048))
                least, skipped = min(least, result.sent), skipped + result.skipped
            mute = [line for line in server.lines if line.identity == "mute"]
            for line in server.lines:
                if line.identity != "mute":
                    await line.drain(30)
        group = server.group("mute")
        for line in mute:
            group.add(line)
        for number in range(5000):
            skipped += group.broadcast(bytes(8192)).skipped
        grown = private_bytes() - before
        held = sum(line.buffered_bytes for line in mute)
        print(least, skipped, server.messages_dropped, len(mute), held, grown, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        server.broadcast("end")
        await server.close(timeout=1)

landline.run(main())
"""


@pytest.mark.timeout(600)
async def test_a_broadcast_to_a_thousand_lines_of_which_ten_never_read(until):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, "1000", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    received = []

    def take(line, message):
        received[line.data] += 1

    async with contextlib.AsyncExitStack() as stack:
        stack.callback(lambda: process.returncode is None and process.kill())
        endpoint = landline.parse_url(f"tcp://127.0.0.1:{int(await process.stdout.readline())}")
        for _ in range(10):
            await stack.enter_async_context(MutePeer(endpoint))
        for number in range(990):
            connector = landline.connect(str(endpoint))
            connector.on_message(take)
            received.append(0)
            line = await connector
            line.data = number
            stack.push_async_callback(line.close, timeout=0)
        figures = [int(figure) for figure in (await process.stdout.readline()).split()]
        least, skipped, dropped, mute, held, grown = figures
        # The server has written them all; what is under way is still to be read here.
        await until(lambda: received == [200] * 990)
        assert least == 990
        assert mute == 10
        assert skipped == dropped
        # 200 messages of 2 KiB and 5000 of 8 KiB, of which 128 KiB are kept for each.
        assert skipped >= 10 * 5100
        assert held <= 10 * 128 * KIB
        # Unbounded it would be 400 MB. Freed memory of the interpreter is part of what it grew by.
        assert grown < 32 * 1024 * KIB
        process.kill()
        await process.wait()
