"""The project is written in plain technical English: spelling, and phrases that are not used (CONTRIBUTING.md)."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
PHRASES: Final = {
    r"anew": "again",
    r"(?:is|are|was|were|be|been|being) mended|mends?|mending": "fixed, repaired",
    r"for ever|forever": "without limit, permanently",
    r"whoever|whomever": "name who: the caller, the peer, an operator",
    r"somebody|anybody": "name who: a person, an operator, another process",
    r"(?:is|are|was|were|be) told": "is notified, receives, gets",
    r"go(?:es)? on (?:where|over|with|without|as|to)": "continues, resumes",
    r"how-manieth|so many of|as so many": "the number",
    r"of ours|of theirs": "our, their",
    r"roads?": "endpoint",
    r"dice": "random numbers",
    r"the house|the rooms of": "the package",
    r"power switch(?:es)?": "power back end",
    r"betimes|hither|thither|whence|thereof|wherein|henceforth|heretofore": "a modern word",
    r"says nothing new": "is redundant",
    r"sings|riddle": "plain words",
}
"""What is not written (a regular expression for whole words), and what is written instead."""
ALLOWED: Final = {
    # File and text: why the phrase is right there.
    "tests/test_language.py": "lists the phrases",
}
FILES: Final = [
    path
    for path in (
        *(
            ROOT / name
            for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "Makefile")
        ),
        *sorted((ROOT / "docs").rglob("*.md")),
        *(
            path
            for folder in ("src", "tests", "benchmarks", "examples", "clients")
            for path in sorted((ROOT / folder).rglob("*"))
            if path.suffix in {".py", ".js", ".ts", ".md"} and "node_modules" not in path.parts
        ),
    )
    if str(path.relative_to(ROOT)) not in ALLOWED
]


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_phrase_that_is_not_used(phrase: str) -> None:
    find = re.compile(rf"\b(?:{phrase})\b", re.IGNORECASE).search
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if find(line)
    ]
    assert found == [], f"write instead: {PHRASES[phrase]}"


def test_spelling() -> None:
    command = [sys.executable, "-m", "codespell_lib", *(str(path) for path in FILES)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.stdout == ""
    assert ended.returncode == 0, ended.stderr
