"""The window appears while a person types into another one, with and without a window manager."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest
from tests.fleet.agent.prompt.screens import geometry, screen

from landline.fleet.agent.prompt import Answer, Choice, Question
from landline.fleet.agent.prompt.tk_dialog import GEOMETRY_VARIABLE, InputGuard
from landline.fleet.agent.prompt.tk_prompt import DIALOG_COMMAND, TkPrompt
from landline.fleet.model import Action

QUESTION = Question(action=Action.RESTART, requested_by="root@vm", message="Updates", countdown_s=600)

TYPED = "now d0 not stop, n n d d restart and go on "
CHARACTERS_MIN = 240

EDITOR = """
import sys, tkinter
root = tkinter.Tk()
root.title("editor")
root.geometry("500x300+20+20")
text = tkinter.Text(root, width=40, height=8)
text.pack(fill="both", expand=True)
root.bind("<FocusIn>", lambda event: print("focus in", flush=True))
root.bind("<FocusOut>", lambda event: print("focus out", flush=True))
def handle(event):
    print("text " + text.get("1.0", "end-1c").replace("\\n", "|"), flush=True)
    return "break"
text.bind("<F2>", handle)
text.focus_set()
root.mainloop()
"""


class Keyboard:
    """The keyboard and the mouse of a display."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = environ

    async def xdotool(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "xdotool", *arguments, env=self._environ, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode().strip()


class Editor(Keyboard):
    """A window with a text in it, and a person who types."""

    def __init__(self, process: asyncio.subprocess.Process, environ: dict[str, str]) -> None:
        super().__init__(environ)
        self._process = process
        self.seen: list[str] = []

    async def sees(self, words: str) -> str:
        """The next line of the window that begins with ``words``."""
        assert self._process.stdout is not None
        while line := (await self._process.stdout.readline()).decode().rstrip("\n"):
            self.seen.append(line)
            if line.startswith(words):
                return line.removeprefix(words)
        raise AssertionError(f"the editor ended before it said {words!r}")

    async def text(self) -> str:
        """What has arrived."""
        await self.xdotool("key", "F2")
        return await self.sees("text ")


@contextmanager
def window_manager(name: str, display: str) -> Iterator[None]:
    """Runs it, from when it answers until the end; nothing for ``none``."""
    if name == "none":
        yield
        return
    if shutil.which(name) is None:
        pytest.skip(f"{name} is missing: apt install {name}")
    environ = {**os.environ, "DISPLAY": display}
    environ.pop("DBUS_SESSION_BUS_ADDRESS", None)
    process = subprocess.Popen(
        [name], env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while subprocess.run(
            ["xdotool", "get_num_desktops"], env=environ, check=False, capture_output=True
        ).stdout.strip() in (b"", b"0"):
            assert process.poll() is None, f"{name} ended"
        yield
    finally:
        process.terminate()
        process.wait()


@asynccontextmanager
async def editor(display: str, *, has_manager: bool) -> AsyncIterator[Editor]:
    environ = {**os.environ, "DISPLAY": display}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", EDITOR, env=environ, stdout=asyncio.subprocess.PIPE
    )
    try:
        one = Editor(process, environ)
        window = (await one.xdotool("search", "--sync", "--onlyvisible", "--name", "^editor$")).split()[-1]
        if has_manager:
            await one.xdotool("mousemove", "--window", window, "250", "150", "click", "1")
        else:
            await one.xdotool("windowfocus", window)
        await one.sees("focus in")
        yield one
    finally:
        process.kill()
        await process.wait()


@pytest.fixture(autouse=True)
def _programs() -> None:
    pytest.importorskip("tkinter", reason="tkinter is missing: apt install python3-tk")
    for program, package in (("Xvfb", "xvfb"), ("xdotool", "xdotool")):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: apt install {package}")


# metacity only where it is there: it brings half a desktop with it.
@pytest.fixture(params=["none", "openbox", *(["metacity"] if shutil.which("metacity") else [])])
def manager(request: pytest.FixtureRequest) -> str:
    """The window manager of the screen."""
    return str(request.param)


async def test_a_person_who_types_loses_no_key_and_answers_nothing(manager: str, tmp_path: Path) -> None:
    file = tmp_path / "geometry.json"
    with screen("1280x900") as display, window_manager(manager, display):
        environ = {**os.environ, "DISPLAY": display, GEOMETRY_VARIABLE: str(file)}
        async with editor(display, has_manager=manager != "none") as typing:
            asking = asyncio.create_task(TkPrompt(environ=environ).ask(QUESTION))
            enabled = asyncio.create_task(geometry(file, asking))
            expected = ""
            # From before the window is there until its buttons can be pressed, and a while longer.
            while len(expected) < CHARACTERS_MIN or not enabled.done():
                await typing.xdotool("type", "--delay", "5", TYPED)
                await typing.xdotool("key", "alt+n", "alt+d", "alt+p", "Return")
                expected += TYPED + "|"
            for _ in range(3):
                await typing.xdotool("type", "--delay", "5", TYPED)
                expected += TYPED
            assert await typing.text() == expected
            assert "focus out" not in typing.seen
            assert not asking.done()
            # The person chooses the window, and only then it takes keys.
            x, y, *_ = (await enabled)["buttons"]["now"]
            await typing.xdotool("mousemove", str(x - 20), str(y - 2), "click", "1")
            await typing.sees("focus out")
            await typing.xdotool("key", "alt+d")
            assert await asking == Answer(choice=Choice.CANCEL, seat=display)


async def test_a_window_that_is_given_the_focus_all_the_same_acts_on_no_key(
    manager: str, tmp_path: Path
) -> None:
    file = tmp_path / "geometry.json"
    with screen("1280x900") as display, window_manager(manager, display):
        environ = {**os.environ, "DISPLAY": display, GEOMETRY_VARIABLE: str(file)}
        async with editor(display, has_manager=manager != "none") as typing:
            # As on a slow machine: the grace period lasts as long as the test, so nothing depends on its pace.
            prompt = TkPrompt(environ=environ, command=(*DIALOG_COMMAND, "600"))
            asking = asyncio.create_task(prompt.ask(QUESTION))
            shown = await geometry(file, asking, is_enabled=False)
            await typing.xdotool("windowfocus", str(shown["window"]))
            await typing.sees("focus out")
            await typing.xdotool("key", "alt+n", "alt+d", "Tab", "space", "Return", "Tab", "Return", "n")
            x, y, width, height = shown["buttons"]["now"]
            await typing.xdotool("mousemove", str(x + width // 2), str(y + height // 2), "click", "1")
            # The display keeps the order of what happens on it: an answer would have come first.
            await typing.xdotool("search", "--name", "landline")
            assert not asking.done()
            asking.cancel()
            await asyncio.wait({asking})
            assert asking.cancelled()


async def test_a_window_that_appears_under_the_pointer_takes_no_keys_for_an_answer(tmp_path: Path) -> None:
    """Without a window manager keys go to the window under the pointer: it has the focus by appearing."""
    question = msgspec.structs.replace(
        QUESTION, message="long\n" * 100, postpone_choices_s=tuple(60.0 * n for n in range(1, 10))
    )
    file = tmp_path / "geometry.json"
    with screen("800x600") as display:
        environ = {**os.environ, "DISPLAY": display, GEOMETRY_VARIABLE: str(file)}
        asking = asyncio.create_task(TkPrompt(environ=environ).ask(question))
        shown = await geometry(file, asking)
        x, y, width, height = shown["page"]
        assert x < 400 < x + width
        assert y < 300 < y + height
        desk = Keyboard(environ)
        await desk.xdotool(
            "key", "n", "d", "space", "Return", "alt+n", "alt+d", "alt+p", "space", "Tab", "space"
        )
        x, y, *_ = shown["buttons"]["now"]
        await desk.xdotool(
            "mousemove", str(x - 20), str(y - 2), "click", "1", "key", "alt+p", "Tab", "Return"
        )
        assert await asking == Answer(choice=Choice.POSTPONE, postpone_s=120.0, seat=display)


def test_what_the_person_means() -> None:
    attention = InputGuard(1.5)
    assert not attention.takes_clicks(0.0)
    attention.show(10.0)
    attention.set_focus(True, 10.1)
    assert not attention.takes_clicks(11.4)
    assert attention.takes_clicks(11.5)
    # The focus came with the window, and is never taken for an act of the person's.
    assert not attention.takes_keys(1000.0)
    attention.click(11.0)
    assert not attention.takes_keys(1000.0)
    attention.click(12.0)
    attention.set_focus(True, 12.1)
    assert attention.takes_keys(12.0)


def test_a_focus_that_comes_later_counts_after_a_while() -> None:
    attention = InputGuard(1.5)
    attention.show(10.0)
    attention.set_focus(True, 20.0)
    assert not attention.takes_keys(21.4)
    assert attention.takes_keys(21.5)
    attention.set_focus(False, 22.0)
    assert not attention.takes_keys(30.0)
    attention.set_focus(True, 31.0)
    assert not attention.takes_keys(32.4)
    assert attention.takes_keys(32.5)


def test_a_window_that_comes_back_begins_again() -> None:
    attention = InputGuard(1.5)
    attention.show(10.0)
    attention.click(20.0)
    attention.set_focus(True, 20.0)
    assert attention.takes_keys(20.0)
    attention.show(30.0)
    assert not attention.takes_clicks(31.4)
    assert not attention.takes_keys(40.0)


def test_a_click_counts_before_the_focus_follows_it() -> None:
    attention = InputGuard(1.5)
    attention.show(10.0)
    attention.click(12.0)
    attention.set_focus(False, 12.1)
    attention.set_focus(True, 12.2)
    assert attention.takes_keys(12.3)
