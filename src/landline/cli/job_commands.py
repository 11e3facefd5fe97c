"""Commands about jobs: ``logoff``, ``restart``, ``shutdown``, ``wake``, ``jobs``, ``cancel``."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import click

from landline.cli.api_client import ApiClient
from landline.cli.confirmation import confirm
from landline.cli.exit_codes import ALL_DONE, INTERRUPTED, SOME_NOT_DONE, CommandFailed, WrongUse
from landline.cli.formatting import (
    ACTION_VERB,
    JOB_HEADER,
    counted,
    event_lines,
    execution_line,
    job_row,
    job_summary,
    waiting_hint,
)
from landline.cli.job_progress import InPlaceProgress, JobProgress, LineProgress, ServerLost, follow
from landline.cli.live_state import is_over
from landline.cli.parameter_types import Duration, OneOf, WholeNumber
from landline.cli.retry import AnswerLost, ServerUnreachable
from landline.cli.shared_options import control_client, json_option, print_json, server_options
from landline.cli.tables import table_lines
from landline.cli.terminal_text import printable, wants_colour
from landline.fleet.api import (
    REQUEST_ID_CHARACTERS_MAX,
    CancelRequest,
    JobRequest,
    JobView,
    PreviewRequest,
)
from landline.fleet.model import Action, ExecutionState, Unasked

JOBS_LISTED_MAX: Final = 1000
"""The server lists no more jobs in one answer."""

_JOB_ID: Final = re.compile(r"[\w:-]+", re.ASCII)

MESSAGE_CHARACTERS_MAX: Final = 500
"""A message is shown in a dialog, which has room for little more."""

_targets = click.argument(
    "targets", metavar="[TARGET]...", nargs=-1, help="Names of machines, or patterns such as 'lab-*'."
)
_all_machines = click.option("--all", "all_machines", is_flag=True, help="Every machine.")
_countdown = click.option(
    "--in", "delay_s", metavar="TIME", type=Duration(), help="Countdown before the action, such as 60s."
)
_message = click.option(
    "--message", metavar="TEXT", default="", help="Text that is shown to the person at the machine."
)
_no_cancel = click.option("--no-cancel", is_flag=True, help="The person may not cancel.")
_no_postpone = click.option("--no-postpone", is_flag=True, help="The person may not postpone.")
_valid_for = click.option(
    "--valid-for",
    "valid_for_s",
    metavar="TIME",
    type=Duration(),
    default="2m",
    show_default=True,
    help="How long after its due time the action may still start.",
)
_queue_for = click.option(
    "--queue-for",
    "queue_for_s",
    metavar="TIME",
    type=Duration(),
    help="Wait this long for machines that are offline.",
)
_unasked = click.option(
    "--unasked",
    metavar="WHAT",
    type=OneOf(list(Unasked)),
    default=str(Unasked.WAIT),
    show_default=True,
    help="What a machine does when a person is, or may be, logged on but cannot be asked: 'wait' until a person can be "
    "asked or no one is logged on, 'refuse' at once, or 'act' after the full countdown.",
)
_yes = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
_no_wait = click.option("--no-wait", is_flag=True, help="Do not follow the job.")


class Submission(NamedTuple):
    """A checked job request, and how to send it."""

    request: JobRequest
    yes: bool
    """Send it without asking for confirmation."""
    wait: bool
    """Follow the job until it is over."""
    as_json: bool


def _power_command(name: str, action: Action, help_text: str) -> click.Command:
    """Return the command that makes machines do ``action``, after the person at each has agreed."""

    def submit(
        targets: tuple[str, ...],
        all_machines: bool,
        yes: bool,
        no_wait: bool,
        as_json: bool,
        server: str | None,
        token_file: str | None,
        **options: Any,
    ) -> int:
        request = _request(
            action,
            targets,
            all_machines,
            delay_s=options["delay_s"],
            message=options["message"],
            valid_for_s=options["valid_for_s"],
            queue_for_s=options["queue_for_s"],
            may_cancel=not options["no_cancel"],
            may_postpone=not options["no_postpone"],
            unasked=Unasked(options["unasked"]),
        )
        return _submit(Submission(request, yes, not no_wait, as_json), control_client(server, token_file))

    decorators: tuple[Callable[[Any], Any], ...] = (
        _targets,
        _all_machines,
        _countdown,
        _message,
        _no_cancel,
        _no_postpone,
        _valid_for,
        _queue_for,
        _unasked,
        _yes,
        _no_wait,
        json_option,
        server_options,
    )
    for decorate in reversed(decorators):
        submit = decorate(submit)
    return click.command(name, help=help_text)(submit)


logoff: click.Command = _power_command(
    "logoff", Action.LOG_OFF, "Log off the persons at machines, and follow the job until it is over."
)
restart: click.Command = _power_command(
    "restart", Action.RESTART, "Restart machines, and follow the job until every one is back."
)
shutdown: click.Command = _power_command(
    "shutdown", Action.SHUT_DOWN, "Shut down machines, and follow the job until they are off."
)


@click.command
@_targets
@_all_machines
@_valid_for
@_yes
@_no_wait
@json_option
@server_options
def wake(
    targets: tuple[str, ...],
    all_machines: bool,
    valid_for_s: float,
    yes: bool,
    no_wait: bool,
    as_json: bool,
    server: str | None,
    token_file: str | None,
) -> int:
    """Wake machines over the network, and follow the job until they are on."""
    request = _request(Action.WAKE, targets, all_machines, valid_for_s=valid_for_s)
    return _submit(Submission(request, yes, not no_wait, as_json), control_client(server, token_file))


@click.command
@click.argument(
    "job_id", metavar="[ID]", required=False, help="One job: its id, or the first characters of it."
)
@click.option(
    "--request",
    "request_id",
    metavar="ID",
    help="The job that was accepted for a request whose answer was lost. Exit status 1: there is none.",
)
@click.option(
    "--limit",
    metavar="N",
    type=WholeNumber(1, JOBS_LISTED_MAX),
    default="20",
    show_default=True,
    help="How many of the newest jobs to list.",
)
@json_option
@server_options
def jobs(
    job_id: str | None,
    request_id: str | None,
    limit: int,
    as_json: bool,
    server: str | None,
    token_file: str | None,
) -> None:
    """List the newest jobs, or show one job machine by machine."""
    api = control_client(server, token_file)
    if job_id is not None or request_id is not None:
        view = _one_job(api, job_id, request_id, as_json)
        if as_json:
            print_json(view)
            return
        lines = [f"{printable(view.job.id)}: {job_summary(view)}"]
        if view.job.requested_by:
            lines[0] += f" Requested by {printable(view.job.requested_by)}."
        lines += event_lines(view, api.status().now_at)
        lines += filter(None, [waiting_hint(view)])
    else:
        views = api.jobs(limit)
        if as_json:
            print_json(views)
            return
        now_at = api.status().now_at
        lines = ["No jobs yet."]
        if views:
            rows = [job_row(view, now_at) for view in views]
            lines = table_lines(JOB_HEADER, rows, colours=wants_colour(sys.stdout))
    sys.stdout.write("\n".join(lines) + "\n")


@click.command
@click.argument("job_id", metavar="ID", help="The job: its id, or the first characters of it.")
@json_option
@server_options
def cancel(job_id: str, as_json: bool, server: str | None, token_file: str | None) -> int:
    """Cancel the parts of a job that have not started.

    Exit status 1: some had started already, or the job was over.
    """
    api = control_client(server, token_file)
    # Get the whole id first: it means the same job however often the request has to be sent.
    before = api.job(_job_id(job_id))
    whole_id = before.job.id
    try:
        view = api.cancel_job(whole_id, CancelRequest(cancelled_by=_caller()))
    except AnswerLost:
        if as_json:
            print_json({"accepted": "unknown", "job_id": whole_id})
        raise
    except KeyboardInterrupt:
        raise CommandFailed(
            f"Stopped while the job was being cancelled; 'landline jobs {printable(whole_id)}' shows whether it was.",
            INTERRUPTED,
        ) from None
    if as_json:
        print_json(view)
    else:
        lines = [execution_line(execution) for execution in view.executions]
        sys.stdout.write("\n".join([*lines, job_summary(view)]) + "\n")
    if is_over(before) and not any(e.state is ExecutionState.CANCELLED for e in before.executions):
        raise CommandFailed(
            f"Job {printable(whole_id)} was over already; there was nothing to cancel.", SOME_NOT_DONE
        )
    has_started = any(execution.state.has_started for execution in view.executions)
    return SOME_NOT_DONE if has_started else ALL_DONE


def check_targets(action: Action, targets: tuple[str, ...], all_machines: bool) -> None:
    """Raise :class:`WrongUse` unless it is clear which machines are meant. No target never means every machine."""
    if not targets and not all_machines:
        raise WrongUse(
            f"No machine is named; name the machines to {ACTION_VERB[action]}, or use --all for every one."
        )
    if targets and all_machines:
        raise WrongUse("Machines are named and --all is given; use only one of the two.")
    if not all(target.strip() for target in targets):
        raise WrongUse("One of the targets is empty; name machines, or use --all for every one.")


def _request(
    action: Action, targets: tuple[str, ...], all_machines: bool, *, message: str = "", **options: Any
) -> JobRequest:
    """Return the job these options describe, not yet bound to machines. Raise :class:`WrongUse`."""
    check_targets(action, targets, all_machines)
    if len(message) > MESSAGE_CHARACTERS_MAX:
        raise WrongUse(
            f"--message takes at most {MESSAGE_CHARACTERS_MAX} characters, not {len(message)}; shorten it."
        )
    return JobRequest(
        action=action,
        targets=targets,
        all_machines=all_machines,
        message=message,
        requested_by=_caller(),
        # Chosen here, so that a request repeated after a broken connection is not a second job.
        request_id=os.urandom(16).hex(),
        **options,
    )


def _submit(submission: Submission, api: ApiClient) -> int:
    """Show the machines, ask, send the job and follow it. Return the exit status."""
    request = submission.request
    if not submission.yes and not sys.stdin.isatty():
        raise WrongUse("There is no terminal to ask for confirmation; add --yes to act without confirmation.")
    preview = api.preview(PreviewRequest(targets=request.targets, all_machines=request.all_machines))
    if not preview.machines:
        raise WrongUse("No machine matches; nothing was sent. 'landline ls' lists the machines.")
    if not submission.yes:
        confirm(request.action, preview.machines, request.unasked)
    machine_ids = tuple(target.machine_id for target in preview.machines)
    view = _send(api, request, machine_ids, as_json=submission.as_json)
    if submission.wait:
        view = _follow(api, view, submission.as_json)
    if submission.as_json:
        print_json(view)
    elif submission.wait:
        sys.stdout.write(job_summary(view) + "\n")
    else:
        job_id = printable(view.job.id)
        number = counted(len(view.executions), "machine")
        sys.stdout.write(
            f"Job {job_id}: {view.job.action} of {number} accepted; 'landline jobs {job_id}' shows it.\n"
        )
    all_done = all(execution.state is ExecutionState.DONE for execution in view.executions)
    return ALL_DONE if all_done or not submission.wait else SOME_NOT_DONE


def _send(api: ApiClient, request: JobRequest, machine_ids: tuple[str, ...], *, as_json: bool) -> JobView:
    import msgspec

    try:
        return api.create_job(msgspec.structs.replace(request, machine_ids=machine_ids))
    except (AnswerLost, KeyboardInterrupt) as failure:
        if as_json:
            print_json({"accepted": "unknown", "request_id": request.request_id})
        if isinstance(failure, AnswerLost):
            raise
        raise CommandFailed(
            f"Stopped while the job was being sent; 'landline jobs --request {request.request_id}' shows whether it "
            "was accepted.",
            INTERRUPTED,
        ) from None


def _follow(api: ApiClient, view: JobView, as_json: bool) -> JobView:
    stream = sys.stderr if as_json else sys.stdout
    progress: JobProgress = InPlaceProgress(stream) if stream.isatty() else LineProgress(stream)
    try:
        view = follow(api, view, progress)
        return _with_events(api, view) if as_json else view
    except ServerLost as lost:
        if as_json:
            print_json(lost.view)
        raise
    except KeyboardInterrupt:
        job_id = printable(view.job.id)
        raise CommandFailed(
            f"Stopped following; the job continues. 'landline cancel {job_id}' cancels what has not started.",
            INTERRUPTED,
        ) from None


def _with_events(api: ApiClient, view: JobView) -> JobView:
    try:
        return api.job(view.job.id)
    except ServerUnreachable:
        # The result is known; only the events of the job are missing.
        return view


def _one_job(api: ApiClient, job_id: str | None, request_id: str | None, as_json: bool) -> JobView:
    if job_id is not None:
        if request_id is not None:
            raise WrongUse("A job and --request are given; use only one of the two.")
        return api.job(_job_id(job_id))
    assert request_id is not None
    if not _JOB_ID.fullmatch(request_id) or len(request_id) > REQUEST_ID_CHARACTERS_MAX:
        raise WrongUse(f"--request takes the id of a request, not '{printable(request_id[:40])}'.")
    view = api.job_of_request(request_id)
    if view is None:
        if as_json:
            print_json({"accepted": "no", "request_id": request_id})
        raise CommandFailed(f"No job was accepted for request {request_id}.", SOME_NOT_DONE)
    return view


def _job_id(text: str) -> str:
    if not text.strip():
        raise WrongUse("The job id is empty; 'landline jobs' lists the jobs.")
    if not _JOB_ID.fullmatch(text):
        raise WrongUse(f"'{printable(text[:40])}' cannot be a job id; 'landline jobs' lists the jobs.")
    return text


def _caller() -> str:
    """Return ``user@host`` of this process."""
    import pwd

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
