"""What the return or the loss of a machine proves about its open executions. Pure.

Each function returns the execution to store, or ``None`` if nothing changes.
"""

from __future__ import annotations

from enum import Enum, auto

from landline.fleet.control import clones, jobs
from landline.fleet.messages import KnownExecution
from landline.fleet.model import Action, Cause, Execution, ExecutionState, Job, Machine, Presence


class _Report(Enum):
    """What a returning agent reports about an execution that had started to act."""

    RUNNING = auto()
    """This agent process is still carrying it out."""
    FAILED = auto()
    """It failed or was called off."""
    NOTHING = auto()
    """The agent does not know it. Its journal would have it if it had started, in this boot or an earlier one."""
    NOT_STARTED = auto()
    """Its last state is one before acting."""
    STARTED = auto()
    """It started to act; the outcome is not known."""
    ENDED = auto()
    """It ended in another way."""


class _Boot(Enum):
    """How the machine's boot relates to the boot in which the execution started."""

    OTHER = auto()
    SAME = auto()
    UNKNOWN = auto()
    """One of the two boot ids is not known."""
    IRRELEVANT = auto()
    """A log off: a new boot proves nothing."""


def complete_when_gone(job: Job, execution: Execution, presence: Presence, now: float) -> Execution | None:
    """Complete the shutdown that made a machine say goodbye, once the machine is certainly gone.

    A goodbye alone proves nothing, because a shutdown can be called off after it.
    """
    if job.action is not Action.SHUT_DOWN or presence.execution_id != execution.id:
        return None
    if presence.cause is not Cause.SHUT_DOWN:
        return None
    return jobs.advance(execution, ExecutionState.DONE, now, "it said goodbye and went")


def reconcile_on_join(
    job: Job, execution: Execution, machine: Machine, known: KnownExecution | None, now: float
) -> Execution | None:
    """Reconcile an open execution with what a returning machine and its agent report.

    An execution that had not started to act expires, or takes the state that the agent reports. For one that had:

    ====================================  =======================  ==============================================
    what the agent reports                boot id                  the execution
    ====================================  =======================  ==============================================
    it is still carrying it out           any                      continues
    anything else, on other hardware      any                      unknown: another machine has its identity
    it failed, or was called off          any                      failed
    nothing                               any                      failed: its journal would say that it started
    it started                            another                  done
    it started                            the same                 unknown: the machine was not restarted since
    it started                            not known, now or then   unknown: it cannot be determined whether it restarted
    its outcome is unknown                as for "it started"      as for "it started"
    ====================================  =======================  ==============================================

    A later join resolves what is unknown in the same way.
    """
    if job.action is Action.WAKE:
        return jobs.advance(execution, ExecutionState.DONE, now, "it is online")
    if execution.state not in {ExecutionState.ACTING, ExecutionState.UNKNOWN}:
        if now >= execution.expires_at:
            return jobs.overdue(job, execution, now)
        if known is None:
            return None
        return jobs.receive_report(job, execution, known, now, power=machine.facts.power)
    if (known is None or not known.is_running) and not _is_same_machine(execution, machine):
        why = "another machine with the same identity came back; what this one did is not known"
        return jobs.advance(execution, ExecutionState.UNKNOWN, now, why)
    return _reconcile_started(job, execution, machine, known, now)


def _reconcile_started(
    job: Job, execution: Execution, machine: Machine, known: KnownExecution | None, now: float
) -> Execution | None:
    match _classify_report(known), _compare_boots(job, execution, machine):
        case _Report.RUNNING, _:
            return None
        case (_Report.FAILED, _) | (_Report.ENDED, _Boot.SAME | _Boot.UNKNOWN | _Boot.IRRELEVANT):
            # Also in another boot: what the machine refused to do did not restart it.
            assert known is not None
            return jobs.receive_report(job, execution, known, now, power=machine.facts.power)
        case (_Report.NOTHING, _) | (_Report.NOT_STARTED, _Boot.SAME | _Boot.UNKNOWN | _Boot.IRRELEVANT):
            return jobs.advance(
                execution, ExecutionState.FAILED, now, "the agent stopped before it could act"
            )
        case _, _Boot.OTHER:
            went = (
                "back with a new boot id" if job.action is Action.RESTART else "it went; it is on again since"
            )
            return jobs.advance(execution, ExecutionState.DONE, now, went)
        case _, boot:
            return jobs.advance(execution, ExecutionState.UNKNOWN, now, _unknown_detail(job.action, boot))


def _classify_report(known: KnownExecution | None) -> _Report:
    if known is None:
        return _Report.NOTHING
    if known.is_running:
        return _Report.RUNNING
    if known.state is ExecutionState.FAILED:
        return _Report.FAILED
    if known.state is ExecutionState.ACTING:
        return _Report.STARTED
    return _Report.ENDED if known.state.is_final else _Report.NOT_STARTED


def _compare_boots(job: Job, execution: Execution, machine: Machine) -> _Boot:
    if job.action is Action.LOG_OFF:
        return _Boot.IRRELEVANT
    before, now = execution.boot_id_before, machine.facts.boot_id
    if not before or not now:
        return _Boot.UNKNOWN
    return _Boot.SAME if before == now else _Boot.OTHER


def _is_same_machine(execution: Execution, machine: Machine) -> bool:
    """Return whether nothing suggests that another machine has this identity."""
    hardware = clones.hardware(machine.facts)
    return not machine.claimants and clones.is_same_hardware(execution.hardware_before, hardware)


def _unknown_detail(action: Action, boot: _Boot) -> str:
    since = {
        _Boot.SAME: f", and the machine was not {action.past} since",
        _Boot.UNKNOWN: f"; whether the machine was {action.past} cannot be determined, because it has no boot id",
        _Boot.IRRELEVANT: "",
    }[boot]
    return f"the agent stopped while it acted{since}; not repeated"
