"""Decisions about machines that share one identity because a disk with an agent was copied. Pure.

Each of them runs an agent, and an order sent to one may be carried out by another. From the moment two of them are
connected at once, none gets a job until an operator has decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from landline.fleet.model import Claimant, Facts, Machine

CLAIMANTS_MAX: Final = 16
"""How many claimants of one identity are remembered. The oldest that are not connected are forgotten first."""


def claimant(facts: Facts, *, address: str, now: float) -> Claimant:
    """Return the machine with these facts, connected from ``address``."""
    return Claimant(
        name=facts.name,
        host_name=facts.host_name,
        address=address,
        boot_id=facts.boot_id,
        mac_addresses=facts.mac_addresses,
        since_at=now,
    )


def arrived(known: Sequence[Claimant], new: Claimant) -> tuple[Claimant, ...]:
    """Return the claimants after ``new`` has connected. It replaces its earlier entry, if there is one."""
    same = next((each for each in known if is_same(each, new)), None)
    others = [each for each in known if each is not same]
    while len(others) >= CLAIMANTS_MAX:
        others.remove(min(others, key=lambda each: (each.is_live, each.since_at)))
    return tuple(sorted((*others, new), key=lambda each: (each.name, each.host_name, each.address)))


def is_same(known: Claimant, new: Claimant) -> bool:
    """Return whether both are one machine: the same boot, or the same hardware in a later boot."""
    if known.boot_id and known.boot_id == new.boot_id:
        return known.host_name == new.host_name and known.mac_addresses == new.mac_addresses
    # A connected machine cannot be in another boot.
    if known.is_live:
        return False
    return known.host_name == new.host_name and known.mac_addresses == new.mac_addresses


def hardware(facts: Facts) -> str:
    """Return what identifies a machine's hardware, to be stored; empty if it reports nothing about it."""
    return ",".join(sorted(facts.mac_addresses))


def is_same_hardware(before: str, after: str) -> bool:
    """Return whether both may be one machine: they have a network card in common, or one has none."""
    return not before or not after or not set(before.split(",")).isdisjoint(after.split(","))


def left(known: Sequence[Claimant], gone: Claimant, now: float) -> tuple[Claimant, ...]:
    """Return the claimants after the line of one has ended. It may come back."""
    return tuple(
        msgspec.structs.replace(each, is_live=False, since_at=now) if is_same(each, gone) else each
        for each in known
    )


def identified(known: Sequence[Claimant], facts: Facts) -> tuple[Claimant, ...]:
    """Return the claimants after a machine has joined with an identity of its own.

    It is removed if it is in the same boot as a claimant: only that proves that it is the same machine. The last
    remaining claimant owns the identity, so that there are none.
    """
    if not facts.boot_id:
        return tuple(known)
    others = tuple(each for each in known if each.boot_id != facts.boot_id)
    return () if len(others) < 2 else others


def refusal(machine: Machine) -> str | None:
    """Return why a machine gets no job because its identity is cloned, or ``None`` if it is not."""
    if not machine.claimants:
        return None
    return (
        f"its identity is cloned ({describe(machine.claimants)}); 'landline machines resolve' says what to do"
    )


def describe(claimants: Sequence[Claimant]) -> str:
    """Return the claimants as text: ``pc1 at 10.0.0.1:4711, pc2 at 10.0.0.2:4711``."""
    return ", ".join(each.description for each in claimants)


def advice(machine: Machine) -> str:
    """Return what an operator should do, for the log and for refusals."""
    return (
        f"{len(machine.claimants)} machines use the identity of {machine.name}: {describe(machine.claimants)}. "
        "None of them gets a job. On all but one, remove the file machine-id in the agent's --data directory and "
        f"start the agent again, and give 'landline machines resolve {machine.name}' if that does not end it"
    )
