"""Types of options: durations such as ``1h30m``, whole numbers, one word of several, paths.

Each fails with one sentence that names the option, what it takes, and what it was given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from landline.cli.exit_codes import WrongUse
from landline.cli.terminal_text import printable

DURATION_S_MAX: Final = 365 * 86_400
"""A year. A longer duration is a typing error."""

_SHOWN_CHARACTERS_MAX: Final = 40
"""Error messages repeat this much of a wrong value."""

_PATTERN: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_SECONDS: Final = (86_400, 3_600, 60, 1)


def parse_duration(text: str, option: str) -> float:
    """Return the seconds of ``1d``, ``8h``, ``2m``, ``5s`` or several of them, largest unit first.

    :raises WrongUse: for any other text, and for more than :data:`DURATION_S_MAX`.
    """
    match = _PATTERN.fullmatch(text)
    if not text or match is None:
        raise WrongUse(
            f"{option} takes a duration such as 30s, 2m, 8h or 1h30m, not {_quoted(text)}; give the unit too."
        )
    # Cut to twelve digits, which is too long already: Python refuses to convert thousands of digits.
    seconds = sum(int(n[:12]) * unit for n, unit in zip(match.groups("0"), _SECONDS, strict=True))
    if seconds > DURATION_S_MAX:
        raise WrongUse(f"{option} takes at most a year, not {_quoted(text)}; give a shorter duration.")
    return float(seconds)


def parse_whole_number(text: str, option: str, least: int, most: int) -> int:
    """Return the number. Raise :class:`WrongUse` unless it is a whole number from ``least`` to ``most``."""
    if not (text.isascii() and text.isdecimal()) or not least <= int(text[:12]) <= most:
        raise WrongUse(f"{option} takes a whole number from {least} to {most}, not {_quoted(text)}.")
    return int(text)


class Duration(click.ParamType[float]):
    """A duration; the value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        del ctx
        return value if isinstance(value, float) else parse_duration(value, _option(param))


class WholeNumber(click.ParamType[int]):
    """A whole number from ``least`` to ``most``."""

    name = "number"

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        del ctx
        if isinstance(value, int):
            return value
        return parse_whole_number(value, _option(param), self._least, self._most)


class OneOf(click.ParamType[str]):
    """One of a few words."""

    name = "word"

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        del ctx
        text = str(value)
        if text not in self._words:
            *first, last = self._words
            raise WrongUse(f"{_option(param)} takes {', '.join(first)} or {last}, not {_quoted(text)}.")
        return text


class NonEmptyPath(click.ParamType[Path]):
    """A path. Empty is an error: it is what an unset variable of a script leaves."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        del ctx
        if not str(value).strip():
            raise WrongUse(f"{_option(param)} is empty; name a path, or leave the option out.")
        return Path(value)


def _option(param: click.Parameter | None) -> str:
    """Return how the option is written on the command line: ``--valid-for``; an argument by its metavar."""
    assert param is not None
    if isinstance(param, click.Option):
        return param.opts[0]
    return param.human_readable_name


def _quoted(text: str) -> str:
    return f"'{printable(text[:_SHOWN_CHARACTERS_MAX])}'"
