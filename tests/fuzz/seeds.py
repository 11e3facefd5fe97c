"""Where fuzzing begins: the worked example of ``docs/protocol.md``, real conversations, and random programs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
from tests.fuzz.conversation import Conversation
from tests.fuzz.datagrams import datagram_seeds
from tests.fuzz.targets import (
    BODY_TYPES,
    CLIENT_RANDOM,
    HANDLERS,
    IDENTITY,
    MESSAGE_TYPES,
    SERVER_RANDOM,
    TICKET,
    TOKEN,
)
from tests.fuzz.websocket import ANSWER, REQUEST
from websockets.frames import Frame, Opcode

from landline.codes import Code
from landline.fleet.messages import (
    Claim,
    Facts,
    Goodbye,
    Grant,
    Join,
    Joined,
    KnownExecution,
    Order,
    Postpone,
    Postponed,
    Report,
    Withdraw,
)
from landline.fleet.model import Action, Cause, ExecutionState, Person
from landline.session.bodies import Bye, Challenge, Hello, Notice, Reject, Welcome, encode_body
from landline.session.constants import Kind
from landline.session.frames import encode_datagram
from landline.session.handshake import ClientHandshake, ServerHandshake, reject_to_send
from landline.session.settings import Heartbeat, Limits

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"


def seeds_of(target: str) -> list[bytes]:
    """Return the inputs that a target starts with."""
    return list(SEEDS[target]())


def frames_of_the_example() -> list[bytes]:
    """Return the frames of the worked example, in order."""
    match = re.search(r"^```hex\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert match is not None, "the document has no worked example"
    frames: list[bytes] = []
    for line in match[1].splitlines():
        if line.startswith("#"):
            frames.append(b"")
        else:
            frames[-1] += bytes.fromhex(line.partition(";")[0])
    return frames


def pieces_of_a_conversation() -> list[bytes]:
    """Return the bytes that two sessions exchanged, with the loss of a transport in between."""
    talk = Conversation(5)
    for which in (0, 1):
        talk.send(which, bulk=False, count=2, size=3)
        talk.send(which, bulk=True, count=1, size=40)
        talk.send_datagrams(which, count=2, size=3)
    talk.advance(0.01)
    talk.cut(resumes=True)
    talk.ack(0, "some")
    talk.ping(1)
    talk.finish(0)
    talk.advance(3.0)
    talk.close(0)
    return [piece for _, _, piece in talk.pair.old_pieces]


def programs(count: int, size_bytes: int) -> Iterator[bytes]:
    for seed in range(count):
        yield Random(seed).randbytes(size_bytes)


def wire() -> Iterator[bytes]:
    frames = frames_of_the_example() + pieces_of_a_conversation()
    for limit in range(10):
        yield bytes([limit]) + b"".join(frames)
    for frame in frames:
        yield b"\x09" + frame


def hello_to_send(*, resumes: bool) -> bytes:
    server = ServerHandshake(random=SERVER_RANDOM, now=0.0)
    client = ClientHandshake(
        random=CLIENT_RANDOM,
        auth=TOKEN,
        identity=IDENTITY,
        limits=Limits(),
        resume=TICKET if resumes else None,
    )
    client.feed(server.challenge_to_send("example"))
    return client.data_to_send()


def make_welcome(*, resumed: bool) -> Welcome:
    return Welcome(
        session=TICKET.session,
        secret=TICKET.secret,
        epoch=2,
        resumed=resumed,
        received=0,
        heartbeat=Heartbeat(),
        limits=Limits(),
        resume_window_s=120.0,
        proof=TOKEN.server_proof(
            server_nonce=SERVER_RANDOM.randbytes(32),
            client_nonce=CLIENT_RANDOM.randbytes(32),
            identity=IDENTITY,
        ),
    )


def client_handshake() -> Iterator[bytes]:
    challenge = ServerHandshake(random=SERVER_RANDOM, now=0.0).challenge_to_send("example")
    endings = [
        encode_body(Kind.WELCOME, make_welcome(resumed=False)),
        encode_body(Kind.WELCOME, make_welcome(resumed=True)) + frames_of_the_example()[4],
        reject_to_send(Code.OVERLOADED, "full", retry_after_s=5.0, spread_s=2.0),
        b"",
        # Sessions that were not requested.
        encode_body(Kind.WELCOME, msgspec.structs.replace(make_welcome(resumed=True), session=bytes(16))),
        encode_body(Kind.WELCOME, msgspec.structs.replace(make_welcome(resumed=True), epoch=1)),
    ]
    for option in range(6):
        for ending in endings:
            yield bytes([option]) + challenge + ending
    yield b"\0" + endings[2]


def server_handshake() -> Iterator[bytes]:
    yield hello_to_send(resumes=False)
    yield hello_to_send(resumes=True)
    yield hello_to_send(resumes=True).replace(IDENTITY.encode(), b"lab-2")
    yield from frames_of_the_example()[:6]


def session() -> Iterator[bytes]:
    yield from programs(40, 120)
    # An option, the action that receives, one frame, the kind that is spelled out, its size, its bytes.
    for option in (0, 1, 2, 3, 0xFF):
        chunks = [
            piece[i : i + 255] for piece in pieces_of_a_conversation() for i in range(0, len(piece), 255)
        ]
        yield bytes([option]) + b"".join(bytes([0, 0, 10, len(chunk)]) + chunk for chunk in chunks)


def two_sessions() -> Iterator[bytes]:
    yield from programs(40, 80)


def values() -> Iterator[bytes]:
    known = KnownExecution("e-1", ExecutionState.ACTING, "detail", "boot")
    facts = Facts(
        name="lab-1",
        persons=(Person("ada", "seat0", True, 1.5),),
        mac_addresses=("00:11:22:33:44:55",),
    )
    order = Order(
        execution_id="e-1",
        action=Action.RESTART,
        requested_by="op",
        message="",
        due_in_s=1.0,
        has_delay=True,
        expires_in_s=9.0,
        may_cancel=True,
        may_postpone=False,
    )
    examples: list[msgspec.Struct] = [
        Join(facts, (known,)),
        facts,
        Joined("lab-1", (Withdraw("e-1", "over"),)),
        Report(known),
        Claim("e-1", "boot"),
        Grant(True),
        Postpone("e-1", 60.0),
        Postponed(True),
        Goodbye(Cause.RESTARTING),
        order,
        Withdraw("e-1", "over"),
    ]
    assert [type(example) for example in examples] == list(MESSAGE_TYPES)
    examples_of_bodies: list[msgspec.Struct] = [
        Challenge(1, bytes(32), "s"),
        msgspec.msgpack.decode(hello_to_send(resumes=True)[5:], type=Hello),
        make_welcome(resumed=True),
        Reject(100, "full", 1.0),
        Bye(100, "stop", 1.0, 2.0, ("tcp://other",)),
        Notice(206, "fewer"),
        Heartbeat(),
        Limits(),
    ]
    assert [type(example) for example in examples_of_bodies] == list(BODY_TYPES)
    for choice, example in enumerate(examples):
        yield bytes([choice]) + msgspec.msgpack.encode(example)
    for choice, example in enumerate(examples_of_bodies, len(HANDLERS)):
        yield bytes([choice]) + msgspec.msgpack.encode(example)
    plain = msgspec.msgpack.encode(
        {"a": [1, -1, 1.5, None, True, b"b", "c"], "t": msgspec.msgpack.Ext(5, b"x")}
    )
    for choice in range(len(MESSAGE_TYPES), len(HANDLERS)):
        yield bytes([choice]) + plain
    rest = len(HANDLERS) + len(BODY_TYPES)
    yield bytes([rest]) + hello_to_send(resumes=False)[5:]
    yield bytes([rest + 1]) + next(f for f in frames_of_the_example() if f[4] == Kind.PING)[5:]
    yield bytes([rest + 2]) + plain
    yield bytes([rest + 3]) + encode_datagram(b"name", b"body", is_packed=True)[5:]
    for url in ("tcp://127.0.0.1:5463", "tls://[::1]:1", "unix:///run/a b.sock", "tcp://example.org/?#"):
        yield bytes([rest + 4]) + url.encode()
        yield bytes([rest + 5]) + url.encode()


def websocket_server() -> Iterator[bytes]:
    yield b"\0" + REQUEST
    yield b"\0" + REQUEST.replace(b"Origin: http://host", b"Origin: http://elsewhere")
    yield b"\0" + b"GET /other HTTP/1.1\r\nHost: host\r\n\r\n"
    yield from (b"\xff" + frames for frames in websocket_frames(is_masked=True))


def websocket_client() -> Iterator[bytes]:
    yield b"\0" + ANSWER
    yield b"\0" + b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nhere"
    yield b"\0" + b"HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhere\r\n0\r\n\r\n"
    yield from (b"\xff" + frames for frames in websocket_frames(is_masked=False))


def websocket_frames(*, is_masked: bool) -> Iterator[bytes]:
    """Return messages, whole and in fragments, with control frames between them, and an end."""
    frames = frames_of_the_example()
    whole = [Frame(Opcode.BINARY, data) for data in frames]
    pieces = [
        Frame(Opcode.BINARY, frames[0][:5], fin=False),
        Frame(Opcode.PING, b"there?"),
        Frame(Opcode.CONT, b"", fin=False),
        Frame(Opcode.CONT, frames[0][5:]),
    ]
    end = [Frame(Opcode.CLOSE, b"\x03\xe8over")]
    for some in (
        whole,
        pieces + end,
        [*pieces, Frame(Opcode.TEXT, b"text"), *end],
        [Frame(Opcode.BINARY, bytes(70_000))],
    ):
        yield b"".join(frame.serialize(mask=is_masked) for frame in some)


SEEDS = {
    "wire": wire,
    "client_handshake": client_handshake,
    "server_handshake": server_handshake,
    "session": session,
    "two_sessions": two_sessions,
    "values": values,
    "datagrams": datagram_seeds,
    "websocket_server": websocket_server,
    "websocket_client": websocket_client,
}
