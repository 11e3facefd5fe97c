"""What an agent tells within the bounds of what the control server takes. Pure."""

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
    KnownExecution,
)
from landline.fleet.model import ExecutionState, Person

LAST_DONE: Final = 20
"""Entries of the journal that come before orders that only wait."""


def executions_to_report(
    known: Iterable[KnownExecution], journal: Iterable[Entry]
) -> tuple[KnownExecution, ...]:
    """Return what a join says of executions, the most important first, as far as it fits.

    What is left out is as good as unknown to the control server. It sends the orders again that have not begun, and
    gets a report; but it would call failed what had begun. So what the agent is carrying out comes first, and then
    what it did last.
    """
    told: list[KnownExecution] = []
    left_bytes = JOIN_BYTES_MAX
    for execution in _by_importance(known, journal):
        left_bytes -= len(msgspec.msgpack.encode(execution))
        if len(told) == EXECUTIONS_MAX or left_bytes < 0:
            break
        told.append(execution)
    return tuple(told)


def persons_to_report(persons: tuple[Person, ...]) -> tuple[Person, ...]:
    """Return the persons as the control server takes them: a hundred at most, with names that are not endless."""
    names_max = PERSON_CHARACTERS_MAX // 2
    return tuple(
        msgspec.structs.replace(person, name=person.name[:names_max], seat=person.seat[:names_max])
        for person in persons[:PERSONS_MAX]
    )


def _by_importance(known: Iterable[KnownExecution], journal: Iterable[Entry]) -> Iterator[KnownExecution]:
    held = tuple(known)
    ids = {execution.id for execution in held}
    done = [
        KnownExecution(entry.id, entry.state, entry.detail, entry.boot_id)
        for entry in reversed(tuple(journal))
        if entry.id not in ids
    ]
    yield from (execution for execution in held if _may_have_begun(execution.state))
    # What was under way when the agent was last killed is among these: it acts on one at a time.
    yield from done[:LAST_DONE]
    yield from (execution for execution in held if not _may_have_begun(execution.state))
    yield from done[LAST_DONE:]


def _may_have_begun(state: ExecutionState) -> bool:
    return state.has_started or state is ExecutionState.FAILED
