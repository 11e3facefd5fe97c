"""The state of a transfer: the receiver's transition table, the credit window of both sides, and the idle timer.

Pure: no I/O, and the time is an argument.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from landline.errors import FileRefused
from landline.files.messages import CHUNK_BYTES_MAX, Accept

WINDOW_BYTES_MAX: Final = 64 * 1024 * 1024
"""A sender never has more unwritten bytes of one file than this, however large the receiver's window is."""
CREDIT_SHARE: Final = 4
"""A receiver sends credit at least each time it has written this part of its window."""
PROGRESS_BYTES: Final = 64 * 1024
"""A sender that sends less than this in ``FileLimits.idle_s`` seconds is idle."""


class Stage(StrEnum):
    """The state of a transfer on its receiver's side."""

    OFFERED = "offered"
    ACCEPTED = "accepted"
    RECEIVING = "receiving"
    ENDED = "ended"


class Trigger(StrEnum):
    """What changes the stage."""

    ACCEPT = "accept"
    CHUNK = "chunk"
    END = "end"


TRANSITIONS: Final = {
    (Stage.OFFERED, Trigger.ACCEPT): Stage.ACCEPTED,
    (Stage.ACCEPTED, Trigger.CHUNK): Stage.RECEIVING,
    (Stage.ACCEPTED, Trigger.END): Stage.ENDED,
    (Stage.RECEIVING, Trigger.CHUNK): Stage.RECEIVING,
    (Stage.RECEIVING, Trigger.END): Stage.ENDED,
}
"""Everything else violates the protocol. A refusal, a cancellation or the loss of the session ends any stage."""


class ReceiveWindow:
    """The receiver's side of one transfer: which message may come next, and how many bytes are not written yet."""

    __slots__ = (
        "credited_bytes",
        "received_bytes",
        "resumed_from",
        "size_bytes",
        "stage",
        "window_bytes",
        "written_bytes",
    )

    resumed_from: int
    received_bytes: int
    written_bytes: int
    credited_bytes: int

    def __init__(self, size_bytes: int, window_bytes: int) -> None:
        self.size_bytes: int = size_bytes
        self.window_bytes: int = window_bytes
        self.stage: Stage = Stage.OFFERED
        self.resumed_from = 0
        self.received_bytes = 0
        self.written_bytes = 0
        self.credited_bytes = 0

    def accept(self, offset: int) -> None:
        """Accept the offer; ``offset`` bytes of the file are already on disk."""
        self._apply(Trigger.ACCEPT)
        self._start_at(offset)

    def receive_chunk(self, offset: int, size_bytes: int) -> bool:
        """Count a chunk. Return whether the file starts again from its beginning with this chunk.

        The first chunk may always be at offset 0: the sender's file begins differently from what is on disk.

        :raises FileRefused: with the code ``broken``, for a chunk that is not the next one, is empty or too large, or
            exceeds the file or the window.
        """
        is_first = self.stage is Stage.ACCEPTED
        self._apply(Trigger.CHUNK)
        is_restart = is_first and offset == 0 and self.received_bytes > 0
        if is_restart:
            self._start_at(0)
        if offset != self.received_bytes:
            raise protocol_violation(f"chunk at offset {offset}, expected {self.received_bytes}")
        if not 0 < size_bytes <= CHUNK_BYTES_MAX:
            raise protocol_violation(f"chunk of {size_bytes} bytes; 1 to {CHUNK_BYTES_MAX} are allowed")
        if offset + size_bytes > self.size_bytes:
            raise protocol_violation(f"more than the offered {self.size_bytes} bytes")
        self.received_bytes += size_bytes
        if self.received_bytes - self.written_bytes > self.window_bytes:
            raise protocol_violation(f"more than the window of {self.window_bytes} bytes")
        return is_restart

    def receive_end(self) -> None:
        """Handle the sender's END.

        :raises FileRefused: with the code ``broken``, when bytes are missing.
        """
        self._apply(Trigger.END)
        if self.received_bytes != self.size_bytes:
            raise protocol_violation(f"END after {self.received_bytes} of {self.size_bytes} bytes")

    def add_written(self, size_bytes: int) -> bool:
        """Count bytes that were written to the file. Return whether to send credit now."""
        self.written_bytes += size_bytes
        uncredited_bytes = self.written_bytes - self.credited_bytes
        if uncredited_bytes * CREDIT_SHARE < self.window_bytes and self.written_bytes < self.size_bytes:
            return False
        self.credited_bytes = self.written_bytes
        return True

    def _start_at(self, offset: int) -> None:
        self.resumed_from = self.received_bytes = self.written_bytes = self.credited_bytes = offset

    def _apply(self, trigger: Trigger) -> None:
        stage = TRANSITIONS.get((self.stage, trigger))
        if stage is None:
            raise protocol_violation(f"{trigger.value} of a transfer in the stage {self.stage.value!r}")
        self.stage = stage


class SendWindow:
    """The sender's side of one transfer: how many bytes it may send next."""

    __slots__ = ("chunk_bytes", "resumed_from", "sent_bytes", "size_bytes", "window_bytes", "written_bytes")

    resumed_from: int
    sent_bytes: int
    written_bytes: int

    def __init__(self, size_bytes: int, accept: Accept, chunk_bytes: int, *, is_same: bool) -> None:
        """Open the window as the receiver's ACCEPT allows.

        :param is_same: whether what the receiver has on disk is the beginning of the sender's file.
        :raises FileRefused: with the code ``broken``, when the receiver has more bytes than the file.
        """
        if accept.offset > size_bytes:
            raise protocol_violation(f"the receiver has {accept.offset} bytes of a file of {size_bytes}")
        self.size_bytes: int = size_bytes
        self.chunk_bytes: int = min(chunk_bytes, accept.chunk_bytes)
        self.window_bytes: int = min(accept.window_bytes, WINDOW_BYTES_MAX)
        self.resumed_from = self.sent_bytes = self.written_bytes = accept.offset if is_same else 0

    @property
    def next_bytes(self) -> int:
        """Size of the next chunk; 0 when everything is sent or the window is full.

        A chunk waits until the whole of it fits: many small ones would cost more than the wait.
        """
        size_bytes = min(self.chunk_bytes, self.size_bytes - self.sent_bytes, self.window_bytes)
        return size_bytes if self.sent_bytes + size_bytes - self.written_bytes <= self.window_bytes else 0

    @property
    def is_all_sent(self) -> bool:
        return self.sent_bytes == self.size_bytes

    def receive_credit(self, written_bytes: int) -> None:
        """Handle the receiver's report that it has written the first ``written_bytes`` of the file.

        :raises FileRefused: with the code ``broken``, when it reports less than before or more than was sent.
        """
        if not self.written_bytes <= written_bytes <= self.sent_bytes:
            raise protocol_violation(
                f"credit for {written_bytes} bytes; {self.written_bytes} to {self.sent_bytes} are possible"
            )
        self.written_bytes = written_bytes


class IdleTimer:
    """Measures for how long a sender has made no progress."""

    __slots__ = ("_counted_bytes", "_progress_at")

    def __init__(self) -> None:
        self._progress_at = 0.0
        self._counted_bytes = 0

    def start(self, at: float) -> None:
        """Count idle time from ``at``, which may be in the future."""
        self._progress_at = at
        self._counted_bytes = 0

    def add_written(self, size_bytes: int, now: float) -> None:
        """Count bytes of the file. Each :data:`PROGRESS_BYTES` of them are progress."""
        self._counted_bytes += size_bytes
        if self._counted_bytes >= PROGRESS_BYTES:
            self._counted_bytes = 0
            self._progress_at = now

    def idle_s(self, now: float) -> float:
        """Return the seconds since the last progress."""
        return max(0.0, now - self._progress_at)


def protocol_violation(detail: str) -> FileRefused:
    """Return the error for a peer that breaks the rules of ``docs/protocol.md`` §5.8."""
    return FileRefused("broken", f"protocol violation: {detail}")
