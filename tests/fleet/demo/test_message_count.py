"""The count of messages: it must find what is lost and what comes twice, or it is worth nothing."""

from __future__ import annotations

import pytest

import landline
from landline import BufferFull, LineClosed
from landline.fleet.demo.message_count import MESSAGE_NAME, MessageCount, SessionCount, compare_counts


class FakeLine:
    session_id = b"\x01\x02"

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.error: Exception | None = None

    def send_nowait(self, value: int, *, name: str) -> None:
        assert name == MESSAGE_NAME
        if self.error is not None:
            raise self.error
        self.sent.append(value)


def run(numbers: list[int], sent: int, unconfirmed: int = 0) -> tuple[int, int, int, int]:
    """One end sends 1..sent, the other receives ``numbers``: sent, received, lost, duplicated."""
    here, there, line = MessageCount(), MessageCount(), FakeLine()
    for _ in range(sent):
        here.send(line)
    for number in numbers:
        there.receive(line, number)
    if unconfirmed:
        here.note_unconfirmed(line, unconfirmed)
    counted = compare_counts(here.sessions, there.sessions)
    assert counted.messages_unconfirmed == unconfirmed
    # Whichever end is named first.
    assert compare_counts(there.sessions, here.sessions) == counted
    return (
        counted.messages_sent,
        counted.messages_received,
        counted.messages_lost,
        counted.messages_duplicated,
    )


@pytest.mark.parametrize(
    ("numbers", "sent", "unconfirmed", "result"),
    [
        ([], 0, 0, (0, 0, 0, 0)),
        ([1, 2, 3], 3, 0, (3, 3, 0, 0)),
        ([1, 3], 3, 0, (3, 2, 1, 0)),  # lost in the middle
        ([2, 3], 3, 0, (3, 2, 1, 0)),  # lost at the beginning
        ([1, 2], 3, 0, (3, 2, 1, 0)),  # lost at the end
        ([], 3, 0, (3, 0, 3, 0)),
        ([1, 2, 2, 3], 3, 0, (3, 3, 0, 1)),  # twice
        ([1, 2, 3, 1, 2, 3], 3, 0, (3, 3, 0, 3)),
        ([1, 1, 3], 3, 0, (3, 2, 1, 1)),  # twice, and one lost
        ([1], 3, 2, (3, 1, 0, 0)),  # not confirmed, and said so
        ([1], 3, 1, (3, 1, 1, 0)),  # ... but not of all
        ([1, 3], 3, 1, (3, 2, 1, 0)),  # a hole is a loss, whatever is said
        ([1, 2, 3], 3, 3, (3, 3, 0, 0)),  # arrived all the same
    ],
)
def test_what_is_counted(
    numbers: list[int], sent: int, unconfirmed: int, result: tuple[int, int, int, int]
) -> None:
    assert run(numbers, sent, unconfirmed) == result


def test_a_message_that_comes_late_is_both() -> None:
    # Order is promised; one that overtakes another is a loss and a repetition.
    assert run([1, 3, 2], 3) == (3, 2, 1, 1)


def test_sessions_are_counted_apart() -> None:
    one = {"a": SessionCount(sent=3, received=1), "b": SessionCount(sent=2)}
    other = {"a": SessionCount(received=3, sent=1), "c": SessionCount(sent=1)}
    counted = compare_counts(one, other)
    # What nobody on the other end ever saw is lost.
    assert (counted.messages_sent, counted.messages_received, counted.messages_lost) == (7, 4, 3)


@pytest.mark.parametrize("error", [LineClosed("gone"), BufferFull("full")])
def test_what_could_not_be_sent_is_not_counted(error: landline.LandlineError) -> None:
    counts, line = MessageCount(), FakeLine()
    counts.send(line)
    line.error = error
    counts.send(line)
    line.error = None
    counts.send(line)
    assert line.sent == [1, 2]
    assert counts.sessions["0102"].sent == 2
