"""Groups of lines that are spoken to together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from landline.changes import LineState
from landline.handlers import encode_value
from landline.line import Line
from landline.room import WhenFull
from landline.session.wire import encode_datagram


class BroadcastResult(msgspec.Struct, frozen=True):
    """Who a broadcast went to."""

    sent: int
    """Lines that took it."""
    skipped: int
    """Lines that did not: their send buffer had no room, or the message is larger than they take; for a datagram, all
    that dropped it."""
    disconnected: int = 0
    """Lines that were ended because they had no room."""
    dropped: int = 0
    """Older messages that were dropped to make room."""


Broadcast = Callable[[list[Line], Any, str, bool, WhenFull, int | None], BroadcastResult]


class Group:
    """A set of lines that are spoken to together. A line that closes leaves by itself."""

    __slots__ = ("_broadcast", "_lines", "name")

    def __init__(self, name: str, broadcast: Broadcast) -> None:
        self.name = name
        self._broadcast = broadcast
        self._lines: dict[Line, None] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Line]:
        return iter(list(self._lines))

    def __contains__(self, line: object) -> bool:
        return line in self._lines

    def add(self, line: Line) -> None:
        """Adds a line; adding it twice is adding it once. A closed line is not added."""
        if line.state is not LineState.CLOSED:
            self._lines[line] = None

    def discard(self, line: Line) -> None:
        """Removes a line if it is there."""
        self._lines.pop(line, None)

    def broadcast(
        self,
        value: Any,
        *,
        name: str = "",
        bulk: bool = False,
        when_full: WhenFull = WhenFull.DROP_NEWEST,
        keep: int | None = None,
    ) -> BroadcastResult:
        """Sends one message to every line without waiting for any; see :meth:`Server.broadcast`."""
        return self._broadcast(list(self._lines), value, name, bulk, when_full, keep)

    def broadcast_datagram(self, value: Any, *, name: str = "") -> BroadcastResult:
        """Sends one datagram to every line, encoded once; see :meth:`Server.broadcast_datagram`."""
        return broadcast_datagram(list(self._lines), value, name)


def broadcast_datagram(lines: Iterable[Line], value: Any, name: str) -> BroadcastResult:
    """Sends one datagram to each of these lines. Raises :class:`landline.MessageTooLarge` before anything was sent."""
    body, is_packed = encode_value(value)
    frame = encode_datagram(name.encode(), body, is_packed=is_packed)
    sent = skipped = 0
    for line in lines:
        if line.state is not LineState.CLOSED and line.send_encoded_datagram(frame):
            sent += 1
        else:
            skipped += 1
    return BroadcastResult(sent, skipped)
