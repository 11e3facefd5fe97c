"""Progress bars of file transfers, drawn by rich into a text that pretends to be a terminal."""

import io
from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.progress import Progress

import landline
from landline.cli.file_progress import BARS_MAX, ProgressBars, show_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def progress(bytes_done: int) -> landline.FileProgress:
    return landline.FileProgress(
        bytes_done=bytes_done, bytes_total=100, rate_bytes_per_s=1.0, seconds_left=7.0, resumed_from=0
    )


@pytest.fixture
def display() -> Iterator[Progress]:
    with Progress(console=Console(file=Terminal())) as running:
        yield running


def test_the_bar_of_a_complete_file_is_removed(display):
    bars = ProgressBars(display)
    bars.show("a", progress(1))
    assert len(display.tasks) == 1
    bars.show("a", progress(100))
    assert not display.tasks


def test_bars_of_abandoned_files_are_limited(display):
    bars = ProgressBars(display)
    for number in range(BARS_MAX + 36):
        bars.show(f"{number}", progress(1))
    assert [task.description for task in display.tasks] == [f"{n}" for n in range(36, BARS_MAX + 36)]
    # The bar of a removed file comes back when its transfer continues.
    bars.show("0", progress(2))
    assert display.tasks[-1].description == "0"


def test_a_terminal_shows_the_title_the_rate_and_the_remaining_time():
    terminal = Terminal()
    with show_progress(terminal) as bars:
        bars.show("photo\x1b[2J.raw", progress(1))
    assert "photo\N{REPLACEMENT CHARACTER}[2J.raw" in terminal.getvalue()
    assert "0:07 left" in terminal.getvalue()


def test_nothing_is_drawn_without_a_terminal():
    stream = io.StringIO()
    with show_progress(stream) as bars:
        bars.show("a", progress(1))
    assert stream.getvalue() == ""
