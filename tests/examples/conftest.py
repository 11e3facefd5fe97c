"""Run examples as a user would: start processes, type, read their output, and end them."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


class Process:
    """A running example, whose standard error is written to a file."""

    def __init__(
        self, directory: Path, number: int, until: Callable, arguments: tuple[str, ...], **redirections: Any
    ) -> None:
        name, *rest = arguments
        self.until = until
        self._err_path = directory / f"{number}-{name}.err"
        with self._err_path.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(EXAMPLES / name), *rest],
                stderr=err,
                cwd=directory,
                env={
                    **os.environ,
                    "COLUMNS": "120",
                    "LINES": "40",
                    "TERM": "xterm",
                    "PYTHONIOENCODING": "utf-8",
                },
                start_new_session=True,
                **redirections,
            )

    @property
    def err(self) -> str:
        return self._err_path.read_text(encoding="utf-8")

    def kill(self) -> None:
        """End the process with SIGKILL."""
        self.process.kill()
        self.process.wait()

    async def ends(self, number: signal.Signals | None = None) -> int:
        """Wait for the end, optionally after a signal. Return the exit status."""
        if number is not None:
            self.process.send_signal(number)
        await self.until(self.is_over)
        return self.process.returncode

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def clean_up(self) -> None:
        """End the process if it still runs, and close its files."""
        if not self.is_over():
            self.kill()


class Program(Process):
    """An example with pipes for standard input and output."""

    def __init__(self, directory: Path, number: int, until: Callable, arguments: tuple[str, ...]) -> None:
        self._out_path = directory / f"{number}-{arguments[0]}.out"
        with self._out_path.open("w") as out:
            super().__init__(directory, number, until, arguments, stdin=subprocess.PIPE, stdout=out)

    @property
    def out(self) -> str:
        return self._out_path.read_text(encoding="utf-8")

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    async def says(self, pattern: str, times: int = 1) -> re.Match[str]:
        """Wait until its standard output has ``times`` matches of ``pattern``. Return the last one."""
        found: list[re.Match[str]] = []

        def has_matched() -> bool:
            ended = self.is_over()
            found[:] = re.finditer(pattern, self.out, flags=re.MULTILINE)
            assert len(found) >= times or not ended, f"ended without {pattern!r}: {self.out} {self.err}"
            return len(found) >= times

        await self.until(has_matched)
        return found[-1]

    async def listens(self) -> str:
        """Wait until it listens. Return its URL."""
        return (await self.says(r"^listening on (\S+?);")).group(1)

    def types(self, text: str) -> None:
        """Write a line to standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())
        self.process.stdin.flush()

    def closes_input(self) -> None:
        """Close standard input, as Ctrl-D does."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def clean_up(self) -> None:
        super().clean_up()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # input after the end of the process
            self.process.stdin.close()


class TerminalProgram(Process):
    """An example on a pseudo-terminal (pty(7))."""

    def __init__(self, directory: Path, number: int, until: Callable, arguments: tuple[str, ...]) -> None:
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        self._shown = b""
        super().__init__(directory, number, until, arguments, stdin=slave, stdout=slave)
        os.close(slave)

    async def shows(self, pattern: str) -> re.Match[str]:
        """Wait until its output, with control sequences, matches ``pattern``. Return the first match."""
        found: list[re.Match[str]] = []

        def is_shown() -> bool:
            ended = self.is_over()
            found[:] = re.finditer(pattern, self._shown.decode(errors="replace"))
            assert found or not ended, f"ended without {pattern!r}: {self._shown!r} {self.err}"
            return bool(found)

        await self.until(is_shown)
        return found[0]

    def presses(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def is_over(self) -> bool:
        # Read all output each time: a full terminal buffer would block the example.
        with contextlib.suppress(BlockingIOError, OSError):  # EIO: the example has closed it
            while data := os.read(self._master, 65536):
                self._shown += data
        return super().is_over()

    def clean_up(self) -> None:
        super().clean_up()
        os.close(self._master)


@pytest.fixture
def run_example(tmp_path: Path, until: Callable) -> Iterator[Callable]:
    """Start examples that end with the test. None may print a traceback."""
    started: list[Process] = []

    def start_one(kind: type[Process], arguments: tuple[str, ...]) -> Process:
        process = kind(tmp_path, len(started), until, arguments)
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.clean_up()
    for process in started:
        assert "Traceback" not in process.err, process.err
        assert "was never" not in process.err, process.err


@pytest.fixture
def start(run_example: Callable) -> Callable[..., Program]:
    """Start an example with pipes: ``start("echo.py", "server")``."""
    return lambda *arguments: run_example(Program, arguments)


@pytest.fixture
def start_on_terminal(run_example: Callable) -> Callable[..., TerminalProgram]:
    """Start an example on its own terminal."""
    return lambda *arguments: run_example(TerminalProgram, arguments)
