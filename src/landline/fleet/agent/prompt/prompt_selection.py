"""Selects the prompt that works on this machine: a window, or the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

from landline.fleet.agent.prompt import Prompt
from landline.fleet.agent.prompt.prompt_texts import NO_TERMINAL
from landline.fleet.agent.prompt.terminal_prompt import TerminalPrompt
from landline.fleet.agent.prompt.tk_prompt import TkPrompt, can_import_tkinter, no_window_reason

TERMINAL_PATH: Final = "/dev/tty"
"""The terminal a process was started from (tty(4)); a service has none."""


class PromptKind(StrEnum):
    """The kind of a prompt."""

    TK = "tk"
    TERMINAL = "terminal"


def prompt_kind(
    environ: Mapping[str, str], platform: str, *, has_tkinter: bool, has_terminal: bool
) -> PromptKind | None:
    """Return the best kind of prompt: a window if one can be shown, otherwise the terminal, otherwise ``None``.

    Windows has no terminal of this kind.
    """
    if no_window_reason(environ, platform, has_tkinter=has_tkinter) is None:
        return PromptKind.TK
    if has_terminal and platform != "win32":
        return PromptKind.TERMINAL
    return None


def can_open_terminal() -> bool:
    """Return whether this process has a controlling terminal."""
    try:
        descriptor = os.open(TERMINAL_PATH, os.O_RDWR | getattr(os, "O_NOCTTY", 0))
    except OSError:
        return False
    os.close(descriptor)
    return True


def unavailable_reason(
    environ: Mapping[str, str] | None = None,
    *,
    platform: str = sys.platform,
    has_tkinter: Callable[[], bool] = can_import_tkinter,
    has_terminal: Callable[[], bool] = can_open_terminal,
) -> str | None:
    """Return why :func:`choose_prompt` finds no prompt, or ``None`` if it finds one. Cheap.

    The reason is a phrase to follow "cannot ask: ": ``no display and no controlling terminal``.
    """
    reason = no_window_reason(os.environ if environ is None else environ, platform, has_tkinter=has_tkinter())
    if reason is None or platform == "win32":
        return reason
    return None if has_terminal() else f"{reason} and {NO_TERMINAL}"


def choose_prompt(
    environ: Mapping[str, str] | None = None,
    *,
    platform: str = sys.platform,
    has_tkinter: Callable[[], bool] = can_import_tkinter,
    has_terminal: Callable[[], bool] = can_open_terminal,
) -> Prompt | None:
    """Return the prompt for this machine, or ``None`` (:func:`unavailable_reason` returns why). Show nothing yet.

    :param environ: by default the process's own environment; a window is shown on the display it names.
    """
    kind = prompt_kind(
        os.environ if environ is None else environ,
        platform,
        has_tkinter=has_tkinter(),
        has_terminal=has_terminal(),
    )
    match kind:
        case PromptKind.TK:
            return TkPrompt(environ=environ)
        case PromptKind.TERMINAL:
            return TerminalPrompt(TERMINAL_PATH)
        case None:
            return None
