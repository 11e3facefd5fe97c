"""Position, size and colours of the window. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

DPI_NORMAL: Final = 96.0
"""The resolution for which sizes are given, as in CSS."""

SCALE_MAX: Final = 4.0
"""The largest accepted scale: projectors and virtual machines report arbitrary sizes in millimetres."""

SCALE_MIN: Final = 0.7
"""The smallest scale, with text of 10 px."""

SCALE_STEP: Final = 0.92
"""The factor by which the window gets smaller each time it does not fit."""

WIDTH_PX: Final = 600
"""The width of the window at scale 1: lines of about 75 characters, as in books."""

EDGE_PX: Final = 16
"""The distance of the window from the edges of the monitor."""

FRAME_PX: Final = 48
"""The height reserved for the window manager's frame and for a panel, at scale 1."""

BUTTON_PX_MIN: Final = 44
"""The least height of a button: as large as a finger (WCAG 2.2, target size)."""

PAPER: Final = "#ffffff"
INK: Final = "#1f2933"
FADED: Final = "#52606d"
QUOTE: Final = "#f5f7fa"
ACCENT: Final = "#0b6e99"
ACCENT_DARK: Final = "#07475f"
ALARM: Final = "#b42318"
LINE: Final = "#cbd2d9"
BUTTON: Final = "#f1f4f7"
BUTTON_ACTIVE: Final = "#dfe5ea"
OFF: Final = "#e4e8ec"
OFF_INK: Final = "#5a6672"

TEXT_COLOURS: Final = (
    (INK, PAPER),
    (FADED, PAPER),
    (ALARM, PAPER),
    (ACCENT, PAPER),
    (INK, QUOTE),
    (INK, BUTTON),
    (INK, BUTTON_ACTIVE),
    (PAPER, ACCENT),
    (PAPER, ACCENT_DARK),
    (OFF_INK, OFF),
)
"""Every colour of text with its background."""


class Rectangle(NamedTuple):
    """A rectangle on the screen, in pixels."""

    x: int
    y: int
    width: int
    height: int

    def contains(self, x: int, y: int) -> bool:
        return self.x <= x < self.x + self.width and self.y <= y < self.y + self.height


def scale_of(dpi: float) -> float:
    """Return the scale for a resolution, relative to 96 dpi; at least 1."""
    return min(max(dpi / DPI_NORMAL, 1.0), SCALE_MAX)


def smaller(scale: float) -> float:
    """Return the next smaller scale to try when the window does not fit."""
    return max(scale * SCALE_STEP, SCALE_MIN)


def monitor_at(monitors: Sequence[Rectangle], x: int, y: int) -> Rectangle:
    """Return the monitor that contains a point (the pointer, where the person looks); by default the first."""
    return next((monitor for monitor in monitors if monitor.contains(x, y)), monitors[0])


def usable_size(monitor: Rectangle, scale: float) -> tuple[int, int]:
    """Return the largest width and height of a window on ``monitor``."""
    height = monitor.height - 2 * EDGE_PX - round(FRAME_PX * scale)
    return monitor.width - 2 * EDGE_PX, height


def place(monitor: Rectangle, width: int, height: int, pointer: tuple[int, int]) -> tuple[int, int]:
    """Return the position of the window: the centre, but not under the pointer.

    Under the pointer it would get the next click or, if the focus follows the pointer, the next keys. So it goes to a
    corner then, bottom right first; to the centre after all if it is too large for that.
    """
    left, top = monitor.x + EDGE_PX, monitor.y + EDGE_PX
    right = max(left, monitor.x + monitor.width - EDGE_PX - width)
    bottom = max(top, monitor.y + monitor.height - FRAME_PX - EDGE_PX - height)
    middle = max(left, (left + right) // 2), max(top, (top + bottom) // 2)
    for x, y in (middle, (right, bottom), (right, top), (left, bottom), (left, top)):
        margin = EDGE_PX
        around = Rectangle(x - margin, y - FRAME_PX, width + 2 * margin, height + FRAME_PX + margin)
        if not around.contains(*pointer):
            return x, y
    return middle


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours (``#rrggbb``) as WCAG defines it, from 1 to 21."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
