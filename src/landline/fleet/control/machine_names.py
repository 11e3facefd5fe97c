"""Which machine gets a name that two machines claim. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import msgspec

from landline import RequestError
from landline.fleet.model import Machine, PresenceState

_RETIRED_STEM_CHARACTERS = 50
"""Leaves space for ``.old-N`` in a name of at most 64 characters."""


def take_name(name: str, machine_id: str, machines: Collection[Machine]) -> Machine | None:
    """Let the machine with this id take ``name``. Return the machine that gives it up, under its new name, or ``None``.

    A machine that was installed again has a new id and takes the name of the earlier one, which is offline.

    :raises RequestError: if the name belongs to a machine that is not offline.
    """
    for other in machines:
        if other.name != name or other.id == machine_id:
            continue
        if other.presence.state is not PresenceState.OFFLINE:
            raise RequestError(
                "name_taken",
                f"another machine is called {name!r} and is {other.presence.state.value}; "
                "start this agent with another --name",
            )
        retired = _free_name(f"{name[:_RETIRED_STEM_CHARACTERS]}.old", machines)
        return msgspec.structs.replace(other, facts=msgspec.structs.replace(other.facts, name=retired))
    return None


def _free_name(stem: str, machines: Collection[Machine]) -> str:
    taken = {machine.name for machine in machines}
    return next(name for number in itertools.count(1) if (name := f"{stem}-{number}") not in taken)
