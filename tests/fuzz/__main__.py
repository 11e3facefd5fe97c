"""Fuzzes everything that reads a stranger's bytes: ``python -m tests.fuzz --help``."""

from __future__ import annotations

import argparse
import shlex
import sys
import traceback
from pathlib import Path
from random import SystemRandom

from tests.fuzz.engines import has_atheris, run_guided, run_unguided
from tests.fuzz.targets import TARGETS


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0 when nothing was found, 1 for a crash."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzzes landline's core.")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together (default 10)")
    parser.add_argument(
        "--target", action="append", choices=list(TARGETS), help="only this one; may be given several times"
    )
    parser.add_argument("--seed", type=int, help="of the random mutations (default: another one each time)")
    parser.add_argument("--list", action="store_true", help="show the targets")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input that was found before")
    options = parser.parse_args(arguments)
    if options.list:
        for name, function in TARGETS.items():
            print(f"{name:17} {(function.__doc__ or '').splitlines()[0]}")
        return 0
    if options.replay:
        return replay(parser, options.replay, options.target)
    return fuzz(options.target or list(TARGETS), options.minutes, options.seed)


def replay(parser: argparse.ArgumentParser, path: Path, targets: list[str] | None) -> int:
    """Run a target on a file. By default the name of the file begins with that of its target."""
    target = targets[0] if targets else path.name.partition("-")[0]
    if target not in TARGETS:
        parser.error(f"{path.name!r} does not begin with the name of a target; add --target")
    try:
        data = path.read_bytes()
    except OSError as error:
        parser.error(f"cannot read {path}: {error.strerror}")
    try:
        TARGETS[target](data)
    except Exception:
        traceback.print_exc()
        return 1
    print(f"{target} holds on these {len(data)} bytes.")
    return 0


def fuzz(targets: list[str], minutes: float, seed: int | None) -> int:
    """Give every target its share of the time; ends at the first crash."""
    seed = SystemRandom().randrange(2**31) if seed is None else seed
    run = run_guided
    if not has_atheris():
        run = run_unguided
        print("atheris is not installed (see CONTRIBUTING.md): mutating seeds without guidance by coverage.")
    print(f"Fuzzing {len(targets)} targets for {minutes:g} minutes in all, seed {seed}.", flush=True)
    for target in targets:
        outcome = run(target, minutes * 60 / len(targets), seed)
        print(f"{target:17} {outcome.summary}", flush=True)
        if outcome.crash is not None:
            python = shlex.quote(sys.executable)
            print(f"{target} failed. To see it again: {python} -m tests.fuzz --replay {outcome.crash}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
