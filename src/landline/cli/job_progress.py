"""Follow a job until it is over, in place on a terminal or line by line."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable
from typing import Final, Protocol, TextIO

from landline.cli.api_client import ApiClient
from landline.cli.exit_codes import NO_SERVER, CommandFailed
from landline.cli.formatting import execution_colour, job_summary, waiting_hint
from landline.cli.live_state import OtherServer, changed_lines, is_other_server, is_over
from landline.cli.retry import Refused, ServerUnreachable
from landline.cli.terminal_text import Colour, coloured, printable, shortened, wants_colour, width
from landline.cli.update_stream import Disconnected, live_updates
from landline.fleet.api import JobChanged, JobView, Snapshot
from landline.fleet.model import Execution

SERVER_ABSENCE_S_MAX: Final = 60.0
"""How long to wait for a server that went away: enough time to start it again."""

HINT_ROWS_MIN: Final = 10
"""A smaller terminal shows machines only."""


class ServerLost(CommandFailed):
    """The server of an accepted job does not come back, or does not know the job. ``view`` is its last known state."""

    def __init__(self, view: JobView, sentence: str) -> None:
        super().__init__(sentence, NO_SERVER)
        self.view = view


class JobProgress(Protocol):
    """Shows the progress of a job."""

    def show(self, view: JobView) -> None:
        """Show the current state of the job."""
        ...

    def say(self, sentence: str) -> None:
        """Show a sentence about something else."""
        ...


def follow(
    api: ApiClient,
    view: JobView,
    progress: JobProgress,
    *,
    absence_s_max: float = SERVER_ABSENCE_S_MAX,
    sleep: Callable[[float], None] = time.sleep,
) -> JobView:
    """Show ``view`` and its changes until the job is over, and return it as it is then.

    :raises ServerLost: when the server stays away for ``absence_s_max``, or another server answers in its
        place.
    """
    job_id = view.job.id
    progress.show(view)
    if is_over(view):
        return view
    is_disconnected, server_id = False, ""
    for update in live_updates(api, is_known=True, sleep=sleep):
        match update:
            case Disconnected():
                if update.for_s > absence_s_max:
                    raise _server_lost(view, absence_s_max)
                if not is_disconnected:
                    progress.say(f"{update.sentence} The job continues; waiting for the server.")
                is_disconnected = True
                continue
            case Snapshot():
                if is_other_server(server_id, update):
                    raise _replaced(view)
                is_disconnected, server_id = False, update.server_id
                view = _find(update, api, view)
            case JobChanged() if update.job.job.id == job_id:
                view = update.job
            case _:
                continue
        progress.show(view)
        if is_over(view):
            break
    return view


def _find(snapshot: Snapshot, api: ApiClient, view: JobView) -> JobView:
    """Return the current state of the job. A snapshot holds open jobs only, so the server is asked for any other."""
    found = next((each for each in snapshot.jobs if each.job.id == view.job.id), None)
    try:
        found = found or api.job(view.job.id)
    except ServerUnreachable:
        # Then the updates end too, and the next snapshot asks again.
        return view
    except Refused as refused:
        if refused.code != "unknown_job":
            raise
        raise _replaced(view) from refused
    if found.job.request_id != view.job.request_id:
        raise _replaced(view)
    return found


def _server_lost(view: JobView, absence_s_max: float) -> ServerLost:
    return ServerLost(
        view,
        f"The control server did not come back within {absence_s_max:.0f} s. The job was accepted and may "
        f"continue: 'landline jobs {printable(view.job.id)}' shows it.",
    )


def _replaced(view: JobView) -> ServerLost:
    return ServerLost(
        view,
        str(
            OtherServer(
                f"the result of job {printable(view.job.id)}, which the first one accepted, is not known"
            )
        ),
    )


class LineProgress:
    """Prints a line for every change."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: JobView | None = None
        self._hint = ""

    def show(self, view: JobView) -> None:
        for line in changed_lines(self._last, view):
            self._stream.write(line + "\n")
        hint = waiting_hint(view)
        if hint and not self._hint:
            self._stream.write(hint + "\n")
        # Once, until no machine waits any more.
        self._hint = hint
        self._stream.flush()
        self._last = view

    def say(self, sentence: str) -> None:
        self._stream.write(sentence + "\n")
        self._stream.flush()


class InPlaceProgress:
    """Draws one line for each machine, and redraws it in place."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn_lines = 0

    def show(self, view: JobView) -> None:
        columns, rows = _terminal_size(self._stream)
        # The end is written whole, however long. Until then nothing may scroll, or redrawing would go wrong.
        rows = len(view.executions) + 1 if is_over(view) else rows
        lines = progress_lines(view, columns, rows, colours=wants_colour(self._stream))
        cursor_up = f"\x1b[{self._drawn_lines}F" if self._drawn_lines else ""
        self._stream.write(cursor_up + "\x1b[J" + "".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._drawn_lines = len(lines)

    def say(self, sentence: str) -> None:
        self._stream.write(sentence + "\n")
        self._stream.flush()
        self._drawn_lines = 0


def progress_lines(view: JobView, columns: int, rows: int, *, colours: bool) -> list[str]:
    """Return ``view`` in at most ``rows - 1`` lines of less than ``columns``: a line for each machine.

    When not all machines fit, unfinished ones come first, and the last line counts the others.
    """
    # The hint is shown whole or not at all: half a command is of no use.
    hint = textwrap.wrap(waiting_hint(view), max(20, columns - 1)) if rows >= HINT_ROWS_MIN else []
    lines_max = max(2, rows - 1 - len(hint))
    executions = list(view.executions)
    left_out = ""
    if len(executions) > lines_max:
        executions.sort(key=lambda execution: execution.state.is_final)
        left_out = f"… {len(executions) - lines_max + 1} more. {job_summary(view)}"
        executions = executions[: lines_max - 1]
    name_columns = max((width(printable(e.machine_name)) for e in executions), default=0)
    lines = [_progress_line(e, min(name_columns, 30), columns - 1, colours) for e in executions]
    return [*lines, *([shortened(left_out, columns - 1)] if left_out else []), *hint]


def _progress_line(execution: Execution, name_columns: int, columns: int, colours: bool) -> str:
    name = shortened(printable(execution.machine_name), name_columns)
    name += " " * (name_columns - width(name))
    state = f"{execution.state:<9}"
    detail = shortened(printable(execution.detail), max(1, columns - name_columns - 13))
    coloured_state = coloured(state, execution_colour(execution.state), wanted=colours)
    return f"{coloured(name, Colour.STRONG, wanted=colours)}  {coloured_state}  {detail}".rstrip()


def _terminal_size(stream: TextIO) -> tuple[int, int]:
    try:
        size = os.get_terminal_size(stream.fileno())
    except OSError:
        return 80, 24
    # A terminal whose size was never set reports 0.
    return size.columns or 80, size.lines or 24
