"""On the machine that decides (``CI=true``) a test that was skipped has failed, unless this file says why.

A test that skips itself where a program is missing looks green for years on a machine that never had the program.
"""

import fnmatch
import os
from typing import Final

import pytest

ALLOWED: Final[dict[str, str]] = {
    # Pattern of the test's id: why it may be skipped in CI.
    "tests/fleet/test_paths.py::test_the_units_of_the_document_are_right": "only a whole systemd has it",
}


def refused(skipped: dict[str, str], allowed: dict[str, str]) -> dict[str, str]:
    """Of the skipped tests (id: reason) those that no pattern allows."""
    return {
        node: reason
        for node, reason in skipped.items()
        if not any(fnmatch.fnmatchcase(node, pattern) for pattern in allowed)
    }


class SkipsFail:
    """Collects what was skipped in all workers, and fails the run for what is not allowed."""

    def __init__(self, allowed: dict[str, str] = ALLOWED) -> None:
        self._allowed = allowed
        self._skipped: dict[str, str] = {}

    def _collect(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._skipped[report.nodeid] = reason.removeprefix("Skipped: ")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._collect(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._collect(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if refused(self._skipped, self._allowed) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for node, reason in refused(self._skipped, self._allowed).items():
            terminalreporter.write_line(
                f"SKIPPED IN CI {node}: {reason} (install what is missing, or allow it in tests/skips.py)",
                red=True,
            )


def register(config: pytest.Config) -> None:
    """Turn the rule on where ``CI`` is ``true``; only the process that collects all reports decides."""
    if os.environ.get("CI") == "true" and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipsFail(), "skips-fail")
