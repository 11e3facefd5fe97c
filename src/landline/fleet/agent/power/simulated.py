"""The power back end of a machine that does not exist: for simulations and the demo."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from landline.fleet.agent.power import Permit, SystemShutdown
from landline.fleet.model import Action, Person


class SimulatedPower:
    """Behaves like a machine's system: logs persons off, announces a shutdown, and then ends the agent.

    :param persons: who is logged on when the machine starts.
    :param logged_off: called after all persons were logged off.
    """

    name = "simulated"

    def __init__(
        self, persons: tuple[Person, ...] = (), *, logged_off: Callable[[], None] | None = None
    ) -> None:
        self._persons = persons
        self._logged_off = logged_off
        self._announced = asyncio.Event()
        self._cancelled = asyncio.Event()
        self.terminate: Callable[[], None] | None = None
        """Ends the agent, as a system does at the end of its shutdown."""
        self.going: Action | None = None
        """The shutdown in progress: restart or shut down; ``None`` while the machine stays on."""

    async def open(self) -> None:
        """Do nothing: there is nothing to acquire."""

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""

    async def persons(self) -> tuple[Person, ...]:
        """Return who is logged on."""
        return self._persons

    def log_on(self, person: Person) -> None:
        """Log a person on."""
        self._persons = (*self._persons, person)

    async def unsupported_reason(self, action: Action) -> str | None:
        """Return ``None`` for every action but waking."""
        return "a machine that is on cannot be woken" if action is Action.WAKE else None

    async def act(self, action: Action, *, reason: str, permit: Permit) -> None:
        """Log all persons off, or begin and announce a restart or shutdown; at once."""
        permit.check()
        if action is Action.LOG_OFF:
            self._persons = ()
            if self._logged_off is not None:
                self._logged_off()
        else:
            self.go_down(action)

    def go_down(self, action: Action) -> None:
        """Begin a restart or shutdown, as a person at the machine might."""
        self.going = action
        self._cancelled.clear()
        self._announced.set()

    def call_off(self) -> None:
        """Cancel the shutdown; the machine stays on."""
        self.going = None
        self._announced.clear()
        self._cancelled.set()

    async def wait_for_shutdown(self) -> SystemShutdown:
        """Return when the machine shuts down."""
        await self._announced.wait()
        return SystemShutdown(self.going)

    async def release_shutdown(self) -> None:
        """Let the shutdown continue, which ends the agent."""
        if self.going is not None and self.terminate is not None:
            self.terminate()

    async def wait_for_cancellation(self) -> None:
        """Return when the shutdown was cancelled."""
        await self._cancelled.wait()

    async def pending_shutdown(self) -> SystemShutdown | None:
        """Return the shutdown in progress, or ``None``."""
        return None if self.going is None else SystemShutdown(self.going)
