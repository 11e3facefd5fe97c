"""Counts numbered messages at both ends, so that loss and duplication are measured, not assumed."""

from __future__ import annotations

from typing import Any

import msgspec

from landline import BufferFull, Line, LineClosed

MESSAGE_NAME = "demo.count"


class SessionCount(msgspec.Struct):
    """The counts of one end of one session."""

    sent: int = 0
    received: int = 0
    repeated: int = 0
    skipped: int = 0
    unconfirmed: int = 0
    """Messages that the end of the session reported as unconfirmed: each arrived once or not at all."""


class MessageCount:
    """Numbers outgoing messages and checks the numbers of incoming ones, per session."""

    def __init__(self) -> None:
        self.sessions: dict[str, SessionCount] = {}

    def send(self, line: Line) -> None:
        """Send the next number, unless the line is closed or its buffer is full."""
        counts = self._of(line)
        try:
            line.send_nowait(counts.sent + 1, name=MESSAGE_NAME)
        except (LineClosed, BufferFull):
            return
        counts.sent += 1

    def receive(self, line: Line, number: Any) -> None:
        """Check a number that arrived: each must follow the one before."""
        counts = self._of(line)
        expected = counts.received + counts.skipped + 1
        if number < expected:
            counts.repeated += 1
            return
        counts.skipped += number - expected
        counts.received += 1

    def note_unconfirmed(self, line: Line, messages: int) -> None:
        """Count messages that the end of the session reported as unconfirmed."""
        self._of(line).unconfirmed += messages

    def _of(self, line: Line) -> SessionCount:
        return self.sessions.setdefault(line.session_id.hex(), SessionCount())


class MessageTotals(msgspec.Struct, frozen=True):
    """The combined counts of two ends."""

    messages_sent: int
    messages_received: int
    messages_lost: int
    messages_duplicated: int
    messages_unconfirmed: int


def compare_counts(one: dict[str, SessionCount], other: dict[str, SessionCount]) -> MessageTotals:
    """Compare what each end sent with what the other received.

    A message counts as lost if it was sent, did not arrive, and was not reported as unconfirmed.
    """
    sent = received = lost = duplicated = unconfirmed = 0
    empty = SessionCount()
    for session in sorted({*one, *other}):
        left, right = one.get(session, empty), other.get(session, empty)
        for sender, receiver in ((left, right), (right, left)):
            sent += sender.sent
            received += receiver.received
            duplicated += receiver.repeated
            unconfirmed += sender.unconfirmed
            lost += max(receiver.skipped, sender.sent - receiver.received - sender.unconfirmed)
    return MessageTotals(sent, received, lost, duplicated, unconfirmed)
