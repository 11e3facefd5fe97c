"""Layout and encryption of datagrams: valid ones survive a round trip, all others raise documented errors."""

import random

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from landline import Anonymous, ConfigurationError, MessageTooLarge, ProtocolError, SharedToken
from landline.codes import Operation
from landline.session.auth import seal_secret
from landline.udp_calls import CallCounts, wire
from landline.udp_calls.call_client import ClientCall
from landline.udp_calls.call_server import CallServer, NewCall, error_reply
from landline.udp_calls.wire import Aead, Call, DatagramKind, Reply, Retry

SECRET = seal_secret(SharedToken("a secret of sixteen bytes or more"))
AEAD = Aead(SECRET)
ID = bytes(range(16))
NONCE = bytes(range(12))

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
calls = st.builds(
    Call,
    name=names,
    body=st.binary(max_size=200),
    is_packed=st.booleans(),
    identity=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    cookie=st.sampled_from([b"", bytes(range(wire.COOKIE_BYTES))]),
)


@given(calls)
def test_calls_survive_a_round_trip(call):
    assert wire.decode_call(wire.encode_call(call)) == call


@given(
    st.builds(
        Reply, st.sampled_from([Operation.RESPONSE, Operation.ERROR]), st.binary(max_size=200), st.booleans()
    )
)
def test_replies_survive_a_round_trip(reply):
    assert wire.decode_reply(wire.encode_reply(reply)) == reply


@given(st.integers(0, 10**15))
def test_retries_survive_a_round_trip(remembered_us):
    retry = Retry(NONCE, remembered_us / 1_000_000, bytes(24))
    decoded = wire.decode_retry(wire.encode_retry(retry))
    assert (decoded.answered, decoded.cookie) == (retry.answered, retry.cookie)
    assert retry.remembered_s - 1e-5 <= decoded.remembered_s <= retry.remembered_s + 1e-9


@given(st.binary(max_size=300))
def test_arbitrary_texts_are_only_refused(text):
    for decode in (wire.decode_call, wire.decode_reply, wire.decode_retry):
        try:
            decode(text)
        except ProtocolError:
            continue


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "is truncated"),
        (b"\x00\x00\x00", "is truncated"),
        (b"\x01\x2a\x00\x00\x01n", "a CALL has an invalid cookie"),
        (b"\x00\x01\x00\x01n", "or invalid flags"),
        (b"\x00\x00\x00\x00body", "an invalid length"),
        (b"\x00\x00\x00\x05name", "an invalid length"),
        (b"\x00\x00\xc9" + bytes(201) + b"\x01n", "an invalid length"),
        (b"\x00\x00\x00\x01\xff", "of a CALL is not UTF-8"),
        (b"\x00\x00\x01\xff\x01n", "of a CALL is not UTF-8"),
    ],
)
def test_invalid_calls_are_explained(text, reason):
    with pytest.raises(ProtocolError, match=reason):
        wire.decode_call(text)
    assert wire.decode_call(b"\x00\x00\x00\x04name") == Call("name", b"", False, "", b"")


@given(st.binary(max_size=1300))
def test_arbitrary_datagrams_do_nothing(datagram):
    with pytest.raises(ProtocolError):
        AEAD.open(datagram)
    rng = random.Random(1)
    counts = CallCounts()
    server = CallServer(aead=AEAD, random=rng, now=0.0, counts=counts)
    assert server.receive_datagram(datagram, "10.0.0.1", 1.0) is None
    call = ClientCall(aead=AEAD, random=rng, now=0.0, name="n", body=b"", is_packed=False)
    due = call.due
    assert not call.receive_datagram(datagram, 1.0)
    assert (call.due, call.reply, call.is_lost) == (due, None, False)
    assert counts == CallCounts(unreadable=1)


@given(st.sampled_from(DatagramKind), st.binary(max_size=300))
def test_arbitrary_authenticated_plaintexts_raise_only_documented_errors(kind, text):
    """A peer that knows the token could send any of these."""
    rng = random.Random(1)
    datagram = AEAD.seal(kind, ID, NONCE, text)
    server = CallServer(aead=AEAD, random=rng, now=0.0, counts=CallCounts())
    decided = server.receive_datagram(datagram, "10.0.0.1", 1.0)
    assert decided is None or len(decided) <= 3 * len(datagram)

    class Same(random.Random):
        def randbytes(self, n):
            return ID[:n]

    call = ClientCall(aead=AEAD, random=Same(), now=0.0, name="n", body=b"", is_packed=False)
    try:
        call.receive_datagram(datagram, 1.0)
    except ProtocolError:
        assert kind is not DatagramKind.CALL


@given(st.integers(0, 8 * 120 - 1))
def test_every_bit_is_authenticated(bit):
    datagram = bytearray(AEAD.seal(DatagramKind.CALL, ID, NONCE, bytes(120 - wire.HEADER_BYTES - 16)))
    assert len(datagram) == 120
    datagram[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        AEAD.open(bytes(datagram))


def test_another_token_opens_nothing():
    datagram = AEAD.seal(DatagramKind.CALL, ID, NONCE, b"text")
    assert AEAD.open(datagram).text == b"text"
    for secret in (seal_secret(SharedToken("another secret of enough bytes")), seal_secret(Anonymous())):
        with pytest.raises(ProtocolError, match="another key"):
            Aead(secret).open(datagram)


def test_the_two_directions_have_different_keys():
    text = b"text"
    sealed = {
        kind: AEAD.seal(kind, ID, NONCE, text)[wire.HEADER_BYTES :][: len(text)] for kind in DatagramKind
    }
    assert sealed[DatagramKind.CALL] != sealed[DatagramKind.REPLY]
    # The same key for both of the server's kinds, told apart by the associated data.
    assert sealed[DatagramKind.REPLY] == sealed[DatagramKind.RETRY]
    as_retry = bytearray(AEAD.seal(DatagramKind.REPLY, ID, NONCE, text))
    as_retry[1] = DatagramKind.RETRY
    with pytest.raises(ProtocolError):
        AEAD.open(bytes(as_retry))


def test_keys_are_hkdf_of_the_token():
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    key = HKDF(SHA256(), 32, salt=b"landline/1 udp", info=b"client" + ID).derive(SECRET)
    datagram = AEAD.seal(DatagramKind.CALL, ID, NONCE, b"text")
    assert datagram[:30] == b"\x01\x01" + ID + NONCE
    assert ChaCha20Poly1305(key).decrypt(NONCE, datagram[30:], datagram[:18]) == b"text"


def test_a_call_fits_or_is_refused():
    room = wire.DATAGRAM_BYTES_MAX - wire.HEADER_BYTES - 4 - wire.COOKIE_BYTES - wire.TAG_BYTES - 1
    for size in (room, room + 1):
        cookie = bytes(wire.COOKIE_BYTES)
        text = wire.encode_call(Call("n", bytes(size), False, "", cookie))
        datagram = AEAD.seal(DatagramKind.CALL, ID, NONCE, text)
        if size == room:
            wire.check_call("n", bytes(size), "")
            assert len(datagram) == wire.DATAGRAM_BYTES_MAX
            assert AEAD.open(datagram).text == text
        else:
            with pytest.raises(
                MessageTooLarge, match=r"takes 1201 bytes, more than a datagram \(1200\); call over tls://"
            ):
                wire.check_call("n", bytes(size), "")
            with pytest.raises(ProtocolError):
                AEAD.open(datagram)


@pytest.mark.parametrize(
    ("name", "identity", "text"),
    [
        ("", "", "1 to 255 are allowed"),
        ("é" * 128, "", "has 256"),
        ("n", "é" * 101, "the identity has 202 bytes"),
    ],
)
def test_invalid_names_are_refused(name, identity, text):
    with pytest.raises(ConfigurationError, match=text):
        wire.check_call(name, b"", identity)


# Amplification.


def test_answers_to_an_unproven_address_are_less_than_three_times_the_request():
    rng = random.Random(5)
    server = CallServer(aead=AEAD, random=rng, now=0.0, counts=CallCounts())
    smallest = ClientCall(aead=AEAD, random=rng, now=0.0, name="n", body=b"", is_packed=False)
    datagram = smallest.data_to_send(0.0)
    answer = server.receive_datagram(datagram, "10.0.0.1", 0.0)
    assert isinstance(answer, bytes)
    assert len(answer) <= 3 * len(datagram)
    assert (len(datagram), len(answer)) == (51, 90)


def test_a_cookie_is_good_for_one_address_and_some_time():
    rng = random.Random(5)
    server = CallServer(aead=AEAD, random=rng, now=0.0, counts=CallCounts())

    def ask(cookie=b""):
        return ClientCall(aead=AEAD, random=rng, now=0.0, name="n", body=b"", is_packed=False, cookie=cookie)

    first = ask()
    assert first.receive_datagram(server.receive_datagram(first.data_to_send(0.0), "10.0.0.1", 0.0), 0.0)
    assert first.cookie
    for address, now, is_taken in [
        ("10.0.0.2", 1.0, False),
        ("10.0.0.1", 1.0, True),
        ("10.0.0.1", 599.0, True),
        ("10.0.0.1", 601.0, False),
    ]:
        decided = server.receive_datagram(ask(first.cookie).data_to_send(0.0), address, now)
        assert isinstance(decided, NewCall) is is_taken, (address, now)


def test_an_answer_is_repeated_a_limited_number_of_times():
    rng = random.Random(5)
    counts = CallCounts()
    server = CallServer(aead=AEAD, random=rng, now=0.0, counts=counts)
    call = ClientCall(aead=AEAD, random=rng, now=0.0, name="n", body=b"", is_packed=False)
    call.receive_datagram(server.receive_datagram(call.data_to_send(0.0), "10.0.0.1", 0.0), 0.0)
    datagram = call.data_to_send(0.0)
    new = server.receive_datagram(datagram, "10.0.0.1", 0.0)
    assert server.receive_datagram(datagram, "10.0.0.1", 0.0) is None
    answer = server.answer(new.call_id, Reply(Operation.RESPONSE, b"done", False), 0.0)
    again = [server.receive_datagram(datagram, "10.0.0.1", 0.0) for _ in range(20)]
    assert again == [answer] * 16 + [None] * 4
    assert counts == CallCounts(accepted=1, answered=1, repeated=16, ignored=5, retried=1)


def test_the_records_have_limits():
    rng = random.Random(5)
    server = CallServer(
        aead=AEAD, random=rng, now=0.0, counts=CallCounts(), calls_max=20, replies_bytes_max=10_000
    )
    cookie = b""
    for number in range(200):
        now = number / 100
        call = ClientCall(aead=AEAD, random=rng, now=now, name="n", body=b"", is_packed=False, cookie=cookie)
        decided = server.receive_datagram(call.data_to_send(now), "10.0.0.1", now)
        if isinstance(decided, bytes):
            call.receive_datagram(decided, now)
            cookie = call.cookie
            decided = server.receive_datagram(call.data_to_send(now), "10.0.0.1", now)
        size = 1000 if number % 2 else 10
        server.answer(decided.call_id, Reply(Operation.RESPONSE, bytes(size), False), now)
        assert server.remembered <= 20
        assert server.held_bytes <= 10_000
    assert server.remembered > 5


def test_running_handlers_are_limited_per_address():
    rng = random.Random(5)
    counts = CallCounts()
    server = CallServer(aead=AEAD, random=rng, now=0.0, counts=counts)

    def arrive(address, cookie=b""):
        call = ClientCall(aead=AEAD, random=rng, now=0.0, name="n", body=b"", is_packed=False, cookie=cookie)
        decided = server.receive_datagram(call.data_to_send(0.0), address, 0.0)
        if isinstance(decided, bytes):
            call.receive_datagram(decided, 0.0)
            decided = server.receive_datagram(call.data_to_send(0.0), address, 0.0)
        return decided

    new = [arrive("10.0.0.1") for _ in range(70)]
    assert [decided is None for decided in new] == [False] * 64 + [True] * 6
    assert isinstance(arrive("10.0.0.2"), NewCall)
    server.answer(new[0].call_id, Reply(Operation.RESPONSE, b"", False), 0.0)
    assert isinstance(arrive("10.0.0.1"), NewCall)
    assert counts.refused == 6


def test_a_reply_that_is_too_large_becomes_an_error_with_a_hint():
    rng = random.Random(5)
    server = CallServer(aead=AEAD, random=rng, now=0.0, counts=CallCounts())
    call = ClientCall(aead=AEAD, random=rng, now=0.0, name="n", body=b"", is_packed=False)
    call.receive_datagram(server.receive_datagram(call.data_to_send(0.0), "10.0.0.1", 0.0), 0.0)
    new = server.receive_datagram(call.data_to_send(0.0), "10.0.0.1", 0.0)
    datagram = server.answer(new.call_id, Reply(Operation.RESPONSE, bytes(1153), False), 0.0)
    assert call.receive_datagram(datagram, 0.0)
    assert call.reply.operation is Operation.ERROR
    assert b"too_large" in call.reply.body
    assert b"1201 bytes, more than a datagram (1200); call over tls:// or quic://" in call.reply.body


@given(st.text(max_size=400), st.text(max_size=400))
def test_errors_always_fit(code, text):
    reply = error_reply(code, text)
    assert wire.reply_bytes(reply.body) <= wire.DATAGRAM_BYTES_MAX


def test_errors_of_the_widest_characters_fit():
    assert wire.reply_bytes(error_reply("\U0001f389" * 999, "\ud800\U0001f389" * 999).body) <= 1200


# Repetition.


def test_a_call_is_repeated_with_growing_waits():
    call = ClientCall(aead=AEAD, random=random.Random(3), now=10.0, name="n", body=b"", is_packed=False)
    datagrams, waits = set(), []
    for _ in range(8):
        now = call.due
        datagrams.add(call.data_to_send(now))
        waits.append(call.due - now)
    assert len(datagrams) == 1, "a repetition is the same datagram"
    for wait, base in zip(waits, [0.5, 1, 2, 4, 8, 8, 8, 8], strict=True):
        assert base <= wait <= base * 1.5
