import pytest

import landline
from landline.errors import ConfigurationError
from landline.session.auth import (
    Anonymous,
    AuthClaim,
    SharedToken,
    client_auth,
    proofs_equal,
    resume_proof,
    server_auth,
)

NONCES = {"server_nonce": b"s" * 32, "client_nonce": b"c" * 32}
TOKEN = "a token of more than 16 bytes"


def test_anonymous_peers_may_say_any_name():
    auth = Anonymous()
    assert auth.identify(auth.claim(**NONCES, identity="me"), **NONCES) == "me"
    assert auth.identify(None, **NONCES) == ""
    assert auth.server_proof(**NONCES, identity="me") is None
    assert auth.accepts_server(None, **NONCES, identity="me")


def test_anonymous_servers_do_not_accept_a_proof_they_cannot_check():
    assert Anonymous().identify(SharedToken(TOKEN).claim(**NONCES, identity="me"), **NONCES) is None


def test_both_sides_prove_the_token():
    client, server = SharedToken(TOKEN), SharedToken(TOKEN.encode())
    claim = client.claim(**NONCES, identity="me")
    assert server.identify(claim, **NONCES) == "me"
    assert client.accepts_server(server.server_proof(**NONCES, identity="me"), **NONCES, identity="me")


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
