"""Fixtures of the fault tests: the processes of a fleet."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults import processes as processes_module


@pytest.fixture(scope="session")
def programs():
    """The module processes.py, for tests that build their own fleet."""
    return processes_module


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory whose name is short enough for the sockets in it."""
    directory = Path(tempfile.mkdtemp(prefix="ll-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def fleet(directory) -> Iterator:
    """A control server as a process, to which machines can be added; the tests of a module share it."""
    with processes_module.run_fleet(directory) as running:
        yield running


@pytest.fixture
def poll():
    """Wait for events in other processes, without an event loop in this one."""
    return processes_module.until
