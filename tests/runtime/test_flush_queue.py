"""The flush queue: one turn, one write each, in order, whatever one of them does."""

from __future__ import annotations

import asyncio

import pytest

from landline.runtime.flush_queue import FlushQueue


class Writer:
    def __init__(self, flush_queue: FlushQueue, written: list[str], name: str, fails: bool = False) -> None:
        self.flush_queue = flush_queue
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
    flush_queue = FlushQueue(asyncio.get_running_loop())
    for name in ("b", "a", "c"):
        flush_queue.add(Writer(flush_queue, written, name))
    assert written == []
    await asyncio.sleep(0)
    assert written == ["b", "a", "c"]
    flush_queue.add(Writer(flush_queue, written, "d"))
    await asyncio.sleep(0)
    assert written[3:] == ["d"]


async def test_one_that_fails_is_reported_and_keeps_nobody_from_writing(written: list[str]) -> None:
    loop = asyncio.get_running_loop()
    told: list[dict[str, object]] = []
    loop.set_exception_handler(lambda loop, context: told.append(context))
    flush_queue = FlushQueue(loop)
    failing = Writer(flush_queue, written, "failing", fails=True)
    flush_queue.add(failing)
    flush_queue.add(Writer(flush_queue, written, "after"))
    await asyncio.sleep(0)
    assert written == ["after"]
    [context] = told
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["line"] is failing


async def test_the_turn_has_one_number_until_it_ends(written: list[str]) -> None:
    flush_queue = FlushQueue(asyncio.get_running_loop())
    first = flush_queue.turn()
    assert first > 0
    flush_queue.add(Writer(flush_queue, written, "a"))
    assert flush_queue.turn() == first
    await asyncio.sleep(0)
    assert written == ["a"]
    second = flush_queue.turn()
    assert second > first
    await asyncio.sleep(0)
    assert flush_queue.turn() > second
