"""What handlers are at work on is counted as memory of the line, limited, and forgotten when they end."""

import asyncio
import gc
import tracemalloc

import pytest
from tests.line_internals import driver_of, session_of
from tests.raw_connections import raw_connection, read_frame, shake_hands

import landline
from landline.codes import Operation
from landline.line.dispatcher import REQUESTS_RUNNING_MAX, REQUESTS_RUNNING_WINDOWS
from landline.session.constants import Kind
from landline.session.frames import encode_data, encode_ping
from landline.session.settings import Limits

KIB, MIB = 1024, 1024 * 1024
SMALL = Limits(message_bytes=256 * KIB, window_bytes=256 * KIB)
RUNNING_BYTES = REQUESTS_RUNNING_WINDOWS * SMALL.window_bytes


class Work:
    """A server whose handlers for requests wait until they are let go."""

    def __init__(self, **arguments):
        self.server = landline.Server(**arguments)
        self.running = 0
        self.most_running = 0
        self.may_end = asyncio.Event()
        self.cancels = 0

        @self.server.on("wait")
        async def wait(line, body):
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            try:
                await self.may_end.wait()
            finally:
                self.running -= 1
            return len(body)

        @self.server.on("resist")
        async def resist(line, body):
            self.running += 1
            while not self.may_end.is_set():
                try:
                    await self.may_end.wait()
                except asyncio.CancelledError:
                    self.cancels += 1
            self.running -= 1

        @self.server.on("plain")
        def plain(line, body):
            return self.running


async def test_bodies_count_until_their_handlers_end(pair, until):
    work = Work(limits=SMALL)
    async with pair(work.server) as (line, other):
        size = 100 * KIB
        asked = [asyncio.create_task(line.request("wait", bytes(size))) for _ in range(40)]
        await until(lambda: work.running == RUNNING_BYTES // size)
        # What waits fills the window and counts as well, and neither keeps the other from being counted.
        await until(lambda: session_of(other).held_bytes > SMALL.window_bytes // 2)
        held = work.server.memory_held_bytes
        assert held == other.held_bytes
        assert work.running * size + SMALL.window_bytes // 2 < held
        assert held <= RUNNING_BYTES + SMALL.window_bytes + 2 * SMALL.message_bytes + 1000
        work.may_end.set()
        assert await asyncio.gather(*asked) == [size] * 40
        assert work.most_running == RUNNING_BYTES // size
        await until(lambda: other.held_bytes == 0)


async def test_packed_bodies_count_with_their_decoded_size(pair, until):
    work = Work(limits=SMALL)
    async with pair(work.server) as (line, other):
        body = [{}] * 4000
        asked = [asyncio.create_task(line.request("wait", body)) for _ in range(REQUESTS_RUNNING_MAX)]
        # An empty map is a byte on the wire, and 72 in memory.
        await until(lambda: work.running > 0 and session_of(other).held_bytes > 10 * 4000)
        assert work.running <= RUNNING_BYTES // (72 * 4000)
        assert other.held_bytes >= work.running * 72 * 4000
        work.may_end.set()
        assert await asyncio.gather(*asked) == [4000] * REQUESTS_RUNNING_MAX
        await until(lambda: other.held_bytes == 0)


async def test_a_body_above_the_limit_runs_alone(pair, until):
    work = Work(limits=SMALL)
    async with pair(work.server) as (line, other):
        body = [{}] * 60_000
        asked = [asyncio.create_task(line.request("wait", body)) for _ in range(3)]
        await until(lambda: work.running == 1 and session_of(other).held_bytes > 100_000)
        assert other.held_bytes > RUNNING_BYTES
        work.may_end.set()
        assert await asyncio.gather(*asked) == [60_000] * 3
        assert work.most_running == 1


async def test_a_text_counts_with_its_exact_size_when_memory_is_checked(pair, until):
    """Counted at the most it could take, such a request would be 10 MB."""
    work = Work(memory_bytes=4 * MIB)
    async with pair(work.server) as (line, other):
        asked = asyncio.create_task(line.request("wait", "text" * 25_000))
        await until(lambda: work.running == 1)
        assert work.server.memory_held_bytes > 4 * MIB
        work.server._host.memory._check()
        assert 100_000 <= work.server.memory_held_bytes < MIB
        assert not other.is_closed
        work.may_end.set()
        assert await asked == 100_000


async def test_lines_whose_handlers_hold_too_much_are_ended(pair, until, states):
    work = Work(memory_bytes=4 * MIB)
    seen = states()
    async with pair(work.server, on_state=seen) as (line, other):
        asked = asyncio.create_task(line.request("wait", bytes(4_100_000)))
        await until(lambda: work.running == 1)
        assert other.held_bytes > 4_100_000
        asked.add_done_callback(lambda task: task.exception())
        waiting = [asyncio.create_task(line.request("wait", bytes(1_000_000))) for _ in range(4)]
        for task in waiting:
            task.add_done_callback(lambda task: task.exception())
        await until(lambda: other.is_closed)
        assert other.last_change.code is landline.Code.TOO_SLOW
        # Cancelled with the session.
        await until(lambda: driver_of(other).dispatcher.held_bytes == 0)
        assert (work.running, work.server.memory_held_bytes) == (0, 0)


async def test_the_message_in_a_coroutine_handler_counts_with_its_decoded_size(pair, until):
    server = landline.Server()
    begun, may_end = asyncio.Event(), asyncio.Event()

    @server.on("work")
    async def work(line, body):
        begun.set()
        await may_end.wait()

    async with pair(server) as (line, other):
        await line.send([{}] * 50_000, name="work")
        await begun.wait()
        assert other.held_bytes >= 72 * 50_000
        may_end.set()
        await until(lambda: other.held_bytes == 0)


async def test_waiting_requests_do_not_delay_pings_and_small_requests(pair, until):
    """Late acknowledgements delay only data. The heartbeat continues, and so do plain handlers while the window has
    room."""
    work = Work(limits=SMALL)
    async with pair(work.server) as (line, other):
        asked = [asyncio.create_task(line.request("wait", bytes(100 * KIB))) for _ in range(11)]
        await until(lambda: work.running == 10 and session_of(other).held_bytes > 90 * KIB)
        assert await line.ping() > 0
        assert await line.request("plain") == 10
        # One of those that run is cancelled, and one that waits takes its place.
        asked[0].cancel()
        await until(lambda: session_of(other).held_bytes == 0)
        assert work.running == 10
        # One that runs is cancelled although the window is full of others.
        more = [asyncio.create_task(line.request("wait", bytes(100 * KIB))) for _ in range(2)]
        await until(lambda: session_of(other).held_bytes > 190 * KIB)
        asked[1].cancel()
        await until(lambda: session_of(other).held_bytes < 190 * KIB)
        work.may_end.set()
        await asyncio.gather(*asked[2:], *more)


@pytest.mark.parametrize("name", ["wait", "resist"])
async def test_a_handler_is_cancelled_once_for_repeated_cancel_messages(until, name):
    work = Work()
    async with (
        work.server.listen("tcp://127.0.0.1:0") as endpoint,
        raw_connection(endpoint) as (reader, writer),
    ):
        await shake_hands(reader, writer)
        [line] = work.server.lines
        writer.write(encode_data(1, 0, Operation.REQUEST, 9, name.encode(), b"x" * 1000))
        await until(lambda: work.running == 1)
        held = line.held_bytes
        assert held >= 1000
        cancel_count = 10_000
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for first in range(2, 2 + cancel_count, 1000):
                writer.write(
                    b"".join(
                        encode_data(number, 0, Operation.CANCEL, 9, b"", b"")
                        for number in range(first, first + 1000)
                    )
                )
                await until(lambda first=first: session_of(line).inbound.received == first + 999)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert grown < 200 * KIB
        if name == "resist":
            assert (work.cancels, work.running, line.held_bytes) == (1, 1, held)
        else:
            await until(lambda: work.running == 0)
        work.may_end.set()
        # An answer that we do not acknowledge is all that stays.
        await until(lambda: line.held_bytes < 200)
        line.abort(landline.Code.NORMAL)


async def test_a_handler_that_ignores_cancelling_counts_after_its_session(pair, until):
    work = Work()
    async with pair(work.server) as (line, other):
        asked = asyncio.create_task(line.request("resist", bytes(1000)))
        asked.add_done_callback(lambda task: task.exception())
        await until(lambda: work.running == 1)
        await line.close(timeout=1)
        await until(lambda: other.is_closed)
        assert other.held_bytes >= 1000
        work.may_end.set()
        await until(lambda: other.held_bytes == 0)


async def test_the_error_of_a_request_that_was_cancelled_before_it_began_leaves_nothing(until):
    """Cancelled in the turn in which it came: its task never runs."""
    work = Work()
    async with (
        work.server.listen("tcp://127.0.0.1:0") as endpoint,
        raw_connection(endpoint) as (reader, writer),
    ):
        await shake_hands(reader, writer)
        [line] = work.server.lines
        writer.write(
            encode_data(1, 0, Operation.REQUEST, 9, b"wait", b"x")
            + encode_data(2, 0, Operation.CANCEL, 9, b"", b"")
            + encode_ping(Kind.PING, 1, 0, 0)
        )
        kind, _ = await read_frame(reader)
        while kind != Kind.PONG:
            kind, _ = await read_frame(reader)
        await until(lambda: line.held_bytes == 0)
        assert work.most_running == 0
        line.abort(landline.Code.NORMAL)
