"""The proxy, between plain sockets: each fault does what it says, and no byte is lost, doubled or misplaced."""

import asyncio
import gc
import re
import resource
import socket
import struct
import warnings
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import landline
import landline.testing
from landline.testing import FaultProxy, Faults
from landline.testing.proxy import BUFFER_BYTES

DATA = bytes(range(256)) * 400


class Echo:
    """A server that sends everything back, and notes what it read and how each connection ended."""

    def __init__(self):
        self.reads: list[bytes] = []
        self.ends: list[str] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.writers_of_clients: list[asyncio.StreamWriter] = []
        self.is_mute = False

    async def connect(self, host, port):
        reader, writer = await asyncio.open_connection(host, port)
        self.writers_of_clients.append(writer)
        return reader, writer

    async def serve(self, reader, writer):
        self.writers.append(writer)
        try:
            while data := await reader.read(1 << 20):
                self.reads.append(data)
                if not self.is_mute:
                    writer.write(data)
                    await writer.drain()
            self.ends.append("end")
        except ConnectionResetError:
            self.ends.append("reset")
        writer.close()

    @property
    def received(self):
        return b"".join(self.reads)


@pytest.fixture
async def echo():
    it = Echo()
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    yield it
    server.close()
    everyone = it.writers + it.writers_of_clients
    for writer in everyone:
        writer.transport.abort()
    await asyncio.gather(*(writer.wait_closed() for writer in everyone), return_exceptions=True)


@asynccontextmanager
async def proxied(echo, **arguments):
    """A proxy, and a connection through it."""
    async with FaultProxy("127.0.0.1", echo.port, **arguments) as proxy:
        reader, writer = await echo.connect("127.0.0.1", proxy.port)
        try:
            yield proxy, reader, writer
        finally:
            writer.transport.abort()


async def exchange(reader, writer, data=DATA):
    """Sends while it reads what comes back."""
    writer.write(data)
    return await reader.readexactly(len(data))


@pytest.mark.parametrize(
    "faults",
    [
        Faults(),
        Faults(slice_bytes=1),
        Faults(slice_bytes=7, jitter_s=0.01),
        Faults(latency_s=0.02, jitter_s=0.05),
        Faults(bandwidth_bytes_per_s=100_000),
        Faults(latency_s=0.01, jitter_s=0.01, bandwidth_bytes_per_s=50_000, slice_bytes=100),
    ],
    ids=["none", "bytes", "slices", "late", "thin", "all"],
)
async def test_everything_arrives_once_and_in_order(echo, faults):
    data = DATA[:10_000]
    async with proxied(echo) as (proxy, reader, writer):
        proxy.up = proxy.down = faults
        assert await exchange(reader, writer, data) == data
        assert echo.received == data
        [connection] = proxy.connections
        assert (connection.up_bytes, connection.down_bytes) == (len(data), len(data))


async def test_slices_are_read_one_by_one(echo):
    async with proxied(echo) as (proxy, reader, writer):
        proxy.up = Faults(slice_bytes=1)
        assert await exchange(reader, writer, DATA[:100]) == DATA[:100]
    # The kernel may join two when this loop is late; that all came at once it never looks like.
    assert len(echo.reads) > 50


async def test_bytes_are_delayed_by_the_latency(echo):
    loop = asyncio.get_running_loop()
    async with proxied(echo) as (proxy, reader, writer):
        await exchange(reader, writer, b"connected")
        proxy.up, proxy.down = Faults(latency_s=0.2), Faults(latency_s=0.1)
        sent_at = loop.time()
        await exchange(reader, writer, b"x")
        # No less; and no more would be a statement on this machine. A loop's clock may tick in milliseconds.
        assert loop.time() - sent_at >= 0.29
        # What is under way hears of a change.
        proxy.up = Faults(latency_s=3600)
        writer.write(b"y")
        await asyncio.sleep(0.05)
        proxy.heal()
        assert await reader.readexactly(1) == b"y"


async def test_a_slow_link_slows_the_sender_down(echo, until):
    echo.is_mute = True
    async with proxied(echo) as (proxy, _, writer):
        await until(lambda: echo.writers)
        proxy.up = Faults(bandwidth_bytes_per_s=1000)
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        writer.write(bytes(4_000_000))
        await until(lambda: len(echo.received) > 300)
        assert len(echo.received) <= 1000 * (loop.time() - begun_at + 0.1) + 20
        # Next to nothing of it was taken from the sender: what buffers there are cannot hide the link.
        assert writer.transport.get_write_buffer_size() > 3_500_000


async def test_the_buffer_of_a_proxy_is_limited(echo, until):
    echo.is_mute = True
    async with proxied(echo) as (proxy, _, writer):
        await until(lambda: echo.writers)
        proxy.hold()
        writer.write(bytes(4_000_000))
        [connection] = proxy.connections
        flow = connection._up
        await until(lambda: flow._buffered_bytes >= BUFFER_BYTES)
        for _ in range(20):
            await asyncio.sleep(0)
        assert flow._buffered_bytes < 2 * BUFFER_BYTES
        proxy.heal()
        await until(lambda: len(echo.received) == 4_000_000)


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_black_hole_in_one_direction_delivers_its_bytes_afterwards(echo, until, way):
    async with proxied(echo) as (proxy, reader, writer):
        await exchange(reader, writer, b"before")
        proxy.hold(way)
        writer.write(b"during")
        if way == "down":
            await until(lambda: echo.received == b"beforeduring")
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert echo.received == (b"before" if way == "up" else b"beforeduring")
        [connection] = proxy.connections
        assert connection.down_bytes == len(b"before")
        proxy.heal()
        assert await reader.readexactly(6) == b"during"


async def test_a_connection_into_a_black_hole_is_relayed_when_it_is_gone(echo):
    async with FaultProxy("127.0.0.1", echo.port) as proxy:
        proxy.hold("down")
        reader, writer = await echo.connect("127.0.0.1", proxy.port)
        writer.write(b"hello")
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert echo.writers == []
        proxy.heal()
        assert await reader.readexactly(5) == b"hello"
        writer.close()


async def test_the_end_of_one_direction_is_relayed_and_the_other_continues(echo, until):
    async def count(reader, writer):
        data = await reader.read()
        writer.write(b"%d" % len(data))
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    async with server, proxied(echo) as (proxy, reader, writer):
        proxy.up = Faults(latency_s=0.05)
        writer.write(bytes(1234))
        writer.write_eof()
        assert await reader.read() == b"1234"
        writer.close()
        await until(lambda: not proxy.connections)


async def test_a_reset_passes(echo, until):
    async with proxied(echo) as (proxy, reader, writer):
        await exchange(reader, writer, b"x")
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await until(lambda: not proxy.connections)
    assert echo.ends == ["reset"]


async def read_to_the_end(reader):
    try:
        await reader.read()
    except ConnectionResetError:
        return "reset"
    return "end"


@pytest.mark.parametrize("server_side", ["cut", "reset"])
@pytest.mark.parametrize("client_side", ["cut", "reset"])
async def test_a_connection_ends_in_the_chosen_way_on_each_side(echo, until, client_side, server_side):
    async with proxied(echo) as (proxy, reader, writer):
        await exchange(reader, writer, b"x")
        [connection] = proxy.connections
        connection.end(client=client_side, server=server_side)
        assert await read_to_the_end(reader) == client_side.replace("cut", "end")
        await until(lambda: echo.ends)
        assert echo.ends == [server_side.replace("cut", "end")]
        writer.close()
        await until(lambda: connection.is_over)


async def test_an_abandoned_side_receives_nothing_and_its_bytes_are_lost(echo, until):
    async with proxied(echo) as (proxy, reader, writer):
        await exchange(reader, writer, b"x")
        [connection] = proxy.connections
        connection.end(client="reset", server="abandon")
        assert await read_to_the_end(reader) == "reset"
        [server_side] = echo.writers
        server_side.write(bytes(10_000_000))
        await server_side.drain()
        assert echo.ends == []
        assert not connection.is_over
        # It can still be reset.
        connection.reset()
        await until(lambda: connection.is_over)
        await until(lambda: echo.ends == ["reset"])


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("slice_bytes", [None, 3])
async def test_a_connection_ends_after_a_number_of_bytes(echo, until, way, slice_bytes):
    async with FaultProxy("127.0.0.1", echo.port) as proxy:
        proxy.up = Faults(slice_bytes=slice_bytes)
        seen = []
        proxy.on_connection = seen.append
        reader, writer = await echo.connect("127.0.0.1", proxy.port)
        await until(lambda: seen)
        [connection] = seen
        connection.end_after(1000, way=way, client="cut", server="cut")
        writer.write(DATA[:5000])
        answer = await reader.read()
        assert connection.is_spent
        if way == "up":
            assert echo.received == DATA[:1000]
            assert DATA.startswith(answer)
        else:
            assert answer == DATA[:1000]
        writer.close()
        await until(lambda: connection.is_over)


async def test_connections_are_refused_and_accepted_again_on_the_same_port(echo):
    async with proxied(echo) as (proxy, reader, writer):
        await exchange(reader, writer, b"old")
        port = proxy.port
        for _ in range(3):
            await proxy.refuse()
            await proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                await echo.connect("127.0.0.1", port)
            # The old one goes on.
            await exchange(reader, writer, b"old")
            proxy.accept()
            proxy.accept()
            assert proxy.port == port
            new_reader, new_writer = await echo.connect("127.0.0.1", port)
            await exchange(new_reader, new_writer, b"new")
            new_writer.close()


async def test_without_a_server_connections_are_reset(echo, until):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with FaultProxy("127.0.0.1", nobody.getsockname()[1]) as proxy:
            reader, writer = await echo.connect("127.0.0.1", proxy.port)
            assert await read_to_the_end(reader) == "reset"
            writer.close()
            await until(lambda: not proxy.connections)


async def test_all_connections_fail_at_once_or_a_single_one_does(echo, until):
    async with FaultProxy("127.0.0.1", echo.port) as proxy:
        ends = [await echo.connect("127.0.0.1", proxy.port) for _ in range(3)]
        for reader, writer in ends:
            await exchange(reader, writer, b"x")
        first, *_ = proxy.connections
        first.cut()
        assert await read_to_the_end(ends[0][0]) == "end"
        await exchange(*ends[1], b"y")
        proxy.reset()
        assert [await read_to_the_end(reader) for reader, _ in ends[1:]] == ["reset", "reset"]
        for _, writer in ends:
            writer.close()
        await until(lambda: not proxy.connections)


@pytest.mark.parametrize("state", ["idle", "busy", "held", "connecting", "cut", "abandoned", "refusing"])
async def test_leaving_it_closes_everything(echo, state):
    loop = asyncio.get_running_loop()
    troubles = []
    loop.set_exception_handler(lambda loop, context: troubles.append(context))
    own = len(asyncio.all_tasks())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with FaultProxy("127.0.0.1", echo.port) as proxy:
            if state == "connecting":
                proxy.hold()
            reader, writer = await echo.connect("127.0.0.1", proxy.port)
            if state != "connecting":
                await exchange(reader, writer, b"x")
            if state == "busy":
                proxy.up = Faults(bandwidth_bytes_per_s=10_000, latency_s=1)
                writer.write(DATA)
                await asyncio.sleep(0.01)
            if state == "held":
                proxy.hold()
                writer.write(DATA)
                await asyncio.sleep(0.01)
            if state == "refusing":
                await proxy.refuse()
            if state == "cut":
                proxy.cut()
                await asyncio.sleep(0.01)
            if state == "abandoned":
                proxy.connections[0].end(client="abandon", server="abandon")
                await asyncio.sleep(0.01)
        assert proxy.connections == ()
        assert await read_to_the_end(reader) == ("end" if state == "cut" else "reset")
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await echo.connect("127.0.0.1", proxy.port)
        del proxy
        gc.collect()
    assert troubles == []
    # The echo's own task for the connection may still be there.
    assert len(asyncio.all_tasks()) <= own + 1


async def test_it_is_entered_once(echo):
    async with FaultProxy("127.0.0.1", echo.port) as proxy:
        with pytest.raises(RuntimeError, match="already entered"):
            await proxy.__aenter__()
    async with proxy:
        assert proxy.url == f"tcp://127.0.0.1:{proxy.port}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency_s": -1.0},
        {"jitter_s": float("inf")},
        {"latency_s": float("nan")},
        {"bandwidth_bytes_per_s": 0},
        {"slice_bytes": 0},
    ],
)
def test_invalid_faults_are_refused(wrong):
    [name] = wrong
    with pytest.raises(landline.ConfigurationError, match=name):
        Faults(**wrong)


async def test_an_end_after_zero_bytes_is_refused(echo, until):
    async with proxied(echo) as (proxy, _, _):
        await until(lambda: proxy.connections)
        with pytest.raises(landline.ConfigurationError, match="must be at least 1"):
            proxy.connections[0].end_after(0, way="up")


async def test_the_system_s_lack_of_descriptors_is_survived(echo):
    loop = asyncio.get_running_loop()
    async with FaultProxy("127.0.0.1", echo.port) as proxy:
        with socket.socket() as client:
            client.setblocking(False)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with open("/dev/null") as free:
                resource.setrlimit(resource.RLIMIT_NOFILE, (free.fileno(), hard))
            try:
                await loop.sock_connect(client, ("127.0.0.1", proxy.port))
                for _ in range(20):
                    await asyncio.sleep(0.001)
                assert proxy.connections == ()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await loop.sock_sendall(client, b"x")
            assert await loop.sock_recv(client, 10) == b"x"


@pytest.mark.parametrize("name", landline.testing.__all__)
def test_every_public_name_is_in_the_reference(name):
    text = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
    assert re.search(rf"\b{name}\b", text)


async def test_a_connection_that_ends_before_it_is_relayed_does_not_block(until):
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    async with server, FaultProxy(host, port) as proxy:
        proxy.on_connection = lambda connection: connection.cut()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        # It says nothing and does not close: only a proxy that waits for it would hang here.
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        await until(lambda: not proxy.connections)
