"""Peers that vanish without notice: stopped programs, dropped packets. Both sides detect it, and no message is lost.

No test asserts a duration of its own: only that silence is the reported cause, that the reported silence is as long as
the heartbeat allows, and what follows.
"""

import asyncio
import contextlib
import re
import signal
import sys

import pytest
from tests.cable import laid
from tests.line_internals import host_of, session_of

import landline
from landline.client.dialer import DialTimeouts
from landline.testing import FaultProxy

HEARTBEAT = landline.Heartbeat(interval_s=0.3, timeout_s=0.7)
SILENCE_S = HEARTBEAT.interval_s + HEARTBEAT.timeout_s
SUSPECT, ONLINE = landline.LineState.SUSPECT, landline.LineState.ONLINE
RECONNECTING = landline.LineState.RECONNECTING

# Echoes every message, and prints each change of state.
CHILD = """
import sys
import landline

def report(line, change):
    print(change.state.value, change.cause.value, change.detail, change.resumed, sep="|", flush=True)

def echo(line, message):
    line.send_nowait(message)

async def serve(url):
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=0.3, timeout_s=0.7))
    server.on_message(echo)
    server.on_state(report)
    async with server.listen(url) as endpoint:
        print(endpoint, flush=True)
        await server.serve_forever()

async def connect(url):
    connector = landline.connect(url, backoff=landline.Backoff(first_s=0.01, cap_s=0.05), on_state=report)
    connector.on_message(echo)
    async with connector as line:
        async for _ in line:
            pass

landline.run({"serve": serve, "connect": connect}[sys.argv[1]](sys.argv[2]))
"""


@contextlib.asynccontextmanager
async def child(role: str, url: str, *, prefix: tuple[str, ...] = ()):
    process = await asyncio.create_subprocess_exec(
        *prefix, sys.executable, "-c", CHILD, role, url, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def silence_of(change: landline.StateChange) -> float:
    return float(re.fullmatch(r"nothing heard for ([\d.]+) s", change.detail)[1])


def check_silence(changes: list[landline.StateChange]) -> None:
    """Check that the loss, and the suspicion before it, report silence, and for at least as long as the heartbeat."""
    index = next(i for i, change in enumerate(changes) if change.state is RECONNECTING)
    assert index > 0
    loss, suspicion = changes[index], changes[index - 1]
    assert loss.cause is landline.DisconnectCause.SILENT
    assert silence_of(loss) >= SILENCE_S
    assert suspicion.state is SUSPECT
    assert suspicion.cause is landline.DisconnectCause.SILENT
    assert silence_of(suspicion) >= 0.5


async def read_numbers(line: landline.Line, count: int) -> list[int]:
    return [await anext(line) for _ in range(count)]


async def pause_and_resume(process: asyncio.subprocess.Process, line: landline.Line, seen, until) -> None:
    """Stop an echoing process for longer than the heartbeat, and continue it: its line loses nothing, and resumes."""
    await line.send(0)
    assert await anext(line) == 0
    process.send_signal(signal.SIGSTOP)
    seen.changes.clear()
    for number in range(1, 6):
        await line.send(number)
    await until(lambda: seen.find(RECONNECTING))
    for number in range(6, 11):
        await line.send(number)
    process.send_signal(signal.SIGCONT)
    assert await read_numbers(line, 10) == list(range(1, 11))
    check_silence(seen.changes)
    assert all(change.resumed for change in seen.find(ONLINE))


async def test_a_client_that_is_stopped(states, until):
    server = landline.Server(heartbeat=HEARTBEAT)
    seen = states()
    server.on_state(seen)
    async with server.listen("tcp://127.0.0.1:0") as endpoint, child("connect", str(endpoint)) as process:
        await until(lambda: server.lines)
        [line] = server.lines
        await pause_and_resume(process, line, seen, until)


async def test_a_server_that_is_stopped(states, until, quick):
    seen = states()
    async with child("serve", "tcp://127.0.0.1:0") as process:
        url = (await process.stdout.readline()).decode().strip()
        async with landline.connect(url, backoff=quick, on_state=seen) as line:
            await pause_and_resume(process, line, seen, until)


async def test_packets_that_a_proxy_holds(states, until, quick):
    server = landline.Server(heartbeat=HEARTBEAT)
    here, there = states(), states()
    server.on_state(there)
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as between,
        landline.connect(between.url, backoff=quick, on_state=here) as line,
    ):
        [other] = server.lines
        await line.send("before")
        assert await anext(other) == "before"
        between.hold()
        here.changes.clear()
        there.changes.clear()
        for number in range(10):
            await line.send(["up", number])
            await other.send(["down", number])
        await until(lambda: here.find(RECONNECTING) and there.find(RECONNECTING))
        await line.send(["up", 10])
        await other.send(["down", 10])
        between.heal()
        assert [await anext(other) for _ in range(11)] == [["up", number] for number in range(11)]
        assert [await anext(line) for _ in range(11)] == [["down", number] for number in range(11)]
        check_silence(here.changes)
        check_silence(there.changes)
        assert server.lines == [other]
        assert all(change.resumed for change in here.find(ONLINE) + there.find(ONLINE))


async def test_a_short_silence_makes_both_sides_suspect_and_then_online_again(states, until, quick):
    heartbeat = landline.Heartbeat(interval_s=0.1, timeout_s=60)
    server = landline.Server(heartbeat=heartbeat)
    here, there = states(), states()
    server.on_state(there)
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as between,
        landline.connect(between.url, backoff=quick, on_state=here) as line,
    ):
        [other] = server.lines
        between.hold()

        def are_suspect() -> bool:
            # Pretend half a minute of silence; a ping in flight when the hole opened may undo it.
            for end in (line, other):
                if end.state is ONLINE:
                    session_of(end)._liveness.last_received_at = host_of(end).wheel.time() - 30
            return line.state is other.state is SUSPECT

        await until(are_suspect)
        between.heal()
        await until(lambda: line.state is other.state is ONLINE)
        for seen in (here, there):
            assert seen.names[-2:] == ["suspect", "online"]
            assert "reconnecting" not in seen.names
        assert here.changes[-1].resumed
        assert line.epoch == other.epoch == 1


@pytest.fixture
def cable():
    yield from laid("line", "198.18", "nft")


async def test_packets_that_the_kernel_drops(cable, states, until, quick):
    # The first packet of a connection is dropped too; the test does not wait for the kernel to repeat it.
    timeouts = DialTimeouts(connect_s=0.5)
    seen = states()
    async with child("serve", f"tcp://{cable.server}:0", prefix=cable.inside) as process:
        url = (await process.stdout.readline()).decode().strip()
        async with landline.connect(url, backoff=quick, on_state=seen, timeouts=timeouts) as line:
            await line.send(0)
            assert await anext(line) == 0
            assert await process.stdout.readline() == b"online|||False\n"
            cable.drop()
            seen.changes.clear()
            for number in range(1, 6):
                await line.send(number)
            await until(lambda: seen.find(RECONNECTING))
            # The server detects it by itself too.
            told = []
            while not told or not told[-1].startswith("reconnecting"):
                told.append((await process.stdout.readline()).decode().strip())
            cable.heal()
            for number in range(6, 11):
                await line.send(number)
            assert await read_numbers(line, 10) == list(range(1, 11))
            check_silence(seen.changes)
            assert all(change.resumed for change in seen.find(ONLINE))
    state, cause, detail, _ = told[-1].split("|")
    assert (state, cause) == ("reconnecting", "silent")
    assert float(re.search(r"[\d.]+", detail)[0]) >= SILENCE_S
    assert told[-2].startswith("suspect|silent|")
