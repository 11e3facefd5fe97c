from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz import targets
from tests.fuzz.seeds import seeds_of

from landline.codes import Code
from landline.errors import ConfigurationError, ProtocolError, Rejected
from landline.session.auth import Anonymous, SharedToken, resume_proof
from landline.session.bodies import (
    Bye,
    Challenge,
    Hello,
    Notice,
    Reject,
    ResumeTicket,
    Welcome,
    decode_body,
    encode_body,
)
from landline.session.constants import (
    HANDSHAKE_BYTES_MAX,
    HANDSHAKE_TIMEOUT_S,
    PROTOCOL_VERSION,
    REASON_CHARACTERS_MAX,
    Kind,
)
from landline.session.frames import FRAME_HEADER, encode_frame
from landline.session.handshake import ClientHandshake, ServerHandshake, decode_hello, reject_to_send
from landline.session.settings import Heartbeat, Limits

TICKET = ResumeTicket(b"i" * 16, b"k" * 32, 3, 42)


def client_handshake(*, auth=None, resume=None):
    return ClientHandshake(
        random=Random(1), auth=auth or Anonymous(), identity="me", limits=Limits(), resume=resume
    )


def server_handshake():
    return ServerHandshake(random=Random(2), now=100.0)


def welcome(**changes):
    fields = {
        "session": b"i" * 16,
        "secret": b"k" * 32,
        "epoch": 4,
        "resumed": False,
        "received": 0,
        "heartbeat": Heartbeat(),
        "limits": Limits(),
        "resume_window_s": 60.0,
    }
    return encode_body(Kind.WELCOME, Welcome(**{**fields, **changes}))


def challenged(**options):
    client, server = client_handshake(**options), server_handshake()
    client.feed(server.challenge_to_send("landline"))
    return client, server


def in_pieces(data, size):
    return [data[i : i + size] for i in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_the_handshake_succeeds_with_pieces_of_any_size(size):
    client, server = client_handshake(), server_handshake()
    for piece in in_pieces(server.challenge_to_send("landline"), size):
        assert client.feed(piece) == b""
    sent = client.data_to_send()
    assert client.data_to_send() == b""
    answers = [server.feed(piece) for piece in in_pieces(sent, size)]
    assert answers[:-1] == [None] * (len(answers) - 1)
    hello = answers[-1]
    assert (hello.version, hello.limits, hello.resume) == (PROTOCOL_VERSION, Limits(), None)
    assert (hello.auth.method, hello.auth.identity) == ("none", "me")
    assert client.welcome is None
    for piece in in_pieces(welcome(), size):
        assert client.feed(piece) == b""
    assert client.welcome.session == b"i" * 16


def test_bytes_after_welcome_belong_to_the_session():
    client, _ = challenged()
    assert client.feed(welcome() + b"rest") == b"rest"


def test_the_server_knows_its_deadline_and_the_round_trip():
    server = server_handshake()
    assert server.deadline == 100.0 + HANDSHAKE_TIMEOUT_S
    assert server.round_trip_s(100.25) == 0.25


def test_both_sides_prove_a_shared_token():
    auth = SharedToken("t" * 16)
    client, server = challenged(auth=auth)
    hello = server.feed(client.data_to_send())
    nonces = {"server_nonce": server.nonce, "client_nonce": hello.nonce}
    assert auth.identify(hello.auth, **nonces) == "me"
    client.feed(welcome(proof=auth.server_proof(**nonces, identity="me")))
    assert client.welcome is not None


@pytest.mark.parametrize("proof", [None, b"", b"x" * 32])
def test_a_server_that_does_not_know_the_token_is_refused(proof):
    client, _ = challenged(auth=SharedToken("t" * 16))
    with pytest.raises(ProtocolError) as refused:
        client.feed(welcome(proof=proof))
    assert refused.value.code is Code.UNAUTHENTICATED
    assert client.welcome is None


def test_a_ticket_is_proven_over_the_servers_nonce():
    client, server = challenged(resume=TICKET)
    resume = server.feed(client.data_to_send()).resume
    assert (resume.session, resume.epoch, resume.received) == (TICKET.session, 3, 42)
    assert resume.proof == resume_proof(
        TICKET.secret, server_nonce=server.nonce, session=TICKET.session, epoch=3, received=42
    )


def test_a_resumed_session_is_the_requested_one():
    client, _ = challenged(resume=TICKET)
    client.feed(welcome(resumed=True))
    assert client.welcome.resumed


@pytest.mark.parametrize(
    ("ticket", "changes"),
    [(None, {}), (TICKET, {"session": b"j" * 16}), (TICKET, {"epoch": 3}), (TICKET, {"epoch": 0})],
)
def test_a_resumed_session_that_was_not_requested_is_refused(ticket, changes):
    client, _ = challenged(resume=ticket)
    with pytest.raises(ProtocolError, match="not requested"):
        client.feed(welcome(**{"resumed": True, **changes}))
    assert client.welcome is None


@pytest.mark.parametrize("size", [1, 10_000])
def test_a_reject_has_a_reason_and_a_retry_time(size):
    rejection = reject_to_send(Code.OVERLOADED, "r" * 1000, retry_after_s=5.0, spread_s=2.0)
    client = client_handshake()
    with pytest.raises(Rejected) as rejected:
        for piece in in_pieces(rejection, size):
            client.feed(piece)
    assert rejected.value.code is Code.OVERLOADED
    assert rejected.value.reason == "r" * REASON_CHARACTERS_MAX
    assert (rejected.value.retry_after_s, rejected.value.spread_s) == (5.0, 2.0)


@pytest.mark.parametrize("kind", [Reject, Bye, Notice])
def test_a_reason_becomes_one_printable_line(kind):
    """It appears in logs and errors, where a peer must not add lines or control the terminal."""
    reason = "no\n2026-11-21 ERROR root: \x1b[31mall is lost\u202e"
    decoded = decode_body(msgspec.msgpack.encode({"code": 101, "reason": reason}), kind)
    assert decoded.reason == "no 2026-11-21 ERROR root: \ufffd[31mall is lost\ufffd"
    assert decode_body(msgspec.msgpack.encode(kind(101, "voilà – 好")), kind).reason == "voilà – 好"


@pytest.mark.parametrize("first", [welcome(), encode_frame(Kind.DATA, b""), encode_frame(Kind.HELLO, b"")])
def test_only_challenge_or_reject_may_be_first(first):
    with pytest.raises(ProtocolError, match="during the handshake"):
        client_handshake().feed(first)


def test_a_second_challenge_is_refused():
    client, server = challenged()
    with pytest.raises(ProtocolError, match="during the handshake"):
        client.feed(server.challenge_to_send())


@pytest.mark.parametrize("body", [{"version": 2, "nonce": bytes(32)}, {"version": 2, "nonce": "new"}])
def test_a_challenge_of_another_version_is_refused_by_its_version(body):
    with pytest.raises(ProtocolError, match="version 2") as refused:
        client_handshake().feed(encode_frame(Kind.CHALLENGE, msgspec.msgpack.encode(body)))
    assert refused.value.code is Code.UNSUPPORTED_VERSION


def test_only_hello_is_accepted_before_welcome():
    with pytest.raises(ProtocolError, match="kind 16 is not allowed before HELLO"):
        server_handshake().feed(encode_frame(Kind.DATA, b""))


def test_a_client_that_does_not_wait_for_welcome_is_refused():
    client, server = challenged()
    with pytest.raises(ProtocolError, match="bytes after HELLO"):
        server.feed(client.data_to_send() + b"\0")


def test_a_hello_above_the_limit_is_refused_by_its_length():
    with pytest.raises(ProtocolError) as refused:
        server_handshake().feed((HANDSHAKE_BYTES_MAX + 1).to_bytes(4, "big"))
    assert refused.value.code is Code.LIMIT_EXCEEDED


@pytest.mark.parametrize("body", [{"version": 2, "all": "new"}, {}, {"version": 2**64 - 1}])
def test_a_hello_of_another_version_is_refused_by_its_version(body):
    with pytest.raises(ProtocolError) as refused:
        decode_hello(msgspec.msgpack.encode(body))
    assert refused.value.code is Code.UNSUPPORTED_VERSION


def hello_fields():
    hello = Hello(PROTOCOL_VERSION, bytes(32), Limits())
    return msgspec.to_builtins(hello, builtin_types=(bytes,))


def test_unknown_keys_are_ignored():
    fields = hello_fields()
    assert decode_hello(msgspec.msgpack.encode({**fields, "later": [1]})) == decode_hello(
        msgspec.msgpack.encode(fields)
    )


LIMITS = msgspec.to_builtins(Limits())


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "1"},
        {"nonce": bytes(31)},
        {"nonce": None},
        {"client": "c" * 101},
        {"limits": {**LIMITS, "message_bytes": 1023}},
        {"limits": {**LIMITS, "window_bytes": 1}},
        {"limits": {**LIMITS, "window_frames": 127}},
        {"auth": {"method": "m" * 33, "identity": "", "proof": b""}},
        {"auth": {"method": "none", "identity": "i" * 201, "proof": b""}},
        {"auth": {"method": "none", "identity": "", "proof": bytes(513)}},
        {"resume": {"session": bytes(15), "epoch": 1, "received": 0, "proof": b""}},
        {"resume": {"session": bytes(16), "epoch": -1, "received": 0, "proof": b""}},
        {"resume": {"session": bytes(16), "epoch": 1, "received": 2**63, "proof": b""}},
    ],
)
def test_a_hello_with_a_field_out_of_its_range_is_refused(changes):
    with pytest.raises(ProtocolError):
        decode_hello(msgspec.msgpack.encode({**hello_fields(), **changes}))


@pytest.mark.parametrize("interval_s", [0.0, 0.009, 1e-300, -1.0, 86_401.0, float("nan"), float("inf")])
def test_a_heartbeat_of_the_server_out_of_range_is_refused(interval_s):
    with pytest.raises(ProtocolError, match="invalid HEARTBEAT"):
        decode_body(msgspec.msgpack.encode({"interval_s": interval_s}), Heartbeat)


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x80", b"\x81\xa4code\xa2\xff\xff", b"\xa2\xff\xff", b"\x81"]
)
def test_a_bad_body_is_a_protocol_error(body):
    with pytest.raises(ProtocolError, match="invalid BYE"):
        decode_body(body, Bye)


@pytest.mark.parametrize("nested", [b"\x91", b"\x81\xa1k"])
@pytest.mark.parametrize("key", [b"version", b"unknown"])
def test_a_body_nested_without_end_is_a_protocol_error(nested, key):
    body = b"\x81" + bytes([0xA0 | len(key)]) + key + nested * 2000 + b"\xc0"
    with pytest.raises(ProtocolError):
        decode_hello(body)


# Hostile handshakes: the invariants are in tests/fuzz/targets.py, the inputs here

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
HUGE = [
    msgspec.msgpack.encode({str(key): key for key in range(1200)}),
    b"\x81\xa7unknown" + b"\x91" * 7000 + b"\xc0",
    b"\x81" * 8000,
    *(b"\x81\xa5nonce" + begin + b"\xff" * 4 for begin in (b"\xc6", b"\xdb", b"\xdd", b"\xdf", b"\xc9")),
    b"\xdf\xff\xff\xff\xff" + b"\xa1k\xc0" * 2000,
]
"""Many keys, deep nesting, and lengths that are not there."""


def example_stream(kind):
    """Return the input of a client (or a server) in the seeds of its target, without the selecting byte."""
    found = [seed[1:] for seed in seeds_of(kind)] if kind == "client_handshake" else seeds_of(kind)
    return st.sampled_from([seed for seed in found if seed])


@st.composite
def mutated(draw, kind):
    """A valid handshake with bits flipped, cut short, with parts repeated, moved, or replaced by others."""
    data = bytearray(draw(example_stream(kind)))
    place = st.integers(0, len(data) - 1)
    for _ in range(draw(st.integers(1, 3))):
        start, end = sorted((draw(place), draw(place)))
        match draw(st.sampled_from(["flip", "flip", "cut", "repeat", "move", "value", "length"])):
            case "flip":
                data[start : start + 1] = bytes(
                    byte ^ 1 << draw(st.integers(0, 7)) for byte in data[start : start + 1]
                )
            case "cut":
                del data[start:end]
            case "repeat":
                data[end:end] = data[start:end]
            case "move":
                data[:] = data[end:] + data[start:end] + data[:start]
            case "value":
                data[start : start + 1] = msgspec.msgpack.encode(draw(VALUES))
            case "length":
                data[:4] = (len(data) - 4 + draw(st.integers(-2, 2))).to_bytes(4, "big", signed=True)
    return bytes(data)


@st.composite
def changed_fields(draw, body):
    """A frame whose map has keys missing, or values of any type."""
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(body))
    for key in draw(st.lists(st.sampled_from([*fields, "unknown"]), max_size=3, unique=True)):
        if draw(st.booleans()):
            fields.pop(key, None)
        else:
            fields[key] = draw(VALUES)
    kind = Kind[type(body).__name__.upper()]
    return encode_frame(kind, msgspec.msgpack.encode(fields))


arbitrary = st.lists(
    st.binary(max_size=80)
    | st.builds(encode_frame, st.sampled_from(list(Kind)), st.binary(max_size=80))
    | st.builds(encode_frame, st.sampled_from(list(Kind)[:4]), st.builds(msgspec.msgpack.encode, VALUES)),
    max_size=4,
).map(b"".join)
CHALLENGE = encode_body(Kind.CHALLENGE, Challenge(PROTOCOL_VERSION, targets.SERVER_RANDOM.randbytes(32)))
WELCOME = msgspec.msgpack.decode(welcome()[FRAME_HEADER.size :], type=Welcome)


@given(
    st.integers(0, 7),
    mutated("client_handshake")
    | changed_fields(Challenge(PROTOCOL_VERSION, bytes(32)))
    | changed_fields(WELCOME).map(lambda frame: CHALLENGE + frame)
    | arbitrary
    | arbitrary.map(lambda data: CHALLENGE + data),
)
@settings(deadline=None, max_examples=250, derandomize=True)
def test_arbitrary_bytes_of_a_server_raise_only_expected_errors(option, data):
    targets.client_handshake(bytes([option]) + data)


@given(
    mutated("server_handshake")
    | changed_fields(msgspec.msgpack.decode(seeds_of("server_handshake")[1][FRAME_HEADER.size :], type=Hello))
    | arbitrary
)
@settings(deadline=None, max_examples=250, derandomize=True)
def test_arbitrary_bytes_of_a_client_never_authenticate(data):
    targets.server_handshake(data)


@pytest.mark.parametrize("body", HUGE)
@pytest.mark.parametrize("kind", [Kind.CHALLENGE, Kind.HELLO, Kind.WELCOME, Kind.REJECT])
def test_huge_maps_deep_nesting_and_false_lengths_hold_no_memory(kind, body):
    frame = encode_frame(kind, body)
    assert len(frame) <= HANDSHAKE_BYTES_MAX
    targets.server_handshake(frame)
    for before in (b"", CHALLENGE):
        targets.client_handshake(b"\0" + before + frame)


@pytest.mark.parametrize("field", range(4))
def test_no_bit_of_a_resume_can_be_changed(field):
    genuine = targets.TICKET.prove(targets.SERVER_RANDOM.randbytes(32))
    assert targets.is_proven(genuine, targets.SERVER_RANDOM)
    assert not targets.is_proven(genuine, targets.LATER_SERVER_RANDOM)
    name = genuine.__struct_fields__[field]
    value = getattr(genuine, name)
    if isinstance(value, int):
        wrong = [value ^ 1 << bit for bit in range(63)]
    else:
        number = int.from_bytes(value, "big")
        wrong = [(number ^ 1 << bit).to_bytes(len(value), "big") for bit in range(len(value) * 8)]
        wrong += [value[:-1], value + b"\0", b""]
    for other in wrong:
        forged = msgspec.structs.replace(genuine, **{name: other})
        assert not targets.is_proven(forged, targets.SERVER_RANDOM)


@pytest.mark.parametrize("field", ["message_bytes", "window_bytes", "window_frames"])
@pytest.mark.parametrize("value", [0, -1, 2**80, 1e6, None])
def test_limits_out_of_range_are_refused_at_once(field, value):
    with pytest.raises(ConfigurationError, match=rf"Limits\({field}=.*\): Expected"):
        Limits(**{field: value})
