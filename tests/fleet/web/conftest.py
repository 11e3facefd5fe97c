"""What the tests of the API share."""

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def load_fake_operations():
    """The module beside this one: tests are no package, so it is loaded by its path."""
    name = "landline_fake_operations"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("fake_operations.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def fleet():
    """Three machines online: lab-1, lab-2, lab-3."""
    return load_fake_operations().FakeOperations()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A private directory with a path short enough for a unix socket."""
    path = Path(tempfile.mkdtemp(prefix="ll-"))
    yield path
    shutil.rmtree(path)
