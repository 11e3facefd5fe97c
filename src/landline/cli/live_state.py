"""What ``watch`` and a followed job know: machines and jobs, and how each update changes them."""

from __future__ import annotations

from typing import Final

from landline.cli.formatting import execution_line, machine_count, presence_text
from landline.cli.terminal_text import printable
from landline.fleet.api import JobChanged, JobView, MachineChanged, Snapshot, Update
from landline.fleet.model import Machine, PresenceState

ENDED_JOBS_KEPT: Final = 3
"""Jobs that ended while they were watched stay in view until this many newer ones ended."""


def is_over(view: JobView) -> bool:
    """Whether nothing more is expected of the job."""
    return all(execution.state.is_final for execution in view.executions)


class Board:
    """The machines and jobs as the updates so far tell them. No I/O."""

    def __init__(self) -> None:
        self.now_at: float | None = None
        """The server's time at the newest update; ``None`` before the first."""
        self._machines: dict[str, Machine] = {}
        self._jobs: dict[str, JobView] = {}

    def machines(self) -> list[Machine]:
        """Every machine, in order of name."""
        return sorted(self._machines.values(), key=lambda machine: (machine.name, machine.id))

    def jobs(self) -> list[JobView]:
        """Open jobs and the last few that ended, newest first."""
        return sorted(self._jobs.values(), key=lambda view: view.job.created_at, reverse=True)

    def apply(self, update: Update) -> list[str]:
        """Takes in an update and says in printable lines what changed for people."""
        is_first = self.now_at is None
        self.now_at = update.now_at
        match update:
            case Snapshot():
                return self._restart(update, is_first)
            case MachineChanged():
                return self._put_machine(update.machine)
            case JobChanged():
                return self._put_job(update.job)

    def _restart(self, snapshot: Snapshot, is_first: bool) -> list[str]:
        lines = [machine_count(snapshot.machines)] if is_first else []
        present = {machine.id for machine in snapshot.machines}
        gone = [self._machines.pop(known) for known in list(self._machines) if known not in present]
        lines += [f"{printable(machine.name)} is no longer known" for machine in gone]
        for machine in snapshot.machines:
            lines += self._put_machine(machine)
        still_open = {view.job.id for view in snapshot.jobs}
        for job_id, view in list(self._jobs.items()):
            if job_id not in still_open and not is_over(view):
                # It ended while nobody was listening; how, only the record of the job tells.
                del self._jobs[job_id]
                lines.append(f"job {printable(job_id)} is over; 'landline jobs {printable(job_id)}' says how")
        for view in snapshot.jobs:
            lines += self._put_job(view)
        return lines

    def _put_machine(self, machine: Machine) -> list[str]:
        before = self._machines.get(machine.id)
        self._machines[machine.id] = machine
        if before is not None and _shown(before) == _shown(machine):
            return []
        if machine.claimants:
            claimants = ", ".join(printable(each.description) for each in machine.claimants)
            return [f"{printable(machine.name)} cloned identity: {claimants}"]
        persons = ", ".join(printable(person.name) for person in machine.facts.persons)
        detail = f": {printable(machine.presence.detail)}" if machine.presence.detail else ""
        line = f"{printable(machine.name)} {presence_text(machine.presence)}{detail}"
        line += f" [{persons}]" * bool(persons)
        return [line + _problems(machine)]

    def _put_job(self, view: JobView) -> list[str]:
        before = self._jobs.pop(view.job.id, None)
        self._jobs[view.job.id] = view
        ended = [job_id for job_id, known in self._jobs.items() if is_over(known)]
        for job_id in ended[:-ENDED_JOBS_KEPT]:
            del self._jobs[job_id]
        title = f"job {printable(view.job.id)} {view.job.action}"
        return [f"{title} {line}" for line in changed_lines(before, view)]


def changed_lines(before: JobView | None, after: JobView) -> list[str]:
    """One printable line for every execution whose state or detail is not what it was."""
    known = {} if before is None else {e.id: (e.state, e.detail) for e in before.executions}
    return [execution_line(e) for e in after.executions if known.get(e.id) != (e.state, e.detail)]


def _shown(machine: Machine) -> tuple[object, ...]:
    presence = machine.presence
    shown = machine.name, presence.state, presence.cause, presence.detail, machine.facts.persons
    claimants = tuple((each.host_name, each.address, each.is_live) for each in machine.claimants)
    return *shown, claimants, _problems(machine)


def _problems(machine: Machine) -> str:
    """What a machine that is on says against acting on it, as the end of a line."""
    if machine.presence.state is PresenceState.OFFLINE:
        return ""
    facts = machine.facts
    parts = [
        f"; cannot tell who is on: {printable(facts.persons_problem)}" if facts.persons_problem else "",
        f"; cannot ask a person: {printable(facts.asking_problem)}" if facts.asking_problem else "",
    ]
    return "".join(parts)
