"""What a session tells its owner."""

from __future__ import annotations

from typing import Any

import msgspec

from landline.session.codes import Code
from landline.session.wire import Operation


class MessageReceived(msgspec.Struct, gc=False):
    """A whole message, in order. The owner calls ``Session.take(event)`` once the application has it."""

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


class Unconfirmed(msgspec.Struct, frozen=True):
    """A message that was sent or waiting when its session ended, and that the peer never confirmed."""

    operation: Operation
    name: str
    body: bytes
    is_packed: bool

    @property
    def value(self) -> Any:
        """What was given to ``send``, as the peer would have seen it."""
        return msgspec.msgpack.decode(self.body) if self.is_packed else self.body
