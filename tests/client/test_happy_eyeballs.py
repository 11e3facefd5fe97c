"""Attempts one after the other, or beside each other."""

import asyncio
import gc

import pytest

from landline.client.happy_eyeballs import staggered_race

AT_ONCE_S = 0.001


class Attempts:
    """Attempts that end when told, and what became of them."""

    def __init__(self, count: int) -> None:
        self.log: list[str] = []
        self.results: list[asyncio.Future[bool]] = [
            asyncio.get_running_loop().create_future() for _ in range(count)
        ]

    def all(self):
        return [self._make(number) for number in range(len(self.results))]

    def _make(self, number):
        async def run():
            self.log.append(f"begin {number}")
            try:
                return await self.results[number]
            except asyncio.CancelledError:
                self.log.append(f"cancel {number}")
                raise

        return run


async def test_one_after_the_other_until_one_succeeds():
    attempts = Attempts(3)
    attempts.results[0].set_result(False)
    attempts.results[1].set_result(True)
    assert await staggered_race(attempts.all(), None)
    assert attempts.log == ["begin 0", "begin 1"]


async def test_without_attempts_the_race_fails():
    assert not await staggered_race([], None)
    assert not await staggered_race([], AT_ONCE_S)


@pytest.mark.parametrize("stagger_s", [None, AT_ONCE_S])
async def test_when_all_attempts_fail_the_race_fails(stagger_s):
    attempts = Attempts(3)
    for result in attempts.results:
        result.set_result(False)
    assert not await staggered_race(attempts.all(), stagger_s)
    assert attempts.log == ["begin 0", "begin 1", "begin 2"]


async def test_a_slow_attempt_is_overtaken_and_cancelled(until):
    attempts = Attempts(3)
    racing = asyncio.create_task(staggered_race(attempts.all(), AT_ONCE_S))
    await until(lambda: len(attempts.log) == 3)
    attempts.results[1].set_result(True)
    assert await racing
    assert attempts.log[3:] == ["cancel 0", "cancel 2"]


async def test_a_failure_does_not_wait_for_the_stagger(until):
    attempts = Attempts(2)
    racing = asyncio.create_task(staggered_race(attempts.all(), 3600.0))
    await until(lambda: attempts.log == ["begin 0"])
    attempts.results[0].set_result(False)
    await until(lambda: attempts.log == ["begin 0", "begin 1"])
    attempts.results[1].set_result(True)
    assert await racing


@pytest.mark.parametrize("stagger_s", [None, AT_ONCE_S])
async def test_an_exception_ends_the_race(stagger_s):
    attempts = Attempts(2)
    attempts.results[0].set_exception(RuntimeError("no use"))
    with pytest.raises(RuntimeError, match="no use"):
        await staggered_race(attempts.all(), stagger_s)
    assert attempts.log == ["begin 0"]


async def test_of_two_simultaneous_exceptions_the_first_is_raised(until):
    noise = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context))
    attempts = Attempts(2)
    racing = asyncio.create_task(staggered_race(attempts.all(), AT_ONCE_S))
    await until(lambda: len(attempts.log) == 2)
    attempts.results[0].set_exception(RuntimeError("first"))
    attempts.results[1].set_exception(RuntimeError("second"))
    with pytest.raises(RuntimeError, match="first"):
        await racing
    # What nobody looked at is complained of when it is thrown away.
    del racing
    gc.collect()
    assert noise == []


async def test_cancelling_cancels_all(until):
    attempts = Attempts(2)
    racing = asyncio.create_task(staggered_race(attempts.all(), AT_ONCE_S))
    await until(lambda: len(attempts.log) == 2)
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert attempts.log[2:] == ["cancel 0", "cancel 1"]
