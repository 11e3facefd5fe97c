"""Limits what an agent reports to what the control server accepts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from landline.fleet.agent.journal import Entry
from landline.fleet.messages import (
    EXECUTIONS_MAX,
    JOIN_BYTES_MAX,
    PERSON_CHARACTERS_MAX,
    PERSONS_MAX,
    TEXT_CHARACTERS_MAX,
    KnownExecution,
)
from landline.fleet.model import ExecutionState, Person

RECENT_ENTRIES: Final = 20
"""Journal entries that come before orders that only wait."""


def bounded(text: str) -> str:
    """Return ``text`` cut to the length that the control server accepts."""
    return text[:TEXT_CHARACTERS_MAX]


def executions_to_report(
    held: Iterable[KnownExecution], journal: Iterable[Entry]
) -> tuple[KnownExecution, ...]:
    """Return the executions that a join reports, the most important first, as far as they fit.

    The control server does not know of those that are left out. If one of them has not begun, the server sends its
    order again and gets a report; if one has begun, the server takes it for failed. So executions in progress come
    first, then the most recent journal entries.
    """
    reported: list[KnownExecution] = []
    left_bytes = JOIN_BYTES_MAX
    for execution in _by_importance(held, journal):
        left_bytes -= len(msgspec.msgpack.encode(execution))
        if len(reported) == EXECUTIONS_MAX or left_bytes < 0:
            break
        reported.append(execution)
    return tuple(reported)


def persons_to_report(persons: tuple[Person, ...]) -> tuple[Person, ...]:
    """Return at most a hundred persons, with names and seats of limited length."""
    names_max = PERSON_CHARACTERS_MAX // 2
    return tuple(
        msgspec.structs.replace(person, name=person.name[:names_max], seat=person.seat[:names_max])
        for person in persons[:PERSONS_MAX]
    )


def _by_importance(held: Iterable[KnownExecution], journal: Iterable[Entry]) -> Iterator[KnownExecution]:
    held = tuple(held)
    ids = {execution.id for execution in held}
    recorded = [
        KnownExecution(entry.id, entry.state, entry.detail, entry.boot_id)
        for entry in reversed(tuple(journal))
        if entry.id not in ids
    ]
    yield from (execution for execution in held if _may_have_begun(execution.state))
    # An action that ran when the agent was killed is among these: only one runs at a time.
    yield from recorded[:RECENT_ENTRIES]
    yield from (execution for execution in held if not _may_have_begun(execution.state))
    yield from recorded[RECENT_ENTRIES:]


def _may_have_begun(state: ExecutionState) -> bool:
    return state.has_started or state is ExecutionState.FAILED
