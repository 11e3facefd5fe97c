"""A few hundred seeds of the simulation, the failing seeds of the past, and proof that it can fail."""

import json
import os
import subprocess
import sys

import pytest
from tests.simulation.ablations import ABLATIONS, without
from tests.simulation.run import shrink, simulate
from tests.simulation.storm import find_peak, storm
from tests.simulation.storm import main as storm_main

from landline import Admission

SEEDS = 200
PER_TEST = 4
FOUND = {
    26: "the task that wakes a machine died of a full disk, and the job hung",
    204: "a process that slept twice was taken back in time (in the simulation itself)",
    380: "an agent whose join was not recorded joined twice in the next session, and gave up",
}
"""Seeds that failed once, and what they found."""
MISSED = {"epoch fence": 140}
"""Where to begin to look for a seed that misses a safeguard, if not with the first."""


@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_everything_that_must_hold_holds(first):
    for seed in range(first, first + PER_TEST):
        assert (seed, simulate(seed).violation) == (seed, None)


@pytest.mark.parametrize("seed", FOUND)
def test_what_failed_once_does_not_fail_again(seed):
    assert simulate(seed).violation is None


def test_a_seed_is_the_same_run_whatever_the_order_of_hashes():
    seeds = (2, 4, 6, 7, 9, 10)
    program = (
        f"from tests.simulation.run import simulate; print([simulate(seed).fingerprint for seed in {seeds}])"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(prints) == 1


def test_a_failure_is_shrunk_to_what_it_takes():
    [ablation] = [each for each in ABLATIONS if each.name == "acknowledgement check"]
    with without(ablation):
        outcome = next(found for seed in range(1, 600, 2) if (found := simulate(seed)).violation)
        smaller = shrink(outcome, budget=20)
    assert smaller.violation is not None
    assert len(smaller.options.faults) <= len(outcome.options.faults)
    assert simulate(outcome.seed).violation is None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.name)
def test_a_safeguard_that_is_switched_off_is_missed(ablation):
    """By a broken promise: an error of the switching itself would prove nothing."""
    first = MISSED.get(ablation.name, 0)
    with without(ablation):
        assert any(ablation.explains(simulate(seed).violation) for seed in range(first, first + 40))


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.name)
def test_a_crash_proves_nothing(ablation):
    assert not ablation.explains(
        "client-0: unhandled: AttributeError(\"object attribute 'write' is read-only\")"
    )
    assert not ablation.explains(None)


def test_without_jitter_a_crowd_comes_back_in_one_second():
    assert find_peak(jitter=False) > 1900
    assert find_peak(jitter=True) < 200


def test_admission_lets_in_no_more_than_its_rate():
    found = storm(5000, away_s=20, admission=Admission(per_s=500, burst=100), seed=3)
    assert sum(found.returned) == 5000
    assert max(found.returned) <= 601


def test_the_command_line():
    run = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seeds", "3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1].startswith("3 seeds passed, 0 failed, ")


def test_the_command_line_of_storms(tmp_path, capsys):
    path = tmp_path / "curves.json"
    assert storm_main(["--clients", "1000", "--json", str(path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert [sum(curve["returned"]) for curve in json.loads(path.read_bytes())] == [1000] * 4
    assert storm_main(["--clients", "0"]) == 2
