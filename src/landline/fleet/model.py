"""The words of the fleet: machines, presence, jobs, executions, and the life cycle of an execution.

Everything here is a value. Times ending in ``_at`` are seconds since the Unix epoch on the control server's
clock; durations end in ``_s``. This module imports nothing else of the project, so every other room may use it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class Action(StrEnum):
    """What an operator can ask of a machine."""

    LOG_OFF = "logoff"
    RESTART = "restart"
    SHUT_DOWN = "shutdown"
    WAKE = "wake"

    @property
    def past(self) -> str:
        """The action as it reads once it happened: ``restarted``."""
        return {"logoff": "logged off", "restart": "restarted", "shutdown": "shut down", "wake": "woken"}[
            self.value
        ]


class Unasked(StrEnum):
    """What becomes of a job on a machine where a person is on, or may be, and nobody can be asked."""

    WAIT = "wait"
    """It waits until a person can be asked or nobody is on; if neither happens in time, it expires."""
    REFUSE = "refuse"
    """The machine refuses it at once, with the reason."""
    ACT = "act"
    """It is done after the full countdown, and recorded as one for which nobody could be asked."""


class ExecutionState(StrEnum):
    """Where one job stands on one machine. :data:`LIFE_CYCLE` says what may follow what."""

    QUEUED = "queued"
    DELIVERED = "delivered"
    WAITING = "waiting"
    """Nobody can be asked at the moment, though a person is on or may be; the detail says why."""
    PROMPTED = "prompted"
    POSTPONED = "postponed"
    ACCEPTED = "accepted"
    ACTING = "acting"
    DONE = "done"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    FAILED = "failed"
    EXPIRED = "expired"
    UNKNOWN = "unknown"

    @property
    def is_final(self) -> bool:
        """Whether nothing more is expected to happen. ``unknown`` is final too, but evidence may still mend it."""
        return self in FINAL_STATES

    @property
    def has_started(self) -> bool:
        """Whether the action itself may have been carried out; such an execution can no longer be cancelled."""
        return self in {ExecutionState.ACTING, ExecutionState.DONE, ExecutionState.UNKNOWN}


_S = ExecutionState
FINAL_STATES: Final = frozenset({_S.DONE, _S.CANCELLED, _S.REFUSED, _S.FAILED, _S.EXPIRED, _S.UNKNOWN})

_STOPPED: Final = frozenset({_S.CANCELLED, _S.REFUSED, _S.FAILED, _S.EXPIRED})
_BEFORE_CONSENT: Final = frozenset({_S.WAITING, _S.PROMPTED, _S.POSTPONED})
_AFTER_BEING_DELIVERED: Final = _BEFORE_CONSENT | {_S.ACCEPTED, _S.ACTING, _S.DONE, _S.UNKNOWN} | _STOPPED

LIFE_CYCLE: Final[dict[ExecutionState, frozenset[ExecutionState]]] = {
    # A report may be overtaken by a later one while a machine is away, so states may be skipped, never revisited
    # (but among waiting, prompted and postponed).
    _S.QUEUED: frozenset({_S.DELIVERED, *_BEFORE_CONSENT, _S.ACCEPTED, _S.ACTING, _S.DONE}) | _STOPPED,
    _S.DELIVERED: frozenset({*_BEFORE_CONSENT, _S.ACCEPTED, _S.ACTING, _S.DONE, _S.UNKNOWN}) | _STOPPED,
    _S.WAITING: _AFTER_BEING_DELIVERED - {_S.WAITING},
    _S.PROMPTED: _AFTER_BEING_DELIVERED - {_S.PROMPTED},
    _S.POSTPONED: _AFTER_BEING_DELIVERED - {_S.POSTPONED},
    _S.ACCEPTED: frozenset({_S.ACTING, _S.DONE, _S.UNKNOWN}) | _STOPPED,
    _S.ACTING: frozenset({_S.DONE, _S.FAILED, _S.UNKNOWN}),
    # Evidence that arrives late (the machine comes back with another boot id) settles an unknown outcome.
    _S.UNKNOWN: frozenset({_S.DONE, _S.FAILED}),
    _S.DONE: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.REFUSED: frozenset(),
    _S.FAILED: frozenset(),
    _S.EXPIRED: frozenset(),
}


class PresenceState(StrEnum):
    """What the control server knows of a machine right now."""

    ONLINE = "online"
    """A line is open and bytes arrive on time."""
    SILENT = "silent"
    """A line is open, but nothing has been heard for longer than the heartbeat interval."""
    RESUMING = "resuming"
    """The link is gone; the session is kept, and the machine may still come back to it."""
    AWAY = "away"
    """It said that it goes down; after a restart it is expected back."""
    OFFLINE = "offline"
    """It is gone; the cause says why."""


class Cause(StrEnum):
    """Why a machine is not online, or how it came to be."""

    NONE = ""
    LINK_LOST = "link lost"
    SILENT = "silent"
    RESTARTING = "restarting"
    SHUT_DOWN = "shut down"
    GOING_DOWN = "going down"
    """The system goes down, and does not say whether it comes back."""
    AGENT_STOPPED = "agent stopped"
    DID_NOT_RETURN = "did not return"
    SERVER_STARTED = "control server started"
    REPLACED = "replaced"
    REMOVED = "removed"


class Person(msgspec.Struct, frozen=True):
    """A person logged on at a machine: account name, the display or terminal, and whether from afar."""

    name: str
    seat: str = ""
    is_remote: bool = False
    since_at: float | None = None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of its machine. Every field comes from outside and is checked before it is stored."""

    name: str
    host_name: str = ""
    os: str = ""
    boot_id: str = ""
    persons: tuple[Person, ...] = ()
    knows_persons: bool = False
    """Whether the agent could tell who is on. Without that, no persons does not mean that nobody is."""
    persons_problem: str = ""
    """Why it could not tell, as one sentence."""
    asks_by: str = ""
    """The way in which a person can be asked here, such as ``tk``; empty when nobody can, or it is not known."""
    asking_problem: str = ""
    """Why nobody can be asked here, as one sentence."""
    mac_addresses: tuple[str, ...] = ()
    agent_version: str = ""
    power: str = ""

    @property
    def is_free(self) -> bool:
        """Whether it is known that nobody is on."""
        return self.knows_persons and not self.persons

    @property
    def says_how_it_asks(self) -> bool:
        """Whether the agent told how it asks, or why it cannot. One that did not is older than this question."""
        return bool(self.asks_by or self.asking_problem)


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """A machine's presence: the state, its cause in one word and one sentence, and since when (server's clock)."""

    state: PresenceState
    since_at: float
    cause: Cause = Cause.NONE
    detail: str = ""
    address: str = ""
    """Where the line comes from, as ``IP:port`` or a socket path; empty when there is none."""
    gone_at: float | None = None
    """Since when no line leads to a machine that said goodbye; ``None`` while its goodbye can still be taken back."""
    execution_id: str = ""
    """The execution that made it say goodbye, if one did."""
    join: str = ""
    """Names the join that made this presence. News of an earlier join is ignored."""

    @property
    def description(self) -> str:
        """State and cause: ``offline (shut down)``."""
        return f"{self.state.value} ({self.cause.value})" if self.cause else self.state.value


class Claimant(msgspec.Struct, frozen=True, kw_only=True):
    """One of several machines that use the same identity."""

    name: str
    host_name: str
    address: str
    """Where its line comes from, or came from last."""
    boot_id: str
    mac_addresses: tuple[str, ...] = ()
    is_live: bool = True
    """Whether a line leads to it."""
    since_at: float

    @property
    def description(self) -> str:
        """``pc1 at 10.0.0.1:4711``."""
        name = self.host_name or self.name
        return f"{name} at {self.address}" if self.is_live else f"{name}, not connected"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine the control server knows."""

    id: str
    facts: Facts
    presence: Presence
    first_seen_at: float
    claimants: tuple[Claimant, ...] = ()
    """Those that use its identity, where it was cloned; empty where it is its own."""
    round_trip_s: float | None = None

    @property
    def name(self) -> str:
        return self.facts.name


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One operator request: an action, its targets as typed, and what the persons at the machines may do."""

    id: str
    action: Action
    targets: tuple[str, ...]
    created_at: float
    requested_by: str = ""
    message: str = ""
    delay_s: float | None = None
    """Countdown before acting. ``None``: none where it is known that nobody is on, elsewhere the default countdown."""
    valid_for_s: float = 120.0
    """How long after it became due the job may still begin on a machine."""
    queue_for_s: float | None = None
    """How long a job waits for a machine that is offline. ``None``: offline machines are refused."""
    may_cancel: bool = True
    may_postpone: bool = True
    unasked: Unasked = Unasked.WAIT
    """What happens where a person is on, or may be, and nobody can be asked."""
    request_id: str | None = None
    """Chosen by the caller; a second request with the same value returns the first job instead of a new one."""


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """A job on one machine."""

    id: str
    job_id: str
    machine_id: str
    machine_name: str
    state: ExecutionState
    updated_at: float
    due_at: float
    """When the action is due: creation plus the delay, moved by a postponement."""
    expires_at: float
    """The action never begins after this moment."""
    detail: str = ""
    """One sentence for people: why it was refused, what failed, who cancelled."""
    boot_id_before: str = ""
    """The machine's boot id when the action began: another one afterwards proves a restart."""
    hardware_before: str = ""
    """The network addresses of the machine that was given leave, joined by commas: a copy of its disk has others."""
    postponed_s: float = 0.0
    """All postponements together; each counts a minute at least."""
    asked: str = ""
    """The persons who were asked last, each with the display or terminal: ``anna (:0), bob (tty3)``."""
    answered_by: str = ""
    """Who gave the last answer, as far as the display or terminal it came from tells; empty while nobody did."""
    notices: str = ""
    """In which ways persons who could not be asked were told: ``wall, notification to anna``."""
    rounds: int = 0
    """How often it began to wait or to ask, or did so for another reason."""


class ExecutionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One step in the life of an execution, kept for ever."""

    execution_id: str
    at: float
    state: ExecutionState
    detail: str = ""
