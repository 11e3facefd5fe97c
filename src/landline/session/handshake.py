"""The handshake of one transport: one state machine for each side (``docs/protocol.md`` §4).

The server starts: CHALLENGE, then the client's HELLO, then the server's WELCOME or REJECT. No other frame is allowed
before WELCOME.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from landline.codes import Code, code_from_wire
from landline.errors import ProtocolError, Rejected
from landline.session.auth import ClientAuth, check_accepted, check_claim
from landline.session.bodies import Challenge, Hello, Reject, ResumeTicket, Welcome, decode_body, encode_body
from landline.session.constants import (
    HANDSHAKE_TIMEOUT_S,
    NONCE_BYTES,
    PROTOCOL_VERSION,
    REASON_CHARACTERS_MAX,
    Kind,
)
from landline.session.frames import FrameReader
from landline.session.settings import Limits


class RandomSource(Protocol):
    """The methods of :class:`random.Random` that are used here; secrets require :class:`random.SystemRandom`."""

    def randbytes(self, n: int, /) -> bytes: ...
    def random(self) -> float: ...


class ClientHandshake:
    """The client's side. Feed bytes until :attr:`welcome` is set; write what :meth:`data_to_send` returns."""

    __slots__ = (
        "_auth",
        "_challenge",
        "_identity",
        "_nonce",
        "_output",
        "_reader",
        "_resume",
        "limits",
        "server_name",
        "welcome",
    )

    def __init__(
        self,
        *,
        random: RandomSource,
        auth: ClientAuth,
        identity: str,
        limits: Limits,
        resume: ResumeTicket | None = None,
    ) -> None:
        self._auth = auth
        self._identity = identity
        self._nonce = random.randbytes(NONCE_BYTES)
        self._resume = resume
        self._reader = FrameReader()
        self._challenge: Challenge | None = None
        self._output = b""
        self.limits: Limits = limits
        self.welcome: Welcome | None = None
        self.server_name: str = ""
        """The name in CHALLENGE, before anything is proven."""

    def feed(self, data: bytes) -> bytes:
        """Parse bytes from the server; once welcomed, return those that belong to the session.

        :raises Rejected: for a REJECT.
        :raises ProtocolError: for anything that the server must not send.
        """
        for kind, body in self._reader.feed(data):
            if kind == Kind.CHALLENGE and self._challenge is None:
                self._receive_challenge(decode_challenge(body))
            elif kind == Kind.WELCOME and self._challenge is not None:
                self._receive_welcome(decode_body(body, Welcome), self._challenge)
                return self._reader.pop_trailing_data()
            elif kind == Kind.REJECT:
                reject = decode_body(body, Reject)
                raise Rejected(
                    code_from_wire(reject.code),
                    reject.reason,
                    retry_after_s=reject.retry_after_s,
                    spread_s=reject.spread_s,
                )
            else:
                raise ProtocolError(f"a frame of kind {kind} is not allowed during the handshake")
        return b""

    def data_to_send(self) -> bytes:
        """Return the bytes to write now."""
        output, self._output = self._output, b""
        return output

    def _receive_challenge(self, challenge: Challenge) -> None:
        self._challenge = challenge
        self.server_name = challenge.server
        claim = self._auth.claim(
            server_nonce=challenge.nonce, client_nonce=self._nonce, identity=self._identity
        )
        hello = Hello(
            version=PROTOCOL_VERSION,
            nonce=self._nonce,
            limits=self.limits,
            auth=check_claim(claim),
            resume=self._resume.prove(challenge.nonce) if self._resume else None,
        )
        self._output += encode_body(Kind.HELLO, hello)

    def _receive_welcome(self, welcome: Welcome, challenge: Challenge) -> None:
        accepted = self._auth.accepts_server(
            welcome.proof, server_nonce=challenge.nonce, client_nonce=self._nonce, identity=self._identity
        )
        if not check_accepted(accepted):
            raise ProtocolError("the server did not prove that it knows the token", Code.UNAUTHENTICATED)
        if welcome.resumed:
            ticket = self._resume
            if ticket is None or welcome.session != ticket.session or welcome.epoch <= ticket.epoch:
                raise ProtocolError("the server resumed a session that was not requested")
        self.welcome = welcome


class ServerHandshake:
    """The server's side. It starts; :meth:`feed` returns the HELLO once it is whole."""

    __slots__ = ("_reader", "_started_at", "deadline", "nonce")

    def __init__(self, *, random: RandomSource, now: float, timeout_s: float = HANDSHAKE_TIMEOUT_S) -> None:
        self.nonce: bytes = random.randbytes(NONCE_BYTES)
        self.deadline: float = now + timeout_s
        self._started_at = now
        self._reader = FrameReader()

    def round_trip_s(self, now: float) -> float:
        """Return the time since the challenge, for a HELLO that arrives now."""
        return now - self._started_at

    def challenge_to_send(self, server: str = "") -> bytes:
        """Return the first bytes of the transport."""
        return encode_body(Kind.CHALLENGE, Challenge(PROTOCOL_VERSION, self.nonce, server))

    def feed(self, data: bytes) -> Hello | None:
        """Return the client's HELLO, or ``None`` while it is not whole.

        :raises ProtocolError: for any other frame, and for bytes after HELLO: the client must wait for WELCOME.
        """
        for kind, body in self._reader.feed(data):
            if kind != Kind.HELLO:
                raise ProtocolError(f"a frame of kind {kind} is not allowed before HELLO")
            hello = decode_hello(body)
            if self._reader.pop_trailing_data():
                raise ProtocolError("bytes after HELLO and before WELCOME")
            return hello
        return None


class _Version(msgspec.Struct):
    version: int | None = None


def decode_challenge(body: bytes) -> Challenge:
    """Decode a CHALLENGE. The version is checked first, because another version may have changed the other keys."""
    version = decode_body(body, _Version, "CHALLENGE").version
    if version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the server uses version {version!r:.20} of the protocol, this client uses version {PROTOCOL_VERSION}",
            Code.UNSUPPORTED_VERSION,
        )
    return decode_body(body, Challenge)


def decode_hello(body: bytes) -> Hello:
    """Decode a HELLO. The version is checked first, because another version may have changed the other keys."""
    version = decode_body(body, _Version, "HELLO").version
    if version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"version {version!r:.20} of the protocol; this server uses version {PROTOCOL_VERSION}",
            Code.UNSUPPORTED_VERSION,
        )
    return decode_body(body, Hello)


def reject_to_send(
    code: Code, reason: str, *, retry_after_s: float | None = None, spread_s: float = 0.0
) -> bytes:
    """Return a REJECT frame; close the transport after it is written."""
    return encode_body(
        Kind.REJECT, Reject(int(code), reason[:REASON_CHARACTERS_MAX], retry_after_s, spread_s)
    )
