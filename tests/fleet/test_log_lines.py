"""Lines of a log: one for each event, whatever peers call themselves, in every format."""

import io
import json
import logging
import os
import re
import subprocess
import sys

import pytest
import structlog

from landline.fleet.log_lines import (
    MESSAGE_CHARACTERS_MAX,
    VALUE_CHARACTERS_MAX,
    Fields,
    LogFormat,
    event_logger,
    goes_to_journal,
    line_formatter,
)

NASTY = "lab\n<0>2026-01-01 ERROR forged\r\x1b[31m\x00\x7f\x9b\u2028\u202e\ud800'\"\\ x=y"


class Log:
    """A logger of its own, whose lines are kept."""

    def __init__(self, kind: LogFormat, **options) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(line_formatter(kind, **options))
        self.stdlib = logging.getLogger("landline.test_log_lines")
        self.stdlib.handlers = [self.handler]
        self.stdlib.propagate = False
        self.stdlib.setLevel(logging.DEBUG)
        self.events = event_logger(self.stdlib.name)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    @property
    def text(self) -> str:
        return self.stream.getvalue()


@pytest.fixture(autouse=True)
def forget():
    yield
    logger = logging.getLogger("landline.test_log_lines")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


def test_text():
    log = Log(LogFormat.TEXT)
    log.events.info(
        "machine_joined", machine="lab-1", os="Debian 12", after_s=1.23456, none=None, names=("a", "b")
    )
    log.stdlib.warning("%s is slow", "a line")
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}"
    event, message = log.lines
    assert re.fullmatch(
        time + r" INFO    machine_joined machine=lab-1 os='Debian 12' after_s=1\.235 none=- names='a b'",
        event,
    )
    assert re.fullmatch(time + r" WARNING landline\.test_log_lines: a line is slow", message)


def test_colours_only_where_they_are_wanted():
    plain, coloured = Log(LogFormat.TEXT), Log(LogFormat.TEXT, colours=True)
    for log in (plain, coloured):
        log.stdlib.handlers = [log.handler]
        log.events.error("storage_failed", detail="full")
    assert "\x1b" not in plain.text
    assert "\x1b[31mERROR  \x1b[0m storage_failed" in coloured.text


def test_json():
    log = Log(LogFormat.JSON)
    log.events.info("machine_joined", machine=NASTY, machines=3, after_s=0.5)
    log.stdlib.debug("it is %s", NASTY)
    event, message = map(json.loads, log.lines)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("time"))
    assert event == {
        "level": "info",
        "logger": "landline.test_log_lines",
        "machine": NASTY,
        "machines": 3,
        "after_s": 0.5,
        "event": "machine_joined",
    }
    assert (message["level"], message["event"]) == ("debug", f"it is {NASTY}")
    assert log.text.isascii()


def test_the_journal_gets_priorities_and_no_time():
    log = Log(LogFormat.JOURNAL)
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log.events, level)("machine_joined", machine="lab-1")
    assert log.lines == [f"<{priority}>machine_joined machine=lab-1" for priority in (7, 6, 4, 3, 2)]
    log = Log(LogFormat.JSON, priorities=True)
    log.events.warning("machine_renamed", machine="lab-1")
    assert log.text.startswith('<4>{"time": ')


@pytest.mark.parametrize("kind", LogFormat)
@pytest.mark.parametrize("colours", [False, True])
def test_text_of_peers_stays_in_its_field_and_line(kind, colours):
    log = Log(kind, colours=colours)
    log.events.info("machine_joined", machine=NASTY)
    log.stdlib.info("joined as %s", NASTY)
    log.stdlib.info(NASTY)
    assert log.text.count("\n") == len(log.lines) == 3
    assert all(char == "\n" or char.isprintable() for char in log.text)
    if kind is not LogFormat.JSON:
        assert "machine='lab" in log.lines[0] or 'machine="lab' in log.lines[0]


@pytest.mark.parametrize("kind", LogFormat)
def test_an_exception_forges_no_line(kind):
    log = Log(kind)
    try:
        raise ValueError(NASTY)
    except ValueError:
        log.stdlib.exception("a task failed")
        log.events.exception("storage_failed", detail="x")
    assert all(char == "\n" or char.isprintable() for char in log.text)
    if kind is LogFormat.JSON:
        assert all("ValueError" in json.loads(line)["exception"] for line in log.lines)
        assert len(log.lines) == 2
        return
    begin = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} ERROR   \S|    \| " if kind is LogFormat.TEXT else "<3>"
    assert all(re.match(begin, line) for line in log.lines)
    assert sum("| ValueError" in line or ">ValueError" in line for line in log.lines) == 2
    assert not any(line.startswith(("<0>", "2026-01-01")) for line in log.lines)


@pytest.mark.parametrize("kind", LogFormat)
def test_long_values_and_messages_are_cut(kind):
    log = Log(kind)
    log.events.info("machine_joined", machine="x" * 10_000)
    assert len(log.text) < VALUE_CHARACTERS_MAX + 200
    log.stdlib.info("y" * 10_000)
    assert len(log.lines[1]) < MESSAGE_CHARACTERS_MAX + 200


def test_another_programs_format_can_show_an_event(caplog):
    with caplog.at_level(logging.INFO):
        event_logger("landline.other").info("machine_joined", machine="lab 1")
    assert caplog.records[0].getMessage() == "machine_joined machine='lab 1'"
    assert isinstance(structlog.get_config(), dict)
    assert str(Fields(event="x", a=None).copy()) == "x a=-"


def test_the_journal_is_recognised(tmp_path):
    with (tmp_path / "log").open("w") as file:
        status = os.fstat(file.fileno())
        stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert goes_to_journal(file.fileno(), stream)
        assert not goes_to_journal(file.fileno(), {})
        assert not goes_to_journal(file.fileno(), {"JOURNAL_STREAM": "1:2"})
    assert not goes_to_journal(-1, stream)


def test_structlog_comes_without_rich():
    program = "import sys, landline.fleet.log_lines; print('rich' in sys.modules); import rich.table"
    ended = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "False\n"), ended.stderr
