"""How other tasks end the task of a transfer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from landline.errors import FileRefused

Result = TypeVar("Result")


class StopSwitch:
    """Ends the task of a transfer with the answer to its offer."""

    __slots__ = ("_ended", "_refusal", "_task")

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._refusal: FileRefused | None = None
        self._ended = asyncio.Event()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Await ``work`` and return its result.

        :raises FileRefused: :meth:`stop` was called.
        """
        self._task = asyncio.current_task()
        try:
            return await work
        except asyncio.CancelledError:
            if self._refusal is None:
                raise
            assert self._task is not None
            self._task.uncancel()
            raise self._refusal from None

    def stop(self, refusal: FileRefused) -> bool:
        """Cancel the work; :meth:`run` raises ``refusal``. Return ``False`` if it has ended or was stopped before."""
        if self._task is None or self._refusal is not None or self._ended.is_set():
            return False
        self._refusal = refusal
        self._task.cancel()
        return True

    def set_ended(self) -> None:
        """Report the end of the transfer to the tasks in :meth:`wait_ended`."""
        self._ended.set()

    async def wait_ended(self) -> None:
        """Wait until the transfer has ended; a thread may still be closing its file."""
        await self._ended.wait()
