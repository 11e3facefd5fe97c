"""What peers can do to the log: nothing, and not much of it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import landline
from landline import guarded_logger
from landline.runtime.guarded_log import (
    LEVEL_LINES_AT_ONCE,
    LEVEL_LINES_PER_S,
    LINE_CHARACTERS_MAX,
    LINES_AT_ONCE,
    LINES_PER_S,
    TRACEBACK_CHARACTERS_MAX,
    TRACEBACK_LINES,
    LogGuard,
)


class Log:
    """A logger with a guard and a clock of its own, and what it wrote."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.written = io.StringIO()
        self.logger = logging.Logger("test", logging.DEBUG)
        self.logger.addFilter(LogGuard(lambda: self.now))
        handler = logging.StreamHandler(self.written)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        self.logger.addHandler(handler)

    @property
    def lines(self) -> list[str]:
        return self.written.getvalue().splitlines()

    def repeat(self, times: int, level: int = logging.WARNING) -> int:
        """Logs from one place; returns how many lines that made."""
        before = len(self.lines)
        for number in range(times):
            self.logger.log(level, "peer %d", number)
        return len(self.lines) - before


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_line_stays_one_line_and_is_not_endless(log: Log) -> None:
    log.logger.warning("%s came\nERROR forged", "lab\x1b[31m\nERROR forged")
    assert log.lines == ["WARNING lab\ufffd[31m ERROR forged came ERROR forged"]
    log.logger.warning("%s", "x" * 5_000_000)
    assert len(log.lines[1]) == len("WARNING ") + LINE_CHARACTERS_MAX


def test_a_percent_sign_of_a_peer_is_no_placeholder(log: Log) -> None:
    log.logger.warning("%s", "100 %s %(name)s")
    assert log.lines == ["WARNING 100 %s %(name)s"]


def test_lines_of_a_traceback_are_told_from_lines_of_the_log(log: Log) -> None:
    try:
        raise ValueError("bad\nERROR forged \x1b[2J" + "y" * 5_000_000 + "end")
    except ValueError:
        log.logger.exception("it failed")
    first, *rest = log.lines
    assert first == "ERROR it failed"
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1].endswith("yend")
    assert len("\n".join(rest)) <= TRACEBACK_CHARACTERS_MAX + 4 * len(rest)


def test_a_short_traceback_is_whole_and_harmless(log: Log) -> None:
    try:
        raise ValueError("bad\nERROR forged \x1b[2J")
    except ValueError as error:
        log.logger.error("it failed", exc_info=error)
    assert log.lines[1] == "    Traceback (most recent call last):"
    assert log.lines[-2:] == ["    ValueError: bad", "    ERROR forged \ufffd[2J"]


def test_a_place_logs_so_many_at_once_and_so_many_a_second(log: Log) -> None:
    assert log.repeat(5000) == LINES_AT_ONCE
    assert log.lines[-1] == f"WARNING peer {LINES_AT_ONCE - 1} (more like this may be left out now)"
    assert log.repeat(5000) == 0
    log.now += 1.0
    assert log.repeat(5000) == LINES_PER_S
    # Whatever the peer does in a minute.
    before = len(log.lines)
    for _ in range(60):
        log.now += 1.0
        log.repeat(30)
    assert len(log.lines) - before == 60 * LINES_PER_S


def test_what_was_left_out_is_counted(log: Log) -> None:
    def say() -> None:
        log.logger.warning("peer")

    for _ in range(LINES_AT_ONCE + 7):
        say()
    log.now += 60.0
    say()
    say()
    assert log.lines[-2:] == ["WARNING peer (7 more like this were left out before)", "WARNING peer"]


def test_a_flood_from_one_place_leaves_room_for_others(log: Log) -> None:
    log.repeat(5000)
    log.logger.warning("the disk is full")
    assert log.lines[-1] == "WARNING the disk is full"


def test_a_flood_from_many_places_leaves_room_for_other_levels(log: Log) -> None:
    # Each a place of its own.
    for number in range(2000):
        exec(compile(f"logger.warning('place {number}')", f"file-{number}", "exec"), {"logger": log.logger})
    assert len(log.lines) == LEVEL_LINES_AT_ONCE
    log.now += 1.0
    for number in range(2000):
        exec(compile(f"logger.warning('place {number}')", f"file-{number}", "exec"), {"logger": log.logger})
    assert len(log.lines) == LEVEL_LINES_AT_ONCE + LEVEL_LINES_PER_S
    log.logger.error("the disk is full")
    assert log.lines[-1] == "ERROR the disk is full"


def test_tracebacks_count_for_more(log: Log) -> None:
    error = ValueError("no")
    for _ in range(1000):
        log.logger.error("it failed", exc_info=error)
    assert sum(line.startswith("ERROR") for line in log.lines) == LINES_AT_ONCE // TRACEBACK_LINES


def test_debugging_is_not_limited(log: Log) -> None:
    assert log.repeat(5000, logging.DEBUG) == 5000


def test_arguments_that_do_not_fit_are_reported_as_ever(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    log.logger.warning("%d", "x")
    assert "Logging error" in capsys.readouterr().err


def test_no_exception_is_no_traceback(log: Log) -> None:
    log.logger.error("outside of any", exc_info=True)
    assert log.lines[0] == "ERROR outside of any"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the root logger's handler writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def test_a_guarded_logger_is_the_usual_one(written: io.StringIO) -> None:
    logger = guarded_logger("landline.test")
    assert logger is logging.getLogger("landline.test") is guarded_logger("landline.test")
    logger.warning("a\nb")
    assert written.getvalue() == "a b\n"


def test_every_logger_of_the_project_is_guarded() -> None:
    package = Path(landline.__file__).parent
    unguarded = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "= logging.getLogger(" in path.read_text()
    ]
    assert unguarded == ["runtime/guarded_log.py"]
