"""What is being done just now, and how long it takes, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """One line a step. ``is_shown=False`` says nothing."""

    def __init__(self, row: str, *, is_shown: bool = True) -> None:
        self._row = row
        self._is_shown = is_shown

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Names the step when it begins and its seconds when it is done."""
        begun = time.monotonic()
        self._write(f"  {self._row}: {what} … ")
        try:
            yield
        except BaseException:
            self._write("\n")
            raise
        self._write(f"{time.monotonic() - begun:.1f} s\n")

    def _write(self, text: str) -> None:
        if self._is_shown:
            sys.stderr.write(text)
            sys.stderr.flush()
