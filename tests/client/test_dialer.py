"""Dialing: who answers at an address, who is let in, and who is trusted. Real sockets, both event loops."""

import socket

import pytest

import landline
from landline.client.dialer import DialTimeouts
from landline.session.bodies import Challenge, encode_body
from landline.session.constants import Kind

ONCE = landline.Backoff(first_s=0.001, cap_s=0.002, attempts=1)


# Servers that are none.


async def test_another_kind_of_server_is_not_accepted(fake_server):
    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with fake_server(answer) as url:
        with pytest.raises(landline.ConnectFailed, match="a frame of 1213486160 bytes"):
            async with landline.connect(url):
                pytest.fail("connected to nobody")


async def test_a_server_that_hangs_up_is_tried_again(fake_server):
    async def hang_up(reader, writer):
        pass

    async with fake_server(hang_up) as url:
        with pytest.raises(landline.GaveUp, match="ended during the handshake"):
            async with landline.connect(url, backoff=ONCE):
                pytest.fail("connected to nobody")


async def test_the_handshake_has_a_time_limit(fake_server):
    async def listen(reader, writer):
        await reader.read()

    async with fake_server(listen) as url:
        with pytest.raises(
            landline.GaveUp, match=r"no WELCOME within 0\.05 s; check that this is a landline server"
        ):
            async with landline.connect(url, backoff=ONCE, timeouts=DialTimeouts(handshake_s=0.05)):
                pytest.fail("connected to nobody")


async def test_connecting_the_transport_has_a_time_limit():
    # It accepts the TCP connection and never answers the TLS handshake.
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with pytest.raises(landline.GaveUp, match=r"no connection within 0\.05 s"):
            url = f"tls://127.0.0.1:{sock.getsockname()[1]}"
            async with landline.connect(url, backoff=ONCE, timeouts=DialTimeouts(connect_s=0.05)):
                pytest.fail("connected to nobody")


async def test_a_server_of_another_version_is_named(fake_server):
    async def other_version(reader, writer):
        writer.write(encode_body(Kind.CHALLENGE, Challenge(9, b"n" * 32)))
        await writer.drain()
        await reader.read()

    async with fake_server(other_version) as url:
        with pytest.raises(
            landline.ConnectFailed, match="version 9 of the protocol, this client uses version 1"
        ):
            async with landline.connect(url):
                pytest.fail("connected to nobody")


async def test_a_certificate_that_is_not_trusted_is_not_accepted(certificates):
    server = landline.Server()
    options = landline.TransportOptions(tls=certificates.server)
    async with server.listen("tls://127.0.0.1:0", options=options) as endpoint:
        with pytest.raises(landline.GaveUp, match=r"(?i)certificate"):
            async with landline.connect(str(endpoint), backoff=ONCE):
                pytest.fail("connected to a stranger")
        assert not server.lines


# Who is who.


async def test_the_right_token_is_welcome_and_proves_the_identity(pair):
    server = landline.Server(auth=landline.SharedToken("correct horse battery"))
    auth = landline.SharedToken(b"correct horse battery")
    async with pair(server, auth=auth, identity="lab-1") as (_, other):
        assert other.identity == "lab-1"


@pytest.mark.parametrize("auth", [landline.SharedToken("wrong horse battery!"), landline.Anonymous(), None])
async def test_a_wrong_or_missing_token_is_refused_at_once(auth, states):
    seen = states()
    server = landline.Server(auth=landline.SharedToken("correct horse battery"))
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        with pytest.raises(landline.Rejected, match="the token is missing or wrong") as caught:
            async with landline.connect(str(endpoint), auth=auth, on_state=seen):
                pytest.fail("was let in")
        assert caught.value.code is landline.Code.UNAUTHENTICATED
        assert not server.lines
    assert [(change.state.value, change.cause.value) for change in seen.changes] == [("closed", "rejected")]


async def test_a_token_for_a_server_that_wants_none_is_refused():
    async with landline.Server().listen("tcp://127.0.0.1:0") as endpoint:
        with pytest.raises(landline.Rejected):
            async with landline.connect(str(endpoint), auth=landline.SharedToken("x" * 16)):
                pytest.fail("was let in")


@pytest.mark.parametrize("proof", [None, b"x" * 32])
async def test_a_server_that_cannot_prove_itself_is_left(proof):
    class Impostor(landline.Anonymous):
        def identify(self, claim, *, server_nonce, client_nonce):
            return landline.NO_IDENTITY

        def server_proof(self, *, server_nonce, client_nonce, identity):
            return proof

    async with landline.Server(auth=Impostor()).listen("tcp://127.0.0.1:0") as endpoint:
        with pytest.raises(landline.ConnectFailed, match="did not prove that it knows the token"):
            async with landline.connect(str(endpoint), auth=landline.SharedToken("x" * 16)):
                pytest.fail("trusted an impostor")


class Checking(landline.SharedToken):
    """A client's auth= whose answers are given."""

    def __init__(self, **results):
        super().__init__("x" * 16)
        self.results = results

    def claim(self, **arguments):
        return self.results.get("claim", super().claim)(**arguments)

    def accepts_server(self, proof, **arguments):
        return self.results.get("accepts_server", super().accepts_server)(proof, **arguments)


async def late(*_, **__):
    return True


@pytest.mark.parametrize(
    ("auth", "told"),
    [
        (Checking(accepts_server=late), r"accepts_server\(\) returned a coroutine, which is never awaited"),
        (
            Checking(accepts_server=lambda *_, **__: "yes"),
            r"accepts_server\(\) returned a value of the type str",
        ),
        (Checking(accepts_server=lambda *_, **__: None), r"accepts_server\(\) returned None"),
        (Checking(claim=late), r"claim\(\) returned a coroutine, which is never awaited"),
    ],
)
async def test_a_server_that_is_not_clearly_accepted_is_left(auth, told):
    server = landline.Server(auth=landline.SharedToken("x" * 16))
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        with pytest.raises(landline.ConfigurationError, match=rf"ClientAuth\.{told}; it must return"):
            async with landline.connect(str(endpoint), auth=auth):
                pytest.fail("trusted a server nobody has checked")


async def test_an_auth_that_fails_says_so(quick):
    def fail(**_):
        raise KeyError("no token yet")

    async with landline.Server().listen("tcp://127.0.0.1:0") as endpoint:
        once = landline.Backoff(attempts=1)
        with pytest.raises(landline.GaveUp, match="auth= failed: KeyError: 'no token yet'"):
            async with landline.connect(str(endpoint), auth=Checking(claim=fail), backoff=once):
                pytest.fail("connected without a claim")
