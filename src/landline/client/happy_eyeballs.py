"""Several attempts, started one after the other; the first success cancels the others (RFC 8305, "Happy Eyeballs")."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

Attempt = Callable[[], Coroutine[Any, Any, bool]]


async def staggered_race(attempts: Sequence[Attempt], stagger_s: float | None) -> bool:
    """Run the attempts until one returns true, and return whether one did.

    An attempt starts when the one before it has failed, and with ``stagger_s`` also when that many seconds have passed;
    then both run concurrently (RFC 8305 §5). After a success the other attempts are cancelled and awaited. An exception
    of an attempt ends the race and is raised. Cancelling cancels all attempts.
    """
    if stagger_s is None or len(attempts) == 1:
        for attempt in attempts:
            if await attempt():
                return True
        return False
    loop = asyncio.get_running_loop()
    waiting = deque(attempts)
    # In the order in which they started, which is also the order in which results are examined.
    running: list[asyncio.Task[bool]] = []
    try:
        while waiting or running:
            if waiting:
                running.append(loop.create_task(waiting.popleft()()))
            done, _ = await asyncio.wait(
                running,
                timeout=stagger_s if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in [task for task in running if task in done]:
                running.remove(task)
                if task.result():
                    return True
        return False
    finally:
        for task in running:
            task.cancel()
        # The race is decided: what the cancelled attempts raise no longer matters.
        await asyncio.gather(*running, return_exceptions=True)
