"""The handshake of one transport: bodies of its frames, and one machine for each side (``docs/protocol.md`` §4).

The server speaks first: CHALLENGE, then the client's HELLO, then the server's WELCOME or REJECT. Nothing else
may be said before WELCOME.
"""

from __future__ import annotations

from typing import Annotated, Final, Protocol, TypeVar

import msgspec
from msgspec import Meta

from landline.codes import Code, code_from_wire
from landline.errors import ConfigurationError, ProtocolError, Rejected
from landline.session.auth import AuthClaim, ClientAuth, Proof, claim_of, is_accepted, resume_proof
from landline.session.frames import FRAGMENT_BYTES, PROTOCOL_VERSION, FrameReader, Kind, encode_frame
from landline.session.heartbeat import Heartbeat
from landline.texts import safe_text

NONCE_BYTES: Final = 32
SESSION_ID_BYTES: Final = 16
SECRET_BYTES: Final = 32
HANDSHAKE_TIMEOUT_S: Final = 5.0
REASON_CHARACTERS_MAX: Final = 500

Nonce = Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
SessionId = Annotated[bytes, Meta(min_length=SESSION_ID_BYTES, max_length=SESSION_ID_BYTES)]
Secret = Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
Sequence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Reason = Annotated[str, Meta(max_length=REASON_CHARACTERS_MAX)]
Agent = Annotated[str, Meta(max_length=100)]
Delay = Annotated[float, Meta(ge=0, le=86_400)]


def _keep_to_one_line(body: Reject | Bye | Notice) -> None:
    """The peer's words go into logs and errors: they must not look like lines of their own, nor steer a terminal."""
    msgspec.structs.force_setattr(body, "reason", safe_text(body.reason, REASON_CHARACTERS_MAX))


class RandomSource(Protocol):
    """What is needed of :class:`random.Random`; secrets need :class:`random.SystemRandom`."""

    def randbytes(self, n: int, /) -> bytes: ...
    def random(self) -> float: ...


class Limits(msgspec.Struct, frozen=True):
    """What one side is willing to hold for the other. Each side states its own; senders keep to the peer's."""

    message_bytes: Annotated[int, Meta(ge=1024, le=256 * 1024 * 1024)] = 4 * 1024 * 1024
    """The largest message taken, name and body together."""
    window_bytes: Annotated[int, Meta(ge=FRAGMENT_BYTES * 4, le=1024 * 1024 * 1024)] = 8 * 1024 * 1024
    """Frames sent and not yet acknowledged, in bytes."""
    window_frames: Annotated[int, Meta(ge=128, le=1_000_000)] = 16_384
    """Frames sent and not yet acknowledged, in number."""

    def __post_init__(self) -> None:
        # msgspec checks the annotations only of what it decodes: a peer would refuse what is wrong here.
        for field in _LIMITS:
            value = getattr(self, field.name)
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                raise ConfigurationError(f"Limits({field.name}={value!r}): {error}") from error


_LIMITS: Final = msgspec.structs.fields(Limits)


class Resume(msgspec.Struct, frozen=True):
    """Asks to go on with a session (§7.1)."""

    session: SessionId
    epoch: Sequence
    received: Sequence
    proof: Proof


class Challenge(msgspec.Struct, frozen=True):
    """CHALLENGE: the server's first words."""

    version: int
    nonce: Nonce
    server: Agent = ""


class Hello(msgspec.Struct, frozen=True):
    """HELLO: who the client is, and what it wants."""

    version: int
    nonce: Nonce
    limits: Limits
    auth: AuthClaim | None = None
    resume: Resume | None = None
    client: Agent = ""


class Welcome(msgspec.Struct, frozen=True):
    """WELCOME: the session this transport carries from now on."""

    session: SessionId
    secret: Secret
    epoch: Sequence
    resumed: bool
    received: Sequence
    heartbeat: Heartbeat
    limits: Limits
    resume_window_s: Delay
    proof: Proof | None = None


class Reject(msgspec.Struct, frozen=True):
    """REJECT: no, and whether and when to try again."""

    code: int
    reason: Reason
    retry_after_s: Delay | None = None
    spread_s: Delay = 0.0

    def __post_init__(self) -> None:
        _keep_to_one_line(self)


class Bye(msgspec.Struct, frozen=True, omit_defaults=True):
    """BYE: the orderly end of a session (§8)."""

    code: int
    reason: Reason = ""
    retry_after_s: Delay | None = None
    spread_s: Delay = 0.0
    alternatives: Annotated[tuple[Annotated[str, Meta(max_length=500)], ...], Meta(max_length=16)] = ()

    def __post_init__(self) -> None:
        _keep_to_one_line(self)


class Notice(msgspec.Struct, frozen=True):
    """NOTICE: a warning of what may end the line if it goes on (§6.4)."""

    code: int
    reason: Reason = ""

    def __post_init__(self) -> None:
        _keep_to_one_line(self)


Body = TypeVar("Body", bound=msgspec.Struct)


def encode_body(kind: Kind, body: msgspec.Struct) -> bytes:
    """A frame around a MessagePack map."""
    return encode_frame(kind, msgspec.msgpack.encode(body))


def decode_body(body: bytes, body_type: type[Body]) -> Body:
    """The body of a frame. Unknown keys are ignored; anything else unexpected is a :class:`ProtocolError`."""
    try:
        return msgspec.msgpack.decode(body, type=body_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a bad {body_type.__name__.upper()}: {safe_text(str(error))}") from error


class ClientHandshake:
    """The client's half. Feed bytes until :attr:`welcome` is set; write what :meth:`data_to_send` gives."""

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
        """What the server calls itself, before anything is proven."""

    def feed(self, data: bytes) -> bytes:
        """Takes bytes from the server; once welcomed, returns those that already belong to the session.

        Raises :class:`Rejected` for a REJECT and :class:`ProtocolError` for anything the server must not say.
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
                raise ProtocolError(f"a frame of kind {kind} during the handshake")
        return b""

    def data_to_send(self) -> bytes:
        """The bytes to write now."""
        output, self._output = self._output, b""
        return output

    def _receive_challenge(self, challenge: Challenge) -> None:
        self._challenge = challenge
        self.server_name = challenge.server
        hello = Hello(
            version=PROTOCOL_VERSION,
            nonce=self._nonce,
            limits=self.limits,
            auth=claim_of(
                self._auth.claim(
                    server_nonce=challenge.nonce, client_nonce=self._nonce, identity=self._identity
                )
            ),
            resume=self._resume.prove(challenge.nonce) if self._resume else None,
        )
        self._output += encode_body(Kind.HELLO, hello)

    def _receive_welcome(self, welcome: Welcome, challenge: Challenge) -> None:
        accepted = self._auth.accepts_server(
            welcome.proof, server_nonce=challenge.nonce, client_nonce=self._nonce, identity=self._identity
        )
        if not is_accepted(accepted):
            raise ProtocolError("the server did not prove that it knows the token", Code.UNAUTHENTICATED)
        if welcome.resumed:
            ticket = self._resume
            if ticket is None or welcome.session != ticket.session or welcome.epoch <= ticket.epoch:
                raise ProtocolError("the server resumed a session that was not asked for")
        self.welcome = welcome


class ResumeTicket(msgspec.Struct, frozen=True):
    """What a client keeps to go on with its session."""

    session: bytes
    secret: bytes
    epoch: int
    received: int

    def prove(self, server_nonce: bytes) -> Resume:
        """The proof for one transport; the nonce makes it worthless on any other."""
        proof = resume_proof(
            self.secret,
            server_nonce=server_nonce,
            session=self.session,
            epoch=self.epoch,
            received=self.received,
        )
        return Resume(self.session, self.epoch, self.received, proof)


class ServerHandshake:
    """The server's half. It speaks first; :meth:`feed` returns the HELLO once it is whole."""

    __slots__ = ("_begun_at", "_reader", "deadline", "nonce")

    def __init__(self, *, random: RandomSource, now: float, timeout_s: float = HANDSHAKE_TIMEOUT_S) -> None:
        self.nonce: bytes = random.randbytes(NONCE_BYTES)
        self.deadline: float = now + timeout_s
        self._begun_at = now
        self._reader = FrameReader()

    def round_trip_s(self, now: float) -> float:
        """From the challenge to its answer, which is now."""
        return now - self._begun_at

    def challenge_to_send(self, server: str = "") -> bytes:
        """The first bytes of the transport."""
        return encode_body(Kind.CHALLENGE, Challenge(PROTOCOL_VERSION, self.nonce, server))

    def feed(self, data: bytes) -> Hello | None:
        """The client's HELLO, or ``None`` while it is not whole.

        Raises :class:`ProtocolError` for anything else, and for bytes behind the HELLO: the client must wait.
        """
        for kind, body in self._reader.feed(data):
            if kind != Kind.HELLO:
                raise ProtocolError(f"a frame of kind {kind} before HELLO")
            hello = decode_hello(body)
            if self._reader.pop_trailing_data():
                raise ProtocolError("more than HELLO before WELCOME")
            return hello
        return None


class _Version(msgspec.Struct):
    version: int | None = None


def decode_challenge(body: bytes) -> Challenge:
    """A CHALLENGE. A version that is not ours is refused by name before the rest, which may have changed, is read."""
    version = decode_body(body, _Version).version
    if version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the server speaks version {version!r:.20} of the protocol, this is version {PROTOCOL_VERSION}",
            Code.UNSUPPORTED_VERSION,
        )
    return decode_body(body, Challenge)


def decode_hello(body: bytes) -> Hello:
    """A HELLO; a version that is not ours is refused by name before the rest, which it may have changed, is read."""
    version = decode_body(body, _Version).version
    if version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"version {version!r:.20} of the protocol; this server speaks version {PROTOCOL_VERSION}",
            Code.UNSUPPORTED_VERSION,
        )
    return decode_body(body, Hello)


def reject_to_send(
    code: Code, reason: str, *, retry_after_s: float | None = None, spread_s: float = 0.0
) -> bytes:
    """A REJECT frame; the transport is closed after it."""
    return encode_body(
        Kind.REJECT, Reject(int(code), reason[:REASON_CHARACTERS_MAX], retry_after_s, spread_s)
    )
