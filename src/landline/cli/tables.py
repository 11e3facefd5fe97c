"""Rows as aligned columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from landline.cli.terminal_text import Colour, coloured, printable, shortened, width

CELL_COLUMNS_MAX: Final = 60
"""A longer cell is cut: one talkative machine must not push everything else off the screen."""

SPACES: Final = "  "
"""Between two columns."""


class Cell(NamedTuple):
    """One field of a table."""

    text: str
    colour: Colour = Colour.PLAIN


def table_lines(header: Sequence[str], rows: Sequence[Sequence[Cell]], *, colours: bool) -> list[str]:
    """``rows`` below ``header``, aligned by two spaces. Cells are made printable and cut here."""
    safe = [
        [Cell(shortened(printable(c.text), CELL_COLUMNS_MAX) or "-", c.colour) for c in row] for row in rows
    ]
    head = [Cell(title, Colour.FAINT) for title in header]
    widths = [max(width(row[i].text) for row in (head, *safe)) for i in range(len(header))]
    return [_line(row, widths, colours) for row in (head, *safe)]


def fitting(
    header: Sequence[str], rows: Sequence[Sequence[Cell]], columns: int, dispensable: Sequence[str]
) -> list[int]:
    """Which fields to show where there are ``columns``, as their places in ``header``.

    Those of ``dispensable`` are left out, the first one first, until the others fit whole.
    """
    widths = {
        title: max(
            width(title),
            *(width(shortened(printable(row[place].text), CELL_COLUMNS_MAX)) for row in rows),
        )
        if rows
        else width(title)
        for place, title in enumerate(header)
    }
    for title in dispensable:
        if sum(widths.values()) + len(SPACES) * (len(widths) - 1) <= columns:
            break
        del widths[title]
    return [place for place, title in enumerate(header) if title in widths]


def _line(row: Sequence[Cell], widths: Sequence[int], colours: bool) -> str:
    cells = [
        coloured(cell.text, cell.colour, wanted=colours) + " " * (columns - width(cell.text))
        for cell, columns in zip(row, widths, strict=True)
    ]
    return SPACES.join(cells).rstrip()
