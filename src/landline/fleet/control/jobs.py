"""Decisions about jobs and executions. Pure.

Functions take the current state and ``now`` in seconds since 1970. Those that return an execution return the one to
store, or ``None`` if nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from landline import safe_text
from landline.fleet.api import REQUEST_ID_CHARACTERS_MAX, JobRequest, OperationError
from landline.fleet.control import clones
from landline.fleet.control.targets import check_targets
from landline.fleet.messages import (
    DEFAULT_COUNTDOWN_S,
    TEXT_CHARACTERS_MAX,
    Claim,
    Grant,
    KnownExecution,
    Order,
    Postponed,
)
from landline.fleet.model import (
    LIFE_CYCLE,
    Action,
    Execution,
    ExecutionState,
    Job,
    Machine,
    PresenceState,
    Unasked,
)

GRANT_VALID_S: Final = 10.0
"""How long after its claim a machine may begin to act. Later, it was suspended in between."""
POSTPONED_S_MAX: Final = 8 * 3600.0
"""Total of all postponements of one execution."""
POSTPONED_S_MIN: Final = 60.0
"""What each postponement counts at least: an agent that repeats tiny ones must not fill the disk."""
ROUNDS_MAX: Final = 400
"""How often one execution begins to wait or to prompt: an agent that alternates must not fill the disk."""
DELAY_S_MAX: Final = 30 * 86_400.0
MESSAGE_CHARACTERS_MAX: Final = 500
REQUESTED_BY_CHARACTERS_MAX: Final = 200
ACTING_S_MAX: Final = {
    Action.LOG_OFF: 120.0,
    Action.RESTART: 15 * 60.0,
    Action.SHUT_DOWN: 5 * 60.0,
    Action.WAKE: 5 * 60.0,
}
"""How long the effect of an action may take to show. After that its outcome is unknown."""

ONLINE_STATES: Final = frozenset({PresenceState.ONLINE, PresenceState.SILENT, PresenceState.RESUMING})
"""Presences in which an order can still reach the machine: its session exists and delivers when it resumes."""


def check_request(request: JobRequest) -> None:
    """Check the values that do not depend on the machines.

    :raises OperationError: if one of them is out of range.
    """
    durations = {
        "delay_s": request.delay_s,
        "valid_for_s": request.valid_for_s,
        "queue_for_s": request.queue_for_s,
    }
    for name, value in durations.items():
        if value is not None and (not math.isfinite(value) or not 0 <= value <= DELAY_S_MAX):
            raise OperationError(
                "bad_request", f"{name} is {value:g}; it must be between 0 and {DELAY_S_MAX:g} seconds"
            )
    if request.valid_for_s < 1:
        raise OperationError("bad_request", "valid_for_s must be at least one second")
    if len(request.message) > MESSAGE_CHARACTERS_MAX:
        raise OperationError("bad_request", f"the message is longer than {MESSAGE_CHARACTERS_MAX} characters")
    if len(request.requested_by) > REQUESTED_BY_CHARACTERS_MAX:
        raise OperationError(
            "bad_request", f"requested_by is longer than {REQUESTED_BY_CHARACTERS_MAX} characters"
        )
    if len(request.request_id or "") > REQUEST_ID_CHARACTERS_MAX:
        raise OperationError(
            "bad_request", f"request_id is longer than {REQUEST_ID_CHARACTERS_MAX} characters"
        )
    check_targets(request.targets, request.all_machines)


def is_same_request(request: JobRequest, job: Job, executions: Sequence[Execution]) -> bool:
    """Return whether a request repeats the one for which a job was accepted.

    Which machines the targets match is not compared: that may have changed since.
    """
    repeated = new_job(request, job_id=job.id, now=job.created_at)
    is_same_list = request.machine_ids is None or set(request.machine_ids) == {
        execution.machine_id for execution in executions
    }
    return repeated == job and is_same_list


def new_job(request: JobRequest, *, job_id: str, now: float) -> Job:
    """Return the job that a request asks for."""
    return Job(
        id=job_id,
        action=request.action,
        targets=("*",) if request.all_machines else request.targets,
        created_at=now,
        requested_by=request.requested_by,
        message=request.message,
        delay_s=request.delay_s,
        valid_for_s=request.valid_for_s,
        queue_for_s=request.queue_for_s,
        may_cancel=request.may_cancel,
        may_postpone=request.may_postpone,
        unasked=request.unasked,
        request_id=request.request_id,
    )


def plan(job: Job, machine: Machine, execution_id: str) -> Execution:
    """Return the job on one machine in its first state: queued, refused with the reason, or done."""
    delay_s = DEFAULT_COUNTDOWN_S if job.delay_s is None else job.delay_s
    due_at = job.created_at + (job.delay_s or 0.0)
    expires_at = job.created_at + delay_s + job.valid_for_s
    if job.queue_for_s is not None and machine.presence.state not in ONLINE_STATES:
        expires_at = max(expires_at, job.created_at + job.queue_for_s)
    state, detail = _planned_state(job, machine)
    return Execution(
        id=execution_id,
        job_id=job.id,
        machine_id=machine.id,
        machine_name=machine.name,
        state=state,
        updated_at=job.created_at,
        due_at=due_at,
        expires_at=expires_at,
        detail=detail,
    )


def order_for(job: Job, execution: Execution, now: float) -> Order:
    """Return the order to send to the machine now.

    An order that is sent only after its due time gives the person the delay again.
    """
    due_in_s = execution.due_at - now
    if due_in_s < 0 and job.delay_s and execution.state is ExecutionState.QUEUED:
        due_in_s = min(job.delay_s, max(0.0, execution.expires_at - now - 1.0))
    return Order(
        execution_id=execution.id,
        action=job.action,
        requested_by=job.requested_by,
        message=job.message,
        due_in_s=max(0.0, due_in_s),
        has_delay=job.delay_s is not None or execution.postponed_s > 0,
        expires_in_s=max(0.0, execution.expires_at - now),
        may_cancel=job.may_cancel,
        may_postpone=job.may_postpone,
        countdown_s=_countdown_s(job, execution),
        is_postponed=execution.postponed_s > 0 and execution.due_at > now,
        unasked=job.unasked,
    )


def delivery_refusal(job: Job, machine: Machine) -> str | None:
    """Return why the job must not be sent to the machine's agent, or ``None`` if it may be.

    An agent that reports neither how it asks a person nor why it cannot is from before the rule that a machine does
    not act only because no person can be asked. It would act at once.
    """
    if job.action is Action.WAKE or job.unasked is Unasked.ACT or machine.facts.says_how_it_asks:
        return None
    return (
        "its agent is too old to say whether it can ask a person, and would act without asking; "
        "update the agent, or use --unasked act"
    )


def advance(execution: Execution, state: ExecutionState, now: float, detail: str = "") -> Execution | None:
    """Return the execution in its next state, or ``None`` if the life cycle does not allow that state.

    ``detail`` may contain text of an agent: it is made one printable line, no longer than an agent's own report.
    """
    if state is execution.state or state not in LIFE_CYCLE[execution.state]:
        return None
    return msgspec.structs.replace(
        execution, state=state, updated_at=now, detail=safe_text(detail, TEXT_CHARACTERS_MAX)
    )


def receive_report(
    job: Job, execution: Execution, known: KnownExecution, now: float, *, power: str
) -> Execution | None:
    """Handle a state that an agent reports.

    A report that the machine was restarted or shut down is ignored: only how the machine left can prove that.
    """
    if known.state in {ExecutionState.QUEUED, ExecutionState.DELIVERED}:
        return advance(execution, ExecutionState.DELIVERED, now)
    if known.state is ExecutionState.CANCELLED and not job.may_cancel:
        return None
    if known.state is ExecutionState.POSTPONED or known.state is ExecutionState.ACTING:
        return None  # The control server decides on both when the agent asks (postpone, claim).
    if known.state is ExecutionState.DONE and job.action is not Action.LOG_OFF and power != "dry-run":
        return None
    record = _consent_record(execution, known)
    if known.state in {ExecutionState.WAITING, ExecutionState.PROMPTED}:
        return _next_round(execution, known, record, now)
    after = advance(execution, known.state, now, known.detail)
    return None if after is None else msgspec.structs.replace(after, **record)


def _consent_record(execution: Execution, known: KnownExecution | Claim) -> dict[str, str]:
    """Return who was asked, who answered and how others were notified, updated by what the agent reports.

    An answer belongs to its question: a new question starts without one.
    """
    is_new = bool(known.asked or known.answered_by)
    return {
        "asked": known.asked if is_new else execution.asked,
        "answered_by": known.answered_by if is_new else execution.answered_by,
        "notices": known.notices or execution.notices,
    }


def _next_round(
    execution: Execution, known: KnownExecution, record: dict[str, str], now: float
) -> Execution | None:
    """Handle a report that the agent waits or prompts: a new state, or the same for another reason."""
    if execution.rounds >= ROUNDS_MAX:
        return None
    after = advance(execution, known.state, now, known.detail)
    if after is None and known.state is execution.state:
        same = {"asked": execution.asked, "answered_by": execution.answered_by, "notices": execution.notices}
        if (known.detail, record) != (execution.detail, same):
            after = msgspec.structs.replace(execution, updated_at=now, detail=known.detail)
    if after is None:
        return None
    return msgspec.structs.replace(after, rounds=execution.rounds + 1, **record)


def claim(
    execution: Execution, claim: Claim, now: float, *, hardware: str = ""
) -> tuple[Grant, tuple[Execution, ...]]:
    """Decide whether an agent may act now. Return the answer and the states to record before it is sent.

    The acceptance that the claim reports and the leave to act are recorded together.

    An agent claims only what its journal does not show as started. So if it claims again in the same boot, the first
    grant never reached it, and the answer may be repeated.
    """
    if execution.state.is_final:
        why = f": {execution.detail}" if execution.detail else ""
        return Grant(False, f"it is {execution.state.value}{why}"[:TEXT_CHARACTERS_MAX]), ()
    is_repeated = execution.state is ExecutionState.ACTING
    if is_repeated and execution.boot_id_before != claim.boot_id:
        return Grant(False, "it began in an earlier boot of the machine"), ()
    accepted = advance(execution, ExecutionState.ACCEPTED, now, claim.detail)
    recorded: tuple[Execution, ...] = ()
    if accepted is not None:
        execution = msgspec.structs.replace(accepted, **_consent_record(execution, claim))
        recorded = (execution,)
    if now >= execution.expires_at:
        # An agent that asks again after a grant has not acted.
        state = ExecutionState.FAILED if is_repeated else ExecutionState.EXPIRED
        ended = advance(execution, state, now, "its time ran out")
        return Grant(False, "it expired"), recorded if ended is None else (*recorded, ended)
    grant = Grant(True, valid_s=min(GRANT_VALID_S, execution.expires_at - now))
    if is_repeated:
        return grant, ()
    acting = msgspec.structs.replace(
        execution,
        state=ExecutionState.ACTING,
        updated_at=now,
        # Who agreed, or could not be asked: watchers see this state, and not the acceptance recorded with it.
        detail="" if accepted is None else execution.detail,
        boot_id_before=claim.boot_id,
        hardware_before=hardware,
    )
    return grant, (*recorded, acting)


def postpone(
    job: Job, execution: Execution, postpone_s: float, now: float, detail: str, *, answered_by: str = ""
) -> tuple[Postponed, Execution | None]:
    """Handle a postponement requested by the person."""
    if not job.may_postpone:
        return Postponed(False, "the operator does not allow it to be postponed"), None
    if ExecutionState.POSTPONED not in LIFE_CYCLE[execution.state] or now >= execution.expires_at:
        return Postponed(False, f"it is {execution.state.value}"), None
    due_at = now + postpone_s
    latest_at = job.created_at + (job.delay_s or 0.0) + job.valid_for_s + POSTPONED_S_MAX
    if postpone_s <= 0:
        return Postponed(False, "it can only be postponed to a later time"), None
    postponed_s = execution.postponed_s + max(postpone_s, POSTPONED_S_MIN)
    # The second bound counts the time that the questions in between took.
    if postponed_s > POSTPONED_S_MAX or due_at > latest_at:
        return Postponed(False, f"it can be postponed by {POSTPONED_S_MAX / 3600:g} hours in total"), None
    later = msgspec.structs.replace(
        execution,
        state=ExecutionState.POSTPONED,
        updated_at=now,
        detail=safe_text(detail, TEXT_CHARACTERS_MAX),
        due_at=due_at,
        expires_at=max(execution.expires_at, due_at + DEFAULT_COUNTDOWN_S + job.valid_for_s),
        postponed_s=postponed_s,
        answered_by=answered_by or execution.answered_by,
    )
    return Postponed(True, "", postpone_s, later.expires_at - now), later


def cancel(execution: Execution, now: float, *, cancelled_by: str) -> Execution | None:
    """Handle an operator's cancellation: it ends an execution that has not started to act."""
    if execution.state.has_started:
        return None
    return advance(execution, ExecutionState.CANCELLED, now, f"cancelled by {cancelled_by or 'the operator'}")


def refuse_clone(execution: Execution, now: float, reason: str) -> Execution | None:
    """Refuse an execution that has not started, because another machine with the same identity could run it."""
    if execution.state.has_started:
        return None
    return advance(execution, ExecutionState.REFUSED, now, reason)


def overdue(job: Job, execution: Execution, now: float) -> Execution | None:
    """Handle a passed deadline: an execution that did not start expires; one without a visible effect is unknown."""
    if execution.state.is_final:
        return None
    if execution.state is ExecutionState.ACTING:
        if now < execution.updated_at + ACTING_S_MAX[job.action]:
            return None
        if job.action is Action.WAKE:
            return advance(execution, ExecutionState.FAILED, now, "it did not come online")
        return advance(execution, ExecutionState.UNKNOWN, now, "it started, and its outcome was not reported")
    if now < execution.expires_at:
        return None
    why = "its time ran out"
    if execution.state is ExecutionState.QUEUED:
        why = "it never reached the machine"
    elif execution.state is ExecutionState.WAITING and execution.detail:
        why += f"; {execution.detail}"
    return advance(execution, ExecutionState.EXPIRED, now, why)


def _countdown_s(job: Job, execution: Execution) -> float:
    """Return how long a person has at least to answer: the operator's delay, but no longer than the default."""
    if job.delay_s is None or execution.postponed_s > 0:
        return DEFAULT_COUNTDOWN_S
    return min(job.delay_s, DEFAULT_COUNTDOWN_S)


def _planned_state(job: Job, machine: Machine) -> tuple[ExecutionState, str]:
    """Return the first state of a job on one machine, with its detail."""
    if (reason := clones.refusal(machine)) is not None:
        return ExecutionState.REFUSED, reason
    if job.action is Action.WAKE and machine.presence.state in {PresenceState.ONLINE, PresenceState.SILENT}:
        return ExecutionState.DONE, "it is on already"
    if (reason := _refusal(job, machine)) is not None:
        return ExecutionState.REFUSED, reason
    return ExecutionState.QUEUED, ""


def _refusal(job: Job, machine: Machine) -> str | None:
    """Return why the job is refused for a machine at once, or ``None``."""
    is_on = machine.presence.state in ONLINE_STATES
    if job.action is Action.WAKE:
        if not machine.facts.mac_addresses:
            return "its network address (MAC) is not known, so it cannot be woken"
        return None
    if not is_on and job.queue_for_s is None:
        return f"it is {machine.presence.description}; use --queue-for to wait for it"
    return None
