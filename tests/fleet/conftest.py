"""What the tests of the fleet share: a control server that can be killed, and machines that can crash."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import landline
from landline import Backoff, Heartbeat, Limits, Server, SharedToken
from landline.fleet.agent.agent import Agent
from landline.fleet.agent.executor import ORDERS_MAX
from landline.fleet.agent.journal import Entry, Journal
from landline.fleet.agent.power import Permit
from landline.fleet.agent.power.simulated import SimulatedPower
from landline.fleet.agent.prompt import Answer, Notice, Question
from landline.fleet.agent.timing import AgentTiming
from landline.fleet.api import JobRequest, JobView
from landline.fleet.control.control_server import ControlServer, ControlTiming
from landline.fleet.control.storage import Storage
from landline.fleet.messages import MESSAGE_BYTES_MAX, WINDOW_BYTES, Goodbye
from landline.fleet.model import Action, Execution, ExecutionState, Facts, Person, PresenceState
from landline.fleet.model import Machine as KnownMachine

TOKEN = "an agents' token of enough length"
WAIT_S_MAX = 20.0
QUICK = Backoff(first_s=0.01, cap_s=0.05)
ADA = Person("ada", "seat0")


async def wait_until(condition: Callable[[], Any], what: str = "") -> Any:
    """Returns what ``condition`` (plain or a coroutine function) returns once that is true."""
    deadline = time.monotonic() + WAIT_S_MAX
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        assert time.monotonic() < deadline, (
            f"waited in vain for {what or inspect.getsource(condition).strip()}"
        )
        await asyncio.sleep(0.005)


class Crashed(Exception):
    """The agent's process dies here."""


class ScriptedPerson:
    """A prompt that gives the answers it was made with, and then leaves the question open until told."""

    name = "scripted"

    def __init__(self, *answers: Answer | Exception) -> None:
        self._answers = list(answers)
        self._open: asyncio.Future[Answer | Exception] | None = None
        self.shown_at = ADA.seat
        self.problem = ""
        """Why no person can be asked; empty if one can be."""
        self.questions: list[Question] = []
        self.withdrawn = 0

    @property
    def is_asked(self) -> bool:
        """Whether a question is on the screen."""
        return self._open is not None

    def unavailable_reason(self) -> str | None:
        return self.problem or None

    def seat(self) -> str:
        return self.shown_at

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        if self._answers:
            answer = self._answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        self._open = asyncio.get_running_loop().create_future()
        try:
            answer = await self._open
            if isinstance(answer, Exception):
                raise answer
            return answer
        except asyncio.CancelledError:
            self.withdrawn += 1
            raise
        finally:
            self._open = None

    def answer(self, answer: Answer | Exception) -> None:
        """Answers the question that is open, or lets it fail."""
        assert self._open is not None
        self._open.set_result(answer)


class ScriptedNotices:
    """Remembers whom it was to tell what."""

    def __init__(self, *ways: str) -> None:
        self.ways = ways
        self.sent: list[tuple[Notice, tuple[Person, ...]]] = []

    async def __call__(self, notice: Notice, persons: Any) -> tuple[str, ...]:
        self.sent.append((notice, tuple(persons)))
        return self.ways


class Switch(SimulatedPower):
    """A simulated power back end that can fail, wait, or take the agent down with it."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.persons, logged_off=lambda: machine.on_logged_off())
        self._machine = machine
        self.cannot_tell: Exception | None = None
        self.lists = 0
        """How often the persons were listed."""

    async def persons(self) -> tuple[Person, ...]:
        self.lists += 1
        if self.cannot_tell is not None:
            raise self.cannot_tell
        return await super().persons()

    def log_off(self) -> None:
        """Log off all persons."""
        self._persons = ()

    async def act(self, action: Action, *, reason: str, permit: Permit) -> None:
        await self._machine.may_act.wait()
        if self._machine.fails_before_acting is not None:
            raise self._machine.fails_before_acting
        self._machine.acted.append(action)
        if self._machine.fails_after_acting is not None:
            raise self._machine.fails_after_acting
        await super().act(action, reason=reason, permit=permit)


class WatchedJournal(Journal):
    """A journal whose next record can fail, and after which the agent can crash."""

    fails: Exception | None = None
    crashes_after: ExecutionState | None = None

    def record(self, entry: Entry) -> None:
        if self.fails is not None:
            raise self.fails
        super().record(entry)
        if entry.state is self.crashes_after:
            raise Crashed


class Machine:
    """A machine with a disk, persons and a power back end; its agent runs between :meth:`boot` and its end."""

    def __init__(
        self, fleet: Fleet, name: str, directory: Path, persons: tuple[Person, ...], prompt: Any
    ) -> None:
        self.fleet = fleet
        self.name = name
        self.id = f"id-of-{name}"
        self.directory = directory
        self.persons = persons
        self.prompt = prompt
        self.notices = ScriptedNotices("wall")
        self.boots = 0
        self.boot_id = ""
        self.acted: list[Action] = []
        self.may_act = asyncio.Event()
        self.may_act.set()
        self.may_go = asyncio.Event()
        """Whether a system that goes down gets to the end of its agent."""
        self.may_go.set()
        self.fails_before_acting: Exception | None = None
        self.fails_after_acting: Exception | None = None
        self.on_logged_off: Callable[[], Any] = lambda: None
        self.on_state: Callable[..., None] | None = None
        self.facts: dict[str, Any] = {}
        self.power: Any = None
        self.task: asyncio.Task[Goodbye] | None = None

    async def boot(self, *, power: Any = None, token: str = TOKEN, wait: bool = True) -> Machine:
        """Start the machine and its agent."""
        self.boots += 1
        self.boot_id = f"{self.name}-boot-{self.boots}"
        return await self.start_agent(power=power, token=token, wait=wait)

    async def start_agent(self, *, power: Any = None, token: str = TOKEN, wait: bool = True) -> Machine:
        """Start the agent's process in the same boot."""
        joins = self.fleet.joins.get(self.id, 0)
        self.journal = WatchedJournal.open(self.directory / "journal.jsonl")
        self.power = power or Switch(self)
        if isinstance(self.power, SimulatedPower):
            self.power.terminate = self._terminate
        self.agent = Agent(
            urls=[self.fleet.url],
            auth=SharedToken(token),
            machine_id=self.id,
            facts=Facts(
                **{"name": self.name, "boot_id": self.boot_id, "power": self.power.name, **self.facts}
            ),
            power=self.power,
            prompt=self.prompt,
            notices=self.notices,
            journal=self.journal,
            backoff=QUICK,
            on_state=self.on_state,
            timing=self.fleet.timing,
            orders_max=self.fleet.orders_max,
        )
        self.task = asyncio.create_task(self._run())
        if wait:
            await wait_until(lambda: self.fleet.joins.get(self.id, 0) > joins, f"the join of {self.name}")
        return self

    async def _run(self) -> Goodbye:
        try:
            return await self.agent.run()
        finally:
            self.journal.close()

    def _terminate(self) -> None:
        if self.may_go.is_set():
            self.agent.stop()

    async def ended(self) -> Goodbye:
        """Return what the agent returned, or raise what it raised."""
        assert self.task is not None
        async with asyncio.timeout(WAIT_S_MAX):
            return await self.task

    async def kill_agent(self) -> None:
        """End the agent's process at once; its connection breaks."""
        assert self.task is not None
        if self.agent.line is not None:
            self.agent.line.break_link("killed")
        self.task.cancel()
        await asyncio.wait([self.task])

    @property
    def line(self) -> landline.Line:
        assert self.agent.line is not None
        return self.agent.line

    @property
    def known(self) -> KnownMachine:
        """The machine as the control server shows it."""
        return next(machine for machine in self.fleet.control.machines() if machine.id == self.id)

    async def shown(self, state: PresenceState) -> KnownMachine:
        """Wait until the control server shows this presence."""
        await wait_until(lambda: self.known.presence.state is state, f"{self.name} to be {state.value}")
        return self.known


class WakerDouble:
    """Records the machines to wake; can fail."""

    def __init__(self) -> None:
        self.woken: list[tuple[str, ...]] = []
        self.error: OSError | None = None

    def wake(self, mac_addresses: Any) -> None:
        if self.error is not None:
            raise self.error
        self.woken.append(tuple(mac_addresses))


class Fleet:
    """A control server over real sockets and a real database, which can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = "tcp://127.0.0.1:0"
        self.waker: Any = WakerDouble()
        self.heartbeat = Heartbeat()
        self.resume_window_s = 60.0
        self.control_timing = ControlTiming(gone_grace_s=0.05, sweep_every_s=0.02, wake_every_s=0.02)
        self.timing = AgentTiming(control_retry_s=0.02, waiting_poll_s=0.02, prompt_retry_first_s=0.02)
        """The timing of agents that are started from now on."""
        self.orders_max = ORDERS_MAX
        self.joins: dict[str, int] = {}
        self.offset_s = 0.0
        self.clock: Any = self.now
        self.machines: list[Machine] = []
        self.is_running = False
        self.closing = contextlib.ExitStack()

    def set_timing(self, **changes: float) -> None:
        """Changes the timing of agents that are started from now on."""
        self.timing = msgspec.structs.replace(self.timing, **changes)

    def now(self) -> float:
        """The time of day, which is the control server's clock unless a test gives it another."""
        return time.time() + self.offset_s

    async def start(self) -> Fleet:
        self.storage = await Storage.open(self.directory / "landline.db")
        self.server = Server(
            auth=SharedToken(TOKEN),
            heartbeat=self.heartbeat,
            resume_window_s=self.resume_window_s,
            limits=Limits(message_bytes=MESSAGE_BYTES_MAX, window_bytes=WINDOW_BYTES),
        )
        self.control = await ControlServer.start(
            self.server, self.storage, waker=self.waker, clock=self.clock, timing=self.control_timing
        )
        self.control.on_joined = self._joined
        self.endpoint = await self.server.listen(self.url)
        self.url = str(self.endpoint)
        self.is_running = True
        return self

    async def stop(self) -> None:
        """An orderly stop."""
        self.is_running = False
        self.control.close_subscriptions()
        await self.server.close(retry_after_s=0.01, spread_s=0.05, timeout=2)
        await self.control.stop()
        await self.storage.close()

    async def kill(self) -> None:
        """Stop without a goodbye, as if the process was killed."""
        for line in self.server.lines:
            line.break_link("killed")
        await self.stop()

    def machine(
        self,
        name: str = "lab-1",
        *,
        persons: tuple[Person, ...] = (),
        prompt: Any = None,
        id: str | None = None,
    ) -> Machine:
        machine = Machine(self, name, self.directory / f"disk-{len(self.machines)}", persons, prompt)
        if id is not None:
            machine.id = id
        self.machines.append(machine)
        return machine

    async def order(self, action: Action, *targets: str, **changes: Any) -> JobView:
        request = JobRequest(action=action, targets=targets or ("lab-1",), **changes)
        return await self.control.create_job(request)

    async def execution(self, job: JobView) -> Execution:
        """The only execution of a job as it is now."""
        [execution] = (await self.control.job(job.job.id)).executions
        return execution

    async def reached(self, job: JobView, state: ExecutionState) -> Execution:
        """Wait for a state."""

        async def is_there() -> Execution | None:
            execution = await self.execution(job)
            assert execution.state is state or not execution.state.is_final or execution.state.has_started, (
                execution
            )
            return execution if execution.state is state else None

        return await wait_until(is_there, f"{job.job.action.value} to be {state.value}")

    async def passed(self, job: JobView, state: ExecutionState) -> None:
        """Wait for a state that may have passed already."""

        async def is_passed() -> bool:
            return state.value in await self.steps(job)

        await wait_until(is_passed, f"{job.job.action.value} to have been {state.value}")

    async def over(self, job: JobView) -> Execution:
        """Wait for the end."""

        async def is_over() -> Execution | None:
            execution = await self.execution(job)
            return execution if execution.state.is_final else None

        return await wait_until(is_over, f"the end of {job.job.action.value}")

    async def steps(self, job: JobView) -> list[str]:
        """The states an execution went through."""
        return [event.state.value for event in (await self.control.job(job.job.id)).events]

    def _joined(self, line: landline.Line, machine: KnownMachine) -> None:
        self.joins[machine.id] = self.joins.get(machine.id, 0) + 1


@pytest.fixture
def until() -> Callable[..., Awaitable[Any]]:
    """Wait for a condition; fail after 20 s."""
    return wait_until


@pytest.fixture
def person() -> type[ScriptedPerson]:
    return ScriptedPerson


@pytest.fixture
def crashed() -> type[Crashed]:
    return Crashed


@pytest.fixture
def ada() -> Person:
    return ADA


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """A control server that is not started yet; ended with all its machines."""
    it = Fleet(tmp_path)
    try:
        yield it
    finally:
        for machine in it.machines:
            if machine.task is not None and not machine.task.done():
                await machine.kill_agent()
            if machine.task is not None and not machine.task.cancelled():
                with contextlib.suppress(Exception):
                    machine.task.result()
        if it.is_running:
            await it.stop()
        it.closing.close()
