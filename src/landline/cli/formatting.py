"""Machines and jobs as rows and sentences for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from landline.cli.ages import age, moment
from landline.cli.tables import Cell
from landline.cli.terminal_text import Colour, printable
from landline.fleet.api import JobView
from landline.fleet.model import (
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
DISPENSABLE_OF_MACHINE: Final = ("HOST", "OS", "RTT", "ADDRESS", "SINCE", "ASK", "PERSON")
"""What a narrow screen does without, the first one first: which machine it is, and whether it is there, stay."""
NAMES_LISTED_MAX: Final = 5
"""Names in one sentence; the others are counted."""
JOB_HEADER: Final = ("JOB", "ACTION", "TARGETS", "BY", "AGE", "MACHINES")
EXECUTION_HEADER: Final = ("MACHINE", "STATE", "SINCE", "DETAIL")

PRESENCE_COLOUR: Final = {
    PresenceState.ONLINE: Colour.GOOD,
    PresenceState.SILENT: Colour.WAITING,
    PresenceState.RESUMING: Colour.WAITING,
    PresenceState.AWAY: Colour.WAITING,
    PresenceState.OFFLINE: Colour.BAD,
}

GONE: Final = frozenset({PresenceState.AWAY, PresenceState.OFFLINE})
"""Presences of a machine that is down: who was on before is nobody to ask, and nobody to take for being there."""


def execution_colour(state: ExecutionState) -> Colour:
    """Good when done, bad when it ended otherwise, waiting until then."""
    if state is ExecutionState.DONE:
        return Colour.GOOD
    return Colour.BAD if state.is_final else Colour.WAITING


def counted(number: int, noun: str) -> str:
    """``1 machine``, ``8 machines``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def machine_count(machines: Iterable[Machine]) -> str:
    """``8 machines: 6 online, 1 away, 1 offline``."""
    states = Counter(machine.presence.state for machine in machines)
    if not states:
        return "0 machines"
    parts = ", ".join(f"{states[state]} {state}" for state in PresenceState if states[state])
    return f"{counted(states.total(), 'machine')}: {parts}"


def presence_text(presence: Presence) -> str:
    """The state, with its cause in brackets where there is one that says more."""
    cause = str(presence.cause)
    return f"{presence.state} ({cause})" if cause and cause != presence.state else str(presence.state)


def machine_row(machine: Machine, now_at: float) -> tuple[Cell, ...]:
    """The fields of :data:`MACHINE_HEADER`."""
    presence, facts = machine.presence, machine.facts
    trip = machine.round_trip_s
    return (
        Cell(facts.name, Colour.STRONG),
        Cell(presence_text(presence), PRESENCE_COLOUR[presence.state]),
        persons_cell(facts.persons, facts.knows_persons, presence.state),
        asking_cell(facts, presence.state),
        Cell(presence.address),
        Cell(facts.host_name),
        Cell(facts.os),
        Cell(age(now_at - presence.since_at)),
        Cell("" if trip is None else f"{trip * 1000:.1f} ms"),
    )


def persons_cell(persons: Sequence[Person], knows_persons: bool, state: PresenceState) -> Cell:
    """Who is on; nothing where nobody is or the machine is off, ``unknown`` where the agent cannot tell."""
    if state in GONE:
        return Cell("")
    if persons or knows_persons:
        return Cell(", ".join(person.name for person in persons))
    return Cell("unknown", Colour.WAITING)


def asking_cell(facts: Facts, state: PresenceState) -> Cell:
    """How a person is asked: ``tk on :0``, ``no``, ``unknown`` where an agent never said; nothing when it is off."""
    if state in GONE:
        return Cell("")
    if facts.asks_by:
        return Cell(facts.asks_by)
    return Cell("no" if facts.asking_problem else "unknown", Colour.WAITING)


def problem_lines(machines: Iterable[Machine]) -> list[str]:
    """One printable line for every reason why machines cannot ask a person, or cannot tell who is on."""
    reasons: dict[str, list[str]] = {}
    for machine in machines:
        facts = machine.facts
        if machine.presence.state in GONE:
            continue
        if not facts.asks_by:
            why = facts.asking_problem or "the agent did not say how it asks"
            reasons.setdefault(f"cannot ask a person: {why}", []).append(facts.name)
        if not facts.knows_persons:
            why = facts.persons_problem or "the agent did not say"
            reasons.setdefault(f"cannot tell who is on: {why}", []).append(facts.name)
    return [printable(f"{listed(names)} {what}") for what, names in reasons.items()]


def listed(names: Sequence[str]) -> str:
    """``lab-1, lab-2 and 4 more``."""
    left = len(names) - NAMES_LISTED_MAX
    return ", ".join(names[:NAMES_LISTED_MAX]) + (f" and {left} more" if left > 0 else "")


def waiting_hint(view: JobView) -> str:
    """What the operator can do for machines that wait for a person; empty when none waits."""
    number = sum(execution.state is ExecutionState.WAITING for execution in view.executions)
    if not number:
        return ""
    one, job_id = number == 1, printable(view.job.id)
    waits = f"{counted(number, 'machine')} {'waits' if one else 'wait'} because nobody can be asked"
    if view.job.unasked is Unasked.ACT:
        then = "it acts" if one else "they act"
        return f"{waits}; {then} after the countdown. 'landline cancel {job_id}' stops what has not begun."
    then = "it goes on" if one else "they go on"
    return (
        f"{waits}; {then} when somebody can be asked or nobody is on, else the job expires. "
        f"'landline cancel {job_id}' stops it; --unasked act would act without an answer."
    )


def machine_rows(machine: Machine, now_at: float) -> list[tuple[Cell, ...]]:
    """A row for a machine; where its identity is cloned, one for each that uses it."""
    if not machine.claimants:
        return [machine_row(machine, now_at)]
    return [_claimant_row(machine, claimant, now_at) for claimant in machine.claimants]


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
        Cell(age(now_at - claimant.since_at)),
        Cell(""),
    )


def state_count(view: JobView) -> str:
    """``3 done, 1 failed``, in the order of the life cycle."""
    states = Counter(execution.state for execution in view.executions)
    return ", ".join(f"{states[state]} {state}" for state in ExecutionState if states[state])


def job_row(view: JobView, now_at: float) -> tuple[Cell, ...]:
    """The fields of :data:`JOB_HEADER`."""
    job = view.job
    return (
        Cell(job.id, Colour.STRONG),
        Cell(str(job.action)),
        Cell(" ".join(job.targets) or counted(len(view.executions), "machine")),
        Cell(job.requested_by),
        Cell(age(now_at - job.created_at)),
        Cell(state_count(view)),
    )


def execution_row(execution: Execution, now_at: float) -> tuple[Cell, ...]:
    """The fields of :data:`EXECUTION_HEADER`."""
    return (
        Cell(execution.machine_name, Colour.STRONG),
        Cell(str(execution.state), execution_colour(execution.state)),
        Cell(age(now_at - execution.updated_at)),
        Cell(execution.detail),
    )


def execution_line(execution: Execution) -> str:
    """One printable line: machine, state and detail."""
    detail = f" ({printable(execution.detail)})" if execution.detail else ""
    return f"{printable(execution.machine_name)}: {execution.state}{detail}"


def job_summary(view: JobView) -> str:
    """``restart of 3 machines: 2 done, 1 failed.``"""
    number = counted(len(view.executions), "machine")
    return f"{view.job.action} of {number}: {state_count(view) or 'nothing to do'}."


def life_lines(view: JobView, now_at: float) -> list[str]:
    """A job machine by machine, each with the steps of its life in order."""
    lines = []
    for execution in view.executions:
        lines.append(execution_line(execution))
        lines += _record_lines(execution)
        for event in view.events:
            if event.execution_id == execution.id:
                detail = f"  {printable(event.detail)}" if event.detail else ""
                lines.append(f"  {moment(event.at, now_at)}  {event.state}{detail}")
    return lines


def _record_lines(execution: Execution) -> list[str]:
    """Who was asked, who answered, and how others were told, as far as any of it happened."""
    parts = [
        f"asked: {execution.asked}" if execution.asked else "",
        f"answered: {execution.answered_by or 'nobody'}" if execution.asked else "",
        f"told by: {execution.notices}" if execution.notices else "",
    ]
    record = "; ".join(filter(None, parts))
    return [f"  {printable(record)}"] if record else []
