"""Messages of which fragments are missing (``docs/protocol.md`` §5.5)."""

from __future__ import annotations

from landline.codes import Code, Operation
from landline.errors import ProtocolError
from landline.session.constants import FLAG_PACKED
from landline.session.events import MessageReceived
from landline.session.frames import DATA_HEADER_BYTES


class Reassembly:
    """A message of which not all fragments have arrived.

    :raises ProtocolError: for an empty fragment, and above ``limit_bytes`` of name and body together.
    """

    __slots__ = ("_body", "_correlation", "_flags", "_name", "_operation", "size_bytes")

    def __init__(
        self, operation: Operation, flags: int, correlation: int, name: str, payload: bytes, limit_bytes: int
    ) -> None:
        _check_not_empty(payload)
        self.size_bytes: int = len(name.encode()) + len(payload)
        """The bytes of name and body that have arrived."""
        check_message_size(self.size_bytes, limit_bytes)
        self._operation = operation
        self._flags = flags
        self._correlation = correlation
        self._name = name
        # One growing buffer: with a list, tiny fragments would take many times their size in memory.
        self._body = bytearray(payload)

    def add(self, payload: bytes, limit_bytes: int) -> None:
        """Add the next fragment."""
        _check_not_empty(payload)
        self.size_bytes += len(payload)
        check_message_size(self.size_bytes, limit_bytes)
        self._body += payload

    def message(self, sequence: int) -> MessageReceived:
        """Return the whole message; ``sequence`` is the number of its last frame."""
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
    """Raise :class:`ProtocolError` for a message, name and body together, above the limit."""
    if size_bytes > limit_bytes:
        raise ProtocolError(
            f"a message of more than {limit_bytes} bytes, which is the limit", Code.LIMIT_EXCEEDED
        )


def _check_not_empty(payload: bytes) -> None:
    # With empty fragments a peer could send without end and never reach the limit.
    if not payload:
        raise ProtocolError("an empty fragment")
