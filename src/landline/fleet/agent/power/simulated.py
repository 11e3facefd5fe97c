"""The power switch of a machine that does not exist."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from landline.fleet.model import Action, Person


class SimulatedPower:
    """Behaves as a machine's system does: logs its persons off, announces that it goes down, and goes.

    :param persons: who is on when the machine starts.
    :param logged_off: called when everybody was logged off.
    """

    name = "simulated"

    def __init__(
        self, persons: tuple[Person, ...] = (), *, logged_off: Callable[[], None] | None = None
    ) -> None:
        self._persons = persons
        self._logged_off = logged_off
        self._going_down = asyncio.Event()
        self.going: Action | None = None
        """What the machine does next: restart or shut down; ``None`` while it stays on."""

    async def open(self) -> None:
        """Nothing to acquire."""

    async def close(self) -> None:
        """Nothing to release."""

    async def persons(self) -> tuple[Person, ...]:
        """Who is on."""
        return self._persons

    def log_on(self, person: Person) -> None:
        """Somebody sits down at the machine."""
        self._persons = (*self._persons, person)

    async def refusal(self, action: Action) -> str | None:
        """Everything but waking can be done."""
        return "a machine that is on cannot be woken" if action is Action.WAKE else None

    async def act(self, action: Action, *, reason: str) -> None:
        """Logs off at once; restart and shut down begin at once and are announced."""
        if action is Action.LOG_OFF:
            self._persons = ()
            if self._logged_off is not None:
                self._logged_off()
        else:
            self.going = action
            self._going_down.set()

    async def wait_going_down(self) -> None:
        """Returns when the machine goes down."""
        await self._going_down.wait()

    async def release_going_down(self) -> None:
        """The machine goes down by itself."""
