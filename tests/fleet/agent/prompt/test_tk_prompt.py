"""The window on a real display, clicked with a real mouse."""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from landline.fleet.agent.prompt import Answer, Choice, Prompt, PromptError, Question
from landline.fleet.agent.prompt.tk_dialog import GEOMETRY_VARIABLE, LINE_BYTES_MAX
from landline.fleet.agent.prompt.tk_prompt import DIALOG_COMMAND, TkPrompt, display_seat, parse_answer
from landline.fleet.model import Action

QUESTION = Question(
    action=Action.RESTART,
    requested_by="ann@example.org",
    message="The new kernel is ready.\n<b>Save</b> your work, please.",
    countdown_s=600,
)


QUICK_GRACE_S = "0.05"
"""For tests of what comes after the grace period."""

SOME_DISPLAY = {**os.environ, "DISPLAY": ":987"}
"""For children that show nothing."""


class Desk:
    """A person's display with the window on it, and their mouse and keyboard."""

    def __init__(self, display: str, geometry: Path) -> None:
        self.display = display
        self._geometry = geometry
        self.environ = {**os.environ, "DISPLAY": display, GEOMETRY_VARIABLE: str(geometry)}
        self.prompt: Prompt = TkPrompt(environ=self.environ, command=(*DIALOG_COMMAND, QUICK_GRACE_S))

    async def buttons(self) -> dict[str, list[int]]:
        """The places of the buttons, once they can be clicked."""
        while True:
            if self._geometry.exists() and (data := json.loads(self._geometry.read_text()))["enabled"]:
                buttons: dict[str, list[int]] = data["buttons"]
                return buttons
            await asyncio.sleep(0.02)

    async def clicks_into_the_window(self) -> None:
        """Clicks where there is no button: the person means this window."""
        x, y, *_ = (await self.buttons())["now"]
        await self.xdotool("mousemove", str(x - 20), str(y - 2), "click", "1")

    async def clicks(self, name: str) -> None:
        x, y, width, height = (await self.buttons())[name]
        await self.xdotool("mousemove", str(x + width // 2), str(y + height // 2), "click", "1")

    async def presses(self, *keys: str) -> None:
        await self.clicks_into_the_window()
        for key in keys:
            await self.xdotool("key", key)

    async def windows(self) -> list[int]:
        return [int(line) for line in (await self.xdotool("search", "--name", "landline")).split()]

    async def closes_the_window(self) -> None:
        """Sends WM_DELETE_WINDOW, as a window manager does when the cross is clicked (ICCCM 4.2.8.1)."""
        await self.buttons()
        for window in await self.windows():
            await asyncio.to_thread(send_delete_window, self.display, window)

    async def xdotool(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "xdotool", *arguments, env=self.environ, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        return output.decode()


@pytest.fixture
def desk(display: str, tmp_path: Path) -> Desk:
    pytest.importorskip("tkinter", reason="tkinter is missing: apt install python3-tk")
    if shutil.which("xdotool") is None:
        pytest.skip("xdotool is missing: apt install xdotool")
    return Desk(display, tmp_path / "geometry.json")


@pytest.mark.parametrize(
    ("button", "answer"),
    [
        ("now", Answer(choice=Choice.NOW)),
        ("cancel", Answer(choice=Choice.CANCEL)),
        ("postpone 0", Answer(choice=Choice.POSTPONE, postpone_s=300.0)),
        ("postpone 2", Answer(choice=Choice.POSTPONE, postpone_s=3600.0)),
    ],
)
async def test_a_click_answers(desk: Desk, button: str, answer: Answer) -> None:
    asking = asyncio.create_task(desk.prompt.ask(QUESTION))
    await desk.clicks(button)
    assert await asking == msgspec.structs.replace(answer, seat=desk.display)


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        (["alt+n"], Answer(choice=Choice.NOW)),
        (["alt+d"], Answer(choice=Choice.CANCEL)),
        (["alt+p", "Tab", "Return"], Answer(choice=Choice.POSTPONE, postpone_s=900.0)),
        (["alt+p", "space"], Answer(choice=Choice.POSTPONE, postpone_s=300.0)),
    ],
)
async def test_the_keyboard_answers(desk: Desk, keys: list[str], answer: Answer) -> None:
    asking = asyncio.create_task(desk.prompt.ask(QUESTION))
    await desk.presses(*keys)
    assert await asking == msgspec.structs.replace(answer, seat=desk.display)


async def test_what_is_not_allowed_is_not_offered(desk: Desk) -> None:
    question = msgspec.structs.replace(QUESTION, may_cancel=False, may_postpone=False)
    asking = asyncio.create_task(desk.prompt.ask(question))
    assert set(await desk.buttons()) == {"now"}
    await desk.presses("alt+d", "alt+p", "Return", "space", "c", "n")
    assert not asking.done()
    await desk.clicks("now")
    assert await asking == Answer(choice=Choice.NOW, seat=desk.display)


async def test_closing_the_window_answers_nothing(desk: Desk) -> None:
    asking = asyncio.create_task(desk.prompt.ask(QUESTION))
    await desk.closes_the_window()
    await desk.presses("Escape", "alt+F4")
    await desk.closes_the_window()
    # The display keeps the order of what happens on it: an answer by closing would have come first.
    await desk.clicks("postpone 1")
    assert await asking == Answer(choice=Choice.POSTPONE, postpone_s=900.0, seat=desk.display)


async def test_time_runs_out(desk: Desk) -> None:
    question = msgspec.structs.replace(QUESTION, countdown_s=0.5)
    assert await desk.prompt.ask(question) == Answer(choice=Choice.TIMED_OUT, seat=desk.display)


async def test_hostile_texts_are_shown_as_texts(desk: Desk) -> None:
    question = Question(
        action=Action.SHUT_DOWN,
        requested_by="[exit]; $x {\x1b[2J\u202e" * 100,
        message="[exec touch /tmp/x] \x00 { \\ $env(HOME) 🙂\n" * 500,
        countdown_s=600,
        postpone_choices_s=tuple(60.0 * n for n in range(1, 10)),
    )
    asking = asyncio.create_task(desk.prompt.ask(question))
    await desk.clicks("postpone 8")
    assert await asking == Answer(choice=Choice.POSTPONE, postpone_s=540.0, seat=desk.display)


async def test_cancelling_takes_the_window_away(desk: Desk) -> None:
    asking = asyncio.create_task(desk.prompt.ask(QUESTION))
    await desk.buttons()
    assert await desk.windows()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    while await desk.windows():
        await asyncio.sleep(0.02)


async def test_the_window_goes_when_the_one_who_asked_is_gone(desk: Desk) -> None:
    process = await start_dialog(desk)
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(QUESTION) + b"\n")
    await desk.buttons()
    process.stdin.close()
    output, _ = await process.communicate()
    assert (process.returncode, output) == (3, b"shown\n")


async def test_a_window_that_dies_without_an_answer(desk: Desk, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = (
        "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"
    )
    prompt = TkPrompt(
        environ=desk.environ, command=(sys.executable, "-c", code, str(pid), *DIALOG_COMMAND, QUICK_GRACE_S)
    )
    asking = asyncio.create_task(prompt.ask(QUESTION))
    await desk.buttons()
    os.kill(int(pid.read_text()), signal.SIGTERM)
    with pytest.raises(PromptError, match=r"^The window ended without an answer\.$"):
        await asking


async def test_no_display() -> None:
    environ = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    # A program that cannot be started: it is not even tried.
    prompt = TkPrompt(environ=environ, command=("/nowhere/python",))
    assert prompt.unavailable_reason() == "no display"
    with pytest.raises(PromptError, match=r"^The window cannot be shown: no display\.$"):
        await prompt.ask(QUESTION)


async def test_a_display_that_is_not_there() -> None:
    pytest.importorskip("tkinter", reason="tkinter is missing: apt install python3-tk")
    with pytest.raises(
        PromptError, match="ended without an answer: The window cannot be shown: couldn't conn"
    ):
        await TkPrompt(environ=SOME_DISPLAY).ask(QUESTION)


def test_the_seat_of_a_display() -> None:
    names = (":0", ":1.0", "unix:2.1", "localhost:10.0", "", "nonsense")
    assert [display_seat({"DISPLAY": name}) for name in names] == [":0", ":1", ":2", "localhost:10", "", ""]
    assert display_seat({}) == ""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('Tk broke.')", r"^The window ended without an answer: Tk broke\.$"),
        ("print('no')", "invalid answer"),
        ('print(\'{"choice": "maybe"}\')', "invalid answer"),
        ('print(\'{"choice": "postpone", "postpone_s": 7}\')', "not offered"),
        ("print('x' * 1_000_000)", "too long"),
        ("import sys; sys.stdin.close(); print()", "without an answer"),
    ],
)
async def test_a_child_that_misbehaves(code: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        await TkPrompt(environ=SOME_DISPLAY, command=(sys.executable, "-c", code)).ask(QUESTION)


@pytest.mark.parametrize(
    ("says", "message"),
    [("shown", "not even that time was up"), ("", r"^The window did not appear within 2 s\.$")],
)
async def test_a_child_that_gives_no_answer_is_killed(tmp_path: Path, says: str, message: str) -> None:
    code = (
        "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "print(sys.argv[2], end=sys.argv[2] and '\\n', flush=True); time.sleep(600)"
    )
    pid = tmp_path / "pid"
    question = msgspec.structs.replace(QUESTION, countdown_s=0.1 if says else 600.0)
    command = (sys.executable, "-c", code, str(pid), says)
    prompt = TkPrompt(environ=SOME_DISPLAY, command=command, start_timeout_s=2.0)
    with pytest.raises(PromptError, match=message):
        await prompt.ask(question)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


async def test_a_program_that_cannot_be_started() -> None:
    with pytest.raises(PromptError, match="cannot be started: No such file or directory"):
        await TkPrompt(environ=SOME_DISPLAY, command=("/nowhere/python",)).ask(QUESTION)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"[]\n",
        b'{"action": "restart"}\n',
        b'{"action": "restart", "requested_by": "a", "message": "", "countdown_s": "5"}\n',
        b'{"action": "restart", "requested_by": "a", "message": "", "countdown_s": 5, "x": 1}\n',
        b"x" * (LINE_BYTES_MAX + 10),
    ],
)
async def test_a_question_that_is_not_understood_is_refused(desk: Desk, line: bytes) -> None:
    process = await start_dialog(desk)
    output, errors = await process.communicate(line)
    assert (process.returncode, output) == (2, b"")
    assert errors.startswith(b"The question is invalid: ")
    assert errors.count(b"\n") == 1


def test_answers() -> None:
    assert parse_answer(b'{"choice": "now"}\n', QUESTION) == Answer(choice=Choice.NOW)
    for answer in (Answer(choice=Choice.TIMED_OUT), Answer(choice=Choice.POSTPONE, postpone_s=300.0)):
        assert parse_answer(msgspec.json.encode(answer), QUESTION) == answer
    for line in (b"", b"\xff", b"null", b'{"choice": 1}'):
        with pytest.raises(PromptError, match="invalid answer"):
            parse_answer(line, QUESTION)


async def start_dialog(desk: Desk) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *DIALOG_COMMAND, QUICK_GRACE_S, env=desk.environ, stdin=pipe, stdout=pipe, stderr=pipe
    )


class ClientMessage(ctypes.Structure):
    """XClientMessageEvent of Xlib.h, with the padding of XEvent."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("serial", ctypes.c_ulong),
        ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p),
        ("window", ctypes.c_ulong),
        ("message_type", ctypes.c_ulong),
        ("format", ctypes.c_int),
        ("data", ctypes.c_long * 5),
        ("padding", ctypes.c_long * 24),
    ]


def send_delete_window(display: str, window: int) -> None:
    # The xdotool of Debian 12 cannot ask a window to close, only destroy it.
    xlib: Any = ctypes.CDLL(ctypes.util.find_library("X11"))
    xlib.XOpenDisplay.restype = ctypes.c_void_p
    xlib.XInternAtom.restype = ctypes.c_ulong
    connection = ctypes.c_void_p(xlib.XOpenDisplay(display.encode()))
    assert connection.value
    event = ClientMessage(type=33, window=window, format=32)
    event.message_type = xlib.XInternAtom(connection, b"WM_PROTOCOLS", 0)
    event.data[0] = xlib.XInternAtom(connection, b"WM_DELETE_WINDOW", 0)
    xlib.XSendEvent(connection, ctypes.c_ulong(window), 0, ctypes.c_long(0), ctypes.byref(event))
    xlib.XCloseDisplay(connection)  # flushes, and waits until the server has it


def test_where_a_window_would_be_shown() -> None:
    assert TkPrompt(environ={"DISPLAY": ":7.0"}).seat() == ":7"
    assert TkPrompt(environ={}).seat() == ""
