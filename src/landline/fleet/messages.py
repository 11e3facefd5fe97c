"""The requests and messages between agents and the control server, and the bodies they carry.

=============  ==========  =====================  ==========================================================
name           from        body → answer          purpose
=============  ==========  =====================  ==========================================================
``join``       agent       Join → Joined          this machine, and the executions that its agent knows
``facts``      agent       Facts (message)        a fact about the machine has changed
``report``     agent       Report → bool          an execution's state; stored when the answer arrives
``claim``      agent       Claim → Grant          it was accepted; may I act now?
``postpone``   agent       Postpone → Postponed   a person postpones it
``goodbye``    agent       Goodbye → None         the machine goes, and why; the next join takes it back
``execute``    control     Order → bool           an execution for this machine
``withdraw``   control     Withdraw → bool        do not begin that execution
=============  ==========  =====================  ==========================================================
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from landline.fleet.model import Action, Cause, ExecutionState, Facts, Person, Unasked

# "\Z" instead of "$", which also matches before a final line end.
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
Identifier = Annotated[str, Meta(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_:-]+\Z")]
NOT_JOINED: Final = "not_joined"
"""Error code: the session has not joined yet."""
CLONED_IDENTITY: Final = "cloned_identity"
"""Error code: another machine with the same identity is connected; retry later."""
TOO_MANY_ORDERS: Final = "too_many_orders"
"""Error code: the agent holds its maximum number of orders."""
STORAGE_FAILED: Final = "storage_failed"
"""Error code: nothing was recorded; the request may be repeated."""

DEFAULT_COUNTDOWN_S: Final = 60.0
"""How long a person has to answer if the operator gave no delay."""
MESSAGE_BYTES_MAX: Final = 256 * 1024
"""The largest message that either side accepts. A larger one ends the session before it is decoded. The largest join
is smaller (:data:`JOIN_BYTES_MAX`), and decoding blocks the event loop for some milliseconds at most."""
WINDOW_BYTES: Final = 1024 * 1024
"""How many bytes of unprocessed messages either side holds."""
EXECUTIONS_MAX: Final = 1000
"""Executions in one join."""
JOIN_BYTES_MAX: Final = 192 * 1024
"""Size of the executions in one join. The rest of the message is for the facts."""
PERSONS_MAX: Final = 100
PERSON_CHARACTERS_MAX: Final = 300
"""A person's name and seat together."""
TEXT_CHARACTERS_MAX: Final = 500
Text = Annotated[str, Meta(max_length=TEXT_CHARACTERS_MAX)]
Seconds = Annotated[float, Meta(ge=0, le=31_622_400)]


class KnownExecution(msgspec.Struct, frozen=True):
    """What an agent knows about one execution, from its memory or its journal."""

    id: Identifier
    state: ExecutionState
    detail: Text = ""
    boot_id: Text = ""
    """The boot in which it started to act, if it did."""
    is_running: bool = False
    """Whether this agent process is working on it. If not, it is known from the journal only."""
    asked: Text = ""
    answered_by: Text = ""
    notices: Text = ""
    """As in :class:`landline.fleet.model.Execution`; empty if unchanged."""


class Join(msgspec.Struct, frozen=True):
    """An agent's first request on every new session."""

    facts: Facts
    executions: Annotated[tuple[KnownExecution, ...], Meta(max_length=EXECUTIONS_MAX)] = ()
    """The most important first: running ones, then the newest of the journal."""


class Withdraw(msgspec.Struct, frozen=True):
    """Ask the agent not to begin an execution."""

    execution_id: Identifier
    reason: Text


class Joined(msgspec.Struct, frozen=True):
    """The answer to :class:`Join`: the machine's name."""

    name: Name
    over: Annotated[tuple[Withdraw, ...], Meta(max_length=EXECUTIONS_MAX)] = ()
    """Executions that the agent reported as running and that ended while it was away."""


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
    """The answer to :class:`Claim`. A grant expires ``valid_s`` seconds after the claim was sent."""

    granted: bool
    reason: Text = ""
    valid_s: Seconds = 0.0


class Postpone(msgspec.Struct, frozen=True):
    """A person postpones an execution, by ``postpone_s`` from now."""

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
    """An agent stops, or its machine goes down. An agent that stops sends it as a message, without an answer."""

    cause: Cause
    detail: Text = ""
    execution_id: Annotated[str, Meta(max_length=80)] = ""
    """The execution that causes it, if any."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An execution for a machine. Times count from when the control server sent it."""

    execution_id: Identifier
    action: Action
    requested_by: Text
    message: Text
    due_in_s: Seconds
    """Seconds until it is due, if the operator gave a delay."""
    has_delay: bool
    """Whether the operator gave a delay. If not, it runs at once where no person is logged on."""
    expires_in_s: Seconds
    may_cancel: bool
    may_postpone: bool
    countdown_s: Seconds = DEFAULT_COUNTDOWN_S
    """How long a person has at least to answer, from the question on."""
    is_postponed: bool = False
    """Whether a person postponed it until ``due_in_s`` is over. No person is asked before that."""
    unasked: Unasked = Unasked.WAIT


class FactsChecked(Facts, frozen=True, kw_only=True):
    """:class:`Facts` from outside: every field is bounded."""

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
