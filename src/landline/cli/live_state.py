"""The machines and jobs that ``watch`` shows, kept up to date by the updates of the control server. No I/O."""

from __future__ import annotations

from typing import Final

from landline.cli.exit_codes import NO_SERVER, CommandFailed
from landline.cli.formatting import execution_line, machine_count, presence_text
from landline.cli.terminal_text import printable
from landline.fleet.api import JobChanged, JobView, MachineChanged, Snapshot, Update
from landline.fleet.model import Machine, PresenceState

ENDED_JOBS_KEPT: Final = 3
"""Jobs that ended while they were watched are shown until this many newer ones have ended."""


class OtherServer(CommandFailed):
    """Another control server answers at the address of the one that was watched."""

    def __init__(self, consequence: str) -> None:
        super().__init__(
            f"Another control server answers at this address now, with other machines and jobs; {consequence}.",
            NO_SERVER,
        )


def is_over(view: JobView) -> bool:
    """Return whether the job is over: every execution is in a final state."""
    return all(execution.state.is_final for execution in view.executions)


def is_other_server(known_id: str, snapshot: Snapshot) -> bool:
    """Return whether ``snapshot`` is from another server than ``known_id``. An id that is not known is no other."""
    return bool(known_id and snapshot.server_id and known_id != snapshot.server_id)


class LiveState:
    """The machines and jobs after the updates so far."""

    def __init__(self) -> None:
        self.now_at: float | None = None
        """The server's time at the newest update; ``None`` before the first."""
        self._server_id = ""
        self._machines: dict[str, Machine] = {}
        self._jobs: dict[str, JobView] = {}

    def machines(self) -> list[Machine]:
        """Return every machine, in order of name."""
        return sorted(self._machines.values(), key=lambda machine: (machine.name, machine.id))

    def jobs(self) -> list[JobView]:
        """Return open jobs and the last few that ended, newest first."""
        return sorted(self._jobs.values(), key=lambda view: view.job.created_at, reverse=True)

    def apply(self, update: Update) -> list[str]:
        """Apply an update, and return its changes as printable lines.

        :raises OtherServer: when a snapshot is from another server than the one before; nothing changes.
        """
        if isinstance(update, Snapshot) and is_other_server(self._server_id, update):
            raise OtherServer("start the command again to watch that one")
        is_first = self.now_at is None
        self.now_at = update.now_at
        match update:
            case Snapshot():
                self._server_id = update.server_id
                return self._apply_snapshot(update, is_first)
            case MachineChanged():
                return self._put_machine(update.machine)
            case JobChanged():
                return self._put_job(update.job)

    def _apply_snapshot(self, snapshot: Snapshot, is_first: bool) -> list[str]:
        lines = [machine_count(snapshot.machines)] if is_first else []
        present = {machine.id for machine in snapshot.machines}
        missing = [self._machines.pop(known) for known in list(self._machines) if known not in present]
        lines += [f"{printable(machine.name)} is no longer known" for machine in missing]
        for machine in snapshot.machines:
            lines += self._put_machine(machine)
        still_open = {view.job.id for view in snapshot.jobs}
        for job_id, view in list(self._jobs.items()):
            if job_id not in still_open and not is_over(view):
                # A snapshot holds open jobs only. What became of this one is in its record.
                del self._jobs[job_id]
                lines.append(
                    f"job {printable(job_id)} is no longer open; 'landline jobs {printable(job_id)}' shows the result"
                )
        for view in snapshot.jobs:
            lines += self._put_job(view)
        return lines

    def _put_machine(self, machine: Machine) -> list[str]:
        before = self._machines.get(machine.id)
        self._machines[machine.id] = machine
        if before is not None and _shown_fields(before) == _shown_fields(machine):
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
    """Return one printable line for each execution whose state or detail has changed."""
    known = {} if before is None else {e.id: (e.state, e.detail) for e in before.executions}
    return [execution_line(e) for e in after.executions if known.get(e.id) != (e.state, e.detail)]


def _shown_fields(machine: Machine) -> tuple[object, ...]:
    presence = machine.presence
    shown = machine.name, presence.state, presence.cause, presence.detail, machine.facts.persons
    claimants = tuple((each.host_name, each.address, each.is_live) for each in machine.claimants)
    return *shown, claimants, _problems(machine)


def _problems(machine: Machine) -> str:
    """Return why a machine that is on may not be able to act, as the end of a line."""
    if machine.presence.state is PresenceState.OFFLINE:
        return ""
    facts = machine.facts
    parts = [
        f"; cannot tell who is logged on: {printable(facts.persons_problem)}"
        if facts.persons_problem
        else "",
        f"; cannot ask a person: {printable(facts.asking_problem)}" if facts.asking_problem else "",
    ]
    return "".join(parts)
