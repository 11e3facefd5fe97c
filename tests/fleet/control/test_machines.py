"""Machines over real lines: when they are shown as on, what they say of themselves, and who has a name."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

import landline
from landline import Heartbeat
from landline.fleet.api import MachineChanged, Snapshot, StorageError
from landline.fleet.control import presence
from landline.fleet.control.fact_checks import check_facts
from landline.fleet.control.request_rate import FACTS_EVERY_S
from landline.fleet.messages import Goodbye
from landline.fleet.model import Action, Cause, Facts, Machine, Person, PresenceState
from landline.testing import FaultProxy


async def test_a_cut_link_is_resuming_and_then_online_again(fleet, until) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    updates = fleet.control.updates()
    assert isinstance(await anext(updates), Snapshot)
    machine.line.break_link("the cable was pulled")
    seen = []
    while PresenceState.RESUMING not in seen or seen[-1] is not PresenceState.ONLINE:
        update = await anext(updates)
        # A new round trip is published too, with the state.
        if isinstance(update, MachineChanged) and update.machine.presence.state not in seen[-1:]:
            seen.append(update.machine.presence.state)
    assert seen[-2:] == [PresenceState.RESUMING, PresenceState.ONLINE]
    assert set(seen) == {PresenceState.RESUMING, PresenceState.ONLINE}
    await updates.aclose()
    assert fleet.joins == {machine.id: 1}
    assert fleet.control.resumes == 1


async def test_a_frozen_machine_is_silent_then_resuming_then_offline(fleet) -> None:
    fleet.heartbeat = Heartbeat(interval_s=0.05, timeout_s=0.3)
    fleet.resume_window_s = 0.3
    await fleet.start()
    async with FaultProxy(fleet.endpoint.host, fleet.endpoint.port) as between:
        fleet.url = between.url
        machine = await fleet.machine().boot()
        updates = fleet.control.updates()
        await anext(updates)
        # Nothing comes through, and the sockets stay open.
        between.hold()
        seen = []
        while not seen or seen[-1][0] is not PresenceState.OFFLINE:
            update = await anext(updates)
            if isinstance(update, MachineChanged):
                seen.append((update.machine.presence.state, update.machine.presence.cause))
        await updates.aclose()
        await machine.kill_agent()
    states = [state for state, _ in seen]
    # A busy machine may find it silent more than once before the timeout.
    assert states[-2:] == [PresenceState.RESUMING, PresenceState.OFFLINE]
    assert PresenceState.SILENT in states
    assert seen[-1][1] is Cause.SILENT


async def test_the_round_trip_is_shown(fleet, until) -> None:
    fleet.heartbeat = Heartbeat(interval_s=0.05, timeout_s=5)
    await fleet.start()
    machine = await fleet.machine().boot()
    round_trip_s = await until(lambda: machine.known.round_trip_s)
    assert 0 < round_trip_s < 20


async def test_a_restarting_machine_that_stays_away_did_not_return(fleet, until) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    await fleet.order(Action.RESTART)
    await machine.ended()
    await machine.shown(PresenceState.AWAY)
    fleet.offset_s += 16 * 60.0
    assert (await machine.shown(PresenceState.OFFLINE)).presence.cause is Cause.DID_NOT_RETURN


async def test_an_orderly_stop_does_not_mark_machines_as_lost(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    gone = await fleet.machine("lab-2").boot()
    gone.agent.stop()
    await gone.ended()
    await gone.shown(PresenceState.OFFLINE)
    await fleet.stop()
    await machine.kill_agent()
    await fleet.start()
    shown = machine.known.presence
    assert (shown.state, shown.cause) == (PresenceState.RESUMING, Cause.SERVER_STARTED)
    assert gone.known.presence.cause is Cause.AGENT_STOPPED
    fleet.offset_s += 91.0
    assert (await machine.shown(PresenceState.OFFLINE)).presence.cause is Cause.SERVER_STARTED


async def test_a_goodbye_over_a_replaced_line_changes_nothing(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    registry = fleet.control._registry
    line = registry.line_of(machine.id)
    replaced_join = line.data.join
    # As after a join of another agent with this identity over another line.
    after = msgspec.structs.replace(
        registry[machine.id], presence=presence.joined(fleet.now(), join="newer", address="10.0.0.9:1")
    )
    registry.put(after)
    assert replaced_join != "newer"
    fleet.control._machines.receive_goodbye(line, Goodbye(Cause.SHUT_DOWN, "", "j-1"))
    assert registry[machine.id] is after


async def test_facts_follow_the_machine_but_for_its_name_and_boot(fleet, ada, until) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    await machine.line.send(
        {"name": "lab-9", "boot_id": "forged", "os": "Debian", "persons": [{"name": "ada"}]}, name="facts"
    )
    await until(lambda: machine.known.facts.os == "Debian")
    facts = machine.known.facts
    assert (facts.name, facts.boot_id, facts.persons) == ("lab-1", machine.boot_id, (Person("ada"),))
    await machine.line.send({"name": "lab-1", "os": "x" * 501}, name="facts")
    await machine.line.send({"name": "lab-1", "os": "Fedora"}, name="facts")
    await until(lambda: machine.known.facts.os == "Fedora")


HOSTILE_FACTS = [
    {"name": "#"},
    {"name": "*"},
    {"name": "../lab"},
    {"name": "lab/1"},
    {"name": "<b>lab</b>"},
    {"name": "lab-1\n"},
    {"name": "l\x1b[31m"},
    {"name": ""},
    {"name": ".hidden"},
    {"name": "x" * 65},
    {"os": "x" * 501},
    {"host_name": "x" * 501},
    {"boot_id": "x" * 501},
    {"agent_version": "x" * 501},
    {"power": "x" * 501},
    {"persons_problem": "x" * 501},
    {"asks_by": "x" * 501},
    {"asking_problem": "x" * 501},
    {"mac_addresses": ("02:00:00:00:00:0g",)},
    {"mac_addresses": ("02:00:00:00:00:00\n",)},
    {"mac_addresses": ("02:00:00:00:00:01",) * 33},
    {"persons": (Person("x" * 301),)},
    {"persons": (Person("ada", "s" * 300),)},
    {"persons": (Person("ada"),) * 101},
]


@pytest.mark.parametrize("hostile", HOSTILE_FACTS, ids=lambda facts: repr(facts)[:40])
def test_facts_that_do_not_fit_are_refused(hostile: dict[str, object]) -> None:
    with pytest.raises(landline.RequestError) as caught:
        check_facts(Facts(**{"name": "lab-1", **hostile}))
    assert caught.value.code == "bad_facts"


def test_facts_that_fit_are_kept_as_they_are() -> None:
    facts = Facts(
        name="lab-1.example_x",
        os="<img src=x onerror=alert(1)>",  # Text is text: it is for the console to show it as such.
        mac_addresses=("02:00:00:00:00:01",) * 32,
        persons=(Person("ada", "seat0", True, 1.5),) * 100,
        knows_persons=True,
        persons_problem="p" * 500,
        asks_by="a" * 500,
        asking_problem="q" * 500,
    )
    assert check_facts(facts) == facts


async def test_names_that_change_owners_often_exclude_no_machine(fleet) -> None:
    await fleet.start()
    for number in range(3):
        machine = await fleet.machine("pc", id=f"aaaaaaaa-{number}").boot()
        machine.agent.stop()
        await machine.ended()
        await machine.shown(PresenceState.OFFLINE)
    await fleet.machine("innocent").boot()
    names = {machine.name for machine in fleet.control.machines()}
    assert names == {"pc", "pc.old-1", "pc.old-2", "innocent"}


async def test_a_name_that_is_taken_and_handed_back_is_stored_at_once(fleet, caplog) -> None:
    await fleet.start()
    # Both are known when the last two exchanges come: in one of them, the machine stored first takes the name.
    for machine_id in ("bbbbbbbb", "aaaaaaaa", "bbbbbbbb", "aaaaaaaa"):
        machine = await fleet.machine("pc", id=machine_id).boot()
        machine.agent.stop()
        await machine.ended()
        await machine.shown(PresenceState.OFFLINE)
    stored = {machine.id: machine.name for machine in await fleet.storage.load_machines()}
    assert stored == {"aaaaaaaa": "pc", "bbbbbbbb": "pc.old-1"}
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert "trying again" not in caplog.text


async def test_unsaved_machines_are_saved_when_the_control_server_stops(fleet, until, monkeypatch) -> None:
    await fleet.start()
    machines = [await fleet.machine(name).boot() for name in ("lab-1", "lab-2")]
    begun = []

    async def fail(machines: object) -> None:
        raise StorageError("one of them does not fit")

    async def take_for_ever(machine: Machine) -> None:
        begun.append(machine)
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(fleet.storage, "save_machines", fail)
        patch.setattr(fleet.storage, "save_machine", take_for_ever)
        for machine in machines:
            await machine.line.send({"name": machine.name, "os": "Debian"}, name="facts")
        await until(lambda: begun and all(machine.known.facts.os == "Debian" for machine in machines))
    await fleet.stop()
    for machine in machines:
        await machine.kill_agent()
    await fleet.start()
    assert [machine.facts.os for machine in fleet.control.machines()] == ["Debian", "Debian"]


async def test_of_facts_that_change_fast_the_latest_is_published(fleet, until) -> None:
    """Each change is written and told to all who watch: a machine must not make that thousands a second."""
    await fleet.start()
    machine = await fleet.machine().boot()
    updates = fleet.control.updates()
    assert isinstance(await anext(updates), Snapshot)
    count = 2000
    for number in range(count):
        await machine.line.send({"name": "lab-1", "os": f"os {number}"}, name="facts")
    told = []
    while told[-1:] != [f"os {count - 1}"]:
        update = await anext(updates)
        if isinstance(update, MachineChanged):
            told.append(update.machine.facts.os)
    await updates.aclose()
    # Those of one interval are one: a busy machine may need some, and never one for each message.
    assert len(set(told)) < count / 10
    # The first of them was published at once.
    assert "os 0" in told


async def test_unchanged_facts_change_nothing(fleet, until) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    before = fleet.control._registry[machine.id]
    for _ in range(3):
        await machine.line.send(msgspec.to_builtins(before.facts), name="facts")
    assert await machine.line.drain()
    assert fleet.control._registry[machine.id] is before


async def test_late_facts_of_a_replaced_line_change_nothing(fleet, until) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    machines = fleet.control._machines
    line = fleet.control._registry.line_of(machine.id)
    now = asyncio.get_running_loop().time()
    assert machines.receive_facts(line, Facts(name="lab-1", os="first"), now) is None
    wait_s = machines.receive_facts(line, Facts(name="lab-1", os="second"), now)
    assert 0 < wait_s <= FACTS_EVERY_S
    # Those after it take its place, and need no other call.
    assert machines.receive_facts(line, Facts(name="lab-1", os="third"), now) is None
    with pytest.raises(landline.RequestError):
        machines.receive_facts(line, Facts(name="lab-1", os="x" * 501), now)
    machines.take_late_facts(line, now + wait_s)
    assert machine.known.facts.os == "third"
    machines.take_late_facts(line, now + wait_s)
    machines.receive_facts(line, Facts(name="lab-1", os="fourth"), now)
    fleet.control._registry.remove_line(machine.id, line)
    machines.take_late_facts(line, now + wait_s)
    assert machine.known.facts.os == "third"
    fleet.control._registry.set_line(machine.id, line)
