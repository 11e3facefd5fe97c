"""Line states and state changes."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from landline.codes import Code


class LineState(StrEnum):
    """The state of a line."""

    CONNECTING = "connecting"
    ONLINE = "online"
    SUSPECT = "suspect"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class DisconnectCause(StrEnum):
    """Why a transport was lost or a line closed."""

    NONE = ""
    SILENT = "silent"
    """Nothing was received within the interval and timeout of the heartbeat."""
    LINK_LOST = "link lost"
    """The transport ended without a BYE."""
    CLOSED_BY_PEER = "closed by peer"
    CLOSED_HERE = "closed here"
    TOO_SLOW = "too slow"
    """The peer did not acknowledge what was sent to it, or too much memory was held for it."""
    PROTOCOL_ERROR = "protocol error"
    EXPIRED = "expired"
    """The session was not resumed in time."""
    CONNECT_FAILED = "connect failed"
    REJECTED = "rejected"
    GAVE_UP = "gave up"


class StateChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a line's state, and its cause."""

    state: LineState
    cause: DisconnectCause = DisconnectCause.NONE
    detail: str = ""
    """The cause as a sentence."""
    code: Code | None = None
    """The code of the BYE or REJECT, if there was one."""
    attempt: int = 0
    """When reconnecting: the number of the next attempt, from 1."""
    due_in_s: float | None = None
    """When reconnecting: seconds until that attempt."""
    resumed: bool | None = None
    """When online: whether the session was resumed (``True``) or is a new one (``False``)."""
    epoch: int = 0
    """When online: the number of transports that the session has used."""

    @property
    def reason(self) -> str:
        """The detail, or the cause if there is no detail."""
        return self.detail or self.cause.value
