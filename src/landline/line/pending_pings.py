"""This side's pings that wait for the peer's pong."""

from __future__ import annotations

import asyncio

from landline.errors import LineClosed
from landline.line.interfaces import Driver
from landline.session.events import PongReceived


class PendingPings:
    """The pings of one line that were sent by :meth:`landline.Line.ping` and not answered yet."""

    __slots__ = ("_driver", "_futures")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._futures: dict[int, asyncio.Future[float]] = {}

    async def ping(self, timeout_s: float | None) -> float:
        """See :meth:`landline.Line.ping`."""
        driver = self._driver
        session = driver.live_session() if driver.is_closed else driver.session
        if session is None or not session.is_attached:
            raise LineClosed("the line is not connected now")
        future: asyncio.Future[float] = driver.host.loop.create_future()
        number = session.send_ping(driver.host.wheel.time())
        self._futures[number] = future
        driver.flush_soon()
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            self._futures.pop(number, None)

    def receive_pong(self, event: PongReceived) -> None:
        """Complete the ping, and those before it: the session reports only the pong to the last one."""
        for number, future in self._futures.items():
            if number <= event.number and not future.done():
                future.set_result(event.round_trip_s)

    def fail(self, error: Exception) -> None:
        """Fail all pings: their transport is gone."""
        for future in self._futures.values():
            if not future.done():
                future.set_exception(error)
