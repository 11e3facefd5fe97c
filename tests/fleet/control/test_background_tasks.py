"""Background work: it is cancelled by stop(), and its exceptions are logged."""

from __future__ import annotations

import asyncio

from landline.fleet.control.background_tasks import BackgroundTasks


async def test_all_that_runs_is_cancelled_and_waited_for() -> None:
    tasks, ended = BackgroundTasks(), []

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(number)

    for number in range(3):
        tasks.start(work(number))
    await asyncio.sleep(0)
    await tasks.stop()
    assert sorted(ended) == [0, 1, 2]
    await tasks.stop()


async def test_exceptions_of_tasks_are_logged(until, caplog) -> None:
    tasks = BackgroundTasks()

    async def fail() -> None:
        raise ZeroDivisionError("unexpected")

    tasks.start(fail())
    await until(lambda: caplog.records)
    [record] = caplog.records
    assert record.message == "a task of the control server failed"
    assert isinstance(record.exc_info[1], ZeroDivisionError)
    await tasks.stop()


async def test_nothing_is_started_after_the_stop() -> None:
    tasks, started = BackgroundTasks(), []

    async def work() -> None:
        started.append(1)

    await tasks.stop()
    tasks.start(work())
    await asyncio.sleep(0)
    assert started == []
