"""Runs the tests against mutants, several at a time, each with a copy of the sources of its own."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Final

import msgspec
from tests.mutation.areas import EQUIVALENT, ROOT, Area, sources_of, stages_of
from tests.mutation.operators import Mutant, each

STAGE_TIMEOUT_S: Final = 900.0
"""A mutant that keeps a stage from ending was noticed."""
FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - |$)", re.MULTILINE)
"""A line of the summary of pytest."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one mutant."""

    area: str
    module: str
    line: int
    mutant: str
    killed_by: str | None
    """The stage that failed; ``None`` for a survivor."""
    equivalent: str = ""
    """Why no test could find it."""


def draw(area: Area, count: int, seed: int) -> list[tuple[str, Mutant]]:
    """Return ``count`` mutants of an area, the same ones for the same seed and sources.

    The kind of fault is drawn first, so that the many numbers do not crowd out conditions and statements.
    """
    kinds: dict[str, list[tuple[str, Mutant]]] = {}
    for module, mutant in each(sources_of(area)):
        kinds.setdefault(mutant.operator, []).append((module, mutant))
    random = Random(seed)
    for of_kind in kinds.values():
        random.shuffle(of_kind)
    names = sorted(kinds)
    drawn: list[tuple[str, Mutant]] = []
    while len(drawn) < count and names:
        name = random.choice(names)
        drawn.append(kinds[name].pop())
        if not kinds[name]:
            names.remove(name)
    return drawn


def try_mutants(
    name: str,
    area: Area,
    drawn: Sequence[tuple[str, Mutant]],
    directory: Path,
    *,
    jobs: int,
    report: Callable[[Trial], None],
    pytest: Sequence[str] = (),
) -> list[Trial]:
    """Return what became of each mutant of the area called ``name``, and call ``report`` with each at once.

    :param directory: an empty one; every job copies the sources into it.
    :param pytest: further arguments of pytest.
    """
    waiting: queue.SimpleQueue[tuple[str, Mutant]] = queue.SimpleQueue()
    for one in drawn:
        waiting.put(one)
    trials: list[Trial] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        copy = copy_sources(directory / str(number))
        while True:
            try:
                module, mutant = waiting.get_nowait()
            except queue.Empty:
                return
            trial = _try_one(name, area, module, mutant, copy, pytest)
            with lock:
                trials.append(trial)
                report(trial)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return trials


def _try_one(name: str, area: Area, module: str, mutant: Mutant, copy: Path, pytest: Sequence[str]) -> Trial:
    path = copy / "src" / module
    source = path.read_text(encoding="utf-8")
    path.write_text(mutant.apply(source), encoding="utf-8")
    try:
        stages = stages_of(area, module)
        killed_by = next((" ".join(stage) for stage in stages if not _passes(stage, copy, pytest)), None)
    finally:
        path.write_text(source, encoding="utf-8")
    return Trial(
        area=name,
        module=module,
        line=mutant.line,
        mutant=mutant.description,
        killed_by=killed_by,
        equivalent=EQUIVALENT.get((module, mutant.description), "") if killed_by is None else "",
    )


def _passes(tests: Sequence[str], copy: Path, arguments: Sequence[str]) -> bool:
    return run_tests(tests, copy, arguments).status == 0


def copy_sources(copy: Path) -> Path:
    """Copy the sources into a new directory, and return it."""
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def environment_of(copy: Path) -> dict[str, str]:
    """Return the environment of a program that uses the sources in ``copy``."""
    return os.environ | {
        "PYTHONPATH": str(copy / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(copy),
    }


class PytestRun(msgspec.Struct, frozen=True, kw_only=True):
    """How a run of pytest ended."""

    status: int | None
    """The exit status: 0 if all tests passed, 1 if one failed, higher if none could run; ``None`` after the limit."""
    first_failed: str = ""
    """The node id of the first test that failed."""


def run_tests(tests: Sequence[str], copy: Path, arguments: Sequence[str] = ()) -> PytestRun:
    """Run tests up to the first failure, against the sources in ``copy``."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "--no-cov",
        "-p",
        "no:cacheprovider",
        *arguments,
        *tests,
    ]
    # A file, not a pipe: programs that the tests started may outlive pytest.
    with tempfile.TemporaryFile() as output:
        # In a session of its own, so that programs which the tests started end with it.
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment_of(copy),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        status: int | None = None
        try:
            status = process.wait(STAGE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end_group(process)
        output.seek(0)
        failed = FAILED.search(output.read().decode(errors="replace"))
    return PytestRun(status=status, first_failed=failed[1] if failed else "")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def score(trials: Sequence[Trial]) -> float:
    """Return the part of the mutants that was found, of those that can be."""
    counted = [trial for trial in trials if not trial.equivalent]
    return sum(trial.killed_by is not None for trial in counted) / len(counted) if counted else 1.0
