"""Files from one side of a line to the other, over real sockets and onto a real disk."""

import asyncio
import hashlib
import os

import pytest

import landline
from landline.testing import FaultProxy, Faults

MIB = 1024 * 1024


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


async def test_a_server_sends_as_well(quick, inbox, write):
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


async def test_cuts_cost_nothing(inbox, write, quick):
    path = write(60 * MIB)
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
