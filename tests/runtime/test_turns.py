"""Turns of the event loop: each who waits is called once, in order, in a later turn, as far as there is time."""

import asyncio
import gc
import weakref

import uvloop

from landline.runtime.turns import TURN_S, Turns, turns_of


class Reader:
    def __init__(self, seen, name, also=lambda: None):
        self.seen, self.name, self.also = seen, name, also

    def read_on(self):
        self.seen.append(self.name)
        self.also()


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def run(self, seconds):
        self.now += seconds


async def until_quiet(turns):
    while turns._waiting or turns._is_armed:
        await asyncio.sleep(0)


async def test_readers_are_called_in_order_and_in_a_later_turn():
    turns, seen = Turns(), []
    for name in "abc":
        turns.wait(Reader(seen, name))
    assert seen == []
    await until_quiet(turns)
    assert seen == ["a", "b", "c"]


async def test_who_waits_again_is_called_in_the_turn_after_the_others():
    turns, seen = Turns(Clock()), []
    first = Reader(seen, "a", lambda: len(seen) < 5 and turns.wait(first))
    turns.wait(first)
    turns.wait(Reader(seen, "b"))
    between = []
    while len(seen) < 5:
        await asyncio.sleep(0)
        between.append(list(seen))
    assert seen == ["a", "b", "a", "a", "a"]
    # The event loop went on between any two turns of the same reader.
    assert [names.count("a") for names in between] == sorted({names.count("a") for names in between})


async def test_a_turn_ends_with_its_time_and_the_rest_goes_on_where_it_ended():
    clock = Clock()
    turns, seen = Turns(clock), []
    for name in "abcd":
        turns.wait(Reader(seen, name, lambda: clock.run(2 * TURN_S)))
    lengths = set()
    while len(seen) < 4:
        before = len(seen)
        await asyncio.sleep(0)
        lengths.add(len(seen) - before)
    assert seen == ["a", "b", "c", "d"]
    assert lengths <= {0, 1}


async def test_all_who_ask_in_one_turn_share_its_time():
    clock = Clock()
    turns = Turns(clock)
    assert turns.has_time()
    clock.run(TURN_S / 2)
    assert turns.has_time()
    clock.run(TURN_S)
    assert not turns.has_time()
    await asyncio.sleep(0)
    assert turns.has_time()


async def test_a_reader_that_fails_is_reported_and_keeps_nobody_waiting():
    turns, seen, reported = Turns(), [], []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reported.append(context["exception"]))

    def fail():
        raise RuntimeError("broken")

    turns.wait(Reader(seen, "a", fail))
    turns.wait(Reader(seen, "b"))
    await until_quiet(turns)
    assert seen == ["a", "b"]
    assert [str(error) for error in reported] == ["broken"]


async def test_a_task_that_pauses_lets_the_loop_go_on_and_may_be_cancelled():
    turns, seen = Turns(), []
    asyncio.get_running_loop().call_soon(seen.append, "the loop")
    await turns.pause()
    seen.append("the task")
    assert seen == ["the loop", "the task"]
    task = asyncio.create_task(turns.pause())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await until_quiet(turns)
    assert task.cancelled()


def test_one_loop_has_one_and_it_goes_with_the_loop():
    for make in (asyncio.new_event_loop, uvloop.new_event_loop):
        loop, clock = make(), Clock()
        turns = turns_of(loop, clock)
        assert turns_of(loop) is turns
        known = weakref.ref(turns)
        loop.close()
        del loop, turns
        gc.collect()
        assert known() is None
