"""Who is on the other end: proofs over the nonces of the handshake (``docs/protocol.md`` §4.5)."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from landline.errors import ConfigurationError

IDENTITY_BYTES_MAX = 200

Proof = Annotated[bytes, Meta(max_length=512)]
Identity = Annotated[str, Meta(max_length=IDENTITY_BYTES_MAX)]


class AuthClaim(msgspec.Struct, frozen=True):
    """What a client says of itself, and its proof."""

    method: Annotated[str, Meta(max_length=32)]
    identity: Identity
    proof: Proof


class ClientAuth(Protocol):
    """Proves a client to a server, and checks the server's proof in turn."""

    def claim(self, *, server_nonce: bytes, client_nonce: bytes, identity: str) -> AuthClaim:
        """The claim to send in HELLO."""
        ...

    def accepts_server(
        self, proof: bytes | None, *, server_nonce: bytes, client_nonce: bytes, identity: str
    ) -> bool:
        """Whether the server's proof in WELCOME shows that it is the right one."""
        ...


class ServerAuth(Protocol):
    """Checks a client's claim, and proves the server in turn."""

    def identify(self, claim: AuthClaim | None, *, server_nonce: bytes, client_nonce: bytes) -> str | None:
        """The proven identity (empty for an anonymous peer that is welcome), or ``None`` to refuse."""
        ...

    def server_proof(self, *, server_nonce: bytes, client_nonce: bytes, identity: str) -> bytes | None:
        """The proof to send in WELCOME."""
        ...


def client_auth(given: ClientAuth | None) -> ClientAuth:
    """What ``auth=`` of a client stands for: :class:`Anonymous` for ``None`` only.

    Raises :class:`ConfigurationError` for what is no such scheme. An empty string, which an unset variable leaves, is
    no way to go without.
    """
    if given is None:
        return Anonymous()
    _check_auth(given, "ClientAuth", ("claim", "accepts_server"))
    return given


def server_auth(given: ServerAuth | None) -> ServerAuth:
    """The same for ``auth=`` of a server."""
    if given is None:
        return Anonymous()
    _check_auth(given, "ServerAuth", ("identify", "server_proof"))
    return given


def _check_auth(given: object, protocol: str, methods: tuple[str, ...]) -> None:
    # Its type only: it may be the secret itself.
    if isinstance(given, type) or not all(hasattr(given, method) for method in methods):
        what = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
        raise ConfigurationError(
            f"auth= takes landline.SharedToken(...), or another landline.{protocol}; this is {what}"
        )


class Anonymous:
    """No authentication: clients may state an identity and nobody checks it. For trusted networks and tests."""

    def seal_secret(self) -> bytes:
        """What the keys for datagrams are derived from (§13.2): nothing, so that everybody has them."""
        return b""

    def claim(self, *, server_nonce: bytes, client_nonce: bytes, identity: str) -> AuthClaim:
        return AuthClaim("none", identity, b"")

    def accepts_server(
        self, proof: bytes | None, *, server_nonce: bytes, client_nonce: bytes, identity: str
    ) -> bool:
        return True

    def identify(self, claim: AuthClaim | None, *, server_nonce: bytes, client_nonce: bytes) -> str | None:
        if claim is None:
            return ""
        # A proof without a method to check it is a client that believes to have proven something.
        return claim.identity if claim.method == "none" and not claim.proof else None

    def server_proof(self, *, server_nonce: bytes, client_nonce: bytes, identity: str) -> bytes | None:
        return None


class SharedToken:
    """One secret that the server and all its clients know; each proves it to the other, and neither sends it.

    The identity is covered by the proof but chosen by the client: whoever knows the token may claim any name.

    :param token: the secret, at least 16 bytes (as text or bytes); make one with ``secrets.token_urlsafe(32)``.
    :raises ConfigurationError: when it is shorter.
    """

    __slots__ = ("_key",)

    def __init__(self, token: str | bytes) -> None:
        raw = token.encode() if isinstance(token, str) else bytes(token)
        if len(raw) < 16:
            raise ConfigurationError(
                f"a shared token of {len(raw)} bytes is too short to be a secret; use 16 bytes or more"
            )
        self._key = sha256(b"landline/1 shared token\0" + raw).digest()

    def __repr__(self) -> str:
        return "SharedToken(...)"

    def seal_secret(self) -> bytes:
        """What the keys for datagrams are derived from (§13.2). As secret as the token."""
        return self._key

    def claim(self, *, server_nonce: bytes, client_nonce: bytes, identity: str) -> AuthClaim:
        return AuthClaim("token", identity, self._proof(b"client", server_nonce, client_nonce, identity))

    def accepts_server(
        self, proof: bytes | None, *, server_nonce: bytes, client_nonce: bytes, identity: str
    ) -> bool:
        expected = self._proof(b"server", server_nonce, client_nonce, identity)
        return proof is not None and hmac.compare_digest(proof, expected)

    def identify(self, claim: AuthClaim | None, *, server_nonce: bytes, client_nonce: bytes) -> str | None:
        if claim is None or claim.method != "token":
            return None
        expected = self._proof(b"client", server_nonce, client_nonce, claim.identity)
        return claim.identity if hmac.compare_digest(claim.proof, expected) else None

    def server_proof(self, *, server_nonce: bytes, client_nonce: bytes, identity: str) -> bytes | None:
        return self._proof(b"server", server_nonce, client_nonce, identity)

    def _proof(self, role: bytes, server_nonce: bytes, client_nonce: bytes, identity: str) -> bytes:
        # Nonces have a fixed size and the role holds no zero byte, so no two inputs run together.
        message = b"landline/1 " + role + b"\0" + server_nonce + client_nonce + identity.encode()
        return hmac.digest(self._key, message, "sha256")


def resume_proof(secret: bytes, *, server_nonce: bytes, session: bytes, epoch: int, received: int) -> bytes:
    """Proves knowledge of a session's secret over the server's fresh nonce (§7.1)."""
    message = (
        b"landline/1 resume\0"
        + server_nonce
        + session
        + epoch.to_bytes(8, "big")
        + received.to_bytes(8, "big")
    )
    return hmac.digest(secret, message, "sha256")


def proofs_equal(left: bytes, right: bytes) -> bool:
    """Compares in a time that does not depend on where they differ."""
    return hmac.compare_digest(left, right)
