"""The window on screens of many sizes: nothing of it is outside, and every button is as large as a finger."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.fleet.agent.prompt.screens import geometry, screen, set_resources

from landline.fleet.agent.prompt import Question
from landline.fleet.agent.prompt.tk_dialog import GEOMETRY_VARIABLE
from landline.fleet.agent.prompt.tk_layout import Rectangle
from landline.fleet.agent.prompt.tk_prompt import DIALOG_COMMAND, TkPrompt
from landline.fleet.model import Action

CHINESE = "系统更新将在下午考试之前安装，请立即保存所有打开的文件。" * 15
LONG_WORD = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 5
RIGHT_TO_LEFT = "يرجى حفظ عملك الآن. שמור את עבודתך עכשיו."

USUAL = Question(
    action=Action.RESTART, requested_by="root@vm", message="Updates before the exam.", countdown_s=600
)
LARGEST = Question(
    action=Action.LOG_OFF,
    requested_by="W" * 100,
    message="long words and lines\n" * 190,
    countdown_s=7199,
    postpone_choices_s=tuple(60.0 * 25 * n for n in range(1, 10)),
)
FORCED = Question(
    action=Action.SHUT_DOWN,
    requested_by="",
    message="",
    countdown_s=600,
    may_cancel=False,
    may_postpone=False,
)


@pytest.fixture(autouse=True)
def _programs() -> None:
    pytest.importorskip("tkinter", reason="tkinter is missing: apt install python3-tk")
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is missing: apt install xvfb")


async def shown(
    question: Question, size: str, dpi: int, tmp_path: Path, resources: str = ""
) -> dict[str, Any]:
    """What the window says of itself on a screen of that size."""
    file = tmp_path / "geometry.json"
    with screen(size, dpi) as display:
        set_resources(display, resources)
        environ = {**os.environ, "DISPLAY": display, GEOMETRY_VARIABLE: str(file)}
        asking = asyncio.create_task(
            TkPrompt(environ=environ, command=(*DIALOG_COMMAND, "600")).ask(question)
        )
        try:
            return await geometry(file, asking, is_enabled=False)
        finally:
            asking.cancel()
            await asyncio.wait({asking})


def is_inside(inner: Rectangle, outer: Rectangle) -> bool:
    return (
        outer.x <= inner.x
        and outer.y <= inner.y
        and inner.x + inner.width <= outer.x + outer.width
        and inner.y + inner.height <= outer.y + outer.height
    )


def do_overlap(one: Rectangle, other: Rectangle) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )


@pytest.mark.parametrize("question", [USUAL, LARGEST, FORCED], ids=["usual", "largest", "forced"])
@pytest.mark.parametrize(
    ("size", "dpi"),
    [("800x600", 96), ("1024x768", 120), ("1366x768", 192), ("800x600", 192), ("3840x2160", 192)],
)
async def test_everything_is_on_the_screen(size: str, dpi: int, question: Question, tmp_path: Path) -> None:
    told = await shown(question, size, dpi, tmp_path)
    width, height = map(int, size.split("x"))
    page = Rectangle(*told["page"])
    assert is_inside(page, Rectangle(0, 0, width, height))
    buttons = [Rectangle(*place) for place in told["buttons"].values()]
    texts = [Rectangle(*place) for place in told["texts"].values()]
    for place in buttons + texts:
        assert is_inside(place, page)
    for index, one in enumerate(buttons + texts):
        assert not any(do_overlap(one, other) for other in (buttons + texts)[index + 1 :])
    assert all(button.height >= 44 and button.width >= 44 for button in buttons)
    assert len(buttons) == 1 + question.may_cancel + len(question.postpone_choices_s) * question.may_postpone


async def test_buttons_grow_with_the_resolution(tmp_path: Path) -> None:
    told = await shown(USUAL, "3840x2160", 192, tmp_path)
    assert all(height >= 88 for *_, height in told["buttons"].values())
    assert told["page"][2] == 1200


@pytest.mark.parametrize(("set_dpi", "scale"), [("192", 2), ("144", 1.5), ("96", 1), ("nonsense", 1)])
async def test_the_resolution_that_the_person_set_counts(set_dpi: str, scale: float, tmp_path: Path) -> None:
    told = await shown(USUAL, "2560x1440", 96, tmp_path, f"Xft.dpi: {set_dpi}\n")
    page = Rectangle(*told["page"])
    assert page.width == 600 * scale
    [title] = [Rectangle(*place) for text, place in told["texts"].items() if text.startswith("This computer")]
    # The letters grow as the window does.
    assert 20 * scale <= title.height <= 45 * scale
    assert 0.5 * page.width < title.width < page.width
    assert all(is_inside(Rectangle(*place), page) for place in told["buttons"].values())


@pytest.mark.parametrize(
    ("text", "lines_min", "lines_max"),
    [
        ("Updates", 1, 1),
        ("a\nb\nc", 3, 3),
        ("i" * 60, 1, 1),
        ("W" * 60, 2, 3),
        (LONG_WORD, 4, 9),
        (CHINESE[:50], 1, 7),
        (RIGHT_TO_LEFT, 1, 2),
    ],
)
async def test_a_message_gets_the_height_that_its_width_asks_for(
    text: str, lines_min: int, lines_max: int, tmp_path: Path
) -> None:
    question = Question(action=Action.RESTART, requested_by="ann", message=text, countdown_s=600)
    told = await shown(question, "1280x900", 96, tmp_path)
    assert not told["scrolls"]
    height = told["texts"][text][3]
    # 16 px around, and 17 to 24 px for a line, depending on the fonts that are installed.
    assert lines_min * 15 + 16 <= height <= lines_max * 26 + 16


async def test_four_hundred_chinese_characters(tmp_path: Path) -> None:
    """They take twice the width of Latin ones, where there is a font for them; more, where there is none."""
    assert len(CHINESE) > 400
    question = Question(action=Action.RESTART, requested_by="ann", message=CHINESE, countdown_s=600)
    told = await shown(question, "1280x900", 96, tmp_path)
    assert told["texts"][CHINESE][3] >= 200
    (tmp_path / "geometry.json").unlink()
    assert (await shown(question, "800x600", 96, tmp_path))["scrolls"]
