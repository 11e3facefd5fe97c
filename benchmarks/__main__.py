"""``python -m benchmarks``: run the benchmarks and print a table for each."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from benchmarks import (
    document,
    echo,
    fairness,
    fan_out,
    heartbeats,
    idle_memory,
    reconnect,
    request_response,
    round_trip,
    transports,
)
from benchmarks.loops import has_compiler
from benchmarks.peers import PEERS
from benchmarks.processes import ChildFailed
from benchmarks.progress import Progress
from benchmarks.report import Report, Row, describe_machine, describe_versions, format_row
from benchmarks.settings import QUICK, Settings

ROWS: Final[dict[str, Callable[[Settings, Progress], Row]]] = {
    "echo": echo.run,
    "round_trip": round_trip.run,
    "idle_memory": idle_memory.run,
    "fan_out": fan_out.run,
    "heartbeats": heartbeats.run,
    "request_response": request_response.run,
    "reconnect": reconnect.run,
    "transports": transports.run,
    "fairness": fairness.run,
}
NEED_COMPILER: Final = ("round_trip", "fan_out", "heartbeats")
NUMBERS: Final = {
    "seconds": "measured in each round of echo, round_trip and request_response",
    "rounds": "of each of these three",
    "echo_connections": "of echo",
    "idle_connections": "of idle_memory",
    "idle_tls_connections": "of idle_memory over TLS",
    "lines": "of fan_out, heartbeats and reconnect; at most 19,000",
    "heartbeat_interval_s": "between two heartbeats",
    "heartbeat_seconds": "of heartbeats that are measured",
    "fairness_seconds": "of each flood of fairness",
}
LINES_MAX: Final = 19_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 if everything was measured, 1 if something failed, 2 for invalid arguments."""
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(ROWS))
        return 0
    if options.render is not None:
        report = msgspec.json.decode(options.render.read_bytes(), type=Report)
        document.render(report)
        return 0
    names = list(dict.fromkeys(options.only or ROWS))
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; use one of: {', '.join(ROWS)}", file=sys.stderr)
        return 2
    unknown_peers = [name for name in options.peers or () if name not in PEERS]
    if unknown_peers:
        print(f"unknown peer {unknown_peers[0]!r}; use one of: {', '.join(PEERS)}", file=sys.stderr)
        return 2
    wanted = {name: getattr(options, name) for name in NUMBERS if getattr(options, name) is not None}
    if any(value <= 0 for value in wanted.values()) or wanted.get("lines", 1) > LINES_MAX:
        print("all numbers must be greater than 0, and --lines at most 19000", file=sys.stderr)
        return 2
    if options.plots is not None and document.missing_for_plots():
        print("the plots need matplotlib: uv sync --group plots", file=sys.stderr)
        return 2
    settings = msgspec.structs.replace(
        QUICK if options.quick else Settings(),
        load_sleeps=options.load_sleeps,
        peers=tuple(options.peers or ()),
        **wanted,
    )
    return _run(names, settings, options)


def _run(names: list[str], settings: Settings, options: argparse.Namespace) -> int:
    started, machine = time.monotonic(), describe_machine()
    rows: list[Row] = []
    status = 0
    for number, name in enumerate(names, 1):
        if name in NEED_COMPILER and not has_compiler():
            print(f"{name}: not measured: its load is C, and there is no compiler (cc)\n", flush=True)
            continue
        progress = Progress(f"{name} ({number} of {len(names)})", is_shown=not options.quiet)
        try:
            rows.append(ROWS[name](settings, progress))
        except ChildFailed as error:
            # The other rows can still be measured.
            print(f"{name}: {error}", file=sys.stderr)
            status = 1
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130
        else:
            print(format_row(rows[-1]), flush=True)
    report = Report(
        machine=machine,
        versions=describe_versions(),
        date=datetime.now(UTC).date().isoformat(),
        seconds=round(time.monotonic() - started, 1),
        rows=rows,
    )
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    if options.plots is not None:
        from benchmarks.plots import plot

        options.plots.mkdir(parents=True, exist_ok=True)
        for row in rows:
            plot(row, options.plots / f"{row.name}.svg")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure landline beside its peers on this machine, over loopback.",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only these benchmarks")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="measure only these peers and landline")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and exit")
    parser.add_argument("--quick", action="store_true", help="run for a short time, at smaller sizes")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", help="also draw each table as an SVG file in DIR"
    )
    parser.add_argument(
        "--render",
        type=Path,
        metavar="FILE",
        help="write the tables of docs/benchmarks.md and docs/transports.md from FILE, and exit",
    )
    parser.add_argument(
        "--load-sleeps",
        action="store_true",
        help="let the load of echo sleep between responses; the server then pays for waking it",
    )
    defaults = Settings()
    for name, meaning in NUMBERS.items():
        default = getattr(defaults, name)
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=type(default),
            metavar="N",
            help=f"{meaning} (default {default:g})",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
