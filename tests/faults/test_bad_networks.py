"""Networks that delay, slice, thin out and swallow. A line is online while its peer lives, and knows when it does not.

As in test_vanishing_peers.py, no test says how fast; a noticed death says itself how long the silence was.
"""

import asyncio
import re

import pytest

import landline
from landline.testing import FaultProxy, Faults

HEARTBEAT = landline.Heartbeat(interval_s=0.3, timeout_s=0.7)
SILENCE_S = HEARTBEAT.interval_s + HEARTBEAT.timeout_s
RECONNECTING, ONLINE = landline.LineState.RECONNECTING, landline.LineState.ONLINE
BIG = landline.SendBuffer(size_bytes=16 * 1024 * 1024, messages=10_000)


async def send_all(line, messages):
    for message in messages:
        await line.send(message)


async def receive(line, count):
    return [await anext(line) for _ in range(count)]


async def exchange(line, other, messages):
    """Send the messages in both directions at once; return what arrived on each side."""
    up, down, _, _ = await asyncio.gather(
        receive(other, len(messages)),
        receive(line, len(messages)),
        send_all(line, messages),
        send_all(other, messages),
    )
    return up, down


@pytest.mark.parametrize(
    "faults",
    [Faults(slice_bytes=1), Faults(latency_s=0.02, jitter_s=0.05), Faults(slice_bytes=5, jitter_s=0.02)],
    ids=["bytes", "late", "both"],
)
async def test_slices_and_delays_change_nothing(states, quick, faults):
    """All messages arrive once and in order, and the line keeps its first link."""
    here, there = states(), states()
    # Frequent pings, with a long timeout: a busy machine is not taken for a dead one.
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=0.05, timeout_s=30))
    server.on_state(there)
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as proxy,
    ):
        proxy.up = proxy.down = faults
        async with landline.connect(proxy.url, backoff=quick, on_state=here) as line:
            [other] = server.lines
            messages = [[number, b"x" * (number * 37 % 300)] for number in range(100)]
            assert await exchange(line, other, messages) == (messages, messages)
            # What is still to be confirmed on the way down would be waited for at the end.
            assert await other.drain(50)
            assert line.duplicates_dropped == other.duplicates_dropped == 0
            assert line.epoch == other.epoch == 1
            assert not here.find(RECONNECTING)
            assert not there.find(RECONNECTING)


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_black_hole_in_one_direction(states, until, quick, way):
    """The side that receives nothing detects the silence and drops the link; the other one is notified of that. Both
    resume after the hole, and no message is lost or duplicated, though the old link delivers its held bytes late."""
    here, there = states(), states()
    server = landline.Server(heartbeat=HEARTBEAT)
    server.on_state(there)
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as proxy,
        landline.connect(proxy.url, backoff=quick, on_state=here) as line,
    ):
        [other] = server.lines
        await exchange(line, other, ["before"])
        deaf, hearing = (there, here) if way == "up" else (here, there)
        proxy.hold(way)
        deaf.changes.clear()
        for number in range(20):
            await line.send(number)
            await other.send(number)
        await until(lambda: here.find(RECONNECTING) and there.find(RECONNECTING))
        loss = deaf.find(RECONNECTING)[0]
        assert loss.cause is landline.DisconnectCause.SILENT
        assert float(re.search(r"[\d.]+", loss.detail)[0]) >= SILENCE_S
        # The other side learned of it by the end of the link, which still arrived.
        assert hearing.find(RECONNECTING)[0].cause in {
            landline.DisconnectCause.LINK_LOST,
            landline.DisconnectCause.CLOSED_BY_PEER,
        }
        for number in range(20, 40):
            await line.send(number)
            await other.send(number)
        proxy.heal()
        assert await receive(other, 40) == await receive(line, 40) == list(range(40))
        assert server.lines == [other]
        assert all(change.resumed for change in here.find(ONLINE)[1:] + there.find(ONLINE)[1:])


async def test_a_long_queue_does_not_keep_a_dead_peer_alive(states, until, quick):
    """With 8 MB queued for a dead peer, its silence is detected like any other, and all 8 MB arrive when it is back."""
    seen = states()
    server = landline.Server(heartbeat=HEARTBEAT)
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as proxy,
        landline.connect(proxy.url, backoff=quick, on_state=seen, send_buffer=BIG) as line,
    ):
        [other] = server.lines
        await exchange(line, other, ["before"])
        proxy.hold()
        seen.changes.clear()
        for number in range(128):
            line.send_nowait([number, bytes(64 * 1024)])
        assert line.buffered_bytes > 8_000_000
        await until(lambda: seen.find(RECONNECTING))
        [loss, *_] = seen.find(RECONNECTING)
        assert loss.cause is landline.DisconnectCause.SILENT
        assert float(re.search(r"[\d.]+", loss.detail)[0]) >= SILENCE_S
        assert line.buffered_bytes > 8_000_000
        proxy.heal()
        assert [number for number, _ in await receive(other, 128)] == list(range(128))
        assert line.session_id == other.session_id


async def test_a_slow_link_stays_online_and_urgent_messages_overtake_bulk(states, quick):
    """A peer behind 64 kbit/s, with bulk queued for many heartbeats, is never declared dead, answers pings, and gets
    normal messages before the bulk that was sent earlier.

    The test runs sixteen times faster than real time: 64 kbit/s with a heartbeat of 10 + 5 s become 128 KB/s with
    0.625 + 0.3125 s. So as many bytes precede a heartbeat as in real time, in buffers whose sizes do not scale; and
    800 KB take six seconds instead of a hundred.
    """
    here, there = states(), states()
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=0.625, timeout_s=0.3125))
    server.on_state(there)
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as proxy,
        landline.connect(proxy.url, backoff=quick, on_state=here, send_buffer=BIG) as line,
    ):
        [other] = server.lines
        proxy.up = proxy.down = Faults(bandwidth_bytes_per_s=128_000)
        for number in range(80):
            line.send_nowait([number, bytes(10_000)], bulk=True)
        assert await anext(other) == [0, bytes(10_000)]
        line.send_nowait("urgent")
        round_trip = asyncio.create_task(line.ping(timeout=None))
        seen = await receive(other, 80)
        assert [message[0] for message in seen if message != "urgent"] == list(range(1, 80))
        # Bytes that the kernel already had cannot be overtaken: 128 KiB of unsent bytes, and those in flight.
        assert seen.index("urgent") < 60
        assert await round_trip > 0
        assert line.epoch == other.epoch == 1
        assert not here.find(RECONNECTING)
        assert not there.find(RECONNECTING)


async def test_a_flapping_link_loses_nothing(quick, states, until):
    """A link that is cut, reset, held and refused in turn, every few messages: once, in order, one session."""
    seen = states()
    server = landline.Server()
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port, seed=5463) as proxy,
        landline.connect(proxy.url, backoff=quick, on_state=seen) as line,
    ):
        [other] = server.lines
        proxy.up = proxy.down = Faults(jitter_s=0.005)

        async def flap():
            for _ in range(10):
                for fail in (proxy.cut, proxy.reset):
                    await asyncio.sleep(0.01)
                    fail()
                    await proxy.refuse()
                    await asyncio.sleep(0.01)
                    proxy.accept()

        messages = list(range(2000))
        (up, down), _ = await asyncio.gather(exchange(line, other, messages), flap())
        assert (up, down) == (messages, messages)
        assert server.lines == [other]
        # The last cut may have come after the last message.
        await until(lambda: line.state is other.state is ONLINE and line.epoch == other.epoch)
        assert line.epoch > 1
        assert all(change.resumed for change in seen.find(ONLINE)[1:])


async def test_the_old_link_of_a_resumed_line_changes_nothing(states, until, quick):
    """A link whose bytes were held for longer than the timeout delivers them after the session has resumed over a new
    link: they are fenced, so the application receives each message once, and the state stays the same."""
    there = states()
    server = landline.Server(heartbeat=HEARTBEAT)
    server.on_state(there)
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as stale,
        FaultProxy(endpoint.host, endpoint.port) as fresh,
        landline.connect([stale.url, fresh.url], backoff=quick) as line,
    ):
        [other] = server.lines
        await exchange(line, other, ["before"])
        [old] = stale.connections
        stale.hold("up")
        await stale.refuse()
        await send_all(line, range(50))
        # For the server the old link stays open, with 50 messages still to arrive on it.
        line.break_link("the address changed")
        await until(lambda: line.state is ONLINE and line.epoch == 2)
        there.changes.clear()
        await send_all(line, range(50, 100))
        stale.heal()
        assert await receive(other, 100) == list(range(100))
        await until(lambda: old.is_over)
        assert await exchange(line, other, ["after"]) == (["after"], ["after"])
        assert line.epoch == other.epoch
        assert not there.find(RECONNECTING)
        assert server.lines == [other]
