"""Whether a person can be asked at the moment."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from landline import guarded_logger
from landline.fleet.agent.prompt import Prompt
from landline.fleet.agent.timing import AgentTiming
from landline.fleet.model import Facts

logger: Final = guarded_logger("landline.agent")


class PromptStatus:
    """A prompt with its recent failures.

    :param prompt: shows a question; ``None`` where persons cannot be asked.
    :param no_prompt: why there is no prompt.
    """

    def __init__(self, prompt: Prompt | None, no_prompt: str, timing: AgentTiming) -> None:
        self.prompt = prompt
        self.seat: str = ""
        """The display or terminal of the prompt, as of the last :meth:`add_to`."""
        self._no_prompt = no_prompt
        self._retry_first_s = timing.prompt_retry_first_s
        self._retry_cap_s = timing.prompt_retry_cap_s
        self._failure = ""
        self._retry_at = 0.0
        self._retry_s = self._retry_first_s

    def add_to(self, facts: Facts) -> Facts:
        """Return ``facts`` with how a person can be asked now, or why not.

        A prompt that failed counts as unavailable until it may be tried again.
        """
        if self.prompt is None:
            return msgspec.structs.replace(facts, asks_by="", asking_problem=self._no_prompt)
        is_failed = asyncio.get_running_loop().time() < self._retry_at
        problem = self._failure if is_failed else self.prompt.unavailable_reason()
        if problem is not None:
            return msgspec.structs.replace(facts, asks_by="", asking_problem=problem)
        self.seat = self.prompt.seat()
        by = f"{self.prompt.name} on {self.seat}" if self.seat else self.prompt.name
        return msgspec.structs.replace(facts, asks_by=by, asking_problem="")

    def note_failure(self, problem: str) -> None:
        """Record that a question could not be shown; the next attempt waits, twice as long after each failure."""
        self._failure = problem.rstrip(".") or "the question could not be shown"
        self._retry_at = asyncio.get_running_loop().time() + self._retry_s
        logger.warning(
            "a question could not be shown: %s; trying again in %g s", self._failure, self._retry_s
        )
        self._retry_s = min(2 * self._retry_s, self._retry_cap_s)

    def note_success(self) -> None:
        """Record that a question was shown: earlier failures no longer count."""
        self._retry_at, self._retry_s = 0.0, self._retry_first_s
