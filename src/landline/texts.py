"""Texts from outside on their way into a log or a sentence."""

from __future__ import annotations

import unicodedata
from typing import Final

SAFE_CHARACTERS_MAX: Final = 200
"""How much of a peer's text a log or a sentence repeats: enough to recognise it, too little to fill a disk with."""

_HARMFUL: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def safe_text(text: str, characters_max: int | None = SAFE_CHARACTERS_MAX) -> str:
    """Return ``text`` in one line that cannot move a cursor, colour, hide or reorder anything, and is not long.

    Line ends and tabs become spaces. Other control characters, Unicode's formatting characters (those that turn the
    reading direction are among them) and halves of surrogate pairs become ``\N{REPLACEMENT CHARACTER}``. A longer text
    is cut to ``characters_max`` code points, the last of which is then ``…``; ``None`` cuts nothing.
    """
    if characters_max is not None and len(text) > characters_max:
        # Before anything looks at each character of it.
        text = text[: characters_max - 1] + "…"
    if text.isprintable():
        return text
    return "".join(
        character if unicodedata.category(character) not in _HARMFUL else _stand_in(character)
        for character in text
    )


def _stand_in(character: str) -> str:
    return " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"
