"""Authentication: proofs over the nonces of the handshake (``docs/protocol.md`` §4.5)."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from enum import Enum
from hashlib import sha256
from typing import Annotated, Any, Final, Protocol

import msgspec
from msgspec import Meta

from landline.errors import ConfigurationError
from landline.session.constants import IDENTITY_BYTES_MAX
from landline.signatures import (
    describe_result,
    discard_awaitable,
    is_coroutine_function,
    takes,
)

Proof = Annotated[bytes, Meta(max_length=512)]
Identity = Annotated[str, Meta(max_length=IDENTITY_BYTES_MAX)]


class AuthClaim(msgspec.Struct, frozen=True):
    """The identity that a client claims, and its proof."""

    method: Annotated[str, Meta(max_length=32)]
    identity: Identity
    proof: Proof


class NoIdentity(Enum):
    """The type of :data:`NO_IDENTITY`."""

    NO_IDENTITY = "no identity"


NO_IDENTITY: Final = NoIdentity.NO_IDENTITY
"""The result of :meth:`ServerAuth.identify` for a peer that is accepted without an identity."""


class ClientAuth(Protocol):
    """Proves the identity of a client to a server, and checks the server's proof. Both methods are plain functions."""

    def claim(self, *, server_nonce: bytes, client_nonce: bytes, identity: str) -> AuthClaim:
        """Return the claim to send in HELLO."""
        ...

    def accepts_server(
        self, proof: bytes | None, *, server_nonce: bytes, client_nonce: bytes, identity: str
    ) -> bool:
        """Return ``True`` when the proof in WELCOME shows that this is the right server, otherwise ``False``."""
        ...


class ServerAuth(Protocol):
    """Checks the claim of a client, and proves the identity of the server. Both methods are plain functions."""

    def identify(
        self, claim: AuthClaim | None, *, server_nonce: bytes, client_nonce: bytes
    ) -> str | NoIdentity | None:
        """Return the proven identity, :data:`NO_IDENTITY` to accept a peer without one, or ``None`` to refuse it.

        Any other result refuses too, and is logged as an error: an empty string, ``False``, ``True``, a coroutine. An
        exception refuses for the moment: the client tries again.
        """
        ...

    def server_proof(self, *, server_nonce: bytes, client_nonce: bytes, identity: str) -> bytes | None:
        """Return the proof to send in WELCOME, or ``None``."""
        ...


def client_auth(given: ClientAuth | None) -> ClientAuth:
    """Return the scheme for ``auth=`` of a client: :class:`Anonymous` for ``None`` only.

    :raises ConfigurationError: when it is no :class:`ClientAuth`, or its methods are coroutine functions or have other
        parameters. An empty string, as of an unset variable, does not switch authentication off.
    """
    if given is None:
        return Anonymous()
    _check_auth(given, "ClientAuth", _CLIENT_CALLS)
    return given


def server_auth(given: ServerAuth | None) -> ServerAuth:
    """Return the scheme for ``auth=`` of a server, as :func:`client_auth` does for a client."""
    if given is None:
        return Anonymous()
    _check_auth(given, "ServerAuth", _SERVER_CALLS)
    return given


_CLIENT_CALLS: Final = {
    "claim": ((), ("server_nonce", "client_nonce", "identity")),
    "accepts_server": (("proof",), ("server_nonce", "client_nonce", "identity")),
}
_SERVER_CALLS: Final = {
    "identify": (("claim",), ("server_nonce", "client_nonce")),
    "server_proof": ((), ("server_nonce", "client_nonce", "identity")),
}
"""The positional and the named arguments of each method."""


def _check_auth(
    given: object, protocol: str, calls: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
) -> None:
    # The error names only its type: the value may be the secret itself.
    if isinstance(given, type) or not all(callable(getattr(given, method, None)) for method in calls):
        what = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
        raise ConfigurationError(
            f"auth= takes landline.SharedToken(...), or another landline.{protocol}; this is {what}"
        )
    for method, (positional, by_name) in calls.items():
        function = getattr(given, method)
        name = f"{type(given).__name__}.{method}"
        if is_coroutine_function(function):
            raise ConfigurationError(
                f"auth=: {name} is a coroutine function, so its result would count as an answer; "
                "make it a plain function"
            )
        if not takes(function, *positional, **dict.fromkeys(by_name, "")):
            raise ConfigurationError(
                f"auth=: {name} cannot be called as "
                f"{method}({', '.join([*positional, *(f'{one}=...' for one in by_name)])})"
            )


class WrongResult(ConfigurationError):
    """A method of ``auth=`` returned no valid answer. The peer is refused."""


def check_identity(result: object) -> str | None:
    """Return the identity in a result of :meth:`ServerAuth.identify`: empty for :data:`NO_IDENTITY`, or ``None``.

    :raises WrongResult: for any other result.
    """
    if result is None or (isinstance(result, str) and result):
        return result
    if result is NO_IDENTITY:
        return ""
    raise _wrong_result(
        "ServerAuth.identify", result, "the identity as text, landline.NO_IDENTITY, or None to refuse"
    )


def check_proof(result: object) -> bytes | None:
    """Return a result of :meth:`ServerAuth.server_proof`. Raise :class:`WrongResult` for an invalid one."""
    if result is None or isinstance(result, bytes):
        return result
    raise _wrong_result("ServerAuth.server_proof", result, "bytes or None")


def check_claim(result: object) -> AuthClaim:
    """Return a result of :meth:`ClientAuth.claim`. Raise :class:`WrongResult` for an invalid one."""
    if isinstance(result, AuthClaim):
        return result
    raise _wrong_result("ClientAuth.claim", result, "a landline.AuthClaim")


def check_accepted(result: object) -> bool:
    """Return a result of :meth:`ClientAuth.accepts_server`. Raise :class:`WrongResult` for an invalid one."""
    if isinstance(result, bool):
        return result
    raise _wrong_result("ClientAuth.accepts_server", result, "True or False")


def _wrong_result(method: str, result: Any, expected: str) -> WrongResult:
    discard_awaitable(result)
    return WrongResult(f"{method}() returned {describe_result(result)}; it must return {expected}")


class Anonymous:
    """No authentication: clients may claim any identity, unchecked. For trusted networks and tests."""

    def claim(self, *, server_nonce: bytes, client_nonce: bytes, identity: str) -> AuthClaim:
        return AuthClaim("none", identity, b"")

    def accepts_server(
        self, proof: bytes | None, *, server_nonce: bytes, client_nonce: bytes, identity: str
    ) -> bool:
        return True

    def identify(
        self, claim: AuthClaim | None, *, server_nonce: bytes, client_nonce: bytes
    ) -> str | NoIdentity | None:
        if claim is None:
            return NO_IDENTITY
        # A proof that is not checked: the client believes that it authenticated itself.
        if claim.method != "none" or claim.proof:
            return None
        return claim.identity or NO_IDENTITY

    def server_proof(self, *, server_nonce: bytes, client_nonce: bytes, identity: str) -> bytes | None:
        return None


class SharedToken:
    """One secret that the server and all its clients know. Each proves to the other that it knows it; none sends it.

    The identity is covered by the proof, but the client chooses it: a client that knows the token may claim any name.

    :param token: the secret, at least 16 bytes (as text or bytes); create one with ``secrets.token_urlsafe(32)``.
    :raises ConfigurationError: when it is shorter.
    """

    __slots__ = ("_key",)

    def __init__(self, token: str | bytes) -> None:
        raw = token.encode() if isinstance(token, str) else bytes(token)
        if len(raw) < 16:
            raise ConfigurationError(
                f"a shared token of {len(raw)} bytes is too short to be a secret; use at least 16 bytes"
            )
        self._key = sha256(b"landline/1 shared token\0" + raw).digest()

    def __repr__(self) -> str:
        return "SharedToken(...)"

    def claim(self, *, server_nonce: bytes, client_nonce: bytes, identity: str) -> AuthClaim:
        return AuthClaim("token", identity, self._proof(b"client", server_nonce, client_nonce, identity))

    def accepts_server(
        self, proof: bytes | None, *, server_nonce: bytes, client_nonce: bytes, identity: str
    ) -> bool:
        expected = self._proof(b"server", server_nonce, client_nonce, identity)
        return proof is not None and hmac.compare_digest(proof, expected)

    def identify(
        self, claim: AuthClaim | None, *, server_nonce: bytes, client_nonce: bytes
    ) -> str | NoIdentity | None:
        if claim is None or claim.method != "token":
            return None
        expected = self._proof(b"client", server_nonce, client_nonce, claim.identity)
        return (claim.identity or NO_IDENTITY) if hmac.compare_digest(claim.proof, expected) else None

    def server_proof(self, *, server_nonce: bytes, client_nonce: bytes, identity: str) -> bytes | None:
        return self._proof(b"server", server_nonce, client_nonce, identity)

    def _proof(self, role: bytes, server_nonce: bytes, client_nonce: bytes, identity: str) -> bytes:
        # Nonces have a fixed size and the role contains no zero byte, so different inputs give different messages.
        message = b"landline/1 " + role + b"\0" + server_nonce + client_nonce + identity.encode()
        return hmac.digest(self._key, message, "sha256")


def resume_proof(secret: bytes, *, server_nonce: bytes, session: bytes, epoch: int, received: int) -> bytes:
    """Return the proof that the session's secret is known, over the fresh nonce of the server (§7.1)."""
    message = (
        b"landline/1 resume\0"
        + server_nonce
        + session
        + epoch.to_bytes(8, "big")
        + received.to_bytes(8, "big")
    )
    return hmac.digest(secret, message, "sha256")


def proofs_equal(left: bytes, right: bytes) -> bool:
    """Compare in a time that does not depend on where the proofs differ."""
    return hmac.compare_digest(left, right)


def seal_secret(auth: SharedToken | Anonymous) -> bytes:
    """Return the secret of the keys for calls over UDP (§13.2): as secret as the token, or empty for public keys."""
    return auth._key if isinstance(auth, SharedToken) else b""
