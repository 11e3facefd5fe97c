"""The states of a session and the one table of its transitions.

``docs/protocol.md`` §9 shows the same table; a test compares the two.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(Enum):
    """The state of a session."""

    DETACHED = "detached"
    """No transport. Messages wait; the session can be resumed."""
    ATTACHED = "attached"
    """A transport carries the session, and bytes arrive in time."""
    SUSPECT = "suspect"
    """A transport carries the session, but the peer was silent for longer than the heartbeat allows."""
    CLOSED = "closed"
    """The end. No message is sent or received any more."""


class Trigger(Enum):
    """What causes a transition."""

    ATTACH = "attach"
    """A handshake finished on a new transport."""
    SILENCE = "silence"
    """The peer was silent for an interval and a part of the timeout."""
    HEARD = "heard"
    """Bytes arrived."""
    DEADLINE = "deadline"
    """The peer was silent for interval + timeout."""
    LINK_LOST = "link lost"
    """The transport ended without a BYE."""
    END = "end"
    """A BYE was sent or received, the peer broke the protocol, or the session was given up."""


TRANSITIONS: Final[dict[tuple[State, Trigger], State]] = {
    (State.DETACHED, Trigger.ATTACH): State.ATTACHED,
    (State.DETACHED, Trigger.END): State.CLOSED,
    # A newer transport replaces one whose loss was not noticed yet.
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
    """Return the next state. Raise :class:`LookupError` for a transition not in the table, a bug of the caller."""
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise LookupError(
            f"a session that is {state.value} does not accept the trigger {trigger.value!r}"
        ) from None
