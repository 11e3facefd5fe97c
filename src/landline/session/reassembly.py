"""Messages whose fragments are still arriving (``docs/protocol.md`` §5.5)."""

from __future__ import annotations

from landline.codes import Code, Operation
from landline.errors import ProtocolError
from landline.session.events import MessageReceived
from landline.session.frames import DATA_HEADER_BYTES, FLAG_PACKED


class Reassembly:
    """A message of which not all fragments are here yet.

    Raises :class:`ProtocolError` for a fragment that adds nothing, and above ``limit_bytes`` of name and body together.
    """

    __slots__ = ("_body", "_correlation", "_flags", "_name", "_operation", "size_bytes")

    def __init__(
        self, operation: Operation, flags: int, correlation: int, name: str, payload: bytes, limit_bytes: int
    ) -> None:
        _check_adds(payload)
        self.size_bytes: int = len(name.encode()) + len(payload)
        """What is here of name and body."""
        check_message_size(self.size_bytes, limit_bytes)
        self._operation = operation
        self._flags = flags
        self._correlation = correlation
        self._name = name
        # One growing buffer: a list would cost a peer of tiny fragments many times their bytes.
        self._body = bytearray(payload)

    def add(self, payload: bytes, limit_bytes: int) -> None:
        """Adds the next fragment."""
        _check_adds(payload)
        self.size_bytes += len(payload)
        check_message_size(self.size_bytes, limit_bytes)
        self._body += payload

    def message(self, sequence: int) -> MessageReceived:
        """The whole message, of which the frame of that number was the last."""
        return MessageReceived(
            sequence,
            self._operation,
            self._correlation,
            self._name,
            bytes(self._body),
            bool(self._flags & FLAG_PACKED),
            DATA_HEADER_BYTES + self.size_bytes,
        )


def check_message_size(size_bytes: int, limit_bytes: int) -> None:
    """Raises :class:`ProtocolError` for a message, name and body together, above the limit."""
    if size_bytes > limit_bytes:
        raise ProtocolError(f"a message of more than the {limit_bytes} bytes allowed", Code.LIMIT_EXCEEDED)


def _check_adds(payload: bytes) -> None:
    # Empty fragments would let a peer send for ever without ever reaching the limit.
    if not payload:
        raise ProtocolError("an empty fragment")
