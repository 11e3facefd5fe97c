"""Examples as processes: started, typed to, read, and ended as a user would."""

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
    """One running example, whose complaints go into a file."""

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
        """What ``kill -9`` does."""
        self.process.kill()
        self.process.wait()

    async def ends(self, number: signal.Signals | None = None) -> int:
        """Its exit status, once it has ended; by itself, or for a signal."""
        if number is not None:
            self.process.send_signal(number)
        await self.until(self.is_over)
        return self.process.returncode

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def forget(self) -> None:
        """Ends it, if it was not ended, and lets go what was opened for it."""
        if not self.is_over():
            self.kill()


class Program(Process):
    """One with pipes around it."""

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
        """Waits until it has written ``pattern`` to its standard output so often; the last match."""
        found: list[re.Match[str]] = []

        def is_said() -> bool:
            ended = self.is_over()
            found[:] = re.finditer(pattern, self.out, flags=re.MULTILINE)
            assert len(found) >= times or not ended, f"ended without {pattern!r}: {self.out} {self.err}"
            return len(found) >= times

        await self.until(is_said)
        return found[-1]

    async def listens(self) -> str:
        """Waits until it serves; its URL."""
        return (await self.says(r"^listening on (\S+?);")).group(1)

    def types(self, text: str) -> None:
        """Types a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())
        self.process.stdin.flush()

    def closes_input(self) -> None:
        """What Ctrl-D does."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def forget(self) -> None:
        super().forget()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what was typed after its end
            self.process.stdin.close()


class OnTerminal(Process):
    """One at a terminal, a pseudo-terminal (pty(7))."""

    def __init__(self, directory: Path, number: int, until: Callable, arguments: tuple[str, ...]) -> None:
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        self._shown = b""
        super().__init__(directory, number, until, arguments, stdin=theirs, stdout=theirs)
        os.close(theirs)

    async def shows(self, pattern: str) -> re.Match[str]:
        """Waits until it has shown that, among all the rest and the control sequences; the first match."""
        found: list[re.Match[str]] = []

        def is_shown() -> bool:
            ended = self.is_over()
            found[:] = re.finditer(pattern, self._shown.decode(errors="replace"))
            assert found or not ended, f"ended without {pattern!r}: {self._shown!r} {self.err}"
            return bool(found)

        await self.until(is_shown)
        return found[0]

    def presses(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def is_over(self) -> bool:
        # Read it empty each time: a terminal that nobody reads stops those who write to it.
        with contextlib.suppress(BlockingIOError, OSError):  # EIO: nobody has it open any more
            while data := os.read(self._ours, 65536):
                self._shown += data
        return super().is_over()

    def forget(self) -> None:
        super().forget()
        os.close(self._ours)


@pytest.fixture
def run_example(tmp_path: Path, until: Callable) -> Iterator[Callable]:
    """Starts examples. None outlives the test, and none may have failed in disorder."""
    started: list[Process] = []

    def start_one(kind: type[Process], arguments: tuple[str, ...]) -> Process:
        process = kind(tmp_path, len(started), until, arguments)
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.forget()
    for process in started:
        assert "Traceback" not in process.err, process.err
        assert "was never" not in process.err, process.err


@pytest.fixture
def start(run_example: Callable) -> Callable[..., Program]:
    """Starts an example between pipes: ``start("echo.py", "server")``."""
    return lambda *arguments: run_example(Program, arguments)


@pytest.fixture
def start_on_terminal(run_example: Callable) -> Callable[..., OnTerminal]:
    """Starts an example at a terminal of its own."""
    return lambda *arguments: run_example(OnTerminal, arguments)
