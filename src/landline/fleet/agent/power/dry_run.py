"""A power back end that is connected to nothing: for trying a fleet out on machines that must stay up."""

from __future__ import annotations

import asyncio

from landline import guarded_logger
from landline.fleet.agent.power import Permit, PowerError, SystemShutdown
from landline.fleet.model import Action, Person

log = guarded_logger(__name__)


class DryRunPower:
    """Accepts every action, logs it and remembers it in :attr:`acted` as ``(action, reason)``; no more.

    ``persons`` are said to be logged on, and stay so.
    """

    name = "dry-run"

    def __init__(self, persons: tuple[Person, ...] = ()) -> None:
        self._persons = persons
        self.acted: list[tuple[Action, str]] = []

    async def open(self) -> None:
        """Does nothing: there is nothing to acquire."""

    async def close(self) -> None:
        """Does nothing: there is nothing to release."""

    async def persons(self) -> tuple[Person, ...]:
        """The persons given at the start."""
        return self._persons

    async def unsupported_reason(self, action: Action) -> str | None:
        """Always ``None``: a dry run can do everything."""
        return None

    async def act(self, action: Action, *, reason: str, permit: Permit) -> None:
        """Log and remember ``action``; never waits. Raise :class:`PermitExpired` when it is too late."""
        permit.check()
        self.acted.append((action, reason))
        log.info("Dry run: the machine would now be %s (%s)", action.past, reason or "no reason given")

    async def wait_for_shutdown(self) -> SystemShutdown:
        """Never return, as nothing is announced here; ends by being cancelled."""
        await asyncio.Event().wait()
        raise AssertionError

    async def release_shutdown(self) -> None:
        """Does nothing: nothing is held up."""

    async def wait_for_cancellation(self) -> None:
        """Never return, as nothing is announced here."""
        await asyncio.Event().wait()

    async def pending_shutdown(self) -> SystemShutdown | None:
        """Raise :class:`PowerError`: this switch is connected to nothing that could tell."""
        raise PowerError("a dry run cannot tell whether the system goes down")
