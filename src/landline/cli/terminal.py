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


_HARMFUL_IN_JSON: Final = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def printable(text: str) -> str:
    """``text`` in one line that cannot move the cursor, colour, hide or reorder anything.

    Whatever a machine says of itself goes through here; see :func:`landline.safe_text`.
    """
    return safe_text(text, None)


def printable_json(text: str) -> str:
    """JSON ``text`` with the characters escaped that JSON allows but a terminal might obey."""
    return _HARMFUL_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def width(text: str) -> int:
    """How many columns printable ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def shortened(text: str, columns: int) -> str:
    """Printable ``text`` cut to ``columns``, with an ellipsis where something was cut."""
    if width(text) <= columns:
        return text
    kept, used = [], 1
    for character in text:
        used += width(character)
        if used > columns:
            break
        kept.append(character)
    return "".join(kept) + "…"


def coloured(text: str, colour: Colour, *, wanted: bool) -> str:
    """``text`` in ``colour`` when ``wanted``."""
    return f"\x1b[{colour}m{text}\x1b[0m" if wanted and colour else text


def wants_colour(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ``stream`` is a terminal that shows colours and nobody asked for none (``NO_COLOR``)."""
    return stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
