"""An event loop under virtual time; one for each simulated process."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.node import Node

# What the garbage collector finds, at moments of its own.
_UNTIMELY = ("never retrieved", "was destroyed but it is pending")


class _Numbered:
    """Sets of tasks and futures iterate in the order of these numbers, not of addresses."""

    def __hash__(self) -> int:
        return self.number


class VirtualFuture(_Numbered, asyncio.Future):
    def __init__(self, number: int, **arguments: Any) -> None:
        self.number = number
        super().__init__(**arguments)


class VirtualTask(_Numbered, asyncio.Task):
    def __init__(self, coroutine, number: int, **arguments: Any) -> None:
        self.number = number
        super().__init__(coroutine, **arguments)
        self._log_destroy_pending = False


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs callbacks when its node lets it, and says when it wants to run next."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = 0
        self._tasks: dict[asyncio.Task, None] = {}
        self._is_closed = False

    # For the node.

    def next_due(self) -> float | None:
        """Return when the loop must run next, on the clock of the node; ``None`` for never."""
        if self._ready:
            return self.time()
        while self._timers and self._timers[0][2].cancelled():
            heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def run_once(self) -> None:
        """Run one turn: the callbacks that are ready, and the timers that are due."""
        now = self.time() + 1e-9
        while self._timers and self._timers[0][0] <= now:
            handle = heappop(self._timers)[2]
            if not handle.cancelled():
                self._ready.append(handle)
        events._set_running_loop(self)
        try:
            for _ in range(len(self._ready)):
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
                if self._is_closed:
                    return
        finally:
            events._set_running_loop(None)

    def kill(self) -> None:
        """Kill the process in the middle of its work: none of its callbacks runs any more."""
        self._is_closed = True
        self._ready.clear()
        self._timers.clear()

    def bury(self) -> None:
        """Take apart what a killed process left, so that it has no effect on any other node."""
        self.kill()
        for task in list(self._tasks):
            for _ in range(10):
                try:
                    task.get_coro().close()
                    break
                except RuntimeError:
                    continue  # It awaits something in its `finally`.
                except Exception:  # noqa: BLE001 - the dead do not answer
                    break
        self._tasks.clear()

    # For asyncio and the program.

    def time(self) -> float:
        return self.node.monotonic()

    def call_soon(self, callback, *args, context=None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._is_closed:
            self._ready.append(handle)
            self.node.arm()
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay, callback, *args, context=None) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(self, when, callback, *args, context=None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self._is_closed:
            self._numbers += 1
            heappush(self._timers, (when, self._numbers, handle))
            self.node.arm()
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: cancelled timers are skipped when they are due."""

    def create_future(self) -> asyncio.Future:
        self._numbers += 1
        return VirtualFuture(self._numbers, loop=self)

    def create_task(self, coro, *, name=None, context=None) -> asyncio.Task:
        self._numbers += 1
        task = VirtualTask(coro, self._numbers, loop=self, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task) -> None:
        self._tasks.pop(task, None)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._is_closed

    def is_closed(self) -> bool:
        return self._is_closed

    def call_exception_handler(self, context: dict) -> None:
        message = str(context.get("message"))
        if not self._is_closed and not any(words in message for words in _UNTIMELY):
            self.node.world.fail(f"{self.node.name}: {message}: {context.get('exception')!r}")

    async def create_connection(self, protocol_factory, host, port, **options):
        return await self.node.network.connect(self.node, protocol_factory, host, port)

    async def create_server(self, protocol_factory, host, port, **options):
        return self.node.network.listen(self.node, protocol_factory, host, port)
