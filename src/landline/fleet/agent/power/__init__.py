"""Power back ends: one module per way to log off, restart and shut down a machine.

A back end implements :class:`PowerBackend`; ``landline agent --power`` chooses one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from landline.fleet.model import Action, Person


class PowerError(Exception):
    """An action could not be carried out; the text is one sentence for the operator."""


class OutcomeUnknown(PowerError):
    """The system was asked, but its answer is not known: the action may still happen."""


class PermitExpired(PowerError):
    """The permit expired before the call that acts; nothing was done."""


class Permit:
    """Permission of the control server to act until ``ends_at`` on ``clock``, which includes time in suspend."""

    __slots__ = ("_clock", "_ends_at")

    def __init__(self, ends_at: float, clock: Callable[[], float]) -> None:
        self._ends_at = ends_at
        self._clock = clock

    def check(self) -> float:
        """Return the seconds left. Call this directly before the call that acts, and after everything slow.

        :raises PermitExpired: if no time is left.
        """
        left_s = self._ends_at - self._clock()
        if left_s <= 0:
            raise PermitExpired("nothing was done: the permission to act expired during the preparations")
        return left_s


class SystemShutdown(msgspec.Struct, frozen=True):
    """The system is shutting down or restarting, whether a job or a person caused it."""

    action: Action | None = None
    """Restart or shut down; ``None`` if the system does not tell which."""


class PowerBackend(Protocol):
    """Lists who is logged on, and carries out log off, restart and shut down.

    Every method may be cancelled; an action whose :meth:`act` was cancelled may or may not have happened.
    """

    name: str
    """The name in ``--power``: ``logind``, ``command``, ``simulated`` or ``dry-run``."""

    async def open(self) -> None:
        """Acquire what the back end needs (a bus connection, a delay lock). Raise :class:`PowerError`."""

    async def close(self) -> None:
        """Release everything. Idempotent, also before :meth:`open`."""

    async def persons(self) -> tuple[Person, ...]:
        """Return who is logged on now. Raise :class:`PowerError` if the system does not answer."""
        ...

    async def unsupported_reason(self, action: Action) -> str | None:
        """Return why ``action`` cannot be done here, as one sentence, or ``None`` if it can."""
        ...

    async def act(self, action: Action, *, reason: str, permit: Permit) -> None:
        """Carry out ``action``, and return when the system has accepted it.

        Everything slow comes first. The permit is checked directly before each call that acts, and a call that can be
        taken back gets no more time than the permit has left.

        :param reason: the operator's message.
        :raises PowerError: if the system refused, or the permit expired; nothing was done.
        :raises OutcomeUnknown: if the answer did not come in time.
        """

    async def wait_for_shutdown(self) -> SystemShutdown:
        """Return when the system announces a shutdown or restart; never, if it cannot announce one.

        The system waits (within its own limit) until :meth:`release_shutdown`, so that a goodbye can be sent.

        :raises PowerError: if announcements can no longer arrive; :meth:`open` may help.
        """
        ...

    async def release_shutdown(self) -> None:
        """Stop delaying an announced shutdown."""

    async def wait_for_cancellation(self) -> None:
        """Return when an announced shutdown was cancelled. Raise as :meth:`wait_for_shutdown`."""

    async def pending_shutdown(self) -> SystemShutdown | None:
        """Return the shutdown that is in progress, or ``None``. Takes a second or two at most.

        For an agent that is being stopped and reports why. Raise :class:`PowerError` if the system does not tell.
        """
        ...
