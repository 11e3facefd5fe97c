"""Cloned identities, as decisions, and over real lines: two machines are seen, and neither gets a job."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from landline import LineState
from landline.fleet.api import OperationError
from landline.fleet.control import cloned_identities, clones
from landline.fleet.messages import Claim, Grant
from landline.fleet.model import Action, Claimant, ExecutionState, Facts, PresenceState
from landline.testing import FaultProxy

MAC_1, MAC_2 = "02:00:00:00:00:01", "02:00:00:00:00:02"


def claimant(name: str = "pc1", **changes: Any) -> Claimant:
    return Claimant(
        **{
            "name": name,
            "host_name": name,
            "address": f"{name}:1",
            "boot_id": f"{name}-boot-1",
            "since_at": 100.0,
            **changes,
        }
    )


# Who is who


@pytest.mark.parametrize(
    ("known", "new", "same"),
    [
        ({}, {}, True),
        # The same boot from another address: its connection was made again.
        ({}, {"address": "elsewhere:9"}, True),
        # A virtual machine that was copied while it ran has the boot id of the other.
        ({}, {"host_name": "pc2"}, False),
        ({"mac_addresses": (MAC_1,)}, {"mac_addresses": (MAC_2,)}, False),
        # Another boot: of the same machine only when that is not alive.
        ({"is_live": False}, {"boot_id": "pc1-boot-2"}, True),
        ({}, {"boot_id": "pc1-boot-2"}, False),
        ({"is_live": False}, {"boot_id": "pc1-boot-2", "host_name": "pc2"}, False),
        (
            {"is_live": False, "mac_addresses": (MAC_1,)},
            {"boot_id": "b", "mac_addresses": (MAC_2,)},
            False,
        ),
        # Machines that do not know their boots.
        ({"boot_id": "", "is_live": False}, {"boot_id": ""}, True),
        ({"boot_id": ""}, {"boot_id": ""}, False),
    ],
)
def test_when_two_are_one_machine(known: dict[str, Any], new: dict[str, Any], same: bool) -> None:
    assert clones.is_same(claimant(**known), claimant(**new)) is same


def test_a_returning_claimant_replaces_its_entry() -> None:
    first, second = claimant("pc1"), claimant("pc2")
    both = clones.arrived((second,), first)
    assert both == (first, second)
    moved = claimant("pc2", address="elsewhere:9")
    assert clones.arrived(both, moved) == (first, moved)
    gone = clones.left(both, second, 200.0)
    assert gone == (first, claimant("pc2", is_live=False, since_at=200.0))
    again = claimant("pc2", boot_id="pc2-boot-2")
    assert clones.arrived(gone, again) == (first, again)


def test_only_so_many_are_remembered() -> None:
    known: tuple[Claimant, ...] = ()
    for number in range(clones.CLAIMANTS_MAX + 5):
        known = clones.arrived(
            known, claimant(f"pc{number}", is_live=number not in {3, 4}, since_at=float(number))
        )
    assert len(known) == clones.CLAIMANTS_MAX
    # Those that were not alive went first, then the oldest.
    assert {each.name for each in known} == {
        f"pc{number}" for number in range(clones.CLAIMANTS_MAX + 5) if number not in {0, 1, 2, 3, 4}
    }


def test_a_machine_with_a_new_identity_is_no_claimant() -> None:
    three = (claimant("pc1"), claimant("pc2"), claimant("pc3"))
    joined = Facts(name="pc2", boot_id="pc2-boot-1")
    assert clones.identified(three, joined) == (three[0], three[2])
    assert clones.identified(three[:2], joined) == ()
    # Another boot, or none, proves nothing.
    assert clones.identified(three, Facts(name="pc2", boot_id="pc2-boot-2")) == three
    assert clones.identified(three, Facts(name="pc2")) == three


def test_hardware_that_speaks_against_one_machine() -> None:
    def cards(*mac_addresses: str) -> str:
        return clones.hardware(Facts(name="pc", mac_addresses=mac_addresses))

    assert not clones.is_same_hardware(cards(MAC_1), cards(MAC_2))
    assert clones.is_same_hardware(cards(MAC_1), cards(MAC_2, MAC_1))
    assert clones.is_same_hardware(cards(MAC_2, MAC_1), cards(MAC_1, MAC_2))
    assert clones.is_same_hardware(cards(), cards(MAC_2))
    assert clones.is_same_hardware(cards(MAC_1), cards())


# Over lines


@pytest.fixture
def quick(fleet) -> None:
    fleet.set_timing(clone_retry_s=0.05)


async def pair(fleet, until, **first: Any) -> tuple[Any, Any]:
    """Two machines with one identity, as after copying a disk; returns them when both are seen."""
    pc1 = fleet.machine("pc1", id="one-identity", **first)
    pc1.facts = {"host_name": "pc1.lan"}
    pc2 = fleet.machine("pc2", id="one-identity")
    pc2.facts = {"host_name": "pc2.lan"}
    await pc1.boot()
    await pc2.boot(wait=False)
    await until(lambda: len(pc1.known.claimants) == 2)
    return pc1, pc2


def live(machine: Any) -> list[str]:
    return [each.host_name for each in machine.known.claimants if each.is_live]


async def test_both_machines_of_a_cloned_identity_are_shown_and_stay_connected(
    fleet, until, quick, caplog: pytest.LogCaptureFixture
) -> None:
    await fleet.start()
    retries = []
    original = fleet.control._cloned.probe

    async def probe(line, join) -> None:
        retries.append(line)
        await original(line, join)

    fleet.control._cloned.probe = probe
    with caplog.at_level(logging.WARNING, "landline.control"):
        pc1, pc2 = await pair(fleet, until)
        await until(lambda: len(retries) >= 4)
    assert live(pc1) == ["pc1.lan", "pc2.lan"]
    addresses = [each.address for each in pc1.known.claimants]
    assert sorted(addresses) == sorted(line.peer for line in fleet.server.lines)
    # One line each: neither replaces the other.
    assert len(set(retries)) <= 2
    assert {line.state for line in fleet.server.lines} == {LineState.ONLINE}
    assert fleet.joins == {"one-identity": 1}
    assert not pc1.task.done()
    assert not pc2.task.done()
    [warning] = [record.getMessage() for record in caplog.records if record.name == "landline.control"]
    assert warning.startswith("2 machines use the identity of pc1: pc1.lan at 127.0.0.1:")
    assert "None of them gets a job" in warning
    assert "remove the file machine-id" in warning


@pytest.mark.parametrize("action", [Action.LOG_OFF, Action.RESTART, Action.SHUT_DOWN, Action.WAKE])
async def test_cloned_identity_gets_no_job(fleet, until, quick, action: Action) -> None:
    await fleet.start()
    pc1, pc2 = await pair(fleet, until)
    [execution] = (await fleet.order(action, "pc1", queue_for_s=3600.0)).executions
    assert execution.state is ExecutionState.REFUSED
    assert execution.detail.startswith("its identity is cloned (pc1.lan at 127.0.0.1:")
    assert (pc1.acted, pc2.acted) == ([], [])


async def test_open_executions_are_refused_when_a_clone_appears(fleet, until, quick, person, ada) -> None:
    await fleet.start()
    prompt = person()
    pc1 = fleet.machine("pc1", id="one-identity", persons=(ada,), prompt=prompt)
    await pc1.boot()
    job = await fleet.order(Action.RESTART, "pc1")
    await fleet.reached(job, ExecutionState.PROMPTED)
    pc2 = await fleet.machine("pc2", id="one-identity").boot(wait=False)
    refused = await fleet.over(job)
    assert refused.state is ExecutionState.REFUSED
    assert "its identity is cloned" in refused.detail
    # It is taken off the screen.
    await until(lambda: prompt.withdrawn == 1)
    assert (pc1.acted, pc2.acted) == ([], [])


async def test_grant_is_not_repeated_for_a_cloned_identity(fleet, until, quick) -> None:
    await fleet.start()
    pc1 = fleet.machine("pc1", id="one-identity")
    pc1.may_act.clear()
    await pc1.boot()
    job = await fleet.order(Action.LOG_OFF, "pc1")
    await fleet.reached(job, ExecutionState.ACTING)
    await fleet.machine("pc2", id="one-identity").boot(wait=False)
    await until(lambda: pc1.known.claimants)
    claim = Claim(job.executions[0].id, pc1.boot_id)
    grant = await pc1.line.request("claim", claim, response_type=Grant)
    assert not grant.granted
    assert "its identity is cloned" in grant.reason


async def test_no_grant_is_given_while_an_older_line_is_probed(fleet, until, quick, monkeypatch) -> None:
    """The answer to the ping is on its way when the first machine asks."""
    await fleet.start()
    pc1 = await fleet.machine("pc1", id="one-identity").boot()
    job = await fleet.order(Action.LOG_OFF, "pc1", delay_s=3600.0)
    await fleet.reached(job, ExecutionState.DELIVERED)
    probing, answered = asyncio.Event(), asyncio.Event()
    answers = cloned_identities._answers

    async def slowly(*arguments) -> bool:
        probing.set()
        await answered.wait()
        return await answers(*arguments)

    monkeypatch.setattr(cloned_identities, "_answers", slowly)
    await fleet.machine("pc2", id="one-identity").boot(wait=False)
    await probing.wait()
    claim = Claim(job.executions[0].id, pc1.boot_id)
    asking = asyncio.create_task(pc1.line.request("claim", claim, response_type=Grant))
    await pc1.line.ping()
    assert not asking.done()
    answered.set()
    assert not (await asking).granted


async def test_a_new_identity_ends_the_mark(fleet, until, quick) -> None:
    await fleet.start()
    pc1, pc2 = await pair(fleet, until)
    await pc2.kill_agent()
    await until(lambda: live(pc1) == ["pc1.lan"])
    # Not by going away: it may come back.
    assert (await fleet.order(Action.LOG_OFF, "pc1")).executions[0].state is ExecutionState.REFUSED
    pc2.id = "another-identity"
    await pc2.start_agent()
    assert pc1.known.claimants == ()
    for machine in (pc1, pc2):
        assert (await fleet.over(await fleet.order(Action.LOG_OFF, machine.name))).state is (
            ExecutionState.DONE
        )
    assert (pc1.acted, pc2.acted) == ([Action.LOG_OFF], [Action.LOG_OFF])


async def test_refused_clone_joins_when_the_other_has_a_new_identity(fleet, until) -> None:
    """At once, without waiting for the time at which it would ask again."""
    await fleet.start()
    pc1, pc2 = await pair(fleet, until)
    pc1.agent.stop()
    await pc1.ended()
    pc1.id = "another-identity"
    await pc1.start_agent()
    await until(lambda: pc2.known.facts.name == "pc2")
    await pc2.shown(PresenceState.ONLINE)
    assert pc2.known.claimants == ()
    assert (await fleet.over(await fleet.order(Action.LOG_OFF, "pc2"))).state is ExecutionState.DONE
    assert (pc1.acted, pc2.acted) == ([], [Action.LOG_OFF])


async def test_an_operator_decides(fleet, until, quick) -> None:
    await fleet.start()
    pc1, pc2 = await pair(fleet, until)
    with pytest.raises(OperationError, match="2 machines use the identity of pc1") as caught:
        await fleet.control.resolve_machine("pc1")
    assert caught.value.code == "still_cloned"
    await pc2.kill_agent()
    await until(lambda: live(pc1) == ["pc1.lan"])
    # What is marked stays so when the control server is started again.
    await fleet.stop()
    await fleet.start()
    await until(lambda: live(pc1) == ["pc1.lan"])
    assert len(pc1.known.claimants) == 2
    assert (await fleet.control.resolve_machine("pc1")).claimants == ()
    assert (await fleet.over(await fleet.order(Action.LOG_OFF, "pc1"))).state is ExecutionState.DONE
    for name, code in (("pc1", "not_cloned"), ("pc9", "unknown_target")):
        with pytest.raises(OperationError) as caught:
            await fleet.control.resolve_machine(name)
        assert caught.value.code == code
    # The other one comes back as it was.
    await pc2.start_agent(wait=False)
    await until(lambda: live(pc1) == ["pc1.lan", "pc2.lan"])


async def test_a_clone_is_not_the_proof_of_a_restart(fleet, until) -> None:
    """It has another boot id, and it is not the machine that was to restart."""
    await fleet.start()
    pc1 = fleet.machine("pc1", id="one-identity")
    pc1.facts = {"mac_addresses": (MAC_1,)}
    pc2 = fleet.machine("pc2", id="one-identity")
    pc2.facts = {"mac_addresses": (MAC_2,)}
    await pc1.boot()
    job = await fleet.order(Action.RESTART, "pc1")
    await pc1.ended()
    await pc2.boot()
    unknown = await fleet.over(job)
    assert unknown.state is ExecutionState.UNKNOWN
    assert unknown.detail.startswith("another machine with the same identity came back")
    # Nor however often it joins: only the machine itself proves it.
    await pc2.kill_agent()
    await pc2.boot()
    assert (await fleet.execution(job)).state is ExecutionState.UNKNOWN
    await pc2.kill_agent()
    await pc1.boot()
    await fleet.reached(job, ExecutionState.DONE)


# What is no clone


async def test_half_open_line_is_no_clone(fleet, until) -> None:
    fleet.control_timing = msgspec.structs.replace(fleet.control_timing, probe_timeout_s=0.2)
    await fleet.start()
    async with FaultProxy(fleet.endpoint.host, fleet.endpoint.port) as between:
        url, fleet.url = fleet.url, between.url
        machine = await fleet.machine().boot()
        # Its power fails without a sign on the line.
        between.hold()
        await machine.kill_agent()
        fleet.url = url
        await machine.boot()
        assert machine.known.claimants == ()
        assert machine.known.facts.boot_id == "lab-1-boot-2"
    assert (await fleet.over(await fleet.order(Action.LOG_OFF))).state is ExecutionState.DONE


async def test_an_agent_that_is_started_again_is_no_clone(fleet) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    for _ in range(5):
        await machine.kill_agent()
        await machine.start_agent()
        assert machine.known.claimants == ()
    await machine.kill_agent()
    await machine.boot()
    assert machine.known.claimants == ()


async def test_links_that_break_make_no_clones(fleet, until) -> None:
    await fleet.start()
    machine = await fleet.machine().boot()
    for number in range(10):
        machine.line.break_link(f"cut {number}")
        await machine.shown(PresenceState.ONLINE)
    await fleet.kill()
    await fleet.start()
    await machine.shown(PresenceState.ONLINE)
    assert machine.known.claimants == ()
