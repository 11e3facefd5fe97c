"""The lines of a log: text for people, JSON for programs, or the format of journald.

An event is a name with fields, logged through structlog. A message is a sentence, logged by the library through
:mod:`logging`. Both become lines here and nowhere else. Fields and messages contain text of peers, so every character
that is not printable is escaped, and an entry is one line in every format.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

# structlog imports rich for coloured tracebacks, which are not used here; rich takes two thirds of the import time.
_had_rich = "rich" in sys.modules
if not _had_rich:
    sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
finally:
    if not _had_rich:
        del sys.modules["rich"]

VALUE_CHARACTERS_MAX: Final = 300
"""Longer values are truncated: one field must not hide the others."""
MESSAGE_CHARACTERS_MAX: Final = 2_000
"""Longer messages of the library are truncated."""
TRACEBACK_LINES_MAX: Final = 60
"""Longer tracebacks keep their end."""

_PLAIN: Final = re.compile(r"[\w.:/@+*,\[\]-]+", re.ASCII)
_PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
"""Priorities of syslog(3), by level."""
_COLOURS: Final = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}


class LogFormat(StrEnum):
    """The format of a log."""

    TEXT = "text"
    """For people: time, level, and the event with its fields or the message, in one line."""
    JSON = "json"
    """One object per line."""
    JOURNAL = "journal"
    """For systemd's journal: prefixed with a priority, and without the time, which the journal adds."""


class Fields(dict[str, Any]):
    """An event with its fields. Its text is readable too, for programs with a log format of their own."""

    def __str__(self) -> str:
        return _event_text(self)

    def copy(self) -> Fields:
        return Fields(self)


def event_logger(name: str) -> Any:
    """Return a logger for events: ``log.info("name", field=value)``, passed on to the logger ``name``.

    It is not a :func:`landline.guarded_logger`, which would treat all events as one place in the program. The values
    are escaped when the line is made, and the code that logs events limits their rate.
    """
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=Fields,
    ).bind()


def goes_to_journal(descriptor: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether ``descriptor`` is connected to systemd's journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def line_formatter(kind: LogFormat, *, colours: bool = False, priorities: bool = False) -> logging.Formatter:
    """Return the formatter that renders events and messages in a format.

    :param priorities: prefix every line of :data:`LogFormat.JSON` with journald's priority too.
    """
    if kind is LogFormat.JSON:
        render: Any = _JsonLines(priorities=priorities)
    elif kind is LogFormat.JOURNAL:
        render = _journal_lines
    else:
        render = _TextLines(colours=colours)
    return structlog.stdlib.ProcessorFormatter(processors=[render])


class _TextLines:
    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, logger: object, name: str, event: dict[str, Any]) -> str:
        record: logging.LogRecord = event.pop("_record")
        level = f"{record.levelname:<7}"
        if self._colours and (colour := _COLOURS.get(record.levelno)):
            level = f"\x1b[{colour}m{level}\x1b[0m"
        lines = [f"{_local_time(record.created)} {level} {_text(record, event)}", *_trace(event)]
        return "\n    | ".join(lines)


class _JsonLines:
    def __init__(self, *, priorities: bool) -> None:
        self._priorities = priorities

    def __call__(self, logger: object, name: str, event: dict[str, Any]) -> str:
        record: logging.LogRecord = event.pop("_record")
        del event["_from_structlog"]
        lines = _trace(event)
        document = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{_milliseconds(record)}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            **{key: _cut(value) for key, value in event.items()},
        }
        if lines:
            document["exception"] = "\n".join(lines)
        # The text is ASCII, and DEL is the only control character that JSON does not escape.
        text = json.dumps(document, default=str).replace("\x7f", "\\u007f")
        return f"<{_priority(record)}>{text}" if self._priorities else text


def _journal_lines(logger: object, name: str, event: dict[str, Any]) -> str:
    record: logging.LogRecord = event.pop("_record")
    before = f"<{_priority(record)}>"
    return "\n".join(before + line for line in (_text(record, event), *_trace(event)))


def _text(record: logging.LogRecord, event: dict[str, Any]) -> str:
    if event.pop("_from_structlog"):
        return _event_text({key: value for key, value in event.items() if key != "exc_info"})
    return f"{record.name}: {escaped(event['event'][:MESSAGE_CHARACTERS_MAX])}"


def _event_text(event: Mapping[str, Any]) -> str:
    return " ".join(
        [
            escaped(str(event.get("event", ""))),
            *(f"{key}={_value_text(value)}" for key, value in event.items() if key != "event"),
        ]
    )


def _value_text(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, tuple):
        value = " ".join(str(each) for each in value)
    text = _cut(str(value))
    return text if _PLAIN.fullmatch(text) else repr(text)


def _cut(value: object) -> Any:
    if isinstance(value, str) and len(value) > VALUE_CHARACTERS_MAX:
        return value[: VALUE_CHARACTERS_MAX - 1] + "…"
    return value


def escaped(text: str) -> str:
    """Return ``text`` with every character that is not printable as a backslash escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _trace(event: dict[str, Any]) -> list[str]:
    """Return the lines of the traceback, if there is one."""
    info = event.pop("exc_info", None)
    if isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    elif info is True:
        info = sys.exc_info()
    if not info or info[1] is None:
        return []
    lines = "".join(traceback.format_exception(*info)).splitlines()
    return [escaped(line[:MESSAGE_CHARACTERS_MAX]) for line in lines[-TRACEBACK_LINES_MAX:]]


def _priority(record: logging.LogRecord) -> int:
    return _PRIORITIES.get(record.levelno, 5)


def _milliseconds(record: logging.LogRecord) -> str:
    return f"{int(record.msecs):03d}"


def _local_time(at: float) -> str:
    whole = int(at)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(whole))}.{int((at - whole) * 1000):03d}"
