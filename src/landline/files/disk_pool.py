"""The threads in which files are read, written and hashed: a few for the whole process."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar

from landline.runtime.guarded_log import guarded_logger

logger: Final = guarded_logger("landline")

THREADS: Final = 4
"""Reads, writes and hashes at the same time. The event loop's own threads remain free for name resolution."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="landline-files")


def submit(function: Callable[[], object]) -> Future[object]:
    """Run a function in a thread without waiting for it. An exception is logged.

    The interpreter waits for the function before it exits.
    """
    future = _pool().submit(function)
    future.add_done_callback(_log_failure)
    return future


async def in_thread(
    function: Callable[Arguments, Result], *arguments: Arguments.args, **keywords: Arguments.kwargs
) -> Result:
    """Run a function in a thread and return its result.

    Cancelling does not stop a function that has begun; its exception is then logged.
    """
    with disk_operation(function, *arguments, **keywords) as waiting:
        return await waiting


@contextmanager
def disk_operation(
    function: Callable[Arguments, Result], *arguments: Arguments.args, **keywords: Arguments.kwargs
) -> Iterator[asyncio.Future[Result]]:
    """Run a function in a thread, as :func:`in_thread` does, while the caller waits for its result in its own way."""
    running = _pool().submit(function, *arguments, **keywords)
    waiting = asyncio.wrap_future(running)
    try:
        yield waiting
    except asyncio.CancelledError:
        waiting.cancel()
        running.add_done_callback(_log_failure)
        raise


def _log_failure(future: Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.warning("an abandoned file operation failed: %s", error)
