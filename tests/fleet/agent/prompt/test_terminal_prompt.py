"""Asking on a real pseudo-terminal: the test sits at its other end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from landline.fleet.agent.prompt import Answer, Choice, Prompt, PromptError, Question
from landline.fleet.agent.prompt.terminal_prompt import (
    TerminalPrompt,
    View,
    choices_line,
    device_name,
    heading,
    keys_in,
    next_step,
)
from landline.fleet.model import Action

QUESTION = Question(
    action=Action.RESTART, requested_by="ann", message="Updates are ready.\nSave your work.", countdown_s=600
)


class Person:
    """A person at a terminal, who reads and types."""

    def __init__(self) -> None:
        self._end, self._terminal = os.openpty()
        self.path = os.ttyname(self._terminal)
        self.seat = self.path.removeprefix("/dev/")
        self.settings = termios.tcgetattr(self._terminal)
        self._seen = ""
        self._changed = asyncio.Event()
        self._is_gone = False
        asyncio.get_running_loop().add_reader(self._end, self._read)

    async def sees(self, text: str) -> None:
        """Returns once ``text`` was written after what was seen last."""
        while text not in self._seen:
            self._changed.clear()
            await self._changed.wait()
        self._seen = self._seen.partition(text)[2]

    def types(self, keys: bytes) -> None:
        os.write(self._end, keys)

    def settings_now(self) -> list[object]:
        return list(termios.tcgetattr(self._terminal))

    def hang_up(self) -> None:
        if not self._is_gone:
            self._is_gone = True
            asyncio.get_running_loop().remove_reader(self._end)
            os.close(self._end)

    def leave(self) -> None:
        self.hang_up()
        os.close(self._terminal)

    def _read(self) -> None:
        self._seen += os.read(self._end, 65536).decode()
        self._changed.set()


@pytest.fixture
async def person() -> AsyncIterator[Person]:
    person = Person()
    yield person
    person.leave()


async def answer_to(person: Person, question: Question, *keys: bytes) -> Answer:
    prompt: Prompt = TerminalPrompt(person.path, grace_s=0)
    asking = asyncio.create_task(prompt.ask(question))
    await person.sees("now")
    for key in keys:
        person.types(key)
    return await asking


async def test_now(person: Person) -> None:
    answer = await answer_to(person, QUESTION, b"n")
    assert answer == Answer(choice=Choice.NOW, seat=person.seat)
    await person.sees("You chose: Restart now.")
    assert person.settings_now() == person.settings


async def test_the_question_is_shown(person: Person) -> None:
    asking = asyncio.create_task(TerminalPrompt(person.path, grace_s=0).ask(QUESTION))
    await person.sees("This computer is about to restart")
    await person.sees("ann asks to restart this computer.")
    await person.sees("Updates are ready.")
    await person.sees("At 0:00 this computer restarts. Save your work now.")
    await person.sees("10:00  [n] Restart now  [p] Postpone  [d] Do not restart")
    await person.sees("9:59")
    assert person.settings_now() != person.settings
    person.types(b"c")
    person.types(b"D")
    assert await asking == Answer(choice=Choice.CANCEL, seat=person.seat)
    await person.sees("You chose: Do not restart.")


async def test_postpone_by_a_digit(person: Person) -> None:
    asking = asyncio.create_task(TerminalPrompt(person.path, grace_s=0).ask(QUESTION))
    await person.sees("[p] Postpone")
    person.types(b"p")
    await person.sees("Postpone by: [1] 5 minutes  [2] 15 minutes  [3] 1 hour")
    person.types(b"9")
    await person.sees("[p] Postpone")
    person.types(b"p2")
    assert await asking == Answer(choice=Choice.POSTPONE, postpone_s=900.0, seat=person.seat)
    await person.sees("You chose: Postpone by 15 minutes.")
    assert person.settings_now() == person.settings


async def test_time_runs_out(person: Person) -> None:
    question = Question(action=Action.SHUT_DOWN, requested_by="", message="", countdown_s=0.2)
    assert await answer_to(person, question) == Answer(choice=Choice.TIMED_OUT, seat=person.seat)
    await person.sees("The time is up.")
    assert person.settings_now() == person.settings


async def test_keys_that_mean_nothing_answer_nothing(person: Person) -> None:
    question = Question(
        action=Action.RESTART,
        requested_by="",
        message="",
        countdown_s=600,
        may_cancel=False,
        may_postpone=False,
    )
    answer = await answer_to(person, question, b"d", b"c", b"p1", b"\x1b[C\x1bOn", b"\xff\n ", b"n")
    assert answer == Answer(choice=Choice.NOW, seat=person.seat)


async def test_what_is_typed_as_the_question_appears_is_ignored(person: Person) -> None:
    person.types(b"n")
    asking = asyncio.create_task(TerminalPrompt(person.path, grace_s=1.5).ask(QUESTION))
    await person.sees("10:00")
    person.types(b"n")
    await person.sees("9:57")
    assert not asking.done()
    person.types(b"d")
    assert await asking == Answer(choice=Choice.CANCEL, seat=person.seat)


async def test_a_person_who_keeps_typing_answers_nothing(person: Person) -> None:
    asking = asyncio.create_task(TerminalPrompt(person.path, grace_s=30).ask(QUESTION))
    await person.sees("10:00")
    for second in range(59, 57, -1):
        person.types(b"nd")
        await person.sees(f"9:{second}")
    assert not asking.done()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_cancelling_restores_the_terminal(person: Person) -> None:
    asking = asyncio.create_task(TerminalPrompt(person.path).ask(QUESTION))
    await person.sees("now")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await person.sees("No answer is needed any more.")
    assert person.settings_now() == person.settings


async def test_a_terminal_that_is_closed(person: Person) -> None:
    asking = asyncio.create_task(TerminalPrompt(person.path).ask(QUESTION))
    await person.sees("now")
    person.hang_up()
    with pytest.raises(PromptError, match="was closed before there was an answer"):
        await asking


async def test_no_terminal(tmp_path: Path) -> None:
    missing = TerminalPrompt(str(tmp_path / "none"))
    with pytest.raises(PromptError, match=r"cannot be opened: No such file or directory\."):
        await missing.ask(QUESTION)
    assert missing.unavailable_reason() == (
        f"the terminal {tmp_path / 'none'} cannot be opened: No such file or directory"
    )
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(PromptError, match="and this is none"):
        await TerminalPrompt(str(file)).ask(QUESTION)


async def test_a_terminal_that_can_be_used(person: Person) -> None:
    assert TerminalPrompt(person.path).unavailable_reason() is None
    assert person.settings_now() == person.settings


def test_a_service_has_no_terminal() -> None:
    code = (
        "import asyncio\n"
        "from landline.fleet.agent.prompt.terminal_prompt import TerminalPrompt\n"
        "from landline.fleet.agent.prompt import PromptError, Question\n"
        "print(TerminalPrompt().unavailable_reason())\n"
        "question = Question(action='restart', requested_by='', message='', countdown_s=600)\n"
        "try:\n    asyncio.run(TerminalPrompt().ask(question))\n"
        "except PromptError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,
    )
    assert done.stdout.splitlines() == [
        "no controlling terminal",
        "The question cannot be shown: no controlling terminal.",
    ]


async def test_the_seat_is_told_of_a_terminal_opened_as_dev_tty(person: Person) -> None:
    # As a shell starts the agent: the terminal controls it, and it knows it as /dev/tty only.
    code = (
        "import asyncio\n"
        "from landline.fleet.agent.prompt.terminal_prompt import TerminalPrompt\n"
        "from landline.fleet.agent.prompt import Question\n"
        "question = Question(action='restart', requested_by='', message='', countdown_s=600)\n"
        "print(asyncio.run(TerminalPrompt(grace_s=0).ask(question)).seat)\n"
    )
    become = (
        "import fcntl, os, sys, termios; fcntl.ioctl(os.open(sys.argv[1], os.O_RDWR), termios.TIOCSCTTY, 0); "
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        become + "os.execv(sys.executable, [sys.executable, '-c', sys.argv[2]])",
        person.path,
        code,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    await person.sees("[n] Restart now")
    person.types(b"n")
    output, _ = await process.communicate()
    assert output.decode().strip() == person.seat


def test_names_of_terminals() -> None:
    assert [device_name(*numbers) for numbers in ((136, 3), (137, 1), (4, 2), (4, 65), (1, 3))] == [
        "pts/3",
        "pts/257",
        "tty2",
        "ttyS1",
        "",
    ]


def test_keys_without_escape_sequences() -> None:
    assert keys_in(b"n") == "n"
    assert keys_in(b"\x1b[C\x1b[1;5Cx\x1bOCy\x1b[3~\x1bnz\x1b") == "xyz"
    assert keys_in("ü\xff".encode("latin-1")) == ""


def test_steps() -> None:
    assert next_step(QUESTION, View.MAIN, "p") is View.POSTPONE
    assert next_step(QUESTION, View.POSTPONE, "4") is View.MAIN
    assert next_step(QUESTION, View.POSTPONE, "n") is View.MAIN
    assert next_step(QUESTION, View.POSTPONE, "0") is View.MAIN
    assert next_step(QUESTION, View.POSTPONE, "3") == Answer(choice=Choice.POSTPONE, postpone_s=3600.0)


def test_lines() -> None:
    forced = Question(
        action=Action.LOG_OFF,
        requested_by="",
        message="",
        countdown_s=5,
        may_cancel=False,
        may_postpone=False,
    )
    assert choices_line(forced, View.MAIN, 5) == "0:05  [n] Log off now"
    assert heading(forced) == (
        "\a\n*** You are about to be logged off ***\nAn administrator asks to log you off.\n"
        "At 0:00 you are logged off. You cannot stop this here. Save your work now.\n"
    )
    stays = Question(action=Action.LOG_OFF, requested_by="", message="", countdown_s=5, may_postpone=False)
    assert choices_line(stays, View.MAIN, 5) == "0:05  [n] Log off now  [s] Stay logged on"
    assert next_step(stays, View.MAIN, "S") == Answer(choice=Choice.CANCEL)
    assert next_step(stays, View.MAIN, "d") is View.MAIN


async def test_where_a_question_would_be_shown(person: Person, tmp_path: Path) -> None:
    assert TerminalPrompt(person.path).seat() == person.path.removeprefix("/dev/")
    assert person.settings_now() == person.settings
    assert TerminalPrompt(str(tmp_path / "none")).seat() == ""
