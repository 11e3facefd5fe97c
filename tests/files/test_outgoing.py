"""Sending files over real sockets to a real disk."""

import asyncio
import hashlib
import os
import time

import pytest

import landline
from landline.files import keepalive
from landline.files.partial_file import PartialFile
from landline.testing import FaultProxy, Faults

MIB = 1024 * 1024
STALL_TIMEOUT_S = 0.8
"""Sixteen times the interval of ALIVE, so that a busy machine may be late."""
LONGER_S = 1.0


@pytest.mark.parametrize("size_bytes", [0, 1, 128 * 1024, 5 * MIB + 17])
async def test_a_file_arrives_and_both_sides_have_a_receipt(pair, inbox, write, names_in, size_bytes):
    path = write(size_bytes)
    received = []
    server = landline.Server()
    server.on_file(inbox)(lambda file, receipt: received.append((file, receipt)))
    async with pair(server) as (line, other):
        receipt = await line.send_file(path)
    assert (inbox / "photo.raw").read_bytes() == path.read_bytes()
    assert names_in(inbox) == ["photo.raw"]
    assert os.stat(inbox / "photo.raw").st_mtime_ns == os.stat(path).st_mtime_ns
    assert receipt.name == "photo.raw"
    assert receipt.path == path
    assert receipt.size_bytes == size_bytes
    assert receipt.hash == hashlib.blake2b(path.read_bytes(), digest_size=32).digest()
    assert receipt.resumed_from == 0
    [(file, theirs)] = received
    assert file.line is other
    assert file.name == "photo.raw"
    assert theirs.path == inbox / "photo.raw"
    assert theirs.hash == receipt.hash


async def test_a_server_can_send_a_file(quick, inbox, write):
    path = write(MIB)
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(str(endpoint), backoff=quick)
        connector.on_file(inbox, to="updates")
        async with connector:
            [line] = server.lines
            receipt = await line.send_file(path, name="update.bin", to="updates")
    assert receipt.name == "update.bin"
    assert (inbox / "update.bin").read_bytes() == path.read_bytes()


async def test_cuts_of_the_connection_do_not_restart_the_transfer(inbox, write, quick):
    path = write(40 * MIB)
    server = landline.Server()
    server.on_file(inbox)
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as proxy,
        landline.connect(proxy.url, backoff=quick) as line,
    ):
        proxy.up = Faults(bandwidth_bytes_per_s=40 * MIB)

        async def cut():
            while True:
                await asyncio.sleep(0.2)
                proxy.reset()

        cutting = asyncio.create_task(cut())
        receipt = await line.send_file(path)
        cutting.cancel()
        assert line.epoch > 2
    assert (inbox / "photo.raw").read_bytes() == path.read_bytes()
    assert receipt.resumed_from == 0


async def test_a_server_resumes_over_the_next_line_of_the_same_client(quick, inbox, write, until):
    """The client ends its line, and comes back with a new line and the same directory."""
    path = write(40 * MIB)
    server = landline.Server(resume_window_s=0.0)
    receipts, ends = [], []

    @server.on_line
    async def update(line):
        try:
            receipts.append(await line.send_file(path))
        except landline.LineClosed as error:
            ends.append(error)

    def connect(progress=None):
        connector = landline.connect(str(endpoint), backoff=quick, identity="kiosk-7")
        connector.on_file(inbox, progress=progress)
        return connector

    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        half = asyncio.Event()
        async with connect(lambda file, progress: progress.bytes_done > 20 * MIB and half.set()) as line:
            await half.wait()
            line.abort(landline.Code.NORMAL)
        await until(lambda: ends)
        await until(lambda: any(entry.suffix == ".json" for entry in inbox.iterdir()))
        async with connect():
            await until(lambda: receipts)
    assert receipts[0].resumed_from > 20 * MIB
    assert (inbox / "photo.raw").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("slow", ["store", "resume"])
async def test_a_slow_disk_is_not_a_stalled_transfer(pair, inbox, write, monkeypatch, slow):
    """ALIVE messages keep the sender waiting longer than its stall time-out."""
    monkeypatch.setattr(keepalive, "ALIVE_INTERVAL_S", 0.05)
    plain = getattr(PartialFile, slow)

    def slowly(self, *arguments, **named):
        time.sleep(LONGER_S)
        return plain(self, *arguments, **named)

    monkeypatch.setattr(PartialFile, slow, slowly)
    server = landline.Server()
    server.on_file(inbox)
    async with pair(server) as (line, _):
        assert (await line.send_file(write(1000), stall_timeout_s=STALL_TIMEOUT_S)).size_bytes == 1000


async def test_a_slow_accept_function_is_not_a_stalled_transfer(pair, inbox, write, monkeypatch):
    monkeypatch.setattr(keepalive, "ALIVE_INTERVAL_S", 0.05)

    async def accept(file):
        await asyncio.sleep(LONGER_S)

    server = landline.Server()
    server.on_file(inbox, accept=accept)
    async with pair(server) as (line, _):
        assert (await line.send_file(write(1000), stall_timeout_s=STALL_TIMEOUT_S)).size_bytes == 1000


async def test_exceptions_of_callbacks_are_logged(pair, inbox, write, caplog, until):
    async def received(file, receipt):
        raise RuntimeError("no receipts today")

    def progress(*arguments):
        raise RuntimeError("no progress today")

    server = landline.Server()
    server.on_file(inbox, progress=progress)(received)
    async with pair(server) as (line, _):
        await line.send_file(write(1000), progress=progress)
        await until(lambda: "no receipts today" in caplog.text)
    assert caplog.text.count("no progress today") >= 2


async def test_small_limits_make_small_chunks(pair, inbox, write):
    """The receiver accepts messages of 1 KiB, and the sender buffers 64 KiB."""
    path = write(300_000)
    server = landline.Server(
        limits=landline.Limits(message_bytes=1024, window_bytes=65_536, window_frames=128)
    )
    server.on_file(inbox)
    send_buffer = landline.SendBuffer(size_bytes=65_536, messages=128)
    async with pair(server, send_buffer=send_buffer) as (line, _):
        await line.send_file(path)
    assert (inbox / "photo.raw").read_bytes() == path.read_bytes()
