"""Numbers of the protocol that users see: why a line ended, and what a message is (``docs/protocol.md`` §8, §5.1)."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Why a line was refused or ended. Below 200: come back. From 200: do not, nothing would change."""

    GOING_AWAY = 100
    """The server stops or restarts."""
    OVERLOADED = 101
    """No room for another line just now."""
    HANDSHAKE_TIMEOUT = 103
    """The handshake took too long."""
    TOO_SLOW = 104
    """The peer does not read what is sent to it."""
    LINK_REPLACED = 105
    """The session goes on over a newer transport; said on the older one."""

    NORMAL = 200
    """The work is done."""
    PROTOCOL_ERROR = 201
    """The peer broke the protocol."""
    UNSUPPORTED_VERSION = 202
    """No common version of the protocol."""
    UNAUTHENTICATED = 203
    """The proof of identity is missing or wrong."""
    FORBIDDEN = 204
    """The identity is known and not allowed."""
    REPLACED = 205
    """Another peer took over this identity."""
    TOO_MANY_PINGS = 206
    """The peer pings far more often than it was told to."""
    LIMIT_EXCEEDED = 207
    """The peer sent more than it was allowed: a frame, a message or a window too large."""

    @property
    def may_return(self) -> bool:
        """Whether the peer may try again."""
        return self < 200


def code_from_wire(number: int) -> Code:
    """The code with that number; an unknown one stands for its range (§8), so that later versions may add codes."""
    try:
        return Code(number)
    except ValueError:
        return Code.GOING_AWAY if number < 200 else Code.NORMAL


class Operation(IntEnum):
    """What a DATA frame carries."""

    CONTINUE = 0
    """The next fragment of the message begun on the same lane."""
    MESSAGE = 1
    REQUEST = 2
    RESPONSE = 3
    ERROR = 4
    CANCEL = 5
