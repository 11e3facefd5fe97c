"""The log on standard error: its options, its format, and a thread that writes it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, TextIO, TypeVar

import click

from landline.cli.parameter_types import OneOf
from landline.cli.terminal_text import printable, wants_colour

PENDING_CHARACTERS_MAX: Final = 4 * 1024 * 1024
"""Limit of text that waits to be written; further lines are dropped and counted."""
FLUSH_TIMEOUT_S: Final = 2.0
"""How long the program waits at its end for the log to be written. The reader of standard error may have stopped."""

FORMATS: Final = ("auto", "text", "json", "journal")
LEVELS: Final = ("debug", "info", "warning", "error")

_Function = TypeVar("_Function", bound=Callable[..., Any])

_PEER_LOGGERS: Final = ("asyncio", "quic", "uvicorn.error")
"""Loggers of other libraries whose lines a peer can cause."""


def log_options(function: _Function) -> _Function:
    """Add ``--log-format`` and ``--log-level``."""
    log_format = click.option(
        "--log-format",
        metavar="FORMAT",
        type=OneOf(FORMATS),
        default="auto",
        show_default=True,
        help="Format of the log: text, json or journal. 'auto' is journal if systemd's journal reads it, else text.",
    )
    log_level = click.option(
        "--log-level",
        metavar="LEVEL",
        type=OneOf(LEVELS),
        default="info",
        show_default=True,
        help=f"The lowest level to log: {', '.join(LEVELS)}.",
    )
    return log_format(log_level(function))


def show_logs(log_format: str, log_level: str, *, attempts: bool = True) -> None:
    """Log to standard error from now on.

    :param attempts: whether to log attempts to connect. A command that prints the states of its line does not.
    """
    from landline import guarded_logger
    from landline.fleet.log_lines import LogFormat, goes_to_journal, line_formatter

    is_journal = goes_to_journal(sys.stderr.fileno())
    if log_format == "auto":
        log_format = "journal" if is_journal else "text"
    formatter = line_formatter(LogFormat(log_format), colours=wants_colour(sys.stderr), priorities=is_journal)
    handler = BackgroundHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.root
    root.addHandler(handler)
    # The level is for landline only: at debug, databases and web servers log every byte.
    root.setLevel(logging.WARNING)
    logging.getLogger("landline").setLevel(log_level.upper())
    for name in _PEER_LOGGERS:
        guarded_logger(name)
    if not attempts:
        logging.getLogger("landline.client").setLevel(logging.ERROR)


def quiet_logs() -> None:
    """Log errors only: the command itself prints what happens."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.ERROR)


class _Printable(logging.Formatter):
    """Makes messages printable: they may contain a peer's text."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))


class BackgroundHandler(logging.Handler):
    """Writes lines in a thread, so that a reader of ``stream`` who stops reading does not stop the program.

    At most ``pending_characters_max`` characters wait. Further lines are dropped, and their number is logged when
    there is space again.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        pending_characters_max: int = PENDING_CHARACTERS_MAX,
        flush_timeout_s: float = FLUSH_TIMEOUT_S,
    ) -> None:
        super().__init__()
        self._stream = stream
        self._pending_characters_max = pending_characters_max
        self._flush_timeout_s = flush_timeout_s
        self._changed = threading.Condition()
        self._pending: list[str] = []
        self._pending_characters = 0
        self._dropped = 0
        self._is_writing = False
        threading.Thread(target=self._write_forever, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Format ``record`` now, because its arguments may change, and queue the line."""
        try:
            line = self.format(record) + "\n"
        except Exception:  # noqa: BLE001 - as every handler of logging does
            self.handleError(record)
            return
        with self._changed:
            if self._pending_characters + len(line) > self._pending_characters_max:
                self._dropped += 1
                return
            self._pending.append(line)
            self._pending_characters += len(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until every line is written, at most ``flush_timeout_s``."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending and not self._is_writing, self._flush_timeout_s)

    def _write_forever(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._pending)
                lines, self._pending, self._pending_characters = self._pending, [], 0
                dropped, self._dropped = self._dropped, 0
                self._is_writing = True
            if dropped:
                lines.append(self.format(_dropped_record(dropped)) + "\n")
            try:
                self._stream.write("".join(lines))
                self._stream.flush()
            except (OSError, ValueError):
                # The disk is full, or the reader is gone. There is no place to report it; the next line may succeed.
                with self._changed:
                    self._dropped += len(lines)


def _dropped_record(count: int) -> logging.LogRecord:
    return logging.LogRecord(
        "landline.log", logging.WARNING, "", 0, "%d lines of this log could not be written", (count,), None
    )
