from __future__ import annotations

import pytest

from landline.fleet.agent.prompt.prompt_selection import (
    PromptKind,
    can_import_tkinter,
    can_open_terminal,
    choose_prompt,
    prompt_kind,
    unavailable_reason,
)
from landline.fleet.agent.prompt.terminal_prompt import TerminalPrompt
from landline.fleet.agent.prompt.tk_prompt import TkPrompt

X11 = {"DISPLAY": ":0"}
WAYLAND = {"WAYLAND_DISPLAY": "wayland-0"}


@pytest.mark.parametrize(
    ("environ", "platform", "has_tkinter", "has_terminal", "kind"),
    [
        (X11, "linux", True, True, PromptKind.TK),
        (X11 | WAYLAND, "linux", True, False, PromptKind.TK),
        (X11, "linux", False, True, PromptKind.TERMINAL),
        (X11, "linux", False, False, None),
        (WAYLAND, "linux", True, True, PromptKind.TERMINAL),
        (WAYLAND, "linux", True, False, None),
        ({"DISPLAY": ""}, "linux", True, False, None),
        ({}, "linux", True, True, PromptKind.TERMINAL),
        ({}, "darwin", True, True, PromptKind.TK),
        ({}, "darwin", False, True, PromptKind.TERMINAL),
        ({}, "win32", True, False, PromptKind.TK),
        ({}, "win32", False, True, None),
    ],
)
def test_the_best_way_there_is(
    environ: dict[str, str], platform: str, has_tkinter: bool, has_terminal: bool, kind: PromptKind | None
) -> None:
    assert prompt_kind(environ, platform, has_tkinter=has_tkinter, has_terminal=has_terminal) is kind


def test_choosing() -> None:
    def yes() -> bool:
        return True

    def no() -> bool:
        return False

    assert isinstance(choose_prompt(X11, platform="linux", has_tkinter=yes, has_terminal=yes), TkPrompt)
    assert isinstance(choose_prompt({}, platform="linux", has_tkinter=yes, has_terminal=yes), TerminalPrompt)
    assert choose_prompt({}, platform="linux", has_tkinter=yes, has_terminal=no) is None


@pytest.mark.parametrize(
    ("environ", "platform", "has_tkinter", "has_terminal", "reason"),
    [
        ({}, "linux", True, False, "no display and no controlling terminal"),
        (WAYLAND, "linux", True, False, "no X display (only Wayland) and no controlling terminal"),
        (
            X11,
            "linux",
            False,
            False,
            "no tkinter (on Debian: apt install python3-tk) and no controlling terminal",
        ),
        ({}, "linux", True, True, None),
        (X11, "linux", True, False, None),
        ({}, "win32", True, False, None),
        ({}, "win32", False, True, "no tkinter (on Debian: apt install python3-tk)"),
    ],
)
def test_why_there_is_no_way(
    environ: dict[str, str], platform: str, has_tkinter: bool, has_terminal: bool, reason: str | None
) -> None:
    found = unavailable_reason(
        environ, platform=platform, has_tkinter=lambda: has_tkinter, has_terminal=lambda: has_terminal
    )
    assert found == reason
    chosen = choose_prompt(
        environ, platform=platform, has_tkinter=lambda: has_tkinter, has_terminal=lambda: has_terminal
    )
    assert (chosen is None) == (reason is not None)


def test_looking_at_this_machine() -> None:
    assert can_import_tkinter() in (True, False)
    assert can_open_terminal() in (True, False)
    choose_prompt()
