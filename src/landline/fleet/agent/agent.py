"""The agent: connects a machine to its control server, joins, receives orders, and says goodbye.

:mod:`landline.fleet.agent.executor` carries the orders out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import landline
from landline import Backoff, ClientAuth, Code, Connector, Line, LineState, StateChange, guarded_logger
from landline.fleet.agent.boot_id import BootRecord
from landline.fleet.agent.consent_process import ConsentProcess
from landline.fleet.agent.control_link import ControlLink
from landline.fleet.agent.execution_reports import ExecutionReports
from landline.fleet.agent.executor import ORDERS_MAX, Executor
from landline.fleet.agent.facts_reporter import FactsReporter
from landline.fleet.agent.journal import Journal
from landline.fleet.agent.power import PowerBackend
from landline.fleet.agent.prompt import Notices, Prompt
from landline.fleet.agent.prompt_status import PromptStatus
from landline.fleet.agent.report_limits import executions_to_report
from landline.fleet.agent.shutdown_watch import RunningOrder, ShutdownState, ShutdownWatcher
from landline.fleet.agent.timing import AgentTiming
from landline.fleet.boot_clock import boot_time
from landline.fleet.messages import (
    CLONED_IDENTITY,
    MESSAGE_BYTES_MAX,
    STORAGE_FAILED,
    WINDOW_BYTES,
    Goodbye,
    Join,
    Joined,
    Order,
    Withdraw,
)
from landline.fleet.model import Cause, Facts

logger: Final = guarded_logger("landline.agent")


class AgentRefused(Exception):
    """The control server refuses this agent; the text says why and what to do."""


class Agent:
    """The agent of one machine. Call :meth:`run` once.

    :param urls: where the control server listens for agents.
    :param machine_id: the machine's permanent identity.
    :param facts: what to report about the machine; the persons come from ``power``.
    :param prompt: asks a person; ``None`` where persons cannot be asked.
    :param no_prompt: why there is no prompt.
    :param notices: notifies persons who cannot be asked; ``None`` for no notices.
    :param on_state: called with every change of the line's state.
    :param on_joined: called with the machine's name each time the control server accepts this agent.
    :param connect: replaces :func:`landline.connect` in a simulation.
    :param boot_clock: a clock in seconds that includes the time in suspend; permits to act are measured with it.
    :param boot_record: refreshed while this boot lasts, where the system has no boot id of its own.
    :param timing: intervals and time-outs.
    :param orders_max: the number of jobs that the agent holds at a time.
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
        on_joined: Callable[[str], None] | None = None,
        connect: Callable[..., landline.Connector] = landline.connect,
        boot_clock: Callable[[], float] = boot_time,
        boot_record: BootRecord | None = None,
        timing: AgentTiming | None = None,
        orders_max: int = ORDERS_MAX,
    ) -> None:
        timing = timing or AgentTiming()
        self._timing = timing
        self._power = power
        self._journal = journal
        self._on_state = on_state
        self._on_joined = on_joined
        self._boot_record = boot_record
        self._join_problem = ""
        """The code of the error of the last join, so that a lasting problem is logged once."""
        self._ending: asyncio.Future[Goodbye | None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._link = ControlLink(timing.control_retry_s)
        prompt_status = PromptStatus(prompt, no_prompt, timing)
        self._facts = FactsReporter(facts, power, prompt_status, self._link)
        self._reports = ExecutionReports(self._link, self._facts)
        shutdown = ShutdownState()
        self._shutdown_watcher = ShutdownWatcher(power, shutdown, self, timing)
        self._executor = Executor(
            power=power,
            journal=journal,
            facts=self._facts,
            reports=self._reports,
            consent_process=ConsentProcess(self._facts, self._reports, prompt_status, notices, timing),
            shutdown=shutdown,
            boot_clock=boot_clock,
            start=self.start,
            is_ending=self._ending.done,
            timing=timing,
            orders_max=orders_max,
        )
        self.connector: Connector = connect(
            urls,
            auth=auth,
            identity=machine_id,
            # A machine may start before its network and its control server do.
            connect_timeout_s=None,
            limits=landline.Limits(message_bytes=MESSAGE_BYTES_MAX, window_bytes=WINDOW_BYTES),
            backoff=backoff,
            on_state=self._handle_state,
            on_session_lost=self._handle_session_lost,
        )
        self.connector.on("execute", Order)(self._receive_order)
        self.connector.on("withdraw", Withdraw)(self._receive_withdraw)

    @property
    def line(self) -> Line | None:
        """The line to the control server, once it was connected for the first time."""
        return self._link.line

    @property
    def held_executions(self) -> int:
        """The number of executions whose end is not reported yet."""
        return len(self._reports.held)

    @property
    def is_ending(self) -> bool:
        """Whether the agent is about to say goodbye."""
        return self._ending.done()

    async def run(self) -> Goodbye:
        """Stay connected until :meth:`stop` is called or the control server refuses the agent. Return the goodbye.

        A shutdown of the system does not end the agent: it can be cancelled, and the agent is needed again. The system
        stops the agent at the end of its shutdown. Cancelling ends without a goodbye.

        :raises AgentRefused: if the control server refuses this machine.
        :raises landline.Rejected: if the control server refuses the connection.
        :raises landline.GaveUp: if no further attempt to connect is made.
        :raises landline.LineClosed: if the control server closed the line (code ``REPLACED``: for another agent).
        :raises PowerError: if the power back end cannot be opened.
        """
        await self._power.open()
        try:
            self.start(self._shutdown_watcher.watch())
            if self._boot_record is not None:
                self.start(self._refresh_boot_record(self._boot_record))
            line = await self._connect()
            if line is None:
                return await self._ending or Goodbye(Cause.AGENT_STOPPED)
            try:
                self.start(self._poll_persons())
                goodbye = await self._ending
                if goodbye is None:
                    raise line.error or AgentRefused("the control server closed the line")
                goodbye = await self._shutdown_watcher.final_goodbye(goodbye)
                await self._say_goodbye(line, goodbye)
                return goodbye
            except BaseException:
                line.abort(Code.NORMAL)
                raise
            finally:
                await line.close()
        finally:
            await self._cancel_tasks()
            await self._power.release_shutdown()
            await self._power.close()

    def stop(self, cause: Cause = Cause.AGENT_STOPPED, detail: str = "") -> None:
        """Make :meth:`run` say goodbye and return. If the system is shutting down, the goodbye names that cause."""
        if not self._ending.done():
            self._ending.set_result(Goodbye(cause, detail))

    async def _connect(self) -> Line | None:
        """Return the line once it is connected for the first time; ``None`` if the agent is stopped before that."""
        connecting = asyncio.ensure_future(self.connector)
        first: set[asyncio.Future[Any]] = {connecting, self._ending}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            is_line_closed = (
                self._ending.done() and self._ending.exception() is None and self._ending.result() is None
            )
            if connecting.done() or is_line_closed:
                return await connecting
        finally:
            if not connecting.done():
                connecting.cancel()
                await asyncio.wait({connecting})
        return None

    # Join

    def _handle_state(self, line: Line, change: StateChange) -> None:
        if change.state is LineState.ONLINE and change.resumed is False:
            # Before anything else: the first order may arrive before connect() returns.
            self._link.line = line
            self.start(self._join(line))
        elif change.state is LineState.CLOSED and not self._ending.done():
            self._ending.set_result(None)
        if self._on_state is not None:
            self._on_state(line, change)

    def _handle_session_lost(self, line: Line, unconfirmed: Sequence[landline.Unconfirmed]) -> None:
        # The next join reports everything again, so no message needs to be repeated.
        self._link.joined.clear()

    async def _join(self, line: Line) -> None:
        session_id = line.session_id
        facts = await self._facts.read()
        # A newer session has a join of its own.
        while line.session_id == session_id and (pause_s := await self._try_to_join(line, facts)) is not None:
            await asyncio.sleep(pause_s)
            facts = await self._facts.read()

    async def _try_to_join(self, line: Line, facts: Facts) -> float | None:
        """Return the pause in seconds before the next attempt in this session; ``None`` for no further attempt."""
        join = Join(facts, executions_to_report(self._reports.held.values(), self._journal.entries()))
        try:
            joined = await line.request("join", join, timeout=None, response_type=Joined)
        except (landline.RequestLost, landline.LineClosed):
            return None  # The next session joins again.
        except landline.RequestError as error:
            return self._handle_join_error(error)
        logger.info("joined as %s", joined.name)
        self._facts.note_joined(facts)
        for withdraw in joined.over:
            self._executor.withdraw(withdraw.execution_id)
        self._join_problem = ""
        self._link.joined.set()
        if self._on_joined is not None:
            self._on_joined(joined.name)
        return None

    def _handle_join_error(self, error: landline.RequestError) -> float | None:
        pauses_s = {STORAGE_FAILED: self._timing.control_retry_s, CLONED_IDENTITY: self._timing.clone_retry_s}
        pause_s = pauses_s.get(error.code)
        if pause_s is None:
            if not self._ending.done():
                self._ending.set_exception(
                    AgentRefused(f"the control server does not take this machine: {error.message}")
                )
            return None
        # The line stays: it shows the control server that this machine is alive too.
        is_known = error.code == self._join_problem
        level = logging.DEBUG if is_known else logging.WARNING
        logger.log(level, "joining: %s; trying again every %g s", error.message, pause_s)
        self._join_problem = error.code
        return pause_s

    # Orders

    async def _receive_order(self, line: Line, order: Order) -> bool:
        self._executor.receive_order(order)
        return True

    async def _receive_withdraw(self, line: Line, withdraw: Withdraw) -> bool:
        return self._executor.withdraw(withdraw.execution_id)

    # Shutdown: what the watcher needs

    @property
    def is_connected(self) -> bool:
        """Whether the agent has joined and its line has a connection."""
        return self._link.is_connected

    @property
    def acting(self) -> RunningOrder | None:
        """The order whose action has begun."""
        return self._executor.acting

    @property
    def accepted(self) -> RunningOrder | None:
        """The restart or shutdown that the system has accepted."""
        return self._executor.accepted

    async def report_goodbye(self, goodbye: Goodbye) -> None:
        """Send a goodbye as soon as the control server can be reached; return when it is recorded."""
        try:
            await self._link.request_until_answered("goodbye", goodbye, type(None))
        except landline.RequestError as error:
            logger.warning("the goodbye was refused: %s", error)
        else:
            logger.info("said goodbye: %s", goodbye.cause.value)

    def rejoin(self) -> None:
        """Join again, which takes the goodbye back."""
        line = self._link.line
        if line is not None and self._link.joined.is_set():
            self._link.joined.clear()
            self.start(self._join(line))

    async def _say_goodbye(self, line: Line, goodbye: Goodbye) -> None:
        if line.state is LineState.RECONNECTING or line.state is LineState.CONNECTING:
            logger.warning("the goodbye cannot be sent: the control server is not connected")
            return
        timeout_s = self._timing.goodbye_timeout_s
        try:
            if goodbye != self._shutdown_watcher.recorded_goodbye:
                async with asyncio.timeout(timeout_s):
                    await line.send(goodbye, name="goodbye")
            await line.close(timeout=timeout_s)
        except (landline.LineClosed, TimeoutError) as error:
            logger.warning("the goodbye may not have arrived: %s", error)

    # Tasks

    async def _poll_persons(self) -> None:
        while True:
            await asyncio.sleep(self._timing.persons_poll_s)
            await self._facts.report()

    async def _refresh_boot_record(self, record: BootRecord) -> None:
        while True:
            record.refresh()
            await asyncio.sleep(self._timing.boot_record_s)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task that ends with the agent; an error in it ends the agent."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._handle_task_end)
        return task

    def _handle_task_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, landline.LineClosed):
            return  # The change of the line's state reports it.
        if not self._ending.done():
            self._ending.set_exception(error)

    async def _cancel_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
