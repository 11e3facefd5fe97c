"""Agents that are killed or frozen in the middle of a job: it is done at most once, and the report is true."""

import os
import re
import signal
import time

import pytest

from landline.fleet.model import Action, ExecutionState, PresenceState


@pytest.fixture
def machine(fleet, request):
    """A machine for one test."""
    machine = fleet.machine(re.sub(r"\W+", "-", request.node.name)[:60].strip("-").replace("_", "-"))
    fleet.control.shows(machine.name, PresenceState.ONLINE)
    yield machine
    machine.end()


def test_killed_before_it_hears_of_the_job(fleet, machine):
    machine.agent.kill()
    job = fleet.control.order(Action.LOG_OFF, machine.name, message="once")
    machine.start()
    assert fleet.control.ended(job).state is ExecutionState.DONE
    assert machine.acts == ["once"]


def test_killed_during_the_countdown(fleet, machine):
    job = fleet.control.order(Action.LOG_OFF, machine.name, message="once", delay_s=3.0)
    fleet.control.reaches(job, ExecutionState.DELIVERED)
    machine.agent.kill()
    machine.start()
    assert fleet.control.ended(job).state is ExecutionState.DONE
    assert machine.acts == ["once"]


@pytest.mark.parametrize("action", [Action.LOG_OFF, Action.SHUT_DOWN])
def test_killed_while_its_command_runs(fleet, machine, poll, action):
    machine.shut_gate()
    job = fleet.control.order(action, machine.name, message="once")
    poll(lambda: machine.acts)
    machine.agent.kill()
    machine.start()
    ended = fleet.control.ended(job)
    assert ended.state is ExecutionState.UNKNOWN
    assert "the agent stopped while it acted" in ended.detail
    assert "not repeated" in ended.detail
    machine.open_gate()
    poll(lambda: machine.ended)
    assert is_useful(fleet, machine)
    assert machine.acts == ["once", "another"]
    assert fleet.control.execution(job).state is ExecutionState.UNKNOWN


def test_killed_when_its_command_has_ended_and_nothing_is_recorded(fleet, machine, poll):
    machine.shut_gate()
    job = fleet.control.order(Action.LOG_OFF, machine.name, message="once")
    poll(lambda: machine.acts)
    machine.agent.freeze()
    machine.open_gate()
    poll(lambda: machine.ended)
    machine.agent.kill()
    machine.start()
    assert fleet.control.ended(job).state is ExecutionState.UNKNOWN
    assert is_useful(fleet, machine)
    assert machine.acts == ["once", "another"]


def test_killed_when_the_outcome_is_recorded_and_not_reported(fleet, machine, poll):
    machine.shut_gate()
    job = fleet.control.order(Action.LOG_OFF, machine.name, message="once")
    fleet.control.reaches(job, ExecutionState.ACTING)
    poll(lambda: machine.acts)
    fleet.control.program.freeze()
    try:
        machine.open_gate()
        poll(lambda: '"done"' in machine.journal.read_text())
        machine.agent.kill()
    finally:
        fleet.control.program.thaw()
    machine.start()
    assert fleet.control.ended(job).state is ExecutionState.DONE
    assert machine.acts == ["once"]


def test_restarted_by_a_command_that_restarts_nothing(fleet, machine, poll):
    job = fleet.control.order(Action.RESTART, machine.name, message="once")
    poll(lambda: machine.ended)
    assert fleet.control.execution(job).state is ExecutionState.ACTING
    machine.agent.kill()
    machine.start()
    ended = fleet.control.ended(job)
    assert ended.state is ExecutionState.UNKNOWN
    assert "was not restarted since" in ended.detail
    assert machine.acts == ["once"]


@pytest.mark.parametrize("action", [Action.RESTART, Action.SHUT_DOWN])
def test_terminated_by_the_system_together_with_its_command(fleet, machine, poll, action):
    """systemd sends SIGTERM to all processes of a service. Here the machine stays up, so the job did not happen."""
    machine.shut_gate()
    job = fleet.control.order(action, machine.name, message="once")
    poll(lambda: machine.acts)
    for pid in machine.pids:
        os.killpg(pid, signal.SIGTERM)
    assert machine.agent.ends(signal.SIGTERM) == 0
    assert fleet.control.execution(job).state is ExecutionState.ACTING
    machine.start()
    ended = fleet.control.ended(job)
    assert ended.state is ExecutionState.UNKNOWN
    assert f"the machine was not {action.past} since" in ended.detail
    machine.open_gate_if_shut()
    assert is_useful(fleet, machine)
    assert machine.acts == ["once", "another"]


def test_frozen_for_longer_than_the_job_is_valid(fleet, machine):
    job = fleet.control.order(Action.LOG_OFF, machine.name, message="too late", delay_s=1.5, valid_for_s=1.0)
    fleet.control.reaches(job, ExecutionState.DELIVERED)
    machine.agent.freeze()
    assert fleet.control.ended(job).state is ExecutionState.EXPIRED
    machine.agent.thaw()
    assert is_useful(fleet, machine)
    assert machine.acts == ["another"]
    assert fleet.control.execution(job).state is ExecutionState.EXPIRED


def test_control_server_frozen_while_the_countdown_ends(fleet, machine):
    job = fleet.control.order(Action.LOG_OFF, machine.name, message="once", delay_s=1.5)
    due_at = fleet.control.reaches(job, ExecutionState.DELIVERED).due_at
    freeze_until(fleet, due_at + 0.5)
    assert fleet.control.ended(job).state is ExecutionState.DONE
    assert machine.acts == ["once"]


def test_control_server_frozen_for_longer_than_the_job_is_valid(fleet, machine):
    job = fleet.control.order(Action.LOG_OFF, machine.name, message="too late", delay_s=1.5, valid_for_s=1.0)
    expires_at = fleet.control.reaches(job, ExecutionState.DELIVERED).expires_at
    freeze_until(fleet, expires_at)
    assert fleet.control.ended(job).state is ExecutionState.EXPIRED
    assert is_useful(fleet, machine)
    assert machine.acts == ["another"]


def is_useful(fleet, machine) -> bool:
    """Check that the machine carries out the next job; then it has finished everything before."""
    job = fleet.control.order(Action.LOG_OFF, machine.name, message="another")
    return fleet.control.ended(job).state is ExecutionState.DONE


def freeze_until(fleet, moment: float) -> None:
    fleet.control.program.freeze()
    try:
        while (left := moment - time.time()) > 0:
            time.sleep(left)
    finally:
        fleet.control.program.thaw()
