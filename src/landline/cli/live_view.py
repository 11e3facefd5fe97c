"""The full screen of ``watch``. Only this module and ``file_progress`` use rich."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from landline.cli.api_client import ApiClient
from landline.cli.formatting import (
    DISPENSABLE_OF_MACHINE,
    EXECUTION_HEADER,
    MACHINE_HEADER,
    execution_row,
    job_summary,
    machine_count,
    machine_rows,
)
from landline.cli.live_state import Board
from landline.cli.tables import Cell, fitting
from landline.cli.terminal_text import Colour, printable
from landline.cli.update_stream import Gone, live_updates
from landline.fleet.api import Update

REFRESHES_PER_S: Final = 4
EXECUTIONS_SHOWN_MAX: Final = 8
"""Machines shown of one job; ``landline jobs ID`` shows all."""

_STYLE: Final = {
    Colour.PLAIN: "",
    Colour.GOOD: "green",
    Colour.WAITING: "yellow",
    Colour.BAD: "red",
    Colour.FAINT: "dim",
    Colour.STRONG: "bold",
}


def show_live(api: ApiClient, footer: str = "") -> None:
    """Shows machines and jobs of ``api``, and ``footer`` below, until it raises or is interrupted."""
    console = Console()
    picture = _Picture(console, footer)
    updates = live_updates(api)
    # The first answer comes before the screen is taken: "nobody answers" belongs on the ordinary one.
    picture.take(next(updates))
    with Live(
        get_renderable=picture.render, console=console, screen=True, refresh_per_second=REFRESHES_PER_S
    ):
        for update in updates:
            picture.take(update)


class _Picture:
    """The board as the screen's own thread sees it."""

    def __init__(self, console: Console, footer: str) -> None:
        self._console = console
        self._footer = footer
        self._lock = threading.Lock()
        self._board = Board()
        self._gone: Gone | None = None
        self._taken_at = time.monotonic()

    def take(self, update: Update | Gone) -> None:
        """Takes in an update, or that there is nobody to give one."""
        with self._lock:
            if isinstance(update, Gone):
                self._gone = update
                return
            self._gone = None
            self._board.apply(update)
            self._taken_at = time.monotonic()

    def render(self) -> RenderableType:
        """The whole screen as of now."""
        with self._lock:
            machines, jobs, gone = self._board.machines(), self._board.jobs(), self._gone
            now_at = (self._board.now_at or 0.0) + time.monotonic() - self._taken_at
        below: list[RenderableType] = []
        footer_rows = self._footer.count("\n") + 2 if self._footer else 0
        rows_left = self._console.size.height - 4 - footer_rows
        columns = self._console.size.width
        for view in jobs:
            shown = view.executions[:EXECUTIONS_SHOWN_MAX]
            if rows_left < len(shown) + 8:
                below.append(Text("… more jobs; see 'landline jobs'.", style="dim"))
                break
            below.append(Text(f"\n{printable(view.job.id)}  {job_summary(view)}", style="bold"))
            below.append(_table(EXECUTION_HEADER, [execution_row(e, now_at) for e in shown]))
            rows_left -= len(shown) + 3
        shown_machines = machines[: max(1, rows_left)]
        title = Text(machine_count(machines), style="bold")
        if gone is not None:
            title = Text(f"{gone.sentence} Waiting for it; what follows is old.", style="bold red")
        body: list[RenderableType] = [
            title,
            _machine_table(
                [row for machine in shown_machines for row in machine_rows(machine, now_at)], columns
            ),
        ]
        if len(shown_machines) < len(machines):
            body.append(
                Text(f"… {len(machines) - len(shown_machines)} more; 'landline ls' shows all.", style="dim")
            )
        if self._footer:
            below.append(Text(f"\n{self._footer}", style="dim"))
        return Group(*body, *below)


def _machine_table(rows: Sequence[Sequence[Cell]], columns: int) -> Table:
    places = fitting(MACHINE_HEADER, rows, columns, DISPENSABLE_OF_MACHINE)
    return _table(
        [MACHINE_HEADER[place] for place in places], [[row[place] for place in places] for row in rows]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in header:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for row in rows:
        # Text, never markup: a machine may call itself "[red]".
        table.add_row(*(Text(printable(cell.text) or "-", style=_STYLE[cell.colour]) for cell in row))
    return table
