"""The two state machines of a transfer, and the credit window between them. Pure: no I/O, no clock."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from landline.errors import FileRefused
from landline.files.messages import CHUNK_BYTES_MAX, Accept

WINDOW_BYTES_MAX: Final = 64 * 1024 * 1024
"""A sender never has more than this under way for one file, whatever window it was given."""
CREDIT_SHARE: Final = 4
"""A receiver says what it has written at least whenever this part of its window was written."""


class Stage(StrEnum):
    """Where a transfer stands, as its receiver sees it."""

    OFFERED = "offered"
    ACCEPTED = "accepted"
    RECEIVING = "receiving"
    ENDED = "ended"


class Trigger(StrEnum):
    """What moves it on."""

    ACCEPT = "accept"
    CHUNK = "chunk"
    END = "end"


_NEXT: Final = {
    (Stage.OFFERED, Trigger.ACCEPT): Stage.ACCEPTED,
    (Stage.ACCEPTED, Trigger.CHUNK): Stage.RECEIVING,
    (Stage.ACCEPTED, Trigger.END): Stage.ENDED,
    (Stage.RECEIVING, Trigger.CHUNK): Stage.RECEIVING,
    (Stage.RECEIVING, Trigger.END): Stage.ENDED,
}
"""What is not here breaks the protocol. Every stage can be left by refusing, cancelling or losing the session."""


class ReceiveWindow:
    """The receiver's account of one transfer: what may come next, and how much of it is not written yet."""

    __slots__ = (
        "received_bytes",
        "resumed_from",
        "size_bytes",
        "stage",
        "told_bytes",
        "window_bytes",
        "written_bytes",
    )

    def __init__(self, size_bytes: int, window_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.window_bytes = window_bytes
        self.stage = Stage.OFFERED
        self.resumed_from = 0
        self.received_bytes = 0
        self.written_bytes = 0
        self.told_bytes = 0

    def accept(self, offset: int) -> None:
        """The offer is taken; ``offset`` bytes of the file are there already."""
        self._step(Trigger.ACCEPT)
        self._start_at(offset)

    def receive_chunk(self, offset: int, size_bytes: int) -> bool:
        """A chunk came. Returns whether the file begins anew with it.

        The first chunk may be at offset 0 whatever was there: the sender's file begins otherwise. Raises
        :class:`FileRefused` with the code ``broken`` for a chunk that is not the next one, is empty or too large, or
        for which there is no room in the file or in the window.
        """
        is_first = self.stage is Stage.ACCEPTED
        self._step(Trigger.CHUNK)
        is_restart = is_first and offset == 0 and self.received_bytes > 0
        if is_restart:
            self._start_at(0)
        if offset != self.received_bytes:
            raise _broken(f"a chunk at {offset}, where {self.received_bytes} was next")
        if not 0 < size_bytes <= CHUNK_BYTES_MAX:
            raise _broken(f"a chunk of {size_bytes} bytes; 1 to {CHUNK_BYTES_MAX} are allowed")
        if offset + size_bytes > self.size_bytes:
            raise _broken(f"more than the {self.size_bytes} bytes that were offered")
        self.received_bytes += size_bytes
        if self.received_bytes - self.written_bytes > self.window_bytes:
            raise _broken(f"more than the {self.window_bytes} bytes of the window at once")
        return is_restart

    def receive_end(self) -> None:
        """The sender says that this is all. Raises :class:`FileRefused` when it is not."""
        self._step(Trigger.END)
        if self.received_bytes != self.size_bytes:
            raise _broken(f"an end after {self.received_bytes} of {self.size_bytes} bytes")

    def wrote(self, size_bytes: int) -> bool:
        """So many more bytes are in the file. Returns whether the sender is to hear of it now."""
        self.written_bytes += size_bytes
        untold = self.written_bytes - self.told_bytes
        if untold * CREDIT_SHARE < self.window_bytes and self.written_bytes < self.size_bytes:
            return False
        self.told_bytes = self.written_bytes
        return True

    def _start_at(self, offset: int) -> None:
        self.resumed_from = self.received_bytes = self.written_bytes = self.told_bytes = offset

    def _step(self, occurrence: Trigger) -> None:
        following = _NEXT.get((self.stage, occurrence))
        if following is None:
            raise _broken(f"{occurrence.value} of a transfer that is {self.stage.value}")
        self.stage = following


class SendWindow:
    """The sender's account of one transfer: how much the receiver lets it send next."""

    __slots__ = ("chunk_bytes", "resumed_from", "sent_bytes", "size_bytes", "window_bytes", "written_bytes")

    def __init__(self, size_bytes: int, accept: Accept, chunk_bytes: int, *, is_same: bool) -> None:
        """``is_same`` says whether what the receiver has is how our file begins."""
        if accept.offset > size_bytes:
            raise _broken(f"the receiver says it has {accept.offset} bytes of a file of {size_bytes}")
        self.size_bytes = size_bytes
        self.chunk_bytes = min(chunk_bytes, accept.chunk_bytes)
        self.window_bytes = min(accept.window_bytes, WINDOW_BYTES_MAX)
        self.resumed_from = self.sent_bytes = self.written_bytes = accept.offset if is_same else 0

    @property
    def next_bytes(self) -> int:
        """How large the next chunk is; 0 when all is sent, or the window is full.

        A chunk waits until the whole of it fits: many small ones would cost more than the wait.
        """
        left = min(self.chunk_bytes, self.size_bytes - self.sent_bytes, self.window_bytes)
        return left if self.sent_bytes + left - self.written_bytes <= self.window_bytes else 0

    @property
    def is_all_sent(self) -> bool:
        return self.sent_bytes == self.size_bytes

    def receive_credit(self, written_bytes: int) -> None:
        """The receiver has written so much. Raises :class:`FileRefused` when it cannot have."""
        if not self.written_bytes <= written_bytes <= self.sent_bytes:
            raise _broken(
                f"the receiver says it wrote {written_bytes} bytes, after {self.written_bytes} and of {self.sent_bytes}"
            )
        self.written_bytes = written_bytes


def _broken(why: str) -> FileRefused:
    return FileRefused("broken", f"the transfer broke its rules: {why}")
