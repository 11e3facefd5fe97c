"""The executor without a connection: consent, permit, journal, action and outcome of one order."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from landline import RequestError
from landline.fleet.agent.consent import Act
from landline.fleet.agent.executor import Executor, done_detail
from landline.fleet.agent.journal import Entry, Journal
from landline.fleet.agent.journal_file import JournalError
from landline.fleet.agent.power import OutcomeUnknown, PowerError
from landline.fleet.agent.power.simulated import SimulatedPower
from landline.fleet.agent.shutdown_watch import ShutdownState
from landline.fleet.agent.timing import AgentTiming
from landline.fleet.messages import Grant, KnownExecution, Order
from landline.fleet.model import Action, ExecutionState, Facts, Person

S = ExecutionState
AGREED = Act("ada agreed")
FREE = Act("no person is logged on", is_free=True)
ADA = Person("ada", "seat0")


def order(action: Action = Action.LOG_OFF, execution_id: str = "job-1") -> Order:
    return Order(
        execution_id=execution_id,
        action=action,
        requested_by="root",
        message="updates",
        due_in_s=0.0,
        has_delay=False,
        expires_in_s=60.0,
        may_cancel=True,
        may_postpone=True,
    )


class FakeFacts:
    """The facts of a machine; ``persons`` may change at any time."""

    def __init__(self) -> None:
        self.persons: tuple[Person, ...] = ()

    @property
    def current(self) -> Facts:
        return Facts(name="lab-1", boot_id="boot-1", persons=self.persons, knows_persons=True)

    async def read(self) -> Facts:
        return self.current

    async def report(self) -> Facts:
        return self.current


class FakeReports:
    """Records the states that are noted and reported; grants every claim unless a test decides otherwise."""

    def __init__(self) -> None:
        self.held: dict[str, KnownExecution] = {}
        self.states: list[tuple[ExecutionState, str]] = []
        self.repeated: list[str] = []
        self.grants = [Grant(True, valid_s=10.0)]

    def note(self, order: Order, state: ExecutionState, detail: str = "") -> KnownExecution:
        self.states.append((state, detail))
        known = self.held[order.execution_id] = KnownExecution(order.execution_id, state, detail)
        return known

    async def report(self, order: Order, state: ExecutionState, detail: str = "") -> None:
        self.note(order, state, detail)
        if state.is_final:
            self.drop(order.execution_id)

    async def send(self, known: KnownExecution) -> None:
        self.repeated.append(known.id)

    def is_reporting(self, execution_id: str) -> bool:
        return False

    async def claim(self, order: Order, detail: str) -> Grant:
        self.note(order, S.ACCEPTED, detail)
        return self.grants.pop(0) if len(self.grants) > 1 else self.grants[0]

    def drop(self, execution_id: str) -> None:
        self.held.pop(execution_id, None)

    def forget_record(self, execution_id: str) -> None:
        pass


class FakeConsent:
    def __init__(self, *steps: Act | None) -> None:
        self.steps = list(steps)

    async def obtain(self, order: Order, terms: Any) -> Act | None:
        return self.steps.pop(0)


class RecordingPower(SimulatedPower):
    """Records every action together with the state that the journal had at that moment."""

    def __init__(self) -> None:
        super().__init__()
        self.journal: Journal | None = None
        self.acted: list[tuple[Action, ExecutionState | None]] = []
        self.error: PowerError | None = None

    async def act(self, action: Action, *, reason: str, permit: Any) -> None:
        permit.check()
        assert self.journal is not None
        entry = self.journal.find("job-1")
        self.acted.append((action, entry.state if entry else None))
        if self.error is not None:
            raise self.error


class Setup:
    """An executor with doubles for everything but the journal."""

    def __init__(self, directory: Path, *consents: Act | None, **timing: float) -> None:
        self.journal = Journal.open(directory / "journal.jsonl")
        self.power = RecordingPower()
        self.power.journal = self.journal
        self.facts = FakeFacts()
        self.reports = FakeReports()
        self.shutdown = ShutdownState()
        self.now_s = 0.0
        self.tasks: list[asyncio.Task[None]] = []
        self.executor = Executor(
            power=self.power,
            journal=self.journal,
            facts=self.facts,  # type: ignore[arg-type]
            reports=self.reports,  # type: ignore[arg-type]
            consent_process=FakeConsent(*(consents or (AGREED,))),  # type: ignore[arg-type]
            shutdown=self.shutdown,
            boot_clock=lambda: self.now_s,
            start=self._start,
            is_ending=lambda: False,
            timing=AgentTiming(**timing),
            orders_max=2,
        )

    def _start(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.append(task)
        return task

    async def carry_out(self, action: Action = Action.LOG_OFF) -> list[tuple[ExecutionState, str]]:
        """Carries an order out to its end; returns the states after its delivery."""
        self.executor.receive_order(order(action))
        await asyncio.gather(*self.tasks)
        return self.reports.states[1:]


async def test_the_beginning_is_in_the_journal_before_the_action(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    states = await setup.carry_out()
    assert setup.power.acted == [(Action.LOG_OFF, S.ACTING)]
    assert states == [
        (S.ACCEPTED, "ada agreed"),
        (S.ACTING, ""),
        (S.DONE, "no person was logged on"),
    ]
    entry = setup.journal.find("job-1")
    assert entry == Entry("job-1", Action.LOG_OFF, S.DONE, "boot-1", "no person was logged on")


async def test_without_a_journal_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(tmp_path)

    def fail(entry: Entry) -> None:
        raise JournalError("the disk is full")

    monkeypatch.setattr(setup.journal, "record", fail)
    assert (await setup.carry_out())[-1] == (S.FAILED, "nothing was done: the disk is full")
    assert setup.power.acted == []
    assert setup.executor.acting is None


async def test_a_refused_claim_ends_the_order_without_a_report(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.reports.grants = [Grant(False, "it expired")]
    assert await setup.carry_out() == [(S.ACCEPTED, "ada agreed")]
    assert setup.power.acted == []
    assert setup.reports.held == {}


async def test_a_permit_that_expired_on_its_way_is_asked_for_again(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.reports.grants = [Grant(True, valid_s=-0.1), Grant(True, valid_s=0.5)]
    states = await setup.carry_out()
    assert [state for state, _ in states] == [S.ACCEPTED, S.ACCEPTED, S.ACTING, S.DONE]
    assert len(setup.power.acted) == 1


async def test_a_permit_is_valid_up_to_its_last_moment_and_not_used_after_it(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.reports.grants = [Grant(True, valid_s=0.0)]
    states = await setup.carry_out()
    # The claim was answered in time, but no time is left for the action.
    assert states[-1] == (
        S.FAILED,
        "nothing was done: the permission to act expired during the preparations",
    )
    assert setup.power.acted == []


async def test_a_person_who_logs_on_after_the_claim_stops_an_action_without_consent(tmp_path: Path) -> None:
    setup = Setup(tmp_path, FREE)
    setup.facts.persons = (ADA,)
    assert (await setup.carry_out())[-1] == (
        S.FAILED,
        "nothing was done: no person was logged on, and now ada is",
    )
    assert setup.power.acted == []


async def test_a_person_who_agreed_may_be_logged_on(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.facts.persons = (ADA,)
    assert (await setup.carry_out())[-1] == (S.DONE, "")


@pytest.mark.parametrize("action", [Action.RESTART, Action.SHUT_DOWN])
async def test_an_accepted_shutdown_that_is_not_announced_is_unknown(tmp_path: Path, action: Action) -> None:
    setup = Setup(tmp_path, shutdown_start_timeout_s=0.0)
    assert (await setup.carry_out(action))[-1] == (
        S.UNKNOWN,
        "the system accepted it and announced nothing in 0 s",
    )
    assert (setup.executor.acting, setup.executor.accepted) == (None, None)


async def test_a_shutdown_that_is_cancelled_has_failed(tmp_path: Path) -> None:
    setup = Setup(tmp_path, shutdown_start_timeout_s=3600.0)
    ending = asyncio.ensure_future(setup.carry_out(Action.RESTART))
    while setup.executor.accepted is None:
        await asyncio.sleep(0)
    assert setup.executor.accepted == ("job-1", Action.RESTART)
    setup.shutdown.announce()
    await asyncio.sleep(0)
    setup.shutdown.cancel()
    assert (await ending)[-1] == (S.FAILED, "it was called off on the machine")


async def test_nothing_begins_during_a_shutdown(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.shutdown.announce()
    ending = asyncio.ensure_future(setup.carry_out())
    for _ in range(20):
        await asyncio.sleep(0)
    # Accepted already, as the claim may be long in coming.
    assert setup.reports.states == [(S.DELIVERED, ""), (S.ACCEPTED, "ada agreed")]
    setup.shutdown.cancel()
    assert (await ending)[-1][0] is S.DONE


async def test_a_person_who_logs_on_during_a_shutdown_is_asked(tmp_path: Path) -> None:
    setup = Setup(tmp_path, FREE, AGREED)
    setup.shutdown.announce()
    ending = asyncio.ensure_future(setup.carry_out())
    for _ in range(20):
        await asyncio.sleep(0)
    setup.facts.persons = (ADA,)
    setup.shutdown.cancel()
    # The first consent is void; the second comes from the person.
    assert await ending == [(S.ACCEPTED, "ada agreed"), (S.ACTING, ""), (S.DONE, "")]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (PowerError("an inhibitor holds it"), S.FAILED),
        (OutcomeUnknown("logind did not answer"), S.UNKNOWN),
    ],
)
async def test_an_error_of_the_back_end_is_the_outcome(
    tmp_path: Path, error: PowerError, state: ExecutionState
) -> None:
    setup = Setup(tmp_path, uncertain_timeout_s=0.0)
    setup.power.error = error
    assert (await setup.carry_out(Action.RESTART))[-1] == (state, str(error))
    entry = setup.journal.find("job-1")
    assert entry is not None
    assert (entry.state, entry.detail) == (state, str(error))
    assert setup.executor.acting is None


async def test_what_the_machine_cannot_do_is_refused(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    assert await setup.carry_out(Action.WAKE) == [(S.REFUSED, "a machine that is on cannot be woken")]


async def test_an_order_from_before_a_restart_of_the_agent_is_only_reported(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.journal.record(Entry("job-1", Action.LOG_OFF, S.ACTING, "boot-0"))
    setup.executor.receive_order(order())
    await asyncio.gather(*setup.tasks)
    assert setup.reports.repeated == ["job-1"]
    assert setup.power.acted == []


async def test_the_last_order_that_fits_is_accepted_and_the_next_refused(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.shutdown.announce()
    for number in range(2):
        setup.executor.receive_order(order(execution_id=f"job-{number}"))
    with pytest.raises(RequestError, match="the machine holds 2 jobs, and takes more when some are over"):
        setup.executor.receive_order(order(execution_id="job-2"))
    assert setup.executor.withdraw("job-0")
    assert setup.executor.withdraw("job-1")
    assert not setup.executor.withdraw("job-2")
    setup.executor.receive_order(order(execution_id="job-3"))
    assert setup.executor.withdraw("job-3")
    await asyncio.gather(*setup.tasks, return_exceptions=True)
    assert setup.power.acted == []


@pytest.mark.parametrize(
    ("action", "power_name", "was_free", "detail"),
    [
        (Action.LOG_OFF, "logind", True, "no person was logged on"),
        (Action.LOG_OFF, "logind", False, ""),
        (Action.LOG_OFF, "dry-run", True, "dry run: nothing was done"),
        (Action.RESTART, "dry-run", False, "dry run: nothing was done"),
        (Action.RESTART, "command", True, None),
        (Action.SHUT_DOWN, "logind", False, None),
    ],
)
def test_what_is_done_when_the_back_end_returns(
    action: Action, power_name: str, was_free: bool, detail: str | None
) -> None:
    assert done_detail(action, power_name, was_free=was_free) == detail
