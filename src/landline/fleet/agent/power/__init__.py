"""The power switch of a machine, behind one interface: :class:`Power`."""

from __future__ import annotations

from typing import Protocol

from landline.fleet.model import Action, Person


class PowerError(Exception):
    """An action could not be carried out; the text is one sentence for the operator."""


class OutcomeUnknown(PowerError):
    """The system was asked and its answer got lost: the action may still happen."""


class Power(Protocol):
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

    async def refusal(self, action: Action) -> str | None:
        """Why ``action`` cannot be done here, as one sentence, or ``None`` when it can."""
        ...

    async def act(self, action: Action, *, reason: str) -> None:
        """Carries out ``action``. Returns when the system accepted it; raises :class:`PowerError` when it did not."""

    async def wait_going_down(self) -> None:
        """Returns when the system announces that it goes down, whoever asked; never, where it cannot tell.

        Raises :class:`PowerError` when it can no longer tell; :meth:`open` may mend that.

        The system waits (within its own limit) until :meth:`release_going_down`, so that a goodbye can be sent.
        """

    async def release_going_down(self) -> None:
        """Lets the system go on with going down."""
