"""Carries out orders: support check, consent, claim, journal, action, outcome.

An order takes these steps, each with its own method of :class:`Executor`:

1. :meth:`~Executor.receive_order` accepts it once; a repetition changes nothing.
2. :meth:`~Executor._carry_out` refuses it where the machine cannot do it, and obtains consent.
3. :meth:`~Executor._begin` waits until no other action runs and the system is not shutting down.
4. :meth:`~Executor._claim` gets the control server's permission, which expires.
5. :meth:`~Executor._act` writes the beginning to the journal, and only then calls the power back end.
6. :meth:`~Executor._wait_for_outcome` waits for what a restart or shutdown shows, and reports the outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import landline
from landline import guarded_logger
from landline.fleet.agent import consent
from landline.fleet.agent.consent_process import ConsentProcess
from landline.fleet.agent.execution_reports import ExecutionReports
from landline.fleet.agent.facts_reporter import FactsReporter, one_line
from landline.fleet.agent.journal import Entry, Journal
from landline.fleet.agent.journal_file import JournalError
from landline.fleet.agent.power import OutcomeUnknown, Permit, PowerBackend, PowerError
from landline.fleet.agent.report_limits import bounded
from landline.fleet.agent.shutdown_watch import RunningOrder, ShutdownState
from landline.fleet.agent.timing import AgentTiming
from landline.fleet.messages import TOO_MANY_ORDERS, KnownExecution, Order
from landline.fleet.model import Action, ExecutionState

logger: Final = guarded_logger("landline.agent")

ORDERS_MAX: Final = 100
"""Jobs that an agent holds at a time, including those whose end is not reported yet. More are refused: a control server
must not fill the machine's memory, and a join reports all of them."""


class Executor:
    """Carries out the orders for one machine, each at most once.

    :param reports: where the state of each execution goes.
    :param boot_clock: a clock in seconds that includes the time in suspend; permits are measured with it.
    :param start: runs a coroutine in a task that ends with the agent.
    :param is_ending: whether the agent is about to say goodbye; the goodbye then names the running order.
    """

    def __init__(
        self,
        *,
        power: PowerBackend,
        journal: Journal,
        facts: FactsReporter,
        reports: ExecutionReports,
        consent_process: ConsentProcess,
        shutdown: ShutdownState,
        boot_clock: Callable[[], float],
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        is_ending: Callable[[], bool],
        timing: AgentTiming,
        orders_max: int = ORDERS_MAX,
    ) -> None:
        self._power = power
        self._journal = journal
        self._facts = facts
        self._reports = reports
        self._consent_process = consent_process
        self._shutdown = shutdown
        self._boot_clock = boot_clock
        self._start = start
        self._is_ending = is_ending
        self._timing = timing
        self._orders_max = orders_max
        self._orders: dict[str, asyncio.Task[None]] = {}
        self._one_action = asyncio.Lock()
        self.acting: RunningOrder | None = None
        """The order whose action has begun."""
        self.accepted: RunningOrder | None = None
        """The restart or shutdown that the system has accepted."""

    # Orders

    def receive_order(self, order: Order) -> None:
        """Accept an order. A repetition, also of an order from before a restart of the agent, is only reported again.

        :raises landline.RequestError: with the code ``TOO_MANY_ORDERS`` if the agent holds too many jobs.
        """
        if (known := self._find(order.execution_id)) is not None:
            if not self._reports.is_reporting(known.id):
                self._start(self._reports.send(known))
            return
        if len(self._reports.held) >= self._orders_max:
            raise landline.RequestError(
                TOO_MANY_ORDERS,
                f"the machine holds {self._orders_max} jobs, and takes more when some are over",
            )
        logger.info(
            "%s %s: received, requested by %s, due in %.0f s, expires in %.0f s",
            order.action.value,
            order.execution_id,
            one_line(order.requested_by) or "an operator",
            order.due_in_s,
            order.expires_in_s,
        )
        self._reports.note(order, ExecutionState.DELIVERED)
        task = self._orders[order.execution_id] = self._start(self._carry_out(order))
        task.add_done_callback(lambda _: self._forget_order(order.execution_id))

    def withdraw(self, execution_id: str) -> bool:
        """Stop an order whose action has not begun. Return whether it was stopped."""
        if self.acting is not None and self.acting.execution_id == execution_id:
            return False
        task = self._orders.get(execution_id)
        if task is None:
            return False
        task.cancel()
        self._reports.drop(execution_id)
        return True

    def _find(self, execution_id: str) -> KnownExecution | None:
        known = self._reports.held.get(execution_id)
        if known is None and (entry := self._journal.find(execution_id)) is not None:
            known = KnownExecution(entry.id, entry.state, entry.detail, entry.boot_id)
        return known

    def _forget_order(self, execution_id: str) -> None:
        self._orders.pop(execution_id, None)
        self._reports.forget_record(execution_id)

    async def _carry_out(self, order: Order) -> None:
        try:
            refusal = await self._power.unsupported_reason(order.action)
        except PowerError as error:
            refusal = str(error)
        if refusal is not None:
            await self._reports.report(order, ExecutionState.REFUSED, refusal)
            return
        terms = consent.terms_of(order, asyncio.get_running_loop().time())
        try:
            while (agreed := await self._consent_process.obtain(order, terms)) is not None:
                if await self._begin(order, agreed):
                    return
        except landline.RequestError as error:
            # The agent does not ask again and does not act: the job expires on the control server.
            logger.error("%s of %s is dropped: %s", order.action.value, order.execution_id, error)
            self._reports.drop(order.execution_id)

    # Action

    async def _begin(self, order: Order, agreed: consent.Act) -> bool:
        """Claim and act when no other action runs. Return False if persons must be asked after all."""
        must_wait = self._one_action.locked() or self._shutdown.is_announced
        if must_wait and not agreed.is_free:
            # The claim would report this too, but only when it is this order's turn.
            await self._reports.report(order, ExecutionState.ACCEPTED, agreed.detail)
        async with self._one_action:
            await self._shutdown.wait_not_announced()
            # Another action may have taken long: a person may have logged on in the meantime.
            if must_wait and agreed.is_free and not (await self._facts.report()).is_free:
                return False
            permit = await self._claim(order, agreed.detail)
            if permit is not None:
                await self._act(order, permit, agreed)
            return True

    async def _claim(self, order: Order, detail: str) -> Permit | None:
        """Return the permit to act, or ``None`` if the control server refuses.

        A permit that expired on its way is useless; the agent then asks again.
        """
        while True:
            asked_at = self._boot_clock()
            grant = await self._reports.claim(order, detail)
            if not grant.granted:
                logger.info(
                    "%s %s: permission to act was refused: %s",
                    order.action.value,
                    order.execution_id,
                    grant.reason,
                )
                self._reports.drop(order.execution_id)
                return None
            if self._boot_clock() <= asked_at + grant.valid_s:
                return Permit(asked_at + grant.valid_s, self._boot_clock)

    async def _act(self, order: Order, permit: Permit, agreed: consent.Act) -> None:
        self.acting = RunningOrder(order.execution_id, order.action)
        # The claim may have waited for the control server, and cannot be taken back. These facts are reported only
        # afterwards: nothing slow may come between reading them and the action.
        facts = await self._facts.read()
        if agreed.is_free and not facts.is_free:
            self.acting = None
            detail = f"nothing was done: no person was logged on, and now {consent.who_is_on(facts)} is"
            await self._reports.report(order, ExecutionState.FAILED, detail)
            await self._facts.report()
            return
        try:
            self._record_in_journal(order, ExecutionState.ACTING)
        except JournalError as error:
            # An action that is not in the journal might happen twice.
            self.acting = None
            await self._reports.report(order, ExecutionState.FAILED, f"nothing was done: {error}")
            return
        self._reports.note(order, ExecutionState.ACTING)
        try:
            permit.check()
            await self._power.act(order.action, reason=order.message, permit=permit)
        except OutcomeUnknown as error:
            await self._wait_for_outcome(order, str(error), self._timing.uncertain_timeout_s)
        except PowerError as error:
            await self._end(order, ExecutionState.FAILED, str(error))
        else:
            await self._finish(order, was_free=facts.is_free)

    async def _finish(self, order: Order, *, was_free: bool) -> None:
        """Report an action that the system accepted: at once where it is done, else when its outcome shows."""
        detail = done_detail(order.action, self._power.name, was_free=was_free)
        if detail is not None:
            await self._end(order, ExecutionState.DONE, detail)
            await self._facts.report()
            return
        self.accepted = self.acting
        timeout_s = self._timing.shutdown_start_timeout_s
        detail = f"the system accepted it and announced nothing in {timeout_s:g} s"
        await self._wait_for_outcome(order, detail, timeout_s)

    # Outcome

    async def _wait_for_outcome(self, order: Order, detail: str, timeout_s: float) -> None:
        """Wait up to ``timeout_s`` for what the system does; if it does nothing, the outcome is unknown.

        :param detail: why the outcome is unknown then.
        """
        if order.action is not Action.LOG_OFF and await self._wait_for_shutdown(order, timeout_s):
            return
        await self._end(order, ExecutionState.UNKNOWN, detail)

    async def _wait_for_shutdown(self, order: Order, timeout_s: float) -> bool:
        """Wait for the shutdown that ends this agent, or for its cancellation. Return False if none is announced.

        A restart or shutdown that happens ends the agent in here: its goodbye and its next join tell the rest. No other
        order begins meanwhile.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._shutdown.wait_announced()
        except TimeoutError:
            return False
        else:
            await self._shutdown.wait_not_announced()
            await self._end(order, ExecutionState.FAILED, "it was called off on the machine")
            return True
        finally:
            if not self._is_ending():
                self.acting = self.accepted = None

    async def _end(self, order: Order, state: ExecutionState, detail: str) -> None:
        """Write the outcome to the journal and report it."""
        self.acting = None
        try:
            self._record_in_journal(order, state, detail)
        except JournalError as error:
            # The journal has the beginning, so the action is not repeated. The outcome is reported below.
            logger.error("%s", error)
        await self._reports.report(order, state, detail)

    def _record_in_journal(self, order: Order, state: ExecutionState, detail: str = "") -> None:
        # The next join reports this detail, so it has the same limit.
        boot_id = self._facts.current.boot_id
        self._journal.record(Entry(order.execution_id, order.action, state, boot_id, bounded(detail)))


def done_detail(action: Action, power_name: str, *, was_free: bool) -> str | None:
    """Return the detail of an action that is done when the back end returns; ``None`` if its outcome shows later.

    :param power_name: :attr:`PowerBackend.name`; a dry run does nothing, so nothing shows later.
    :param was_free: whether no person was logged on.
    """
    if power_name == "dry-run":
        return "dry run: nothing was done"
    if action is Action.LOG_OFF:
        return "no person was logged on" if was_free else ""
    return None
