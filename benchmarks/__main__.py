"""``python -m benchmarks``: runs the benchmarks and prints a table for each."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from benchmarks import echo, idle_memory
from benchmarks.processes import ChildFailed
from benchmarks.report import Report, Row, describe_machine, describe_versions, format_row
from benchmarks.settings import Settings

ROWS: Final[dict[str, Callable[[Settings], Row]]] = {"echo": echo.run, "idle_memory": idle_memory.run}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 when everything was measured, 1 when something failed, 2 for wrong use."""
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures landline beside its peers, on this machine, over loopback.",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these benchmarks, not all")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found to FILE too")
    parser.add_argument(
        "--seconds", type=float, default=defaults.seconds, help="of each echo round (default %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=defaults.rounds, help="of echo, for each peer (default %(default)s)"
    )
    parser.add_argument(
        "--connections", type=int, default=defaults.echo_connections, help="of echo (default %(default)s)"
    )
    parser.add_argument(
        "--idle-connections",
        type=int,
        default=defaults.idle_connections,
        help="of idle_memory (default %(default)s)",
    )
    parser.add_argument(
        "--load-sleeps",
        action="store_true",
        help="let the load sleep between answers, so that waking it is counted against the server",
    )
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(ROWS))
        return 0
    names = options.only or list(ROWS)
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        print(f"no benchmark is called {unknown[0]!r}; there are: {', '.join(ROWS)}", file=sys.stderr)
        return 2
    if options.seconds <= 0 or min(options.rounds, options.connections, options.idle_connections) < 1:
        print("--seconds, --rounds and the numbers of connections must be above zero", file=sys.stderr)
        return 2
    settings = Settings(
        seconds=options.seconds,
        rounds=options.rounds,
        echo_connections=options.connections,
        idle_connections=options.idle_connections,
        load_sleeps=options.load_sleeps,
    )
    begun = time.monotonic()
    rows = []
    try:
        for name in dict.fromkeys(names):
            rows.append(ROWS[name](settings))
            print(format_row(rows[-1]), flush=True)
    except ChildFailed as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    if options.json is not None:
        report = Report(
            machine=describe_machine(),
            versions=describe_versions(),
            seconds=round(time.monotonic() - begun, 1),
            rows=rows,
        )
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
