"""Exit statuses, and the exceptions that end a command with one."""

from __future__ import annotations

from typing import Final

from landline.cli.terminal_text import printable

ALL_DONE: Final = 0
SOME_NOT_DONE: Final = 1
WRONG_USE: Final = 2
NO_SERVER: Final = 3
"""The server cannot be reached, went away, or failed."""
INTERRUPTED: Final = 130


def sentence(text: str) -> str:
    """Return ``text`` as a printable sentence. Its first word gets a capital, unless it is a path or a URL."""
    text = printable(text)
    if text.split(maxsplit=1)[:1] and text.split(maxsplit=1)[0].isalpha():
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


class CommandFailed(Exception):
    """A command cannot continue. Holds one sentence for standard error, and the exit status."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class WrongUse(CommandFailed):
    """The command cannot use what it was given."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, WRONG_USE)
