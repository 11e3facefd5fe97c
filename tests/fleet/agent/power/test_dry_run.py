from __future__ import annotations

import asyncio
import logging

import pytest
from tests.fleet.agent.power.permits import permit

from landline.fleet.agent.power import PowerBackend
from landline.fleet.agent.power.dry_run import DryRunPower
from landline.fleet.model import Action, Person


async def test_actions_are_remembered_and_logged_only(caplog: pytest.LogCaptureFixture) -> None:
    power: PowerBackend = DryRunPower()
    await power.open()
    with caplog.at_level(logging.INFO):
        await power.act(Action.RESTART, reason="updates", permit=permit())
        await power.act(Action.LOG_OFF, reason="", permit=permit())
    await power.release_shutdown()
    await power.close()
    await power.close()
    assert isinstance(power, DryRunPower)
    assert power.acted == [(Action.RESTART, "updates"), (Action.LOG_OFF, "")]
    assert [record.getMessage() for record in caplog.records] == [
        "Dry run: the machine would now be restarted (updates)",
        "Dry run: the machine would now be logged off (no reason given)",
    ]


async def test_everything_can_be_done_and_nobody_is_on() -> None:
    power = DryRunPower()
    assert [await power.unsupported_reason(action) for action in Action] == [None] * len(Action)
    assert await power.persons() == ()
    assert await DryRunPower((Person("anna"),)).persons() == (Person("anna"),)


async def test_waiting_for_going_down_ends_by_cancelling_only() -> None:
    waiting = asyncio.create_task(DryRunPower().wait_for_shutdown())
    done, _ = await asyncio.wait({waiting}, timeout=0.01)
    assert not done
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
