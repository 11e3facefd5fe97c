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


def test_a_bar_goes_when_its_file_is_done():
    with show_progress(Screen()) as bars:
        bars.show("a", told(1))
        assert len(bars._display.tasks) == 1
        bars.show("a", told(100))
        assert not bars._display.tasks


def test_a_sender_that_gives_up_file_after_file_does_not_fill_the_screen():
    with show_progress(Screen()) as bars:
        for number in range(BARS_MAX + 36):
            bars.show(f"{number}", told(1))
        assert [task.description for task in bars._display.tasks] == [
            f"{n}" for n in range(36, BARS_MAX + 36)
        ]
        # One of those that went goes on.
        bars.show("0", told(2))
        assert bars._display.tasks[-1].description == "0"


def test_nothing_is_display_where_nobody_looks():
    stream = io.StringIO()
    with show_progress(stream) as bars:
        bars.show("a", told(1))
    assert stream.getvalue() == ""
