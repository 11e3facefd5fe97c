"""Loggers that are safe against peers: a peer can cause log lines, but neither forge nor flood them.

A peer chooses its identity, the names of its messages and files, and the mistakes in them, and can return with another
identity as often as it likes. Therefore the limits belong to the process, not to a connection.
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
"""Longer lines are cut. Some messages contain two or three texts of a peer, of 200 characters each."""
TRACEBACK_CHARACTERS_MAX: Final = 4000
"""The part of a traceback that is logged: its end, where the failure is."""
LINES_PER_S: Final = 20.0
"""Sustained lines per second from one place in the program: as many as a person can still read."""
LINES_AT_ONCE: Final = 200
"""Lines from one place in a burst."""
LEVEL_LINES_PER_S: Final = 50.0
"""Sustained lines per second of one level, from all places together."""
LEVEL_LINES_AT_ONCE: Final = 1000
"""Lines of one level in a burst."""
TRACEBACK_LINES: Final = 10
"""A line with a traceback counts as this many lines."""


class LogGuard(logging.Filter):
    """Makes log records harmless, and drops those above the rate limits.

    Records above the level DEBUG are counted by the place in the program that logs them, so that a flood from one place
    leaves room for the others, and by level, so that warnings leave room for errors. The last record before some are
    dropped says so, and the next one says how many were dropped.

    :param clock: monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        # Records come from any thread.
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Reset all limits."""
        self._places: dict[object, _Budget] = {}
        self._levels: dict[int, _Budget] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record, and make it harmless. Idempotent."""
        if getattr(record, "is_guarded", False):
            return True
        record.is_guarded = True
        note = self._note(record)
        if note is None:
            return False
        _make_harmless(record, note)
        return True

    def _note(self, record: logging.LogRecord) -> str | None:
        """Return a note about dropped records, or ``None`` to drop this one."""
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
    """A rate limit with bursts (the generic cell rate algorithm)."""

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
"""The guard of this process."""


@functools.cache
def guarded_logger(name: str) -> logging.Logger:
    """Return the logger of that name, with protection against texts from outside and against floods.

    Each record is one line of at most 1,000 characters, in which control and formatting characters are replaced (see
    :func:`landline.safe_text`); of a traceback, the last 4,000 characters are logged, each line indented. Each place in
    the program may log 20 lines per second (200 in a burst), each level 50 (1,000 in a burst), and a traceback counts
    as ten. Records above the limits are dropped and counted. The level DEBUG is not limited. The limits apply to the
    whole process.
    """
    logger = logging.getLogger(name)
    logger.addFilter(GUARD)
    return logger


def _make_harmless(record: logging.LogRecord, note: str) -> None:
    if isinstance(record.msg, str):
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - the logging handler fails the same way, and reports it
            return
        # Formatted here, so that handlers have no texts from outside to insert. The result has no placeholders.
        record.msg = safe_text(message, LINE_CHARACTERS_MAX) + note
        record.args = None
    if record.exc_info and record.exc_info[0] is not None:
        whole = "".join(traceback.format_exception(*record.exc_info))
        end = whole[-TRACEBACK_CHARACTERS_MAX:]
        # Indented, because the text of an exception may contain lines that look like log lines.
        record.exc_text = "\n".join(f"    {safe_text(line, None)}" for line in end.splitlines())
