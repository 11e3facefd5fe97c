"""``python -m tests.simulation``: many seeds, one seed again, or each safeguard switched off in turn."""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time

from tests.simulation.ablations import ABLATIONS, without
from tests.simulation.faults import Options
from tests.simulation.lines import HEARTBEAT
from tests.simulation.run import Outcome, shrink, simulate
from tests.simulation.storm import find_peak

TWICE_EVERY = 100
ABLATED_SEEDS_MAX = 600


class Score:
    """What many runs came to."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self._steps = 0
        self._simulated_s = 0.0
        self.longest_silence_s = 0.0
        self._begun = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        if outcome.violation is None:
            self.passed += 1
        else:
            self.failed += 1
        self._steps += outcome.steps
        self._simulated_s += outcome.simulated_s
        self.longest_silence_s = max(self.longest_silence_s, outcome.longest_silence_s)

    def __str__(self) -> str:
        took_s = max(time.monotonic() - self._begun, 1e-9)
        hours_per_min = self._simulated_s / 3600 / (took_s / 60)
        return (
            f"{self.passed} seeds passed, {self.failed} failed, {self._steps / took_s:,.0f} events/s, "
            f"{hours_per_min:.1f} simulated hours/min"
        )


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0 when everything held, 1 when something did not, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many (default %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first of them (default 0)")
    parser.add_argument("--seed", type=int, metavar="N", help="run this one and show every event of it")
    parser.add_argument("--minutes", type=float, metavar="M", help="continue with new seeds for M minutes")
    parser.add_argument(
        "--ablate", action="store_true", help="switch off each safeguard in turn; every one must be missed"
    )
    options = parser.parse_args(arguments)
    if options.seeds < 1 or (options.minutes is not None and options.minutes <= 0):
        print("--seeds and --minutes must be above zero", file=sys.stderr)
        return 2
    if options.ablate:
        return _ablate(options.first, options.seeds)
    if options.seed is not None:
        return _replay(options.seed)
    return _run(options.first, options.seeds, options.minutes)


def _run(first: int, seeds: int, minutes: float | None) -> int:
    score = Score()
    ends_at = time.monotonic() + minutes * 60 if minutes is not None else None
    seed, shown_at = first, time.monotonic()
    while time.monotonic() < ends_at if ends_at is not None else seed < first + seeds:
        outcome = simulate(seed)
        if outcome.violation is None and seed % TWICE_EVERY == 0:
            again = simulate(seed)
            if again.fingerprint != outcome.fingerprint:
                outcome.violation = (
                    "two runs of this seed differ: something iterates in hash order or reads a clock"
                )
        score.add(outcome)
        if outcome.violation is not None:
            _print_failure(shrink(outcome))
        seed += 1
        if sys.stderr.isatty() and time.monotonic() - shown_at > 1:
            shown_at = time.monotonic()
            print(f"\r{score}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(
        f"a silent peer was believed in for at most {score.longest_silence_s:.2f} s; "
        f"{HEARTBEAT.interval_s:g} s + {HEARTBEAT.timeout_s:g} s are allowed, and what a timer takes"
    )
    print(score)
    return 1 if score.failed else 0


def _replay(seed: int) -> int:
    score = Score()
    outcome = simulate(seed, events_kept=None)
    score.add(outcome)
    print(*outcome.last_events, sep="\n")
    if outcome.violation is not None:
        _print_failure(shrink(outcome))
    print(score)
    return 1 if score.failed else 0


def _ablate(first: int, seeds: int) -> int:
    """Look for one failing seed for each safeguard that is switched off."""
    unmissed = 0
    score = Score()
    width = max(len(ablation.name) for ablation in ABLATIONS)
    for ablation in ABLATIONS:
        found = None
        with without(ablation):
            for seed in range(first, first + max(seeds, ABLATED_SEEDS_MAX)):
                if (seed % 2 == 1) != (ablation.scenario == "lines"):
                    continue
                outcome = simulate(seed)
                score.add(outcome)
                if ablation.explains(outcome.violation):
                    found = outcome
                    break
        unmissed += found is None
        print(f"without {ablation.name:<{width}}  {_describe(found)}", flush=True)
    peak, calm = find_peak(jitter=False), find_peak(jitter=True)
    bites = peak > 5 * calm
    unmissed += not bites
    verdict = f"{peak} of 2,000 clients return within one second, {calm} with it" if bites else "NOT MISSED"
    print(f"without {'jitter':<{width}}  {verdict}")
    print(f"{len(ABLATIONS) + 1 - unmissed} of {len(ABLATIONS) + 1} safeguards are missed when switched off")
    print(score)
    return 1 if unmissed else 0


def _describe(found: Outcome | None) -> str:
    if found is None:
        return "NOT MISSED: no seed failed"
    return f"seed {found.seed}: {found.violation}"


def _print_failure(outcome: Outcome) -> None:
    print(f"\nSEED {outcome.seed} FAILED: {outcome.violation}")
    print(f"commit {_commit()}, Python {platform.python_version()}")
    print(_describe_options(outcome.options))
    print(f"the last {len(outcome.last_events)} events:")
    print(*(f"  {event}" for event in outcome.last_events[-20:]), sep="\n")
    print(f"again: python -m tests.simulation --seed {outcome.seed}\n", flush=True)


def _describe_options(options: Options) -> str:
    kept = "\n".join(f"  {fault}" for fault in options.faults) or "  none"
    values = ", ".join(
        f"{name}={getattr(options, name)}" for name in options.__struct_fields__ if name != "faults"
    )
    return f"options: {values}\nfaults that suffice:\n{kept}"


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
