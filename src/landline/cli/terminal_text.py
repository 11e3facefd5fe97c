"""Text on its way to a terminal: harmless, as wide as it looks, coloured where that is wanted."""

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
"""Marks on one character. Hebrew and Vietnamese need two or three."""
_MARKS: Final = frozenset({"Mn", "Me"})
_HARMFUL_IN_JSON: Final = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def printable(text: str) -> str:
    """``text`` in one line that cannot move the cursor, colour, hide or reorder anything.

    Whatever a machine says of itself goes through here; see :func:`landline.safe_text`. Of the marks on one character,
    those above :data:`MARKS_MAX` are left out: piled up, they would cover the lines above and below.
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
    """JSON ``text`` with the characters escaped that JSON allows but a terminal might obey."""
    return _HARMFUL_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def width(text: str) -> int:
    """How many columns printable ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(0 if _is_mark(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def shortened(text: str, columns: int) -> str:
    """Printable ``text`` cut to ``columns``, and to twice as many characters, with an ellipsis where something was cut.

    The second limit is for marks, which take no column.
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
    """Whether a character is put onto the one before it."""
    return unicodedata.category(character) in _MARKS


def coloured(text: str, colour: Colour, *, wanted: bool) -> str:
    """``text`` in ``colour`` when ``wanted``."""
    return f"\x1b[{colour}m{text}\x1b[0m" if wanted and colour else text


def wants_colour(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ``stream`` is a terminal that shows colours and nobody asked for none (``NO_COLOR``)."""
    return stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
