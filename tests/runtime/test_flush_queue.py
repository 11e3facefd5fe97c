"""The outbox: one turn, one write each, in order, whatever one of them does."""

from __future__ import annotations

import asyncio

import pytest

from landline.runtime.flush_queue import FlushQueue


class Writer:
    def __init__(self, outbox: FlushQueue, written: list[str], name: str, fails: bool = False) -> None:
        self.outbox = outbox
        self.written = written
        self.name = name
        self.fails = fails

    def write_out(self) -> None:
        if self.fails:
            raise ZeroDivisionError
        self.written.append(self.name)


@pytest.fixture
def written() -> list[str]:
    return []


async def test_writers_write_at_the_end_of_the_turn_in_order(written: list[str]) -> None:
    outbox = FlushQueue(asyncio.get_running_loop())
    for name in ("b", "a", "c"):
        outbox.add(Writer(outbox, written, name))
    assert written == []
    await asyncio.sleep(0)
    assert written == ["b", "a", "c"]
    outbox.add(Writer(outbox, written, "d"))
    await asyncio.sleep(0)
    assert written[3:] == ["d"]


async def test_one_that_fails_is_reported_and_keeps_nobody_from_writing(written: list[str]) -> None:
    loop = asyncio.get_running_loop()
    told: list[dict[str, object]] = []
    loop.set_exception_handler(lambda loop, context: told.append(context))
    outbox = FlushQueue(loop)
    failing = Writer(outbox, written, "failing", fails=True)
    outbox.add(failing)
    outbox.add(Writer(outbox, written, "after"))
    await asyncio.sleep(0)
    assert written == ["after"]
    [context] = told
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["line"] is failing


async def test_the_turn_has_one_number_until_it_ends(written: list[str]) -> None:
    outbox = FlushQueue(asyncio.get_running_loop())
    first = outbox.turn()
    assert first > 0
    outbox.add(Writer(outbox, written, "a"))
    assert outbox.turn() == first
    await asyncio.sleep(0)
    assert written == ["a"]
    second = outbox.turn()
    assert second > first
    await asyncio.sleep(0)
    assert outbox.turn() > second
