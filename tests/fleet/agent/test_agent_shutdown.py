"""Agents on a system that shuts down, and on one whose shutdown is cancelled."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.fleet.conftest import Switch

from landline.fleet.agent.power import OutcomeUnknown, PowerError
from landline.fleet.agent.prompt import Answer, Choice
from landline.fleet.messages import Goodbye
from landline.fleet.model import Action, Cause, ExecutionState, PresenceState

NOW = Answer(choice=Choice.NOW)
CANCEL = Answer(choice=Choice.CANCEL)
TIMED_OUT = Answer(choice=Choice.TIMED_OUT)


def postpone(seconds: float) -> Answer:
    return Answer(choice=Choice.POSTPONE, postpone_s=seconds)


@pytest.mark.parametrize("action", [Action.RESTART, Action.SHUT_DOWN])
async def test_a_cancelled_shutdown_has_failed_and_the_machine_stays(fleet, action: Action, until) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.may_go.clear()
    await machine.boot()
    job = await fleet.order(action)
    await machine.shown(PresenceState.AWAY)
    waiting = await fleet.order(Action.LOG_OFF, queue_for_s=3600.0)
    assert (await fleet.execution(job)).state is ExecutionState.ACTING
    machine.power.call_off()
    failed = await fleet.over(job)
    assert (failed.state, failed.detail) == (ExecutionState.FAILED, "it was called off on the machine")
    await machine.shown(PresenceState.ONLINE)
    assert not machine.task.done()
    # It is managed as before: what waited for it is done, and so is what comes after.
    assert (await fleet.over(waiting)).state is ExecutionState.DONE
    machine.may_go.set()
    again = await fleet.order(action)
    await machine.ended()
    if action is Action.RESTART:
        await machine.boot()
    assert (await fleet.over(again)).state is ExecutionState.DONE
    assert machine.acted == [action, Action.LOG_OFF, action]


async def test_a_cancelled_shutdown_without_a_job_changes_nothing(fleet) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.may_go.clear()
    await machine.boot()
    machine.power.go_down(Action.SHUT_DOWN)
    await machine.shown(PresenceState.AWAY)
    machine.power.call_off()
    await machine.shown(PresenceState.ONLINE)
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is ExecutionState.DONE


async def test_a_shutdown_cancelled_while_the_line_is_broken_is_taken_back(fleet, until) -> None:
    # The control server that is started again gives it as much time as any other.
    fleet.control_timing = msgspec.structs.replace(fleet.control_timing, gone_grace_s=3600.0)
    await fleet.start()
    machine = fleet.machine()
    machine.may_go.clear()
    await machine.boot()
    job = await fleet.order(Action.SHUT_DOWN)
    await machine.shown(PresenceState.AWAY)
    await fleet.kill()
    machine.power.call_off()
    await fleet.start()
    assert (await fleet.over(job)).detail == "it was called off on the machine"
    await machine.shown(PresenceState.ONLINE)


async def test_an_agent_that_starts_again_in_the_same_boot_proves_no_shutdown(fleet) -> None:
    """The goodbye was said and the line ended; the system gave up its shutdown, and started the agent again."""
    fleet.control_timing = msgspec.structs.replace(fleet.control_timing, gone_grace_s=3600.0)
    await fleet.start()
    machine = await fleet.machine().boot()
    job = await fleet.order(Action.SHUT_DOWN)
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    assert (await fleet.execution(job)).state is ExecutionState.ACTING
    await machine.start_agent()
    unknown = await fleet.over(job)
    assert unknown.state is ExecutionState.UNKNOWN
    assert "was not shut down since" in unknown.detail
    await machine.shown(PresenceState.ONLINE)


async def test_a_goodbye_is_repeated_for_a_control_server_that_lost_the_session(fleet) -> None:
    await fleet.start()
    machine = fleet.machine()
    machine.may_go.clear()
    await machine.boot()
    await fleet.stop()
    machine.power.go_down(Action.SHUT_DOWN)
    await fleet.start()
    await machine.shown(PresenceState.AWAY)


async def test_a_shutdown_does_not_wait_for_an_unreachable_control_server(fleet, monkeypatch) -> None:
    fleet.set_timing(goodbye_timeout_s=3600.0)
    await fleet.start()
    machine = await fleet.machine().boot()
    await fleet.stop()
    released = asyncio.Event()
    monkeypatch.setattr(machine.power, "release_shutdown", lambda: release(released))
    machine.power.go_down(Action.SHUT_DOWN)
    async with asyncio.timeout(10):
        await released.wait()


async def release(released: asyncio.Event) -> None:
    released.set()


@pytest.mark.parametrize("action", [Action.RESTART, Action.SHUT_DOWN])
async def test_the_next_boot_settles_a_job_whose_agent_and_power_command_were_ended_together(
    fleet, action: Action, until
) -> None:
    """As under systemd: the shutdown ends the command before it can answer, and the agent too."""
    await fleet.start()
    machine = fleet.machine()
    machine.fails_before_acting = OutcomeUnknown("shutdown was ended by SIGTERM.")
    await machine.boot()
    job = await fleet.order(action)
    await fleet.reached(job, ExecutionState.ACTING)
    await until(lambda: machine.agent.acting)
    machine.power.going = action  # What systemd says when it is asked.
    machine.agent.stop()
    goodbye = await machine.ended()
    assert goodbye.cause is (Cause.RESTARTING if action is Action.RESTART else Cause.SHUT_DOWN)
    assert goodbye.execution_id == job.executions[0].id
    if action is Action.RESTART:
        assert (await machine.shown(PresenceState.AWAY)).presence.cause is Cause.RESTARTING
        machine.fails_before_acting = None
        await machine.boot()
    assert (await fleet.over(job)).state is ExecutionState.DONE


async def test_the_next_boot_settles_a_job_whose_agent_was_ended_while_its_command_ran(fleet, until) -> None:
    """The agent does not know of the shutdown."""
    await fleet.start()
    machine = fleet.machine()
    machine.may_act.clear()
    await machine.boot()
    job = await fleet.order(Action.RESTART)
    await fleet.reached(job, ExecutionState.ACTING)
    await until(lambda: machine.agent.acting)
    machine.agent.stop()
    goodbye = await machine.ended()
    assert goodbye == Goodbye(
        Cause.AGENT_STOPPED, "stopped while the machine was to be restarted", job.executions[0].id
    )
    assert (await fleet.execution(job)).state is ExecutionState.ACTING
    machine.may_act.set()
    await machine.boot()
    assert (await fleet.over(job)).state is ExecutionState.DONE


class Silent(Switch):
    """Accepts an order and announces nothing; does not tell whether the system is shutting down."""

    def go_down(self, action: Action) -> None:
        pass

    async def pending_shutdown(self):
        raise PowerError("this system does not tell whether it is shutting down")


@pytest.mark.parametrize("action", [Action.RESTART, Action.SHUT_DOWN])
async def test_an_agent_that_does_not_know_of_a_shutdown_does_not_report_one(
    fleet, action: Action, until
) -> None:
    """It was stopped for an upgrade, say, after a command that returned 0 and did nothing."""
    await fleet.start()
    machine = fleet.machine()
    await machine.boot(power=Silent(machine))
    job = await fleet.order(action)
    await until(lambda: machine.agent.accepted)
    machine.agent.stop()
    goodbye = await machine.ended()
    detail = f"stopped while the machine was to be {action.past}"
    assert goodbye == Goodbye(Cause.AGENT_STOPPED, detail, job.executions[0].id)
    await machine.shown(PresenceState.OFFLINE)
    assert (await fleet.execution(job)).state is ExecutionState.ACTING
    await machine.start_agent()
    assert (await fleet.over(job)).state is ExecutionState.UNKNOWN
    await machine.kill_agent()
    await machine.boot()
    await fleet.reached(job, ExecutionState.DONE)


@pytest.mark.parametrize("action", [Action.RESTART, Action.SHUT_DOWN])
async def test_an_accepted_order_without_effect_is_unknown_and_delays_nothing(
    fleet, action: Action, until
) -> None:
    fleet.set_timing(shutdown_start_timeout_s=0.05)
    fleet.orders_max = 1
    await fleet.start()
    machine = fleet.machine()
    await machine.boot(power=Silent(machine))
    job = await fleet.order(action)
    unknown = await fleet.over(job)
    assert (unknown.state, unknown.detail) == (
        ExecutionState.UNKNOWN,
        "the system accepted it and announced nothing in 0.05 s",
    )
    await until(lambda: machine.agent.held_executions == 0)
    # It is on record, and the one place for a job is free again.
    entry = machine.journal.find(job.executions[0].id)
    assert entry is not None
    assert entry.state is ExecutionState.UNKNOWN
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is ExecutionState.DONE
    await machine.kill_agent()
    await machine.boot()
    await fleet.reached(job, ExecutionState.DONE)


async def test_the_power_back_end_is_opened_again_soon(fleet, until) -> None:
    fleet.set_timing(power_retry_first_s=0.01, power_retry_cap_s=0.02)

    class Losing(Switch):
        opened = 0

        async def open(self) -> None:
            self.opened += 1
            if 1 < self.opened < 4:
                raise PowerError("no bus")

        async def wait_for_shutdown(self):
            if self.opened < 4:
                raise PowerError("the bus is gone")
            return await super().wait_for_shutdown()

    await fleet.start()
    machine = fleet.machine()
    power = Losing(machine)
    await machine.boot(power=power)
    await until(lambda: power.opened == 4)
    power.go_down(Action.RESTART)
    assert (await machine.ended()).cause is Cause.RESTARTING
