"""Asking and telling the person at the machine: :class:`Prompt` brings back an answer, :class:`Notices` none."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from landline.fleet.model import Action, Person


class Choice(StrEnum):
    """What the person chose.

    ``TIMED_OUT`` is no choice: the question was shown and the countdown ran out without an answer. That is not
    consent; whether the action may happen then is decided by the one who asked.
    """

    NOW = "now"
    POSTPONE = "postpone"
    CANCEL = "cancel"
    TIMED_OUT = "timed out"


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What the person is asked: who asks, what for, and how long there is to answer."""

    action: Action
    requested_by: str
    message: str
    countdown_s: float
    may_cancel: bool = True
    may_postpone: bool = True
    postpone_choices_s: tuple[float, ...] = (300.0, 900.0, 3600.0)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The person's choice; ``postpone_s`` is set when the choice is to postpone."""

    choice: Choice
    postpone_s: float = 0.0
    seat: str = ""
    """Where the question was shown and the key came from, as in :attr:`Person.seat`: the X display (``:0``) or the
    terminal (``pts/3``, ``tty2``); empty where that cannot be told."""


class PromptError(Exception):
    """The person could not be asked; the text is one sentence for the operator."""


class Prompt(Protocol):
    """Shows a question to the person and brings back the answer."""

    name: str

    def unavailable_reason(self) -> str | None:
        """Return why nobody can be asked this way right now, or ``None`` when it can be tried.

        The reason is a phrase to follow "cannot ask: ", without a full stop. Cheap, and shows nothing.
        """
        ...

    def seat(self) -> str:
        """Return where a question would be shown, as in :attr:`Answer.seat`. Cheap, and shows nothing."""
        ...

    async def ask(self, question: Question) -> Answer:
        """Ask, and return the answer within ``question.countdown_s`` (plus the time to draw).

        Cancelling takes the question off the screen. Raises :class:`PromptError` when nobody can be asked, at
        once where :meth:`unavailable_reason` knows why.
        """
        ...


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What persons are told where they are not asked: what happens, who wants it, why, and when."""

    action: Action
    requested_by: str
    message: str
    due_in_s: float
    may_cancel: bool = False
    """Whether the person may object; a notice takes no answer, so it says whom to turn to."""


class Notices(Protocol):
    """Tells persons something and takes no answer; :func:`~.notices.send_notices` is the real one."""

    async def __call__(self, notice: Notice, persons: Sequence[Person]) -> tuple[str, ...]:
        """Tell ``persons``, and return the ways that worked (``wall``, ``notification to anna``).

        No persons means that it is not known who is on: then everybody who can be reached without a name is told.
        Raises nothing for a way that fails. Takes a bounded time; cancelling leaves no child process.
        """
        ...
