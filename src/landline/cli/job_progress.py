"""A job followed until it is over, on a terminal in place or line by line."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable
from typing import Final, Protocol, TextIO

from landline.cli.api_client import ApiClient
from landline.cli.exit_codes import NO_SERVER, CommandFailed
from landline.cli.formatting import execution_colour, job_summary, waiting_hint
from landline.cli.live_state import changed_lines, is_over
from landline.cli.retry import ServerGone
from landline.cli.terminal_text import Colour, coloured, printable, shortened, wants_colour, width
from landline.cli.update_stream import Gone, live_updates
from landline.fleet.api import JobChanged, JobView, Snapshot
from landline.fleet.model import Execution

GONE_S_MAX: Final = 60.0
"""How long a server that went away is waited for: time enough to start it again."""


HINT_ROWS_MIN: Final = 10
"""A smaller terminal shows machines only."""


class ServerLost(CommandFailed):
    """The server of a job that was accepted does not come back. ``view`` is the job as it was seen last."""

    def __init__(self, view: JobView) -> None:
        super().__init__(
            f"The control server did not come back within {GONE_S_MAX:.0f} s. The job was accepted and may go on: "
            f"'landline jobs {printable(view.job.id)}' shows it.",
            NO_SERVER,
        )
        self.view = view


class Progress(Protocol):
    """Shows how far a job is."""

    def show(self, view: JobView) -> None:
        """The job is like this now."""
        ...

    def say(self, sentence: str) -> None:
        """Something else worth knowing."""
        ...


def follow(
    api: ApiClient, view: JobView, progress: Progress, *, sleep: Callable[[float], None] = time.sleep
) -> JobView:
    """Shows ``view`` and what becomes of it until it is over; returns it as it is then.

    Raises :class:`ServerLost` when the server stays away for :data:`GONE_S_MAX`.
    """
    job_id = view.job.id
    progress.show(view)
    if is_over(view):
        return view
    is_gone = False
    for update in live_updates(api, is_known=True, sleep=sleep):
        match update:
            case Gone():
                if update.for_s > GONE_S_MAX:
                    raise ServerLost(view)
                if not is_gone:
                    progress.say(f"{update.sentence} The job goes on; waiting for the server.")
                is_gone = True
                continue
            case Snapshot():
                is_gone = False
                view = _found(update, api, view)
            case JobChanged() if update.job.job.id == job_id:
                view = update.job
            case _:
                continue
        progress.show(view)
        if is_over(view):
            break
    return view


def _found(snapshot: Snapshot, api: ApiClient, view: JobView) -> JobView:
    """The job as it is when ``snapshot`` is taken. One that is missing among the open ones is over."""
    for open_job in snapshot.jobs:
        if open_job.job.id == view.job.id:
            return open_job
    try:
        return api.job(view.job.id)
    except ServerGone:
        # The updates end too, then; the next snapshot asks again.
        return view


class LineProgress:
    """A line for every change."""

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
        # Once, until all of them have gone on.
        self._hint = hint
        self._stream.flush()
        self._last = view

    def say(self, sentence: str) -> None:
        self._stream.write(sentence + "\n")
        self._stream.flush()


class PlaceProgress:
    """One line a machine, redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn = 0

    def show(self, view: JobView) -> None:
        columns, rows = _terminal_size(self._stream)
        # The end is written whole, however long; until then nothing may scroll, or redrawing would go wrong.
        rows = len(view.executions) + 1 if is_over(view) else rows
        lines = progress_lines(view, columns, rows, colours=wants_colour(self._stream))
        back = f"\x1b[{self._drawn}F" if self._drawn else ""
        self._stream.write(back + "\x1b[J" + "".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)

    def say(self, sentence: str) -> None:
        self._stream.write(sentence + "\n")
        self._stream.flush()
        self._drawn = 0


def progress_lines(view: JobView, columns: int, rows: int, *, colours: bool) -> list[str]:
    """``view`` in at most ``rows - 1`` lines of less than ``columns``: a line a machine, unfinished ones
    first.

    Where not all fit, the last line counts what is left out.
    """
    # What can be done about waiting is whole or not there: half a command helps nobody.
    hint = textwrap.wrap(waiting_hint(view), max(20, columns - 1)) if rows >= HINT_ROWS_MIN else []
    room = max(2, rows - 1 - len(hint))
    executions = list(view.executions)
    left_out = ""
    if len(executions) > room:
        executions.sort(key=lambda execution: execution.state.is_final)
        left_out = f"… {len(executions) - room + 1} more. {job_summary(view)}"
        executions = executions[: room - 1]
    names = max((width(printable(e.machine_name)) for e in executions), default=0)
    lines = [_progress_line(e, min(names, 30), columns - 1, colours) for e in executions]
    return [*lines, *([shortened(left_out, columns - 1)] if left_out else []), *hint]


def _progress_line(execution: Execution, names: int, columns: int, colours: bool) -> str:
    name = shortened(printable(execution.machine_name), names)
    name += " " * (names - width(name))
    state = f"{execution.state:<9}"
    detail = shortened(printable(execution.detail), max(1, columns - names - 13))
    shown = coloured(state, execution_colour(execution.state), wanted=colours)
    return f"{coloured(name, Colour.STRONG, wanted=colours)}  {shown}  {detail}".rstrip()


def _terminal_size(stream: TextIO) -> tuple[int, int]:
    try:
        size = os.get_terminal_size(stream.fileno())
    except OSError:
        return 80, 24
    # A terminal that was never told its size says 0.
    return size.columns or 80, size.lines or 24
