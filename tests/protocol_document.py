"""Reads ``docs/protocol.md`` for tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

DOCUMENT: Final = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text(encoding="utf-8")


def rows_under(heading: str) -> list[tuple[str, ...]]:
    """Return the rows of all tables in the section of that number, without their header rows."""
    match = re.search(rf"^#+ {re.escape(heading)} .*?(?=^#)", DOCUMENT + "\n#", re.MULTILINE | re.DOTALL)
    assert match is not None, f"the document has no section {heading}"
    rows = [
        tuple(cell.strip().strip("`") for cell in line.strip("|").split("|"))
        for line in match[0].splitlines()
        if line.startswith("|")
    ]
    return [row for row in rows if not set(row[0]) <= set("-: ")]
