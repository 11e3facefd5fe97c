"""The power back end of a machine that does not exist."""

from __future__ import annotations

import asyncio

import pytest
from tests.fleet.agent.power.permits import permit

from landline.fleet.agent.power import PowerBackend, SystemShutdown
from landline.fleet.agent.power.simulated import SimulatedPower
from landline.fleet.model import Action, Person

ADA, GRACE = Person("ada", "seat0"), Person("grace", "pts/0", is_remote=True)


async def test_persons_come_and_are_logged_off() -> None:
    calls = []
    power = SimulatedPower((ADA,), logged_off=lambda: calls.append("logged off"))
    power.log_on(GRACE)
    assert await power.persons() == (ADA, GRACE)
    await power.act(Action.LOG_OFF, reason="", permit=permit())
    assert await power.persons() == ()
    assert calls == ["logged off"]
    assert power.going is None


async def test_logging_off_needs_nobody_to_tell() -> None:
    power = SimulatedPower((ADA,))
    await power.act(Action.LOG_OFF, reason="", permit=permit())
    assert await power.persons() == ()


@pytest.mark.parametrize("action", [Action.RESTART, Action.SHUT_DOWN])
async def test_going_down_is_announced(action: Action) -> None:
    power: PowerBackend = SimulatedPower((ADA,))
    assert isinstance(power, SimulatedPower)
    await power.open()
    waiting = asyncio.create_task(power.wait_for_shutdown())
    await asyncio.sleep(0)
    assert not waiting.done()
    await power.act(action, reason="updates", permit=permit())
    await waiting
    assert power.going is action
    assert await power.pending_shutdown() == SystemShutdown(action)
    await power.release_shutdown()
    power.terminate = lambda: ended.append("the agent")
    ended: list[str] = []
    await power.release_shutdown()
    assert ended == ["the agent"]
    power.call_off()
    await power.wait_for_cancellation()
    await power.release_shutdown()
    assert await power.pending_shutdown() is None
    assert ended == ["the agent"]
    await power.close()
    await power.close()


async def test_only_waking_cannot_be_done() -> None:
    power = SimulatedPower()
    refusals = {action: await power.unsupported_reason(action) for action in Action}
    assert refusals.pop(Action.WAKE) == "a machine that is on cannot be woken"
    assert set(refusals.values()) == {None}
