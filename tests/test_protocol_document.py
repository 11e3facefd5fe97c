"""``docs/protocol.md`` matches the code: its tables, its headings, and its worked example, byte by byte."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.protocol_document import DOCUMENT, rows_under

from landline.codes import Code, Operation
from landline.session import bodies, constants
from landline.session.auth import SharedToken
from landline.session.bodies import Welcome, encode_body
from landline.session.constants import Kind
from landline.session.events import Ended, MessageReceived
from landline.session.handshake import ClientHandshake, ServerHandshake, decode_hello
from landline.session.session import Session
from landline.session.settings import Heartbeat, Limits, SendBuffer
from landline.session.state import TRANSITIONS, State
from landline.transports import linger as lingering

ROOT = Path(__file__).parents[1]

TOKEN = "an example, not a secret"
IDENTITY = "lab-1"
SERVER_NONCE = bytes(range(0x20))
CLIENT_NONCE = bytes(range(0x20, 0x40))
SECOND_SERVER_NONCE = bytes(range(0x40, 0x60))
SECOND_CLIENT_NONCE = bytes(range(0x60, 0x80))
SESSION_ID = bytes(range(0xA0, 0xB0))
SECRET = bytes(range(0xC0, 0xE0))


# The tables.


@pytest.mark.parametrize(("heading", "kinds"), [("2.3", Kind), ("5.1", Operation), ("8.1", Code)])
def test_tables_of_numbers_are_the_enumerations(heading: str, kinds: type[IntEnum]) -> None:
    found = {row[1]: int(row[0]) for row in rows_under(heading) if row[0].isdigit() and row[1].isupper()}
    assert found == {member.name: member.value for member in kinds}


def test_the_table_of_flags() -> None:
    found = {row[1]: int(row[0], 16) for row in rows_under("5.1") if row[0].startswith("0x")}
    assert found == {
        "MORE": constants.FLAG_MORE,
        "BULK": constants.FLAG_BULK,
        "PACKED": constants.FLAG_PACKED,
    }
    assert sum(found.values()) == constants.FLAGS_KNOWN


def test_the_table_of_limits() -> None:
    found = {row[0]: float(row[1].replace(",", "")) for row in rows_under("3.1")[1:]}
    assert found == {
        "frame during the handshake": constants.HANDSHAKE_BYTES_MAX,
        "frame in a session": constants.FRAME_BYTES_MAX,
        "payload of a DATA frame": constants.FRAGMENT_BYTES,
        "name": constants.NAME_BYTES_MAX,
        "datagram": constants.DATAGRAM_BYTES_MAX,
        "reason": constants.REASON_CHARACTERS_MAX,
        "identity": constants.IDENTITY_BYTES_MAX,
        "handshake": constants.HANDSHAKE_TIMEOUT_S,
        "wait after BYE or REJECT": lingering.LINGER_TIMEOUT_S,
        "acknowledgement delay": constants.ACK_DELAY_S,
        "frames between acknowledgements": constants.ACK_FRAMES,
        "share of the window between acknowledgements": constants.ACK_WINDOW_SHARE,
        "pings before a warning": constants.PINGS_PER_INTERVAL_WARN,
        "pings tolerated": constants.PINGS_PER_INTERVAL_MAX,
        "redundant frames": constants.REDUNDANT_FRAMES_MAX,
        "payload of a fragment that is not the last": constants.SMALL_FRAGMENT_BYTES,
        "datagrams": constants.DATAGRAMS_MAX,
    }


def test_the_table_of_negotiated_limits() -> None:
    info = msgspec.inspect.type_info(Limits)
    assert isinstance(info, msgspec.inspect.StructType)
    expected = []
    for field in info.fields:
        assert isinstance(field.type, msgspec.inspect.IntType)
        expected.append((field.encode_name, field.type.ge, field.type.le, field.default))
    found = [(row[0], *(int(cell.replace(",", "")) for cell in row[1:4])) for row in rows_under("3.2")[1:]]
    assert found == expected


@pytest.mark.parametrize(
    ("heading", "body"),
    [
        ("4.1", bodies.Challenge),
        ("4.2", bodies.Hello),
        ("4.3", bodies.Welcome),
        ("4.4", bodies.Reject),
        ("8.2", bodies.Bye),
        ("8.3", bodies.Notice),
    ],
)
def test_the_tables_of_bodies_name_every_field(heading: str, body: type[msgspec.Struct]) -> None:
    expected = [(field.name, "yes" if field.required else "no") for field in msgspec.structs.fields(body)]
    assert [row[:2] for row in rows_under(heading)[1:] if "." not in row[0]] == expected


def test_the_table_of_transitions() -> None:
    found = {row for row in rows_under("9.") if row[0] != "state"}
    assert found == {
        (state.value, trigger.value, after.value) for (state, trigger), after in TRANSITIONS.items()
    }


def test_sections_cited_in_the_code_exist() -> None:
    headings = set(re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", DOCUMENT, re.MULTILINE))
    cited = {
        (number, path.name)
        for path in (ROOT / "src" / "landline").rglob("*.py")
        if "fleet" not in path.parts
        for rfc, number in re.findall(r"(RFC \d+ )?§(\d+(?:\.\d+)?)", path.read_text(encoding="utf-8"))
        if not rfc
    }
    assert cited
    assert [(number, name) for number, name in sorted(cited) if number not in headings] == []


# The worked example.


class FixedBytes:
    """A random source that returns the given bytes."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def randbytes(self, n: int, /) -> bytes:
        assert n == len(self._value)
        return self._value

    def random(self) -> float:
        return 0.5


def make_session(*, is_server: bool) -> Session:
    return Session(
        session_id=SESSION_ID,
        secret=SECRET,
        is_server=is_server,
        limits=Limits(),
        peer_limits=Limits(),
        heartbeat=Heartbeat(),
        send_buffer=SendBuffer(),
    )


def make_welcome(*, epoch: int, resumed: bool, received: int, server_nonce: bytes, nonce: bytes) -> bytes:
    proof = SharedToken(TOKEN).server_proof(server_nonce=server_nonce, client_nonce=nonce, identity=IDENTITY)
    return encode_body(
        Kind.WELCOME,
        Welcome(
            session=SESSION_ID,
            secret=SECRET,
            epoch=epoch,
            resumed=resumed,
            received=received,
            heartbeat=Heartbeat(),
            limits=Limits(),
            resume_window_s=120.0,
            proof=proof,
        ),
    )


def example_frames() -> Iterator[tuple[str, bytes]]:
    """Yield the frames of the example, in order, as the code produces them."""
    server = ServerHandshake(random=FixedBytes(SERVER_NONCE), now=0.0)
    client = ClientHandshake(
        random=FixedBytes(CLIENT_NONCE), auth=SharedToken(TOKEN), identity=IDENTITY, limits=Limits()
    )
    challenge = server.challenge_to_send("example")
    yield "server: CHALLENGE", challenge
    client.feed(challenge)
    hello = client.data_to_send()
    yield "client: HELLO", hello
    received = server.feed(hello)
    assert received is not None
    welcome = make_welcome(
        epoch=1, resumed=False, received=0, server_nonce=SERVER_NONCE, nonce=received.nonce
    )
    yield "server: WELCOME", welcome
    client.feed(welcome)

    ours, theirs = make_session(is_server=False), make_session(is_server=True)
    ours.attach(0.0, epoch=1, peer_received=0, phase=0.5)
    theirs.attach(0.0, epoch=1, peer_received=0, phase=0.5)
    ours.outbound.send(
        Operation.REQUEST, b"echo", msgspec.msgpack.encode({"hello": "world"}), correlation=1, is_packed=True
    )
    yield "client: DATA 1, a request", pass_on(ours, theirs, 0.001)
    theirs.outbound.send(
        Operation.RESPONSE, b"", msgspec.msgpack.encode({"hello": "world"}), correlation=1, is_packed=True
    )
    yield "server: DATA 1, its response", pass_on(theirs, ours, 0.002)
    theirs.outbound.send(Operation.MESSAGE, b"", b"raw bytes")
    yield "server: DATA 2, a message without a name, of raw bytes", pass_on(theirs, ours, 0.003)
    theirs.handle_timeout(7.5)
    yield "server: PING, which acknowledges the request as well", pass_on(theirs, ours, 7.5)
    yield "client: PONG", pass_on(ours, theirs, 7.501)

    # The transport is lost, with one more message of the server's written to it.
    theirs.outbound.send(Operation.MESSAGE, b"", b"again")
    theirs.data_to_send(7.6)
    theirs.receive_link_lost()
    ours.receive_link_lost()
    server = ServerHandshake(random=FixedBytes(SECOND_SERVER_NONCE), now=8.0)
    client = ClientHandshake(
        random=FixedBytes(SECOND_CLIENT_NONCE),
        auth=SharedToken(TOKEN),
        identity=IDENTITY,
        limits=Limits(),
        resume=ours.ticket,
    )
    challenge = server.challenge_to_send("example")
    yield "server: CHALLENGE of the second transport", challenge
    client.feed(challenge)
    hello = client.data_to_send()
    yield "client: HELLO, which asks to resume", hello
    received = server.feed(hello)
    assert received is not None
    assert received.resume is not None
    welcome = make_welcome(
        epoch=2,
        resumed=True,
        received=theirs.inbound.received,
        server_nonce=SECOND_SERVER_NONCE,
        nonce=received.nonce,
    )
    yield "server: WELCOME, resumed", welcome
    client.feed(welcome)
    theirs.attach(8.0, epoch=2, peer_received=received.resume.received, phase=0.5)
    ours.attach(8.0, epoch=2, peer_received=theirs.inbound.received, phase=0.5)
    yield "server: DATA 3, replayed", pass_on(theirs, ours, 8.001)
    assert pass_on(ours, theirs, 8.001) == b"", "an acknowledgement waits for more"
    yield "client: ACK", pass_on(ours, theirs, 8.102)
    ours.close(Code.NORMAL, "done")
    yield "client: BYE", pass_on(ours, theirs, 8.2)
    assert theirs.state is State.CLOSED
    assert theirs.outbound.is_drained


def pass_on(sender: Session, receiver: Session, now: float) -> bytes:
    """Transfer what a session has to send; the receiving application acknowledges every message at once."""
    data = sender.data_to_send(now)
    receiver.receive_data(data, now)
    for event in receiver.next_events():
        if isinstance(event, MessageReceived):
            receiver.inbound.ack(event)
        else:
            assert not isinstance(event, Ended) or event.by_peer
    return data


def render(title: str, data: bytes) -> str:
    """Annotated hex: one line for each field."""
    lines = [f"# {title}"]
    while data:
        length = int.from_bytes(data[:4], "big")
        frame, data = data[: 4 + length], data[4 + length :]
        for part, comment in _parts(frame):
            first, *rest = [part[start : start + 16].hex(" ") for start in range(0, len(part), 16)]
            lines += [f"{first:<47} ; {comment}", *rest]
    return "\n".join(lines)


def _parts(frame: bytes) -> Iterator[tuple[bytes, str]]:
    kind = Kind(frame[4])
    yield frame[:4], f"length {len(frame) - 4}"
    yield frame[4:5], f"kind {kind.value}, {kind.name}"
    body = frame[5:]
    if kind is Kind.DATA:
        name_end = 19 + body[18]
        yield body[:8], f"sequence {int.from_bytes(body[:8], 'big')}"
        yield body[8:9], f"flags {body[8]:#04x}"
        yield body[9:10], f"operation {body[9]}, {Operation(body[9]).name}"
        yield body[10:18], f"correlation {int.from_bytes(body[10:18], 'big')}"
        yield body[18:19], f"name length {body[18]}"
        if body[18]:
            yield body[19:name_end], f"name {str(body[19:name_end], 'utf-8')!r}"
        value: Any = (
            msgspec.msgpack.decode(body[name_end:]) if body[8] & constants.FLAG_PACKED else body[name_end:]
        )
        yield body[name_end:], f"payload {value!r}"
    elif kind is Kind.ACK:
        yield body, f"acked {int.from_bytes(body, 'big')}"
    elif kind in {Kind.PING, Kind.PONG}:
        for name, part in (("number", body[:8]), ("time", body[8:16]), ("acked", body[16:24])):
            yield part, f"{name} {int.from_bytes(part, 'big')}"
        yield body[24:], "CRC-32 of the 24 bytes before"
    else:
        fields = msgspec.msgpack.decode(body)
        yield body[:1], f"a map of {len(fields)}"
        for key, value in fields.items():
            yield msgspec.msgpack.encode(key) + msgspec.msgpack.encode(value), _describe(key, value)


def _describe(key: str, value: Any) -> str:
    if isinstance(value, bytes):
        return f"{key}: {len(value)} bytes"
    if isinstance(value, dict):
        return f"{key}: {', '.join(_describe(inner, part) for inner, part in value.items())}"
    return f"{key}: {value!r}"


def document_example() -> str:
    match = re.search(r"^```hex\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert match is not None, "the document has no worked example"
    return match[1]


def document_frames() -> dict[str, bytes]:
    """The bytes of the example as a reader would copy them: comments begin with ``;`` or, for titles, ``#``."""
    frames: dict[str, bytes] = {}
    title = ""
    for line in document_example().splitlines():
        if line.startswith("#"):
            title = line[2:]
            frames[title] = b""
        else:
            frames[title] += bytes.fromhex(line.partition(";")[0])
    return frames


def test_the_example_is_produced_by_the_code() -> None:
    rendered = "\n\n".join(render(title, data) for title, data in example_frames()) + "\n"
    assert document_example() == rendered, f"docs/protocol.md §11 should be:\n\n{rendered}"


def test_the_bytes_of_the_example_are_accepted_by_the_code() -> None:
    frames = document_frames()
    assert frames == dict(example_frames())
    server = ServerHandshake(random=FixedBytes(SERVER_NONCE), now=0.0)
    hello = server.feed(frames["client: HELLO"])
    assert hello is not None
    token = SharedToken(TOKEN)
    assert token.identify(hello.auth, server_nonce=SERVER_NONCE, client_nonce=hello.nonce) == IDENTITY
    client = ClientHandshake(random=FixedBytes(CLIENT_NONCE), auth=token, identity=IDENTITY, limits=Limits())
    for title in ("server: CHALLENGE", "server: WELCOME"):
        assert client.feed(frames[title]) == b""
    assert client.welcome is not None

    line = make_session(is_server=False)
    line.attach(0.0, epoch=1, peer_received=0, phase=0.5)
    line.outbound.send(
        Operation.REQUEST, b"echo", msgspec.msgpack.encode({"hello": "world"}), correlation=1, is_packed=True
    )
    line.data_to_send(0.0)
    for title, data in frames.items():
        if "CHALLENGE of the second" in title:
            break
        if title.startswith(("server: DATA", "server: PING")):
            line.receive_data(data, 1.0)
    messages = [event for event in line.next_events() if isinstance(event, MessageReceived)]
    assert [message.body for message in messages] == [b"\x81\xa5hello\xa5world", b"raw bytes"]
    assert line.outbound.is_drained
    assert line.is_attached


def test_the_test_vectors_are_correct() -> None:
    frames = document_frames()
    hello = decode_hello(frames["client: HELLO"][5:])
    again = decode_hello(frames["client: HELLO, which asks to resume"][5:])
    welcome = msgspec.msgpack.decode(frames["server: WELCOME"][5:], type=Welcome)
    assert hello.auth is not None
    assert again.resume is not None
    assert welcome.proof is not None
    key = sha256(b"landline/1 shared token\0" + TOKEN.encode()).digest()
    assert [row[1] for row in rows_under("11.1")[1:]] == [
        TOKEN,
        key.hex(),
        hello.auth.proof.hex(),
        welcome.proof.hex(),
        again.resume.proof.hex(),
    ]
