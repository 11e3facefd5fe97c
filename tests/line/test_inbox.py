"""Messages, answers and round trips that users of a line wait for. Real sockets, both event loops."""

import asyncio
import contextlib
import gc
import weakref

import pytest

import landline


async def read_all(line: landline.Line) -> list:
    return [message async for message in line]


# Readers.


async def test_a_second_reader_of_a_line_raises(pair):
    async with pair() as (line, other):
        first = asyncio.create_task(anext(other))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="two tasks read"):
            await anext(other)
        await line.send("for the first")
        assert await first == "for the first"


async def test_a_cancelled_reader_loses_nothing(pair):
    async with pair() as (line, other):
        for number in range(50):
            reader = asyncio.create_task(anext(other))
            await asyncio.sleep(0)
            await line.send(number)
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                assert await reader == number
                continue
            assert await anext(other) == number


async def test_a_message_without_a_handler_is_dropped_with_a_warning(pair, until, caplog):
    async with pair() as (line, _):
        await line.send(1, name="nobody")
        await line.drain()
        await until(lambda: "for which there is no handler" in caplog.text)


# A peer that sends no more.


@pytest.mark.parametrize("who", ["client", "server"])
async def test_after_eof_the_other_direction_stays_open(pair, who):
    async with pair() as (line, other):
        sender, receiver = (line, other) if who == "client" else (other, line)
        for number in range(3):
            await sender.send(number)
        await sender.send_eof()
        await sender.send_eof()
        with pytest.raises(landline.LineClosed, match="after send_eof"):
            await sender.send("too late")
        assert await read_all(receiver) == [0, 1, 2]
        assert not receiver.is_closed
        await receiver.send("still here")
        assert await anext(sender) == "still here"
        with pytest.raises(landline.RequestLost, match="sends no more"):
            await receiver.request("anything", timeout=None)


async def test_eof_ends_requests_that_wait_for_an_answer(pair, until):
    server = landline.Server()

    @server.on("never")
    async def never(line, body):
        await line.send_eof()
        await asyncio.Event().wait()

    async with pair(server) as (line, _):
        with pytest.raises(landline.RequestLost, match="sends no more"):
            await line.request("never", timeout=None)


# Pings.


async def test_pings_measure_and_may_overlap(pair):
    async with pair() as (line, other):
        assert line.round_trip_s > 0
        assert other.round_trip_s > 0
        results = await asyncio.gather(*(line.ping() for _ in range(5)), other.ping())
        assert all(0 < result < 60 for result in results)
        assert line.round_trip_s > 0


async def test_a_ping_fails_when_the_link_is_lost(pair, until):
    async with pair() as (line, _):
        ping = asyncio.create_task(line.ping(timeout=None))
        await asyncio.sleep(0)
        line.break_link("gone")
        with pytest.raises(landline.LineClosed, match="gone"):
            await ping
        with pytest.raises(landline.LineClosed, match="not connected now"):
            await line.ping()
        await until(lambda: line.state is landline.LineState.ONLINE)
        await line.ping()


async def test_too_many_pings_cause_a_notice_and_then_end_the_line(pair, until, caplog):
    async with pair() as (line, other):
        for _ in range(30):
            await line.ping()
        await until(lambda: "too many pings" in caplog.text)
        with pytest.raises(landline.LineClosed):
            for _ in range(30):
                await line.ping()
        await until(lambda: other.is_closed)
        assert other.last_change.code is landline.Code.TOO_MANY_PINGS


# recv()


async def test_recv_returns_messages_in_order_and_raises_after_eof(pair):
    async with pair() as (line, other):
        for number in range(3):
            await line.send(number)
        await line.send_eof()
        assert [await other.recv() for _ in range(3)] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(landline.LineClosed, match=r"^no more messages: the peer has sent EOF$"):
                await other.recv()
        assert not other.is_closed


async def test_recv_reads_what_arrived_before_the_close_and_then_raises(pair, until):
    async with pair() as (line, other):
        await line.send("the last one")
        await line.drain(0.0)
        await line.ping()
        line.abort(landline.Code.NORMAL, "enough")
        await until(lambda: other.is_closed)
        assert await other.recv() == "the last one"
        with pytest.raises(landline.LineClosed, match=r"^the line is closed: enough$") as closed:
            await other.recv()
        assert closed.value.code is landline.Code.NORMAL


async def test_recv_raises_the_error_that_closed_the_line(pair, until):
    async with pair() as (line, other):
        reader = asyncio.create_task(other.recv())
        await asyncio.sleep(0)
        line.abort(landline.Code.FORBIDDEN, "go away")
        with pytest.raises(landline.LineClosed, match="go away"):
            await reader
        with pytest.raises(landline.LineClosed, match="go away"):
            await other.recv()


async def test_a_cancelled_recv_loses_nothing_and_only_one_task_may_read(pair):
    async with pair() as (line, other):
        reader = asyncio.create_task(other.recv())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="two tasks read"):
            await other.recv()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await line.send("kept")
        assert await other.recv() == "kept"


async def test_a_closed_line_is_freed_when_its_user_lets_go_of_it(pair, until):
    """Without the garbage collector: the buffers of lines that come and go must not pile up."""
    seen = []
    server = landline.Server()
    server.on_state(lambda line, change: None)
    gc.collect()
    gc.disable()
    try:
        async with pair(server) as (line, other):
            seen.append(weakref.ref(other))
            await line.send(b"x" * 1000)
            await other.recv()
            del other
            line.abort(landline.Code.NORMAL)
            await until(lambda: not server.lines)
        await until(lambda: seen[0]() is None)
    finally:
        gc.enable()
