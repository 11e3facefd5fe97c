"""The processes of the fairness row: ``python -m benchmarks.fairness_processes SIDE SCHEME DIRECTORY [URL]``.

A server, an honest client with one small request every few milliseconds, and one connection that sends a flood as fast
as the server accepts it, and reconnects at once when it is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import landline
from benchmarks.clients import PAYLOAD
from benchmarks.processes import LOAD_CORE, SERVER_CORE, begin_child, say
from benchmarks.servers import HOST, UNLIMITED
from benchmarks.transport_processes import client_options, server_options
from landline.codes import Operation
from landline.session.auth import Anonymous
from landline.session.bodies import Notice, encode_body
from landline.session.constants import FLAG_MORE, Kind
from landline.session.frames import encode_ack, encode_data, encode_datagram, encode_eof, encode_ping
from landline.session.handshake import ClientHandshake
from landline.session.settings import Limits
from landline.transports.base import LinkProtocol, load_transport

HEARTBEAT: Final = landline.Heartbeat(interval_s=0.5, timeout_s=0.5)
"""Short, so that an honest line is lost if it waits for a second."""
LOOK_EVERY_S: Final = 0.001
ASK_EVERY_S: Final = 0.005
BLOB_BYTES: Final = 256 * 1024
SEQUENCES: Final = 65_536
WEBSOCKET_BYTE: Final = b"\x82\x81\0\0\0\0"
"""The header of a masked message of one byte; the key is zero."""
COME_BACK_S: Final = 0.01


async def serve(scheme: str, directory: Path) -> None:
    """Accept and answer everything until standard input ends."""
    server = landline.Server(heartbeat=HEARTBEAT, admission=UNLIMITED)

    @server.on("echo")
    def echo(line: landline.Line, body: Any) -> Any:
        return body

    @server.on_message
    def take(line: landline.Line, body: Any) -> None:
        """Accept any message."""

    @server.on_datagram
    def take_datagram(line: landline.Line, body: Any) -> None:
        """Accept any datagram."""

    url = f"unix://{directory / 'socket'}" if scheme == "unix" else f"{scheme}://{HOST}:0"
    async with server.listen(url, options=server_options(scheme, directory)) as endpoint:
        say(pid=os.getpid(), url=str(endpoint))
        turns = LongestTurn()
        watching = asyncio.create_task(turns.watch())
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            say(longest_turn_s=turns.take())
        watching.cancel()
        os._exit(0)  # Its parent has ended; a goodbye would reach no process.


class LongestTurn:
    """The CPU time between two runs of a task that wants to run every millisecond.

    Unlike a delay it says nothing of who else used the core meanwhile.
    """

    def __init__(self) -> None:
        self._longest_s = 0.0

    async def watch(self) -> None:
        """Measure until cancelled."""
        before = time.thread_time()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = time.thread_time()
            self._longest_s = max(self._longest_s, now - before)
            before = now

    def take(self) -> float:
        """Seconds since the last call."""
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s


async def ask(scheme: str, directory: Path, url: str) -> None:
    """Measure the delays of requests, once for each command on standard input."""
    loop = asyncio.get_running_loop()
    async with landline.connect(url, options=client_options(scheme, directory)) as line:
        say(ready=True)
        while command := await loop.run_in_executor(None, sys.stdin.readline):
            seconds = json.loads(command)["seconds"]
            epoch, delays = line.epoch, []
            started = time.monotonic()
            while (asked := time.monotonic()) - started < seconds:
                if await line.request("echo", PAYLOAD) != PAYLOAD:
                    raise RuntimeError("a response differs from its request")
                answered = time.monotonic()
                delays.append(answered - asked)
                await asyncio.sleep(max(0.0, ASK_EVERY_S - (answered - asked)))
            say(delays_s=delays, links_lost=line.epoch - epoch)


class Flooder(LinkProtocol):
    """A connection that floods after its handshake."""

    def __init__(self, blobs: Iterator[bytes], datagram: bytes, is_websocket: bool) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.welcomed_at: float | None = None
        self.ended_at = 0.0
        self._blobs = blobs
        self._datagram = datagram
        self._is_websocket = is_websocket
        self._handshake = ClientHandshake(
            random=random.SystemRandom(), auth=Anonymous(), identity="", limits=Limits(), resume=None
        )
        self._transport: Any = None
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self.welcomed_at is not None:
            return
        self._handshake.feed(data)
        self._transport.write(self._handshake.data_to_send())
        if self._handshake.welcome is not None:
            self.welcomed_at = time.monotonic()
            self._flood()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended_at = time.monotonic()
            self.ended.set_result(None)

    def stop(self) -> None:
        """Note the end of the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _flood(self) -> None:
        transport = self._transport
        if transport.is_closing():
            # The server has sent BYE; a WebSocket may be read until the client responds.
            self._end()
        if self.ended.done():
            return
        if not self._is_paused:
            if self._datagram:
                for _ in range(64):
                    transport.send_datagram(self._datagram)
            else:
                # Each byte becomes a WebSocket message.
                target = transport._transport if self._is_websocket else transport
                target.write(next(self._blobs))
        asyncio.get_running_loop().call_soon(self._flood)


def numbered(frame: bytes, first: bytes = b"") -> Iterator[bytes]:
    """Repeat a DATA frame with increasing sequence numbers from 1; ``first`` replaces the first one."""
    size = len(frame)
    number_end = struct.calcsize(">IBQ")
    blob = bytearray(frame * SEQUENCES)
    blob[number_end - 1 :: size] = bytes(range(256)) * 256
    blob[number_end - 2 :: size] = b"".join(bytes([high]) * 256 for high in range(256))
    for high in range(256):
        blob[number_end - 3 :: size] = bytes([high]) * SEQUENCES
        whole = bytes(blob) if high else first + bytes(blob[size * (2 if first else 1) :])
        for start in range(0, len(whole), BLOB_BYTES):
            yield whole[start : start + BLOB_BYTES]


def same(frame: bytes, before: bytes = b"") -> Iterator[bytes]:
    """Repeat a frame."""
    blob = frame * (BLOB_BYTES // len(frame))
    yield before + blob
    yield from repeat(blob)


def garbage() -> Iterator[bytes]:
    """Generate frames of every kind with random bytes, and invalid lengths."""
    rng = random.Random(1)
    while True:
        yield rng.randbytes(BLOB_BYTES)


EMPTY_MESSAGE: Final = encode_data(1, 0, Operation.MESSAGE, 0, b"", b"x")
KINDS: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "NOTICE": lambda: same(encode_body(Kind.NOTICE, Notice(1))),
    "ACK": lambda: same(encode_ack(0)),
    "repeated DATA": lambda: same(EMPTY_MESSAGE),
    "repeated EOF": lambda: same(encode_eof(1)),
    "PING": lambda: same(encode_ping(Kind.PING, 1, 0, 0)),
    "PONG": lambda: same(encode_ping(Kind.PONG, 1, 0, 0)),
    "datagrams": lambda: same(encode_datagram(b"", b"x", is_packed=False)),
    "fragments": lambda: numbered(
        encode_data(0, FLAG_MORE, Operation.CONTINUE, 0, b"", b"x"),
        first=encode_data(1, FLAG_MORE, Operation.MESSAGE, 0, b"", b"x"),
    ),
    "messages": lambda: numbered(EMPTY_MESSAGE),
    "requests": lambda: numbered(encode_data(0, 0, Operation.REQUEST, 1, b"echo", b"x")),
    "garbage": garbage,
}
"""The floods: what a connection sends after its handshake."""


def in_websocket(blobs: Iterator[bytes]) -> Iterator[bytes]:
    """Wrap each byte in a separate message."""
    size = len(WEBSOCKET_BYTE) + 1
    share = BLOB_BYTES // size
    for blob in blobs:
        for start in range(0, len(blob), share):
            piece = blob[start : start + share]
            framed = bytearray((WEBSOCKET_BYTE + b"\0") * len(piece))
            framed[size - 1 :: size] = piece
            yield bytes(framed)


def _same(flooder: Flooder) -> Flooder:
    return flooder


async def flood(scheme: str, directory: Path, url: str) -> None:
    """Flood with a kind of frame for a time, once for each command on standard input."""
    loop = asyncio.get_running_loop()
    endpoint = landline.parse_url(url)
    options = client_options(scheme, directory)
    say(ready=True)
    while command := await loop.run_in_executor(None, sys.stdin.readline):
        wanted = json.loads(command)
        ends_at = time.monotonic() + wanted["seconds"]
        ends: list[float] = []
        while (left := ends_at - time.monotonic()) > 0:
            blobs = KINDS[wanted["kind"]]()
            is_datagram = scheme == "quic" and wanted["kind"] == "datagrams"
            datagram = encode_datagram(b"", b"x", is_packed=False)[5:] if is_datagram else b""
            flooder = Flooder(in_websocket(blobs) if scheme == "ws" else blobs, datagram, scheme == "ws")
            with suppress(OSError, landline.LandlineError):
                await load_transport(endpoint).connect(endpoint, partial(_same, flooder), options)
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await flooder.ended
                    if flooder.welcomed_at is not None:
                        ends.append(flooder.ended_at - flooder.welcomed_at)
            flooder.stop()
            await asyncio.sleep(COME_BACK_S)
        say(ended_after_s=ends)


def main() -> None:
    """Run the side that the arguments name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("serve", "ask", "flood"))
    parser.add_argument("scheme")
    parser.add_argument("directory", type=Path)
    parser.add_argument("url", nargs="?", default="")
    arguments = parser.parse_args()
    begin_child(SERVER_CORE if arguments.side == "serve" else LOAD_CORE)
    if arguments.side == "serve":
        landline.run(serve(arguments.scheme, arguments.directory))
    else:
        side = ask if arguments.side == "ask" else flood
        landline.run(side(arguments.scheme, arguments.directory, arguments.url))


if __name__ == "__main__":
    main()
