"""Work that finishes although its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class ShieldedTasks:
    """Runs work to its end even if the caller is cancelled meanwhile."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __bool__(self) -> bool:
        """Return whether any work is running."""
        return bool(self._running)

    async def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run ``work`` and return its result. Cancelling stops the waiting, not the work."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def wait(self) -> None:
        """Wait until the running work has finished."""
        if self._running:
            await asyncio.wait(self._running)
