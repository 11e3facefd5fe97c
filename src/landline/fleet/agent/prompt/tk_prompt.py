"""Asks in a window. A child process shows it, so that a display cannot block or end the agent.

The child is ``python -m landline.fleet.agent.prompt.tk_dialog``. It takes the question as one line of JSON on
its standard input. On its standard output it writes one line when the window is on the screen, and the answer
as one line of JSON. When its standard input ends, the agent is gone, and so is the window.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Final

import msgspec

from landline.fleet.agent.prompt import Answer, PromptError, Question
from landline.fleet.agent.prompt.prompt_texts import checked, plain

START_TIMEOUT_S: Final = 20.0
"""Time-out for the window to appear, and to answer at the end; a slow machine needs 5 s."""

ERRORS_BYTES_MAX: Final = 4096
"""Bytes read from the end of the child's standard error, for its last line."""

SHOWN_LINE: Final = b"shown\n"
"""The child writes this when the window is on the screen."""

# -P: a module called "tkinter" in the directory the agent happens to run in must not be imported.
DIALOG_COMMAND: Final = (sys.executable, "-P", "-m", "landline.fleet.agent.prompt.tk_dialog")


class TkPrompt:
    """Asks in a window on the display that ``environ`` names (the agent's own environment by default)."""

    name = "tk"

    def __init__(
        self,
        *,
        environ: Mapping[str, str] | None = None,
        command: Sequence[str] = DIALOG_COMMAND,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._environ = environ
        self._command = tuple(command)
        self._start_timeout_s = start_timeout_s

    def unavailable_reason(self) -> str | None:
        """Return why no window can be shown, or ``None``. Checks the environment and Tk, not the display."""
        return no_window_reason(self._current_environ(), sys.platform, has_tkinter=can_import_tkinter())

    def seat(self) -> str:
        """Return the display, as logind names it; empty on Windows and macOS."""
        return display_seat(self._current_environ())

    async def ask(self, question: Question) -> Answer:
        """Show the window and return the answer. Cancelling closes the window.

        When this returns, the window is closed and the child has ended.

        :raises PromptError: at once if the window cannot be shown; after ``start_timeout_s`` if it does not appear; if
            it ends without an answer, gives an answer that was not offered, or gives none ``start_timeout_s`` after the
            countdown.
        """
        reason = self.unavailable_reason()
        if reason is not None:
            raise PromptError(f"The window cannot be shown: {reason}.")
        question = plain(question)
        with tempfile.TemporaryFile() as errors:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    env=self._environ,
                )
            except OSError as error:
                raise PromptError(f"The window cannot be started: {error.strerror or error}.") from error
            try:
                line = await self._exchange(process, question)
            finally:
                await _end(process)
            if not line.strip():
                raise PromptError(f"The window ended without an answer{_last_error(errors)}.")
            answer = parse_answer(line, question)
            return msgspec.structs.replace(answer, seat=display_seat(self._current_environ()))

    async def _exchange(self, process: asyncio.subprocess.Process, question: Question) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        # If the child has ended already, its output says why, not the broken pipe.
        with contextlib.suppress(ConnectionError):
            process.stdin.write(msgspec.json.encode(question) + b"\n")
            await process.stdin.drain()
        try:
            async with asyncio.timeout(self._start_timeout_s):
                line = await process.stdout.readline()
        except TimeoutError as error:
            raise PromptError(f"The window did not appear within {self._start_timeout_s:g} s.") from error
        except ValueError as error:
            raise PromptError("The answer of the window is too long.") from error
        if line != SHOWN_LINE:
            return line
        try:
            async with asyncio.timeout(question.countdown_s + self._start_timeout_s):
                return await process.stdout.readline()
        except TimeoutError as error:
            raise PromptError("The window gave no answer, not even that time was up.") from error
        except ValueError as error:
            raise PromptError("The answer of the window is too long.") from error

    def _current_environ(self) -> Mapping[str, str]:
        return os.environ if self._environ is None else self._environ


def no_window_reason(environ: Mapping[str, str], platform: str, *, has_tkinter: bool) -> str | None:
    """Return why no window can be shown, as a phrase, or ``None``.

    On X11 and Wayland a window needs ``DISPLAY``: Tk 8.6 does not speak Wayland, and where there is only
    that, ``WAYLAND_DISPLAY`` alone promises a window that never appears.
    """
    if platform not in ("win32", "darwin") and not environ.get("DISPLAY"):
        return "no X display (only Wayland)" if environ.get("WAYLAND_DISPLAY") else "no display"
    if not has_tkinter:
        return "no tkinter (on Debian: apt install python3-tk)"
    return None


def can_import_tkinter() -> bool:
    """Return whether this Python has Tk; Debian has it in a package of its own, ``python3-tk``."""
    return all(importlib.util.find_spec(name) is not None for name in ("_tkinter", "tkinter"))


def display_seat(environ: Mapping[str, str]) -> str:
    """Return the display as logind names it: ``DISPLAY`` without the screen number, ``:0`` for ``:0.0``."""
    host, colon, number = environ.get("DISPLAY", "").rpartition(":")
    return f"{'' if host == 'unix' else host}{colon}{number.partition('.')[0]}" if colon else ""


def parse_answer(line: bytes, question: Question) -> Answer:
    """Return the answer in a line of JSON. Raise :class:`PromptError` if it is invalid or was not offered."""
    try:
        answer = msgspec.json.decode(line, type=Answer)
    except msgspec.DecodeError as error:
        raise PromptError(f"The window gave an invalid answer: {error}.") from error
    return checked(answer, question)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    # The answer has arrived or is no longer needed, so the child need not end in order.
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


def _last_error(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - ERRORS_BYTES_MAX))
    lines = errors.read().decode(errors="replace").split("\n")
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {line.rstrip('.')}" if line else ""
