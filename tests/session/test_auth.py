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
    check_accepted,
    check_claim,
    check_identity,
    check_proof,
    client_auth,
    proofs_equal,
    resume_proof,
    seal_secret,
    server_auth,
)

NONCES = {"server_nonce": b"s" * 32, "client_nonce": b"c" * 32}
TOKEN = "a token of more than 16 bytes"


def test_an_anonymous_client_may_claim_any_identity():
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


def test_a_claim_is_invalid_with_another_nonce_or_identity():
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
def test_an_invalid_auth_argument_is_refused_and_not_shown(check, given):
    with pytest.raises(ConfigurationError, match=r"auth= takes landline\.SharedToken\(\.\.\.\)") as caught:
        check(given)
    assert TOKEN not in str(caught.value)


def test_only_none_is_anonymous():
    token = SharedToken(TOKEN)
    assert client_auth(token) is server_auth(token) is token
    assert isinstance(client_auth(None), Anonymous)
    assert isinstance(server_auth(None), Anonymous)


async def test_a_plain_string_as_auth_is_refused_before_the_start():
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


def test_the_seal_secret_is_the_key_of_the_token():
    token = SharedToken("a secret of sixteen bytes")
    assert seal_secret(token) == seal_secret(SharedToken("a secret of sixteen bytes"))
    assert seal_secret(token) != seal_secret(SharedToken("another secret, as long"))
    assert len(seal_secret(token)) == 32
    assert seal_secret(Anonymous()) == b""


async def a_coroutine_function(*arguments, **keywords):
    return "me"


class Async:
    async def __call__(self, *arguments, **keywords):
        return "me"


def test_valid_results_of_identify():
    assert check_identity("me") == "me"
    assert check_identity(NO_IDENTITY) == ""
    assert check_identity(None) is None


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
def test_invalid_results_of_identify(result, told):
    with pytest.raises(WrongResult, match=rf"^ServerAuth\.identify\(\) {told}; it must return the identity"):
        check_identity(result)


async def test_a_coroutine_is_an_invalid_result_and_is_closed():
    # Were it not, its destruction would warn, and warnings are errors here.
    for check in (check_identity, check_proof, check_claim, check_accepted):
        with pytest.raises(WrongResult, match="returned a coroutine, which is never awaited; it must return"):
            check(a_coroutine_function())


async def test_a_future_is_an_invalid_result_and_is_cancelled():
    future = asyncio.get_running_loop().create_future()
    with pytest.raises(WrongResult, match=r"a value of the type _?Future"):
        check_accepted(future)
    assert future.cancelled()


def test_valid_results_of_the_other_methods():
    claim = SharedToken(TOKEN).claim(**NONCES, identity="me")
    assert check_claim(claim) is claim
    assert check_proof(b"proof") == b"proof"
    assert check_proof(None) is None
    assert check_accepted(True) is True
    assert check_accepted(False) is False


@pytest.mark.parametrize(
    ("check", "result"), [(check_claim, None), (check_proof, ""), (check_accepted, 1), (check_accepted, None)]
)
def test_invalid_results_of_the_other_methods(check, result):
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
def test_a_coroutine_function_is_refused_at_once(check, method, function):
    class Mine(Anonymous):
        pass

    setattr(Mine, method, staticmethod(function))
    with pytest.raises(ConfigurationError, match=rf"auth=: Mine\.{method} is a coroutine function"):
        check(Mine())


def test_a_method_with_wrong_parameters_is_refused_at_once():
    class Mine(Anonymous):
        def identify(self, claim):
            return claim.identity

    with pytest.raises(
        ConfigurationError,
        match=r"Mine\.identify cannot be called as identify\(claim, server_nonce=\.\.\., client_nonce=\.\.\.\)",
    ):
        server_auth(Mine())
