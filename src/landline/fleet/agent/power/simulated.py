"""The power back end of a machine that does not exist."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from landline.fleet.agent.power import Permit, SystemShutdown
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
        self._announced = asyncio.Event()
        self._called_off = asyncio.Event()
        self.terminate: Callable[[], None] | None = None
        """What ends the agent, as the system does last of all when it goes down."""
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

    async def unsupported_reason(self, action: Action) -> str | None:
        """Everything but waking can be done."""
        return "a machine that is on cannot be woken" if action is Action.WAKE else None

    async def act(self, action: Action, *, reason: str, permit: Permit) -> None:
        """Logs off at once; restart and shut down begin at once and are announced."""
        permit.check()
        if action is Action.LOG_OFF:
            self._persons = ()
            if self._logged_off is not None:
                self._logged_off()
        else:
            self.go_down(action)

    def go_down(self, action: Action) -> None:
        """The system begins to go down; a person at the machine may have asked for it."""
        self.going = action
        self._called_off.clear()
        self._announced.set()

    def call_off(self) -> None:
        """Somebody cancels the shutdown, and the machine stays up."""
        self.going = None
        self._announced.clear()
        self._called_off.set()

    async def wait_for_shutdown(self) -> SystemShutdown:
        """Returns when the machine goes down."""
        await self._announced.wait()
        return SystemShutdown(self.going)

    async def release_shutdown(self) -> None:
        """The machine goes on with going down, if it does."""
        if self.going is not None and self.terminate is not None:
            self.terminate()

    async def wait_for_cancellation(self) -> None:
        """Returns when the shutdown was called off."""
        await self._called_off.wait()

    async def pending_shutdown(self) -> SystemShutdown | None:
        """What the machine is doing now."""
        return None if self.going is None else SystemShutdown(self.going)
