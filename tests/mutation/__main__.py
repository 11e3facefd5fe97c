"""Scores the tests on mutants of the code, or puts known faults back: ``python -m tests.mutation --help``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec
from tests.mutation.areas import AREAS
from tests.mutation.known_faults import KNOWN_FAULTS
from tests.mutation.known_runner import KnownTrial, try_known_faults
from tests.mutation.runner import Trial, draw, score, try_mutants

SHARES: Final = {"session": 0.42, "fleet": 0.35, "server-and-client": 0.23}
"""How the mutants are divided between the areas."""


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0 when every area reaches its score, or every known fault is found, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description="Scores the tests on mutants."
    )
    parser.add_argument("--count", type=int, default=100, help="mutants, all areas together (default 100)")
    parser.add_argument("--seed", type=int, default=1, help="which mutants are drawn (default 1)")
    parser.add_argument("--area", action="append", choices=list(AREAS), help="only this one; may be repeated")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time (default: processors)"
    )
    parser.add_argument("--list", action="store_true", help="show the mutants, run nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every trial to FILE")
    parser.add_argument(
        "--known",
        nargs="*",
        metavar="NAME",
        help="instead of mutants, put known faults into the code, all or those whose name contains NAME",
    )
    options = parser.parse_args(arguments)
    if options.known is not None:
        return _known(options.known, jobs=options.jobs, is_list=options.list, json=options.json)
    names = options.area or list(AREAS)
    whole = sum(SHARES[name] for name in names)
    counts = {name: max(1, round(options.count * SHARES[name] / whole)) for name in names}
    trials: list[Trial] = []
    for name in names:
        drawn = draw(AREAS[name], counts[name], options.seed)
        if options.list:
            for module, mutant in drawn:
                print(f"{name}  {module}:{mutant.line}  {mutant.description}")
            continue
        print(f"{name}: {len(drawn)} mutants", flush=True)
        with tempfile.TemporaryDirectory(prefix="mut-") as directory:
            trials += try_mutants(name, AREAS[name], drawn, Path(directory), jobs=options.jobs, report=_print)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(trials)))
    return 0 if options.list else _sum_up(names, trials)


def _known(names: list[str], *, jobs: int, is_list: bool, json: Path | None) -> int:
    faults = [
        fault
        for fault in KNOWN_FAULTS
        if not names or any(name.lower() in fault.name.lower() for name in names)
    ]
    if is_list:
        for fault in faults:
            print(f"{fault.name}  ({fault.module}): {fault.what}")
        return 0
    with tempfile.TemporaryDirectory(prefix="mut-") as directory:
        trials = try_known_faults(faults, Path(directory), jobs=jobs, report=_print_known)
    if json:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(trials)))
    found = sum(trial.found_by is not None for trial in trials)
    print(f"{found} of {len(faults)} known faults found")
    return 0 if faults and found == len(faults) else 1


def _print_known(trial: KnownTrial) -> None:
    state = (
        f"found by {trial.found_by}"
        if trial.found_by
        else f"NOT FOUND{trial.problem and ': '}{trial.problem}"
    )
    print(f"  {trial.name}: {state}", flush=True)


def _print(trial: Trial) -> None:
    state = (
        f"found by {trial.killed_by}"
        if trial.killed_by
        else ("equivalent" if trial.equivalent else "SURVIVED")
    )
    print(f"  {trial.module}:{trial.line}  {trial.mutant}  {state}", flush=True)


def _sum_up(names: list[str], trials: list[Trial]) -> int:
    is_enough = True
    for name in names:
        of_area = [trial for trial in trials if trial.area == name]
        reached, wanted = score(of_area), AREAS[name].wanted
        is_enough &= reached >= wanted
        equivalent = sum(bool(trial.equivalent) for trial in of_area)
        found = sum(trial.killed_by is not None for trial in of_area)
        print(
            f"{name}: {found} of {len(of_area) - equivalent} found ({reached:.0%}; {wanted:.0%} wanted)"
            + (f", {equivalent} equivalent" if equivalent else "")
        )
    return 0 if is_enough else 1


if __name__ == "__main__":
    sys.exit(main())
