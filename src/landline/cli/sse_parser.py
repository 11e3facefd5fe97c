"""Server-sent events taken apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

EVENT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Largest event taken: a snapshot of some 50,000 machines. More is not from a control server."""


class EventTooLarge(Exception):
    """An event exceeds :data:`EVENT_BYTES_MAX`."""


def event_data(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each whole event in ``lines``; comments and other fields are skipped.

    An event that is cut off by the end of ``lines`` is dropped. Raises :class:`EventTooLarge`.
    """
    data: list[bytes] = []
    size = 0
    for line in lines:
        field = line.rstrip(b"\r\n")
        if field.startswith(b"data:"):
            data.append(field[5:].removeprefix(b" "))
            size += len(field)
            if size > EVENT_BYTES_MAX:
                raise EventTooLarge
        elif not field and data:
            yield b"\n".join(data)
            data, size = [], 0
