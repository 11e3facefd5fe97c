from __future__ import annotations

import pytest

from landline.fleet.agent.prompt import Answer, Choice, Notice, PromptError, Question
from landline.fleet.agent.prompt.prompt_texts import (
    CHOICES_MAX,
    MESSAGE_CHARACTERS_MAX,
    NAME_CHARACTERS_MAX,
    asked_by,
    at_end,
    cancel_label,
    checked,
    countdown,
    duration,
    notice_body,
    notice_title,
    now_label,
    plain,
    plain_text,
    rough_duration,
    title,
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


def test_rough_duration() -> None:
    assert [rough_duration(seconds) for seconds in (45, 119, 290, 3605)] == [
        "45 seconds",
        "119 seconds",
        "5 minutes",
        "1 hour",
    ]


def notice(**changes: object) -> Notice:
    fields: dict[str, object] = {
        "action": Action.RESTART,
        "requested_by": "ann",
        "message": "Updates",
        "due_in_s": 300.0,
        **changes,
    }
    return Notice(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("action", Action)
def test_every_action_has_words(action: Action) -> None:
    asked = question(action=action)
    texts = [title(asked), now_label(asked), cancel_label(asked), asked_by(asked), at_end(asked)]
    texts += [notice_title(notice(action=action)), notice_body(notice(action=action))]
    assert all(texts)
    # A button that says "cancel" may mean the window or the restart.
    assert not any("cancel" in text.lower() for text in texts)


def test_who_asks() -> None:
    assert asked_by(question()) == "ann asks to restart this computer."
    assert asked_by(question(requested_by="ann@desk")) == "ann@desk asks to restart this computer."
    assert asked_by(question(requested_by="")) == "An administrator asks to restart this computer."
    assert (
        asked_by(question(requested_by="root@vm", action=Action.LOG_OFF))
        == "The administrator (root on vm) asks to log you off."
    )
    assert asked_by(question(requested_by="root")) == (
        "The administrator (root) asks to restart this computer."
    )


def test_what_happens_at_the_end_is_said() -> None:
    assert at_end(question()) == "At 0:00 this computer restarts."
    assert at_end(question(action=Action.LOG_OFF, may_cancel=False)) == "At 0:00 you are logged off."
    assert at_end(question(may_cancel=False, may_postpone=False)) == (
        "At 0:00 this computer restarts. You cannot stop this here."
    )
    assert at_end(question(may_cancel=False, postpone_choices_s=())) == (
        "At 0:00 this computer restarts. You cannot stop this here."
    )


def test_a_notice() -> None:
    assert notice_title(notice()) == "This computer restarts in 5 minutes"
    assert notice_title(notice(action=Action.LOG_OFF, due_in_s=0)) == "You are logged off now"
    assert notice_body(notice()) == "ann asks to restart this computer.\n\nUpdates\n\nSave your work now."
    assert notice_body(notice(message="", may_cancel=True)) == (
        "ann asks to restart this computer.\n\n"
        "Save your work now. If this is a bad time, tell the administrator."
    )


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


def test_a_notice_is_cut_too() -> None:
    shown = plain(notice(requested_by="a\x1b[2J\nb", message="-c \x07" + "y" * 10_000))
    assert shown.requested_by == "a[2J b"
    assert shown.message.startswith("-c y")
    assert len(shown.message) == MESSAGE_CHARACTERS_MAX


def test_an_answer_that_was_not_on_offer_is_refused() -> None:
    cancel = Answer(choice=Choice.CANCEL)
    postpone = Answer(choice=Choice.POSTPONE, postpone_s=300.0)
    assert checked(cancel, question()) is cancel
    assert checked(postpone, question()) is postpone
    with pytest.raises(PromptError, match="not offered"):
        checked(cancel, question(may_cancel=False))
    with pytest.raises(PromptError, match="not offered"):
        checked(postpone, question(may_postpone=False))
    with pytest.raises(PromptError, match="not offered"):
        checked(Answer(choice=Choice.POSTPONE, postpone_s=1e9), question())
