"""Asks on a terminal: shows the question and a countdown, and takes one key as the answer. POSIX only."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import struct
import sys
from enum import Enum
from typing import Final

import msgspec

from landline.fleet.agent.prompt import Answer, Choice, PromptError, Question
from landline.fleet.agent.prompt.prompt_texts import (
    NO_TERMINAL,
    SAVE_WORK,
    asked_by,
    at_end,
    can_postpone,
    cancel_label,
    countdown,
    duration,
    now_label,
    plain,
    title,
)

GRACE_S: Final = 1.5
"""Time without any key before a key counts as an answer: a person who types when the question appears is typing
something else."""

COLUMNS_DEFAULT: Final = 80
"""The assumed width of a terminal that does not report it."""

READ_BYTES_MAX: Final = 256
"""Bytes read at a time; a key is at most a dozen bytes."""

_REDRAW_S: Final = 1.0
_TIOCGDEV: Final = 0x80045432
"""The ioctl of Linux for the device number of the real terminal, also if opened as ``/dev/tty`` (ioctl_tty(2))."""

_ESCAPE_SEQUENCE: Final = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]?|O.?|.?)", re.DOTALL)


class View(Enum):
    """The current meaning of the keys."""

    MAIN = "main"
    POSTPONE = "postpone"


class TerminalPrompt:
    """Asks on the terminal ``path``, and always restores its settings."""

    name = "terminal"

    def __init__(self, path: str = "/dev/tty", *, grace_s: float = GRACE_S) -> None:
        self._path = path
        self._grace_s = grace_s

    def unavailable_reason(self) -> str | None:
        """Return why this terminal cannot be used at the moment, or ``None``. Open it, and write nothing."""
        try:
            os.close(_opened(self._path))
        except _Unavailable as error:
            return str(error)
        return None

    def seat(self) -> str:
        """Return the terminal's name; empty if it is not available. Write nothing."""
        try:
            descriptor = _opened(self._path)
        except _Unavailable:
            return ""
        try:
            return seat(descriptor)
        finally:
            os.close(descriptor)

    async def ask(self, question: Question) -> Answer:
        """Show the question and return the answer, or :attr:`Choice.TIMED_OUT` at the end of the countdown.

        A key counts as an answer only if no key came in the ``grace_s`` before it. Cancelling writes to the terminal
        that no answer is needed any more, and restores its settings.

        :raises PromptError: if the terminal cannot be opened, is lost, or belongs to another job.
        """
        # Not at the top of the module: Windows has neither.
        import termios
        import tty

        question = plain(question)
        try:
            descriptor = _opened(self._path)
        except _Unavailable as error:
            raise PromptError(f"The question cannot be shown: {error}.") from error
        try:
            before = _settings(descriptor)
            try:
                tty.setcbreak(descriptor, termios.TCSAFLUSH)
                answer = await self._ask(descriptor, question)
                return msgspec.structs.replace(answer, seat=seat(descriptor))
            finally:
                # Not TCSADRAIN: it would never return on a terminal stopped with Ctrl-S.
                with contextlib.suppress(
                    termios.error
                ):  # the terminal was closed; there is nothing to restore
                    termios.tcsetattr(descriptor, termios.TCSANOW, before)
        finally:
            os.close(descriptor)

    async def _ask(self, descriptor: int, question: Question) -> Answer:
        loop = asyncio.get_running_loop()
        keys: asyncio.Queue[str | None] = asyncio.Queue()

        listens_at = loop.time() + self._grace_s

        def handle_readable() -> None:
            nonlocal listens_at
            data = _read(descriptor)
            if data == b"":
                loop.remove_reader(descriptor)
                keys.put_nowait(None)
            elif data is not None and loop.time() < listens_at:
                listens_at = loop.time() + self._grace_s
            elif data is not None:
                for key in keys_in(data):
                    keys.put_nowait(key)

        _write(descriptor, heading(question))
        deadline = loop.time() + question.countdown_s
        loop.add_reader(descriptor, handle_readable)
        last_words = "No answer is needed any more."
        try:
            answer = await self._answer(descriptor, question, keys, deadline)
            last_words = outcome(question, answer)
            return answer
        finally:
            loop.remove_reader(descriptor)
            _write(descriptor, f"\n{last_words}\n")

    async def _answer(
        self, descriptor: int, question: Question, keys: asyncio.Queue[str | None], deadline: float
    ) -> Answer:
        loop = asyncio.get_running_loop()
        view = View.MAIN
        while (left_s := deadline - loop.time()) > 0:
            line = choices_line(question, view, left_s)[: _columns(descriptor) - 1]
            _write(descriptor, f"\r{line}\x1b[K")
            try:
                key = await asyncio.wait_for(keys.get(), min(left_s, _REDRAW_S))
            except TimeoutError:
                continue
            if key is None:
                raise PromptError("The terminal was closed before there was an answer.")
            step = next_step(question, view, key)
            if isinstance(step, Answer):
                return step
            view = step
        return Answer(choice=Choice.TIMED_OUT)


def next_step(question: Question, view: View, key: str) -> Answer | View:
    """Return the answer for a key, or the view to show next. Unknown keys lead to the main view."""
    if view is View.POSTPONE:
        choices = question.postpone_choices_s
        if key in "123456789"[: len(choices)]:
            return Answer(choice=Choice.POSTPONE, postpone_s=choices[int(key) - 1])
        return View.MAIN
    match key.lower():
        case "n":
            return Answer(choice=Choice.NOW)
        case "p" if can_postpone(question):
            return View.POSTPONE
        case key_pressed if question.may_cancel and key_pressed == cancel_key(question):
            return Answer(choice=Choice.CANCEL)
    return View.MAIN


def cancel_key(question: Question) -> str:
    """Return the key that cancels: the first letter of its label, ``d`` for ``Do not restart``."""
    return cancel_label(question)[0].lower()


def keys_in(data: bytes) -> str:
    """Return the typed characters, without the escape sequences of arrow keys and others (``ESC [ C``)."""
    return _ESCAPE_SEQUENCE.sub("", data.decode("utf-8", errors="ignore"))


def heading(question: Question) -> str:
    """Return the text that is written once: a bell, what happens, who asks and why, what to do."""
    lines = [f"\a\n*** {title(question)} ***", asked_by(question)]
    if question.message:
        lines += [f"  {line}" for line in question.message.split("\n")]
    lines.append(f"{at_end(question)} {SAVE_WORK}")
    return "\n".join(lines) + "\n"


def choices_line(question: Question, view: View, left_s: float) -> str:
    """Return the line that is drawn every second: the time left, and the keys.

    The time comes first, as a narrow terminal cuts the end.
    """
    if view is View.POSTPONE:
        keys = [f"[{n}] {duration(s)}" for n, s in enumerate(question.postpone_choices_s, start=1)]
        return f"{countdown(left_s)}  Postpone by: {'  '.join(keys)}  [other key] back"
    keys = [f"[n] {now_label(question)}"]
    if can_postpone(question):
        keys.append("[p] Postpone")
    if question.may_cancel:
        keys.append(f"[{cancel_key(question)}] {cancel_label(question)}")
    return f"{countdown(left_s)}  {'  '.join(keys)}"


def outcome(question: Question, answer: Answer) -> str:
    """Return the text that is written at the end: the choice. Its effect is not known here."""
    match answer.choice:
        case Choice.POSTPONE:
            return f"You chose: Postpone by {duration(answer.postpone_s)}."
        case Choice.CANCEL:
            return f"You chose: {cancel_label(question)}."
        case Choice.NOW:
            return f"You chose: {now_label(question)}."
        case Choice.TIMED_OUT:
            return "The time is up."


def seat(descriptor: int) -> str:
    """Return the terminal's name as in logind and who(1) (``pts/3``, ``tty2``); empty if not known."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            answer = fcntl.ioctl(descriptor, _TIOCGDEV, bytes(4))
            (number,) = struct.unpack("I", answer)
            return device_name(os.major(number), os.minor(number))
    try:
        name = os.ttyname(descriptor).removeprefix("/dev/")
    except OSError:
        return ""
    return "" if name == "tty" else name


def device_name(major: int, minor: int) -> str:
    """Return the name of a Linux terminal by its numbers (the kernel's ``devices.txt``); empty for other devices."""
    if 136 <= major <= 143:
        return f"pts/{(major - 136) * 256 + minor}"
    if major == 4:
        return f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}"
    return ""


class _Unavailable(Exception):
    """The terminal cannot be used; the text is a phrase that says why."""


def _opened(path: str) -> int:
    try:
        # A file description of its own: O_NONBLOCK must not affect the shell that shares the terminal.
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise _Unavailable(NO_TERMINAL) from error
        raise _Unavailable(f"the terminal {path} cannot be opened: {error.strerror}") from error
    try:
        is_background = os.tcgetpgrp(descriptor) != os.getpgrp()
    except OSError:
        is_background = False  # It is a terminal, but not the controlling one.
    if is_background:
        # Changing its settings would stop the whole process (SIGTTOU, termios(3)).
        os.close(descriptor)
        raise _Unavailable(f"the terminal {path} is in use by another job")
    return descriptor


def _settings(descriptor: int) -> list[int | list[bytes | int]]:
    import termios

    try:
        return termios.tcgetattr(descriptor)
    except termios.error as error:
        raise PromptError("The question can be shown on a terminal only, and this is none.") from error


def _read(descriptor: int) -> bytes | None:
    """Return what was typed; ``None`` if nothing was, empty if the terminal is lost."""
    try:
        return os.read(descriptor, READ_BYTES_MAX)
    except BlockingIOError:
        return None
    except OSError:
        return b""  # EIO: it hung up


def _write(descriptor: int, text: str) -> None:
    # On a stopped terminal a line is lost, and the next one follows; _read() detects a lost terminal.
    with contextlib.suppress(OSError):
        os.write(descriptor, text.encode())


def _columns(descriptor: int) -> int:
    try:
        return os.get_terminal_size(descriptor).columns or COLUMNS_DEFAULT
    except OSError:
        return COLUMNS_DEFAULT
