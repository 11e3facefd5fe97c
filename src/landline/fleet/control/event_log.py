"""What the control server logs: one line for each event of a machine, a job or the server itself.

:data:`EVENTS` is the complete list; the table in ``docs/fleet.md`` is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple

from landline import RequestError
from landline.fleet.api import JobRequest, OperationError
from landline.fleet.log_lines import event_logger
from landline.fleet.model import Execution, ExecutionState, Job, Machine, Presence, PresenceState

PEERS_LINES_PER_S: Final = 100.0
"""Lines per second that machines may cause in the long run: an agent may pretend to be many machines."""
PEERS_LINES_AT_ONCE: Final = 20_000
"""Such lines at once after a quiet time: the largest fleet may return at once."""
STORAGE_AGAIN_S: Final = 10.0
"""Interval at which a repeated storage failure is logged. Writes are retried twice a second."""


class Event(NamedTuple):
    """An event that is logged: its level and the names of its fields, which it always has."""

    level: int
    fields: tuple[str, ...]


EVENTS: Final = {
    "control_started": Event(logging.INFO, ("version", "agents", "socket", "http", "machines")),
    "control_stopping": Event(logging.INFO, ("machines",)),
    "control_stopped": Event(logging.INFO, ()),
    "machine_joined": Event(logging.INFO, ("machine", "id", "address", "agent", "was")),
    "machine_replaced": Event(logging.INFO, ("machine", "id", "address", "agent", "was", "before")),
    "machine_silent": Event(logging.INFO, ("machine", "address", "detail")),
    "machine_resuming": Event(logging.INFO, ("machine", "cause", "detail")),
    "machine_recovered": Event(logging.INFO, ("machine", "address", "was", "after_s")),
    "machine_away": Event(logging.INFO, ("machine", "cause", "detail")),
    "machine_offline": Event(logging.INFO, ("machine", "cause", "detail")),
    "machine_renamed": Event(logging.WARNING, ("machine", "id", "before")),
    "join_refused": Event(logging.WARNING, ("id", "address", "code", "detail")),
    "job_accepted": Event(logging.INFO, ("job", "action", "by", "targets", "machines", "request")),
    "job_refused": Event(logging.INFO, ("action", "by", "targets", "code", "detail")),
    "job_cancelled": Event(logging.INFO, ("job", "by", "machines")),
    "execution_progress": Event(logging.DEBUG, ("job", "machine", "state", "detail")),
    "execution_waiting": Event(logging.INFO, ("job", "machine", "state", "detail")),
    "execution_answered": Event(logging.INFO, ("job", "machine", "state", "detail")),
    "execution_ended": Event(logging.INFO, ("job", "machine", "state", "detail")),
    "execution_failed": Event(logging.WARNING, ("job", "machine", "state", "detail")),
    "storage_failed": Event(logging.ERROR, ("detail", "times")),
    "clock_set_back": Event(logging.WARNING, ("by_s",)),
    "events_left_out": Event(logging.WARNING, ("count",)),
}

LOGGER: Final = "landline.control.events"
"""The logger of the events, apart from the control server's messages."""

_EXECUTION_EVENTS: Final = {
    ExecutionState.QUEUED: "execution_progress",
    ExecutionState.DELIVERED: "execution_progress",
    ExecutionState.WAITING: "execution_waiting",
    ExecutionState.PROMPTED: "execution_progress",
    ExecutionState.POSTPONED: "execution_answered",
    ExecutionState.ACCEPTED: "execution_answered",
    ExecutionState.ACTING: "execution_progress",
    ExecutionState.DONE: "execution_ended",
    ExecutionState.CANCELLED: "execution_ended",
    ExecutionState.REFUSED: "execution_ended",
    ExecutionState.FAILED: "execution_failed",
    ExecutionState.EXPIRED: "execution_failed",
    ExecutionState.UNKNOWN: "execution_failed",
}

_CONNECTED: Final = frozenset({PresenceState.ONLINE, PresenceState.SILENT})


class EventLog:
    """Logs events to :data:`LOGGER`.

    Events caused by machines are limited by :data:`PEERS_LINES_PER_S` and :data:`PEERS_LINES_AT_ONCE`; the number of
    omitted ones is logged with the next one. Events caused by operators and the server are never omitted.
    """

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._log = event_logger(LOGGER)
        self._clock = clock
        self._peers_until = 0.0
        self._left_out = 0
        self._storage_detail = ""
        self._storage_times = 0
        self._storage_logged_at = 0.0

    def event(self, name: str, **fields: Any) -> None:
        """Log one of :data:`EVENTS`."""
        level = EVENTS[name].level
        if self._log.isEnabledFor(level):
            self._log.log(level, name, **fields)

    def _peers_event(self, name: str, **fields: Any) -> None:
        """Log an event caused by a machine, unless there are too many (generic cell rate algorithm)."""
        now = self._clock()
        until = max(self._peers_until, now) + 1.0 / PEERS_LINES_PER_S
        if until - now > PEERS_LINES_AT_ONCE / PEERS_LINES_PER_S + 1e-9:
            self._left_out += 1
            return
        self._peers_until = until
        if self._left_out:
            left_out, self._left_out = self._left_out, 0
            self.event("events_left_out", count=left_out)
        self.event(name, **fields)

    # Machines

    def machine_changed(self, before: Machine | None, after: Machine) -> None:
        """Log the events that the change of a machine stands for, if any."""
        if before is not None and before.name != after.name:
            self._peers_event("machine_renamed", machine=after.name, id=after.id, before=before.name)
        change = presence_event(None if before is None else before.presence, after.presence)
        if change is None:
            return
        name, fields = change
        if name in {"machine_joined", "machine_replaced"}:
            agent = after.facts.agent_version
            fields = {"id": after.id, "address": after.presence.address, "agent": agent, **fields}
        self._peers_event(name, machine=after.name, **fields)

    def join_refused(self, machine_id: str, address: str, error: RequestError) -> None:
        """Log that a join was refused."""
        self._peers_event(
            "join_refused", id=machine_id, address=address, code=error.code, detail=error.message
        )

    # Jobs

    def job_accepted(self, job: Job, executions: Sequence[Execution]) -> None:
        """Log a stored job, and those of its executions that are already final."""
        self.event(
            "job_accepted",
            job=job.id,
            action=job.action.value,
            by=job.requested_by,
            targets=job.targets,
            machines=len(executions),
            request=job.request_id,
        )
        self.executions_changed(execution for execution in executions if execution.state.is_final)

    def job_refused(self, request: JobRequest, error: OperationError) -> None:
        """Log a refused job request."""
        self.event(
            "job_refused",
            action=request.action.value,
            by=request.requested_by,
            targets=("*",) if request.all_machines else request.targets,
            code=error.code,
            detail=error.message,
        )

    def job_cancelled(self, job: Job, cancelled_by: str, machines: int) -> None:
        """Log that an operator cancelled a job, and on how many machines."""
        self.event("job_cancelled", job=job.id, by=cancelled_by, machines=machines)

    def executions_changed(self, executions: Iterable[Execution]) -> None:
        """Log stored states."""
        for execution in executions:
            self.event(
                _EXECUTION_EVENTS[execution.state],
                job=execution.job_id,
                machine=execution.machine_name,
                state=execution.state.value,
                detail=execution.detail,
            )

    # The server

    def storage_failed(self, error: Exception) -> None:
        """Log that the database failed. The same failure within :data:`STORAGE_AGAIN_S` is only counted."""
        now, detail = self._clock(), str(error)
        self._storage_times += 1
        if detail == self._storage_detail and now - self._storage_logged_at < STORAGE_AGAIN_S:
            return
        times = self._storage_times if detail == self._storage_detail else 1
        self.event("storage_failed", detail=detail, times=times)
        self._storage_detail, self._storage_logged_at, self._storage_times = detail, now, 0


def presence_event(before: Presence | None, after: Presence) -> tuple[str, dict[str, Any]] | None:
    """Return the event for a change of presence, with its fields, or ``None`` if there is none."""
    if before is after:
        return None
    was = "new" if before is None else before.description
    is_new_join = before is None or after.join != before.join
    if is_new_join and after.state in {PresenceState.ONLINE, PresenceState.RESUMING}:
        if before is not None and before.state in _CONNECTED:
            return "machine_replaced", {"was": was, "before": before.address}
        return "machine_joined", {"was": was}
    if before is None or before.state is after.state:
        return None
    match after.state:
        case PresenceState.ONLINE:
            after_s = after.since_at - before.since_at
            return "machine_recovered", {"address": after.address, "was": was, "after_s": after_s}
        case PresenceState.SILENT:
            return "machine_silent", {"address": after.address, "detail": after.detail}
        case PresenceState.RESUMING | PresenceState.AWAY | PresenceState.OFFLINE:
            return f"machine_{after.state.value}", {"cause": after.cause.value, "detail": after.detail}
