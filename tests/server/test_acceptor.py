"""Accepting: who gets a line, and what becomes of those who do not. Real sockets, both event loops."""

import asyncio
import functools

import pytest
from tests.raw_connections import raw_connection, read_frame, read_refusal, shake_hands

import landline
from landline.codes import code_from_wire
from landline.errors import Rejected
from landline.session.bodies import Challenge, Hello, decode_body, encode_body
from landline.session.constants import Kind
from landline.session.frames import encode_ack, encode_data
from landline.session.handshake import ServerHandshake

URL = "tcp://127.0.0.1:0"


def make_hello(**changes) -> Hello:
    return Hello(**{"version": 1, "nonce": b"c" * 32, "limits": landline.Limits()} | changes)


async def test_a_client_above_max_lines_returns_later(quick, states, until):
    server = landline.Server(
        max_lines=1, admission=landline.Admission(busy_retry_after_s=0.02, busy_spread_s=0.01)
    )
    seen = states()
    async with server.listen(URL) as endpoint:
        async with landline.connect(str(endpoint), backoff=quick) as first:

            async def second():
                async with landline.connect(str(endpoint), backoff=quick, on_state=seen) as line:
                    return line.state

            waiting = asyncio.create_task(second())
            await until(lambda: seen.changes)
            # Room is kept for those who are away for a moment.
            first.break_link()
            await until(lambda: first.epoch == 2)
        assert await waiting is landline.LineState.ONLINE
    refused = seen.changes[0]
    assert refused.state is landline.LineState.RECONNECTING
    assert refused.cause is landline.DisconnectCause.REJECTED
    assert 0.02 <= refused.due_in_s <= 0.03
    assert "1 lines are open already" in refused.detail


async def test_the_refusal_of_one_client_too_many(quick):
    server = landline.Server(max_lines=1)
    async with (
        server.listen(URL) as endpoint,
        landline.connect(str(endpoint), backoff=quick),
        raw_connection(endpoint) as (reader, writer),
    ):
        with pytest.raises(Rejected) as caught:
            await shake_hands(reader, writer)
        assert caught.value.code is landline.Code.OVERLOADED
        assert (caught.value.retry_after_s, caught.value.spread_s) == (5, 10)


async def test_a_client_that_takes_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(
        "landline.server.acceptor.ServerHandshake", functools.partial(ServerHandshake, timeout_s=0.05)
    )
    server = landline.Server()
    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, writer):
        # Bytes that arrive do not prolong it.
        writer.write(b"\0\0\1")
        refusal = await read_refusal(reader)
        assert code_from_wire(refusal.code) is landline.Code.HANDSHAKE_TIMEOUT
        assert not server._host.acceptor.unfinished


async def test_a_hello_may_come_in_single_bytes(until):
    server = landline.Server()
    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, writer):
        await read_frame(reader)
        for byte in encode_body(Kind.HELLO, make_hello()):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        kind, _ = await read_frame(reader)
        assert kind == Kind.WELCOME


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", landline.Code.LIMIT_EXCEEDED, "a frame of 1195725856 bytes"),
        (b"\0\0\x20\x01", landline.Code.LIMIT_EXCEEDED, "a frame of 8193 bytes; at most 8192 are allowed"),
        (b"\0\0\0\0", landline.Code.PROTOCOL_ERROR, "an empty frame"),
        (encode_ack(0), landline.Code.PROTOCOL_ERROR, "a frame of kind 17 is not allowed before HELLO"),
        (
            encode_data(1, 0, 1, 0, b"", b"x"),
            landline.Code.PROTOCOL_ERROR,
            "kind 16 is not allowed before HELLO",
        ),
        (b"\0\0\0\2\2\xc1", landline.Code.PROTOCOL_ERROR, "invalid HELLO"),
        (
            encode_body(Kind.HELLO, make_hello(version=2)),
            landline.Code.UNSUPPORTED_VERSION,
            "version 2 of the protocol; this server uses version 1",
        ),
        (
            encode_body(Kind.HELLO, make_hello()) + encode_ack(0),
            landline.Code.PROTOCOL_ERROR,
            "bytes after HELLO and before WELCOME",
        ),
    ],
)
async def test_garbage_instead_of_hello_is_refused(data, code, text):
    server = landline.Server()
    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, writer):
        writer.write(data)
        refusal = await read_refusal(reader)
        assert code_from_wire(refusal.code) is code
        assert text in refusal.reason
        assert not server.lines


async def test_a_client_that_leaves_during_the_handshake_leaves_nothing(until):
    server = landline.Server()
    async with server.listen(URL) as endpoint:
        async with raw_connection(endpoint) as (_, writer):
            writer.write(b"\0\0")
            await until(lambda: server._host.acceptor.unfinished)
        await until(lambda: not server._host.acceptor.unfinished)
        assert not server.lines


async def test_the_server_says_its_name():
    server = landline.Server(name="office")
    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, _):
        kind, body = await read_frame(reader)
        assert kind == Kind.CHALLENGE
        assert decode_body(body, Challenge).server == "office"


async def test_a_handshake_under_way_is_refused_when_the_server_closes(until):
    server = landline.Server()
    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, _):
        await until(lambda: server._host.acceptor.unfinished)
        await server.close(reason="an update", retry_after_s=7, spread_s=3)
        refusal = await read_refusal(reader)
        assert code_from_wire(refusal.code) is landline.Code.GOING_AWAY
        assert (refusal.reason, refusal.retry_after_s, refusal.spread_s) == ("an update", 7, 3)


# An auth= of the application's that gives no clear yes.


class Deciding(landline.Anonymous):
    """Identifies with what it is given: a value, or a function to call."""

    def __init__(self, result, proof=None):
        self.result = result
        self.proof = proof

    def identify(self, claim, *, server_nonce, client_nonce):
        return self.result(claim) if callable(self.result) else self.result

    def server_proof(self, *, server_nonce, client_nonce, identity):
        return self.proof() if callable(self.proof) else self.proof


async def late(*_):
    return "me"


@pytest.mark.parametrize(
    ("auth", "told"),
    [
        (Deciding(False), "Deciding: ServerAuth.identify() returned False; it must return"),
        (Deciding(""), "Deciding: ServerAuth.identify() returned ''; it must return"),
        (Deciding(True), "Deciding: ServerAuth.identify() returned True; it must return"),
        (Deciding({"sub": "me"}), "ServerAuth.identify() returned a value of the type dict; it must return"),
        (
            Deciding(late),
            "ServerAuth.identify() returned a coroutine, which is never awaited; it must return",
        ),
        (
            Deciding("me", late),
            "ServerAuth.server_proof() returned a coroutine, which is never awaited; it must",
        ),
    ],
)
async def test_an_invalid_result_of_auth_refuses_the_client(auth, told, caplog):
    server = landline.Server(auth=auth)
    async with server.listen(URL) as endpoint:
        for _ in range(2):
            with pytest.raises(landline.Rejected, match="the server cannot check the identity") as caught:
                async with landline.connect(str(endpoint), identity="me"):
                    pytest.fail("was let in")
            assert caught.value.code is landline.Code.UNAUTHENTICATED
        assert not server.lines
    # Strangers must not fill the log.
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert told in record.getMessage()


async def test_a_clear_no_is_no_error(caplog):
    async with landline.Server(auth=Deciding(None)).listen(URL) as endpoint:
        with pytest.raises(landline.Rejected, match="the token is missing or wrong"):
            async with landline.connect(str(endpoint)):
                pytest.fail("was let in")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_peer_may_be_let_in_without_an_identity():
    server = landline.Server(auth=Deciding(landline.NO_IDENTITY))
    async with server.listen(URL) as endpoint, landline.connect(str(endpoint), identity="me"):
        [line] = server.lines
        assert line.identity == ""


async def test_a_client_comes_back_when_the_check_of_identities_failed(quick, states, until, caplog):
    answers = [OSError("the database is away"), OSError("still"), "me"]

    def ask(claim):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    seen = states()
    server = landline.Server(
        auth=Deciding(ask), admission=landline.Admission(busy_retry_after_s=0.01, busy_spread_s=0.0)
    )
    async with server.listen(URL) as endpoint, landline.connect(str(endpoint), backoff=quick, on_state=seen):
        [line] = server.lines
        assert line.identity == "me"
    refused = seen.find(landline.LineState.RECONNECTING)
    assert [change.code for change in refused] == [landline.Code.GOING_AWAY] * 2
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage() == "auth=Deciding failed; the client is refused"
    assert "the database is away" in caplog.text
