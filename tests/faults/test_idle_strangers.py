"""Peers that connect without completing a handshake: silent, slow or partial ones. Real clients can connect."""

import asyncio
import socket
import ssl

import pytest

import landline
from landline.session import handshake
from landline.transports import tcp

STRANGERS = 500


async def stranger(endpoint):
    """A connection, with the state whether the server has ended it."""
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)

    async def read_to_the_end():
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""

    return writer, asyncio.create_task(read_to_the_end())


async def say_one_byte_a_turn(writer, end):
    """Slowloris: the length of a frame of 8 KiB, then an occasional byte, so that the frame never ends."""
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
    """Limit a handshake to one second instead of five: a shorter wait, and still longer than a client needs."""
    monkeypatch.setattr(handshake.ServerHandshake.__init__, "__kwdefaults__", {"timeout_s": 1.0})
    monkeypatch.setattr(tcp, "TLS_HANDSHAKE_TIMEOUT_S", 1.0)


async def test_silent_and_slow_peers_are_disconnected(short_handshakes, until):
    """Five hundred peers that send nothing, half a frame, or an occasional byte: a real client can connect, and after
    the time-out of the handshake all of them are disconnected, without any remains."""
    server = echo_server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        opened = [await stranger(endpoint) for _ in range(STRANGERS)]
        for writer, _ in opened[:20]:
            writer.write(b"\0\0\1\0\2half a frame")
        slow = [asyncio.create_task(say_one_byte_a_turn(*each)) for each in opened[20:40]]
        assert await is_served(str(endpoint))
        ends = [end for _, end in opened]
        # Each got a CHALLENGE, and the reason of its refusal if it was still reading.
        said = await asyncio.gather(*ends)
        assert sum(b"the handshake took too long" in last for last in said) >= STRANGERS - 20
        await asyncio.gather(*slow)
        await until(lambda: not server._host.acceptor.unfinished)
        assert server.lines == []
        assert await is_served(str(endpoint))
        for writer, _ in opened:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer, _ in opened), return_exceptions=True)


async def test_incomplete_tls_handshakes(short_handshakes, certificates, until):
    """Peers that stop during the handshake of TLS, or never start it, do not block a real client, and are disconnected
    too."""
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


async def test_connections_that_are_reset_before_they_are_accepted(until):
    """A hundred connections that are reset in the accept queue of the kernel have no effect."""
    server = echo_server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        for _ in range(100):
            with socket.create_connection((endpoint.host, endpoint.port)) as gone:
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert await is_served(str(endpoint))
        await until(lambda: not server._host.acceptor.unfinished and not server.lines)
