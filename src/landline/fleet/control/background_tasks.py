"""Work of the control server that nothing waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from landline import guarded_logger

logger: Final = guarded_logger("landline.control")


class BackgroundTasks:
    """Tasks that run until they finish or :meth:`stop` is called. Their exceptions are logged."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._is_stopped = False

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` in a task of its own. After :meth:`stop`, do nothing."""
        if self._is_stopped:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)

    async def stop(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        self._is_stopped = True
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the control server failed", exc_info=error)
