"""Prompts and notices for the person at the machine: a :class:`Prompt` returns an answer, :class:`Notices` do not."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from landline.fleet.model import Action, Person


class Choice(StrEnum):
    """The answer to a question.

    ``TIMED_OUT`` means that the question was shown and the countdown ran out. That is not consent; the caller decides
    whether the action may happen then.
    """

    NOW = "now"
    POSTPONE = "postpone"
    CANCEL = "cancel"
    TIMED_OUT = "timed out"


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question for the person: who requests which action, why, and the time to answer."""

    action: Action
    requested_by: str
    message: str
    countdown_s: float
    may_cancel: bool = True
    may_postpone: bool = True
    postpone_choices_s: tuple[float, ...] = (300.0, 900.0, 3600.0)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The person's choice; ``postpone_s`` is set if it is to postpone."""

    choice: Choice
    postpone_s: float = 0.0
    seat: str = ""
    """Where the question was shown, as in :attr:`Person.seat`: the X display (``:0``) or the terminal (``pts/3``,
    ``tty2``); empty if not known."""


class PromptError(Exception):
    """The question could not be shown; the text is one sentence for the operator."""


class Prompt(Protocol):
    """Shows a question to the person and returns the answer."""

    name: str

    def unavailable_reason(self) -> str | None:
        """Return why no question can be shown at the moment, or ``None`` if it can be tried.

        The reason is a phrase to follow "cannot ask: ", without a full stop. Cheap, and shows nothing.
        """
        ...

    def seat(self) -> str:
        """Return where a question would be shown, as in :attr:`Answer.seat`. Cheap, and shows nothing."""
        ...

    async def ask(self, question: Question) -> Answer:
        """Ask, and return the answer within ``question.countdown_s`` (plus the time to draw).

        Cancelling takes the question off the screen.

        :raises PromptError: if the question cannot be shown; at once if :meth:`unavailable_reason` knows why.
        """
        ...


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A notice for persons who are not asked: what happens, who requested it, why, and when."""

    action: Action
    requested_by: str
    message: str
    due_in_s: float
    may_cancel: bool = False
    """Whether the person may object; a notice takes no answer, so it says whom to contact."""


class Notices(Protocol):
    """Sends notices to persons; :func:`~.notices.send_notices` is the real implementation."""

    async def __call__(self, notice: Notice, persons: Sequence[Person]) -> tuple[str, ...]:
        """Send a notice to ``persons``, and return the ways that worked (``wall``, ``notification to anna``).

        No persons means that it is not known who is logged on: then the notice goes to all who can be reached without a
        name. A way that fails raises nothing. Takes a limited time; cancelling leaves no child process.
        """
        ...
