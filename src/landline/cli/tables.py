"""Tables with aligned columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from landline.cli.terminal_text import Colour, coloured, printable, shortened, width

CELL_COLUMNS_MAX: Final = 60
"""A longer cell is cut: one long text must not push all other columns off the screen."""

COLUMN_GAP: Final = "  "
"""Stands between two columns."""


class Cell(NamedTuple):
    """One cell of a table."""

    text: str
    colour: Colour = Colour.PLAIN


def table_lines(header: Sequence[str], rows: Sequence[Sequence[Cell]], *, colours: bool) -> list[str]:
    """Return the lines of a table. Cells are made printable, and cut to :data:`CELL_COLUMNS_MAX`."""
    safe = [
        [Cell(shortened(printable(c.text), CELL_COLUMNS_MAX) or "-", c.colour) for c in row] for row in rows
    ]
    head = [Cell(title, Colour.FAINT) for title in header]
    widths = [max(width(row[i].text) for row in (head, *safe)) for i in range(len(header))]
    return [_line(row, widths, colours) for row in (head, *safe)]


def fitting_columns(
    header: Sequence[str], rows: Sequence[Sequence[Cell]], columns: int, optional: Sequence[str]
) -> list[int]:
    """Return the indexes in ``header`` of the columns that fit into ``columns`` characters.

    Columns named in ``optional`` are left out, the first one first, until the others fit.
    """
    widths = {
        title: max(
            width(title),
            *(width(shortened(printable(row[index].text), CELL_COLUMNS_MAX)) for row in rows),
        )
        if rows
        else width(title)
        for index, title in enumerate(header)
    }
    for title in optional:
        if sum(widths.values()) + len(COLUMN_GAP) * (len(widths) - 1) <= columns:
            break
        del widths[title]
    return [index for index, title in enumerate(header) if title in widths]


def _line(row: Sequence[Cell], widths: Sequence[int], colours: bool) -> str:
    cells = [
        coloured(cell.text, cell.colour, wanted=colours) + " " * (columns - width(cell.text))
        for cell, columns in zip(row, widths, strict=True)
    ]
    return COLUMN_GAP.join(cells).rstrip()
