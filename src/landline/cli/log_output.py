"""What of the logs reaches standard error, and how."""

from __future__ import annotations

import logging
import sys
import threading
from typing import Annotated, Final, TextIO

import typer

from landline.cli.exit_codes import WrongUse
from landline.cli.terminal_text import printable, wants_colour

WAITING_CHARACTERS_MAX: Final = 4 * 1024 * 1024
"""What waits to be written at most; more is dropped and counted."""
FLUSH_S_MAX: Final = 2.0
"""How long the end of the program waits for its log to be written: nobody may read standard error."""

FORMATS: Final = ("auto", "text", "json", "journal")
LEVELS: Final = ("debug", "info", "warning", "error")

Format = Annotated[
    str,
    typer.Option(
        "--log-format",
        metavar="FORMAT",
        help="How to log: text, json, or journal; auto is journal where systemd's journal reads it, else text.",
    ),
]
Level = Annotated[
    str, typer.Option("--log-level", metavar="LEVEL", help=f"The least to log: {', '.join(LEVELS)}.")
]

_STRANGERS: Final = ("asyncio", "quic", "uvicorn.error")
"""Loggers of other libraries in which a peer can cause lines."""


def check_logging(log_format: str, log_level: str) -> None:
    """Raise :class:`landline.cli.exit_codes.WrongUse` unless both options have a meaning."""
    for option, value, known in (("--log-format", log_format, FORMATS), ("--log-level", log_level, LEVELS)):
        if value not in known:
            raise WrongUse(
                f"{option} takes {', '.join(known[:-1])} or {known[-1]}, not {printable(value[:40])!r}."
            )


def show_logs(log_format: str, log_level: str, *, attempts: bool = True) -> None:
    """Log to standard error from now on, as those options say.

    Without ``attempts``, those to connect are left out: the command prints the states of its line itself.
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
    # What the level says is meant for us: at debug, databases and web servers tell of every byte.
    root.setLevel(logging.WARNING)
    logging.getLogger("landline").setLevel(log_level.upper())
    for name in _STRANGERS:
        guarded_logger(name)
    if not attempts:
        logging.getLogger("landline.client").setLevel(logging.ERROR)


def quiet_logs() -> None:
    """Nothing but errors: the command says what happens."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.ERROR)


class _Printable(logging.Formatter):
    """A message may hold what a peer says."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))


class BackgroundHandler(logging.Handler):
    """Writes lines in a thread, so that a reader of ``stream`` who stops reading does not stop the program.

    At most :data:`WAITING_CHARACTERS_MAX` wait; what comes then is dropped, and the number is logged when there is
    room again.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._changed = threading.Condition()
        self._waiting: list[str] = []
        self._waiting_characters = 0
        self._dropped = 0
        self._is_writing = False
        threading.Thread(target=self._write_forever, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Format ``record`` at once, for what it names may change, and have it written soon."""
        try:
            line = self.format(record) + "\n"
        except Exception:  # noqa: BLE001 - as every handler of logging
            self.handleError(record)
            return
        with self._changed:
            if self._waiting_characters + len(line) > WAITING_CHARACTERS_MAX:
                self._dropped += 1
                return
            self._waiting.append(line)
            self._waiting_characters += len(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is written, for :data:`FLUSH_S_MAX` at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_writing, FLUSH_S_MAX)

    def _write_forever(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                lines, self._waiting, self._waiting_characters = self._waiting, [], 0
                dropped, self._dropped = self._dropped, 0
                self._is_writing = True
            if dropped:
                lines.append(self.format(_dropped_record(dropped)) + "\n")
            try:
                self._stream.write("".join(lines))
                self._stream.flush()
            except (OSError, ValueError):
                # A full disk, or nobody who reads any more: there is no place left to say it, but the next line may
                # get through.
                with self._changed:
                    self._dropped += len(lines)


def _dropped_record(count: int) -> logging.LogRecord:
    return logging.LogRecord(
        "landline.log", logging.WARNING, "", 0, "%d lines of this log could not be written", (count,), None
    )
