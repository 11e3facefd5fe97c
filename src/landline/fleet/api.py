"""What the control server offers its operators: the operations, what goes in, what comes out, what can go wrong.

The HTTP API (:mod:`landline.fleet.web`) publishes :class:`Operations`,
:class:`landline.fleet.control.control_server.ControlServer`
carries them out, and the command line speaks to them with the same structs. Nothing here is server code, so
that the command line starts fast.
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
    """A request for a job. Targets are machine names, globs or, with ``all_machines``, none."""

    action: Action
    targets: tuple[str, ...] = ()
    all_machines: bool = False
    machine_ids: tuple[str, ...] | None = None
    """The frozen list of a preview: the job goes to exactly these, whatever the targets match by then."""
    message: str = ""
    requested_by: str = ""
    delay_s: float | None = None
    valid_for_s: float = 120.0
    queue_for_s: float | None = None
    may_cancel: bool = True
    may_postpone: bool = True
    unasked: Unasked = Unasked.WAIT
    """What happens on a machine where a person is on, or may be, and nobody can be asked."""
    request_id: str | None = None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One machine a job would go to, as it is now."""

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
    """The machines that targets match now, in order of name."""

    machines: tuple[Target, ...]


class PreviewRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks which machines targets match."""

    targets: tuple[str, ...] = ()
    all_machines: bool = False


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job with its executions, in order of machine name; with their events where one job was asked for."""

    job: Job
    executions: tuple[Execution, ...]
    events: tuple[ExecutionEvent, ...] = ()


class CancelRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Says who stops a job."""

    cancelled_by: str = ""


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the control server says of itself."""

    version: str
    started_at: float
    now_at: float
    machines: int
    online: int
    agents_url: str
    wake_supported: bool = True


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error answer: a stable code and one sentence that says what was wrong and what to do."""

    code: str
    message: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """The first update of a subscription: everything as it is now."""

    now_at: float
    machines: tuple[Machine, ...]
    jobs: tuple[JobView, ...]
    """The jobs that are not over yet."""
    server_id: str = ""
    """Identifies the control server's data: the same after a restart, another one for another server at the same
    address. Empty when it is not known."""


class MachineChanged(msgspec.Struct, frozen=True, kw_only=True, tag="machine"):
    """A machine is new or changed."""

    now_at: float
    machine: Machine


class JobChanged(msgspec.Struct, frozen=True, kw_only=True, tag="job"):
    """A job is new or changed."""

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
    """The operations. Each raises :class:`OperationError` when it refuses; then nothing was done."""

    def status(self) -> ServerStatus:
        """What the server says of itself."""
        ...

    def machines(self) -> tuple[Machine, ...]:
        """Every machine known, in order of name."""
        ...

    def preview(self, request: PreviewRequest) -> Preview:
        """Which machines the targets match; errors as :meth:`create_job`."""
        ...

    async def create_job(self, request: JobRequest) -> JobView:
        """Accept a job. It is on disk when this returns.

        A ``request_id`` that was accepted before returns the job of that time, whatever has changed since.
        """
        ...

    async def jobs(self, limit: int, request_id: str | None = None) -> tuple[JobView, ...]:
        """The newest jobs, newest first; with ``request_id``, only the job that was accepted for it, if any."""
        ...

    async def job(self, job_id: str) -> JobView:
        """One job with its events. ``job_id`` may be shortened to any prefix that names one job."""
        ...

    async def cancel_job(self, job_id: str, request: CancelRequest) -> JobView:
        """Stops what has not begun; what has begun stays as it is."""
        ...

    async def resolve_machine(self, name: str) -> Machine:
        """Ends the mark that a machine's identity is cloned; refused while several machines with it are connected."""
        ...

    def updates(self) -> AsyncIterator[Update]:
        """A snapshot, then every change as it happens. A reader too slow to follow gets a new snapshot."""
        ...
