"""Parse server-sent events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

EVENT_BYTES_MAX: Final = 64 * 1024 * 1024
"""The largest event: a snapshot of about 50,000 machines. A control server sends no larger one."""


class EventTooLarge(Exception):
    """An event exceeds :data:`EVENT_BYTES_MAX`."""


def event_data(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the data of each complete event in ``lines``; skip comments and other fields.

    An event without its final empty line is dropped. Raise :class:`EventTooLarge`.
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
