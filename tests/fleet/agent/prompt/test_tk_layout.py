from __future__ import annotations

import pytest

from landline.fleet.agent.prompt.tk_layout import (
    SCALE_MIN,
    TEXT_COLOURS,
    Rectangle,
    contrast,
    monitor_at,
    place,
    scale_of,
    smaller,
    usable_size,
)

SCREEN = Rectangle(0, 0, 1920, 1080)
RIGHT = Rectangle(1920, 0, 1280, 1024)


def test_contrast() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("colours", TEXT_COLOURS)
def test_every_text_can_be_read(colours: tuple[str, str]) -> None:
    assert contrast(*colours) >= 4.5


@pytest.mark.parametrize(
    ("dpi", "scale"), [(96, 1), (192, 2), (120, 1.25), (40, 1), (0, 1), (10_000, 4), (float("inf"), 4)]
)
def test_scale(dpi: float, scale: float) -> None:
    assert scale_of(dpi) == scale


def test_smaller_ends() -> None:
    scale = 4.0
    steps = 0
    while smaller(scale) != scale:
        scale, steps = smaller(scale), steps + 1
    assert (scale, steps) == (SCALE_MIN, 21)


def test_the_monitor_with_the_pointer() -> None:
    assert monitor_at([SCREEN, RIGHT], 5, 5) == SCREEN
    assert monitor_at([SCREEN, RIGHT], 1920, 1023) == RIGHT
    # Below the smaller monitor there is nothing to be seen.
    assert monitor_at([SCREEN, RIGHT], 2000, 1050) == SCREEN


def test_in_the_middle_of_one_monitor() -> None:
    assert place(SCREEN, 600, 400, (0, 0)) == (660, 316)
    x, y = place(RIGHT, 600, 400, (1930, 10))
    assert RIGHT.contains(x, y)
    assert RIGHT.contains(x + 599, y + 399)
    assert place(SCREEN, 600, 400, (-1, -1)) == (660, 316)


@pytest.mark.parametrize("monitor", [SCREEN, RIGHT])
def test_never_under_the_pointer_where_there_is_space(monitor: Rectangle) -> None:
    for x in range(monitor.x, monitor.x + monitor.width, 40):
        for y in range(monitor.y, monitor.y + monitor.height, 40):
            left, top = place(monitor, 600, 400, (x, y))
            assert not Rectangle(left, top, 600, 400).contains(x, y)
            assert monitor.contains(left, top)
            assert monitor.contains(left + 599, top + 399)


def test_a_window_as_large_as_the_screen_is_shown_all_the_same() -> None:
    small = Rectangle(0, 0, 800, 600)
    width, height = usable_size(small, 1.0)
    assert place(small, width, height, (400, 300)) == (16, 16)
    assert place(small, 5000, 5000, (400, 300)) == (16, 16)
