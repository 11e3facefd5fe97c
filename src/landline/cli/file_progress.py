"""Bars for files under way: how much, how fast, how long still. Nothing is drawn where nobody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TextIO

from landline.cli.terminal_text import printable, shortened

if TYPE_CHECKING:
    import landline

NAME_COLUMNS: Final = 40
BARS_MAX: Final = 64
"""More than files are received at once. A sender that gives up file after file would leave a bar for each."""


class Bars:
    """One bar for each file; it goes when its file is done."""

    def __init__(self, drawn: Any) -> None:
        self._drawn = drawn
        self._bars: dict[str, Any] = {}

    def bar(self, title: str) -> Callable[[landline.FileProgress], None]:
        """A ``progress`` function for ``send_file``."""
        return lambda told: self.show(title, told)

    def show(self, title: str, told: landline.FileProgress) -> None:
        """Draws how far the file of that title is."""
        if self._drawn is None:
            return
        bar = self._bars.get(title)
        if bar is None:
            if len(self._bars) >= BARS_MAX:
                # The one begun longest ago; if it goes on, it comes again.
                self._drawn.remove_task(self._bars.pop(next(iter(self._bars))))
            text = shortened(printable(title), NAME_COLUMNS)
            bar = self._bars[title] = self._drawn.add_task(text, total=None, rate="", left="")
        self._drawn.update(
            bar,
            completed=told.bytes_done,
            total=told.bytes_total,
            rate=f"{told.rate_bytes_per_s / 1e6:.1f} MB/s",
            left="" if told.seconds_left is None else f"{_minutes(told.seconds_left)} left",
        )
        if told.bytes_done == told.bytes_total:
            self._drawn.remove_task(self._bars.pop(title))


@contextmanager
def show_progress(stream: TextIO) -> Iterator[Bars]:
    """Bars on ``stream`` while entered, if that is a terminal."""
    if not stream.isatty():
        yield Bars(None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as drawn:
        yield Bars(drawn)


def _minutes(seconds: float) -> str:
    """As clocks count down: ``0:07``, ``12:30``, ``3:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
