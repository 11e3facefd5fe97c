"""A control server that is killed at the worst moments and restarted: no machine acts twice, no job is lost."""

import random
import re
import signal
import threading
import time

import pytest

from landline import Heartbeat
from landline.cli.retry import AnswerLost, ServerUnreachable
from landline.fleet.model import Action, ExecutionState, PresenceState

MOMENTS = (
    "accepted",
    "in the countdown",
    "as the countdown ends",
    "when the command has begun",
    "before the command ends, which it does alone",
    "when the command has ended",
)


HEARTBEAT = Heartbeat(interval_s=2.5, timeout_s=2.5)
"""Shorter than the default: agents notice a frozen server after 5 s instead of 15 s."""


@pytest.fixture(scope="module")
def fleet(directory, programs):
    with programs.run_fleet(directory, HEARTBEAT) as running:
        yield running


@pytest.fixture(scope="module")
def known_machines(fleet):
    return [fleet.machine(name) for name in ("busy", "patient", "away")]


@pytest.fixture
def machines(fleet, known_machines):
    """Three machines that are online; their agents are new, so their back-off is short."""
    for machine in known_machines:
        machine.end()
        machine.forget()
        machine.begin_to_start()
    for machine in known_machines:
        machine.joins(1)
        fleet.control.shows(machine.name, PresenceState.ONLINE)
    return known_machines


@pytest.mark.parametrize("moment", MOMENTS)
def test_every_job_is_done_once(fleet, machines, poll, moment):
    control = fleet.control
    busy, _, away = machines
    away.agent.ends(signal.SIGTERM)
    control.shows("away", PresenceState.OFFLINE)
    queued = control.order(Action.LOG_OFF, "away", message="queued", queue_for_s=60)
    counting = control.order(Action.LOG_OFF, "patient", message="counting", delay_s=2.0)
    control.reaches(counting, ExecutionState.DELIVERED)

    busy.shut_gate()
    if moment == "accepted":
        now = control.order(Action.LOG_OFF, "busy", message="now")
    elif moment == "in the countdown":
        now = control.order(Action.LOG_OFF, "busy", message="now", delay_s=1.5)
        control.reaches(now, ExecutionState.DELIVERED)
    elif moment == "as the countdown ends":
        now = control.order(Action.LOG_OFF, "busy", message="now", delay_s=0.2)
        due_at = control.execution(now).due_at
        poll(lambda: time.time() >= due_at)
    else:
        now = control.order(Action.LOG_OFF, "busy", message="now")
        poll(lambda: busy.acts)
        if moment == "when the command has ended":
            control.program.freeze()
            busy.open_gate()
            poll(lambda: '"done"' in busy.journal.read_text().splitlines()[-1])
    control.program.kill()
    if moment == "before the command ends, which it does alone":
        busy.open_gate()
        poll(lambda: busy.ended)

    control.start()
    control.shows("busy", PresenceState.ONLINE)
    control.shows("patient", PresenceState.ONLINE)
    assert control.execution(queued).state is ExecutionState.QUEUED
    if not busy.ended:
        poll(lambda: busy.acts)
        control.reaches(now, ExecutionState.ACTING)
        busy.open_gate()
    away.start()
    for job in (now, counting, queued):
        assert control.ended(job).state is ExecutionState.DONE, control.life(job)
    assert [machine.acts for machine in machines] == [["now"], ["counting"], ["queued"]]


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random(fleet, machines, seed):
    control = fleet.control
    rng = random.Random(seed)
    jobs = {}
    for round_number in range(2):
        for number, machine in enumerate(rng.choices(machines, k=3)):
            message = f"{seed}-{round_number}-{number}"
            delay_s = rng.choice((0.0, rng.uniform(0, 1.5)))
            jobs[message] = control.order(Action.LOG_OFF, machine.name, message=message, delay_s=delay_s)
        time.sleep(rng.uniform(0, 0.4))
        control.program.kill()
        control.start()
    for job in jobs.values():
        assert control.ended(job).state is ExecutionState.DONE, control.life(job)
    acts = [act for machine in machines for act in machine.acts]
    assert sorted(acts) == sorted(jobs)


@pytest.mark.parametrize("seed", range(2))
def test_killed_while_it_accepts_jobs(fleet, machines, poll, seed):
    """Accepted jobs exist after the restart, and are done; those without an answer are done once or never."""
    control = fleet.control
    rng = random.Random(seed)
    accepted: dict[str, str] = {}
    sent: list[str] = []

    def order_until_it_dies(machine) -> None:
        for number in range(100):
            message = f"{seed}-{machine.name}-{number}"
            sent.append(message)
            try:
                accepted[message] = control.order(Action.LOG_OFF, machine.name, message=message)
            except (ServerUnreachable, AnswerLost):
                return

    threads = [threading.Thread(target=order_until_it_dies, args=(machine,)) for machine in machines]
    for thread in threads:
        thread.start()
    enough = rng.randrange(1, 15)
    poll(lambda: len(accepted) >= enough)
    time.sleep(rng.uniform(0, 0.05))
    control.program.kill()
    for thread in threads:
        thread.join()
    control.start()
    for message, job in accepted.items():
        assert control.ended(job).state is ExecutionState.DONE, control.life(job)
        assert control.api.job(job).job.message == message
    # A job that was stored but not answered may be done too, after the others.
    open_jobs = [view.job.id for view in control.api.jobs(100) if view.job.message in sent]
    for job in open_jobs:
        control.ended(job)
    acts = [act for machine in machines for act in machine.acts]
    assert len(acts) == len(set(acts))
    assert set(accepted) <= set(acts) <= set(sent)


def test_frozen_for_longer_than_an_agent_waits(fleet, machines, poll):
    """The agents detect the silence and lose their links. When the server continues they reconnect, presence is true,
    and nothing is done twice: neither granted jobs, nor requests that arrive over the stale links."""
    control = fleet.control
    [busy, *_] = machines
    busy.shut_gate()
    acting = control.order(Action.LOG_OFF, "busy", message="acting")
    counting = control.order(Action.LOG_OFF, "patient", message="counting", delay_s=1.0)
    poll(lambda: busy.acts)
    control.reaches(acting, ExecutionState.ACTING)
    control.reaches(counting, ExecutionState.DELIVERED)
    control.program.freeze()
    try:
        busy.open_gate()
        for machine in machines:
            poll(lambda machine=machine: re.search(r"nothing heard for [5-9]", machine.agent.out))
    finally:
        control.program.thaw()
    assert control.ended(acting).state is ExecutionState.DONE
    assert control.ended(counting).state is ExecutionState.DONE
    for machine in machines:
        control.shows(machine.name, PresenceState.ONLINE)
        again = control.order(Action.LOG_OFF, machine.name, message="again")
        assert control.ended(again).state is ExecutionState.DONE
    assert [machine.acts for machine in machines] == [["acting", "again"], ["counting", "again"], ["again"]]


def test_request_repeated_after_the_death_of_the_server_is_the_same_job(fleet, machines):
    control = fleet.control
    [busy, *_] = machines
    job = control.order(Action.LOG_OFF, "busy", message="same", request_id="the same")
    control.program.kill()
    control.start()
    assert control.order(Action.LOG_OFF, "busy", message="same", request_id="the same") == job
    assert control.ended(job).state is ExecutionState.DONE
    assert control.order(Action.LOG_OFF, "busy", message="same", request_id="the same") == job
    assert busy.acts == ["same"]
