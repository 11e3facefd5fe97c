"""Fixtures of the tests of files: files, directories to receive them, and programs that can be killed."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

MIB = 1024 * 1024
PEERS = Path(__file__).parent / "peers.py"


@pytest.fixture
def inbox(tmp_path):
    directory = tmp_path / "inbox"
    directory.mkdir()
    return directory


@pytest.fixture
def write(tmp_path):
    """Create a file of random bytes."""

    def make(size_bytes, name="photo.raw"):
        path = tmp_path / name
        with path.open("wb") as file:
            while size_bytes > 0:
                size_bytes -= file.write(os.urandom(min(size_bytes, MIB)))
        return path

    return make


@pytest.fixture
def names_in():
    """Return the sorted names in a directory, with hidden ones."""
    return lambda directory: sorted(entry.name for entry in directory.iterdir())


class Peer:
    """A process that sends or receives. Records the JSON objects that it prints."""

    def __init__(self, *arguments, prefix=()):
        self.reports = []
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(PEERS), *map(str, arguments)], stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.reports.append(json.loads(line))

    def wait_for(self, key):
        """Wait for a report with that key; return its last value. The test's time-out ends the wait."""
        while not (found := [report[key] for report in self.reports if key in report]):
            assert self.process.poll() is None or self._reader.is_alive(), f"it exited after {self.reports}"
            time.sleep(0.005)
        return found[-1]

    def ends_before(self, key):
        """Wait for a report with that key or the end of the process. Return whether it ended."""
        while self.process.poll() is None and not any(key in report for report in self.reports):
            time.sleep(0.005)
        return self.process.poll() is not None

    def wait_done(self, size_bytes):
        """Wait until that many bytes of the file are done."""
        while self.wait_for("done") < size_bytes:
            assert self.process.poll() is None, f"it exited after {self.reports}"
            time.sleep(0.002)

    def end(self, *, kill=False):
        """End it with SIGKILL or SIGTERM. Return its exit status."""
        if self.process.poll() is None:
            self.process.kill() if kill else self.process.terminate()
        return self.wait()

    def wait(self):
        status = self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        return status


@pytest.fixture
def peer():
    """Start programs that end with the test."""
    started = []

    def start(*arguments, prefix=()):
        started.append(Peer(*arguments, prefix=prefix))
        return started[-1]

    yield start
    for program in started:
        if program.process.returncode is None:
            program.end(kill=True)
