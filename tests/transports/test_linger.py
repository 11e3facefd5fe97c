"""Lingering close: the last frame arrives, the wait for the peer is limited, and no socket stays open."""

import asyncio
import contextlib
import os
import random
import socket
import struct
import threading

import pytest
from tests.raw_connections import read_frame, shake_hands
from websockets.frames import Frame, Opcode

import landline
from landline.server.acceptor import RETRY_SPREAD_SHARE
from landline.session.bodies import Bye, Reject, Welcome, decode_body, encode_body
from landline.session.constants import Kind
from landline.session.frames import encode_data
from landline.session.handshake import ServerHandshake
from landline.session.settings import Heartbeat, Limits
from landline.transports import linger as lingering

FOR_A_LONG_TIME_S = 3600.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
BYE_FIELDS = {"retry_after_s": 7.0, "spread_s": 2.5, "alternatives": ("tls://elsewhere:5463",)}


def open_sockets() -> int:
    paths = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sum(os.path.exists(path) and os.readlink(path).startswith("socket:") for path in paths)


@pytest.fixture
def listen(certificates, tmp_path):
    """Listen on a URL of the scheme."""

    def enter(server, scheme):
        url = f"unix://{tmp_path}/line" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
        is_encrypted = scheme in {"tls", "wss"}
        options = landline.TransportOptions(tls=certificates.server if is_encrypted else None)
        return server.listen(url, options=options)

    return enter


@pytest.fixture
def raw(certificates):
    """Open a raw connection to an endpoint."""

    @contextlib.asynccontextmanager
    async def open_raw(endpoint):
        if endpoint.scheme == "unix":
            reader, writer = await asyncio.open_unix_connection(endpoint.path)
        else:
            context = certificates.client if endpoint.scheme == "tls" else None
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    return open_raw


async def read_until(reader, wanted: Kind) -> bytes:
    while True:
        kind, body = await read_frame(reader)
        if kind == wanted:
            return body


@pytest.mark.parametrize("scheme", ["tcp", "unix", "tls"])
async def test_a_bye_arrives_whole_at_a_peer_that_still_sends(scheme, listen, raw, until):
    server = landline.Server()
    server.on_message(lambda line, _: line.abort(landline.Code.GOING_AWAY, "later, please", **BYE_FIELDS))
    async with listen(server, scheme) as endpoint, raw(endpoint) as (reader, writer):
        await shake_hands(reader, writer)
        for number in range(1, 400):
            writer.write(encode_data(number, 0, 1, 0, b"", bytes(4000)))
        bye = decode_body(await read_until(reader, Kind.BYE), Bye)
        assert bye == Bye(100, "later, please", 7.0, 2.5, ("tls://elsewhere:5463",))


@pytest.mark.parametrize("scheme", ["tcp", "unix", "tls"])
async def test_a_reject_arrives_whole_at_a_peer_that_still_sends(scheme, listen, raw):
    async with listen(landline.Server(), scheme) as endpoint, raw(endpoint) as (reader, writer):
        writer.write(bytes(lingering.DISCARD_BYTES_MAX // 2))
        reject = decode_body(await read_until(reader, Kind.REJECT), Reject)
        assert (reject.code, reject.reason) == (201, "an empty frame")


@pytest.mark.parametrize("scheme", ["tcp", "unix", "tls"])
async def test_a_client_that_reconnects_too_early_reads_the_retry_time_while_it_sends(scheme, listen, raw):
    server = landline.Server(admission=landline.Admission(per_s=0.01, burst=1))
    async with listen(server, scheme) as endpoint, raw(endpoint) as (first, _):
        await read_until(first, Kind.CHALLENGE)
        async with raw(endpoint) as (reader, writer):
            writer.write(bytes(lingering.DISCARD_BYTES_MAX // 2))
            reject = decode_body(await read_until(reader, Kind.REJECT), Reject)
        assert reject.code == landline.Code.OVERLOADED
        assert reject.retry_after_s is not None
        assert reject.retry_after_s > 0
        assert reject.spread_s == reject.retry_after_s * RETRY_SPREAD_SHARE


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: landline.1\r\n\r\n"
)


@pytest.mark.parametrize("scheme", ["tcp", "unix", "tls", "ws"])
async def test_a_peer_that_floods_after_the_last_frame_is_cut_off(scheme, listen, raw, until, monkeypatch):
    for module in ("linger", "websocket.stream"):
        monkeypatch.setattr(f"landline.transports.{module}.LINGER_TIMEOUT_S", FOR_A_LONG_TIME_S)
    piece = bytes(65_536)
    async with listen(landline.Server(), scheme) as endpoint:
        before = open_sockets()
        async with raw(endpoint) as (_, writer):
            if scheme == "ws":
                writer.write(UPGRADE)
                piece = Frame(Opcode.BINARY, piece).serialize(mask=True)
            written_bytes = 0
            with pytest.raises(ConnectionError):
                while True:
                    writer.write(piece)
                    written_bytes += len(piece)
                    await writer.drain()
                    # drain() need not let the event loop run, which has to notice the end.
                    await asyncio.sleep(0)
            # What the server takes, and what the kernel holds of both ends.
            assert written_bytes < lingering.DISCARD_BYTES_MAX + 16 * 1024 * 1024
        await until(lambda: open_sockets() == before)


@pytest.mark.parametrize("scheme", ["tcp", "unix", "tls", "ws"])
async def test_a_peer_that_never_closes_is_aborted_in_time(scheme, listen, raw, until, monkeypatch):
    for module in ("linger", "websocket.stream"):
        monkeypatch.setattr(f"landline.transports.{module}.LINGER_TIMEOUT_S", 0.05)
    async with listen(landline.Server(), scheme) as endpoint:
        before = open_sockets()
        async with raw(endpoint) as (_, writer):
            garbage = bytes(8)
            if scheme == "ws":
                writer.write(UPGRADE)
                garbage = Frame(Opcode.BINARY, garbage).serialize(mask=True)
            writer.write(garbage)
            # Both ends of this connection, of which only the server's is given up.
            await until(lambda: open_sockets() <= before + 1)
        await until(lambda: open_sockets() == before)


@pytest.mark.parametrize("scheme", ["tcp", "unix", "tls", "ws", "wss"])
async def test_two_byes_that_cross_do_not_block(scheme, pair, certificates, tmp_path, until, monkeypatch):
    for module in ("linger", "websocket.stream"):
        monkeypatch.setattr(f"landline.transports.{module}.LINGER_TIMEOUT_S", FOR_A_LONG_TIME_S)
    url = f"unix://{tmp_path}/line" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
    server = landline.Server()
    is_encrypted = scheme in {"tls", "wss"}
    options = landline.TransportOptions(tls=certificates.server if is_encrypted else None)
    async with server.listen(url, options=options) as endpoint:
        before = open_sockets()
        client = landline.TransportOptions(tls=certificates.client if is_encrypted else None, proxy=False)
        async with landline.connect(str(endpoint), options=client) as line:
            [other] = server.lines
            for end in (line, other):
                end.send_nowait(bytes(300_000))
            line.abort(landline.Code.NORMAL, "client")
            other.abort(landline.Code.NORMAL, "server")
        await until(lambda: open_sockets() == before)


class Greeter:
    """A server's handshake without authentication."""

    def __init__(self) -> None:
        self._handshake = ServerHandshake(random=random.SystemRandom(), now=0.0)

    def challenge(self) -> bytes:
        return self._handshake.challenge_to_send("raw")

    def welcome(self, hello: bytes) -> bytes:
        assert self._handshake.feed(hello) is not None
        welcome = Welcome(bytes(16), bytes(32), 1, False, 0, Heartbeat(), Limits(), 120.0)
        return encode_body(Kind.WELCOME, welcome)


async def test_arrived_data_is_read_before_a_failed_write_loses_the_line(quick):
    """A peer that closes with unread input, as other implementations may, resets the connection after its BYE."""
    wants_to_close, has_closed = threading.Event(), threading.Event()

    def serve(listening: socket.socket) -> None:
        peer, _ = listening.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = Greeter()
        peer.sendall(pair.challenge())
        peer.sendall(pair.welcome(peer.recv(65536)))
        wants_to_close.wait()
        peer.sendall(encode_data(1, 0, 1, 0, b"", b"a message"))
        peer.sendall(encode_body(Kind.BYE, Bye(204, "read this first")))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        peer.close()
        has_closed.set()

    received = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        url = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        connector = landline.connect(url, backoff=quick)
        connector.on_message(lambda line, message: received.append(message))
        with pytest.raises(landline.LineClosed) as closed:
            async with connector as line:
                wants_to_close.set()
                # The event loop stands still until the connection is reset, so that it writes before it reads.
                has_closed.wait()
                line.send_nowait("too late")
                async for _ in line:
                    pass
        thread.join()
    assert (closed.value.code, received) == (landline.Code.FORBIDDEN, [b"a message"])
    assert "read this first" in str(closed.value)
