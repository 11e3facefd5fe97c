"""The full-screen view of ``watch``. Only this module and ``file_progress`` import rich."""

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
    EXECUTION_HEADER,
    MACHINE_HEADER,
    OPTIONAL_MACHINE_COLUMNS,
    execution_row,
    job_summary,
    machine_count,
    machine_rows,
)
from landline.cli.live_state import LiveState
from landline.cli.tables import Cell, fitting_columns
from landline.cli.terminal_text import Colour, printable
from landline.cli.update_stream import Disconnected, live_updates
from landline.fleet.api import Update

REFRESHES_PER_S: Final = 4
EXECUTIONS_SHOWN_MAX: Final = 8
"""Machines shown for each job; ``landline jobs ID`` shows all of them."""

_STYLE: Final = {
    Colour.PLAIN: "",
    Colour.GOOD: "green",
    Colour.WAITING: "yellow",
    Colour.BAD: "red",
    Colour.FAINT: "dim",
    Colour.STRONG: "bold",
}


def show_live(api: ApiClient, footer: str = "") -> None:
    """Show the machines and jobs of ``api``, with ``footer`` below them, until an exception ends it."""
    console = Console()
    screen = _LiveScreen(console, footer)
    updates = live_updates(api)
    # Before the alternate screen is entered: "no control server answers" belongs on the normal one.
    screen.apply(next(updates))
    with Live(get_renderable=screen.render, console=console, screen=True, refresh_per_second=REFRESHES_PER_S):
        for update in updates:
            screen.apply(update)


class _LiveScreen:
    """The state and how to draw it. rich draws it in a thread of its own."""

    def __init__(self, console: Console, footer: str) -> None:
        self._console = console
        self._footer = footer
        self._lock = threading.Lock()
        self._state = LiveState()
        self._disconnected: Disconnected | None = None
        self._updated_at = time.monotonic()

    def apply(self, update: Update | Disconnected) -> None:
        """Apply an update, or show that the server does not answer."""
        with self._lock:
            if isinstance(update, Disconnected):
                self._disconnected = update
                return
            self._disconnected = None
            self._state.apply(update)
            self._updated_at = time.monotonic()

    def render(self) -> RenderableType:
        """Return the content of the whole screen."""
        with self._lock:
            machines, jobs, disconnected = self._state.machines(), self._state.jobs(), self._disconnected
            now_at = (self._state.now_at or 0.0) + time.monotonic() - self._updated_at
        below: list[RenderableType] = []
        footer_rows = self._footer.count("\n") + 2 if self._footer else 0
        rows_left = self._console.size.height - 4 - footer_rows
        columns = self._console.size.width
        for job in jobs:
            shown = job.executions[:EXECUTIONS_SHOWN_MAX]
            if rows_left < len(shown) + 8:
                below.append(Text("… more jobs; 'landline jobs' lists them.", style="dim"))
                break
            below.append(Text(f"\n{printable(job.job.id)}  {job_summary(job)}", style="bold"))
            below.append(_table(EXECUTION_HEADER, [execution_row(e, now_at) for e in shown]))
            rows_left -= len(shown) + 3
        shown_machines = machines[: max(1, rows_left)]
        title = Text(machine_count(machines), style="bold")
        if disconnected is not None:
            title = Text(
                f"{disconnected.sentence} Waiting for it; the lines below are out of date.", style="bold red"
            )
        body: list[RenderableType] = [
            title,
            _machine_table(
                [row for machine in shown_machines for row in machine_rows(machine, now_at)], columns
            ),
        ]
        if len(shown_machines) < len(machines):
            body.append(
                Text(f"… {len(machines) - len(shown_machines)} more; 'landline ls' lists all.", style="dim")
            )
        if self._footer:
            below.append(Text(f"\n{self._footer}", style="dim"))
        return Group(*body, *below)


def _machine_table(rows: Sequence[Sequence[Cell]], columns: int) -> Table:
    columns_shown = fitting_columns(MACHINE_HEADER, rows, columns, OPTIONAL_MACHINE_COLUMNS)
    return _table(
        [MACHINE_HEADER[index] for index in columns_shown],
        [[row[index] for index in columns_shown] for row in rows],
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in header:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for row in rows:
        # Text, not markup: the name of a machine may be "[red]".
        table.add_row(*(Text(printable(cell.text) or "-", style=_STYLE[cell.colour]) for cell in row))
    return table
