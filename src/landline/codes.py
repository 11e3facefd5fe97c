"""Public numbers of the protocol: why a line ended, and the kind of a message (``docs/protocol.md`` §8, §5.1)."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Why a line was refused or ended.

    Below 200 the peer may retry; from 200 on it should not, because nothing would change.
    """

    GOING_AWAY = 100
    """The server stops or restarts."""
    OVERLOADED = 101
    """The server has no capacity for another line at the moment."""
    HANDSHAKE_TIMEOUT = 103
    """The handshake took too long."""
    TOO_SLOW = 104
    """The peer does not read the data sent to it."""
    LINK_REPLACED = 105
    """The session continues over a newer transport; sent on the older one."""

    NORMAL = 200
    """Orderly end."""
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
    """The peer pings far more often than the heartbeat requires."""
    LIMIT_EXCEEDED = 207
    """The peer exceeded a limit: a frame, a message or a window is too large."""

    @property
    def may_return(self) -> bool:
        """Whether the peer may try again."""
        return self < 200


def code_from_wire(number: int) -> Code:
    """Return the code of that number.

    An unknown number stands for its range (§8), so that later versions may add codes.
    """
    try:
        return Code(number)
    except ValueError:
        return Code.GOING_AWAY if number < 200 else Code.NORMAL


class Operation(IntEnum):
    """The kind of message that a DATA frame carries."""

    CONTINUE = 0
    """The next fragment of the message started on the same lane."""
    MESSAGE = 1
    REQUEST = 2
    RESPONSE = 3
    ERROR = 4
    CANCEL = 5
