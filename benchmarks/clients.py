"""How the load speaks to each server: its handshake, and its frames encoded beforehand."""

from __future__ import annotations

import base64
import os
import random
import socket
import struct
from array import array
from collections.abc import Callable
from itertools import accumulate
from typing import Final

import msgspec

from landline.session.auth import Anonymous
from landline.session.codes import Code
from landline.session.handshake import Bye, ClientHandshake, Limits, encode_body
from landline.session.wire import Kind, Operation, encode_ack, encode_data

PAYLOAD: Final = bytes(range(64))
ACK_EVERY: Final = 64
"""Frames of landline between two acknowledgements, as its own client would send them."""

# What load.c calls them.
PREFIXED: Final = 0
LANDLINE: Final = 1
WEBSOCKET: Final = 2


class Frames(msgspec.Struct, frozen=True):
    """Many frames in one buffer: frame ``i`` is ``data[offsets[i]:offsets[i + 1]]``."""

    data: bytes
    offsets: array[int]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.offsets) - 1


class Client(msgspec.Struct, frozen=True):
    """How to speak to one kind of server."""

    format: int
    shake_hands: Callable[[socket.socket], None]
    encode: Callable[[int, int], Frames]
    """``encode(count, in_flight)``"""
    goodbye: Callable[[int], bytes]
    """The last bytes of a connection on which so many messages were sent and came back."""


def _shake_landline(sock: socket.socket) -> None:
    handshake = ClientHandshake(random=random.SystemRandom(), auth=Anonymous(), identity="", limits=Limits())
    while handshake.welcome is None:
        data = sock.recv(8192)
        if not data:
            raise ConnectionError("the server closed the connection during the handshake")
        handshake.receive_data(data)
        output = handshake.data_to_send()
        if output:
            sock.sendall(output)


def _encode_landline(operation: Operation, name: bytes) -> Callable[[int, int], Frames]:
    def encode(count: int, in_flight: int) -> Frames:
        frames = []
        for sequence in range(1, count + 1):
            correlation = sequence if operation is Operation.REQUEST else 0
            frame = encode_data(sequence, 0, operation, correlation, name, PAYLOAD)
            if sequence % ACK_EVERY == 0 and sequence > in_flight:
                # When this one is sent, all but the last `in_flight` before it have come back.
                frame = encode_ack(sequence - in_flight) + frame
            frames.append(frame)
        return _join(frames)

    return encode


def _landline_goodbye(messages: int) -> bytes:
    return encode_ack(messages) + encode_body(Kind.BYE, Bye(int(Code.NORMAL)))


def _no_handshake(sock: socket.socket) -> None:
    """A bare protocol begins at once."""


def _encode_prefixed(count: int, in_flight: int) -> Frames:
    return _join([struct.pack(">I", len(PAYLOAD)) + PAYLOAD] * count)


def _shake_websocket(sock: socket.socket) -> None:
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        data = sock.recv(8192)
        if not data:
            raise ConnectionError("the server closed the connection during the handshake")
        answer += data
    if not answer.startswith(b"HTTP/1.1 101 "):
        raise ConnectionError(f"no upgrade to WebSocket: {answer.splitlines()[0]!r}")


def _encode_websocket(count: int, in_flight: int) -> Frames:
    mask = b"\x12\x34\x56\x78"
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(PAYLOAD))
    return _join([bytes((0x82, 0x80 | len(PAYLOAD))) + mask + masked] * count)


def _join(frames: list[bytes]) -> Frames:
    return Frames(b"".join(frames), array("q", accumulate(map(len, frames), initial=0)))


def _no_goodbye(messages: int) -> bytes:
    return b""


def _websocket_goodbye(messages: int) -> bytes:
    return bytes((0x88, 0x82, 0, 0, 0, 0)) + (1000).to_bytes(2, "big")


CLIENTS: Final = {
    "landline": Client(
        LANDLINE, _shake_landline, _encode_landline(Operation.MESSAGE, b""), _landline_goodbye
    ),
    "landline_request": Client(
        LANDLINE, _shake_landline, _encode_landline(Operation.REQUEST, b"echo"), _landline_goodbye
    ),
    "bare_uvloop": Client(PREFIXED, _no_handshake, _encode_prefixed, _no_goodbye),
    "websockets": Client(WEBSOCKET, _shake_websocket, _encode_websocket, _websocket_goodbye),
}


def connect(kind: str, port: int, count: int) -> list[socket.socket]:
    """Opens so many connections with their handshakes done."""
    shake_hands = CLIENTS[kind].shake_hands
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", port), timeout=10)
            sockets.append(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            shake_hands(sock)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets
