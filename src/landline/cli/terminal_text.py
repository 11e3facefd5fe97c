"""Text for a terminal: safe to print, measured in columns, coloured on request."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TextIO

from landline import safe_text


class Colour(StrEnum):
    """Colours by meaning, as ANSI parameters."""

    PLAIN = ""
    GOOD = "32"
    WAITING = "33"
    BAD = "31"
    FAINT = "2"
    STRONG = "1"


MARKS_MAX: Final = 4
"""Combining marks on one character. Hebrew and Vietnamese need two or three."""
_MARKS: Final = frozenset({"Mn", "Me"})
_HARMFUL_IN_JSON: Final = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def printable(text: str) -> str:
    """Return ``text`` in one line that cannot move the cursor, nor colour, hide or reorder other text.

    Use it for everything a machine says of itself; see :func:`landline.safe_text`. More than :data:`MARKS_MAX`
    combining marks on one character are dropped: a pile of them would cover the lines above and below.
    """
    text = safe_text(text, None)
    if text.isascii():
        return text
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if _is_mark(character) else 0
        if marks <= MARKS_MAX:
            kept.append(character)
    return "".join(kept)


def printable_json(text: str) -> str:
    """Return JSON ``text`` with those characters escaped that JSON allows and a terminal may act on."""
    return _HARMFUL_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def width(text: str) -> int:
    """Return the number of columns that printable ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(0 if _is_mark(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def shortened(text: str, columns: int) -> str:
    """Return printable ``text`` cut to ``columns`` columns and twice as many characters, with "…" if it was cut.

    The second limit is for combining marks, which take no column.
    """
    characters_max = 2 * columns
    if len(text) <= characters_max and width(text) <= columns:
        return text
    kept, used = [], 1
    for character in text[: characters_max - 1]:
        used += width(character)
        if used > columns:
            break
        kept.append(character)
    return "".join(kept) + "…"


def _is_mark(character: str) -> bool:
    """Return whether a character combines with the one before it."""
    return unicodedata.category(character) in _MARKS


def coloured(text: str, colour: Colour, *, wanted: bool) -> str:
    """Return ``text`` in ``colour`` when ``wanted``."""
    return f"\x1b[{colour}m{text}\x1b[0m" if wanted and colour else text


def wants_colour(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether ``stream`` is a terminal that shows colours, and ``NO_COLOR`` is not set."""
    return stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
