"""How a command ends."""

from __future__ import annotations

from typing import Final

from landline.cli.terminal_text import printable

ALL_DONE: Final = 0
SOME_NOT_DONE: Final = 1
WRONG_USE: Final = 2
NO_SERVER: Final = 3
"""The control server cannot be reached, went away, or failed."""
INTERRUPTED: Final = 130


def sentence(text: str) -> str:
    """``text`` as a printable sentence of its own. A path or a URL that begins it stays as it is."""
    text = printable(text)
    if text.split(maxsplit=1)[:1] and text.split(maxsplit=1)[0].isalpha():
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


class CommandFailed(Exception):
    """A command cannot go on: one sentence for standard error, and the exit status."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class WrongUse(CommandFailed):
    """The command was given something it cannot work with."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, WRONG_USE)
