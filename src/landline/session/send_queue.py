"""Messages that wait to be numbered (``docs/protocol.md`` §5.5)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from landline.codes import Operation
from landline.session.constants import FLAG_BULK, FLAG_MORE, FRAGMENT_BYTES
from landline.session.frames import encode_data


class Outgoing(msgspec.Struct, eq=False):
    """A message to send.

    ``offset`` counts the bytes of its body that are numbered already. A droppable message may be dropped while it has
    no number.
    """

    operation: Operation
    flags: int
    correlation: int
    name: bytes
    body: bytes
    offset: int = 0
    is_droppable: bool = False

    @property
    def size_bytes(self) -> int:
        return len(self.name) + len(self.body)

    def next_fragment(self, sequence: int) -> tuple[bytes, bool]:
        """Return the next frame, numbered ``sequence``, and whether it is the last of this message."""
        first = self.offset == 0
        end = self.offset + FRAGMENT_BYTES
        payload = self.body[self.offset : end]
        is_last = end >= len(self.body)
        frame = encode_data(
            sequence,
            self.flags if is_last else self.flags | FLAG_MORE,
            self.operation if first else Operation.CONTINUE,
            self.correlation if first else 0,
            self.name if first else b"",
            payload,
        )
        self.offset = end
        return frame, is_last


# An ordered set with removal of any member, and of the first one, in constant time; a plain dict is slow at the latter.
_Queue = OrderedDict[Outgoing, None]


class SendQueue:
    """Messages in two lanes. Normal ones precede bulk ones, and may interrupt them between two fragments."""

    __slots__ = ("_bulk", "_droppable", "_normal", "count", "size_bytes")

    def __init__(self) -> None:
        self._normal: _Queue = OrderedDict()
        self._bulk: _Queue = OrderedDict()
        self._droppable: Droppable | None = None
        self.count: int = 0
        self.size_bytes: int = 0

    def __iter__(self) -> Iterator[Outgoing]:
        yield from self._normal
        yield from self._bulk

    @property
    def droppable_count(self) -> int:
        """The number of messages that may be dropped."""
        return len(self._droppable.all) if self._droppable else 0

    @property
    def droppable_bytes(self) -> int:
        """The bytes of their names and bodies."""
        return self._droppable.size_bytes if self._droppable else 0

    @property
    def partly_numbered_bytes(self) -> int:
        """The bytes that are numbered already of messages with more fragments: their bodies are still held whole."""
        return sum(next(iter(lane)).offset for lane in (self._normal, self._bulk) if lane)

    def append(self, message: Outgoing) -> None:
        """Add a message at the end of its lane."""
        self._lane_of(message)[message] = None
        self.count += 1
        self.size_bytes += message.size_bytes
        if message.is_droppable:
            if self._droppable is None:
                self._droppable = Droppable()
            self._droppable.append(message)

    def count_droppable(self, name: bytes) -> int:
        """Return how many messages of that name may be dropped."""
        return len(self._droppable.by_name.get(name, ())) if self._droppable else 0

    def drop_oldest(self, name: bytes | None = None) -> None:
        """Drop the oldest droppable message of that name, or of any name when there is none of that name.

        :raises LookupError: when no message may be dropped.
        """
        if self._droppable is None:
            raise LookupError("no message may be dropped")
        message = self._droppable.oldest(name)
        self._protect(message)
        del self._lane_of(message)[message]
        self.count -= 1
        self.size_bytes -= message.size_bytes

    def next_frame(self, sequence: int) -> tuple[bytes, Outgoing, bool]:
        """Return the next frame to send, its message, and whether it is the last frame of that message.

        :raises LookupError: when no message waits.
        """
        lane = self._normal or self._bulk
        if not lane:
            raise LookupError("no message waits")
        message = next(iter(lane))
        before = message.offset
        if message.is_droppable and before == 0:
            self._protect(message)
        frame, is_last = message.next_fragment(sequence)
        self.size_bytes -= min(message.offset, len(message.body)) - before
        if is_last:
            del lane[message]
            self.count -= 1
            self.size_bytes -= len(message.name)
        return frame, message, is_last

    def _lane_of(self, message: Outgoing) -> _Queue:
        return self._bulk if message.flags & FLAG_BULK else self._normal

    def _protect(self, message: Outgoing) -> None:
        """Exclude the message from dropping: it gets a number, or is removed."""
        assert self._droppable is not None
        self._droppable.remove(message)
        if not self._droppable.all:
            self._droppable = None


class Droppable:
    """The droppable messages, oldest first: all of them, and those of each name."""

    __slots__ = ("all", "by_name", "size_bytes")

    def __init__(self) -> None:
        self.all: _Queue = OrderedDict()
        self.by_name: dict[bytes, _Queue] = {}
        self.size_bytes: int = 0

    def append(self, message: Outgoing) -> None:
        self.all[message] = None
        self.by_name.setdefault(message.name, OrderedDict())[message] = None
        self.size_bytes += message.size_bytes

    def oldest(self, name: bytes | None) -> Outgoing:
        """Return the oldest message of that name, or of any name when there is none of that name."""
        queue = self.all if name is None else self.by_name.get(name, self.all)
        return next(iter(queue))

    def remove(self, message: Outgoing) -> None:
        del self.all[message]
        same_name = self.by_name[message.name]
        del same_name[message]
        if not same_name:
            del self.by_name[message.name]
        self.size_bytes -= message.size_bytes
