"""Bars for files under way, drawn for real into a text that takes itself for a terminal."""

import io

import landline
from landline.cli.file_progress import BARS_MAX, show_progress


class Screen(io.StringIO):
    def isatty(self):
        return True


def told(done):
    return landline.FileProgress(
        bytes_done=done, bytes_total=100, rate_bytes_per_s=1.0, seconds_left=1.0, resumed_from=0
    )


def test_the_bar_of_a_complete_file_is_removed():
    with show_progress(Screen()) as bars:
        bars.show("a", told(1))
        assert len(bars._display.tasks) == 1
        bars.show("a", told(100))
        assert not bars._display.tasks


def test_bars_of_abandoned_files_are_limited():
    with show_progress(Screen()) as bars:
        for number in range(BARS_MAX + 36):
            bars.show(f"{number}", told(1))
        assert [task.description for task in bars._display.tasks] == [
            f"{n}" for n in range(36, BARS_MAX + 36)
        ]
        # One of those that went goes on.
        bars.show("0", told(2))
        assert bars._display.tasks[-1].description == "0"


def test_nothing_is_drawn_without_a_terminal():
    stream = io.StringIO()
    with show_progress(stream) as bars:
        bars.show("a", told(1))
    assert stream.getvalue() == ""
