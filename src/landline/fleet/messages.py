"""What agent and control server say to each other over a line: the bodies of their requests and messages.

=============  ==========  =====================  ==========================================================
name           from        body → answer          purpose
=============  ==========  =====================  ==========================================================
``join``       agent       Join → Joined          who I am, and what I know of my executions
``facts``      agent       Facts (message)        something about the machine changed
``report``     agent       Report → bool          an execution's state; stored when the answer comes
``claim``      agent       Claim → Grant          it was accepted; may I act now?
``postpone``   agent       Postpone → Postponed   the person wants it later
``goodbye``    agent       Goodbye → None         I go, and this is why; the next join takes it back
``execute``    control     Order → bool           an execution for this machine
``withdraw``   control     Withdraw → bool        do not begin that execution any more
=============  ==========  =====================  ==========================================================
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from landline.fleet.model import Action, Cause, ExecutionState, Facts, Person, Unasked

# "\Z", not "$", which also matches in front of a line end at the end.
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
Identifier = Annotated[str, Meta(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_:-]+\Z")]
NOT_JOINED: Final = "not_joined"
"""The code of a request's error: the session has not joined yet."""
CLONED_IDENTITY: Final = "cloned_identity"
"""The code of a request's error: another machine with the same identity is connected; ask again later."""
TOO_MANY_ORDERS: Final = "too_many_orders"
"""The code of a request's error: the agent holds as many orders as it may."""
STORAGE_FAILED: Final = "storage_failed"
"""The code of a request's error: nothing was recorded, and it may be asked again."""

DEFAULT_COUNTDOWN_S: Final = 60.0
"""How long a person has to answer where the operator gave no delay."""
MESSAGE_BYTES_MAX: Final = 256 * 1024
"""The largest message either side takes; a larger one ends the session before anything is decoded. A join with all that
an agent may tell has less (:data:`JOIN_BYTES_MAX`), and the loop is held for some milliseconds at most."""
WINDOW_BYTES: Final = 1024 * 1024
"""What either side holds of the other's messages that are not dealt with yet."""
EXECUTIONS_MAX: Final = 1000
"""Executions that one join may name."""
JOIN_BYTES_MAX: Final = 192 * 1024
"""What the executions of one join take at most; the rest of the message is for the facts."""
PERSONS_MAX: Final = 100
PERSON_CHARACTERS_MAX: Final = 300
"""A person's name and seat together."""
TEXT_CHARACTERS_MAX: Final = 500
Text = Annotated[str, Meta(max_length=TEXT_CHARACTERS_MAX)]
Seconds = Annotated[float, Meta(ge=0, le=31_622_400)]


class KnownExecution(msgspec.Struct, frozen=True):
    """What an agent knows of one execution, from its memory or its journal."""

    id: Identifier
    state: ExecutionState
    detail: Text = ""
    boot_id: Text = ""
    """The boot in which it began to act, if it did."""
    is_running: bool = False
    """Whether this very agent process is at it; otherwise it only read of it in its journal."""
    asked: Text = ""
    answered_by: Text = ""
    notices: Text = ""
    """As in :class:`landline.fleet.model.Execution`; empty where there is nothing new to say."""


class Join(msgspec.Struct, frozen=True):
    """An agent's first request on every new session."""

    facts: Facts
    executions: Annotated[tuple[KnownExecution, ...], Meta(max_length=EXECUTIONS_MAX)] = ()
    """The most important first: what the agent is at, then the newest of its journal."""


class Withdraw(msgspec.Struct, frozen=True):
    """An execution is not wanted any more."""

    execution_id: Identifier
    reason: Text


class Joined(msgspec.Struct, frozen=True):
    """The answer to :class:`Join`: the name the machine goes by."""

    name: Name
    over: Annotated[tuple[Withdraw, ...], Meta(max_length=EXECUTIONS_MAX)] = ()
    """Of what the agent said it is at, what ended while it was away."""


class Report(msgspec.Struct, frozen=True):
    """An execution's new state."""

    execution: KnownExecution


class Claim(msgspec.Struct, frozen=True):
    """Report that an execution was accepted, and ask for leave to act right now.

    The control server records the acceptance and the leave in one transaction.
    """

    execution_id: Identifier
    boot_id: Text
    detail: Text = ""
    """Why the execution was accepted."""
    asked: Text = ""
    answered_by: Text = ""
    notices: Text = ""
    """As in :class:`KnownExecution`."""


class Grant(msgspec.Struct, frozen=True):
    """The answer to :class:`Claim`. A grant is worthless ``valid_s`` seconds after it was asked for."""

    granted: bool
    reason: Text = ""
    valid_s: Seconds = 0.0


class Postpone(msgspec.Struct, frozen=True):
    """The person wants it later, by this much from now."""

    execution_id: Identifier
    postpone_s: Seconds
    detail: Text = ""
    answered_by: Text = ""
    """As in :class:`landline.fleet.model.Execution`."""


class Postponed(msgspec.Struct, frozen=True):
    """The answer to :class:`Postpone`."""

    granted: bool
    reason: Text = ""
    due_in_s: Seconds = 0.0
    expires_in_s: Seconds = 0.0


class Goodbye(msgspec.Struct, frozen=True):
    """An agent leaves in order, or its machine goes down. One that ends sends it as a message, without an answer."""

    cause: Cause
    detail: Text = ""
    execution_id: Annotated[str, Meta(max_length=80)] = ""
    """The execution that makes it go, if one does."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An execution for a machine. Times count from the moment the control server sent it."""

    execution_id: Identifier
    action: Action
    requested_by: Text
    message: Text
    due_in_s: Seconds
    """Seconds until it is to be done, where the operator gave a delay."""
    has_delay: bool
    """Whether the operator gave a delay; if not, and nobody is on, it is done at once."""
    expires_in_s: Seconds
    may_cancel: bool
    may_postpone: bool
    countdown_s: Seconds = DEFAULT_COUNTDOWN_S
    """How long a person has to answer at least, counted from the question."""
    is_postponed: bool = False
    """Whether a person put it off until ``due_in_s`` is over: nobody is asked before."""
    unasked: Unasked = Unasked.WAIT


class FactsChecked(Facts, frozen=True, kw_only=True):
    """:class:`Facts` as they may come from outside: every field bounded."""

    name: Name
    host_name: Text = ""
    os: Text = ""
    boot_id: Text = ""
    agent_version: Text = ""
    power: Text = ""
    persons_problem: Text = ""
    asks_by: Text = ""
    asking_problem: Text = ""
    persons: Annotated[tuple[Person, ...], Meta(max_length=PERSONS_MAX)] = ()
    mac_addresses: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")], ...], Meta(max_length=32)
    ] = ()
