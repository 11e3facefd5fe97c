"""Machines and jobs as table rows and sentences."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from landline.cli.tables import Cell
from landline.cli.terminal_text import Colour, printable
from landline.fleet.api import JobView
from landline.fleet.model import (
    Action,
    Claimant,
    Execution,
    ExecutionState,
    Facts,
    Machine,
    Person,
    Presence,
    PresenceState,
    Unasked,
)

MACHINE_HEADER: Final = ("NAME", "PRESENCE", "PERSON", "ASK", "ADDRESS", "HOST", "OS", "SINCE", "RTT")
OPTIONAL_MACHINE_COLUMNS: Final = ("HOST", "OS", "RTT", "ADDRESS", "SINCE", "ASK", "PERSON")
"""Columns that a narrow terminal leaves out, the first one first. The name and the presence always stay."""
NAMES_LISTED_MAX: Final = 5
"""Names in one sentence; the others are counted."""
JOB_HEADER: Final = ("JOB", "ACTION", "TARGETS", "BY", "AGE", "MACHINES")
EXECUTION_HEADER: Final = ("MACHINE", "STATE", "SINCE", "DETAIL")

ACTION_VERB: Final = {
    Action.LOG_OFF: "log off",
    Action.RESTART: "restart",
    Action.SHUT_DOWN: "shut down",
    Action.WAKE: "wake",
}

PRESENCE_COLOUR: Final = {
    PresenceState.ONLINE: Colour.GOOD,
    PresenceState.SILENT: Colour.WAITING,
    PresenceState.RESUMING: Colour.WAITING,
    PresenceState.AWAY: Colour.WAITING,
    PresenceState.OFFLINE: Colour.BAD,
}

DOWN: Final = frozenset({PresenceState.AWAY, PresenceState.OFFLINE})
"""Presences of a machine that is down. The person who was logged on before is not there to be asked."""


# Times


def duration_text(seconds: float) -> str:
    """Return a duration in its largest units: ``12 s``, ``5 min``, ``3 h 05 min``, ``2 d 4 h``. Negative is 0."""
    s = max(0, int(seconds))
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min"
    if s < 86_400:
        return f"{s // 3600} h {s % 3600 // 60:02} min"
    return f"{s // 86_400} d {s % 86_400 // 3600} h"


def local_time(at: float, now_at: float) -> str:
    """Return the local time of day of ``at``, with the date unless it is the day of ``now_at``."""
    local, today = time.localtime(at), time.localtime(now_at)
    day = "" if local[:3] == today[:3] else time.strftime("%Y-%m-%d ", local)
    return day + time.strftime("%H:%M:%S", local)


# Counts and lists


def counted(number: int, noun: str) -> str:
    """Return ``1 machine``, ``8 machines``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Sequence[str]) -> str:
    """Return ``lab-1, lab-2 and 4 more``."""
    left = len(names) - NAMES_LISTED_MAX
    return ", ".join(names[:NAMES_LISTED_MAX]) + (f" and {left} more" if left > 0 else "")


# Machines


def machine_count(machines: Iterable[Machine]) -> str:
    """Return ``8 machines: 6 online, 1 away, 1 offline``."""
    states = Counter(machine.presence.state for machine in machines)
    if not states:
        return "0 machines"
    parts = ", ".join(f"{states[state]} {state}" for state in PresenceState if states[state])
    return f"{counted(states.total(), 'machine')}: {parts}"


def presence_text(presence: Presence) -> str:
    """Return the state, with its cause in brackets unless the cause only repeats the state."""
    cause = str(presence.cause)
    return f"{presence.state} ({cause})" if cause and cause != presence.state else str(presence.state)


def machine_rows(machine: Machine, now_at: float) -> list[tuple[Cell, ...]]:
    """Return the row of a machine, or one row for each claimant of a cloned identity."""
    if not machine.claimants:
        return [_machine_row(machine, now_at)]
    return [_claimant_row(machine, claimant, now_at) for claimant in machine.claimants]


def persons_cell(persons: Sequence[Person], knows_persons: bool, state: PresenceState) -> Cell:
    """Return who is logged on: empty if the machine is down or no one is, ``unknown`` if the agent cannot tell."""
    if state in DOWN:
        return Cell("")
    if persons or knows_persons:
        return Cell(", ".join(person.name for person in persons))
    return Cell("unknown", Colour.WAITING)


def problem_lines(machines: Iterable[Machine]) -> list[str]:
    """Return one printable line for each reason why machines cannot ask a person, or cannot tell who is logged on."""
    reasons: dict[str, list[str]] = {}
    for machine in machines:
        facts = machine.facts
        if machine.presence.state in DOWN:
            continue
        if not facts.asks_by:
            why = facts.asking_problem or "the agent did not say how it asks"
            reasons.setdefault(f"cannot ask a person: {why}", []).append(facts.name)
        if not facts.knows_persons:
            why = facts.persons_problem or "the agent did not say why"
            reasons.setdefault(f"cannot tell who is logged on: {why}", []).append(facts.name)
    return [printable(f"{listed(names)} {what}") for what, names in reasons.items()]


def _machine_row(machine: Machine, now_at: float) -> tuple[Cell, ...]:
    """Return the cells of :data:`MACHINE_HEADER`."""
    presence, facts = machine.presence, machine.facts
    round_trip_s = machine.round_trip_s
    return (
        Cell(facts.name, Colour.STRONG),
        Cell(presence_text(presence), PRESENCE_COLOUR[presence.state]),
        persons_cell(facts.persons, facts.knows_persons, presence.state),
        _asking_cell(facts, presence.state),
        Cell(presence.address),
        Cell(facts.host_name),
        Cell(facts.os),
        Cell(duration_text(now_at - presence.since_at)),
        Cell("" if round_trip_s is None else f"{round_trip_s * 1000:.1f} ms"),
    )


def _asking_cell(facts: Facts, state: PresenceState) -> Cell:
    """Return how a person is asked: ``tk on :0``, ``no``, or ``unknown``; empty when the machine is down."""
    if state in DOWN:
        return Cell("")
    if facts.asks_by:
        return Cell(facts.asks_by)
    return Cell("no" if facts.asking_problem else "unknown", Colour.WAITING)


def _claimant_row(machine: Machine, claimant: Claimant, now_at: float) -> tuple[Cell, ...]:
    state = PresenceState.ONLINE if claimant.is_live else PresenceState.OFFLINE
    return (
        Cell(machine.name, Colour.STRONG),
        Cell(f"{state} (cloned identity)", Colour.BAD),
        Cell(""),
        Cell(""),
        Cell(claimant.address),
        Cell(claimant.host_name or claimant.name),
        Cell(machine.facts.os),
        Cell(duration_text(now_at - claimant.since_at)),
        Cell(""),
    )


# Jobs


def job_row(view: JobView, now_at: float) -> tuple[Cell, ...]:
    """Return the cells of :data:`JOB_HEADER`."""
    job = view.job
    return (
        Cell(job.id, Colour.STRONG),
        Cell(str(job.action)),
        Cell(" ".join(job.targets) or counted(len(view.executions), "machine")),
        Cell(job.requested_by),
        Cell(duration_text(now_at - job.created_at)),
        Cell(_state_count(view)),
    )


def job_summary(view: JobView) -> str:
    """Return ``restart of 3 machines: 2 done, 1 failed.``"""
    number = counted(len(view.executions), "machine")
    return f"{view.job.action} of {number}: {_state_count(view) or 'nothing to do'}."


def waiting_hint(view: JobView) -> str:
    """Return what the operator can do for machines that wait for a person; empty when none waits."""
    number = sum(execution.state is ExecutionState.WAITING for execution in view.executions)
    if not number:
        return ""
    one, job_id = number == 1, printable(view.job.id)
    waits = f"{counted(number, 'machine')} {'waits' if one else 'wait'} because no person can be asked"
    if view.job.unasked is Unasked.ACT:
        then = "it acts" if one else "they act"
        return (
            f"{waits}; {then} after the countdown. 'landline cancel {job_id}' cancels what has not started."
        )
    then = "it continues" if one else "they continue"
    return (
        f"{waits}; {then} when a person can be asked or no one is logged on, or the job expires. "
        f"'landline cancel {job_id}' cancels it; --unasked act would act without an answer."
    )


def event_lines(view: JobView, now_at: float) -> list[str]:
    """Return a job machine by machine, each with its events in order."""
    lines = []
    for execution in view.executions:
        lines.append(execution_line(execution))
        lines += _consent_lines(execution)
        for event in view.events:
            if event.execution_id == execution.id:
                detail = f"  {printable(event.detail)}" if event.detail else ""
                lines.append(f"  {local_time(event.at, now_at)}  {event.state}{detail}")
    return lines


def _state_count(view: JobView) -> str:
    """Return ``3 done, 1 failed``, in the order of the life cycle."""
    states = Counter(execution.state for execution in view.executions)
    return ", ".join(f"{states[state]} {state}" for state in ExecutionState if states[state])


def _consent_lines(execution: Execution) -> list[str]:
    """Return who was asked, who answered, and how the other persons were notified, as far as it happened."""
    parts = [
        f"asked: {execution.asked}" if execution.asked else "",
        f"answered: {execution.answered_by or 'no one'}" if execution.asked else "",
        f"notified by: {execution.notices}" if execution.notices else "",
    ]
    record = "; ".join(filter(None, parts))
    return [f"  {printable(record)}"] if record else []


# Executions


def execution_colour(state: ExecutionState) -> Colour:
    """Return the colour of a state: good when done, bad when it ended otherwise, waiting until then."""
    if state is ExecutionState.DONE:
        return Colour.GOOD
    return Colour.BAD if state.is_final else Colour.WAITING


def execution_row(execution: Execution, now_at: float) -> tuple[Cell, ...]:
    """Return the cells of :data:`EXECUTION_HEADER`."""
    return (
        Cell(execution.machine_name, Colour.STRONG),
        Cell(str(execution.state), execution_colour(execution.state)),
        Cell(duration_text(now_at - execution.updated_at)),
        Cell(execution.detail),
    )


def execution_line(execution: Execution) -> str:
    """Return one printable line: machine, state and detail."""
    detail = f" ({printable(execution.detail)})" if execution.detail else ""
    return f"{printable(execution.machine_name)}: {execution.state}{detail}"
