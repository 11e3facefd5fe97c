"""A skipped test fails the run on the machine that decides, and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.skips import ALLOWED, refused

ROOT = Path(__file__).parent.parent

TESTS = """
import pytest


def test_that_runs():
    pass


def test_that_is_skipped():
    pytest.skip("no frobnicator here")
"""

CONFTEST = """
from tests.skips import register


def pytest_configure(config):
    register(config)
"""


def run(folder: Path, ci: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\n")
    environ = {**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(folder)],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("options", [("-p", "no:xdist"), ("-n", "1")], ids=["one process", "workers"])
def test_a_skipped_test_fails_the_run_in_ci(tmp_path, options):
    result = run(tmp_path, "true", *options)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "test_that_is_skipped: no frobnicator here" in result.stdout


def test_elsewhere_it_does_not(tmp_path):
    assert run(tmp_path, "", "-p", "no:xdist").returncode == 0


def test_what_is_listed_is_allowed():
    skipped = {"tests/test_a.py::test_one[uvloop]": "no", "tests/test_b.py::test_two": "no"}
    assert refused(skipped, {"tests/test_a.py::test_one*": "because"}) == {"tests/test_b.py::test_two": "no"}


def test_each_entry_of_the_list_names_a_test_and_a_reason():
    for pattern, reason in ALLOWED.items():
        assert len(reason.split()) >= 4
        path, _, name = pattern.partition("::")
        assert f"def {name.split('*')[0].split('[')[0]}" in (ROOT / path).read_text()
