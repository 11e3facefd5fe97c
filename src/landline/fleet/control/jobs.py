"""Decisions on jobs. Pure: each takes what is known and ``now``, and returns what is to be recorded.

A function that returns an execution returns the new one to be stored, or ``None`` when nothing changes.
"""

from __future__ import annotations

import bisect
import difflib
import fnmatch
import math
import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from landline import safe_text
from landline.fleet.api import REQUEST_ID_CHARACTERS_MAX, JobRequest, OperationError
from landline.fleet.control import clones
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
    Cause,
    Execution,
    ExecutionState,
    Job,
    Machine,
    Presence,
    PresenceState,
    Unasked,
)

GRANT_VALID_S: Final = 10.0
"""A machine that was given leave to act must do so within this time of asking; else it was stopped in between."""
POSTPONED_S_MAX: Final = 8 * 3600.0
"""All postponements of one execution together."""
POSTPONED_S_LEAST: Final = 60.0
"""What each of them counts at least: an agent that asks for an instant again and again must not fill the disk."""
ROUNDS_MAX: Final = 400
"""How often one execution begins to wait or to ask: an agent that goes back and forth must not fill the disk."""
DELAY_S_MAX: Final = 30 * 86_400.0
MESSAGE_CHARACTERS_MAX: Final = 500
TARGETS_MAX: Final = 1000
TARGET_CHARACTERS_MAX: Final = 200
"""A machine's name has 64 at most; a pattern may spell out some of its characters as sets."""
PATTERNS_MAX: Final = 20
"""Targets of one request that are patterns: each is compared with the name of every machine."""
HINT_NAMES_MAX: Final = 500
"""Names that one which is not there is compared with, to guess what was meant."""
ACTING_S_MAX: Final = {
    Action.LOG_OFF: 120.0,
    Action.RESTART: 15 * 60.0,
    Action.SHUT_DOWN: 5 * 60.0,
    Action.WAKE: 5 * 60.0,
}
"""How long the effect of an action may take to show before its outcome is called unknown."""

ONLINE_STATES: Final = frozenset({PresenceState.ONLINE, PresenceState.SILENT, PresenceState.RESUMING})
"""Presences in which an order can still reach the machine: its session is alive, and delivers when it resumes."""


def check_request(request: JobRequest) -> None:
    """Raises :class:`OperationError` for values that make no sense, whatever the machines."""
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
        raise OperationError("bad_request", "a job must stay valid for at least one second")
    if len(request.message) > MESSAGE_CHARACTERS_MAX:
        raise OperationError("bad_request", f"the message is longer than {MESSAGE_CHARACTERS_MAX} characters")
    if len(request.requested_by) > 200 or len(request.request_id or "") > REQUEST_ID_CHARACTERS_MAX:
        raise OperationError("bad_request", "requested_by or request_id is too long")


def resolve_targets(targets: Sequence[str], all_machines: bool, machines: Iterable[Machine]) -> list[Machine]:
    """The machines that names and globs match, in order of name.

    Raises :class:`OperationError` when there are no targets, or when one of them matches nothing: both are
    mistakes, and neither may mean "all" or "none".
    """
    ordered = sorted(machines, key=lambda machine: machine.name)
    if all_machines:
        if targets:
            raise OperationError("bad_request", "name targets or ask for all machines, not both")
        if not ordered:
            raise OperationError("empty_target", "there are no machines yet; start an agent on one first")
        return ordered
    if not targets or any(not target for target in targets):
        raise OperationError(
            "empty_target", "no target; name a machine, a pattern such as 'lab-*', or all machines"
        )
    _check_targets(targets)
    by_name = {machine.name: machine for machine in ordered}
    found: dict[str, Machine] = {}
    for target in targets:
        if _is_pattern(target):
            matches = re.compile(fnmatch.translate(target)).match
            names = [name for name in by_name if matches(name)]
        else:
            names = [target] if target in by_name else []
        if not names:
            raise OperationError("unknown_target", _unknown_target(target, list(by_name)))
        found.update((name, by_name[name]) for name in names)
    return sorted(found.values(), key=lambda machine: machine.name)


def _check_targets(targets: Sequence[str]) -> None:
    """Raises :class:`OperationError` for what would take too long to look up."""
    if len(targets) > TARGETS_MAX:
        raise OperationError("bad_request", f"more than {TARGETS_MAX} targets; use a pattern")
    longest = max(targets, key=len)
    if len(longest) > TARGET_CHARACTERS_MAX:
        raise OperationError(
            "bad_request",
            f"the target {longest[:80]!r}… is longer than {TARGET_CHARACTERS_MAX} characters; give a shorter one",
        )
    if sum(map(_is_pattern, targets)) > PATTERNS_MAX:
        raise OperationError(
            "bad_request", f"more than {PATTERNS_MAX} patterns; use fewer, or the names of the machines"
        )


def _is_pattern(target: str) -> bool:
    return any(sign in target for sign in "*?[")


def plan(job: Job, machine: Machine, execution_id: str) -> Execution:
    """The first state of a job on one machine: queued, or refused with the reason."""
    delay_s = DEFAULT_COUNTDOWN_S if job.delay_s is None else job.delay_s
    due_at = job.created_at + (job.delay_s or 0.0)
    expires_at = job.created_at + delay_s + job.valid_for_s
    if job.queue_for_s is not None and machine.presence.state not in ONLINE_STATES:
        expires_at = max(expires_at, job.created_at + job.queue_for_s)
    refusal = _refusal(job, machine)
    return Execution(
        id=execution_id,
        job_id=job.id,
        machine_id=machine.id,
        machine_name=machine.name,
        state=ExecutionState.REFUSED if refusal else ExecutionState.QUEUED,
        updated_at=job.created_at,
        due_at=due_at,
        expires_at=expires_at,
        detail=refusal or "",
    )


def order_for(job: Job, execution: Execution, now: float) -> Order:
    """The order to send to the machine now. One that reaches it after its time gives the person the delay again."""
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
    """Why the job must not be given to the agent that has joined, or ``None`` when it may.

    An agent that says neither how it asks nor why it cannot is older than the promise never to act because nobody
    can be asked: it would act at once.
    """
    if job.action is Action.WAKE or job.unasked is Unasked.ACT or machine.facts.says_how_it_asks:
        return None
    return (
        "its agent is too old to say whether it can ask a person, and would act without asking; "
        "update the agent, or use --unasked act"
    )


def advance(execution: Execution, state: ExecutionState, now: float, detail: str = "") -> Execution | None:
    """The execution in its next state, or ``None`` where the life cycle does not lead there.

    ``detail`` may hold an agent's words: it is made one line, and no longer than an agent's own report may be.
    """
    if state is execution.state or state not in LIFE_CYCLE[execution.state]:
        return None
    return msgspec.structs.replace(
        execution, state=state, updated_at=now, detail=safe_text(detail, TEXT_CHARACTERS_MAX)
    )


def receive_report(
    job: Job, execution: Execution, known: KnownExecution, now: float, *, power: str
) -> Execution | None:
    """An agent reports a state. That it restarted or shut down is not its to say: the way it went shows that."""
    if known.state in {ExecutionState.QUEUED, ExecutionState.DELIVERED}:
        return advance(execution, ExecutionState.DELIVERED, now)
    if known.state is ExecutionState.CANCELLED and not job.may_cancel:
        return None
    if known.state is ExecutionState.POSTPONED or known.state is ExecutionState.ACTING:
        return None  # Both are the control server's own decision, made when the agent asked for it.
    if known.state is ExecutionState.DONE and job.action is not Action.LOG_OFF and power != "dry-run":
        return None
    record = _record_told(execution, known)
    if known.state in {ExecutionState.WAITING, ExecutionState.PROMPTED}:
        return _next_round(execution, known, record, now)
    after = advance(execution, known.state, now, known.detail)
    return None if after is None else msgspec.structs.replace(after, **record)


def _record_told(execution: Execution, known: KnownExecution | Claim) -> dict[str, str]:
    """Who was asked, who answered and how others were told, as the agent knows it now.

    An answer belongs to its question: a new question that nobody has answered has no answer.
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
    """It waits or asks; perhaps as before, but for another reason, or asks other persons."""
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

    An agent asks only for what its journal does not say it began. So when it asks again in the same boot, the
    first grant never reached it, and may be given once more.
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
        execution = msgspec.structs.replace(accepted, **_record_told(execution, claim))
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
        detail="",
        boot_id_before=claim.boot_id,
        hardware_before=hardware,
    )
    return grant, (*recorded, acting)


def postpone(
    job: Job, execution: Execution, postpone_s: float, now: float, detail: str, *, answered_by: str = ""
) -> tuple[Postponed, Execution | None]:
    """The person wants it later."""
    if not job.may_postpone:
        return Postponed(False, "the operator does not allow it to be postponed"), None
    if ExecutionState.POSTPONED not in LIFE_CYCLE[execution.state] or now >= execution.expires_at:
        return Postponed(False, f"it is {execution.state.value}"), None
    due_at = now + postpone_s
    latest_at = job.created_at + (job.delay_s or 0.0) + job.valid_for_s + POSTPONED_S_MAX
    if postpone_s <= 0:
        return Postponed(False, "it can only be put off to a later time"), None
    # Counted in elapsed time too: wishes add up to less than the questions in between take.
    postponed_s = execution.postponed_s + max(postpone_s, POSTPONED_S_LEAST)
    if postponed_s > POSTPONED_S_MAX or due_at > latest_at:
        return Postponed(False, f"it can be postponed by {POSTPONED_S_MAX / 3600:g} hours in all"), None
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
    """The operator stops what has not begun."""
    if execution.state.has_started:
        return None
    return advance(execution, ExecutionState.CANCELLED, now, f"cancelled by {cancelled_by or 'the operator'}")


def refuse_clone(execution: Execution, now: float, reason: str) -> Execution | None:
    """The machine's identity turned out to be cloned: what has not begun could be done by another machine."""
    if execution.state.has_started:
        return None
    return advance(execution, ExecutionState.REFUSED, now, reason)


def overdue(job: Job, execution: Execution, now: float) -> Execution | None:
    """What has not begun in time expires; what began and never showed its effect is unknown."""
    if execution.state.is_final:
        return None
    if execution.state is ExecutionState.ACTING:
        if now < execution.updated_at + ACTING_S_MAX[job.action]:
            return None
        if job.action is Action.WAKE:
            return advance(execution, ExecutionState.FAILED, now, "it did not come online")
        return advance(
            execution, ExecutionState.UNKNOWN, now, "it began, and nothing was heard of its outcome"
        )
    if now < execution.expires_at:
        return None
    why = "its time ran out"
    if execution.state is ExecutionState.QUEUED:
        why = "it never reached the machine"
    elif execution.state is ExecutionState.WAITING and execution.detail:
        why += f"; {execution.detail}"
    return advance(execution, ExecutionState.EXPIRED, now, why)


def complete_when_gone(job: Job, execution: Execution, presence: Presence, now: float) -> Execution | None:
    """A machine that said goodbye is gone for certain: the shutdown that made it go is done.

    A goodbye alone proves nothing, as a shutdown can be called off after it.
    """
    if job.action is not Action.SHUT_DOWN or presence.execution_id != execution.id:
        return None
    if presence.cause is not Cause.SHUT_DOWN:
        return None
    return advance(execution, ExecutionState.DONE, now, "it said goodbye and went")


def reconcile_on_join(
    job: Job, execution: Execution, machine: Machine, known: KnownExecution | None, now: float
) -> Execution | None:
    """A machine is back: its boot id, and what its agent remembers, settle what was open.

    Of a restart or shutdown that had begun:

    ====================================  =======================  ==============================================
    what the agent knows                  boot id                  the execution
    ====================================  =======================  ==============================================
    it is still at it                     any                      goes on
    anything else, on other hardware      any                      unknown: another machine has its identity
    it failed, or was called off          any                      failed
    nothing                               any                      failed: its journal would say that it began
    it began                              another                  done
    it began                              the same                 unknown: it was not restarted since
    it began                              not known, now or then   unknown: whether it restarted cannot be told
    its outcome is not known              as for "it began"        as for "it began"
    ====================================  =======================  ==============================================

    What is unknown is settled in the same way by a later join.
    """
    if job.action is Action.WAKE:
        return advance(execution, ExecutionState.DONE, now, "it is online")
    if execution.state in {ExecutionState.ACTING, ExecutionState.UNKNOWN}:
        after = clones.hardware(machine.facts)
        is_same = not machine.claimants and clones.is_same_hardware(execution.hardware_before, after)
        if not is_same and (known is None or not known.is_running):
            why = "another machine with the same identity came back; what this one did is not known"
            return advance(execution, ExecutionState.UNKNOWN, now, why)
        return _reconcile_started(job, execution, machine, known, now)
    if now >= execution.expires_at:
        return overdue(job, execution, now)
    if known is not None:
        return receive_report(job, execution, known, now, power=machine.facts.power)
    return None


def _reconcile_started(
    job: Job, execution: Execution, machine: Machine, known: KnownExecution | None, now: float
) -> Execution | None:
    if known is not None and known.is_running:
        return None
    if known is not None and known.state is ExecutionState.FAILED:
        # What the machine refused to do did not make it go; it may have gone for another reason.
        return receive_report(job, execution, known, now, power=machine.facts.power)
    if known is None:
        # It would stand in the journal if it had begun, whatever boot this is.
        return advance(execution, ExecutionState.FAILED, now, "the agent stopped before it could act")
    before, boot_id = execution.boot_id_before, machine.facts.boot_id
    if job.action is not Action.LOG_OFF and before and boot_id and boot_id != before:
        went = "back with a new boot id" if job.action is Action.RESTART else "it went; it is on again since"
        return advance(execution, ExecutionState.DONE, now, went)
    if known.state.is_final:
        return receive_report(job, execution, known, now, power=machine.facts.power)
    if known.state is not ExecutionState.ACTING:
        return advance(execution, ExecutionState.FAILED, now, "the agent stopped before it could act")
    if job.action is Action.LOG_OFF:
        since = ""
    elif before and boot_id:
        since = f", and the machine was not {job.action.past} since"
    else:
        since = f"; whether the machine was {job.action.past} cannot be told, because it has no boot id"
    return advance(
        execution, ExecutionState.UNKNOWN, now, f"the agent stopped while it acted{since}; not repeated"
    )


def _countdown_s(job: Job, execution: Execution) -> float:
    """How long a person has to answer at least: as long as the operator chose, but no longer than the default."""
    if job.delay_s is None or execution.postponed_s > 0:
        return DEFAULT_COUNTDOWN_S
    return min(job.delay_s, DEFAULT_COUNTDOWN_S)


def _refusal(job: Job, machine: Machine) -> str | None:
    if (reason := clones.refusal(machine)) is not None:
        return reason
    is_on = machine.presence.state in ONLINE_STATES
    if job.action is Action.WAKE:
        if machine.presence.state in {PresenceState.ONLINE, PresenceState.SILENT}:
            return "it is on already"
        if not machine.facts.mac_addresses:
            return "its network address (MAC) is not known, so it cannot be woken"
        return None
    if not is_on and job.queue_for_s is None:
        return f"it is {describe_presence(machine.presence)}; use --queue-for to wait for it"
    return None


def describe_presence(presence: Presence) -> str:
    """State and cause as part of a sentence: ``offline (shut down)``."""
    return (
        f"{presence.state.value} ({presence.cause.value})" if presence.cause.value else presence.state.value
    )


def _unknown_target(target: str, names: list[str]) -> str:
    what = "no machine matches" if _is_pattern(target) else "there is no machine called"
    # Those that begin alike: to compare it with thousands of names would take too long.
    here = bisect.bisect(names, target)
    near = names[max(0, here - HINT_NAMES_MAX // 2) : here + HINT_NAMES_MAX // 2]
    close = difflib.get_close_matches(target, near, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else "; 'landline ls' shows all names"
    return f"{what} {target[:80]!r}{hint}"
