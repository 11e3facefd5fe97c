"""Large files and many receivers: memory, and the messages and heartbeats meanwhile."""

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


def test_a_large_file_survives_repeated_cuts_with_bounded_memory():
    """The peaks are those of whole processes, of which the interpreter and its modules are about 40 MiB."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.files.soak", "--size-mib", "120", "--rate-mib", "60", "--cut-s", "0.4"],
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
    assert sender_mib < 100
    assert receiver_mib < 100


@pytest.fixture
def open_clients(quick, tmp_path):
    """A server and ``count`` clients that receive files, each into its own directory."""

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


async def test_send_file_to_returns_a_result_for_each_line(open_clients, write):
    """Memory is limited by ``concurrency``, not by the number of lines."""
    path = write(8 * MIB)
    async with open_clients(21) as clients:
        (clients.directories[7] / "photo.raw").write_text("mine")
        group = clients.server.group("all")
        for line in clients.server.lines:
            group.add(line)
        reporting_lines = set()
        tracemalloc.start()
        try:
            results = await landline.send_file_to(
                group, path, concurrency=4, progress=lambda line, each: reporting_lines.add(line)
            )
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(results) == 21
    by_identity = {line.identity: result for line, result in results.items()}
    refused = by_identity.pop("k7")
    assert isinstance(refused, landline.FileRefused)
    assert refused.code == "exists"
    assert all(receipt.size_bytes == 8 * MIB for receipt in by_identity.values())
    assert len(reporting_lines) == 20
    for number in set(range(21)) - {7}:
        assert (clients.directories[number] / "photo.raw").read_bytes() == path.read_bytes()
    # Four windows of 4 MiB in the buffers of both sides and of the sockets, all of them in this process.
    assert peak_bytes < 4 * 4 * 4 * MIB


async def test_send_file_to_without_lines_and_with_invalid_arguments(open_clients, write):
    path = write(10)
    assert await landline.send_file_to([], path) == {}
    with pytest.raises(landline.ConfigurationError, match="concurrency=0"):
        await landline.send_file_to([], path, concurrency=0)
    async with open_clients(2) as clients:
        with pytest.raises(landline.ConfigurationError, match="use another name"):
            await landline.send_file_to(clients.server.lines, path, name="..")
        results = await landline.send_file_to(clients.server.lines, path.parent / "nothing")
        assert [type(result) for result in results.values()] == [FileNotFoundError] * 2


async def test_heartbeats_and_requests_are_not_delayed_by_a_transfer(pair, inbox, write, states):
    """With a heartbeat interval of 0.2 s the line is never suspect, and requests overtake the chunks."""
    path = write(80 * MIB)
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


async def test_a_transfer_continues_in_a_new_session(inbox, write, quick):
    """Chunks are not reported as unconfirmed messages: send_file() offers the file again by itself."""
    path = write(40 * MIB)
    server = landline.Server()
    server.on_file(inbox)
    done = asyncio.Event()
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        landline.connect(str(endpoint), backoff=quick) as line,
    ):
        sending = asyncio.create_task(
            line.send_file(path, progress=lambda progress: progress.bytes_done > 8 * MIB and done.set())
        )
        await done.wait()
        [other] = server.lines
        other.abort(landline.Code.GOING_AWAY, "another session")
        receipt = await sending
        assert other.is_closed
        assert len(server.lines) == 1
    assert receipt.resumed_from == 0
    assert (inbox / "photo.raw").read_bytes() == path.read_bytes()


def server_with(inbox):
    server = landline.Server()
    server.on_file(inbox)
    return server


async def test_send_file_fails_after_send_eof_of_either_side(pair, inbox, write):
    async with pair(server_with(inbox)) as (line, other):
        await other.send_eof()
        await line.ping()
        with pytest.raises(landline.FileError, match="sends no more"):
            await line.send_file(write(10))
    async with pair(server_with(inbox)) as (line, _):
        await line.send_eof()
        with pytest.raises(landline.FileError, match="after send_eof"):
            await line.send_file(write(10))
