"""Loggers whose lines a peer can cause, but neither forge nor multiply without end.

A peer chooses its identity, the names of its messages and files, and what is wrong with them, and comes back under
another identity as often as it likes. So what bounds the log belongs to the process, not to a connection.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

from landline.texts import safe_text

LINE_CHARACTERS_MAX: Final = 1000
"""A longer line is cut: some sentences hold two or three texts of a peer, of 200 characters each."""
TRACEBACK_CHARACTERS_MAX: Final = 4000
"""How much of the end of a traceback is logged: what failed stands at the end."""
LINES_PER_S: Final = 20.0
"""Lines a second of one place in the program, in the long run: what a person could still look through."""
LINES_AT_ONCE: Final = 200
"""Lines of one place after a quiet time."""
LEVEL_LINES_PER_S: Final = 50.0
"""Lines a second of one level, from all places together, in the long run."""
LEVEL_LINES_AT_ONCE: Final = 1000
"""Lines of one level after a quiet time."""
TRACEBACK_LINES: Final = 10
"""A line with a traceback counts as so many."""


class LogGuard(logging.Filter):
    """Makes log records harmless, and leaves out those that come too fast.

    Everything above the level DEBUG is counted: by the place in the program that logs it, so that a flood from one
    place leaves room for the others, and by level, so that warnings leave room for errors. The last record before
    some are left out says so, and the next one says how many that were.

    :param clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        # Records come from any thread.
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Begin as after a quiet time."""
        self._places: dict[object, _Budget] = {}
        self._levels: dict[int, _Budget] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is to be logged; it is harmless then. A second look changes nothing."""
        if getattr(record, "is_guarded", False):
            return True
        record.is_guarded = True
        note = self._note(record)
        if note is None:
            return False
        _make_harmless(record, note)
        return True

    def _note(self, record: logging.LogRecord) -> str | None:
        """What to say of records left out, or ``None`` when this one is."""
        if record.levelno <= logging.DEBUG:
            return ""
        lines = TRACEBACK_LINES if record.exc_info else 1
        with self._lock:
            now = self._clock()
            place = self._places.setdefault(
                (record.pathname, record.lineno), _Budget(LINES_PER_S, LINES_AT_ONCE)
            )
            level = self._levels.setdefault(record.levelno, _Budget(LEVEL_LINES_PER_S, LEVEL_LINES_AT_ONCE))
            if not (place.has_room(now, lines) and level.has_room(now, lines)):
                place.left_out += 1
                return None
            place.take(now, lines)
            level.take(now, lines)
            left_out, place.left_out = place.left_out, 0
            note = f" ({left_out} more like this were left out before)" if left_out else ""
            if not (place.has_room(now, lines) and level.has_room(now, lines)):
                note += " (more like this may be left out now)"
            return note


class _Budget:
    """So many lines a second, and so many at once (the generic cell rate algorithm)."""

    __slots__ = ("_interval_s", "_tolerance_s", "_until", "left_out")

    def __init__(self, per_s: float, at_once: int) -> None:
        self._interval_s = 1.0 / per_s
        self._tolerance_s = at_once * self._interval_s
        self._until = 0.0
        self.left_out = 0

    def has_room(self, now: float, lines: int) -> bool:
        return max(self._until, now) + lines * self._interval_s - now <= self._tolerance_s

    def take(self, now: float, lines: int) -> None:
        self._until = max(self._until, now) + lines * self._interval_s


GUARD: Final = LogGuard()
"""The one of this process."""


@functools.cache
def guarded_logger(name: str) -> logging.Logger:
    """Return the logger of that name; what it logs is one line that is no peer's, and its rate is bounded.

    Of texts from outside, control and formatting characters are replaced (:func:`landline.safe_text`), a line has at
    most 1,000 characters, and a traceback the last 4,000, each line of it indented. Each place in a program logs 20
    lines a second in the long run (200 at once), each level 50 (1,000 at once), and a traceback counts as ten; what is
    more is left out, and counted. The level DEBUG is not limited. This holds for the whole process.
    """
    logger = logging.getLogger(name)
    logger.addFilter(GUARD)
    return logger


def _make_harmless(record: logging.LogRecord, note: str) -> None:
    if isinstance(record.msg, str):
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - the handler meets it again, and reports it
            return
        # Formatted here: what a handler gets has no texts from outside left to put in. Nothing is a placeholder now.
        record.msg = safe_text(message, LINE_CHARACTERS_MAX) + note
        record.args = None
    if record.exc_info and record.exc_info[0] is not None:
        whole = "".join(traceback.format_exception(*record.exc_info))
        end = whole[-TRACEBACK_CHARACTERS_MAX:]
        # Indented, because the text of an exception may have lines that look like the log's own.
        record.exc_text = "\n".join(f"    {safe_text(line, None)}" for line in end.splitlines())
