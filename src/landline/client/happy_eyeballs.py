"""Several attempts, the first of which that succeeds ends the others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

Attempt = Callable[[], Coroutine[Any, Any, bool]]


async def staggered_race(attempts: Sequence[Attempt], stagger_s: float | None) -> bool:
    """Makes the attempts until one returns true, and returns whether one did.

    One begins when the one before it has failed. With ``stagger_s`` it also begins when so many seconds have passed,
    and they go on beside each other (RFC 8305 §5); once one succeeds, the others are cancelled and waited for. What an
    attempt raises ends all and is raised. Cancelling cancels all.
    """
    if stagger_s is None or len(attempts) == 1:
        for attempt in attempts:
            if await attempt():
                return True
        return False
    loop = asyncio.get_running_loop()
    waiting = deque(attempts)
    # In the order of their beginning, in which they are looked at.
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
        # What they raise comes too late: the race is decided.
        await asyncio.gather(*running, return_exceptions=True)
