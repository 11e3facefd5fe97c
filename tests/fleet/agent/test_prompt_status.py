"""How a person can be asked at the moment, and what a failed question changes."""

from __future__ import annotations

import logging

import pytest

from landline.fleet.agent.prompt import Answer, Choice, Question
from landline.fleet.agent.prompt_status import PromptStatus
from landline.fleet.agent.timing import AgentTiming
from landline.fleet.model import Facts

FACTS = Facts(name="lab-1")
SLOW = AgentTiming(prompt_retry_first_s=1000.0, prompt_retry_cap_s=3000.0)


class FakePrompt:
    name = "fake"

    def __init__(self, seat: str = ":0") -> None:
        self.problem: str | None = None
        self._seat = seat

    def unavailable_reason(self) -> str | None:
        return self.problem

    def seat(self) -> str:
        return self._seat

    async def ask(self, question: Question) -> Answer:
        return Answer(choice=Choice.NOW)


def asked_by(status: PromptStatus) -> tuple[str, str]:
    facts = status.add_to(FACTS)
    return facts.asks_by, facts.asking_problem


async def test_without_a_prompt_the_reason_is_reported() -> None:
    assert asked_by(PromptStatus(None, "it was started with --prompt none", SLOW)) == (
        "",
        "it was started with --prompt none",
    )


@pytest.mark.parametrize(("seat", "by"), [(":0", "fake on :0"), ("", "fake")])
async def test_the_prompt_is_reported_with_its_seat(seat: str, by: str) -> None:
    status = PromptStatus(FakePrompt(seat), "", SLOW)
    assert asked_by(status) == (by, "")
    assert status.seat == seat


async def test_an_unavailable_prompt_is_reported_with_its_reason() -> None:
    prompt = FakePrompt()
    prompt.problem = "no display"
    assert asked_by(PromptStatus(prompt, "", SLOW)) == ("", "no display")


async def test_a_failed_prompt_is_unavailable_until_it_may_be_tried_again() -> None:
    status = PromptStatus(FakePrompt(), "", SLOW)
    status.note_failure("The window did not appear.")
    assert asked_by(status) == ("", "The window did not appear")
    status.note_success()
    assert asked_by(status) == ("fake on :0", "")
    at_once = PromptStatus(FakePrompt(), "", AgentTiming(prompt_retry_first_s=0.0))
    at_once.note_failure("no display")
    assert asked_by(at_once) == ("fake on :0", "")


async def test_a_failure_without_a_text_has_one() -> None:
    status = PromptStatus(FakePrompt(), "", SLOW)
    status.note_failure("")
    assert asked_by(status) == ("", "the question could not be shown")


async def test_the_pause_doubles_with_each_failure_up_to_the_cap(caplog: pytest.LogCaptureFixture) -> None:
    status = PromptStatus(FakePrompt(), "", SLOW)
    with caplog.at_level(logging.WARNING, "landline.agent"):
        for _ in range(4):
            status.note_failure("no display")
        status.note_success()
        status.note_failure("no display")
    pauses = [record.getMessage().rpartition("again in ")[2] for record in caplog.records]
    assert pauses == ["1000 s", "2000 s", "3000 s", "3000 s", "1000 s"]
