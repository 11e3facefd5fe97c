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


class Trigger(Enum):
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


TRANSITIONS: Final[dict[tuple[State, Trigger], State]] = {
    (State.DETACHED, Trigger.ATTACH): State.ATTACHED,
    (State.DETACHED, Trigger.END): State.CLOSED,
    # A newer transport takes over from one whose loss was not noticed yet.
    (State.ATTACHED, Trigger.ATTACH): State.ATTACHED,
    (State.ATTACHED, Trigger.SILENCE): State.SUSPECT,
    (State.ATTACHED, Trigger.DEADLINE): State.DETACHED,
    (State.ATTACHED, Trigger.LINK_LOST): State.DETACHED,
    (State.ATTACHED, Trigger.END): State.CLOSED,
    (State.SUSPECT, Trigger.ATTACH): State.ATTACHED,
    (State.SUSPECT, Trigger.HEARD): State.ATTACHED,
    (State.SUSPECT, Trigger.DEADLINE): State.DETACHED,
    (State.SUSPECT, Trigger.LINK_LOST): State.DETACHED,
    (State.SUSPECT, Trigger.END): State.CLOSED,
}


def next_state(state: State, trigger: Trigger) -> State:
    """The state that follows. Raises :class:`LookupError` where the table has no entry: that is a bug in the caller."""
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise LookupError(f"a session that is {state.value} cannot take {trigger.value!r}") from None
