"""Shares the event loop fairly between connections that receive more than one turn can handle.

An event loop reads a connection as long as there is something to read, so a peer that sends without a pause would keep
all others waiting. Here each connection handles a limited number of frames per turn. The rest of its data waits, and no
more is read from it, until the other connections had their turns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol
from weakref import WeakKeyDictionary

FRAMES_PER_STEP: Final = 32
"""Frames handled between two looks at the clock: 0.05 ms, or 3 ms if a handler takes 0.1 ms."""
FRAMES_PER_TURN: Final = 128
"""The maximum number of frames, or messages, of one connection in one turn: 0.1 to 0.3 ms. With fewer, the event loop
itself would cost more than a tenth of the work."""
TURN_S: Final = 0.004
"""The time in one turn for all connections that have more than :data:`FRAMES_PER_STEP` frames. Data of a quiet
connection waits twice this long at most: before it is read, and while data that was read earlier is handled."""
LARGE_READ_BYTES: Final = 64 * 1024
"""After a read of this size, the next one may follow at once: libuv reads up to 32 times before it turns to another
connection. Therefore the clock is also checked after such a read."""
HELD_BYTES_MAX: Final = 256 * 1024
"""The maximum of the data held for a connection that waits for its turn while reading continues: see
:func:`landline.transports.base.pause_reading_if_backlogged`."""


class Reader(Protocol):
    """A connection with more data to handle."""

    def read_on(self) -> None:
        """Handle more: the turn has come."""


class Turns:
    """Gives waiting readers their turns, first come, first served. Belongs to one event loop.

    :param clock: monotonic time in seconds.
    """

    __slots__ = ("__weakref__", "_began", "_clock", "_is_armed", "_waiting", "number")

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._waiting: deque[Reader] = deque()
        self._is_armed = False
        self._began = 0.0
        self.number: int = 0
        """The number of turns in which a connection had more than one step to handle."""

    def has_time(self) -> bool:
        """Return whether a reader that has handled a step may handle the next one in this turn."""
        if not self._is_armed:
            self._arm()
            return True
        return self._clock() - self._began < TURN_S

    def wait(self, reader: Reader) -> None:
        """Call the reader once, in a later turn of the event loop."""
        self._waiting.append(reader)
        if not self._is_armed:
            self._arm()

    async def pause(self) -> None:
        """Return in a later turn of the event loop: for tasks that have done as much as a reader may."""
        sleeper = _Sleeper()
        self.wait(sleeper)
        await sleeper.woken

    def _arm(self) -> None:
        self._is_armed = True
        self._began = self._clock()
        self.number += 1
        asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        """Call the readers that wait now, while there is time, and at least one."""
        self._is_armed = False
        waiting = self._waiting
        if not waiting:
            return
        self._arm()
        for _ in range(len(waiting)):
            reader = waiting.popleft()
            try:
                reader.read_on()
            except Exception as error:  # noqa: BLE001 - reported; the other readers must still get their turns
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a connection could not be read", "exception": error, "reader": reader}
                )
            if self._clock() - self._began >= TURN_S:
                return


class _Sleeper:
    def __init__(self) -> None:
        self.woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def read_on(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turns_of(loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = monotonic) -> Turns:
    """Return the turns of an event loop, which its transports and lines share.

    :param clock: used by the first call for a loop; simulations pass their own.
    """
    turns = _of_loops.get(loop)
    if turns is None:
        turns = _of_loops[loop] = Turns(clock)
    return turns
