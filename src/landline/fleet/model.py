"""The values of the fleet: machines, presence, jobs, executions, and the life cycle of an execution.

Times ending in ``_at`` are seconds since 1970 on the control server's clock; durations end in ``_s``. This module
imports nothing else of the project, so every other module may use it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class Action(StrEnum):
    """What an operator can order a machine to do."""

    LOG_OFF = "logoff"
    RESTART = "restart"
    SHUT_DOWN = "shutdown"
    WAKE = "wake"

    @property
    def past(self) -> str:
        """The past participle: ``restarted``."""
        return {"logoff": "logged off", "restart": "restarted", "shutdown": "shut down", "wake": "woken"}[
            self.value
        ]


class Unasked(StrEnum):
    """What happens to a job on a machine where a person is or may be logged on and no person can be asked."""

    WAIT = "wait"
    """It waits until a person can be asked or none is logged on. If neither happens in time, it expires."""
    REFUSE = "refuse"
    """The machine refuses it at once, with the reason."""
    ACT = "act"
    """It runs after the full countdown, and is recorded as one for which no person could be asked."""


class ExecutionState(StrEnum):
    """The state of one job on one machine. :data:`LIFE_CYCLE` lists the allowed transitions."""

    QUEUED = "queued"
    DELIVERED = "delivered"
    WAITING = "waiting"
    """No person can be asked at the moment, though one is or may be logged on. The detail says why."""
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
        """Whether no further state is expected. ``unknown`` is final too, but later evidence may still resolve it."""
        return self in FINAL_STATES

    @property
    def has_started(self) -> bool:
        """Whether the action may have been carried out. Such an execution can no longer be cancelled."""
        return self in {ExecutionState.ACTING, ExecutionState.DONE, ExecutionState.UNKNOWN}


_S = ExecutionState
FINAL_STATES: Final = frozenset({_S.DONE, _S.CANCELLED, _S.REFUSED, _S.FAILED, _S.EXPIRED, _S.UNKNOWN})

_STOPPED: Final = frozenset({_S.CANCELLED, _S.REFUSED, _S.FAILED, _S.EXPIRED})
_BEFORE_CONSENT: Final = frozenset({_S.WAITING, _S.PROMPTED, _S.POSTPONED})
_AFTER_BEING_DELIVERED: Final = _BEFORE_CONSENT | {_S.ACCEPTED, _S.ACTING, _S.DONE, _S.UNKNOWN} | _STOPPED

LIFE_CYCLE: Final[dict[ExecutionState, frozenset[ExecutionState]]] = {
    # A later report may overtake an earlier one while a machine is away. So states may be skipped, but never revisited,
    # except among waiting, prompted and postponed.
    _S.QUEUED: frozenset({_S.DELIVERED, *_BEFORE_CONSENT, _S.ACCEPTED, _S.ACTING, _S.DONE}) | _STOPPED,
    _S.DELIVERED: frozenset({*_BEFORE_CONSENT, _S.ACCEPTED, _S.ACTING, _S.DONE, _S.UNKNOWN}) | _STOPPED,
    _S.WAITING: _AFTER_BEING_DELIVERED - {_S.WAITING},
    _S.PROMPTED: _AFTER_BEING_DELIVERED - {_S.PROMPTED},
    _S.POSTPONED: _AFTER_BEING_DELIVERED - {_S.POSTPONED},
    _S.ACCEPTED: frozenset({_S.ACTING, _S.DONE, _S.UNKNOWN}) | _STOPPED,
    _S.ACTING: frozenset({_S.DONE, _S.FAILED, _S.UNKNOWN}),
    # Later evidence, such as a join with another boot id, resolves an unknown outcome.
    _S.UNKNOWN: frozenset({_S.DONE, _S.FAILED}),
    _S.DONE: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.REFUSED: frozenset(),
    _S.FAILED: frozenset(),
    _S.EXPIRED: frozenset(),
}


class PresenceState(StrEnum):
    """What the control server knows about a machine at the moment."""

    ONLINE = "online"
    """A line is open and bytes arrive on time."""
    SILENT = "silent"
    """A line is open, but no byte has arrived for longer than the heartbeat allows."""
    RESUMING = "resuming"
    """The connection is lost. The session is kept, and the machine may still resume it."""
    AWAY = "away"
    """It announced that it goes down. After a restart it is expected back."""
    OFFLINE = "offline"
    """It is gone. The cause says why."""


class Cause(StrEnum):
    """Why a machine is not online."""

    NONE = ""
    LINK_LOST = "link lost"
    SILENT = "silent"
    RESTARTING = "restarting"
    SHUT_DOWN = "shut down"
    GOING_DOWN = "going down"
    """The system goes down and does not say whether it comes back."""
    AGENT_STOPPED = "agent stopped"
    DID_NOT_RETURN = "did not return"
    SERVER_STARTED = "control server started"
    REPLACED = "replaced"


class Person(msgspec.Struct, frozen=True):
    """A person logged on at a machine: account name, display or terminal, and whether remotely."""

    name: str
    seat: str = ""
    is_remote: bool = False
    since_at: float | None = None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent reports about its machine. Every field comes from outside and is checked before it is stored."""

    name: str
    host_name: str = ""
    os: str = ""
    boot_id: str = ""
    persons: tuple[Person, ...] = ()
    knows_persons: bool = False
    """Whether the agent knows who is logged on. If not, an empty ``persons`` does not mean that no person is."""
    persons_problem: str = ""
    """Why it does not know, as one sentence."""
    asks_by: str = ""
    """How a person can be asked here, such as ``tk``; empty if none can be asked, or it is not known."""
    asking_problem: str = ""
    """Why no person can be asked here, as one sentence."""
    mac_addresses: tuple[str, ...] = ()
    agent_version: str = ""
    power: str = ""

    @property
    def is_free(self) -> bool:
        """Whether it is known that no person is logged on."""
        return self.knows_persons and not self.persons

    @property
    def says_how_it_asks(self) -> bool:
        """Whether the agent reports how it asks, or why it cannot. Agents of older versions do neither."""
        return bool(self.asks_by or self.asking_problem)


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """A machine's presence: the state, its cause as a word and as a sentence, and its start."""

    state: PresenceState
    since_at: float
    cause: Cause = Cause.NONE
    detail: str = ""
    address: str = ""
    """The peer of the line, as ``IP:port`` or a socket path; empty if there is no line."""
    gone_at: float | None = None
    """Since when a machine that said goodbye has no line; ``None`` while it can still take its goodbye back."""
    execution_id: str = ""
    """The execution that made it say goodbye, if any."""
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
    """The peer address of its line, or of its last one."""
    boot_id: str
    mac_addresses: tuple[str, ...] = ()
    is_live: bool = True
    """Whether it has a line."""
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
    """The machines that use its identity, if it was cloned; otherwise empty."""
    round_trip_s: float | None = None

    @property
    def name(self) -> str:
        return self.facts.name


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One operator request: an action, its targets as typed, and what the persons at the machines may decide."""

    id: str
    action: Action
    targets: tuple[str, ...]
    created_at: float
    requested_by: str = ""
    message: str = ""
    delay_s: float | None = None
    """Countdown before acting. ``None``: none where it is known that no person is logged on, otherwise the default."""
    valid_for_s: float = 120.0
    """How long after its due time the job may still begin on a machine."""
    queue_for_s: float | None = None
    """How long a job waits for a machine that is offline. ``None``: offline machines are refused."""
    may_cancel: bool = True
    may_postpone: bool = True
    unasked: Unasked = Unasked.WAIT
    """What happens where a person is or may be logged on and none can be asked."""
    request_id: str | None = None
    """Chosen by the caller. Repeating a request with the same value returns the first job instead of a new one."""


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
    """One sentence for people: why it was refused, what failed, who cancelled it."""
    boot_id_before: str = ""
    """The machine's boot id when the action began: another one afterwards proves a restart."""
    hardware_before: str = ""
    """The MAC addresses of the machine that received the grant, joined by commas: a clone has others."""
    postponed_s: float = 0.0
    """Total of all postponements. Each counts at least a minute."""
    asked: str = ""
    """The persons asked last, each with display or terminal: ``anna (:0), bob (tty3)``."""
    answered_by: str = ""
    """Who gave the last answer, as far as its display or terminal shows; empty if there is none."""
    notices: str = ""
    """How persons who could not be asked were notified: ``wall, notification to anna``."""
    rounds: int = 0
    """How often it began to wait or to prompt, or did so for another reason."""


class ExecutionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One step in the life of an execution. Never deleted."""

    execution_id: str
    at: float
    state: ExecutionState
    detail: str = ""
