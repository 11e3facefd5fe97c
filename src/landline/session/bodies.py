"""Bodies of frames that are MessagePack maps (``docs/protocol.md`` §4, §6.4 and §8), and their limits."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from landline.errors import ProtocolError
from landline.session.auth import AuthClaim, Proof, resume_proof
from landline.session.constants import (
    NONCE_BYTES,
    REASON_CHARACTERS_MAX,
    SECRET_BYTES,
    SESSION_ID_BYTES,
    Kind,
)
from landline.session.frames import encode_frame
from landline.session.settings import Heartbeat, Limits
from landline.texts import safe_text

Nonce = Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
SessionId = Annotated[bytes, Meta(min_length=SESSION_ID_BYTES, max_length=SESSION_ID_BYTES)]
Secret = Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
Sequence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Reason = Annotated[str, Meta(max_length=REASON_CHARACTERS_MAX)]
Agent = Annotated[str, Meta(max_length=100)]
Delay = Annotated[float, Meta(ge=0, le=86_400)]


def _sanitize_reason(body: Reject | Bye | Notice) -> None:
    """Make the reason safe for logs and errors: one line, without characters that control a terminal."""
    msgspec.structs.force_setattr(body, "reason", safe_text(body.reason, REASON_CHARACTERS_MAX))


class Resume(msgspec.Struct, frozen=True):
    """The part of HELLO that asks to resume a session (§7.1)."""

    session: SessionId
    epoch: Sequence
    received: Sequence
    proof: Proof


class Challenge(msgspec.Struct, frozen=True):
    """CHALLENGE: the first frame of the server."""

    version: int
    nonce: Nonce
    server: Agent = ""


class Hello(msgspec.Struct, frozen=True):
    """HELLO: the identity of the client, and whether it wants to resume a session."""

    version: int
    nonce: Nonce
    limits: Limits
    auth: AuthClaim | None = None
    resume: Resume | None = None
    client: Agent = ""


class Welcome(msgspec.Struct, frozen=True):
    """WELCOME: the session that this transport carries from now on."""

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
    """REJECT: the client is refused, with the time after which it may retry."""

    code: int
    reason: Reason
    retry_after_s: Delay | None = None
    spread_s: Delay = 0.0

    def __post_init__(self) -> None:
        _sanitize_reason(self)


class Bye(msgspec.Struct, frozen=True, omit_defaults=True):
    """BYE: the orderly end of a session (§8)."""

    code: int
    reason: Reason = ""
    retry_after_s: Delay | None = None
    spread_s: Delay = 0.0
    alternatives: Annotated[tuple[Annotated[str, Meta(max_length=500)], ...], Meta(max_length=16)] = ()

    def __post_init__(self) -> None:
        _sanitize_reason(self)


class Notice(msgspec.Struct, frozen=True):
    """NOTICE: a warning about behaviour that will end the session if it continues (§6.4)."""

    code: int
    reason: Reason = ""

    def __post_init__(self) -> None:
        _sanitize_reason(self)


class ResumeTicket(msgspec.Struct, frozen=True):
    """What a client needs to resume its session."""

    session: bytes
    secret: bytes
    epoch: int
    received: int

    def prove(self, server_nonce: bytes) -> Resume:
        """Return the proof for one transport. The nonce makes it worthless on any other."""
        proof = resume_proof(
            self.secret,
            server_nonce=server_nonce,
            session=self.session,
            epoch=self.epoch,
            received=self.received,
        )
        return Resume(self.session, self.epoch, self.received, proof)


Body = TypeVar("Body", bound=msgspec.Struct)


def encode_body(kind: Kind, body: msgspec.Struct) -> bytes:
    """Return a frame around a MessagePack map."""
    return encode_frame(kind, msgspec.msgpack.encode(body))


def decode_body(body: bytes, body_type: type[Body], name: str = "") -> Body:
    """Decode the body of a frame. Unknown keys are ignored.

    :param name: the name of the frame, when it is not that of the type.
    :raises ProtocolError: for a body that does not fit the type.
    """
    try:
        return msgspec.msgpack.decode(body, type=body_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(
            f"invalid {name or body_type.__name__.upper()}: {safe_text(str(error))}"
        ) from error
