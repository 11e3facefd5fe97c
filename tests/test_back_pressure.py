"""Receivers that do not read, on real sockets: who waits, what is dropped, who is ended, and what it costs."""

import asyncio
import logging
import os
import random
import socket
import threading
import time

import pytest

import landline
from landline.session.auth import Anonymous
from landline.session.handshake import ClientHandshake, Limits
from landline.session.wire import Kind, encode_ping

KIB = 1024
SMALL = landline.SendBuffer(size_bytes=64 * KIB, messages=128)
PATIENT = landline.Heartbeat(interval_s=60, timeout_s=60)
DROP_OLDEST, DROP_NEWEST = landline.WhenFull.DROP_OLDEST, landline.WhenFull.DROP_NEWEST
DISCONNECT, WAIT = landline.WhenFull.DISCONNECT, landline.WhenFull.WAIT


class MutePeer:
    """A client that shakes hands on a plain socket and then never reads it."""

    def __init__(self, endpoint: landline.Endpoint) -> None:
        family = socket.AF_UNIX if endpoint.scheme == "unix" else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
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
            handshake.receive_data(self.socket.recv(8192))
            self.socket.sendall(handshake.data_to_send())


async def read_number(line: landline.Line, count: int) -> list:
    return [await anext(line) for _ in range(count)]


async def fill(line: landline.Line, body: bytes) -> int:
    """Sends until nothing more goes in, not even into the transport; returns how many went in."""
    count = 0
    while True:
        try:
            line.send_nowait(body)
        except landline.BufferFull:
            return count
        count += 1
        await asyncio.sleep(0)


# Who waits.


@pytest.mark.parametrize(("size_bytes", "fits"), [(1, 128), (8 * KIB, 7)])
async def test_send_waits_at_either_limit_and_goes_on_as_the_peer_takes(pair, until, size_bytes, fits):
    sent = []

    async def send_all(line):
        for number in range(300):
            await line.send(bytes([number % 256]) * size_bytes)
            sent.append(number)

    async with pair(send_buffer=SMALL) as (line, other):
        sender = asyncio.create_task(send_all(line))
        await until(lambda: len(sent) >= fits)
        await line.ping()
        await line.ping()
        assert len(sent) == fits
        received = await read_number(other, 1)
        # Room for many frames is told at once, for a few within the delay of acknowledgements.
        await until(lambda: len(sent) == fits + 1)
        received += await read_number(other, 299)
        await sender
    assert received == [bytes([number % 256]) * size_bytes for number in range(300)]


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
            stuck.end(landline.Code.NORMAL)


async def test_tiny_messages_nobody_takes_are_bounded_with_what_python_spends_on_them(pair, until):
    server = landline.Server(limits=landline.Limits(window_frames=1000))
    async with pair(server) as (line, other):
        sender = asyncio.create_task(send_many(line, 5000))
        await until(lambda: other.session.received == 1000)
        await line.ping()
        assert other.session.received == 1000
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
            assert await other.send(number, when_full=DROP_OLDEST)
        assert other.messages_dropped == 0
        assert not other.send_nowait("newest", when_full=DROP_NEWEST)
        for number in range(127, 137):
            assert other.send_nowait(number, when_full=DROP_OLDEST)
        assert other.messages_dropped == 11
        assert other.send_nowait("promised too")
        assert other.messages_dropped == server.messages_dropped == 12
        assert await read_number(line, 128) == ["promised", *range(11, 137), "promised too"]
        assert await other.drain()
        assert caplog.text.count("is too slow: its send buffer is full") == 1
        assert caplog.text.count("takes messages again; 12 were dropped so far") == 1
    assert server.messages_dropped == 12


async def test_promised_messages_are_not_dropped_for_others(pair):
    server = landline.Server(send_buffer=SMALL)
    async with pair(server) as (line, other):
        other.break_link()
        for number in range(128):
            other.send_nowait(number)
        assert not await other.send("new", when_full=DROP_OLDEST)
        assert not await other.send("new", when_full=DROP_NEWEST)
        with pytest.raises(landline.BufferFull):
            other.send_nowait("new", when_full=WAIT)
        assert other.messages_dropped == 2
        assert await read_number(line, 128) == list(range(128))


async def test_only_the_last_of_a_kind_waits(pair, caplog):
    server = landline.Server(send_buffer=SMALL)
    async with pair(server) as (line, other):
        other.break_link()
        for number in range(1000):
            assert other.send_nowait(number, when_full=DROP_OLDEST, keep=1)
        other.send_nowait("end")
        assert await read_number(line, 2) == [999, "end"]
        assert other.messages_dropped == server.messages_dropped == 999
        # It was asked for.
        assert "too slow" not in caplog.text


async def test_waiting_senders_are_not_kept_waiting_by_what_may_be_dropped(pair, until):
    server = landline.Server(send_buffer=SMALL)
    async with pair(server) as (line, other):
        for number in range(128):
            other.send_nowait(number)
        senders = [asyncio.create_task(other.send(number)) for number in range(128, 133)]
        await asyncio.sleep(0)
        assert not other.send_nowait("dropped", when_full=DROP_NEWEST)
        assert not other.send_nowait("dropped too", when_full=DROP_OLDEST)
        assert await read_number(line, 133) == list(range(133))
        await asyncio.gather(*senders)


async def test_who_may_not_be_kept_waiting_is_disconnected(pair, until, states):
    server = landline.Server(send_buffer=SMALL)
    lost = []

    @server.on_session_lost
    def record(line, unconfirmed):
        lost.extend(unconfirmed)

    seen = states()
    async with pair(server, on_state=seen) as (line, other):
        # The client stops reading, and what goes beyond the sockets' buffers stays with us.
        line._link.transport.pause_reading()
        assert await fill(other, bytes(1000)) >= 60
        held = len(lost)
        reader = asyncio.create_task(anext(other))
        await asyncio.sleep(0)
        with pytest.raises(landline.LineClosed, match="send buffer is full") as refused:
            await other.send("urgent", when_full=DISCONNECT)
        assert refused.value.code is landline.Code.TOO_SLOW
        assert (held, len(lost) > 0) == (0, True)
        assert other.is_closed
        assert other.cause.cause is landline.LossKind.TOO_SLOW
        with pytest.raises(landline.LineClosed):
            await reader
        assert server.lines_too_slow == 1
        line._link.transport.resume_reading()
        # It is told why, and may come back.
        await until(lambda: [change for change in seen.changes if "send buffer is full" in change.detail])
        await until(lambda: line.state is landline.LineState.ONLINE and line.epoch == 1)


async def test_a_client_s_line_ends_as_well(pair):
    async with pair(send_buffer=SMALL) as (line, _):
        for number in range(128):
            line.send_nowait(number)
        with pytest.raises(landline.SessionLost) as lost:
            await line.send("urgent", when_full=DISCONNECT)
        assert [entry.is_packed for entry in lost.value.unconfirmed] == [True] * 128
        assert lost.value.code is landline.Code.TOO_SLOW
        assert line.is_closed
        with pytest.raises(landline.SessionLost):
            await line.send("again", when_full=DROP_OLDEST)


async def test_with_room_the_policies_are_all_the_same(pair):
    async with pair() as (line, other):
        for policy in landline.WhenFull:
            assert await line.send(policy.value, when_full=policy) is True
            assert line.send_nowait(policy.value, when_full=policy) is True
        assert await read_number(other, 8) == [policy.value for policy in landline.WhenFull for _ in "12"]
        assert line.messages_dropped == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"when_full": "wait"}, "when_full='wait' is no landline.WhenFull"),
        ({"keep": 1}, "keep=1 with when_full=WAIT"),
        ({"when_full": DROP_NEWEST, "keep": 1}, "keep=1 with when_full=DROP_NEWEST"),
        ({"when_full": DROP_OLDEST, "keep": 0}, "keep=0"),
    ],
)
async def test_policies_that_make_no_sense_are_refused(pair, options, text):
    server = landline.Server()
    async with pair(server) as (line, _):
        with pytest.raises(landline.ConfigurationError, match=text):
            await line.send(1, **options)
        with pytest.raises(landline.ConfigurationError, match=text):
            line.send_nowait(1, **options)
        if options != {"keep": 1}:
            with pytest.raises(landline.ConfigurationError, match=text):
                server.broadcast(1, **options)
        with pytest.raises(landline.ConfigurationError, match="waits for nobody"):
            server.group("all").broadcast(1, when_full=WAIT)


async def test_a_broadcast_does_what_its_policy_says(pair):
    server = landline.Server(send_buffer=SMALL)
    async with pair(server) as (line, other), server.listen("tcp://127.0.0.1:0") as endpoint:
        async with landline.connect(str(endpoint)) as second:
            other.break_link()
            for number in range(128):
                assert server.broadcast(number, when_full=DROP_OLDEST) == landline.BroadcastResult(2, 0)
            assert await read_number(second, 128) == list(range(128))
            assert await server.lines[1].drain()
            other.break_link()
            assert server.broadcast("a", when_full=DROP_OLDEST).skipped == 0
            assert await anext(second) == "a"
            assert (await read_number(line, 100))[-1] is not None
