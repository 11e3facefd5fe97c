"""What is mutated, and which tests have to find it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "src" / "landline"


class Area(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the project: modules, and its tests, the quickest first."""

    modules: tuple[str, ...]
    """Patterns below ``src/landline``."""
    stages: tuple[tuple[str, ...], ...]
    """Tests, run one stage after the other until one fails. Before them runs the file that mirrors the module."""
    wanted: float
    """The part of the mutants that must be found."""


AREAS: Final = {
    "session": Area(
        modules=("session/*.py",),
        stages=(
            ("tests/session",),
            ("tests/test_protocol_document.py", "tests/test_protocol_statements.py", "tests/line"),
        ),
        wanted=0.95,
    ),
    "fleet": Area(
        modules=("fleet/model.py", "fleet/control/*.py", "fleet/agent/*.py"),
        stages=(("tests/fleet/control",), ("tests/fleet/agent",), ("tests/simulation", "tests/fleet")),
        wanted=0.90,
    ),
    "server-and-client": Area(
        modules=("server/*.py", "client/*.py"),
        stages=(
            ("tests/server", "tests/client"),
            ("tests/line", "tests/discovery", "tests/test_library_document.py"),
        ),
        wanted=0.90,
    ),
}

EQUIVALENT: Final[dict[tuple[str, str], str]] = {
    # (module, what was replaced by what): why no test could find it.
}


def sources_of(area: Area) -> dict[str, str]:
    """Return the sources of an area by their path below ``src``."""
    paths = (path for pattern in area.modules for path in PACKAGE.glob(pattern))
    return {str(path.relative_to(PACKAGE.parent)): path.read_text(encoding="utf-8") for path in paths}


def stages_of(area: Area, module: str) -> list[tuple[str, ...]]:
    """Return the stages for a mutant of ``module``, a path below ``src``."""
    path = Path(module).relative_to("landline")
    mirror = Path("tests") / path.parent / f"test_{path.name}"
    first = [(str(mirror),)] if (ROOT / mirror).exists() else []
    return first + list(area.stages)
