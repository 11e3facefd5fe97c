"""Events that a session reports to its owner."""

from __future__ import annotations

import msgspec

from landline.codes import Code, Operation


class MessageReceived(msgspec.Struct, gc=False):
    """A whole message, in order. The owner calls ``session.inbound.ack(event)`` once the application has it."""

    sequence: int
    operation: Operation
    correlation: int
    name: str
    body: bytes
    is_packed: bool
    size_bytes: int
    """The bytes that the message counts against the receive window until it is acknowledged."""


class DatagramReceived(msgspec.Struct, gc=False):
    """A datagram, fetched with ``Session.next_datagrams``. It is not acknowledged."""

    name: str
    body: bytes
    is_packed: bool


class EofReceived(msgspec.Struct):
    """The peer will send no more messages."""


class Suspected(msgspec.Struct):
    """The peer was silent for ``silence_s`` seconds and may be gone."""

    silence_s: float


class Recovered(msgspec.Struct):
    """A suspected peer sent something."""


class PeerSilent(msgspec.Struct):
    """The peer was silent for ``silence_s`` seconds: the session gave up the transport and is detached now."""

    silence_s: float


class PongReceived(msgspec.Struct):
    """A ping was answered."""

    number: int
    round_trip_s: float


class NoticeReceived(msgspec.Struct):
    """The peer warns about behaviour that will end the session if it continues."""

    code: Code
    reason: str


class Ended(msgspec.Struct):
    """The session ended: by a BYE of the peer, or because the peer broke the protocol."""

    code: Code
    reason: str
    by_peer: bool
    retry_after_s: float | None = None
    spread_s: float = 0.0
    alternatives: tuple[str, ...] = ()


Event = (
    MessageReceived | EofReceived | Suspected | Recovered | PeerSilent | PongReceived | NoticeReceived | Ended
)
