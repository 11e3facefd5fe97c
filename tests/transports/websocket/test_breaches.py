"""Violations of the framing of WebSocket: the most important cases of the Autobahn test suite, written by hand.

The whole suite is run with ``tests/transports/autobahn.py`` where it can be.
"""

import asyncio
import socket
from random import Random

import pytest
from tests.line_internals import transport_of

import landline
from landline.codes import Code
from landline.session.auth import Anonymous
from landline.session.bodies import Bye, encode_body
from landline.session.constants import Kind
from landline.session.handshake import ClientHandshake, ServerHandshake
from landline.session.settings import Limits
from landline.transports.base import MESSAGE_BYTES_MAX
from landline.transports.linger import DISCARD_BYTES_MAX

URL = "ws://127.0.0.1:0/"
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: landline.1\r\n\r\n"
)
FIN, CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x80, 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def frame(first: int, payload: bytes = b"", *, masked: bool = True, size: int | None = None) -> bytes:
    """A frame as a client sends it, masked with zeros; ``size`` lies about its length."""
    size = len(payload) if size is None else size
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 1 << 16:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload


class Stranger:
    """A client that speaks WebSocket byte by byte."""

    def __init__(self, endpoint: landline.Endpoint) -> None:
        self._endpoint = endpoint
        self.handshake = ClientHandshake(
            random=Random(1), auth=Anonymous(), identity="", limits=Limits(), resume=None
        )

    async def __aenter__(self) -> "Stranger":
        self._reader, self._writer = await asyncio.open_connection(self._endpoint.host, self._endpoint.port)
        self._writer.write(REQUEST)
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        first, challenge = await self.read()
        assert first == FIN | BINARY
        self.handshake.feed(challenge)
        return self

    async def __aexit__(self, *error) -> None:
        self._writer.close()

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()

    async def read(self) -> tuple[int, bytes]:
        """The next frame of the server: its first byte, and its payload."""
        first, size = await self._reader.readexactly(2)
        assert not size & 0x80, "a server does not mask"
        if size == 126:
            size = int.from_bytes(await self._reader.readexactly(2), "big")
        assert size != 127
        return first, await self._reader.readexactly(size)

    async def read_close(self) -> tuple[int, str]:
        """Return code and reason of the server's close frame, after which TCP ends."""
        first, payload = await self.read()
        while first != FIN | CLOSE:
            first, payload = await self.read()
        assert await self._reader.read() == b"", "a reset could have destroyed the close frame"
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()


@pytest.fixture
async def stranger():
    async with landline.Server().listen(URL) as endpoint, Stranger(endpoint) as stranger:
        yield stranger


BEGUN = frame(BINARY, b"")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(frame(FIN | BINARY, b"x", masked=False), 1002, id="not masked"),
        pytest.param(frame(FIN | BINARY | 0x40, b"x"), 1002, id="compressed, without the extension"),
        pytest.param(frame(FIN | BINARY | 0x20, b"x"), 1002, id="RSV2"),
        pytest.param(frame(FIN | PING | 0x10, b"x"), 1002, id="RSV3 on a ping"),
        pytest.param(frame(FIN | 0x3, b"x"), 1002, id="reserved data opcode"),
        pytest.param(frame(FIN | 0xB), 1002, id="reserved control opcode"),
        pytest.param(frame(PING, b"x"), 1002, id="fragmented ping"),
        pytest.param(frame(CLOSE, b"\x03\xe8"), 1002, id="fragmented close"),
        pytest.param(frame(FIN | PING, b"x" * 126), 1002, id="long ping"),
        pytest.param(frame(FIN | CONTINUATION, b"x"), 1002, id="continuation of nothing"),
        pytest.param(frame(FIN | BINARY) + frame(CONTINUATION), 1002, id="continuation of what is whole"),
        pytest.param(BEGUN + frame(FIN | BINARY, b"x"), 1002, id="message within a message"),
        pytest.param(BEGUN + frame(FIN | TEXT, b"x"), 1002, id="text within a message"),
        pytest.param(BEGUN + frame(FIN | CLOSE, b"\x03\xe8"), 1002, id="close within a message"),
        pytest.param(frame(FIN | TEXT, b"x"), 1003, id="text"),
        pytest.param(frame(TEXT, b"x"), 1003, id="a fragment of text"),
        pytest.param(frame(FIN | TEXT, b"\xff"), 1003, id="text that is not UTF-8"),
        pytest.param(frame(FIN | BINARY, size=MESSAGE_BYTES_MAX + 1), 1009, id="long message"),
        pytest.param(frame(FIN | BINARY, size=(1 << 63) - 1), 1009, id="endless message"),
        pytest.param(
            frame(BINARY, b"") + frame(CONTINUATION, size=MESSAGE_BYTES_MAX + 1), 1009, id="long fragment"
        ),
        pytest.param(
            frame(BINARY, b"\0\0\x10\0") + frame(CONTINUATION, size=MESSAGE_BYTES_MAX - 3),
            1009,
            id="long message in fragments",
        ),
        pytest.param(frame(FIN | CLOSE, b"\x03"), 1002, id="half a close code"),
        pytest.param(frame(FIN | CLOSE, b"\x03\xe8\xff"), 1007, id="a reason that is not UTF-8"),
        *(
            pytest.param(frame(FIN | CLOSE, code.to_bytes(2, "big")), 1002, id=f"close with {code}")
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
        ),
    ],
)
async def test_a_breach_is_answered_with_its_code(stranger, data, code):
    stranger.write(data)
    assert (await stranger.read_close())[0] == code


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 3000, 4999])
async def test_a_close_is_echoed(stranger, code):
    stranger.write(frame(FIN | CLOSE, code.to_bytes(2, "big") + "für immer".encode()))
    assert await stranger.read_close() == (code, "für immer")


async def test_a_close_without_a_code_is_echoed(stranger):
    stranger.write(frame(FIN | CLOSE) + frame(FIN | BINARY, b"nothing counts behind it"))
    assert await stranger.read_close() == (0, "")


async def test_the_size_limit_applies_to_fragmented_messages(stranger):
    stranger.write(frame(BINARY, b"\0\0\x1f\xff" + b"x" * 7000))
    for _ in range(MESSAGE_BYTES_MAX // 7000):
        stranger.write(frame(CONTINUATION, b"x" * 7000))
    first, payload = await stranger.read()
    # Fragments are read when they come, and a frame of the handshake has its own, smaller limit.
    assert (first, payload[4]) == (FIN | BINARY, Kind.REJECT)


async def test_frames_may_be_cut_anywhere(stranger):
    """A HELLO in fragments of one byte, with pings between them and empty messages around."""
    hello = stranger.handshake.data_to_send()
    stranger.write(frame(FIN | BINARY) + frame(BINARY, hello[:1]))
    for byte in hello[1:-1]:
        stranger.write(frame(CONTINUATION, bytes((byte,))) + frame(CONTINUATION))
    stranger.write(frame(FIN | PING, b"still here?") + frame(FIN | PONG, b"nobody asked"))
    stranger.write(frame(FIN | CONTINUATION, hello[-1:]))
    assert await stranger.read() == (FIN | PONG, b"still here?")
    first, welcome = await stranger.read()
    assert first == FIN | BINARY
    stranger.handshake.feed(welcome)
    assert stranger.handshake.welcome is not None


@pytest.mark.parametrize(
    "nothing",
    [frame(FIN | PING), frame(FIN | PONG), frame(FIN | BINARY), frame(BINARY) + frame(FIN | CONTINUATION)],
    ids=["pings", "pongs", "messages", "fragments"],
)
async def test_the_number_of_frames_without_payload_is_limited(stranger, nothing):
    """Each takes an attacker six bytes; a megabyte of them used to block the server for a second."""
    # Less than the server discards after its close frame.
    stranger.write(nothing * (DISCARD_BYTES_MAX // len(nothing) - 1))
    assert await stranger.read_close() == (1008, "too many frames without payload")


async def test_pongs_for_a_peer_that_does_not_read_are_dropped(until, monkeypatch):
    # On a busy machine the pings take longer than a handshake may.
    monkeypatch.setitem(ServerHandshake.__init__.__kwdefaults__, "timeout_s", 600.0)
    server = landline.Server()
    async with server.listen(URL) as endpoint, Stranger(endpoint) as stranger:
        [handshake] = server._host.acceptor.unfinished
        stream = handshake._transport
        stream.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        # A payload now and then, here of a HELLO that is never whole: else so many pings would end it.
        stranger.write(frame(FIN | BINARY, (8000).to_bytes(4, "big") + bytes([Kind.HELLO])))
        pings = frame(FIN | PING, b"x" * 125) * 500 + frame(FIN | BINARY, b"x")
        for _ in range(200):
            stranger.write(pings)
            await stranger.drain()
        await until(lambda: stream._is_paused)
        # uvloop looks at its mark behind a whole read, of 256 KiB at most.
        _, high_bytes = stream.get_write_buffer_limits()
        assert stream.get_write_buffer_size() <= high_bytes + 256 * 1024 < 200 * len(pings) / 10
        # As long as the others: a crowd of shorter ones, which pile up while this test has no turn, is a breach.
        last = b"the last".ljust(125)
        first, payload = await stranger.read()
        while payload != last:
            assert (first, payload) == (FIN | PONG, b"x" * 125)
            if not stream._is_paused:
                stranger.write(frame(FIN | PING, last) + frame(FIN | BINARY, b"x"))
            first, payload = await stranger.read()
        assert first == FIN | PONG


async def test_payload_before_a_close_frame_in_the_same_read_is_delivered(until):
    server = landline.Server()
    async with server.listen(URL) as endpoint, Stranger(endpoint) as stranger:
        stranger.write(frame(FIN | BINARY, stranger.handshake.data_to_send()))
        await stranger.read()
        [line] = server.lines
        bye = encode_body(Kind.BYE, Bye(int(Code.NORMAL), "that was all"))
        stranger.write(frame(FIN | BINARY, bye) + frame(FIN | CLOSE, b"\x03\xe8"))
        assert await stranger.read_close() == (1000, "")
        await until(lambda: line.is_closed)
        assert line.last_change.detail == "that was all"


async def test_a_close_without_a_bye_is_a_lost_link(until):
    server = landline.Server()
    async with server.listen(URL) as endpoint, Stranger(endpoint) as stranger:
        stranger.write(frame(FIN | BINARY, stranger.handshake.data_to_send()))
        await stranger.read()
        [line] = server.lines
        stranger.write(frame(FIN | CLOSE, b"\x03\xf3broken"))
        await stranger.read_close()
        await until(lambda: line.state is landline.LineState.RECONNECTING)
        assert line.last_change.cause is landline.DisconnectCause.LINK_LOST
        assert "1011 (internal error) broken" in line.last_change.detail


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(frame(FIN | BINARY, b"x"), 1002, id="masked"),
        pytest.param(frame(FIN | TEXT, b"x", masked=False), 1003, id="text"),
        pytest.param(frame(FIN | BINARY, masked=False, size=MESSAGE_BYTES_MAX + 1), 1009, id="long message"),
    ],
)
async def test_a_client_answers_breaches_of_the_server(data, code, quick, until):
    """The link is aborted in time even if the server never closes it, and the line reconnects."""
    answers = []
    server = landline.Server()
    async with server.listen(URL) as endpoint:
        options = landline.TransportOptions(proxy=False)
        async with landline.connect(str(endpoint), backoff=quick, options=options) as line:
            [other] = server.lines
            stream = transport_of(other)

            class Recorder(asyncio.Protocol):
                def data_received(self, data):
                    answers.append(data)

            stream._transport.set_protocol(Recorder())
            stream._transport.write(data)
            await until(lambda: answers)
            first, size, *masked = answers[0]
            assert first == FIN | CLOSE
            mask, payload = masked[:4], masked[4:]
            assert size == 0x80 | len(payload)
            assert (payload[0] ^ mask[0]) << 8 | payload[1] ^ mask[1] == code
            assert transport_of(line).is_closing()
            stream._transport.abort()
            # The recorder does not pass it on.
            stream.connection_lost(None)
            await until(lambda: line.epoch == 2)
