"""Shared by the tests of the command line."""

import asyncio
import fcntl
import os
import pty
import shutil
import struct
import sys
import tempfile
import termios
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.cli.in_process import Ended, run_in_process
from tests.fleet.web.fake_operations import FakeOperations

from landline.fleet.web.http_server import ApiServer


@pytest.fixture
def fleet():
    """Three machines online: lab-1, lab-2, lab-3."""
    return FakeOperations()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A private directory with a path short enough for a unix socket."""
    path = Path(tempfile.mkdtemp(prefix="ll-"))
    yield path
    shutil.rmtree(path)


class Cli:
    """Runs commands: in this process, or as their users do, in a process of their own."""

    def __init__(self, directory: Path) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "LANDLINE_RUNTIME_DIR": str(directory),
            "HOME": str(directory),
            "LC_ALL": "C.UTF-8",
        }
        if path := os.environ.get("PYTHONPATH"):
            self.environment["PYTHONPATH"] = (
                path  # The code that is tested, where it is not the installed one.
            )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-W", "error", "-c", "from landline.cli import main; main()", *arguments]

    async def start(
        self, *arguments: str, stdin=asyncio.subprocess.DEVNULL, **options
    ) -> asyncio.subprocess.Process:
        environment = self.environment | options.pop("environment", {})
        return await asyncio.create_subprocess_exec(
            *self.command(*arguments),
            stdin=stdin,
            stdout=options.pop("stdout", asyncio.subprocess.PIPE),
            stderr=options.pop("stderr", asyncio.subprocess.PIPE),
            env=environment,
            **options,
        )

    async def run(self, *arguments: str, **environment: str) -> Ended:
        """Run a command in a thread of this process, so that a server of the test can answer."""
        return await asyncio.to_thread(run_in_process, arguments, self.environment | environment)

    async def run_process(self, *arguments: str, **environment: str) -> Ended:
        process = await self.start(*arguments, environment=environment)
        out, err = await process.communicate()
        assert b"Traceback" not in err, err.decode()
        return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
def cli(directory) -> Cli:
    return Cli(directory)


@pytest.fixture
async def server(fleet, directory) -> AsyncIterator[ApiServer]:
    """``fleet`` where the command line looks for it."""
    async with ApiServer(fleet, unix_path=directory / "control.sock") as running:
        yield running


class Screen:
    """A command on a pseudo terminal of its own."""

    def __init__(self, primary: int, process: asyncio.subprocess.Process) -> None:
        self.text = ""
        self._seen = 0
        self._primary = primary
        self.process = process
        self._arrived = asyncio.Event()
        asyncio.get_running_loop().add_reader(primary, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._primary, 65_536)
        except OSError:  # Linux says EIO when the other end is closed.
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._primary)
        self.text += data.decode(errors="replace")
        self._arrived.set()

    async def shows(self, text: str) -> None:
        """Returns when ``text`` has appeared after what was waited for before."""
        while (found := self.text.find(text, self._seen)) < 0:
            assert self.process.returncode is None, self.text
            self._arrived.clear()
            await self._arrived.wait()
        self._seen = found + len(text)

    def types(self, text: str) -> None:
        os.write(self._primary, text.encode())

    def interrupt(self) -> None:
        self.types("\x03")

    async def ended(self) -> int:
        return await self.process.wait()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._primary)
        os.close(self._primary)
        if self.process.returncode is None:
            self.process.kill()


@pytest.fixture
async def terminal(cli):
    """Starts commands on a terminal of 120 columns and 40 lines."""
    screens = []

    async def start(*arguments: str, **environment: str) -> Screen:
        primary, secondary = pty.openpty()
        fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        process = await cli.start(
            *arguments,
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            environment={"TERM": "xterm-256color"} | environment,
            preexec_fn=_own_terminal,
        )
        os.close(secondary)
        screens.append(Screen(primary, process))
        return screens[-1]

    yield start
    for screen in screens:
        screen.close()
        await screen.ended()


def _own_terminal() -> None:
    """In the child: its standard input becomes its controlling terminal, so that Ctrl-C arrives."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
