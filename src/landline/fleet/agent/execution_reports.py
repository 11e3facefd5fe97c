"""The executions that an agent holds, and its reports about them to the control server."""

from __future__ import annotations

from typing import Final

import msgspec

import landline
from landline import guarded_logger
from landline.fleet.agent.control_link import ControlLink
from landline.fleet.agent.facts_reporter import FactsReporter, one_line
from landline.fleet.agent.report_limits import bounded
from landline.fleet.messages import Claim, Grant, KnownExecution, Order, Postpone, Postponed, Report
from landline.fleet.model import ExecutionState

logger: Final = guarded_logger("landline.agent")


class ConsentRecord(msgspec.Struct):
    """What is recorded about the consent to one order: who was asked, who answered, who got a notice and how."""

    asked: str = ""
    answered_by: str = ""
    notices: str = ""


class ExecutionReports:
    """Remembers the state of each execution until its end is reported."""

    def __init__(self, link: ControlLink, facts: FactsReporter) -> None:
        self._link = link
        self._facts = facts
        self._records: dict[str, ConsentRecord] = {}
        self._reporting: set[str] = set()
        """Executions with a report that is not answered yet."""
        self.held: dict[str, KnownExecution] = {}
        """Executions whose end is not reported yet, by id; every join reports them."""

    def record_of(self, order: Order) -> ConsentRecord:
        """Return what is recorded about the consent to this order; the next report carries it."""
        return self._records.setdefault(order.execution_id, ConsentRecord())

    def forget_record(self, execution_id: str) -> None:
        """Drop the record of an order that has ended."""
        self._records.pop(execution_id, None)

    def drop(self, execution_id: str) -> None:
        """Forget an execution that needs no report any more."""
        self.held.pop(execution_id, None)

    def note(self, order: Order, state: ExecutionState, detail: str = "") -> KnownExecution:
        """Remember and log a new state without reporting it."""
        record = self._records.get(order.execution_id, ConsentRecord())
        known = KnownExecution(
            order.execution_id,
            state,
            bounded(detail),
            self._facts.current.boot_id,
            is_running=not state.is_final,
            asked=bounded(record.asked),
            answered_by=bounded(record.answered_by),
            notices=bounded(record.notices),
        )
        logger.info(
            "%s %s: %s%s",
            order.action.value,
            order.execution_id,
            state.value,
            f" ({one_line(detail)})" if detail else "",
        )
        self.held[order.execution_id] = known
        return known

    async def report(self, order: Order, state: ExecutionState, detail: str = "") -> None:
        """Remember a new state and report it; return when the control server has recorded it."""
        await self.send(self.note(order, state, detail))

    def is_reporting(self, execution_id: str) -> bool:
        """Whether a report of this execution waits for its answer."""
        return execution_id in self._reporting

    async def send(self, known: KnownExecution) -> None:
        """Report an execution; forget it if that was its end. A report that is lost is repeated by the next join."""
        self._reporting.add(known.id)
        try:
            await self._link.request("report", Report(known), bool)
        except (landline.RequestLost, landline.LineClosed):
            return
        except landline.RequestError as error:
            logger.error("the report on %s was refused: %s", known.id, error)
        finally:
            self._reporting.discard(known.id)
        if known.state.is_final:
            self.drop(known.id)

    async def claim(self, order: Order, detail: str) -> Grant:
        """Ask the control server for permission to act, as often as the answer is lost.

        :param detail: why the order was accepted. The control server records that together with the permission.
        """
        # If the session is lost, the next join reports that the order was accepted.
        known = self.note(order, ExecutionState.ACCEPTED, detail)
        logger.info("%s %s: asking for permission to act", order.action.value, order.execution_id)
        claim = Claim(
            order.execution_id,
            known.boot_id,
            detail=known.detail,
            asked=known.asked,
            answered_by=known.answered_by,
            notices=known.notices,
        )
        grant: Grant = await self._link.request_until_answered("claim", claim, Grant)
        return grant

    async def postpone(self, order: Order, postpone_s: float, detail: str) -> Postponed:
        """Ask the control server to postpone an execution; remember it as postponed if that is granted."""
        answered_by = bounded(self.record_of(order).answered_by)
        body = Postpone(order.execution_id, postpone_s, bounded(detail), answered_by)
        reply: Postponed = await self._link.request_until_answered("postpone", body, Postponed)
        if reply.granted:
            self.note(order, ExecutionState.POSTPONED, detail)
        return reply
