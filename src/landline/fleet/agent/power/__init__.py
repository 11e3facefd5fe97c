"""The power back end of a machine, behind one interface: :class:`PowerBackend`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from landline.fleet.model import Action, Person


class PowerError(Exception):
    """An action could not be carried out; the text is one sentence for the operator."""


class OutcomeUnknown(PowerError):
    """The system was asked, and what became of it is not known: the action may still happen."""


class PermitExpired(PowerError):
    """The leave to act ended before the call that acts; nothing was done."""


class Permit:
    """Permission to act until a moment: ``ends_at`` on ``clock``, which also counts time in suspend."""

    __slots__ = ("_clock", "_ends_at")

    def __init__(self, ends_at: float, clock: Callable[[], float]) -> None:
        self._ends_at = ends_at
        self._clock = clock

    def check(self) -> float:
        """Return how many seconds are left; call it directly before the call that acts, and after everything slow.

        Raise :class:`PermitExpired` when none are.
        """
        left_s = self._ends_at - self._clock()
        if left_s <= 0:
            raise PermitExpired("nothing was done: the preparations took longer than the leave to act")
        return left_s


class SystemShutdown(msgspec.Struct, frozen=True):
    """The system goes down, whoever asked for it."""

    action: Action | None = None
    """Restart or shut down; ``None`` where the system does not say which."""


class PowerBackend(Protocol):
    """Looks at who is on, and carries out log off, restart and shut down.

    Every method may be cancelled; a cancelled :meth:`act` may or may not have happened.
    """

    name: str
    """As in ``--power``: ``logind``, ``command``, ``simulated`` or ``dry-run``."""

    async def open(self) -> None:
        """Acquires what the switch needs (a bus connection, an inhibitor). Raises :class:`PowerError`."""

    async def close(self) -> None:
        """Releases everything; safe to call twice and before :meth:`open`."""

    async def persons(self) -> tuple[Person, ...]:
        """Who is logged on now. Raises :class:`PowerError` when the system does not answer."""
        ...

    async def unsupported_reason(self, action: Action) -> str | None:
        """Why ``action`` cannot be done here, as one sentence, or ``None`` when it can."""
        ...

    async def act(self, action: Action, *, reason: str, permit: Permit) -> None:
        """Carry out ``action``, and return when the system accepted it.

        Everything slow comes first; ``permit`` is checked directly before each call that acts, and a call that can be
        taken back is given no longer than what is left of it. Raise :class:`PowerError` when the system refused or
        the leave ended (nothing was done), and :class:`OutcomeUnknown` when the answer did not come in time.
        """

    async def wait_for_shutdown(self) -> SystemShutdown:
        """Return when the system announces that it goes down, whoever asked; never, where it cannot tell.

        Raise :class:`PowerError` when it can no longer tell; :meth:`open` may help. The system waits (within its own
        limit) until :meth:`release_shutdown`, so that a goodbye can be sent.
        """
        ...

    async def release_shutdown(self) -> None:
        """Lets the system go on with going down."""

    async def wait_for_cancellation(self) -> None:
        """Return when an announced shutdown was called off, so that the system stays up.

        Raise as :meth:`wait_for_shutdown`.
        """

    async def pending_shutdown(self) -> SystemShutdown | None:
        """Return what the system is doing now: going down, or (``None``) not. Bounded by a second or two.

        For an agent that is told to stop and wants to say why. Raise :class:`PowerError` where that cannot be told.
        """
        ...
