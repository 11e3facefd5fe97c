"""Those who connect and do not get to the point: silent, slow, or in the middle of something. Real clients get in."""

import asyncio
import socket
import ssl

import pytest

import landline
from landline.session import handshake
from landline.transports import tcp

STRANGERS = 500


async def stranger(endpoint):
    """A connection, and whether the server has ended it."""
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)

    async def read_to_the_end():
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""

    return writer, asyncio.create_task(read_to_the_end())


async def say_one_byte_a_turn(writer, end):
    """Slowloris: the length of a frame of 8 KiB, and a byte now and then, so that it never is over."""
    writer.write(b"\0\0\x1f\xf0\x02")
    while not end.done():
        writer.write(b"x")
        await asyncio.sleep(0.05)


async def is_served(url, **arguments):
    async with landline.connect(url, **arguments) as line:
        return await line.request("echo", "in", timeout=None) == "in"


def echo_server():
    server = landline.Server()
    server.on("echo")(lambda line, body: body)
    return server


@pytest.fixture
def short_handshakes(monkeypatch):
    """A handshake may take one second, not five: less to wait for, and still longer than a client needs."""
    monkeypatch.setattr(handshake.ServerHandshake.__init__, "__kwdefaults__", {"timeout_s": 1.0})
    monkeypatch.setattr(tcp, "TLS_HANDSHAKE_TIMEOUT_S", 1.0)


async def test_strangers_of_all_kinds_at_once(short_handshakes, until):
    """Five hundred who say nothing, some with half a frame, some who say a byte now and then: a real client gets in
    beside them, and after the handshake's time-out all of them are gone, with nothing left of them."""
    server = echo_server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        opened = [await stranger(endpoint) for _ in range(STRANGERS)]
        for writer, _ in opened[:20]:
            writer.write(b"\0\0\1\0\2half a frame")
        slow = [asyncio.create_task(say_one_byte_a_turn(*each)) for each in opened[20:40]]
        assert await is_served(str(endpoint))
        ends = [end for _, end in opened]
        # Each was greeted, and told why it had to go, where it still listened.
        said = await asyncio.gather(*ends)
        assert sum(b"the handshake took too long" in last for last in said) >= STRANGERS - 20
        await asyncio.gather(*slow)
        await until(lambda: not server._host.acceptor.unfinished)
        assert server.lines == []
        assert await is_served(str(endpoint))
        for writer, _ in opened:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer, _ in opened), return_exceptions=True)


async def test_half_a_tls_handshake(short_handshakes, certificates, until):
    """Those who stop in the middle of TLS's own handshake, or never begin it, do not keep a real client out, and are
    thrown out too."""
    server = echo_server()
    options = landline.TransportOptions(tls=certificates.server)
    async with server.listen("tls://127.0.0.1:0", options=options) as endpoint:
        outgoing = ssl.MemoryBIO()
        half = certificates.client.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
        with pytest.raises(ssl.SSLWantReadError):
            half.do_handshake()
        hello = outgoing.read()
        opened = [await stranger(endpoint) for _ in range(60)]
        for number, (writer, _) in enumerate(opened):
            # Nothing; half of the first record; all of it, and nothing after the server's answer.
            writer.write((b"", hello[: len(hello) // 2], hello)[number % 3])
        client = landline.TransportOptions(tls=certificates.client)
        assert await is_served(str(endpoint), options=client)
        await asyncio.gather(*(end for _, end in opened))
        await until(lambda: not server._host.acceptor.unfinished)
        assert await is_served(str(endpoint), options=client)
        for writer, _ in opened:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer, _ in opened), return_exceptions=True)


async def test_connections_that_are_gone_before_they_are_accepted(until):
    """A hundred that were reset while they waited in the kernel are no trouble."""
    server = echo_server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        for _ in range(100):
            with socket.create_connection((endpoint.host, endpoint.port)) as gone:
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert await is_served(str(endpoint))
        await until(lambda: not server._host.acceptor.unfinished and not server.lines)
