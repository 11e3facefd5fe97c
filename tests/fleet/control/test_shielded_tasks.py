"""Work that finishes although its caller is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from landline.fleet.control.shielded_tasks import ShieldedTasks


async def test_work_finishes_although_its_caller_is_cancelled() -> None:
    tasks, may_finish, finished = ShieldedTasks(), asyncio.Event(), []

    async def work() -> None:
        await may_finish.wait()
        finished.append(1)

    caller = asyncio.create_task(tasks.run(work()))
    await asyncio.sleep(0)
    assert tasks
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    waiting = asyncio.create_task(tasks.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    may_finish.set()
    await waiting
    assert finished == [1]
    assert not tasks
    # There is nothing to wait for any more.
    await tasks.wait()


async def test_the_result_and_the_exception_reach_the_caller() -> None:
    async def succeed() -> str:
        return "done"

    async def fail() -> None:
        raise ZeroDivisionError("unexpected")

    tasks = ShieldedTasks()
    assert await tasks.run(succeed()) == "done"
    with pytest.raises(ZeroDivisionError):
        await tasks.run(fail())
