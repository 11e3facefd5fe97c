"""Turns of the event loop, shared between connections that have more to say than fits into one.

An event loop reads a connection for as long as there is something to read, so a peer that sends without a pause would
keep all others waiting. Here each connection handles so many frames at once and no more; what is left of what it sent
waits, and so does reading more of it, until the others had their turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol
from weakref import WeakKeyDictionary

FRAMES_PER_STEP: Final = 32
"""Frames handled before the clock is looked at: 0.05 ms, or 3 ms where a handler takes 0.1 ms."""
FRAMES_PER_TURN: Final = 128
"""Frames, or messages, of one connection handled in one turn, however much time there is: 0.1 to 0.3 ms. With less,
going through the event loop would cost more than a tenth of the work."""
TURN_S: Final = 0.004
"""The time in one turn for all connections together that have more than :data:`FRAMES_PER_STEP` frames to say. What a
quiet connection says waits no longer than that, twice: before it is read, and while what was read before is handled."""
LARGE_READ_BYTES: Final = 64 * 1024
"""A read of so many bytes may be followed by the next one at once: libuv reads up to 32 times before it looks at
another connection. So behind such a read the clock is looked at as well."""
HELD_BYTES_MAX: Final = 256 * 1024
"""What is held of a connection that waits for its turn, where it is better to read on for a while: see
:func:`landline.transports.base.pause_reading_if_backlogged`."""


class Reader(Protocol):
    """A connection with more to handle."""

    def read_on(self) -> None:
        """Its turn has come."""


class Turns:
    """Gives waiting readers their turns, in the order in which they came. Belongs to one event loop.

    :param clock: seconds, only ever growing.
    """

    __slots__ = ("__weakref__", "_began", "_clock", "_is_armed", "_waiting", "number")

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._waiting: deque[Reader] = deque()
        self._is_armed = False
        self._began = 0.0
        self.number: int = 0
        """Of turns in which somebody had more to say than a step."""

    def has_time(self) -> bool:
        """Whether one who has handled a step may go on with the next in this turn."""
        if not self._is_armed:
            self._arm()
            return True
        return self._clock() - self._began < TURN_S

    def wait(self, reader: Reader) -> None:
        """Calls the reader in a later turn of the event loop, once."""
        self._waiting.append(reader)
        if not self._is_armed:
            self._arm()

    async def pause(self) -> None:
        """Returns in a later turn of the event loop: for tasks that have done as much as a reader may."""
        sleeper = _Sleeper()
        self.wait(sleeper)
        await sleeper.woken

    def _arm(self) -> None:
        self._is_armed = True
        self._began = self._clock()
        self.number += 1
        asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        """One turn: each who waits now is called, as far as there is time, and one at least."""
        self._is_armed = False
        waiting = self._waiting
        if not waiting:
            return
        self._arm()
        for _ in range(len(waiting)):
            reader = waiting.popleft()
            try:
                reader.read_on()
            except Exception as error:  # noqa: BLE001 - reported; the others must still get their turns
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
    """The turns of an event loop: its transports and all lines share them.

    ``clock`` counts for who asks first; it is another one where time is simulated.
    """
    turns = _of_loops.get(loop)
    if turns is None:
        turns = _of_loops[loop] = Turns(clock)
    return turns
