"""Bringing an order to the point where it may act: looking who is on, asking, waiting, telling.

What to do is decided in :mod:`landline.fleet.agent.consent`; here it is done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

import msgspec

from landline import guarded_logger
from landline.fleet.agent import consent
from landline.fleet.agent.consent import Act, Ask, Hold, Refuse, Terms
from landline.fleet.agent.prompt import (
    Answer,
    Choice,
    Notice,
    Notices,
    Prompt,
    PromptError,
    Question,
)
from landline.fleet.messages import DEFAULT_COUNTDOWN_S, Order, Postponed
from landline.fleet.model import ExecutionState, Facts, Person

logger = guarded_logger("landline.agent")

LOOK_WAITING_S: Final = 3.0
"""How often an order that waits for a person looks again who is on, and whether somebody can be asked."""
RETRY_FIRST_S: Final = 15.0
RETRY_S_MAX: Final = 600.0
"""When to try again to show a question after it failed; doubled each time, so that a job that is valid for days does
not fill the record."""
REFUSED_LEFT_S_MIN: Final = 15.0
"""How long a question is shown at least after a postponement was refused: time to read that and to answer."""
NOTICES_TIMEOUT_S: Final = 10.0
"""How long sending notices may hold up anything."""


class Record(msgspec.Struct):
    """What goes on record of one order: who was asked, who answered, who was told how."""

    asked: str = ""
    answered_by: str = ""
    notices: str = ""


class _Progress:
    """How far an order is on its way to consent."""

    def __init__(self) -> None:
        self.since: float | None = None
        """See :func:`landline.fleet.agent.consent.countdown_since`."""
        self.said = ""
        """What the operator was told last of why it waits."""
        self.told_at: float | None = None
        """When persons who cannot be asked were told last."""


class Orders(Protocol):
    """What the agent does for the one who asks."""

    async def look(self) -> Facts:
        """Who is on and how they can be asked, as of now."""
        ...

    async def wait_changed(self, timeout_s: float) -> None:
        """Return when :meth:`look` found something else than before, at the latest after ``timeout_s``."""
        ...

    def record_of(self, order: Order) -> Record:
        """What goes on record of this order; told with its next state."""
        ...

    def note_postponed(self, order: Order, detail: str) -> None:
        """The order is put off; the control server knows."""
        ...

    async def report_state(self, order: Order, state: ExecutionState, detail: str = "") -> None:
        """Tell the control server."""
        ...

    async def postpone(self, order: Order, postpone_s: float, detail: str) -> Postponed:
        """Ask the control server for more time."""
        ...


class ConsentProcess:
    """Asks the persons at one machine, one question at a time.

    :param prompt: shows the question; ``None`` where there is no way to ask, ``no_prompt`` says then why.
    :param notices: tells persons who cannot be asked; ``None`` where nothing does.
    """

    def __init__(
        self, orders: Orders, *, prompt: Prompt | None, no_prompt: str, notices: Notices | None
    ) -> None:
        self._orders = orders
        self._prompt = prompt
        self._no_prompt = no_prompt
        self._notices = notices
        self._one_dialog = asyncio.Lock()
        self._seat = ""
        self._failure = ""
        self._retry_at = 0.0
        self._retry_s = RETRY_FIRST_S

    def with_prompt_facts(self, facts: Facts) -> Facts:
        """Return ``facts`` with how a person can be asked now, or why not: also when a question failed just now."""
        if self._prompt is None:
            return msgspec.structs.replace(facts, asks_by="", asking_problem=self._no_prompt)
        problem = self._failure if _now() < self._retry_at else self._prompt.unavailable_reason()
        if problem is not None:
            return msgspec.structs.replace(facts, asks_by="", asking_problem=problem)
        self._seat = self._prompt.seat()
        by = f"{self._prompt.name} on {self._seat}" if self._seat else self._prompt.name
        return msgspec.structs.replace(facts, asks_by=by, asking_problem="")

    async def agree(self, order: Order, terms: Terms) -> Act | None:
        """Wait for the time and the persons. Return why it may act, or ``None`` when it may not.

        Cancelling takes a question off the screen.
        """
        if order.is_postponed and (left_s := terms.due_at - _now()) > 0:
            self._orders.note_postponed(order, f"postponed; asked again in {left_s:.0f} s")
            await asyncio.sleep(left_s)
        progress = _Progress()
        while True:
            facts = await self._orders.look()
            now = _now()
            progress.since = consent.countdown_since(progress.since, facts, now)
            if progress.since is None:
                progress.told_at = None  # What was told was of an earlier countdown.
            match consent.next_step(terms, facts, now, progress.since):
                case Act() as step:
                    return step
                case Refuse() as step:
                    await self._orders.report_state(order, ExecutionState.REFUSED, step.detail)
                    return None
                case Hold() as step:
                    await self._hold(order, step, facts, progress)
                case Ask() as step:
                    if self._one_dialog.locked():
                        async with self._one_dialog:
                            continue  # It may have waited for long: persons come and go.
                    answer = await self._ask(order, step, facts, progress)
                    if answer is None:
                        continue
                    if answer.choice is not Choice.POSTPONE:
                        return await self._settle(order, answer, facts)
                    terms = Terms(due_at=_now(), countdown_s=DEFAULT_COUNTDOWN_S, unasked=terms.unasked)
                    progress.since = None

    async def _hold(self, order: Order, step: Hold, facts: Facts, progress: _Progress) -> None:
        """Wait once: until something changes, or it is time to look again."""
        now = _now()
        wait_s = LOOK_WAITING_S if step.is_asking_impossible else float("inf")
        if step.until is not None:
            wait_s = min(wait_s, step.until - now)
        if step.acts_at is None:
            progress.told_at = None
        else:
            if progress.told_at is not None:
                again_at = consent.next_notice_at(progress.told_at, step.acts_at)
            if progress.told_at is None or (again_at is not None and now >= again_at):
                progress.told_at = now
                await self._tell(order, facts.persons, step.acts_at)
            again_at = consent.next_notice_at(progress.told_at, step.acts_at)
            if again_at is not None:
                wait_s = min(wait_s, again_at - now)
        # That it only waits for its time goes without saying, unless something else was said before.
        if progress.said != step.detail and (step.is_asking_impossible or progress.said):
            progress.said = step.detail
            await self._orders.report_state(order, ExecutionState.WAITING, step.detail)
        await self._orders.wait_changed(max(0.0, wait_s))

    # ConsentProcess.

    async def _ask(self, order: Order, step: Ask, facts: Facts, progress: _Progress) -> Answer | None:
        """Ask until there is an answer that counts; ``None`` when nobody could be asked after all.

        A postponement is arranged with the control server, and waited for, before it is returned.
        """
        assert self._prompt is not None
        asked = consent.asked_persons(facts.persons, self._seat)
        others = [person for person in facts.persons if person not in asked]
        record = self._orders.record_of(order)
        record.asked, record.answered_by = consent.asked_text(asked, self._seat), ""
        progress.said = consent.asking_text(facts, asked, self._seat)
        may_postpone = order.may_postpone
        # Only time with the question on the screen is taken from the person.
        left_s = step.countdown_s
        while True:
            async with self._one_dialog:
                await self._orders.report_state(order, ExecutionState.PROMPTED, progress.said)
                shown_at = _now()
                logger.info("%s: shown by %s, %.0f s to answer", _named(order), facts.asks_by, left_s)
                try:
                    async with self._telling(order, others, shown_at + left_s):
                        answer = await self._show(self._prompt, order, left_s, may_postpone)
                except PromptError as error:
                    self._note_failure(str(error))
                    # The countdown without a question counts from here: what was asked was seen by then.
                    progress.since = shown_at
                    return None
                left_s = max(0.0, left_s - (_now() - shown_at))
            self._retry_at, self._retry_s = 0.0, RETRY_FIRST_S
            if answer.choice is Choice.POSTPONE and may_postpone:
                who = consent.answerer(facts.persons, answer.seat or self._seat)
                record.answered_by = who.full
                detail = f"postponed by {who.name} for {_duration(answer.postpone_s)}"
                reply = await self._orders.postpone(order, answer.postpone_s, detail)
                if reply.granted:
                    progress.said = detail
                    await asyncio.sleep(reply.due_in_s)
                    return answer
                logger.info("%s: cannot be postponed: %s", _named(order), reply.reason)
                may_postpone = False
                left_s = max(left_s, REFUSED_LEFT_S_MIN)
            elif answer.choice is not Choice.POSTPONE and (
                answer.choice is not Choice.CANCEL or order.may_cancel
            ):
                return answer
            # Refused or not allowed: the question is shown again with the time that is left.

    async def _settle(self, order: Order, answer: Answer, facts: Facts) -> Act | None:
        """What an answer means that is no postponement."""
        seat = answer.seat or self._seat
        if answer.choice is Choice.TIMED_OUT:
            return Act(consent.unanswered_text(consent.asked_persons(facts.persons, seat), seat))
        who = consent.answerer(facts.persons, seat)
        self._orders.record_of(order).answered_by = who.full
        if answer.choice is Choice.NOW:
            return Act(f"{who.full} agreed")
        await self._orders.report_state(order, ExecutionState.CANCELLED, f"cancelled by {who.name}")
        return None

    async def _show(self, prompt: Prompt, order: Order, countdown_s: float, may_postpone: bool) -> Answer:
        question = Question(
            action=order.action,
            requested_by=order.requested_by,
            message=order.message,
            countdown_s=countdown_s,
            may_cancel=order.may_cancel,
            may_postpone=may_postpone,
        )
        return await prompt.ask(question)

    def _note_failure(self, problem: str) -> None:
        self._failure = problem.rstrip(".") or "the question could not be shown"
        self._retry_at = _now() + self._retry_s
        logger.warning("nobody could be asked: %s; trying again in %g s", self._failure, self._retry_s)
        self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)

    # Telling.

    @contextlib.asynccontextmanager
    async def _telling(self, order: Order, persons: Sequence[Person], acts_at: float) -> AsyncIterator[None]:
        """Meanwhile, tell persons whom the question does not reach."""
        if not persons or self._notices is None:
            yield
            return
        task = asyncio.get_running_loop().create_task(self._tell_until(order, persons, acts_at))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()

    async def _tell_until(self, order: Order, persons: Sequence[Person], acts_at: float) -> None:
        due_at: float | None = _now()
        while due_at is not None:
            await asyncio.sleep(max(0.0, due_at - _now()))
            told_at = _now()
            await self._tell(order, persons, acts_at)
            due_at = consent.next_notice_at(told_at, acts_at)

    async def _tell(self, order: Order, persons: Sequence[Person], acts_at: float) -> None:
        if self._notices is None:
            return
        notice = Notice(
            action=order.action,
            requested_by=order.requested_by,
            message=order.message,
            due_in_s=max(0.0, acts_at - _now()),
            may_cancel=order.may_cancel,
        )
        try:
            async with asyncio.timeout(NOTICES_TIMEOUT_S):
                ways = await self._notices(notice, persons)
        except TimeoutError:
            logger.warning("%s: telling the persons took longer than %g s", _named(order), NOTICES_TIMEOUT_S)
            return
        logger.info("%s: told by %s", _named(order), ", ".join(ways) or "nothing: no way worked")
        record = self._orders.record_of(order)
        told = [way for way in record.notices.split(", ") if way]
        record.notices = ", ".join(dict.fromkeys((*told, *ways)))


def _named(order: Order) -> str:
    return f"{order.action.value} {order.execution_id}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _now() -> float:
    return asyncio.get_running_loop().time()
