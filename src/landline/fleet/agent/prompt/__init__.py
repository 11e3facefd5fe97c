"""Asking the person at the machine, behind one interface: :class:`Prompt`."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec

from landline.fleet.model import Action


class Choice(StrEnum):
    """What the person chose. ``TIMED_OUT`` is the countdown running out without an answer, which is consent."""

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


class PromptError(Exception):
    """The person could not be asked; the text is one sentence for the operator."""


class Prompt(Protocol):
    """Shows a question to the person and brings back the answer."""

    name: str

    async def ask(self, question: Question) -> Answer:
        """Asks, and returns the answer within ``question.countdown_s`` (plus the time to draw).

        Cancelling takes the question off the screen. Raises :class:`PromptError` when nobody can be asked.
        """
        ...
