import asyncio
import functools

import pytest

import landline
from landline.errors import ConfigurationError
from landline.session.auth import (
    NO_IDENTITY,
    Anonymous,
    AuthClaim,
    SharedToken,
    WrongResult,
    claim_of,
    client_auth,
    identity_of,
    is_accepted,
    proof_of,
    proofs_equal,
    resume_proof,
    server_auth,
)

NONCES = {"server_nonce": b"s" * 32, "client_nonce": b"c" * 32}
TOKEN = "a token of more than 16 bytes"


def test_anonymous_peers_may_say_any_name():
    auth = Anonymous()
    assert auth.identify(auth.claim(**NONCES, identity="me"), **NONCES) == "me"
    assert auth.identify(None, **NONCES) is NO_IDENTITY
    assert auth.identify(auth.claim(**NONCES, identity=""), **NONCES) is NO_IDENTITY
    assert auth.server_proof(**NONCES, identity="me") is None
    assert auth.accepts_server(None, **NONCES, identity="me")


def test_anonymous_servers_do_not_accept_a_proof_they_cannot_check():
    assert Anonymous().identify(SharedToken(TOKEN).claim(**NONCES, identity="me"), **NONCES) is None


def test_both_sides_prove_the_token():
    client, server = SharedToken(TOKEN), SharedToken(TOKEN.encode())
    claim = client.claim(**NONCES, identity="me")
    assert server.identify(claim, **NONCES) == "me"
    assert client.accepts_server(server.server_proof(**NONCES, identity="me"), **NONCES, identity="me")


def test_a_token_can_be_proven_without_a_name():
    auth = SharedToken(TOKEN)
    assert auth.identify(auth.claim(**NONCES, identity=""), **NONCES) is NO_IDENTITY


def test_another_token_proves_nothing():
    client, server = SharedToken(TOKEN), SharedToken(TOKEN + "!")
    assert server.identify(client.claim(**NONCES, identity="me"), **NONCES) is None
    proof = server.server_proof(**NONCES, identity="me")
    assert not client.accepts_server(proof, **NONCES, identity="me")


def test_a_claim_is_worth_nothing_with_another_nonce_or_name():
    auth = SharedToken(TOKEN)
    claim = auth.claim(**NONCES, identity="me")
    assert auth.identify(claim, server_nonce=b"x" * 32, client_nonce=b"c" * 32) is None
    assert auth.identify(claim, server_nonce=b"s" * 32, client_nonce=b"x" * 32) is None
    assert auth.identify(AuthClaim("token", "you", claim.proof), **NONCES) is None


def test_a_proof_cannot_be_reflected():
    auth = SharedToken(TOKEN)
    claim = auth.claim(**NONCES, identity="me")
    assert not auth.accepts_server(claim.proof, **NONCES, identity="me")
    proof = auth.server_proof(**NONCES, identity="me")
    assert auth.identify(AuthClaim("token", "me", proof), **NONCES) is None


def test_no_claim_and_no_proof_are_refused():
    auth = SharedToken(TOKEN)
    assert auth.identify(None, **NONCES) is None
    assert auth.identify(Anonymous().claim(**NONCES, identity="me"), **NONCES) is None
    assert not auth.accepts_server(None, **NONCES, identity="me")


def test_a_short_token_is_a_configuration_error():
    SharedToken("x" * 16)
    with pytest.raises(ConfigurationError, match="15 bytes"):
        SharedToken("x" * 15)


@pytest.mark.parametrize("given", [TOKEN, TOKEN.encode(), "", 5, SharedToken, Anonymous])
@pytest.mark.parametrize("check", [client_auth, server_auth])
def test_what_is_no_authentication_is_refused_and_not_shown(check, given):
    with pytest.raises(ConfigurationError, match=r"auth= takes landline\.SharedToken\(\.\.\.\)") as caught:
        check(given)
    assert TOKEN not in str(caught.value)


def test_only_none_is_anonymous():
    token = SharedToken(TOKEN)
    assert client_auth(token) is server_auth(token) is token
    assert isinstance(client_auth(None), Anonymous)
    assert isinstance(server_auth(None), Anonymous)


async def test_a_secret_in_place_of_a_token_is_noticed_before_anything_is_started():
    with pytest.raises(ConfigurationError, match="this is a str"):
        landline.connect("tcp://127.0.0.1:1", auth=TOKEN)
    with pytest.raises(ConfigurationError, match="this is a str"):
        landline.Server(auth=TOKEN)
    with pytest.raises(ConfigurationError, match="this is a str"):
        await landline.call("tcp://127.0.0.1:1", "add", auth=TOKEN)


def test_a_token_does_not_show_itself():
    assert TOKEN not in repr(SharedToken(TOKEN))


def test_a_resume_proof_covers_everything():
    fields = {"server_nonce": b"n" * 32, "session": b"s" * 16, "epoch": 3, "received": 9}
    proof = resume_proof(b"k" * 32, **fields)
    assert proofs_equal(proof, resume_proof(b"k" * 32, **fields))
    others = {"server_nonce": b"m" * 32, "session": b"t" * 16, "epoch": 4, "received": 8}
    for name, value in others.items():
        assert not proofs_equal(proof, resume_proof(b"k" * 32, **{**fields, name: value}))
    assert not proofs_equal(proof, resume_proof(b"l" * 32, **fields))


def test_what_datagrams_are_sealed_with_is_as_secret_as_the_token():
    token = SharedToken("a secret of sixteen bytes")
    assert token.seal_secret() == SharedToken("a secret of sixteen bytes").seal_secret()
    assert token.seal_secret() != SharedToken("another secret, as long").seal_secret()
    assert len(token.seal_secret()) == 32
    assert Anonymous().seal_secret() == b""


async def a_coroutine_function(*arguments, **keywords):
    return "me"


class Async:
    async def __call__(self, *arguments, **keywords):
        return "me"


def test_a_clear_answer_of_identify():
    assert identity_of("me") == "me"
    assert identity_of(NO_IDENTITY) == ""
    assert identity_of(None) is None


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (False, "returned False"),
        (True, "returned True"),
        ("", "returned ''"),
        (b"me", "returned a value of the type bytes"),
        (0, "returned a value of the type int"),
        (object(), "returned a value of the type object"),
        (Async(), "returned a value of the type Async"),
    ],
)
def test_anything_else_is_no_answer(result, told):
    with pytest.raises(WrongResult, match=rf"^ServerAuth\.identify\(\) {told}; it must return the identity"):
        identity_of(result)


async def test_a_coroutine_is_no_answer_and_is_closed():
    # Were it not, its destruction would warn, and warnings are errors here.
    for check in (identity_of, proof_of, claim_of, is_accepted):
        with pytest.raises(WrongResult, match="returned a coroutine, which nobody awaits; it must return"):
            check(a_coroutine_function())


async def test_a_future_is_no_answer_and_is_cancelled():
    future = asyncio.get_running_loop().create_future()
    with pytest.raises(WrongResult, match=r"a value of the type _?Future"):
        is_accepted(future)
    assert future.cancelled()


def test_clear_answers_of_the_other_methods():
    claim = SharedToken(TOKEN).claim(**NONCES, identity="me")
    assert claim_of(claim) is claim
    assert proof_of(b"proof") == b"proof"
    assert proof_of(None) is None
    assert is_accepted(True) is True
    assert is_accepted(False) is False


@pytest.mark.parametrize(
    ("check", "result"), [(claim_of, None), (proof_of, ""), (is_accepted, 1), (is_accepted, None)]
)
def test_no_clear_answers_of_the_other_methods(check, result):
    with pytest.raises(WrongResult, match="it must return"):
        check(result)


@pytest.mark.parametrize(
    "function", [a_coroutine_function, Async(), functools.partial(a_coroutine_function, 1)]
)
@pytest.mark.parametrize(
    ("check", "method"),
    [
        (server_auth, "identify"),
        (server_auth, "server_proof"),
        (client_auth, "claim"),
        (client_auth, "accepts_server"),
    ],
)
def test_a_coroutine_function_is_refused_where_it_is_given(check, method, function):
    class Mine(Anonymous):
        pass

    setattr(Mine, method, staticmethod(function))
    with pytest.raises(ConfigurationError, match=rf"auth=: Mine\.{method} is a coroutine function"):
        check(Mine())


def test_a_method_that_cannot_be_called_is_refused_where_it_is_given():
    class Mine(Anonymous):
        def identify(self, claim):
            return claim.identity

    with pytest.raises(
        ConfigurationError,
        match=r"Mine\.identify cannot be called as identify\(claim, server_nonce=\.\.\., client_nonce=\.\.\.\)",
    ):
        server_auth(Mine())
