"""Peers that break the rules of a transfer: each is refused, and nothing they do grows without a bound."""

import asyncio
import io
import os
import threading
from contextlib import asynccontextmanager

import msgspec
import pytest

import landline
from landline.files import disk_pool as threads
from landline.files import messages as words
from landline.files import partial_file as partial
from landline.files.limits import PROGRESS_BYTES
from landline.files.partial_file import Partial
from landline.line.codec import BodyError

MIB = 1024 * 1024
TOKEN = "a token of enough length"


class Rogue:
    """Says the words of a transfer as it likes."""

    def __init__(self, line, accepted):
        self.line = line
        self.accepted = accepted
        self.transfer = os.urandom(words.TRANSFER_BYTES)

    def offer(self, name="photo.raw", size_bytes=1000, **changes):
        values = {
            "transfer": self.transfer,
            "key": os.urandom(words.KEY_BYTES),
            "name": name,
            "to": "",
            "size_bytes": size_bytes,
            "modified_ns": 0,
        }
        return asyncio.create_task(self.line.request(words.OFFER, {**values, **changes}, timeout=None))

    async def chunk(self, offset, data):
        body = words.encode_chunk(self.transfer, offset, data)
        await self.line.send(body, name=words.CHUNK, bulk=True)

    async def end(self, digest=bytes(32)):
        await self.line.send({"transfer": self.transfer, "hash": digest}, name=words.END, bulk=True)


@pytest.fixture
def rogue(inbox, quick):
    """Connects a rogue to a server that receives into the inbox; gives both, and what was accepted."""

    @asynccontextmanager
    async def connect(**limits):
        server = landline.Server()
        server.on_file(inbox, limits=landline.FileLimits(**limits))
        accepted = asyncio.Queue()
        async with server.listen("tcp://127.0.0.1:0") as endpoint:
            connector = landline.connect(str(endpoint), backoff=quick)
            connector.handlers.reserve(
                words.ACCEPT, lambda line, body: accepted.put_nowait(body), words.Accept
            )
            connector.handlers.reserve(words.CREDIT, lambda line, body: None, words.Credit)
            connector.handlers.reserve(words.ALIVE, lambda line, body: None, bytes)
            async with connector as line:
                yield Rogue(line, accepted), server

    return connect


async def refused(answer, code):
    with pytest.raises(landline.RequestError) as caught:
        await answer
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
    ids=["more", "more in two", "a gap at first", "twice", "a gap", "empty", "far"],
)
async def test_wrong_chunks_end_the_transfer_and_leave_nothing(rogue, inbox, names_in, until, chunks):
    async with rogue() as (peer, _):
        answer = peer.offer()
        await peer.accepted.get()
        for offset, data in chunks:
            await peer.chunk(offset, data)
        await refused(answer, "broken")
        await until(lambda: names_in(inbox) == [])
        assert await peer.line.ping() > 0


async def test_a_chunk_above_the_largest_is_refused(rogue, inbox):
    async with rogue() as (peer, _):
        answer = peer.offer(size_bytes=MIB)
        await peer.accepted.get()
        await peer.chunk(0, bytes(words.CHUNK_BYTES_MAX + 1))
        assert "262144 are allowed" in await refused(answer, "broken")


async def test_more_than_the_window_is_refused(rogue, inbox, monkeypatch):
    """A disk that writes nothing, and a peer that does not wait for credit."""
    let_go = threading.Event()
    monkeypatch.setattr(Partial, "write", lambda self, data, restart: let_go.wait())
    async with rogue(window_bytes=MIB) as (peer, _):
        answer = peer.offer(size_bytes=100 * MIB)
        await peer.accepted.get()
        try:
            for number in range(5):
                await peer.chunk(number * 256 * 1024, bytes(256 * 1024))
            assert "window" in await refused(answer, "broken")
        finally:
            let_go.set()


async def test_chunks_and_ends_of_nothing_are_dropped(rogue, inbox, names_in, caplog):
    async with rogue() as (peer, server):
        for number in range(200):
            await peer.chunk(number, bytes(1000))
        await peer.end()
        await peer.line.send(b"short", name=words.CHUNK)
        await peer.line.send({"transfer": 7}, name=words.END)
        await peer.line.drain()
        assert await peer.line.ping() > 0
        assert names_in(inbox) == []
        assert server.memory_held_bytes < MIB
    # A peer's nonsense is a line in the log, and not a traceback.
    assert "'landline.file.chunk' that does not fit: a chunk of 5 bytes; 16 are its header" in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_wrong_hash_or_an_early_end_stores_nothing(rogue, inbox, names_in, until):
    async with rogue() as (peer, _):
        answer = peer.offer(size_bytes=4)
        await peer.accepted.get()
        await peer.chunk(0, b"data")
        await peer.end()
        await refused(answer, "damaged")
        await until(lambda: names_in(inbox) == [])
        answer = peer.offer(size_bytes=4)
        await peer.accepted.get()
        await peer.chunk(0, b"dat")
        await peer.end()
        assert "3 of 4 bytes" in await refused(answer, "broken")
        await until(lambda: names_in(inbox) == [])


async def test_a_thousand_offers_take_no_more_than_the_limit(rogue, inbox, names_in):
    async with rogue(files_per_line=4) as (peer, _):
        answers = []
        for _ in range(1000):
            peer.transfer = os.urandom(words.TRANSFER_BYTES)
            answers.append(peer.offer())
        for _ in range(4):
            await peer.accepted.get()
        codes = [
            caught.code
            for caught in await asyncio.gather(*answers[4:], return_exceptions=True)
            if isinstance(caught, landline.RequestError)
        ]
        assert codes == ["busy"] * 996
        assert names_in(inbox) == []
        for answer in answers[:4]:
            answer.cancel()


async def test_a_peer_that_sends_no_more_is_given_up(rogue, inbox, names_in, until):
    async with rogue(stall_timeout_s=0.2) as (peer, _):
        answer = peer.offer()
        await peer.accepted.get()
        await peer.chunk(0, b"x")
        await refused(answer, "stalled")
        await until(lambda: len(names_in(inbox)) == 2)


async def test_signs_of_life_do_not_replace_bytes(rogue):
    async with rogue(stall_timeout_s=0.3) as (peer, _):
        answer = peer.offer()
        await peer.accepted.get()
        await peer.chunk(0, b"x")

        async def chatter():
            while True:
                await peer.line.send(peer.transfer, name=words.ALIVE)
                await asyncio.sleep(0.05)

        chatting = asyncio.create_task(chatter())
        await refused(answer, "stalled")
        chatting.cancel()


async def test_signs_of_life_before_the_first_byte_count_for_a_while_only(rogue):
    async with rogue(stall_timeout_s=0.3, first_byte_timeout_s=0.3) as (peer, _):
        answer = peer.offer()
        await peer.accepted.get()

        async def chatter():
            while True:
                await peer.line.send(peer.transfer, name=words.ALIVE)
                await asyncio.sleep(0.05)

        chatting = asyncio.create_task(chatter())
        await refused(answer, "stalled")
        chatting.cancel()


@pytest.fixture
def visitor(quick):
    """Connects peers with identities of their own to a server."""

    @asynccontextmanager
    async def connect(endpoint, identity):
        accepted = asyncio.Queue()
        connector = landline.connect(
            str(endpoint), auth=landline.SharedToken(TOKEN), identity=identity, backoff=quick
        )
        connector.handlers.reserve(words.ACCEPT, lambda line, body: accepted.put_nowait(body), words.Accept)
        connector.handlers.reserve(words.CREDIT, lambda line, body: None, words.Credit)
        connector.handlers.reserve(words.ALIVE, lambda line, body: None, bytes)
        async with connector as line:
            yield Rogue(line, accepted)

    return connect


async def offer_some(peer, times):
    """Offers files and sends nothing of them; returns what will answer."""
    answers = []
    for _ in range(times):
        peer.transfer = os.urandom(words.TRANSFER_BYTES)
        answers.append(peer.offer())
        await peer.accepted.get()
    return answers


async def test_who_holds_all_places_and_sends_nothing_keeps_nobody_out(inbox, visitor, write, quick):
    server = landline.Server(auth=landline.SharedToken(TOKEN))
    # Idle at once; that who makes progress is not is decided elsewhere.
    server.on_file(inbox, limits=landline.FileLimits(concurrent_files=6, files_per_peer=3, idle_s=0))
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        visitor(endpoint, "first") as first,
        visitor(endpoint, "second") as second,
        visitor(endpoint, "second") as second_again,
        landline.connect(
            str(endpoint), auth=landline.SharedToken(TOKEN), identity="honest", backoff=quick
        ) as honest,
    ):
        answers = await offer_some(first, 3)
        # The share of a peer is that of all its lines.
        answers += await offer_some(second, 2) + await offer_some(second_again, 1)
        second_again.transfer = os.urandom(words.TRANSFER_BYTES)
        assert "of this peer" in await refused(second_again.offer(), "busy")
        assert len(server.files.receivings) == 6
        for name in ("one", "two", "three"):
            receipt = await honest.send_file(write(100_000, name))
            assert (inbox / name).stat().st_size == receipt.size_bytes
        given_up = [answer for answer in answers if answer.done()]
        assert given_up
        for answer in given_up:
            await refused(answer, "stalled")
        # Those that offer again take no place of each other's.
        assert len(server.files.receivings) == 6 - len(given_up)
        for answer in answers:
            answer.cancel()


async def test_a_transfer_that_makes_progress_is_not_idle(rogue, until):
    async with rogue() as (peer, server):
        answer = peer.offer(size_bytes=MIB)
        await peer.accepted.get()
        [receiving] = server.files.receivings.values()
        begun = receiving._progress_at
        await peer.chunk(0, b"x")
        await until(lambda: receiving._reception.written_bytes == 1)
        assert receiving._progress_at == begun
        await peer.chunk(1, bytes(PROGRESS_BYTES))
        await until(lambda: receiving._progress_at > begun)
        assert receiving.idle_s(receiving._progress_at + 7.0) == pytest.approx(7.0)
        # While we write it is we who take the time.
        receiving._is_writing = True
        assert receiving.idle_s(receiving._progress_at + 7.0) == 0.0
        answer.cancel()


async def test_a_peer_that_drips_is_given_up_in_the_end(rogue):
    async with rogue(stall_timeout_s=10, transfer_timeout_s=0.4) as (peer, _):
        answer = peer.offer(size_bytes=10**9)
        await peer.accepted.get()

        async def drip():
            for offset in range(10**6):
                await peer.chunk(offset, b"x")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        await refused(answer, "too_slow")
        dripping.cancel()


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
async def test_offers_that_are_none(rogue, changes):
    async with rogue() as (peer, _):
        await refused(peer.offer(**changes), "bad_request")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\0", ".ssh", "NUL", "", "a/b"])
async def test_hostile_names(rogue, inbox, names_in, name):
    async with rogue() as (peer, _):
        await refused(peer.offer(name=name), "bad_name")
        assert names_in(inbox) == []


async def test_one_number_for_two_transfers(rogue):
    async with rogue() as (peer, _):
        first = peer.offer()
        await peer.accepted.get()
        await refused(peer.offer(), "broken")
        first.cancel()


@pytest.mark.parametrize(
    "word",
    [
        {"offset": 10**9},
        {"window_bytes": 0},
        {"chunk_bytes": 1},
        {"hash": b"short"},
    ],
)
async def test_a_receiver_that_accepts_nonsense(pair, write, word, quick, caplog):
    """The sender gives up, or takes it for no word at all."""
    server = landline.Server()

    async def receive(line, offer):
        accept = {"offset": 0, "hash": bytes(32), "window_bytes": MIB, "chunk_bytes": MIB, **word}
        await line.send({"transfer": offer["transfer"], **accept}, name=words.ACCEPT)
        await asyncio.Event().wait()

    server.handlers.reserve(words.OFFER, receive, dict)
    async with pair(server) as (line, _):
        with pytest.raises((landline.FileRefused, landline.FileStalled)):
            await line.send_file(write(1000), stall_timeout_s=0.2)


async def test_a_receiver_that_credits_what_was_not_sent(pair, write):
    server = landline.Server()

    async def receive(line, offer):
        accept = {"offset": 0, "hash": bytes(32), "window_bytes": MIB, "chunk_bytes": 1000}
        await line.send({"transfer": offer["transfer"], **accept}, name=words.ACCEPT)
        await line.send({"transfer": offer["transfer"], "written_bytes": 10**12}, name=words.CREDIT)
        await asyncio.Event().wait()

    server.handlers.reserve(words.OFFER, receive, dict)
    server.handlers.reserve(words.CHUNK, lambda line, body: None, bytes)
    async with pair(server) as (line, _):
        with pytest.raises(landline.FileRefused, match="broke its rules"):
            await line.send_file(write(MIB))


async def test_a_receiver_that_says_nothing(pair, write):
    server = landline.Server()

    async def receive(line, offer):
        await asyncio.Event().wait()

    server.handlers.reserve(words.OFFER, receive, dict)
    async with pair(server) as (line, _):
        with pytest.raises(landline.FileStalled, match=r"for 0.2 s"):
            await line.send_file(write(10), stall_timeout_s=0.2)


class Endless(io.BytesIO):
    """A file that is read for ever."""

    def __init__(self, begun):
        self.begun = begun

    def read(self, size_bytes):
        self.begun.release()
        return b"data"


async def test_files_that_are_hashed_for_nobody_do_not_occupy_the_threads(rogue, inbox, until, monkeypatch):
    """Offers of a file that is there already, given up while it is hashed: the threads are free again at once."""
    (inbox / "large").write_bytes(b"data")
    os.utime(inbox / "large", ns=(5, 5))
    begun = threading.Semaphore(0)
    monkeypatch.setattr(partial, "_open_to_read", lambda path: Endless(begun))
    async with rogue() as (peer, server):
        answers = []
        for _ in range(threads.THREADS):
            peer.transfer = os.urandom(words.TRANSFER_BYTES)
            answers.append(peer.offer("large", size_bytes=4, modified_ns=5))
            await peer.accepted.get()
        for receiving in list(server.files.receivings.values()):
            receiving.receive_end(words.End(receiving._offer.transfer, bytes(words.HASH_BYTES)))
        await until(lambda: begun.acquire(blocking=False))
        for answer in answers:
            answer.cancel()
        await until(lambda: not server.files.receivings)
        idle = [threads.submit(lambda: None) for _ in range(threads.THREADS)]
        await asyncio.gather(*map(asyncio.wrap_future, idle))


def test_a_chunk_can_be_taken_apart():
    body = words.encode_chunk(b"t" * 8, 2**64 - 1, b"data")
    transfer, offset, data = words.decode_chunk(body)
    assert (transfer, offset, bytes(data)) == (b"t" * 8, 2**64 - 1, b"data")
    with pytest.raises(BodyError, match="16 are its header"):
        words.decode_chunk(body[:15])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(words.Stored("a"))) == {"name": "a"}
