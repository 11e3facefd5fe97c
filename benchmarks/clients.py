"""The client side of each protocol in the load: its handshake, and its frames encoded beforehand."""

from __future__ import annotations

import base64
import json
import os
import random
import struct
from array import array
from collections.abc import Callable, Generator
from itertools import accumulate, pairwise
from typing import Final, cast

import msgspec

from landline.codes import Code, Operation
from landline.session.auth import Anonymous
from landline.session.bodies import Bye, ResumeTicket, encode_body
from landline.session.constants import Kind
from landline.session.frames import encode_ack, encode_data
from landline.session.handshake import ClientHandshake
from landline.session.settings import Limits
from landline.transports.base import SUBPROTOCOL

PAYLOAD: Final = bytes(range(64))
TEXT_PAYLOAD: Final = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
ACK_EVERY: Final = 64
"""Frames of landline between two acknowledgements, as its own client would send them."""
SUBJECT: Final = "news"
"""The subject of the connections to a broker."""

# The numbers of the formats in frames.h.
PREFIXED: Final = 0
LANDLINE: Final = 1
WEBSOCKET: Final = 2
SOCKETIO: Final = 3
NATS: Final = 4
MQTT: Final = 5
LANDLINE_WS: Final = 6

Handshake = Generator[bytes, bytes, ResumeTicket | None]
"""Yields bytes to write (maybe none), receives the bytes that were read, and returns when the server is ready."""


class Frames(msgspec.Struct, frozen=True):
    """Many frames in one buffer: frame ``i`` is ``data[offsets[i]:offsets[i + 1]]``."""

    data: bytes
    offsets: array[int]

    @property
    def count(self) -> int:
        """Return the number of frames."""
        return len(self.offsets) - 1


class Client(msgspec.Struct, frozen=True):
    """The client side of one kind of server."""

    format: int
    shake_hands: Callable[[ResumeTicket | None], Handshake]
    encode: Callable[[int, int], Frames]
    """``encode(count, in_flight)``"""
    goodbye: Callable[[int], bytes]
    """The last bytes of a connection on which that many messages were sent and returned."""
    is_tls: bool = False


def _shake_landline(ticket: ResumeTicket | None) -> Handshake:
    handshake = ClientHandshake(random=_random, auth=_anonymous, identity="", limits=_limits, resume=ticket)
    output = b""
    while handshake.welcome is None:
        handshake.feed((yield output))
        output = handshake.data_to_send()
    welcome = handshake.welcome
    if ticket is not None and not welcome.resumed:
        raise ConnectionError("the server did not resume the session")
    return ResumeTicket(welcome.session, welcome.secret, welcome.epoch, 0)


_random: Final = random.SystemRandom()
_anonymous: Final = Anonymous()
_limits: Final = Limits()


def _encode_landline(operation: Operation, name: bytes) -> Callable[[int, int], Frames]:
    def encode(count: int, in_flight: int) -> Frames:
        frames = []
        for sequence in range(1, count + 1):
            correlation = sequence if operation is Operation.REQUEST else 0
            frame = encode_data(sequence, 0, operation, correlation, name, PAYLOAD)
            if sequence % ACK_EVERY == 0 and sequence > in_flight:
                # When this one is sent, all but the last `in_flight` before it have returned.
                frame = encode_ack(sequence - in_flight) + frame
            frames.append(frame)
        return _join(frames)

    return encode


def _landline_goodbye(messages: int) -> bytes:
    return encode_ack(messages) + encode_body(Kind.BYE, Bye(int(Code.NORMAL)))


def _shake_prefixed(ticket: ResumeTicket | None) -> Handshake:
    """A bare protocol has no handshake; one echoed frame shows that the connection was accepted."""
    frame = struct.pack(">I", len(PAYLOAD)) + PAYLOAD
    answer = yield frame
    while len(answer) < len(frame):
        answer += yield b""
    return None


def _shake_websocket(path: str) -> Callable[[ResumeTicket | None], Handshake]:
    def shake_hands(ticket: ResumeTicket | None) -> Handshake:
        yield from _upgrade(path)
        return None

    return shake_hands


def _upgrade(path: str, more_headers: str = "") -> Generator[bytes, bytes, bytes]:
    """Perform the upgrade. Return the bytes after the header of the response."""
    key = base64.b64encode(os.urandom(16)).decode()
    request = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{more_headers}\r\n"
    )
    answer = yield request.encode()
    while b"\r\n\r\n" not in answer:
        answer += yield b""
    if not answer.startswith(b"HTTP/1.1 101 "):
        raise ConnectionError(f"no upgrade to WebSocket: {answer.splitlines()[0]!r}")
    return answer.partition(b"\r\n\r\n")[2]


def _shake_landline_ws(ticket: ResumeTicket | None) -> Handshake:
    """The handshake of landline in WebSocket messages."""
    from websockets.frames import Frame
    from websockets.protocol import Protocol, Side

    received = yield from _upgrade("/", f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n")
    frames = Protocol(Side.CLIENT)
    inner = _shake_landline(ticket)
    next(inner)
    while True:
        frames.receive_data(received)
        payload = b"".join(event.data for event in frames.events_received() if isinstance(event, Frame))
        try:
            output = inner.send(payload)
        except StopIteration as over:
            return cast("ResumeTicket | None", over.value)
        received = yield _message(output) if output else b""


def _message(payload: bytes) -> bytes:
    """Return a binary WebSocket message of a client, masked with zeros."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x82" + length + bytes(4) + payload


def _encode_landline_ws(count: int, in_flight: int) -> Frames:
    plain = _encode_landline(Operation.MESSAGE, b"")(count, in_flight)
    return _join([_message(plain.data[start:end]) for start, end in pairwise(plain.offsets)])


def _landline_ws_goodbye(messages: int) -> bytes:
    return _message(_landline_goodbye(messages)) + _websocket_goodbye(messages)


def _shake_socketio(ticket: ResumeTicket | None) -> Handshake:
    """The upgrade, Engine.IO's open packet, and Socket.IO's connect packet in both directions."""
    received = yield from _upgrade("/socket.io/?EIO=4&transport=websocket")
    while b'0{"sid"' not in received or not received.endswith(b"}"):
        received += yield b""
    received = yield _masked(0x81, b"40")
    while b'40{"sid"' not in received or not received.endswith(b"}"):
        received += yield b""
    return None


def _shake_nats(subscription: str) -> Callable[[ResumeTicket | None], Handshake]:
    options = json.dumps({"verbose": False, "pedantic": False, "lang": "load", "version": "1"})

    def shake_hands(ticket: ResumeTicket | None) -> Handshake:
        received = yield b""
        while not received.endswith(b"\r\n"):
            received += yield b""
        received = yield f"CONNECT {options}\r\n{subscription}PING\r\n".encode()
        while b"PONG\r\n" not in received:
            if b"-ERR" in received:
                raise ConnectionError(f"the server refused: {received!r}")
            received += yield b""
        return None

    return shake_hands


def _shake_mqtt_publisher(ticket: ResumeTicket | None) -> Handshake:
    """CONNECT with a clean session (MQTT 3.1.1)."""
    name = b"load" + os.urandom(8).hex().encode()
    header = b"\x00\x04MQTT\x04\x02" + (600).to_bytes(2, "big")
    received = yield _mqtt_packet(0x10, header + len(name).to_bytes(2, "big") + name)
    while len(received) < 4:
        received += yield b""
    if received[:4] != b"\x20\x02\x00\x00":
        raise ConnectionError(f"the server refused: {received!r}")
    return None


def _shake_mqtt(ticket: ResumeTicket | None) -> Handshake:
    """CONNECT, then SUBSCRIBE at QoS 0."""
    yield from _shake_mqtt_publisher(ticket)
    topic = SUBJECT.encode()
    received = yield _mqtt_packet(0x82, b"\x00\x01" + len(topic).to_bytes(2, "big") + topic + b"\x00")
    while len(received) < 5:
        received += yield b""
    return None


def _mqtt_packet(kind: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes((kind, len(body))) + body


def _masked(first: int, payload: bytes) -> bytes:
    mask = b"\x12\x34\x56\x78"
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes((first, 0x80 | len(payload))) + mask + masked


def _repeat(frame: bytes) -> Callable[[int, int], Frames]:
    def encode(count: int, in_flight: int) -> Frames:
        return _join([frame] * count)

    return encode


def _join(frames: list[bytes]) -> Frames:
    return Frames(b"".join(frames), array("q", accumulate(map(len, frames), initial=0)))


def _no_goodbye(messages: int) -> bytes:
    return b""


def _websocket_goodbye(messages: int) -> bytes:
    return bytes((0x88, 0x82, 0, 0, 0, 0)) + (1000).to_bytes(2, "big")


NATS_PUBLISH: Final = f"PUB {SUBJECT} {len(PAYLOAD)}\r\n".encode() + PAYLOAD + b"\r\n"
MQTT_PUBLISH: Final = _mqtt_packet(0x30, len(SUBJECT).to_bytes(2, "big") + SUBJECT.encode() + PAYLOAD)

_landline = Client(LANDLINE, _shake_landline, _encode_landline(Operation.MESSAGE, b""), _landline_goodbye)
_bare = Client(PREFIXED, _shake_prefixed, _repeat(struct.pack(">I", len(PAYLOAD)) + PAYLOAD), _no_goodbye)
_websocket = Client(WEBSOCKET, _shake_websocket("/"), _repeat(_masked(0x82, PAYLOAD)), _websocket_goodbye)

CLIENTS: Final = {
    "landline": _landline,
    "landline_request": Client(
        LANDLINE, _shake_landline, _encode_landline(Operation.REQUEST, b"echo"), _landline_goodbye
    ),
    "landline_tls": msgspec.structs.replace(_landline, is_tls=True),
    "landline_ws": Client(LANDLINE_WS, _shake_landline_ws, _encode_landline_ws, _landline_ws_goodbye),
    "bare_uvloop": _bare,
    "bare_uvloop_tls": msgspec.structs.replace(_bare, is_tls=True),
    "websockets": _websocket,
    "websockets_tls": msgspec.structs.replace(_websocket, is_tls=True),
    "picows": _websocket,
    "socketio": Client(
        SOCKETIO,
        _shake_socketio,
        _repeat(_masked(0x81, f'42["message","{TEXT_PAYLOAD}"]'.encode())),
        _websocket_goodbye,
    ),
    "nats": Client(NATS, _shake_nats(f"SUB {SUBJECT} 1\r\n"), _repeat(NATS_PUBLISH), _no_goodbye),
    "nats_publisher": Client(NATS, _shake_nats(""), _repeat(NATS_PUBLISH), _no_goodbye),
    "mosquitto": Client(MQTT, _shake_mqtt, _repeat(MQTT_PUBLISH), _no_goodbye),
    "mosquitto_publisher": Client(MQTT, _shake_mqtt_publisher, _repeat(MQTT_PUBLISH), _no_goodbye),
}
