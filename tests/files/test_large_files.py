"""Large files and many receivers: what they cost, and what goes on meanwhile."""

import asyncio
import re
import subprocess
import sys
import tracemalloc
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import landline

MIB = 1024 * 1024
ROOT = Path(__file__).parent.parent.parent


def test_200_mb_arrive_while_the_network_breaks_every_second_and_memory_is_bounded():
    """The peaks are those of whole processes: the interpreter and what it loads are about 40 MiB of them."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.files.soak", "--size-mib", "200", "--rate-mib", "60"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    found = re.search(
        r"over (\d+) transports, intact; peak .* -> (\d+) MiB, of the receiver (\d+) MiB", ended.stdout
    )
    transports, sender_mib, receiver_mib = map(int, found.groups())
    assert transports > 2
    assert sender_mib < 130
    assert receiver_mib < 130


@pytest.fixture
def open_clients(quick, tmp_path):
    """A server and so many clients that receive, each into a directory of its own."""

    class Clients:
        def __init__(self, count, **arguments):
            self.server = landline.Server(**arguments)
            self.directories = [tmp_path / f"inbox-{number}" for number in range(count)]
            self.connectors = []
            self._stack = AsyncExitStack()

        async def __aenter__(self):
            endpoint = await self._stack.enter_async_context(self.server.listen("tcp://127.0.0.1:0"))
            for number, directory in enumerate(self.directories):
                directory.mkdir()
                connector = landline.connect(str(endpoint), backoff=quick, identity=f"k{number}")
                connector.on_file(directory)
                await self._stack.enter_async_context(connector)
            return self

        async def __aexit__(self, *arguments):
            await self._stack.aclose()

    return Clients


async def test_twenty_receivers_get_it_and_one_cannot(open_clients, write):
    """Each has its own result; memory is bounded by how many are sent to at once."""
    path = write(12 * MIB)
    async with open_clients(21) as clients:
        (clients.directories[7] / "photo.raw").write_text("mine")
        group = clients.server.group("all")
        for line in clients.server.lines:
            group.add(line)
        told = set()
        tracemalloc.start()
        try:
            results = await landline.send_file_to(
                group, path, at_once=4, progress=lambda line, each: told.add(line)
            )
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(results) == 21
    by_identity = {line.identity: result for line, result in results.items()}
    refused = by_identity.pop("k7")
    assert isinstance(refused, landline.FileRefused)
    assert refused.code == "exists"
    assert all(receipt.size_bytes == 12 * MIB for receipt in by_identity.values())
    assert len(told) == 20
    for number in set(range(21)) - {7}:
        assert (clients.directories[number] / "photo.raw").read_bytes() == path.read_bytes()
    # Four windows of 4 MiB, in the buffers of both sides and of the sockets: all of them are in this process.
    assert peak_bytes < 4 * 4 * 4 * MIB


async def test_sending_to_nobody_and_wrong_arguments(open_clients, write):
    path = write(10)
    assert await landline.send_file_to([], path) == {}
    with pytest.raises(landline.ConfigurationError, match="at_once=0"):
        await landline.send_file_to([], path, at_once=0)
    async with open_clients(2) as clients:
        with pytest.raises(landline.ConfigurationError, match="give another name"):
            await landline.send_file_to(clients.server.lines, path, name="..")
        results = await landline.send_file_to(clients.server.lines, path.parent / "nothing")
        assert [type(result) for result in results.values()] == [FileNotFoundError] * 2


async def test_heartbeats_stay_on_time_and_messages_overtake(pair, inbox, write, states):
    """With a heartbeat of a fifth of a second no line is suspected, and a request does not wait for the file."""
    path = write(150 * MIB)
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=0.2, timeout_s=0.6))
    server.on_file(inbox)
    recorded = states()

    @server.on("echo")
    def echo(line, body):
        return body

    async with pair(server, on_state=recorded) as (line, _):
        sending = asyncio.create_task(line.send_file(path))
        answers = 0
        while not sending.done():
            assert await line.request("echo", answers, timeout=5) == answers
            answers += 1
            await asyncio.sleep(0.01)
        await sending
        assert answers > 5
        assert recorded.find(landline.LineState.SUSPECT) == []
        assert line.epoch == 1


async def test_a_lost_session_is_not_the_end_of_a_line_that_only_sends_files(inbox, write, quick):
    """Chunks are not reported as unconfirmed messages: the call that sends them goes on by itself."""
    path = write(40 * MIB)
    server = landline.Server()
    server.on_file(inbox)
    done = asyncio.Event()
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        landline.connect(str(endpoint), backoff=quick) as line,
    ):
        sending = asyncio.create_task(
            line.send_file(path, progress=lambda told: told.bytes_done > 8 * MIB and done.set())
        )
        await done.wait()
        [other] = server.lines
        other.abort(landline.Code.GOING_AWAY, "another session")
        receipt = await sending
        assert other.is_closed
        assert len(server.lines) == 1
    assert receipt.resumed_from == 0
    assert (inbox / "photo.raw").read_bytes() == path.read_bytes()


def server_of(inbox):
    server = landline.Server()
    server.on_file(inbox)
    return server


async def test_a_side_that_said_it_sends_no_more_cannot_be_sent_to(pair, inbox, write):
    async with pair(server_of(inbox)) as (line, other):
        await other.send_eof()
        await line.ping()
        with pytest.raises(landline.FileError, match="sends no more"):
            await line.send_file(write(10))
    async with pair(server_of(inbox)) as (line, _):
        await line.send_eof()
        with pytest.raises(landline.FileError, match="after send_eof"):
            await line.send_file(write(10))
