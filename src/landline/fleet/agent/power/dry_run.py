"""A power back end that only logs: for trying a fleet out on machines that must stay on."""

from __future__ import annotations

import asyncio
from typing import Final

from landline import guarded_logger
from landline.fleet.agent.power import Permit, PowerError, SystemShutdown
from landline.fleet.model import Action, Person

log: Final = guarded_logger(__name__)


class DryRunPower:
    """Accepts every action, logs it, and records it in :attr:`acted` as ``(action, reason)``.

    :param persons: who is reported as logged on; they stay so.
    """

    name = "dry-run"

    def __init__(self, persons: tuple[Person, ...] = ()) -> None:
        self._persons = persons
        self.acted: list[tuple[Action, str]] = []

    async def open(self) -> None:
        """Do nothing: there is nothing to acquire."""

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""

    async def persons(self) -> tuple[Person, ...]:
        """Return the persons given to the constructor."""
        return self._persons

    async def unsupported_reason(self, action: Action) -> str | None:
        """Return ``None``: a dry run supports every action."""
        return None

    async def act(self, action: Action, *, reason: str, permit: Permit) -> None:
        """Log and record ``action``, without waiting. Raise :class:`PermitExpired` if it is too late."""
        permit.check()
        self.acted.append((action, reason))
        log.info("Dry run: the machine would now be %s (%s)", action.past, reason or "no reason given")

    async def wait_for_shutdown(self) -> SystemShutdown:
        """Never return, as nothing is announced; ends by being cancelled."""
        await asyncio.Event().wait()
        raise AssertionError

    async def release_shutdown(self) -> None:
        """Do nothing: no shutdown is delayed."""

    async def wait_for_cancellation(self) -> None:
        """Never return, as nothing is announced."""
        await asyncio.Event().wait()

    async def pending_shutdown(self) -> SystemShutdown | None:
        """Raise :class:`PowerError`: a dry run has no connection to the system."""
        raise PowerError("a dry run cannot tell whether the system is shutting down")
