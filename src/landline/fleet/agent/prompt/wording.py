"""The words of a question, the same on a terminal and in a window. Pure."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from landline.fleet.agent.prompt import Answer, Choice, PromptError, Question
from landline.fleet.model import Action

NAME_CHARACTERS_MAX: Final = 100
"""How much of who asks is shown: one line."""

MESSAGE_CHARACTERS_MAX: Final = 4000
"""How much of the operator's message is shown: two printed pages."""

CHOICES_MAX: Final = 9
"""How many times to postpone by can be offered: each is chosen by one digit."""


def title(question: Question) -> str:
    """What is about to happen: ``This machine is about to restart``."""
    return {
        Action.LOG_OFF: "You are about to be logged off",
        Action.RESTART: "This machine is about to restart",
        Action.SHUT_DOWN: "This machine is about to shut down",
        Action.WAKE: "This machine is about to be woken",
    }[question.action]


def verb(question: Question) -> str:
    """What is asked for, as on a button: ``Restart``."""
    return {
        Action.LOG_OFF: "Log off",
        Action.RESTART: "Restart",
        Action.SHUT_DOWN: "Shut down",
        Action.WAKE: "Wake",
    }[question.action]


def asked_by(question: Question) -> str:
    """Who asks, as a sentence."""
    return f"Asked for by {question.requested_by}." if question.requested_by else "Asked for by an operator."


def countdown(seconds: float) -> str:
    """Time left as ``4:59``, or ``1:00:00`` from an hour on; a begun second counts as a whole one."""
    whole = max(0, math.ceil(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def duration(seconds: float) -> str:
    """A span of time as ``15 minutes`` or ``1 hour``, in the largest unit that is not broken."""
    whole = max(1, round(seconds))
    size, unit = next(
        (size, unit) for size, unit in ((3600, "hour"), (60, "minute"), (1, "second")) if whole % size == 0
    )
    return f"{whole // size} {unit}" + ("" if whole == size else "s")


def plain(question: Question) -> Question:
    """The question with its texts made harmless to show: no control characters, no endless lengths."""
    return msgspec.structs.replace(
        question,
        requested_by=plain_text(question.requested_by.replace("\n", " "))[:NAME_CHARACTERS_MAX].strip(),
        message=plain_text(question.message)[:MESSAGE_CHARACTERS_MAX].strip(),
        postpone_choices_s=question.postpone_choices_s[:CHOICES_MAX],
    )


def plain_text(text: str) -> str:
    """``text`` without anything but printable characters and line ends.

    What steers a terminal (escape sequences) or turns the reading direction (Unicode's format characters)
    goes.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    return "".join(character for character in text if character.isprintable() or character == "\n")


def checked(answer: Answer, question: Question) -> Answer:
    """``answer`` when ``question`` allows it; raises :class:`PromptError` otherwise."""
    match answer.choice:
        case Choice.CANCEL if not question.may_cancel:
            raise PromptError("The prompt answered with a cancellation, which was not on offer.")
        case Choice.POSTPONE if (
            not question.may_postpone or answer.postpone_s not in question.postpone_choices_s
        ):
            raise PromptError("The prompt answered with a postponement that was not on offer.")
    return answer
