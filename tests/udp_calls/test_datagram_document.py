"""``docs/protocol.md`` §13 says what the code does: its tables, and its example, byte by byte."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
from tests.protocol_document import DOCUMENT, rows_under

from landline.codes import Operation
from landline.session.auth import SharedToken, seal_secret
from landline.udp_calls import CallCounts, wire
from landline.udp_calls import call_client as asking
from landline.udp_calls import call_server as answering
from landline.udp_calls.call_client import ClientCall
from landline.udp_calls.call_server import CallServer, NewCall
from landline.udp_calls.wire import Aead, DatagramKind, Reply

TOKEN = SharedToken("an example, not a secret")
AEAD = Aead(seal_secret(TOKEN))


def test_the_table_of_kinds() -> None:
    found = {row[1]: int(row[0]) for row in rows_under("13.1") if row[0].isdigit() and row[1].isupper()}
    assert found == {kind.name: kind.value for kind in DatagramKind}


def test_the_table_of_limits() -> None:
    found = {row[0]: float(row[1].replace(",", "")) for row in rows_under("13.7")[1:]}
    assert found == {
        "datagram": wire.DATAGRAM_BYTES_MAX,
        "error code": wire.ERROR_CODE_CHARACTERS_MAX,
        "error text": wire.ERROR_TEXT_CHARACTERS_MAX,
        "first repetition": asking.RESEND_FIRST_S,
        "longest wait": asking.RESEND_CAP_S,
        "spread of waits": asking.RESEND_SPREAD,
        "cookies in one call": asking.COOKIES_MAX,
        "clock drift": asking.CLOCK_DRIFT,
        "cookie's life": answering.COOKIE_LIFETIME_S,
        "calls remembered": answering.CALLS_REMEMBERED_MAX,
        "bytes of answers remembered": answering.REPLIES_REMEMBERED_BYTES_MAX,
        "repetitions of an answer": answering.REPEATS_MAX,
        "handlers at once": answering.RUNNING_MAX,
        "handlers at once for one IP address": answering.RUNNING_PER_ADDRESS_MAX,
    }


class Bytes:
    """A random source that counts: the first bytes asked for begin with ``start``, the next with one more ..."""

    def __init__(self, start: int) -> None:
        self._start = start

    def randbytes(self, n: int, /) -> bytes:
        first, self._start = self._start, self._start + 0x10
        return bytes(first + step for step in range(n))

    def random(self) -> float:
        return 0.0


def example() -> Iterator[tuple[str, bytes]]:
    """What is said in the example, in order, by the code itself."""
    server = CallServer(aead=AEAD, random=Bytes(0x80), now=1000.0, counts=CallCounts())
    call = ClientCall(
        aead=AEAD,
        random=Bytes(0x00),
        now=0.0,
        name="add",
        body=msgspec.msgpack.encode([1, 2]),
        is_packed=True,
        identity="lab-1",
    )
    asked = call.data_to_send(0.0)
    yield "client: CALL without a cookie", asked
    retry = server.receive_datagram(asked, "192.0.2.7", 1060.5)
    assert isinstance(retry, bytes)
    yield "server: RETRY", retry
    assert call.receive_datagram(retry, 0.1)
    again = call.data_to_send(0.1)
    yield "client: CALL with the cookie", again
    new = server.receive_datagram(again, "192.0.2.7", 1060.6)
    assert isinstance(new, NewCall)
    reply = server.answer(
        new.call_id, Reply(Operation.RESPONSE, msgspec.msgpack.encode(3), is_packed=True), 1060.6
    )
    yield "server: REPLY", reply
    assert call.receive_datagram(reply, 0.2)
    assert call.reply is not None
    assert call.reply.body == b"\x03"


def parts_of(datagram: bytes) -> Iterator[tuple[bytes, str]]:
    """The fields in order: of the datagram as it is sent, and below it of the text under the seal."""
    opened = AEAD.open(datagram)
    yield datagram[:1], "version 1"
    yield datagram[1:2], f"kind {opened.kind.value}, {opened.kind.name}"
    yield datagram[2:18], "call id"
    yield datagram[18:30], "nonce"
    yield datagram[30:-16], "text, sealed"
    yield datagram[-16:], "tag"


def text_parts_of(datagram: bytes) -> Iterator[tuple[bytes, str]]:
    opened = AEAD.open(datagram)
    text = opened.text
    if opened.kind is DatagramKind.CALL:
        call = wire.decode_call(text)
        position = 1 + len(call.cookie)
        yield text[:1], f"cookie length {len(call.cookie)}"
        if call.cookie:
            yield text[1:position], "cookie"
        yield text[position : position + 1], f"flags {text[position]:#04x}"
        yield text[position + 1 : position + 2], f"identity length {len(call.identity)}"
        yield call.identity.encode(), f"identity {call.identity!r}"
        yield bytes((len(call.name),)), f"name length {len(call.name)}"
        yield call.name.encode(), f"name {call.name!r}"
        yield call.body, f"body {msgspec.msgpack.decode(call.body)!r}"
    elif opened.kind is DatagramKind.RETRY:
        retry = wire.decode_retry(text)
        yield text[:12], "nonce of the CALL"
        yield text[12:20], f"remembered {round(retry.remembered_s * 1_000_000)} µs"
        yield text[20:], "cookie"
    else:
        reply = wire.decode_reply(text)
        yield text[:1], f"operation {reply.operation.value}, {reply.operation.name}"
        yield text[1:2], f"flags {text[1]:#04x}"
        yield reply.body, f"body {msgspec.msgpack.decode(reply.body)!r}"


def render(title: str, datagram: bytes) -> str:
    lines = [f"# {title}"]
    for heading, parts in (("", parts_of(datagram)), ("## its text", text_parts_of(datagram))):
        if heading:
            lines.append(heading)
        for part, comment in parts:
            first, *rest = [part[start : start + 16].hex(" ") for start in range(0, len(part), 16)]
            lines += [f"{first:<47} ; {comment}", *rest]
    return "\n".join(lines)


def document_example() -> str:
    match = re.search(r"^### 13\.9 .*?^```hex\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert match is not None, "the document has no example of a call"
    return match[1]


def document_bytes() -> dict[str, bytes]:
    """The datagrams, and under ``... text`` what they say, as a reader would copy them."""
    found: dict[str, bytes] = {}
    title = ""
    for line in document_example().splitlines():
        if line.startswith("## "):
            title += " text"
            found[title] = b""
        elif line.startswith("# "):
            title = line[2:]
            found[title] = b""
        else:
            found[title] += bytes.fromhex(line.partition(";")[0])
    return found


def test_the_code_creates_the_bytes_of_the_example() -> None:
    rendered = "\n\n".join(render(title, data) for title, data in example()) + "\n"
    assert document_example() == rendered, f"docs/protocol.md §13.9 should be:\n\n{rendered}"


def test_the_code_accepts_the_bytes_of_the_example() -> None:
    found = document_bytes()
    for title, datagram in example():
        assert found[title] == datagram
        assert found[title + " text"] == AEAD.open(found[title]).text


def test_the_keys_of_the_example_are_right() -> None:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    call_id = bytes(range(16))
    keys = [HKDFExpand(SHA256(), 32, label + call_id).derive(AEAD.root) for label in (b"client", b"server")]
    values = [seal_secret(TOKEN), AEAD.root, *keys]
    assert [row[1] for row in rows_under("13.8")[1:]] == [value.hex() for value in values]
