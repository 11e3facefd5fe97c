"""The texts of questions and notices, the same on a terminal, in a window and in a notification. Pure."""

from __future__ import annotations

import math
from typing import Final, TypeVar

import msgspec

from landline.fleet.agent.prompt import Answer, Choice, Notice, PromptError, Question
from landline.fleet.model import Action

NAME_CHARACTERS_MAX: Final = 100
"""Characters shown of the operator's name: one line, two on a small screen."""

MESSAGE_CHARACTERS_MAX: Final = 4000
"""Characters shown of the operator's message: two printed pages."""

CHOICES_MAX: Final = 9
"""Postponements that can be offered: each is chosen by one digit."""

NO_TERMINAL: Final = "no controlling terminal"
"""The reason where the process was not started from a terminal, such as a service."""

SAVE_WORK: Final = "Save your work now."

_AT_END: Final = {
    Action.LOG_OFF: "you are logged off",
    Action.RESTART: "this computer restarts",
    Action.SHUT_DOWN: "this computer shuts down",
    Action.WAKE: "this computer wakes up",
}
_ASKS_TO: Final = {
    Action.LOG_OFF: "asks to log you off",
    Action.RESTART: "asks to restart this computer",
    Action.SHUT_DOWN: "asks to shut down this computer",
    Action.WAKE: "asks to wake this computer",
}

_Shown = TypeVar("_Shown", Question, Notice)


def title(question: Question) -> str:
    """Return what is about to happen: ``This computer is about to restart``."""
    return {
        Action.LOG_OFF: "You are about to be logged off",
        Action.RESTART: "This computer is about to restart",
        Action.SHUT_DOWN: "This computer is about to shut down",
        Action.WAKE: "This computer is about to be woken",
    }[question.action]


def notice_title(notice: Notice) -> str:
    """Return what happens, and when: ``This computer restarts in 5 minutes``."""
    happens = _AT_END[notice.action]
    when = f"in {rough_duration(notice.due_in_s)}" if notice.due_in_s > 0 else "now"
    return f"{happens[0].upper()}{happens[1:]} {when}"


def now_label(question: Question) -> str:
    """Return the label of the button that agrees: ``Restart now``."""
    verb = {
        Action.LOG_OFF: "Log off",
        Action.RESTART: "Restart",
        Action.SHUT_DOWN: "Shut down",
        Action.WAKE: "Wake",
    }[question.action]
    return f"{verb} now"


def cancel_label(question: Question) -> str:
    """Return the label of the button that cancels: ``Do not restart``. It must not be taken for closing the window."""
    return {
        Action.LOG_OFF: "Stay logged on",
        Action.RESTART: "Do not restart",
        Action.SHUT_DOWN: "Do not shut down",
        Action.WAKE: "Do not wake",
    }[question.action]


def asked_by(shown: Question | Notice) -> str:
    """Return who asks for what, as a sentence.

    The command line names the operator as ``user@host``; a person does not understand ``root@vm``.
    """
    user, _, host = shown.requested_by.partition("@")
    if not shown.requested_by:
        who = "An administrator"
    elif user == "root":
        who = f"The administrator (root on {host})" if host else "The administrator (root)"
    else:
        who = shown.requested_by
    return f"{who} {_ASKS_TO[shown.action]}."


def at_end(question: Question) -> str:
    """Return what happens at the end of the countdown, and whether the person can stop it."""
    sentence = f"At 0:00 {_AT_END[question.action]}."
    if can_postpone(question) or question.may_cancel:
        return sentence
    return f"{sentence} You cannot stop this here."


def can_postpone(question: Question) -> bool:
    """Return whether a postponement is offered."""
    return question.may_postpone and bool(question.postpone_choices_s)


def notice_body(notice: Notice) -> str:
    """Return the text of a notice after its title: who, why, and what to do."""
    parts = [asked_by(notice)]
    if notice.message:
        parts.append(notice.message)
    advice = SAVE_WORK
    if notice.may_cancel:
        advice += " If this is a bad time, tell the administrator."
    parts.append(advice)
    return "\n\n".join(parts)


def countdown(seconds: float) -> str:
    """Return the time left as ``4:59``, from an hour on as ``1:00:00``, rounded up to a second."""
    whole = max(0, math.ceil(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def duration(seconds: float) -> str:
    """Return a duration as ``15 minutes`` or ``1 hour``, in the largest unit that needs no fraction."""
    whole = max(1, round(seconds))
    size, unit = next(
        (size, unit) for size, unit in ((3600, "hour"), (60, "minute"), (1, "second")) if whole % size == 0
    )
    return f"{whole // size} {unit}" + ("" if whole == size else "s")


def rough_duration(seconds: float) -> str:
    """Return a duration rounded to seconds below two minutes, otherwise to minutes: ``45 seconds``, ``5 minutes``."""
    return duration(seconds if seconds < 120 else round(seconds / 60) * 60)


def plain(shown: _Shown) -> _Shown:
    """Return the question or notice with texts that are safe to show: no control characters, limited length."""
    clean: _Shown = msgspec.structs.replace(
        shown,
        requested_by=plain_text(shown.requested_by.replace("\n", " "))[:NAME_CHARACTERS_MAX].strip(),
        message=plain_text(shown.message)[:MESSAGE_CHARACTERS_MAX].strip(),
    )
    if isinstance(clean, Question):
        clean = msgspec.structs.replace(clean, postpone_choices_s=clean.postpone_choices_s[:CHOICES_MAX])
    return clean


def plain_text(text: str) -> str:
    """Return only the printable characters and line ends of ``text``.

    Control characters (escape sequences of a terminal) and Unicode's format characters (which turn the reading
    direction) are removed. :func:`landline.safe_text` makes one line instead and leaves a mark for each of them.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    return "".join(character for character in text if character.isprintable() or character == "\n")


def checked(answer: Answer, question: Question) -> Answer:
    """Return ``answer`` if ``question`` allows it. Raise :class:`PromptError` otherwise."""
    match answer.choice:
        case Choice.CANCEL if not question.may_cancel:
            raise PromptError("The prompt answered with a cancellation, which was not offered.")
        case Choice.POSTPONE if (
            not question.may_postpone or answer.postpone_s not in question.postpone_choices_s
        ):
            raise PromptError("The prompt answered with a postponement that was not offered.")
    return answer
