"""What the tests of files share: files, directories to receive them, and programs that can be killed."""

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
    """Makes a file of random bytes."""

    def make(size_bytes, name="photo.raw"):
        path = tmp_path / name
        with path.open("wb") as file:
            while size_bytes > 0:
                size_bytes -= file.write(os.urandom(min(size_bytes, MIB)))
        return path

    return make


@pytest.fixture
def names_in():
    """The names in a directory, hidden ones too."""
    return lambda directory: sorted(entry.name for entry in directory.iterdir())


class Peer:
    """A program that sends or receives. What it says is kept."""

    def __init__(self, *arguments, prefix=()):
        self.words = []
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(PEERS), *map(str, arguments)], stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.words.append(json.loads(line))

    def heard(self, key):
        """Waits until it says a word of that kind, and returns the last one; the test's time-out ends the wait."""
        while not (found := [words[key] for words in self.words if key in words]):
            assert self.process.poll() is None or self._reader.is_alive(), f"it ended; it said {self.words}"
            time.sleep(0.005)
        return found[-1]

    def ends_before(self, key):
        """Waits for a word of that kind or the end; returns whether it ended."""
        while self.process.poll() is None and not any(key in words for words in self.words):
            time.sleep(0.005)
        return self.process.poll() is not None

    def wait_done(self, size_bytes):
        """Waits until so much of the file is done."""
        while self.heard("done") < size_bytes:
            assert self.process.poll() is None, f"it ended; it said {self.words}"
            time.sleep(0.002)

    def end(self, *, kill=False):
        """Ends it, with SIGKILL or SIGTERM; returns its status."""
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
    """Starts programs that end with the test."""
    started = []

    def start(*arguments, prefix=()):
        started.append(Peer(*arguments, prefix=prefix))
        return started[-1]

    yield start
    for program in started:
        if program.process.returncode is None:
            program.end(kill=True)
