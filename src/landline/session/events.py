"""What a session tells its owner."""

from __future__ import annotations

import msgspec

from landline.codes import Code, Operation


class MessageReceived(msgspec.Struct, gc=False):
    """A whole message, in order. The owner calls ``Session.ack(event)`` once the application has it."""

    sequence: int
    operation: Operation
    correlation: int
    name: str
    body: bytes
    is_packed: bool
    size_bytes: int
    """What the message counts for against the receive window until it is taken."""


class DatagramReceived(msgspec.Struct, gc=False):
    """A datagram. Nobody is told whether it was taken; fetched with ``Session.next_datagrams``."""

    name: str
    body: bytes
    is_packed: bool


class EofReceived(msgspec.Struct):
    """The peer will send no more messages."""


class Suspected(msgspec.Struct):
    """Nothing was heard for ``silence_s``; the peer may be gone."""

    silence_s: float


class Recovered(msgspec.Struct):
    """A suspected peer was heard again."""


class PeerSilent(msgspec.Struct):
    """Nothing was heard for ``silence_s``: the transport is given up. The session is detached now."""

    silence_s: float


class PongReceived(msgspec.Struct):
    """A ping was answered."""

    number: int
    round_trip_s: float


class NoticeReceived(msgspec.Struct):
    """The peer warns of something that may end the line if it goes on."""

    code: Code
    reason: str


class Ended(msgspec.Struct):
    """The session is over: by a BYE of the peer, or because the peer broke the protocol."""

    code: Code
    reason: str
    by_peer: bool
    retry_after_s: float | None = None
    spread_s: float = 0.0
    alternatives: tuple[str, ...] = ()


Event = (
    MessageReceived | EofReceived | Suspected | Recovered | PeerSilent | PongReceived | NoticeReceived | Ended
)
