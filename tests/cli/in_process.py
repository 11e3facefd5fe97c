"""Run a command in this process, with its own environment and captured streams."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO
from unittest import mock

from landline import cli


@dataclass
class Ended:
    """A command that has ended."""

    status: int
    out: str
    err: str


def run_in_process(arguments: Sequence[str], environment: Mapping[str, str]) -> Ended:
    """Run a command as :func:`landline.cli.main` does. Standard input is empty and no terminal.

    What only a process has (signals, a terminal, the start of the interpreter) needs a real one.
    """
    with (
        _text_file() as out,
        _text_file() as err,
        open(os.devnull) as devnull,
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch.multiple(sys, stdin=devnull, stdout=out, stderr=err),
        _unchanged_logging(),
    ):
        try:
            status = cli.run(arguments)
        except SystemExit as ended:
            status = ended.code
        for handler in logging.root.handlers:
            handler.flush()
        return Ended(status, _content(out), _content(err))


def _text_file() -> TextIO:
    """Return a file, because some commands ask their streams for a descriptor."""
    return tempfile.TemporaryFile("w+", encoding="utf-8", newline="")


def _content(file: TextIO) -> str:
    file.seek(0)
    return file.read()


@contextlib.contextmanager
def _unchanged_logging() -> Iterator[None]:
    loggers = [logging.root, *map(logging.getLogger, ("landline", "landline.client"))]
    before = [(logger, logger.level) for logger in loggers]
    handlers = list(logging.root.handlers)
    try:
        yield
    finally:
        logging.root.handlers[:] = handlers
        for logger, level in before:
            logger.setLevel(level)
