"""The machine's current facts, and their way to the control server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import msgspec

from landline import guarded_logger
from landline.fleet.agent import consent
from landline.fleet.agent.control_link import ControlLink
from landline.fleet.agent.power import PowerBackend, PowerError
from landline.fleet.agent.prompt_status import PromptStatus
from landline.fleet.agent.report_limits import bounded, persons_to_report
from landline.fleet.model import Facts

logger: Final = guarded_logger("landline.agent")


class FactsReporter:
    """Reads who is logged on and whether they can be asked, and reports changes to the control server.

    :param facts: what does not change while the agent runs; the rest is filled in.
    """

    def __init__(self, facts: Facts, power: PowerBackend, prompt: PromptStatus, link: ControlLink) -> None:
        self._power = power
        self._prompt = prompt
        self._link = link
        self._changed = asyncio.Event()
        self._reported: Facts | None = None
        self.current: Facts = facts
        """The facts as they were read last."""

    async def read(self) -> Facts:
        """Return the facts as of now; log what changed. Report nothing."""
        before = self.current
        facts = self._prompt.add_to(before)
        try:
            persons = await self._power.persons()
        except PowerError as error:
            # An unreadable list is not an empty one: whether a person is logged on is not known.
            facts = msgspec.structs.replace(
                facts,
                persons=(),
                knows_persons=False,
                persons_problem=bounded(str(error).rstrip(".")) or "no reason given",
            )
        else:
            facts = msgspec.structs.replace(
                facts, persons=persons_to_report(persons), knows_persons=True, persons_problem=""
            )
        self.current = facts
        if facts != before:
            self._changed.set()
            self._changed = asyncio.Event()
            _log_changes(before, facts)
        return facts

    async def report(self) -> Facts:
        """Read the facts, send them if they differ from those last reported, and return them."""
        facts = await self.read()
        line = self._link.line
        if facts != self._reported and self._link.joined.is_set() and line is not None:
            self._reported = facts
            await line.send(facts, name="facts")
        return facts

    def note_joined(self, facts: Facts) -> None:
        """Record that the control server knows ``facts`` from a join."""
        if self._reported is None:
            _log_prompt(facts)
        self._reported = facts

    async def wait_changed(self, timeout_s: float) -> None:
        """Return when :meth:`read` finds a change, or after ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()


def one_line(text: str) -> str:
    """Return ``text`` with every run of white space as one space."""
    return " ".join(text.split())


def _log_prompt(facts: Facts) -> None:
    """Log after the first join whether persons can be asked, and what follows if not."""
    if facts.asks_by:
        logger.info("persons at this machine are asked by %s", facts.asks_by)
        return
    logger.warning(
        "persons at this machine cannot be asked: %s; while a person is or may be logged on, jobs wait and then "
        "expire, unless the operator gives --unasked refuse or --unasked act",
        one_line(facts.asking_problem),
    )


def _log_changes(before: Facts, facts: Facts) -> None:
    """Log changes of who is logged on and of how persons can be asked, one line each."""
    if (facts.persons, facts.persons_problem) != (before.persons, before.persons_problem):
        if facts.knows_persons:
            logger.info("logged on: %s", one_line(consent.who_is_on(facts)))
        else:
            logger.warning("cannot tell who is logged on: %s", one_line(facts.persons_problem))
    is_prompt_changed = (facts.asks_by, facts.asking_problem) != (before.asks_by, before.asking_problem)
    if is_prompt_changed and before.says_how_it_asks:
        if facts.asks_by:
            logger.info("persons can be asked again, by %s", facts.asks_by)
        else:
            logger.warning("persons cannot be asked: %s", one_line(facts.asking_problem))
