"""Type checkers bind handlers to their body types, and answers to their response types."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_mypy_accepts_typed_programs_and_rejects_wrong_handlers():
    # A `type: ignore` that is not needed is an error in strict mode, so the wrong handlers are really rejected.
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "tests/type_checks/typed_api.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.stdout, run.stderr, run.returncode) == ("", "", 0)
