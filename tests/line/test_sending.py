"""What a line sends: which values, in which order, and what waits for room. Real sockets, both event loops."""

import asyncio
import datetime

import pytest
from tests.line_internals import first_waiting_sender

import landline

SMALL = landline.SendBuffer(size_bytes=64 * 1024, messages=128)


async def read_all(line: landline.Line) -> list:
    return [message async for message in line]


async def test_bytes_like_values_arrive_as_bytes_and_unsupported_types_raise(pair):
    async with pair() as (line, other):
        await line.send(bytearray(b"one"))
        await line.send(memoryview(b"two"))
        assert [await anext(other), await anext(other)] == [b"one", b"two"]
        with pytest.raises(TypeError):
            await line.send(object())
        now = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
        await line.send(now)
        assert await anext(other) == now


async def test_a_message_that_is_too_large_raises_and_the_line_stays_open(pair):
    server = landline.Server(limits=landline.Limits(message_bytes=1024))
    async with pair(server) as (line, other):
        with pytest.raises(landline.MessageTooLarge, match="1025 bytes; the peer accepts 1024"):
            await line.send(b"x" * 1025)
        with pytest.raises(landline.MessageTooLarge, match="a name of 256 bytes"):
            await line.send(1, name="n" * 256)
        with pytest.raises(landline.MessageTooLarge):
            line.send_nowait(b"x" * 1025)
        await line.send(b"x" * 1024)
        assert await anext(other) == b"x" * 1024
        # The limit is what the other side takes, and each side states its own.
        await other.send(b"y" * 2000)
        assert await anext(line) == b"y" * 2000


async def test_normal_messages_overtake_bulk_messages(pair, until):
    async with pair() as (line, other):
        # Nothing is written before this task awaits, so all of it waits together.
        line.send_nowait(b"b" * 1_000_000, bulk=True)
        line.send_nowait("urgent", name="")
        await line.send("more")
        order = [await anext(other) for _ in range(3)]
    assert order[-1] == b"b" * 1_000_000
    assert order[:2] == ["urgent", "more"]


# Back-pressure.


async def test_senders_wait_for_a_full_buffer_in_order_of_arrival(pair, until):
    async with pair(send_buffer=SMALL) as (line, other):
        for number in range(128):
            line.send_nowait(number)
        with pytest.raises(landline.BufferFull):
            line.send_nowait("too much")
        senders = [asyncio.create_task(line.send(number)) for number in range(128, 160)]
        await asyncio.sleep(0)
        # Messages cross the network, but the application does not read them.
        await line.ping()
        assert not any(sender.done() for sender in senders)
        received = [await anext(other) for _ in range(160)]
        await asyncio.gather(*senders)
    assert received == list(range(160))


async def test_a_large_message_at_the_head_of_the_queue_is_not_overtaken(pair):
    async with pair(send_buffer=SMALL) as (line, other):
        line.send_nowait(b"a" * 30_000)
        line.send_nowait(b"b" * 30_000)
        large = asyncio.create_task(line.send(b"c" * 30_000))
        small = asyncio.create_task(line.send(b"d"))
        await asyncio.sleep(0)
        with pytest.raises(landline.BufferFull, match="other senders already wait"):
            line.send_nowait(b"e")
        await line.ping()
        assert not large.done()
        assert not small.done()
        assert [(await anext(other))[:1] for _ in range(4)] == [b"a", b"b", b"c", b"d"]
        await asyncio.gather(large, small)


async def test_a_cancelled_sender_sends_nothing_and_lets_the_next_one_send(pair):
    async with pair(send_buffer=SMALL) as (line, other):
        for number in range(128):
            line.send_nowait(number)
        senders = [asyncio.create_task(line.send(number)) for number in range(128, 138)]
        await asyncio.sleep(0)
        for index in (0, 3, 9):
            senders[index].cancel()
        rest = [number for number in range(138) if number not in {128, 131, 137}]
        assert [await anext(other) for _ in rest] == rest
        results = await asyncio.gather(*senders, return_exceptions=True)
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [
            index in {0, 3, 9} for index in range(10)
        ]
        await line.send("end")
        assert await anext(other) == "end"


async def test_a_sender_cancelled_as_it_is_woken_wakes_the_next_one(pair, monkeypatch):
    async with pair(send_buffer=SMALL) as (line, other):
        for number in range(128):
            line.send_nowait(number)
        first = asyncio.create_task(line.send("first"))
        second = asyncio.create_task(line.send("second"))
        await asyncio.sleep(0)
        wake = landline.line.flow_control.wake

        def wake_and_cancel(future):
            wake(future)
            if future is turn:
                first.cancel()

        turn = first_waiting_sender(line)
        monkeypatch.setattr("landline.line.flow_control.wake", wake_and_cancel)
        received = [await anext(other) for _ in range(129)]
        await second
        assert received == [*range(128), "second"]
        assert first.cancelled()


# The end of what is sent.


async def test_eof_is_sent_after_the_messages_of_waiting_senders(pair):
    async with pair(send_buffer=SMALL) as (line, other):
        for number in range(128):
            line.send_nowait(number)
        tasks = [asyncio.create_task(line.send(number)) for number in (128, 129)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(line.send_eof()))
        assert await read_all(other) == list(range(130))
        await asyncio.gather(*tasks)


async def test_sending_on_a_closed_line_raises_the_reason(pair):
    async with pair() as (line, other):
        line.abort(landline.Code.NORMAL)
        with pytest.raises(landline.LineClosed, match=r"^the line is closed: closed here$"):
            line.send_nowait(1)
        with pytest.raises(StopAsyncIteration):
            await anext(other)
        with pytest.raises(landline.LineClosed, match=r"^the line is closed: normal$") as closed:
            await other.send(1)
    assert closed.value.code is landline.Code.NORMAL


async def test_two_callers_of_drain_both_return(pair):
    async with pair() as (line, other):
        await line.send("one")
        short = asyncio.create_task(line.drain(0.01))
        long = asyncio.create_task(line.drain(1000))
        assert not await short
        assert await anext(other) == "one"
        assert await long
