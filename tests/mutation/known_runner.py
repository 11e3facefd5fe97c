"""Puts known faults into copies of the sources, and finds out whether their tests notice."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from tests.mutation.known_faults import KnownFault
from tests.mutation.runner import PytestRun, copy_sources, environment_of, run_tests

TESTS_FAILED: Final = 1
"""The exit status of pytest after a failed test; higher ones mean that no test could run."""
IMPORT_TIMEOUT_S: Final = 60.0


class KnownTrial(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one known fault."""

    name: str
    found_by: str | None
    """The first test that failed; ``None`` if the fault was not found."""
    problem: str = ""
    """Why it does not count as found."""


def try_known_faults(
    faults: Sequence[KnownFault], directory: Path, *, jobs: int, report: Callable[[KnownTrial], None]
) -> list[KnownTrial]:
    """Return what became of each fault, and call ``report`` with each at once.

    :param directory: an empty one; every job copies the sources into it.
    """
    waiting: queue.SimpleQueue[KnownFault] = queue.SimpleQueue()
    for fault in faults:
        waiting.put(fault)
    trials: list[KnownTrial] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        copy = copy_sources(directory / str(number))
        while True:
            try:
                fault = waiting.get_nowait()
            except queue.Empty:
                return
            trial = _try_one(fault, copy)
            with lock:
                trials.append(trial)
                report(trial)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return trials


def _try_one(fault: KnownFault, copy: Path) -> KnownTrial:
    path = copy / "src" / "landline" / fault.module
    source = path.read_text(encoding="utf-8")
    path.write_text(fault.apply(source), encoding="utf-8")
    try:
        if problem := import_problem(fault.module, copy):
            return KnownTrial(name=fault.name, found_by=None, problem=problem)
        run = run_tests(fault.tests, copy)
    finally:
        path.write_text(source, encoding="utf-8")
    return judge(fault.name, run, lambda: run_tests(fault.tests, copy))


def judge(name: str, faulty: PytestRun, run_unchanged: Callable[[], PytestRun]) -> KnownTrial:
    """Return whether a fault was found.

    :param faulty: the run of its tests on the code with the fault.
    :param run_unchanged: runs them on the unchanged code; called only if they failed.
    """
    if faulty.status == 0:
        return KnownTrial(name=name, found_by=None)
    if faulty.status not in (TESTS_FAILED, None):
        return KnownTrial(name=name, found_by=None, problem=f"pytest ended with status {faulty.status}")
    # A test that fails anyway has found nothing.
    unchanged = run_unchanged()
    if unchanged.status != 0:
        problem = f"without the fault, {unchanged.first_failed or 'a test'} fails too"
        return KnownTrial(name=name, found_by=None, problem=problem)
    return KnownTrial(name=name, found_by=faulty.first_failed or "a test that did not end")


def import_problem(module: str, copy: Path) -> str:
    """Return why the module cannot be imported, or an empty string: a fault must be one of behaviour."""
    name = ".".join(("landline", *Path(module).with_suffix("").parts))
    imported = subprocess.run(
        [sys.executable, "-c", f"import {name}"],
        env=environment_of(copy),
        timeout=IMPORT_TIMEOUT_S,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if imported.returncode == 0 else f"{name} cannot be imported: {imported.stderr.strip()[-200:]}"
