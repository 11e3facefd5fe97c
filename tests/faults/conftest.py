"""What the tests of faults share: the processes of a fleet."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults import processes as processes_module


@pytest.fixture(scope="session")
def programs():
    """The module processes.py, for tests that put together a fleet of their own."""
    return processes_module


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory whose name is short enough for the sockets in it."""
    directory = Path(tempfile.mkdtemp(prefix="ll-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def fleet(directory) -> Iterator:
    """A control server as a process, to which machines can be added; the tests of a file share it."""
    with processes_module.run_fleet(directory) as running:
        yield running


@pytest.fixture
def poll():
    """Waits for what other processes do; this one need not go on meanwhile."""
    return processes_module.until
