"""Progress bars of file transfers: amount, rate, remaining time. Without a terminal nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TextIO

from landline.cli.terminal_text import printable, shortened

if TYPE_CHECKING:
    import landline

NAME_COLUMNS: Final = 40
BARS_MAX: Final = 64
"""More than the files that are received at once. Every file that a sender abandons leaves a bar."""


class ProgressBars:
    """One bar for each file, removed when its file is complete."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self._bars: dict[str, Any] = {}

    def bar(self, title: str) -> Callable[[landline.FileProgress], None]:
        """Return a ``progress`` function for ``send_file``."""
        return lambda state: self.show(title, state)

    def show(self, title: str, state: landline.FileProgress) -> None:
        """Draw the progress of the file with that title."""
        if self._display is None:
            return
        bar = self._bars.get(title)
        if bar is None:
            if len(self._bars) >= BARS_MAX:
                # Remove the oldest bar. If its transfer continues, it comes back.
                self._display.remove_task(self._bars.pop(next(iter(self._bars))))
            text = shortened(printable(title), NAME_COLUMNS)
            bar = self._bars[title] = self._display.add_task(text, total=None, rate="", left="")
        self._display.update(
            bar,
            completed=state.bytes_done,
            total=state.bytes_total,
            rate=f"{state.rate_bytes_per_s / 1e6:.1f} MB/s",
            left="" if state.seconds_left is None else f"{_clock_text(state.seconds_left)} left",
        )
        if state.bytes_done == state.bytes_total:
            self._display.remove_task(self._bars.pop(title))


@contextmanager
def show_progress(stream: TextIO) -> Iterator[ProgressBars]:
    """Draw bars on ``stream`` while the context is open, if it is a terminal."""
    if not stream.isatty():
        yield ProgressBars(None)
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
    with Progress(*columns, console=Console(file=stream), transient=True) as display:
        yield ProgressBars(display)


def _clock_text(seconds: float) -> str:
    """Return ``0:07``, ``12:30``, ``3:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
