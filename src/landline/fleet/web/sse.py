"""Updates as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import msgspec

from landline.fleet.api import Update

KEEP_ALIVE_S: Final = 8.0
"""A comment is sent after this time without an update. Clients may rely on a byte every 10 s."""

KEEP_ALIVE: Final = b": keep-alive\n\n"

_encode = msgspec.json.Encoder().encode


async def event_stream(
    updates: AsyncIterator[Update], *, closing: asyncio.Event, keep_alive_s: float = KEEP_ALIVE_S
) -> AsyncGenerator[bytes, None]:
    """Yield ``updates`` as the bytes of an event stream, until they end or ``closing`` is set.

    Cancelling or closing the stream closes ``updates``. At most one update is buffered for a slow reader; ``updates``
    handles the others. An exception of ``updates`` is raised here.
    """
    slot: asyncio.Queue[Update] = asyncio.Queue(maxsize=1)
    # A task reads the source: a keep-alive must not cancel a pending read, and the source must be closed completely
    # even if this generator is cancelled.
    pump = asyncio.create_task(_pump(updates, slot))
    closed = asyncio.create_task(closing.wait())
    arriving: asyncio.Task[Update] | None = None
    try:
        while True:
            arriving = arriving or asyncio.create_task(slot.get())
            done, _ = await asyncio.wait(
                {arriving, closed, pump}, timeout=keep_alive_s, return_when=asyncio.FIRST_COMPLETED
            )
            if closed in done:
                return
            if arriving in done:
                yield b"data: " + _encode(arriving.result()) + b"\n\n"
                arriving = None
            elif pump in done and slot.empty():
                await pump
                return
            elif not done:
                yield KEEP_ALIVE
    finally:
        pump.cancel()
        closed.cancel()
        if arriving is not None:
            arriving.cancel()


async def _pump(updates: AsyncIterator[Update], slot: asyncio.Queue[Update]) -> None:
    try:
        async for update in updates:
            await slot.put(update)
    finally:
        if isinstance(updates, AsyncGenerator):
            await updates.aclose()
