"""Asking in a window: a child process shows it, so that no display can stall or end the agent.

The child is ``python -m landline.fleet.agent.prompt.tk_dialog``. It takes the question as one line of JSON on
its standard input and gives the answer as one line of JSON on its standard output. When its standard input
ends, the agent is gone, and so is the window.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Final

import msgspec

from landline.fleet.agent.prompt import Answer, PromptError, Question
from landline.fleet.agent.prompt.wording import checked, plain

START_TIMEOUT_S: Final = 20.0
"""How long the window may take to appear and, at the end, to answer: a slow machine needs 5 s."""

ERRORS_BYTES_MAX: Final = 4096
"""How much of what the child wrote to standard error is looked at, for its last line."""

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

    async def ask(self, question: Question) -> Answer:
        """Shows the window and returns the answer. When this returns, window and child are gone.

        Raises :class:`PromptError` when the window cannot be shown, ends without an answer, gives one that
        was not on offer, or gives none ``start_timeout_s`` after the countdown. Cancelling takes the window
        away.
        """
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
                raise PromptError(f"The window ended without an answer{_last_words(errors)}.")
            return parse_answer(line, question)

    async def _exchange(self, process: asyncio.subprocess.Process, question: Question) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        # A child that ended already is told by what it wrote, not by a broken pipe.
        with contextlib.suppress(ConnectionError):
            process.stdin.write(msgspec.json.encode(question) + b"\n")
            await process.stdin.drain()
        try:
            async with asyncio.timeout(question.countdown_s + self._start_timeout_s):
                return await process.stdout.readline()
        except TimeoutError as error:
            raise PromptError("The window gave no answer, not even that time was up.") from error
        except ValueError as error:
            raise PromptError("The window gave an answer that is far too long.") from error


def parse_answer(line: bytes, question: Question) -> Answer:
    """The answer in a line of JSON. Raises :class:`PromptError` when it is none, or was not on offer."""
    try:
        answer = msgspec.json.decode(line, type=Answer)
    except msgspec.DecodeError as error:
        raise PromptError(f"The window gave an answer that is not understood: {error}.") from error
    return checked(answer, question)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    # Its answer is here, or not wanted any more: there is nothing to be polite about.
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


def _last_words(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - ERRORS_BYTES_MAX))
    lines = errors.read().decode(errors="replace").split("\n")
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {line.rstrip('.')}" if line else ""
