"""Rows as aligned columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from landline.cli.terminal import Colour, coloured, printable, shortened, width

CELL_COLUMNS_MAX: Final = 60
"""A longer cell is cut: one talkative machine must not push everything else off the screen."""


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


def _line(row: Sequence[Cell], widths: Sequence[int], colours: bool) -> str:
    cells = [
        coloured(cell.text, cell.colour, wanted=colours) + " " * (columns - width(cell.text))
        for cell, columns in zip(row, widths, strict=True)
    ]
    return "  ".join(cells).rstrip()
