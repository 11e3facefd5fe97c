from __future__ import annotations

import pytest

from landline.fleet.agent.prompt import Answer, Choice, PromptError, Question
from landline.fleet.agent.prompt.wording import (
    CHOICES_MAX,
    MESSAGE_CHARACTERS_MAX,
    NAME_CHARACTERS_MAX,
    asked_by,
    checked,
    countdown,
    duration,
    plain,
    plain_text,
    title,
    verb,
)
from landline.fleet.model import Action


def question(**changes: object) -> Question:
    fields: dict[str, object] = {
        "action": Action.RESTART,
        "requested_by": "ann",
        "message": "Updates",
        "countdown_s": 60.0,
        **changes,
    }
    return Question(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0:00"),
        (0, "0:00"),
        (0.1, "0:01"),
        (59.2, "1:00"),
        (299, "4:59"),
        (3600, "1:00:00"),
        (7325, "2:02:05"),
    ],
)
def test_countdown(seconds: float, text: str) -> None:
    assert countdown(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 second"),
        (45, "45 seconds"),
        (60, "1 minute"),
        (90, "90 seconds"),
        (300, "5 minutes"),
        (3600, "1 hour"),
        (5400, "90 minutes"),
        (7200, "2 hours"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_every_action_has_words() -> None:
    for action in Action:
        assert title(question(action=action))
        assert verb(question(action=action))
    assert asked_by(question()) == "Asked for by ann."
    assert asked_by(question(requested_by="")) == "Asked for by an operator."


def test_what_steers_a_terminal_or_turns_text_around_goes() -> None:
    assert plain_text("a\x1b[31mb\x07c\r\nd\re\tf\u202eg\x9bh\x00") == "a[31mbc\nd\ne fgh"
    assert plain_text("Grüße, 東京, 🙂") == "Grüße, 東京, 🙂"


def test_a_question_is_cut_to_what_can_be_shown() -> None:
    shown = plain(
        question(
            requested_by="ann\nroot" + "x" * 500,
            message="y" * 10_000,
            postpone_choices_s=tuple(float(n) for n in range(1, 30)),
        )
    )
    assert shown.requested_by.startswith("ann root")
    assert len(shown.requested_by) == NAME_CHARACTERS_MAX
    assert len(shown.message) == MESSAGE_CHARACTERS_MAX
    assert len(shown.postpone_choices_s) == CHOICES_MAX


def test_an_answer_that_was_not_on_offer_is_refused() -> None:
    cancel = Answer(choice=Choice.CANCEL)
    postpone = Answer(choice=Choice.POSTPONE, postpone_s=300.0)
    assert checked(cancel, question()) is cancel
    assert checked(postpone, question()) is postpone
    with pytest.raises(PromptError, match="not on offer"):
        checked(cancel, question(may_cancel=False))
    with pytest.raises(PromptError, match="not on offer"):
        checked(postpone, question(may_postpone=False))
    with pytest.raises(PromptError, match="not on offer"):
        checked(Answer(choice=Choice.POSTPONE, postpone_s=1e9), question())
