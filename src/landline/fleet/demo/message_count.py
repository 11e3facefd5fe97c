"""Counting numbered messages on both ends, so that loss and repetition are measured and not assumed."""

from __future__ import annotations

from typing import Any

import msgspec

from landline import BufferFull, Line, LineClosed

MESSAGE_NAME = "demo.count"


class SessionCount(msgspec.Struct):
    """One end's count of one session."""

    sent: int = 0
    received: int = 0
    repeated: int = 0
    skipped: int = 0
    unconfirmed: int = 0
    """Messages the session's end left unconfirmed, as it reported them: each arrived once or not at all."""


class MessageCount:
    """Numbers outgoing messages and checks the numbers of incoming ones, session by session."""

    def __init__(self) -> None:
        self.sessions: dict[str, SessionCount] = {}

    def send(self, line: Line) -> None:
        """Sends the next number, unless the line is over or its buffer is full."""
        tally = self._of(line)
        try:
            line.send_nowait(tally.sent + 1, name=MESSAGE_NAME)
        except (LineClosed, BufferFull):
            return
        tally.sent += 1

    def receive(self, line: Line, number: Any) -> None:
        """Checks a number that arrived: every one must be the one after the last."""
        tally = self._of(line)
        expected = tally.received + tally.skipped + 1
        if number < expected:
            tally.repeated += 1
            return
        tally.skipped += number - expected
        tally.received += 1

    def lose(self, line: Line, messages: int) -> None:
        """Notes what the session's end reported as unconfirmed."""
        self._of(line).unconfirmed += messages

    def _of(self, line: Line) -> SessionCount:
        return self.sessions.setdefault(line.session_id.hex(), SessionCount())


class MessageTotals(msgspec.Struct, frozen=True):
    """What two ends' tallies say together."""

    messages_sent: int
    messages_received: int
    messages_lost: int
    messages_duplicated: int
    messages_unconfirmed: int


def compare_counts(one: dict[str, SessionCount], other: dict[str, SessionCount]) -> MessageTotals:
    """Compares what each end sent with what the other received.

    Lost is what was sent, did not arrive, and was not reported as unconfirmed: a loss nobody was told of.
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
