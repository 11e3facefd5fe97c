"""A small simulated fleet in this process: all machines come online and act, and the counts agree."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from landline import Backoff, Server, SharedToken
from landline.fleet.agent.prompt import Choice, Question
from landline.fleet.api import JobRequest
from landline.fleet.control.control_server import ControlServer, ControlTiming
from landline.fleet.control.storage import Storage
from landline.fleet.control.wake_on_lan import MagicPackets
from landline.fleet.demo import simulated_machines as simulated
from landline.fleet.demo.message_count import MESSAGE_NAME, MessageCount, compare_counts
from landline.fleet.demo.simulated_machines import FleetPlan, SimulatedPerson, run_fleet
from landline.fleet.model import Action, ExecutionState, PresenceState

TOKEN = "the token of a simulated fleet"
MACHINES = 4


@pytest.mark.parametrize("may", [True, False])
async def test_a_simulated_person_answers_only_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, may: bool
) -> None:
    waited = []

    async def no_sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(simulated.asyncio, "sleep", no_sleep)
    person = SimulatedPerson(random.Random(1))
    question = Question(
        action=Action.RESTART, requested_by="", message="", countdown_s=2.0, may_cancel=may, may_postpone=may
    )
    choices = {(await person.ask(question)).choice for _ in range(200)}
    assert choices == (set(Choice) if may else {Choice.NOW, Choice.TIMED_OUT})
    assert max(waited) <= question.countdown_s


async def test_a_small_fleet_lives(tmp_path: Path, until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "RESTART_S", (0.01, 0.02))
    monkeypatch.setattr(simulated, "Backoff", lambda **_: Backoff(first_s=0.01, cap_s=0.05))
    # Nobody is on: no countdowns to sit through.
    monkeypatch.setattr(simulated, "PERSONS", (None,))
    storage = await Storage.open(tmp_path / "landline.db")
    server = Server(auth=SharedToken(TOKEN))
    waker = MagicPackets(host="127.0.0.1")
    control = await ControlServer.start(
        server, storage, waker=waker, timing=ControlTiming(gone_grace_s=0.1, wake_every_s=0.05)
    )
    counts = MessageCount()

    def receive(line, number: int) -> None:
        counts.receive(line, number)
        if line.data is not None:
            counts.send(line)

    def lost(line, unconfirmed) -> None:
        counts.note_unconfirmed(line, sum(message.name == MESSAGE_NAME for message in unconfirmed))

    server.on(MESSAGE_NAME, int)(receive)
    server.on_session_lost(lost)
    may_cut, the_end = asyncio.Event(), asyncio.Event()
    ready = asyncio.get_running_loop().create_future()

    def online() -> int:
        return sum(machine.presence.state is PresenceState.ONLINE for machine in control.machines())

    async def done(action: Action, *targets: str) -> None:
        job = await control.create_job(JobRequest(action=action, targets=targets))

        async def is_over() -> bool:
            executions = (await control.job(job.job.id)).executions
            assert all(not each.state.is_final or each.state is ExecutionState.DONE for each in executions)
            return all(each.state.is_final for each in executions)

        await until(is_over, f"the end of {action.value}")

    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        plan = FleetPlan(
            url=str(endpoint),
            token=TOKEN,
            machines=MACHINES,
            seed=7,
            directory=str(tmp_path),
            count_every_s=0.02,
            cut_every_s=0.05,
        )
        fleet = asyncio.create_task(run_fleet(plan, ready, may_cut, the_end))
        waker.port = await ready
        await until(lambda: online() == MACHINES, "all machines")
        boots = {machine.id: machine.facts.boot_id for machine in control.machines()}
        await done(Action.LOG_OFF, "sim-01")
        await done(Action.RESTART, "sim-02")
        await done(Action.SHUT_DOWN, "sim-03")
        await until(lambda: online() == MACHINES - 1)
        await done(Action.WAKE, "sim-03")
        await until(lambda: online() == MACHINES)
        changed = {
            machine.name for machine in control.machines() if machine.facts.boot_id != boots[machine.id]
        }
        assert changed == {"sim-02", "sim-03"}
        may_cut.set()
        await until(lambda: control.resumes >= 5)
        the_end.set()
        result = await fleet
    await control.stop()
    await storage.close()
    assert result.links_cut >= 5
    counted = compare_counts(result.sessions, counts.sessions)
    assert counted.messages_sent > 20
    assert (counted.messages_lost, counted.messages_duplicated) == (0, 0)
    assert all(
        (tmp_path / f"sim-{number:02d}" / "journal.jsonl").exists() for number in range(1, MACHINES + 1)
    )


async def test_a_fleet_that_is_cancelled_ends(tmp_path: Path, until) -> None:
    # One that is cancelled in its handshake leaves a session that waits to be resumed.
    server = Server(auth=SharedToken(TOKEN), resume_window_s=0.1)
    joins = []

    def receive_join(line, body: dict) -> dict[str, str]:
        joins.append(body["facts"]["name"])
        return {"name": joins[-1]}

    server.on("join")(receive_join)
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        plan = FleetPlan(url=str(endpoint), token=TOKEN, machines=2, seed=1, directory=str(tmp_path))
        ready = asyncio.get_running_loop().create_future()
        fleet = asyncio.create_task(run_fleet(plan, ready, asyncio.Event(), asyncio.Event()))
        await ready
        await until(lambda: sorted(joins) == ["sim-01", "sim-02"])
        fleet.cancel()
        await asyncio.wait([fleet])
        assert fleet.cancelled()
        await until(lambda: not server.lines)


def test_a_shy_person_can_be_asked_half_of_the_time() -> None:
    def reason_at(seconds: float, *, has_flaky_display: bool = True) -> str | None:
        person = SimulatedPerson(random.Random(1), has_flaky_display=has_flaky_display, clock=lambda: seconds)
        assert person.seat() == simulated.SEAT
        return person.unavailable_reason()

    shy_s = simulated.FLAKY_DISPLAY_S
    assert reason_at(0.0) == reason_at(shy_s - 0.1) == reason_at(2 * shy_s) == "no display"
    assert reason_at(shy_s) is reason_at(2 * shy_s - 0.1) is reason_at(0.0, has_flaky_display=False) is None
