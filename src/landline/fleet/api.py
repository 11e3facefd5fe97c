"""The operations that the control server offers to operators: their requests, results and errors.

The HTTP API (:mod:`landline.fleet.web`) publishes :class:`Operations`,
:class:`landline.fleet.control.control_server.ControlServer` implements them, and the command line uses the same
structs. This module contains no server code, so that the command line starts fast.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Protocol

import msgspec

from landline.fleet.model import (
    Action,
    Execution,
    ExecutionEvent,
    Job,
    Machine,
    Person,
    PresenceState,
    Unasked,
)

REQUEST_ID_CHARACTERS_MAX: Final = 100


class StorageError(Exception):
    """The database failed. The text is one sentence with the reason. A write that raises this stored nothing."""


class AnswerUnavailable(Exception):
    """An operation was carried out, but its answer could not be read or not everything was stored yet.

    The text is one sentence with the reason.
    """


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a job. Targets are machine names and patterns; with ``all_machines`` there are none."""

    action: Action
    targets: tuple[str, ...] = ()
    all_machines: bool = False
    machine_ids: tuple[str, ...] | None = None
    """The list of a preview. The job goes to exactly these machines, and the targets are only recorded."""
    message: str = ""
    requested_by: str = ""
    delay_s: float | None = None
    valid_for_s: float = 120.0
    queue_for_s: float | None = None
    may_cancel: bool = True
    may_postpone: bool = True
    unasked: Unasked = Unasked.WAIT
    """What happens on a machine where a person is or may be logged on and none can be asked."""
    request_id: str | None = None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One machine that a job would go to, with its current state."""

    machine_id: str
    name: str
    presence: PresenceState
    detail: str = ""
    persons: tuple[Person, ...] = ()
    knows_persons: bool = False
    persons_problem: str = ""
    asks_by: str = ""
    asking_problem: str = ""
    """As in :class:`landline.fleet.model.Facts`."""


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """The machines that the targets match now, in order of name."""

    machines: tuple[Target, ...]


class PreviewRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask which machines the targets match."""

    targets: tuple[str, ...] = ()
    all_machines: bool = False


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job with its executions in order of machine name. The view of a single job also has their events."""

    job: Job
    executions: tuple[Execution, ...]
    events: tuple[ExecutionEvent, ...] = ()


class CancelRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to cancel a job."""

    cancelled_by: str = ""


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the control server."""

    version: str
    started_at: float
    now_at: float
    machines: int
    online: int
    agents_url: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error answer: a stable code, and a sentence that says what was wrong and what to do."""

    code: str
    message: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """The first update of a subscription: the complete current state."""

    now_at: float
    machines: tuple[Machine, ...]
    jobs: tuple[JobView, ...]
    """The unfinished jobs."""
    server_id: str = ""
    """Identifies the control server's data: the same after a restart, another one for another server at the same
    address. Empty when it is not known."""


class MachineChanged(msgspec.Struct, frozen=True, kw_only=True, tag="machine"):
    """A machine was added or changed."""

    now_at: float
    machine: Machine


class JobChanged(msgspec.Struct, frozen=True, kw_only=True, tag="job"):
    """A job was added or changed."""

    now_at: float
    job: JobView


Update = Snapshot | MachineChanged | JobChanged


class OperationError(Exception):
    """An operation was refused; nothing was done.

    The text is one sentence that says what was wrong and what to do.

    :param code: a stable name of the reason: ``unknown_target``, ``empty_target``, ``unknown_job``,
        ``ambiguous_job``, ``bad_request``, ``request_id_used``, ``not_cloned`` or ``still_cloned``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Operations(Protocol):
    """The operations.

    Each raises :class:`OperationError` if it is refused and :class:`StorageError` if the database fails; then nothing
    was done. :class:`AnswerUnavailable` says that it was carried out.
    """

    def status(self) -> ServerStatus:
        """Return the state of the control server."""
        ...

    def machines(self) -> tuple[Machine, ...]:
        """Return all known machines in order of name."""
        ...

    def preview(self, request: PreviewRequest) -> Preview:
        """Return the machines that the targets match now."""
        ...

    async def create_job(self, request: JobRequest) -> JobView:
        """Accept a job. It is on disk when this returns.

        A request that was accepted before, with the same ``request_id``, returns the job of that time, whatever has
        changed since. A different request with that ``request_id`` is refused.
        """
        ...

    async def jobs(self, limit: int, request_id: str | None = None) -> tuple[JobView, ...]:
        """Return the newest jobs, newest first; with ``request_id``, only the job accepted for it, if any."""
        ...

    async def job(self, job_id: str) -> JobView:
        """Return one job with its events. ``job_id`` may be any prefix that matches only one job."""
        ...

    async def cancel_job(self, job_id: str, request: CancelRequest) -> JobView:
        """Cancel the executions that have not started; the others continue. Return the job."""
        ...

    async def resolve_machine(self, name: str) -> Machine:
        """End the mark of a cloned identity. Refused while several machines with it are connected."""
        ...

    def updates(self) -> AsyncIterator[Update]:
        """Yield a snapshot, then every change. A subscriber that is too slow gets a new snapshot."""
        ...
