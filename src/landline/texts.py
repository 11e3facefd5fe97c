"""Makes texts from outside safe for logs and messages."""

from __future__ import annotations

import unicodedata
from typing import Final

SAFE_CHARACTERS_MAX: Final = 200
"""The part of a peer's text that a log or a message repeats: enough to recognise it, too little to fill a disk."""

_HARMFUL: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def safe_text(text: str, characters_max: int | None = SAFE_CHARACTERS_MAX) -> str:
    """Return ``text`` as one short line that cannot move the cursor, change colours, or hide or reorder characters.

    Line ends and tabs become spaces. Other control characters, formatting characters of Unicode (including those that
    change the reading direction) and lone surrogates become ``\N{REPLACEMENT CHARACTER}``. A longer text
    is cut to ``characters_max`` code points, the last of which is then ``…``; ``None`` means no limit.
    """
    if characters_max is not None and len(text) > characters_max:
        # Cut first, because the checks below look at each character.
        text = text[: characters_max - 1] + "…"
    if text.isprintable():
        return text
    return "".join(
        character if unicodedata.category(character) not in _HARMFUL else _replacement(character)
        for character in text
    )


def _replacement(character: str) -> str:
    return " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"
