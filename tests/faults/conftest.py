"""What the tests of faults share: the processes of a fleet."""

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def load_processes():
    """Tests are no package, so the helpers are loaded by their path."""
    name = "landline_test_processes"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "processes.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def programs():
    """The module processes.py, for tests that put together a fleet of their own."""
    return load_processes()


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory whose name is short enough for the sockets in it."""
    directory = Path(tempfile.mkdtemp(prefix="ll-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def fleet(directory) -> Iterator:
    """A control server as a process, to which machines can be added; the tests of a file share it."""
    with load_processes().run_fleet(directory) as running:
        yield running


@pytest.fixture
def poll():
    """Waits for what other processes do; this one need not go on meanwhile."""
    return load_processes().until
