"""The agent: keeps a line to the control server, asks the person, acts, and says how it went."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

import landline
from landline import Backoff, ClientAuth, Line, LineState, StateChange, guarded_logger
from landline.fleet.agent import consent
from landline.fleet.agent.boot_id import BootRecord
from landline.fleet.agent.consent_process import ConsentProcess, Record
from landline.fleet.agent.journal import Entry, Journal
from landline.fleet.agent.journal_file import JournalError
from landline.fleet.agent.power import OutcomeUnknown, Permit, PowerBackend, PowerError
from landline.fleet.agent.prompt import Notices, Prompt
from landline.fleet.agent.report_limits import executions_to_report, persons_to_report
from landline.fleet.agent.shutdown_watch import GOODBYE_TIMEOUT_S, ShutdownWatcher
from landline.fleet.messages import (
    CLONED_IDENTITY,
    MESSAGE_BYTES_MAX,
    NOT_JOINED,
    STORAGE_FAILED,
    TOO_MANY_ORDERS,
    WINDOW_BYTES,
    Claim,
    Goodbye,
    Grant,
    Join,
    Joined,
    KnownExecution,
    Order,
    Postpone,
    Postponed,
    Report,
    Withdraw,
)
from landline.fleet.model import Action, Cause, ExecutionState, Facts

logger = guarded_logger("landline.agent")

BOOT_RECORD_EVERY_S: Final = 60.0
"""How often the agent remembers how long the machine is up. A restart before the first time may not be proven."""
PERSONS_EVERY_S: Final = 15.0
"""How often the agent looks who is on."""
GOING_DOWN_S_MAX: Final = 120.0
"""How long nothing else begins after the system took an order to restart or shut down and announced nothing. Then the
outcome is unknown, as always with the power back end ``command``, which announces nothing: the next boot settles it."""
UNCERTAIN_S_MAX: Final = 20.0
"""How long a restart or shutdown whose answer got lost may still show itself before its outcome is called unknown."""
CONTROL_RETRY_S: Final = 2.0
"""When to ask again after the control server could not record an answer."""
CLONE_RETRY_S: Final = 60.0
"""When to ask again while another machine with the same identity is connected."""
ORDERS_MAX: Final = 100
"""Jobs that an agent holds at a time, those included whose end it could not report yet. A further one is refused: a
control server must not fill the machine's memory, and the agent tells all of them when it joins."""
DETAIL_CHARACTERS_MAX: Final = 500


class AgentRefused(Exception):
    """The control server does not take this agent; the text says why and what to do."""


class Agent:
    """One machine's agent. :meth:`run` it once.

    :param urls: where the control server listens for agents.
    :param machine_id: names the machine for ever.
    :param facts: what to tell of the machine; persons are filled in from ``power``.
    :param prompt: asks the person; ``None`` where nobody can be asked, ``no_prompt`` says then why.
    :param notices: tells persons who cannot be asked; ``None`` where nothing does.
    :param connect: how the line is made, for those who run it in a simulation.
    :param boot_record: what is refreshed while this boot lasts, where the system has no boot id of its own.
    :param boot_clock: seconds that go on while the machine is suspended; a leave to act is measured with it.
    """

    def __init__(
        self,
        *,
        urls: Sequence[str],
        auth: ClientAuth,
        machine_id: str,
        facts: Facts,
        power: PowerBackend,
        prompt: Prompt | None,
        journal: Journal,
        no_prompt: str = "the agent has no way to ask",
        notices: Notices | None = None,
        backoff: Backoff | None = None,
        on_state: Callable[[Line, StateChange], None] | None = None,
        connect: Callable[..., landline.Connector] = landline.connect,
        boot_clock: Callable[[], float] | None = None,
        boot_record: BootRecord | None = None,
    ) -> None:
        self._facts = facts
        self._power = power
        self._asking = ConsentProcess(self, prompt=prompt, no_prompt=no_prompt, notices=notices)
        self._journal = journal
        self._on_state = on_state
        self._boot_clock = boot_clock or boot_time
        self._boot_record = boot_record
        self._known: dict[str, KnownExecution] = {}
        self._orders: dict[str, asyncio.Task[None]] = {}
        self._records: dict[str, Record] = {}
        self._facts_changed = asyncio.Event()
        self._told_facts: Facts | None = None
        # Executions whose reports are under way.
        self._reporting: set[str] = set()
        # The order being carried out; and the one the system has accepted, so that the machine is going.
        self._acting: tuple[str, Action] | None = None
        self._going: tuple[str, Action] | None = None
        self._leaving = ShutdownWatcher(power, self)
        self._one_action = asyncio.Lock()
        self._joined = asyncio.Event()
        self._not_joined_because = ""
        self._ending: asyncio.Future[Goodbye | None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self.line: Line | None = None
        self.connector = connect(
            urls,
            auth=auth,
            identity=machine_id,
            # A machine may start before its network and its control server do.
            connect_timeout_s=None,
            limits=landline.Limits(message_bytes=MESSAGE_BYTES_MAX, window_bytes=WINDOW_BYTES),
            backoff=backoff,
            on_state=self._line_changed,
            on_session_lost=self._session_lost,
        )
        self.connector.on("execute", Order)(self._receive_order)
        self.connector.on("withdraw", Withdraw)(self._receive_withdraw)

    async def run(self) -> Goodbye:
        """Stays connected until :meth:`stop` is called or the server does not want it.

        A system that goes down stops its agent last of all: until then a shutdown can be called off, and the agent is
        needed again. Returns the goodbye that was said. Raises :class:`AgentRefused`, :class:`landline.Rejected`,
        :class:`landline.GaveUp`, :class:`landline.LineClosed` when the control server ended the line (with the code
        ``REPLACED`` for another agent), or :class:`PowerError`. Cancelling leaves without a goodbye.
        """
        await self._power.open()
        try:
            self.start(self._leaving.watch())
            if self._boot_record is not None:
                self.start(self._watch_boot(self._boot_record))
            line = await self._connect()
            if line is None:
                return await self._ending or Goodbye(Cause.AGENT_STOPPED)
            try:
                self.start(self._watch_persons())
                goodbye = await self._ending
                if goodbye is None:
                    raise line.error or AgentRefused("the control server closed the line")
                goodbye = await self._leaving.final_goodbye(goodbye)
                await self._say_goodbye(line, goodbye)
                return goodbye
            finally:
                await self.connector.__aexit__(*sys.exc_info())
        finally:
            await self._cancel_tasks()
            await self._power.release_shutdown()
            await self._power.close()

    async def _connect(self) -> Line | None:
        """The line, once it is connected for the first time; ``None`` when the end comes before that."""
        connecting = asyncio.get_running_loop().create_task(self.connector.__aenter__())
        first: set[asyncio.Future[Any]] = {connecting, self._ending}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            ended_by_itself = (
                self._ending.done() and self._ending.exception() is None and self._ending.result() is None
            )
            if connecting.done() or ended_by_itself:
                return await connecting
        finally:
            if not connecting.done():
                connecting.cancel()
                await asyncio.wait({connecting})
        return None

    def stop(self, cause: Cause = Cause.AGENT_STOPPED, detail: str = "") -> None:
        """Makes :meth:`run` say goodbye and return. When the system goes down, that is the cause told."""
        if not self._ending.done():
            self._ending.set_result(Goodbye(cause, detail))

    @property
    def is_ending(self) -> bool:
        """Whether the goodbye is decided."""
        return self._ending.done()

    # Joining.

    def _line_changed(self, line: Line, change: StateChange) -> None:
        if change.state is LineState.ONLINE and change.resumed is False:
            # Before anybody hears of it: the first order may be here before whoever waits for the connection.
            self.line = line
            self.start(self._join(line))
        elif change.state is LineState.CLOSED and not self._ending.done():
            self._ending.set_result(None)
        if self._on_state is not None:
            self._on_state(line, change)

    def _session_lost(self, line: Line, unconfirmed: Sequence[landline.Unconfirmed]) -> None:
        # What was under way is told again in the next join, so nothing has to be sent again.
        self._joined.clear()

    async def _join(self, line: Line) -> None:
        session_id = line.session_id
        facts = await self._current_facts()
        # A newer session has a join of its own.
        while line.session_id == session_id and (again_s := await self._try_to_join(line, facts)) is not None:
            await asyncio.sleep(again_s)
            facts = await self._current_facts()

    async def _try_to_join(self, line: Line, facts: Facts) -> float | None:
        """Returns after how many seconds it is to be tried again in this session, if at all."""
        join = Join(facts, executions_to_report(self._known.values(), self._journal.entries()))
        try:
            joined = await line.request("join", join, timeout=None, response_type=Joined)
        except (landline.RequestLost, landline.LineClosed):
            return None  # The next session joins again.
        except landline.RequestError as error:
            again_s = {STORAGE_FAILED: CONTROL_RETRY_S, CLONED_IDENTITY: CLONE_RETRY_S}.get(error.code)
            if again_s is not None:
                # Over the same line, which stays: it shows the control server that this machine is alive too.
                is_told = error.code == self._not_joined_because
                logger.log(
                    logging.DEBUG if is_told else logging.WARNING,
                    "joining: %s; trying again every %g s",
                    error.message,
                    again_s,
                )
                self._not_joined_because = error.code
                return again_s
            self._refuse(f"the control server does not take this machine: {error.message}")
            return None
        logger.info("joined as %s", joined.name)
        if self._told_facts is None:
            _log_how_it_asks(facts)
        self._told_facts = facts
        for withdraw in joined.over:
            await self._receive_withdraw(line, withdraw)
        self._not_joined_because = ""
        self._joined.set()
        return None

    async def _current_facts(self) -> Facts:
        before = self._facts
        facts = self._asking.with_prompt_facts(before)
        try:
            persons = await self._power.persons()
        except PowerError as error:
            # Not "nobody": whether somebody is on is not known.
            facts = msgspec.structs.replace(
                facts,
                persons=(),
                knows_persons=False,
                persons_problem=_bounded(str(error).rstrip(".")) or "no reason given",
            )
        else:
            facts = msgspec.structs.replace(
                facts, persons=persons_to_report(persons), knows_persons=True, persons_problem=""
            )
        self._facts = facts
        if facts != before:
            self._facts_changed.set()
            self._facts_changed = asyncio.Event()
            _log_persons(before, facts)
        return facts

    async def _watch_persons(self) -> None:
        while True:
            await asyncio.sleep(PERSONS_EVERY_S)
            await self._tell_persons()

    async def _watch_boot(self, record: BootRecord) -> None:
        while True:
            record.refresh()
            await asyncio.sleep(BOOT_RECORD_EVERY_S)

    async def _tell_persons(self) -> Facts:
        facts = await self._current_facts()
        if facts != self._told_facts and self._joined.is_set() and self.line is not None:
            self._told_facts = facts
            await self.line.send(facts, name="facts")
        return facts

    # Orders.

    async def _receive_order(self, line: Line, order: Order) -> bool:
        """Takes an order once; a repetition, from this process's life or an earlier one, changes nothing."""
        known = self._known.get(order.execution_id)
        if known is None and (entry := self._journal.find(order.execution_id)) is not None:
            known = KnownExecution(entry.id, entry.state, entry.detail, entry.boot_id)
        if known is not None:
            if known.id not in self._reporting:
                self._reporting.add(known.id)
                self.start(self._report(known))
            return True
        if len(self._known) >= ORDERS_MAX:
            raise landline.RequestError(
                TOO_MANY_ORDERS, f"the machine holds {ORDERS_MAX} jobs, and takes more when some are over"
            )
        logger.info(
            "%s %s: received, requested by %s, due in %.0f s, expires in %.0f s",
            order.action.value,
            order.execution_id,
            _one_line(order.requested_by) or "an operator",
            order.due_in_s,
            order.expires_in_s,
        )
        self._note(order, ExecutionState.DELIVERED)
        task = asyncio.get_running_loop().create_task(self._carry_out(order))
        self._orders[order.execution_id] = task
        self._keep(task)
        task.add_done_callback(lambda _: self._forget_order(order.execution_id))
        return True

    async def _receive_withdraw(self, line: Line, withdraw: Withdraw) -> bool:
        """Stops an order that has not begun to act; one that has goes on."""
        acting = self._acting
        if acting is not None and acting[0] == withdraw.execution_id:
            return False
        task = self._orders.get(withdraw.execution_id)
        if task is None:
            return False
        task.cancel()
        self._known.pop(withdraw.execution_id, None)
        return True

    async def _carry_out(self, order: Order) -> None:
        try:
            refusal = await self._power.unsupported_reason(order.action)
        except PowerError as error:
            refusal = str(error)
        if refusal is not None:
            await self._report_state(order, ExecutionState.REFUSED, refusal)
            return
        terms = consent.terms_of(order, asyncio.get_running_loop().time())
        try:
            while (agreed := await self._asking.agree(order, terms)) is not None:
                if await self._begin(order, agreed):
                    return
        except landline.RequestError as error:
            # Not asked for again, and so not done: it expires on the control server.
            logger.error("%s of %s is dropped: %s", order.action.value, order.execution_id, error)
            self._known.pop(order.execution_id, None)

    async def _begin(self, order: Order, agreed: consent.Act) -> bool:
        """Act, in turn and with the control server's permit. Return False when persons are to be asked after all."""
        must_wait = self._one_action.locked() or not self._leaving.stays.is_set()
        if must_wait and not agreed.is_free:
            # The claim would tell it too, but only when it is this order's turn.
            await self.report_state(order, ExecutionState.ACCEPTED, agreed.detail)
        async with self._one_action:
            await self._leaving.stays.wait()
            # Another action may have taken long: somebody may have logged on meanwhile.
            if must_wait and agreed.is_free and not (await self.look()).is_free:
                return False
            act_before = await self._claim(order, agreed.detail)
            if act_before is None:
                return True
            await self._act(order, act_before, agreed)
            return True

    # For the one who asks.

    async def look(self) -> Facts:
        """Who is on and how they can be asked, as of now; the control server hears of what changed."""
        return await self._tell_persons()

    async def wait_changed(self, timeout_s: float) -> None:
        """Return when :meth:`look` found something else than before, at the latest after ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._facts_changed.wait()

    def record_of(self, order: Order) -> Record:
        """What goes on record of this order; told with its next state."""
        return self._records.setdefault(order.execution_id, Record())

    def note_postponed(self, order: Order, detail: str) -> None:
        """The order is put off; the control server knows."""
        self._note(order, ExecutionState.POSTPONED, detail)

    async def postpone(self, order: Order, postpone_s: float, detail: str) -> Postponed:
        """Ask the control server for more time."""
        answered_by = _bounded(self.record_of(order).answered_by)
        body = Postpone(order.execution_id, postpone_s, _bounded(detail), answered_by)
        reply: Postponed = await self._request_until_answered("postpone", body, Postponed)
        if reply.granted:
            self._note(order, ExecutionState.POSTPONED, detail)
        return reply

    async def report_state(self, order: Order, state: ExecutionState, detail: str = "") -> None:
        """Tell the control server."""
        await self._report_state(order, state, detail)

    def _forget_order(self, execution_id: str) -> None:
        self._orders.pop(execution_id, None)
        self._records.pop(execution_id, None)

    async def _claim(self, order: Order, detail: str) -> float | None:
        """Asks for leave to act, as often as the answer gets lost. A leave that took too long to come is worthless.

        ``detail`` says why the order was accepted; the control server records that together with the leave.

        Returns until when it is good, on the clock of :func:`boot_time`, or ``None`` when it was not given.
        """
        # If the session is lost, the next join tells that the order was accepted.
        known = self._note(order, ExecutionState.ACCEPTED, detail)
        logger.info("%s %s: asks for leave to act", order.action.value, order.execution_id)
        claim = Claim(
            order.execution_id,
            known.boot_id,
            detail=known.detail,
            asked=known.asked,
            answered_by=known.answered_by,
            notices=known.notices,
        )
        while True:
            asked_at = self._boot_clock()
            grant: Grant = await self._request_until_answered("claim", claim, Grant)
            if not grant.granted:
                logger.info(
                    "%s of %s is not to be done: %s", order.action.value, order.execution_id, grant.reason
                )
                self._known.pop(order.execution_id, None)
                return None
            act_before = asked_at + grant.valid_s
            if self._boot_clock() <= act_before:
                return act_before

    async def _act(self, order: Order, act_before: float, agreed: consent.Act) -> None:
        self._acting = (order.execution_id, order.action)
        try:
            # The claim may have waited for the control server, and cannot be taken back. The control server hears of
            # these facts only afterwards: nothing that may take long comes between this look and the act.
            facts = await self._current_facts()
            if agreed.is_free and not facts.is_free:
                self._acting = None
                detail = f"nothing was done: nobody was on, and now {consent.who_is_on(facts)} is"
                await self._report_state(order, ExecutionState.FAILED, detail)
                await self._tell_persons()
                return
            self._journalise(order, ExecutionState.ACTING)
            self._note(order, ExecutionState.ACTING)
            permit = Permit(act_before, self._boot_clock)
            permit.check()
            await self._power.act(order.action, reason=order.message, permit=permit)
        except JournalError as error:
            # Not on record, so not done: doing it might do it twice.
            self._acting = None
            await self._report_state(order, ExecutionState.FAILED, f"nothing was done: {error}")
        except OutcomeUnknown as error:
            await self._wait_for_outcome(order, str(error), UNCERTAIN_S_MAX)
        except PowerError as error:
            self._acting = None
            await self._tell_outcome(order, ExecutionState.FAILED, str(error))
        else:
            if order.action is Action.LOG_OFF or self._power.name == "dry-run":
                self._acting = None
                detail = "nobody was on" if facts.is_free else ""
                if self._power.name == "dry-run":
                    detail = "dry run: nothing was done"
                await self._tell_outcome(order, ExecutionState.DONE, detail)
                await self._tell_persons()
            else:
                self._going = self._acting
                detail = f"the system accepted it and announced nothing in {GOING_DOWN_S_MAX:g} s"
                await self._wait_for_outcome(order, detail, GOING_DOWN_S_MAX)

    async def _wait_for_outcome(self, order: Order, detail: str, seconds: float) -> None:
        """The system was asked: what it does within ``seconds`` tells, else ``detail`` says why it is unknown."""
        if order.action is not Action.LOG_OFF and await self._wait_for_end(order, seconds):
            return
        self._acting = None
        await self._tell_outcome(order, ExecutionState.UNKNOWN, detail)

    async def _wait_for_end(self, order: Order, seconds: float) -> bool:
        """A restart or shutdown ends this agent; the way it goes and comes back tells the rest.

        Until then no other order begins: what is left of it is for the machine's next life. Returns whether it began:
        when the system announces nothing within ``seconds``, it did not, as far as can be told.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._leaving.announced.wait()
        except TimeoutError:
            return False
        else:
            await self._leaving.stays.wait()
            self._acting = None
            await self._tell_outcome(order, ExecutionState.FAILED, "it was called off on the machine")
            return True
        finally:
            if not self._ending.done():
                self._acting = self._going = None

    async def _tell_outcome(self, order: Order, state: ExecutionState, detail: str) -> None:
        try:
            self._journalise(order, state, detail)
        except JournalError as error:
            # The beginning is on record, which is what keeps it from happening twice; the outcome is told below.
            logger.error("%s", error)
        await self._report_state(order, state, detail)

    # Going.

    @property
    def is_connected(self) -> bool:
        """Whether the control server knows this machine, and a line leads to it."""
        line = self.line
        return self._joined.is_set() and line is not None and line.state is not LineState.RECONNECTING

    @property
    def acting(self) -> tuple[str, Action] | None:
        """The order that is being carried out."""
        return self._acting

    @property
    def accepted(self) -> tuple[str, Action] | None:
        """The order that the system has accepted."""
        return self._going

    async def tell_goodbye(self, goodbye: Goodbye) -> None:
        """Tell the control server, once it can be reached; return when it is on record."""
        try:
            await self._request_until_answered("goodbye", goodbye, type(None))
        except landline.RequestError as error:
            logger.warning("the goodbye was not taken: %s", error)
        else:
            logger.info("said goodbye: %s", goodbye.cause.value)

    def rejoin(self) -> None:
        """Join again: that takes the goodbye back."""
        if self.line is not None and self._joined.is_set():
            self._joined.clear()
            self.start(self._join(self.line))

    def _refuse(self, sentence: str) -> None:
        if not self._ending.done():
            self._ending.set_exception(AgentRefused(sentence))

    async def _say_goodbye(self, line: Line, goodbye: Goodbye) -> None:
        if line.state is LineState.RECONNECTING or line.state is LineState.CONNECTING:
            logger.warning("the goodbye cannot be said: the control server is not connected")
            return
        try:
            if goodbye != self._leaving.told:
                async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                    await line.send(goodbye, name="goodbye")
            await line.close(timeout=GOODBYE_TIMEOUT_S)
        except (landline.LineClosed, TimeoutError) as error:
            logger.warning("the goodbye may not have arrived: %s", error)

    # Saying.

    def _note(self, order: Order, state: ExecutionState, detail: str = "") -> KnownExecution:
        record = self._records.get(order.execution_id, Record())
        known = KnownExecution(
            order.execution_id,
            state,
            detail[:DETAIL_CHARACTERS_MAX],
            self._facts.boot_id,
            is_running=not state.is_final,
            asked=_bounded(record.asked),
            answered_by=_bounded(record.answered_by),
            notices=_bounded(record.notices),
        )
        logger.info(
            "%s %s: %s%s",
            order.action.value,
            order.execution_id,
            state.value,
            f" ({_one_line(detail)})" if detail else "",
        )
        self._known[order.execution_id] = known
        return known

    async def _report_state(self, order: Order, state: ExecutionState, detail: str = "") -> None:
        await self._report(self._note(order, state, detail))

    async def _report(self, known: KnownExecution) -> None:
        self._reporting.add(known.id)
        try:
            await self._request("report", Report(known), bool)
        except (landline.RequestLost, landline.LineClosed):
            return  # The next join tells it.
        except landline.RequestError as error:
            logger.error("%s was not taken: %s", known.id, error)
        finally:
            self._reporting.discard(known.id)
        if known.state.is_final:
            self._known.pop(known.id, None)

    async def _request_until_answered(self, name: str, body: msgspec.Struct, response_type: type[Any]) -> Any:
        """Asks the control server, again in every new session, until it answers."""
        while True:
            try:
                return await self._request(name, body, response_type)
            except landline.RequestLost:
                continue

    async def _request(self, name: str, body: msgspec.Struct, response_type: type[Any]) -> Any:
        """Asks the control server, once it knows this machine, and again while it cannot record the answer."""
        while True:
            await self._joined.wait()
            assert self.line is not None
            try:
                return await self.line.request(name, body, timeout=None, response_type=response_type)
            except landline.RequestError as error:
                if error.code not in {NOT_JOINED, STORAGE_FAILED}:
                    raise
                logger.warning("%s: %s; trying again in %g s", name, error.message, CONTROL_RETRY_S)
            await asyncio.sleep(CONTROL_RETRY_S)

    def _journalise(self, order: Order, state: ExecutionState, detail: str = "") -> None:
        # No longer than the control server takes it: the next join tells what stands here.
        detail = detail[:DETAIL_CHARACTERS_MAX]
        self._journal.record(Entry(order.execution_id, order.action, state, self._facts.boot_id, detail))

    # Tasks.

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in a task that ends with the agent; an error in it ends the agent."""
        task = asyncio.get_running_loop().create_task(work)
        self._keep(task)
        return task

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, landline.LineClosed):
            return  # Reported by the line itself.
        if not self._ending.done():
            self._ending.set_exception(error)

    async def _cancel_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _log_how_it_asks(facts: Facts) -> None:
    """Say at the start whether persons can be asked, and what it means when they cannot."""
    if facts.asks_by:
        logger.info("a person at this machine is asked by %s", facts.asks_by)
        return
    logger.warning(
        "nobody at this machine can be asked: %s; while a person is on, or may be, jobs wait and then expire, "
        "unless the operator gives --unasked refuse or --unasked act",
        _one_line(facts.asking_problem),
    )


def _log_persons(before: Facts, facts: Facts) -> None:
    """What is new of who is on and of how they can be asked, one line each."""
    if (facts.persons, facts.persons_problem) != (before.persons, before.persons_problem):
        if facts.knows_persons:
            logger.info("on now: %s", _one_line(consent.who_is_on(facts)))
        else:
            logger.warning("cannot tell who is on: %s", _one_line(facts.persons_problem))
    if (facts.asks_by, facts.asking_problem) != (
        before.asks_by,
        before.asking_problem,
    ) and before.says_how_it_asks:
        if facts.asks_by:
            logger.info("a person can be asked again, by %s", facts.asks_by)
        else:
            logger.warning("nobody can be asked now: %s", _one_line(facts.asking_problem))


def _bounded(text: str) -> str:
    """No longer than the control server takes it."""
    return text[:DETAIL_CHARACTERS_MAX]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def boot_time() -> float:
    """Seconds since boot, time in suspend included where the system counts it (clock_gettime(2))."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
