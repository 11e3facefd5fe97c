"""Obtains consent to an order: waits for its time, asks the person, sends notices.

:mod:`landline.fleet.agent.consent` decides what to do; this module does it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from landline import guarded_logger
from landline.fleet.agent import consent
from landline.fleet.agent.consent import Act, Ask, Hold, Refuse, Terms
from landline.fleet.agent.execution_reports import ExecutionReports
from landline.fleet.agent.facts_reporter import FactsReporter
from landline.fleet.agent.prompt import Answer, Choice, Notice, Notices, PromptError, Question
from landline.fleet.agent.prompt_status import PromptStatus
from landline.fleet.agent.timing import AgentTiming
from landline.fleet.messages import Order
from landline.fleet.model import ExecutionState, Facts, Person

logger: Final = guarded_logger("landline.agent")


class _Progress:
    """The state of one order on its way to consent."""

    def __init__(self) -> None:
        self.since: float | None = None
        """See :func:`landline.fleet.agent.consent.countdown_since`."""
        self.reported = ""
        """The last detail that was reported."""
        self.notified_at: float | None = None
        """When persons who cannot be asked got their last notice in this countdown."""


class ConsentProcess:
    """Obtains consent from the persons at one machine, with one question on the screen at a time.

    :param notices: notifies persons who cannot be asked; ``None`` for no notices.
    """

    def __init__(
        self,
        facts: FactsReporter,
        reports: ExecutionReports,
        prompt: PromptStatus,
        notices: Notices | None,
        timing: AgentTiming,
    ) -> None:
        self._facts = facts
        self._reports = reports
        self._prompt = prompt
        self._notices = notices
        self._timing = timing
        self._one_question = asyncio.Lock()

    async def obtain(self, order: Order, terms: Terms) -> Act | None:
        """Wait for the time and the persons. Return why the agent may act, or ``None`` if it may not.

        Cancelling takes a question off the screen.
        """
        if order.is_postponed and (left_s := terms.due_at - _now()) > 0:
            detail = f"postponed; asked again in {left_s:.0f} s"
            self._reports.note(order, ExecutionState.POSTPONED, detail)
            await asyncio.sleep(left_s)
        progress = _Progress()
        while True:
            facts = await self._facts.report()
            now = _now()
            progress.since = consent.countdown_since(progress.since, facts, now)
            if progress.since is None:
                progress.notified_at = None  # Earlier notices belong to an earlier countdown.
            match consent.next_step(terms, facts, now, progress.since):
                case Act() as step:
                    return step
                case Refuse() as step:
                    await self._reports.report(order, ExecutionState.REFUSED, step.detail)
                    return None
                case Hold() as step:
                    await self._hold(order, step, facts, progress)
                case Ask() as step:
                    if self._one_question.locked():
                        async with self._one_question:
                            continue  # This may have taken long: persons come and go.
                    answer = await self._ask(order, step, facts, progress)
                    if answer is None:
                        continue
                    if answer.choice is not Choice.POSTPONE:
                        return await self._settle(order, answer, facts)
                    countdown_s = self._timing.postponed_countdown_s
                    terms = Terms(due_at=_now(), countdown_s=countdown_s, unasked=terms.unasked)
                    progress.since = None

    async def _hold(self, order: Order, step: Hold, facts: Facts, progress: _Progress) -> None:
        """Wait once, until something changes or it is time to check again."""
        now = _now()
        wait_s = self._timing.waiting_poll_s if step.is_asking_impossible else float("inf")
        if step.until is not None:
            wait_s = min(wait_s, step.until - now)
        if step.acts_at is None:
            progress.notified_at = None
        else:
            next_at = await self._notify_when_due(order, step.acts_at, facts, progress, now)
            if next_at is not None:
                wait_s = min(wait_s, next_at - now)
        # An order that only waits for its time is not reported as waiting, unless another reason was reported before.
        if progress.reported != step.detail and (step.is_asking_impossible or progress.reported):
            progress.reported = step.detail
            await self._reports.report(order, ExecutionState.WAITING, step.detail)
        await self._facts.wait_changed(max(0.0, wait_s))

    async def _notify_when_due(
        self, order: Order, acts_at: float, facts: Facts, progress: _Progress, now: float
    ) -> float | None:
        """Send a notice if one is due. Return when the next one is due."""
        last_at = progress.notified_at
        next_at = now if last_at is None else consent.next_notice_at(last_at, acts_at)
        if next_at is not None and now >= next_at:
            last_at = progress.notified_at = now
            await self._notify(order, facts.persons, acts_at)
        assert last_at is not None
        return consent.next_notice_at(last_at, acts_at)

    # Questions

    async def _ask(self, order: Order, step: Ask, facts: Facts, progress: _Progress) -> Answer | None:
        """Ask until there is a valid answer. Return ``None`` if the question could not be shown.

        A postponement is agreed with the control server, and waited for, before it is returned.
        """
        prompt = self._prompt.prompt
        assert prompt is not None
        asked = consent.asked_persons(facts.persons, self._prompt.seat)
        others = [person for person in facts.persons if person not in asked]
        record = self._reports.record_of(order)
        record.asked, record.answered_by = consent.asked_text(asked, self._prompt.seat), ""
        progress.reported = consent.asking_text(facts, asked, self._prompt.seat)
        may_postpone = order.may_postpone
        # The countdown runs only while the question is on the screen.
        left_s = step.countdown_s
        while True:
            async with self._one_question:
                await self._reports.report(order, ExecutionState.PROMPTED, progress.reported)
                shown_at = _now()
                logger.info("%s: shown by %s, %.0f s to answer", _name_of(order), facts.asks_by, left_s)
                try:
                    async with self._notifying(order, others, shown_at + left_s):
                        answer = await prompt.ask(_question_of(order, left_s, may_postpone))
                except PromptError as error:
                    self._prompt.note_failure(str(error))
                    # The countdown without a question begins here: until now the question was on the screen.
                    progress.since = shown_at
                    return None
                left_s = max(0.0, left_s - (_now() - shown_at))
            self._prompt.note_success()
            if answer.choice is Choice.POSTPONE and may_postpone:
                if await self._postpone(order, answer, facts, progress):
                    return answer
                may_postpone = False
                left_s = max(left_s, self._timing.refused_postponement_s)
            elif answer.choice is not Choice.POSTPONE and (
                answer.choice is not Choice.CANCEL or order.may_cancel
            ):
                return answer
            # The answer was refused or is not allowed: the question is shown again with the time that is left.

    async def _postpone(self, order: Order, answer: Answer, facts: Facts, progress: _Progress) -> bool:
        """Ask the control server for a postponement and wait for its end. Return False if it is refused."""
        who = consent.answerer(facts.persons, answer.seat or self._prompt.seat)
        self._reports.record_of(order).answered_by = who.full
        detail = f"postponed by {who.name} for {_duration(answer.postpone_s)}"
        reply = await self._reports.postpone(order, answer.postpone_s, detail)
        if not reply.granted:
            logger.info("%s: cannot be postponed: %s", _name_of(order), reply.reason)
            return False
        progress.reported = detail
        await asyncio.sleep(reply.due_in_s)
        return True

    async def _settle(self, order: Order, answer: Answer, facts: Facts) -> Act | None:
        """Return what an answer other than a postponement permits; report a cancellation."""
        seat = answer.seat or self._prompt.seat
        if answer.choice is Choice.TIMED_OUT:
            return Act(consent.unanswered_text(consent.asked_persons(facts.persons, seat), seat))
        who = consent.answerer(facts.persons, seat)
        self._reports.record_of(order).answered_by = who.full
        if answer.choice is Choice.NOW:
            return Act(f"{who.full} agreed")
        await self._reports.report(order, ExecutionState.CANCELLED, f"cancelled by {who.name}")
        return None

    # Notices

    @contextlib.asynccontextmanager
    async def _notifying(
        self, order: Order, persons: Sequence[Person], acts_at: float
    ) -> AsyncIterator[None]:
        """Send notices to persons whom the question does not reach, while the block runs."""
        if not persons or self._notices is None:
            yield
            return
        task = asyncio.get_running_loop().create_task(self._notify_until(order, persons, acts_at))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()

    async def _notify_until(self, order: Order, persons: Sequence[Person], acts_at: float) -> None:
        due_at: float | None = _now()
        while due_at is not None:
            await asyncio.sleep(max(0.0, due_at - _now()))
            notified_at = _now()
            await self._notify(order, persons, acts_at)
            due_at = consent.next_notice_at(notified_at, acts_at)

    async def _notify(self, order: Order, persons: Sequence[Person], acts_at: float) -> None:
        if self._notices is None:
            return
        notice = Notice(
            action=order.action,
            requested_by=order.requested_by,
            message=order.message,
            due_in_s=max(0.0, acts_at - _now()),
            may_cancel=order.may_cancel,
        )
        timeout_s = self._timing.notices_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                ways = await self._notices(notice, persons)
        except TimeoutError:
            logger.warning("%s: sending notices took longer than %g s", _name_of(order), timeout_s)
            return
        logger.info("%s: notice sent by %s", _name_of(order), ", ".join(ways) or "no way: all failed")
        record = self._reports.record_of(order)
        earlier = [way for way in record.notices.split(", ") if way]
        record.notices = ", ".join(dict.fromkeys((*earlier, *ways)))


def _question_of(order: Order, countdown_s: float, may_postpone: bool) -> Question:
    return Question(
        action=order.action,
        requested_by=order.requested_by,
        message=order.message,
        countdown_s=countdown_s,
        may_cancel=order.may_cancel,
        may_postpone=may_postpone,
    )


def _name_of(order: Order) -> str:
    return f"{order.action.value} {order.execution_id}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _now() -> float:
    return asyncio.get_running_loop().time()
