"""Peers that violate the protocol of a transfer: each is refused, and none makes memory or files grow without limit."""

import asyncio
import io
import os
import threading
from contextlib import asynccontextmanager

import msgspec
import pytest
from tests.reserved_handlers import handle_reserved

import landline
from landline.files import disk_pool, messages, partial_file
from landline.files.partial_file import PartialFile
from landline.line.codec import BodyError

MIB = 1024 * 1024
TOKEN = "a token of enough length"


class RawSender:
    """Sends the messages of a transfer in any order and with any content."""

    def __init__(self, line, accepted):
        self.line = line
        self.accepted = accepted
        self.transfer = os.urandom(messages.TRANSFER_ID_BYTES)

    def offer(self, name="photo.raw", size_bytes=1000, **changes):
        values = {
            "transfer": self.transfer,
            "key": os.urandom(messages.KEY_BYTES),
            "name": name,
            "to": "",
            "size_bytes": size_bytes,
            "modified_ns": 0,
        }
        return asyncio.create_task(self.line.request(messages.OFFER, {**values, **changes}, timeout=None))

    async def chunk(self, offset, data):
        body = messages.encode_chunk(self.transfer, offset, data)
        await self.line.send(body, name=messages.CHUNK, bulk=True)

    async def report_alive(self):
        while True:
            await self.line.send(self.transfer, name=messages.ALIVE)
            await asyncio.sleep(0.05)

    async def end(self, digest=bytes(32)):
        await self.line.send({"transfer": self.transfer, "hash": digest}, name=messages.END, bulk=True)


@asynccontextmanager
async def open_raw_sender(endpoint, **arguments):
    accepted = asyncio.Queue()
    connector = landline.connect(str(endpoint), **arguments)
    handle_reserved(connector, messages.ACCEPT, lambda line, body: accepted.put_nowait(body), messages.Accept)
    handle_reserved(connector, messages.CREDIT, lambda line, body: None, messages.Credit)
    handle_reserved(connector, messages.ALIVE, lambda line, body: None, bytes)
    async with connector as line:
        yield RawSender(line, accepted)


@pytest.fixture
def connect_raw(inbox, quick):
    """Connect a :class:`RawSender` to a server that receives files into the inbox. Yield both."""

    @asynccontextmanager
    async def connect(**limits):
        server = landline.Server()
        server.on_file(inbox, limits=landline.FileLimits(**limits))
        async with (
            server.listen("tcp://127.0.0.1:0") as endpoint,
            open_raw_sender(endpoint, backoff=quick) as sender,
        ):
            yield sender, server

    return connect


async def refused(request, code):
    with pytest.raises(landline.RequestError) as caught:
        await request
    assert caught.value.code == code, caught.value
    return str(caught.value)


@pytest.mark.parametrize(
    "chunks",
    [
        [(0, bytes(1001))],
        [(0, bytes(600)), (600, bytes(401))],
        [(1, b"x")],
        [(0, b"x"), (0, b"x")],
        [(0, b"x"), (2, b"x")],
        [(0, b"")],
        [(2**64 - 1, b"x")],
    ],
    ids=[
        "too much",
        "too much in two chunks",
        "gap before the first",
        "repeated",
        "gap",
        "empty",
        "far offset",
    ],
)
async def test_invalid_chunks_end_the_transfer_and_leave_nothing(connect_raw, inbox, names_in, until, chunks):
    async with connect_raw() as (peer, _):
        request = peer.offer()
        await peer.accepted.get()
        for offset, data in chunks:
            await peer.chunk(offset, data)
        await refused(request, "broken")
        await until(lambda: names_in(inbox) == [])
        assert await peer.line.ping() > 0


async def test_a_chunk_above_the_maximum_size_is_refused(connect_raw, inbox):
    async with connect_raw() as (peer, _):
        request = peer.offer(size_bytes=MIB)
        await peer.accepted.get()
        await peer.chunk(0, bytes(messages.CHUNK_BYTES_MAX + 1))
        assert "262144 are allowed" in await refused(request, "broken")


async def test_bytes_beyond_the_window_are_refused(connect_raw, inbox, monkeypatch):
    """The disk does not write, and the peer does not wait for credit."""
    release = threading.Event()
    monkeypatch.setattr(PartialFile, "write", lambda self, data, restart: release.wait())
    async with connect_raw(window_bytes=MIB) as (peer, _):
        request = peer.offer(size_bytes=100 * MIB)
        await peer.accepted.get()
        try:
            for number in range(5):
                await peer.chunk(number * 256 * 1024, bytes(256 * 1024))
            assert "window" in await refused(request, "broken")
        finally:
            release.set()


async def test_messages_of_unknown_transfers_are_ignored(connect_raw, inbox, names_in, caplog):
    async with connect_raw() as (peer, server):
        for number in range(200):
            await peer.chunk(number, bytes(1000))
        await peer.end()
        await peer.line.send(b"short", name=messages.CHUNK)
        await peer.line.send({"transfer": 7}, name=messages.END)
        await peer.line.drain()
        assert await peer.line.ping() > 0
        assert names_in(inbox) == []
        assert server.memory_held_bytes < MIB
    # Invalid messages are logged without a traceback.
    assert (
        "'landline.file.chunk' that does not fit: a chunk of 5 bytes is shorter than its header of 16 bytes"
        in caplog.text
    )
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_wrong_hash_or_an_early_end_stores_nothing(connect_raw, inbox, names_in, until):
    async with connect_raw() as (peer, _):
        request = peer.offer(size_bytes=4)
        await peer.accepted.get()
        await peer.chunk(0, b"data")
        await peer.end()
        await refused(request, "damaged")
        await until(lambda: names_in(inbox) == [])
        request = peer.offer(size_bytes=4)
        await peer.accepted.get()
        await peer.chunk(0, b"dat")
        await peer.end()
        assert "3 of 4 bytes" in await refused(request, "broken")
        await until(lambda: names_in(inbox) == [])


async def test_a_thousand_offers_do_not_exceed_the_limit(connect_raw, inbox, names_in):
    async with connect_raw(files_per_line=4) as (peer, _):
        requests = []
        for _ in range(1000):
            peer.transfer = os.urandom(messages.TRANSFER_ID_BYTES)
            requests.append(peer.offer())
        for _ in range(4):
            await peer.accepted.get()
        codes = [
            caught.code
            for caught in await asyncio.gather(*requests[4:], return_exceptions=True)
            if isinstance(caught, landline.RequestError)
        ]
        assert codes == ["busy"] * 996
        assert names_in(inbox) == []
        for request in requests[:4]:
            request.cancel()


async def test_a_peer_that_stops_sending_is_refused(connect_raw, inbox, names_in, until):
    async with connect_raw(stall_timeout_s=0.2) as (peer, _):
        request = peer.offer()
        await peer.accepted.get()
        await peer.chunk(0, b"x")
        await refused(request, "stalled")
        await until(lambda: len(names_in(inbox)) == 2)


async def test_alive_messages_after_the_first_byte_do_not_prevent_a_stall(connect_raw):
    async with connect_raw(stall_timeout_s=0.3) as (peer, _):
        request = peer.offer()
        await peer.accepted.get()
        await peer.chunk(0, b"x")

        reporting = asyncio.create_task(peer.report_alive())
        await refused(request, "stalled")
        reporting.cancel()


async def test_alive_messages_before_the_first_byte_count_for_a_limited_time(connect_raw):
    async with connect_raw(stall_timeout_s=0.3, first_byte_timeout_s=0.3) as (peer, _):
        request = peer.offer()
        await peer.accepted.get()

        reporting = asyncio.create_task(peer.report_alive())
        await refused(request, "stalled")
        reporting.cancel()


async def offer_files(peer, count):
    """Offer files without sending a byte of them. Return the requests."""
    requests = []
    for _ in range(count):
        peer.transfer = os.urandom(messages.TRANSFER_ID_BYTES)
        requests.append(peer.offer())
        await peer.accepted.get()
    return requests


async def test_idle_transfers_do_not_block_other_peers(inbox, write, quick):
    server = landline.Server(auth=landline.SharedToken(TOKEN))

    def connect_as(identity):
        return open_raw_sender(endpoint, auth=landline.SharedToken(TOKEN), identity=identity, backoff=quick)

    # Idle at once: test_transfer.py has the rules for transfers with progress.
    server.on_file(inbox, limits=landline.FileLimits(concurrent_files=6, files_per_peer=3, idle_s=0))
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        connect_as("first") as first,
        connect_as("second") as second,
        connect_as("second") as second_again,
        landline.connect(
            str(endpoint), auth=landline.SharedToken(TOKEN), identity="honest", backoff=quick
        ) as honest,
    ):
        requests = await offer_files(first, 3)
        # All lines of a peer count.
        requests += await offer_files(second, 2) + await offer_files(second_again, 1)
        second_again.transfer = os.urandom(messages.TRANSFER_ID_BYTES)
        assert "this peer is already sending 3 files" in await refused(second_again.offer(), "busy")
        assert not any(request.done() for request in requests)
        for name in ("one", "two", "three"):
            receipt = await honest.send_file(write(100_000, name))
            assert (inbox / name).stat().st_size == receipt.size_bytes
        ended = [request for request in requests if request.done()]
        assert ended
        for request in ended:
            await refused(request, "stalled")
        # One transfer is ended for the first file; it frees a slot for the following ones.
        assert len(ended) == 1
        for request in requests:
            request.cancel()


async def test_a_peer_that_sends_a_byte_at_a_time_is_refused_in_the_end(connect_raw):
    async with connect_raw(stall_timeout_s=10, transfer_timeout_s=0.4) as (peer, _):
        request = peer.offer(size_bytes=10**9)
        await peer.accepted.get()

        async def send_bytes():
            for offset in range(10**6):
                await peer.chunk(offset, b"x")
                await asyncio.sleep(0.01)

        sending = asyncio.create_task(send_bytes())
        await refused(request, "too_slow")
        sending.cancel()


@pytest.mark.parametrize(
    "changes",
    [
        {"transfer": b"short"},
        {"key": b""},
        {"name": 7},
        {"name": "x" * 256},
        {"to": "x" * 65},
        {"size_bytes": -1},
        {"size_bytes": 2**63},
        {"modified_ns": -1},
        {"size_bytes": 1.5},
    ],
)
async def test_malformed_offers_are_refused(connect_raw, changes):
    async with connect_raw() as (peer, _):
        await refused(peer.offer(**changes), "bad_request")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\0", ".ssh", "NUL", "", "a/b"])
async def test_invalid_names_are_refused(connect_raw, inbox, names_in, name):
    async with connect_raw() as (peer, _):
        await refused(peer.offer(name=name), "bad_name")
        assert names_in(inbox) == []


async def test_a_transfer_id_cannot_be_used_twice(connect_raw):
    async with connect_raw() as (peer, _):
        first = peer.offer()
        await peer.accepted.get()
        await refused(peer.offer(), "broken")
        first.cancel()


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 10**9},
        {"window_bytes": 0},
        {"chunk_bytes": 1},
        {"hash": b"short"},
    ],
)
async def test_a_malformed_accept_ends_or_stalls_the_transfer(pair, write, changes):
    """The sender refuses it, or ignores it as malformed."""
    server = landline.Server()

    async def receive(line, offer):
        accept = {"offset": 0, "hash": bytes(32), "window_bytes": MIB, "chunk_bytes": MIB, **changes}
        await line.send({"transfer": offer["transfer"], **accept}, name=messages.ACCEPT)
        await asyncio.Event().wait()

    handle_reserved(server, messages.OFFER, receive, dict)
    async with pair(server) as (line, _):
        with pytest.raises((landline.FileRefused, landline.FileStalled)):
            await line.send_file(write(1000), stall_timeout_s=0.2)


async def test_credit_for_unsent_bytes_ends_the_transfer(pair, write):
    server = landline.Server()

    async def receive(line, offer):
        accept = {"offset": 0, "hash": bytes(32), "window_bytes": MIB, "chunk_bytes": 1000}
        await line.send({"transfer": offer["transfer"], **accept}, name=messages.ACCEPT)
        await line.send({"transfer": offer["transfer"], "written_bytes": 10**12}, name=messages.CREDIT)
        await asyncio.Event().wait()

    handle_reserved(server, messages.OFFER, receive, dict)
    handle_reserved(server, messages.CHUNK, lambda line, body: None, bytes)
    async with pair(server) as (line, _):
        with pytest.raises(landline.FileRefused, match="protocol violation"):
            await line.send_file(write(MIB))


async def test_a_silent_receiver_stalls_the_transfer(pair, write):
    server = landline.Server()

    async def receive(line, offer):
        await asyncio.Event().wait()

    handle_reserved(server, messages.OFFER, receive, dict)
    async with pair(server) as (line, _):
        with pytest.raises(landline.FileStalled, match=r"for 0.2 s"):
            await line.send_file(write(10), stall_timeout_s=0.2)


class Endless(io.BytesIO):
    """A file without an end."""

    def __init__(self, started):
        self.started = started

    def read(self, size_bytes):
        self.started.release()
        return b"data"


async def test_hashing_stops_when_the_transfer_is_cancelled(connect_raw, inbox, until, monkeypatch):
    """Offers of a stored file, cancelled while it is hashed: the threads are free again at once."""
    (inbox / "large").write_bytes(b"data")
    os.utime(inbox / "large", ns=(5, 5))
    started = threading.Semaphore(0)
    monkeypatch.setattr(partial_file, "_open_to_read", lambda path: Endless(started))
    async with connect_raw() as (peer, _):
        requests = []
        for _ in range(disk_pool.THREADS):
            peer.transfer = os.urandom(messages.TRANSFER_ID_BYTES)
            requests.append(peer.offer("large", size_bytes=4, modified_ns=5))
            await peer.accepted.get()
            await peer.end()
        await until(lambda: started.acquire(blocking=False))
        for request in requests:
            request.cancel()
        idle = [disk_pool.submit(lambda: None) for _ in range(disk_pool.THREADS)]
        await asyncio.gather(*map(asyncio.wrap_future, idle))


def test_chunks_can_be_decoded():
    body = messages.encode_chunk(b"t" * 8, 2**64 - 1, b"data")
    transfer, offset, data = messages.decode_chunk(body)
    assert (transfer, offset, bytes(data)) == (b"t" * 8, 2**64 - 1, b"data")
    with pytest.raises(BodyError, match="shorter than its header"):
        messages.decode_chunk(body[:15])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(messages.Stored("a"))) == {"name": "a"}
