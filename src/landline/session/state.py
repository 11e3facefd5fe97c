"""The states of a session and the one table that says how they follow each other.

``docs/protocol.md`` §9 shows this table; a test keeps the two the same.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(Enum):
    """Where a session stands."""

    DETACHED = "detached"
    """No transport. Messages are kept; the session can be resumed."""
    ATTACHED = "attached"
    """A transport carries it, and bytes arrive on time."""
    SUSPECT = "suspect"
    """A transport carries it, but nothing was heard for longer than the heartbeat allows for."""
    CLOSED = "closed"
    """Over. Nothing is sent or received any more."""


class Input(Enum):
    """What moves a session from one state to the next."""

    ATTACH = "attach"
    """A handshake finished on a new transport."""
    SILENCE = "silence"
    """A ping went unanswered for a good part of the timeout."""
    HEARD = "heard"
    """Bytes arrived."""
    DEADLINE = "deadline"
    """Nothing was heard within interval + timeout."""
    LINK_LOST = "link lost"
    """The transport ended without a BYE."""
    END = "end"
    """A BYE was sent or received, the peer broke the protocol, or the session was given up."""


TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (State.DETACHED, Input.ATTACH): State.ATTACHED,
    (State.DETACHED, Input.END): State.CLOSED,
    # A newer transport takes over from one whose loss was not noticed yet.
    (State.ATTACHED, Input.ATTACH): State.ATTACHED,
    (State.ATTACHED, Input.SILENCE): State.SUSPECT,
    (State.ATTACHED, Input.DEADLINE): State.DETACHED,
    (State.ATTACHED, Input.LINK_LOST): State.DETACHED,
    (State.ATTACHED, Input.END): State.CLOSED,
    (State.SUSPECT, Input.ATTACH): State.ATTACHED,
    (State.SUSPECT, Input.HEARD): State.ATTACHED,
    (State.SUSPECT, Input.DEADLINE): State.DETACHED,
    (State.SUSPECT, Input.LINK_LOST): State.DETACHED,
    (State.SUSPECT, Input.END): State.CLOSED,
}


def next_state(state: State, occurrence: Input) -> State:
    """The state that follows. Raises :class:`LookupError` where the table has no entry: that is a bug in the caller."""
    try:
        return TRANSITIONS[state, occurrence]
    except KeyError:
        raise LookupError(f"a session that is {state.value} cannot take {occurrence.value!r}") from None
