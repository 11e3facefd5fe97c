"""Messages waiting to be numbered, and messages whose fragments are still arriving (``docs/protocol.md`` §5.5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec

from landline.errors import ProtocolError
from landline.session.codes import Code
from landline.session.wire import FLAG_BULK, FLAG_MORE, FRAGMENT_BYTES, Operation, encode_data


class Outgoing(msgspec.Struct):
    """A message to send; ``offset`` counts the bytes of its body that are numbered already."""

    operation: Operation
    flags: int
    correlation: int
    name: bytes
    body: bytes
    offset: int = 0

    @property
    def size_bytes(self) -> int:
        return len(self.name) + len(self.body)

    def next_fragment(self, sequence: int) -> tuple[bytes, bool]:
        """The next frame, numbered ``sequence``, and whether it is the last of this message."""
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


class SendLanes:
    """Messages in two lanes; normal ones go before bulk ones, and may interrupt them between two fragments."""

    __slots__ = ("_bulk", "_normal", "count", "size_bytes")

    def __init__(self) -> None:
        self._normal: deque[Outgoing] = deque()
        self._bulk: deque[Outgoing] = deque()
        self.count = 0
        self.size_bytes = 0

    def __iter__(self) -> Iterator[Outgoing]:
        yield from self._normal
        yield from self._bulk

    def append(self, message: Outgoing) -> None:
        """Puts a message at the end of its lane."""
        (self._bulk if message.flags & FLAG_BULK else self._normal).append(message)
        self.count += 1
        self.size_bytes += message.size_bytes

    def next_frame(self, sequence: int) -> tuple[bytes, Outgoing, bool]:
        """The next frame to send, the message it belongs to, and whether it is that message's last.

        Raises :class:`IndexError` when nothing waits.
        """
        lane = self._normal or self._bulk
        message = lane[0]
        before = message.offset
        frame, is_last = message.next_fragment(sequence)
        self.size_bytes -= min(message.offset, len(message.body)) - before
        if is_last:
            lane.popleft()
            self.count -= 1
            self.size_bytes -= len(message.name)
        return frame, message, is_last


class Assembly:
    """A message of which not all fragments are here yet."""

    __slots__ = ("body", "correlation", "flags", "name", "operation", "size_bytes")

    def __init__(self, operation: Operation, flags: int, correlation: int, name: str, payload: bytes) -> None:
        self.operation = operation
        self.flags = flags
        self.correlation = correlation
        self.name = name
        # One growing buffer: a list would cost a peer of tiny fragments many times their bytes.
        self.body = bytearray(payload)
        self.size_bytes = len(name) + len(payload)

    def add(self, payload: bytes, limit_bytes: int) -> None:
        """Adds a fragment. Raises :class:`ProtocolError` when the message grows above ``limit_bytes``."""
        self.size_bytes += len(payload)
        if self.size_bytes > limit_bytes:
            raise ProtocolError(
                f"a message of more than the {limit_bytes} bytes allowed", Code.LIMIT_EXCEEDED
            )
        if not payload:
            # Empty fragments would let a peer send for ever without ever reaching the limit.
            raise ProtocolError("an empty fragment")
        self.body += payload
