"""The tables of docs/benchmarks.md, written from a report so that no figure is typed by hand."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from benchmarks.report import Report, Row, format_cost, format_details, format_number

PATH: Final = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
TRANSPORTS_PATH: Final = PATH.with_name("transports.md")
QUIET_LOAD: Final = 0.5
"""A load average below this at the start means that the machine was idle."""


def missing_for_plots() -> bool:
    """Return whether matplotlib is missing."""
    return find_spec("matplotlib") is None


def render(report: Report) -> None:
    """Write all rows into docs/benchmarks.md, and the one of the transports into docs/transports.md too."""
    PATH.write_text(rendered(report, PATH.read_text(encoding="utf-8")), encoding="utf-8")
    TRANSPORTS_PATH.write_text(
        with_transports(report, TRANSPORTS_PATH.read_text(encoding="utf-8")), encoding="utf-8"
    )


def with_transports(report: Report, text: str) -> str:
    """Return the document with the table of the transports."""
    for row in report.rows:
        if row.name == "transports":
            text = filled(text, row.name, format_table(row))
    return text


def rendered(report: Report, text: str) -> str:
    """Return the document with the tables of the report. Raise :class:`ValueError` if a row has no markers in it."""
    for name, table in [
        ("machine", format_machine(report)),
        *((row.name, format_table(row)) for row in report.rows),
    ]:
        text = filled(text, name, table)
    return text


def filled(text: str, name: str, table: str) -> str:
    """Return the document with a table between the markers of that name. Raise :class:`ValueError` without them."""
    markers = list(re.finditer(rf"(<!-- results: {name} -->\n).*?(<!-- end of results -->)", text, re.DOTALL))
    if len(markers) != 1:
        raise ValueError(f"the document has {len(markers)} markers for the results of {name!r}; expected 1")
    return text[: markers[0].end(1)] + table + text[markers[0].start(2) :]


def format_machine(report: Report) -> str:
    """Return the machine, the date and the versions as Markdown."""
    machine, versions = report.machine, report.versions
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    text = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}; {report.date}, "
        f"{report.seconds / 60:.1f} minutes. {packages[0].upper()}{packages[1:]}.\n"
    )
    if float(machine["load_before"]) > QUIET_LOAD:
        text += (
            f"\n**The machine was shared:** other work ran when this run began (load average "
            f"{machine['load_before']}). Take the ratios, not the figures.\n"
        )
    return text


def format_table(row: Row) -> str:
    """Return a row as a Markdown table."""
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in row.settings.items())
    lines = [
        f"{row.title[0].upper()}{row.title[1:]} ({settings}).",
        "",
        f"| server | {row.unit} | lowest – highest | landline is | server's core | load's core | more |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for figure in row.figures:
        if figure.median is None or figure.low is None or figure.high is None:
            lines.append(f"| {figure.title} | – | | | | | {figure.note} |")
            continue
        shown = format_number(figure.median)
        if figure.budget is not None:
            shown = f"**{shown}** ({'met' if figure.met else 'MISSED'}: {figure.budget})"
        ratio = row.ratios.get(figure.peer)
        cells = (
            figure.title,
            shown,
            f"{format_number(figure.low)} – {format_number(figure.high)}",
            "" if ratio is None else f"×{ratio:.2f}",
            "" if figure.server_cpu is None else f"{figure.server_cpu:.0%}",
            "" if figure.load_busy is None else f"{figure.load_busy:.0%}",
            " · ".join(part for part in (format_details(figure), figure.note) if part),
        )
        lines.append("| " + " | ".join(cells) + " |")
    grown = [figure for figure in row.figures if figure.cost is not None]
    if grown:
        lines += ["", f"Growth: {row.cost_title}.", "", "| server | cost |", "|---|---:|"]
        lines += [f"| {figure.title} | {format_cost(figure.cost)} |" for figure in grown]
    return "\n".join(lines) + "\n"
