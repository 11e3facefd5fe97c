"""What the tests of the API share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fleet.web.fake_operations import FakeOperations


@pytest.fixture
def operations():
    """Three machines online: lab-1, lab-2, lab-3."""
    return FakeOperations()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A private directory with a path short enough for a unix socket."""
    path = Path(tempfile.mkdtemp(prefix="ll-"))
    yield path
    shutil.rmtree(path)
