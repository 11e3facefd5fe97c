"""Progress on standard error: the current step and its duration."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Print one line per step, or nothing if ``is_shown`` is false."""

    def __init__(self, row: str, *, is_shown: bool = True) -> None:
        self._row = row
        self._is_shown = is_shown

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Print the name of the step at its start and its duration at its end."""
        started = time.monotonic()
        self._write(f"  {self._row}: {what} … ")
        try:
            yield
        except BaseException:
            self._write("\n")
            raise
        self._write(f"{time.monotonic() - started:.1f} s\n")

    def _write(self, text: str) -> None:
        if self._is_shown:
            sys.stderr.write(text)
            sys.stderr.flush()
