"""Where a line stands, and what its changes of state say."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from landline.codes import Code


class LineState(StrEnum):
    """Where a line stands, as its user sees it."""

    CONNECTING = "connecting"
    ONLINE = "online"
    SUSPECT = "suspect"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class DisconnectCause(StrEnum):
    """What ended a link or a line, in a word."""

    NONE = ""
    SILENT = "silent"
    """Nothing was heard within the heartbeat's interval and timeout."""
    LINK_LOST = "link lost"
    """The transport ended or broke without a BYE."""
    CLOSED_BY_PEER = "closed by peer"
    CLOSED_HERE = "closed here"
    TOO_SLOW = "too slow"
    """The peer did not take what was sent to it, or too much was held for it."""
    PROTOCOL_ERROR = "protocol error"
    EXPIRED = "expired"
    """The session was not resumed in time."""
    CONNECT_FAILED = "connect failed"
    REJECTED = "rejected"
    GAVE_UP = "gave up"


class StateChange(msgspec.Struct, frozen=True, kw_only=True):
    """A line changed its state: the new one, and why."""

    state: LineState
    cause: DisconnectCause = DisconnectCause.NONE
    detail: str = ""
    """The cause in a sentence for people."""
    code: Code | None = None
    """The code of the BYE or REJECT, if there was one."""
    attempt: int = 0
    """When reconnecting: the attempt that comes next, counted from 1."""
    due_in_s: float | None = None
    """When reconnecting: seconds until that attempt."""
    resumed: bool | None = None
    """When online: whether the session went on (``True``) or is a new one (``False``)."""
    epoch: int = 0
    """When online: how many transports the session has ridden."""

    @property
    def reason(self) -> str:
        """The detail, or only the cause where there is none."""
        return self.detail or self.cause.value
