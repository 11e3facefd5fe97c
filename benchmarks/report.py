"""What a run found: as a table for people, and as JSON for machines."""

from __future__ import annotations

import platform
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import msgspec


class Budget(msgspec.Struct, frozen=True):
    """What landline must reach."""

    value: float
    better: Literal["more", "less"]

    def is_met(self, figure: float) -> bool:
        """Whether a figure reaches it."""
        return figure >= self.value if self.better == "more" else figure <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.better == 'more' else '≤'} {self.value:,.0f}"


class Figure(msgspec.Struct, kw_only=True):
    """One peer's figure: the median of several rounds."""

    peer: str
    values: list[float]
    median: float = 0.0
    low: float = 0.0
    high: float = 0.0
    budget: Budget | None = None
    met: bool | None = None
    server_cpu: float | None = None
    """CPU time of the server over the time measured: near 1, it was the limit."""
    load_busy: float | None = None
    """The part of the time in which the load had something to do: near 1, it was the limit."""
    note: str = ""

    def __post_init__(self) -> None:
        self.median = statistics.median(self.values)
        self.low, self.high = min(self.values), max(self.values)
        if self.budget is not None:
            self.met = self.budget.is_met(self.median)


class Row(msgspec.Struct, kw_only=True):
    """One benchmark: the same work done by landline and its peers."""

    name: str
    title: str
    unit: str
    settings: dict[str, int | float | str]
    figures: list[Figure]
    ratios: dict[str, float] = msgspec.field(default_factory=dict)
    """Landline's median over each peer's."""

    def __post_init__(self) -> None:
        ours = self.figures[0].median
        self.ratios = {
            figure.peer: round(ours / figure.median, 4) for figure in self.figures[1:] if figure.median > 0
        }


class Report(msgspec.Struct, kw_only=True):
    """A whole run."""

    machine: dict[str, int | str]
    versions: dict[str, str]
    seconds: float
    rows: list[Row]


def describe_machine() -> dict[str, int | str]:
    """Where this runs."""
    model = "unknown"
    cores = 0
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        cores += line.startswith("processor")
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return {"processor": model, "cores": cores, "system": f"{platform.system()} {platform.release()}"}


def describe_versions() -> dict[str, str]:
    """What was measured."""
    packages = {name: version(name) for name in ("landline", "uvloop", "msgspec", "websockets")}
    return {"python": platform.python_version(), **packages}


def format_row(row: Row) -> str:
    """A row as a table."""
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in row.settings.items())
    lines = [
        f"{row.name}: {row.title} ({settings})",
        f"  {'peer':<18}{row.unit:>14}  {'lowest – highest':>23}{'server':>8}{'load':>6}  {'budget':>11}",
    ]
    for figure in row.figures:
        spread = f"{figure.low:,.0f} – {figure.high:,.0f}"
        server = "" if figure.server_cpu is None else f"{figure.server_cpu:.0%}"
        load = "" if figure.load_busy is None else f"{figure.load_busy:.0%}"
        budget = "" if figure.budget is None else str(figure.budget)
        verdict = "" if figure.met is None else "met" if figure.met else "MISSED"
        note = " · ".join(part for part in (verdict, figure.note) if part)
        lines.append(
            f"  {figure.peer:<18}{figure.median:>14,.0f}  {spread:>23}{server:>8}{load:>6}  {budget:>11}  {note}"
        )
    return "\n".join(line.rstrip() for line in lines)
