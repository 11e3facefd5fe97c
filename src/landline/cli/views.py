"""Machines and jobs as rows and sentences for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from landline.cli.ages import age, moment
from landline.cli.tables import Cell
from landline.cli.terminal import Colour, printable
from landline.fleet.api import JobView
from landline.fleet.model import Execution, ExecutionState, Machine, Presence, PresenceState

MACHINE_HEADER: Final = ("NAME", "PRESENCE", "PERSON", "ADDRESS", "HOST", "OS", "SINCE", "RTT")
DISPENSABLE_OF_MACHINE: Final = ("HOST", "OS", "RTT", "ADDRESS", "SINCE", "PERSON")
"""What a narrow screen does without, the first one first: which machine it is, and whether it is there, stay."""
JOB_HEADER: Final = ("JOB", "ACTION", "TARGETS", "BY", "AGE", "MACHINES")
EXECUTION_HEADER: Final = ("MACHINE", "STATE", "SINCE", "DETAIL")

PRESENCE_COLOUR: Final = {
    PresenceState.ONLINE: Colour.GOOD,
    PresenceState.SILENT: Colour.WAITING,
    PresenceState.RESUMING: Colour.WAITING,
    PresenceState.AWAY: Colour.WAITING,
    PresenceState.OFFLINE: Colour.BAD,
}


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
        Cell(", ".join(person.name for person in facts.persons)),
        Cell(presence.address),
        Cell(facts.host_name),
        Cell(facts.os),
        Cell(age(now_at - presence.since_at)),
        Cell("" if trip is None else f"{trip * 1000:.1f} ms"),
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
        for event in view.events:
            if event.execution_id == execution.id:
                detail = f"  {printable(event.detail)}" if event.detail else ""
                lines.append(f"  {moment(event.at, now_at)}  {event.state}{detail}")
    return lines
