"""Commands that act: ``logoff``, ``restart``, ``shutdown``, ``wake``; and ``jobs``, ``cancel``."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

import typer

from landline.cli import options
from landline.cli.api_client import ApiClient
from landline.cli.confirmation import ask_to_go_on
from landline.cli.durations import parse_duration
from landline.cli.exit_codes import ALL_DONE, INTERRUPTED, SOME_NOT_DONE, CommandFailed, WrongUse
from landline.cli.formatting import (
    JOB_HEADER,
    counted,
    execution_line,
    job_row,
    job_summary,
    life_lines,
    waiting_hint,
)
from landline.cli.job_progress import LineProgress, PlaceProgress, Progress, ServerLost, follow
from landline.cli.retry import OutcomeUnknown, ServerGone
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

JOBS_MAX: Final = 1000
"""What the server lists at most."""

_JOB_ID: Final = re.compile(r"[\w:-]+", re.ASCII)

MESSAGE_CHARACTERS_MAX: Final = 500
"""A message is shown in a dialog; it is not a letter."""

Targets = Annotated[
    list[str] | None,
    typer.Argument(metavar="TARGET", help="Machine names or globs such as 'lab-*'.", show_default=False),
]
All = Annotated[bool, typer.Option("--all", help="Every machine.")]
In = Annotated[str | None, typer.Option("--in", metavar="TIME", help="Countdown before acting, such as 60s.")]
Message = Annotated[
    str, typer.Option("--message", metavar="TEXT", help="Shown to the person at the machine.")
]
NoCancel = Annotated[bool, typer.Option("--no-cancel", help="The person may not cancel.")]
NoPostpone = Annotated[bool, typer.Option("--no-postpone", help="The person may not postpone.")]
ValidFor = Annotated[
    str,
    typer.Option("--valid-for", metavar="TIME", help="How long after it is due it may still begin."),
]
QueueFor = Annotated[
    str | None,
    typer.Option("--queue-for", metavar="TIME", help="Wait this long for machines that are offline."),
]
OnUnasked = Annotated[
    str,
    typer.Option(
        "--unasked",
        metavar="WHAT",
        help="Where a person is on, or may be, and nobody can be asked: wait until somebody can be or nobody is on, "
        "refuse at once, or act after the full countdown.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not follow the job.")]


_ORDERS: Final = (
    ("logoff", Action.LOG_OFF, "Log off the persons at machines, and follow the job until it is over."),
    ("restart", Action.RESTART, "Restart machines, and follow the job until every one is back."),
    ("shutdown", Action.SHUT_DOWN, "Shut down machines, and follow the job until they are off."),
)


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    for name, action, help_text in _ORDERS:
        app.command(name, help=help_text)(_ordering(action))
    app.command("wake")(wake)
    app.command("jobs")(jobs)
    app.command("cancel")(cancel)


class Order(NamedTuple):
    """What an operator asked for on the command line, checked; and how to go about it."""

    request: JobRequest
    yes: bool
    wait: bool
    json: bool


def _ordering(action: Action) -> Callable[..., None]:
    """The command that makes machines do ``action``, each in agreement with its person."""

    def order(
        targets: Targets = None,
        all_machines: All = False,
        in_: In = None,
        message: Message = "",
        no_cancel: NoCancel = False,
        no_postpone: NoPostpone = False,
        valid_for: ValidFor = "2m",
        queue_for: QueueFor = None,
        unasked: OnUnasked = "wait",
        yes: Yes = False,
        no_wait: NoWait = False,
        json: options.Json = False,
        server: options.Server = None,
        token_file: options.TokenFile = None,
    ) -> None:
        request = _request(
            action, targets, all_machines, in_, message, no_cancel, no_postpone, valid_for, queue_for, unasked
        )
        _carry_out(Order(request, yes, not no_wait, json), options.client(server, token_file))

    return order


def wake(
    targets: Targets = None,
    all_machines: All = False,
    valid_for: ValidFor = "2m",
    yes: Yes = False,
    no_wait: NoWait = False,
    json: options.Json = False,
    server: options.Server = None,
    token_file: options.TokenFile = None,
) -> None:
    """Wake machines over the network, and follow the job until they are on."""
    request = _request(Action.WAKE, targets, all_machines, None, "", False, False, valid_for, None)
    _carry_out(Order(request, yes, not no_wait, json), options.client(server, token_file))


def jobs(
    job_id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="One job, or the beginning of its id.", show_default=False),
    ] = None,
    request: Annotated[
        str | None,
        typer.Option(
            "--request",
            metavar="ID",
            help="The job that was accepted for a request whose answer was lost. Exit status 1: there is none.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[str, typer.Option("--limit", metavar="N", help="How many of the newest jobs.")] = "20",
    json: options.Json = False,
    server: options.Server = None,
    token_file: options.TokenFile = None,
) -> None:
    """Show the newest jobs, or the life of one job machine by machine."""
    most = _limit(limit)
    api = options.client(server, token_file)
    if job_id is not None or request is not None:
        view = _one_job(api, job_id, request, json)
        if json:
            options.print_json(view)
            return
        lines = [f"{printable(view.job.id)}: {job_summary(view)}"]
        if view.job.requested_by:
            lines[0] += f" Requested by {printable(view.job.requested_by)}."
        lines += life_lines(view, api.status().now_at)
        lines += filter(None, [waiting_hint(view)])
    else:
        views = api.jobs(most)
        if json:
            options.print_json(views)
            return
        now_at = api.status().now_at
        lines = ["No jobs yet."]
        if views:
            rows = [job_row(view, now_at) for view in views]
            lines = table_lines(JOB_HEADER, rows, colours=wants_colour(sys.stdout))
    sys.stdout.write("\n".join(lines) + "\n")


def cancel(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job, or the beginning of its id.")],
    json: options.Json = False,
    server: options.Server = None,
    token_file: options.TokenFile = None,
) -> None:
    """Stop what has not begun of a job. Exit status 1 when something had begun already."""
    api = options.client(server, token_file)
    # The whole id first: it means the same job however often it has to be sent.
    whole_id = api.job(_job_id(job_id)).job.id
    try:
        view = api.cancel_job(whole_id, CancelRequest(cancelled_by=_caller()))
    except OutcomeUnknown:
        if json:
            options.print_json({"accepted": "unknown", "job_id": whole_id})
        raise
    except KeyboardInterrupt:
        raise CommandFailed(
            f"Stopped while the job was being cancelled; 'landline jobs {printable(whole_id)}' shows whether it was.",
            INTERRUPTED,
        ) from None
    if json:
        options.print_json(view)
    else:
        lines = [execution_line(execution) for execution in view.executions]
        sys.stdout.write("\n".join([*lines, job_summary(view)]) + "\n")
    begun = any(execution.state.has_started for execution in view.executions)
    raise typer.Exit(SOME_NOT_DONE if begun else ALL_DONE)


def _request(
    action: Action,
    targets: list[str] | None,
    all_machines: bool,
    in_: str | None,
    message: str,
    no_cancel: bool,
    no_postpone: bool,
    valid_for: str,
    queue_for: str | None,
    unasked: str = "wait",
) -> JobRequest:
    """The job these options describe, not yet bound to machines. Raises :class:`WrongUse`."""
    check_targets(action, targets or [], all_machines)
    if len(message) > MESSAGE_CHARACTERS_MAX:
        raise WrongUse(f"--message takes at most {MESSAGE_CHARACTERS_MAX} characters; say it shorter.")
    return JobRequest(
        action=action,
        targets=tuple(targets or ()),
        all_machines=all_machines,
        message=message,
        requested_by=_caller(),
        delay_s=None if in_ is None else parse_duration(in_, "--in"),
        valid_for_s=parse_duration(valid_for, "--valid-for"),
        queue_for_s=None if queue_for is None else parse_duration(queue_for, "--queue-for"),
        may_cancel=not no_cancel,
        may_postpone=not no_postpone,
        unasked=_unasked(unasked),
        # Chosen here, so that a request repeated after a broken connection is not a second job.
        request_id=os.urandom(16).hex(),
    )


def _unasked(text: str) -> Unasked:
    try:
        return Unasked(text)
    except ValueError as error:
        raise WrongUse(
            f"--unasked takes {', '.join(list(Unasked)[:-1])} or {Unasked.ACT}, not '{printable(text[:40])}'."
        ) from error


def check_targets(action: Action, targets: list[str], all_machines: bool) -> None:
    """Raises :class:`WrongUse` unless it is clear which machines are meant. Nothing is never everything."""
    if not targets and not all_machines:
        raise WrongUse(f"No machine is named; name the machines to {action}, or say --all for every one.")
    if targets and all_machines:
        raise WrongUse("Both machines and --all are given; name machines, or say --all, not both.")
    if not all(target.strip() for target in targets):
        raise WrongUse("One of the targets is empty; name machines, or say --all for every one.")


def _carry_out(order: Order, api: ApiClient) -> None:
    """Previews, asks, sends, follows; exits with the status of the job."""
    request = order.request
    if not order.yes and not sys.stdin.isatty():
        raise WrongUse(
            "There is no terminal to ask for confirmation; add --yes to go ahead without being asked."
        )
    preview = api.preview(PreviewRequest(targets=request.targets, all_machines=request.all_machines))
    if not preview.machines:
        raise WrongUse("No machine matches; nothing was sent. See 'landline ls' for those there are.")
    if not order.yes:
        ask_to_go_on(request.action, preview.machines, request.unasked)
    view = _send(api, request, tuple(target.machine_id for target in preview.machines), json=order.json)
    if order.wait:
        view = _follow(api, view, order.json)
    if order.json:
        options.print_json(view)
    elif order.wait:
        sys.stdout.write(job_summary(view) + "\n")
    else:
        job_id = printable(view.job.id)
        number = counted(len(view.executions), "machine")
        sys.stdout.write(
            f"Job {job_id}: {view.job.action} of {number} accepted; 'landline jobs {job_id}' shows it.\n"
        )
    all_done = all(execution.state is ExecutionState.DONE for execution in view.executions)
    raise typer.Exit(ALL_DONE if all_done or not order.wait else SOME_NOT_DONE)


def _send(api: ApiClient, request: JobRequest, machine_ids: tuple[str, ...], *, json: bool) -> JobView:
    import msgspec

    try:
        return api.create_job(msgspec.structs.replace(request, machine_ids=machine_ids))
    except (OutcomeUnknown, KeyboardInterrupt) as failure:
        if json:
            options.print_json({"accepted": "unknown", "request_id": request.request_id})
        if isinstance(failure, OutcomeUnknown):
            raise
        raise CommandFailed(
            f"Stopped while the job was being sent; 'landline jobs --request {request.request_id}' shows whether it "
            "was accepted.",
            INTERRUPTED,
        ) from None


def _follow(api: ApiClient, view: JobView, json: bool) -> JobView:
    stream = sys.stderr if json else sys.stdout
    progress: Progress = PlaceProgress(stream) if stream.isatty() else LineProgress(stream)
    try:
        view = follow(api, view, progress)
        return _with_events(api, view) if json else view
    except ServerLost as lost:
        if json:
            options.print_json(lost.view)
        raise
    except KeyboardInterrupt:
        job_id = printable(view.job.id)
        raise CommandFailed(
            f"Stopped watching; the job goes on. 'landline cancel {job_id}' stops what has not begun.",
            INTERRUPTED,
        ) from None


def _with_events(api: ApiClient, view: JobView) -> JobView:
    try:
        return api.job(view.job.id)
    except ServerGone:
        # How the job ended is known; that its server went away since takes nothing from it.
        return view


def _one_job(api: ApiClient, job_id: str | None, request_id: str | None, json: bool) -> JobView:
    if job_id is not None:
        if request_id is not None:
            raise WrongUse("Both a job and --request are given; give one of them.")
        return api.job(_job_id(job_id))
    assert request_id is not None
    if not _JOB_ID.fullmatch(request_id) or len(request_id) > REQUEST_ID_CHARACTERS_MAX:
        raise WrongUse(f"--request takes the id of a request, not '{printable(request_id[:40])}'.")
    view = api.job_of_request(request_id)
    if view is None:
        if json:
            options.print_json({"accepted": "no", "request_id": request_id})
        raise CommandFailed(f"No job was accepted for request {request_id}.", SOME_NOT_DONE)
    return view


def _job_id(text: str) -> str:
    if not text.strip():
        raise WrongUse("The job id is empty; see 'landline jobs' for those there are.")
    if not _JOB_ID.fullmatch(text):
        raise WrongUse(
            f"No job has an id like '{printable(text[:40])}'; see 'landline jobs' for those there are."
        )
    return text


def _limit(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:9]) <= JOBS_MAX:
        raise WrongUse(f"--limit takes a number from 1 to {JOBS_MAX}, not '{printable(text[:40])}'.")
    return int(text)


def _caller() -> str:
    """``user@host`` of whoever runs the command."""
    import pwd

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
