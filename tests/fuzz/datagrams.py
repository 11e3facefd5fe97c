"""The fuzz target ``datagrams``: what both sides of a call do with any bytes, and any text under the right seal."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from landline.codes import Operation
from landline.errors import ProtocolError
from landline.udp_calls import CallCounts, wire
from landline.udp_calls.call_client import ClientCall
from landline.udp_calls.call_server import CallServer, error_reply
from landline.udp_calls.wire import Aead, Call, DatagramKind, Reply, Retry

AEAD = Aead(b"a secret that the fuzzer knows as well")
RAW = 0
"""The first byte of an input: a datagram as it is, or the kind of one whose text follows."""


def datagrams(data: bytes) -> None:
    """Pass one datagram to a server that has just answered a call, and to the client of that call."""
    rng = Random(1)
    counts = CallCounts()
    server = CallServer(aead=AEAD, random=rng, now=0.0, counts=counts)
    call = ClientCall(aead=AEAD, random=rng, now=0.0, name="echo", body=b"", is_packed=False)
    retry = server.receive_datagram(call.data_to_send(0.0), "192.0.2.7", 1.0)
    assert isinstance(retry, bytes)
    assert call.receive_datagram(retry, 1.0)
    asked = call.data_to_send(1.0)
    call_id = asked[2:18]

    if data[:1] in {bytes((kind,)) for kind in DatagramKind}:
        kind = DatagramKind(data[0])
        text = data[1 : wire.DATAGRAM_BYTES_MAX - wire.HEADER_BYTES - wire.TAG_BYTES]
        datagram = AEAD.seal(kind, call_id, bytes(wire.NONCE_BYTES), text)
    else:
        datagram = data[1:]
    is_understood = check_datagram(datagram)

    decided = server.receive_datagram(datagram, "192.0.2.7", 2.0)
    # Only the key of the cookies makes one, so nothing that is not the call itself is run.
    assert decided is None or (isinstance(decided, bytes) and len(decided) <= 3 * len(datagram))
    assert (decided is not None) == (is_understood and datagram[1] == DatagramKind.CALL)
    assert counts.accepted == 0

    due, cookie = call.due, call.cookie
    try:
        is_ours = call.receive_datagram(datagram, 2.0)
    except ProtocolError:
        assert data[0] != RAW
        assert not is_understood
    else:
        if not is_ours:
            assert (call.due, call.cookie, call.is_over) == (due, cookie, False)


def check_datagram(datagram: bytes) -> bool:
    """Return whether the datagram can be decrypted and decoded."""
    try:
        opened = AEAD.open(datagram)
    except ProtocolError:
        return False
    return check_text(opened.kind, opened.text)


def check_text(kind: DatagramKind, text: bytes) -> bool:
    """Return whether the text can be decoded. Its encoding must then be the same text."""
    try:
        if kind is DatagramKind.CALL:
            assert wire.encode_call(wire.decode_call(text)) == text
        elif kind is DatagramKind.REPLY:
            assert wire.encode_reply(wire.decode_reply(text)) == text
        else:
            wire.decode_retry(text)
    except ProtocolError:
        return False
    return True


def datagram_seeds() -> Iterator[bytes]:
    """Return texts of every kind, and a datagram as a third party may have recorded it."""
    for cookie in (b"", bytes(wire.COOKIE_BYTES)):
        text = wire.encode_call(Call("echo", b"\x93\x01\x02\x03", True, "lab-1", cookie))
        yield bytes((DatagramKind.CALL,)) + text
        yield bytes((RAW,)) + AEAD.seal(DatagramKind.CALL, bytes(16), bytes(12), text)
    for reply in (Reply(Operation.RESPONSE, b"raw", False), error_reply("failed", "what went wrong")):
        yield bytes((DatagramKind.REPLY,)) + wire.encode_reply(reply)
    for remembered_s in (0.0, 1e6):
        retry = Retry(bytes(wire.NONCE_BYTES), remembered_s, bytes(wire.COOKIE_BYTES))
        yield bytes((DatagramKind.RETRY,)) + wire.encode_retry(retry)
