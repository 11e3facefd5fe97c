"""A display and a message bus of the tests' own: real ones, and nothing of the machine is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>
"""


def require(program: str, package: str) -> str:
    """The path of ``program``; skips the test where it is missing."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is missing: apt install {package}")
    return path


def first_line(descriptor: int) -> str:
    """What a program writes to tell that it is ready: up to the first line end, or its death."""
    text = b""
    while not text.endswith(b"\n") and (data := os.read(descriptor, 1)):
        text += data
    return text.decode().strip()


def start_telling(argv: list[str], option: str) -> tuple[subprocess.Popen[bytes], str]:
    """Starts a program which writes one line to the descriptor given with ``option`` once it is ready."""
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [*argv, *([f"{option}{writer}"] if option.endswith("=") else [option, str(writer)])],
            pass_fds=(writer,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(writer)
        return process, first_line(reader)
    finally:
        os.close(reader)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def display() -> Iterator[str]:
    """The name of a display nobody else has; the server chooses a free number itself."""
    # Without -noreset the server starts over when its last window goes, and refuses the next for a moment.
    argv = [require("Xvfb", "xvfb"), "-screen", "0", "1280x900x24", "-nolisten", "tcp", "-noreset"]
    process, number = start_telling(argv, "-displayfd")
    try:
        assert number, "Xvfb did not start"
        yield f":{number}"
    finally:
        # Not killed: it removes its socket and its lock.
        process.terminate()
        process.wait()


class Bus:
    """A running dbus-daemon; ``address`` is where it listens."""

    def __init__(self, program: str, directory: Path) -> None:
        config = directory / "bus.conf"
        config.write_text(BUS_CONFIG.format(socket=directory / "bus"))
        self._argv = [program, "--nofork", "--nopidfile", f"--config-file={config}"]
        self.address = ""
        self.start()

    def start(self) -> None:
        """Starts it, again at the same path after :meth:`kill`."""
        self._process, address = start_telling(self._argv, "--print-address=")
        assert address, "dbus-daemon did not start"
        # Without the guid, which is another one in every life of the bus.
        self.address = address.partition(",")[0]

    def kill(self) -> None:
        end(self._process)


@pytest.fixture
def bus() -> Iterator[Bus]:
    """A message bus of one test's own."""
    program = require("dbus-daemon", "dbus-daemon")
    # Not pytest's directory: the path of a socket may have 107 bytes only.
    with tempfile.TemporaryDirectory(prefix="bus-") as directory:
        running = Bus(program, Path(directory))
        try:
            yield running
        finally:
            running.kill()
