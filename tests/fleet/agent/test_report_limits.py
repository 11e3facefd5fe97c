"""What an agent tells always fits what the control server takes."""

from __future__ import annotations

import msgspec
import pytest

from landline.fleet.agent.journal import ENTRIES_MAX, Entry
from landline.fleet.agent.report_limits import RECENT_ENTRIES, executions_to_report, persons_to_report
from landline.fleet.control.machines import check_facts
from landline.fleet.messages import (
    EXECUTIONS_MAX,
    JOIN_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    TEXT_CHARACTERS_MAX,
    FactsChecked,
    Join,
    KnownExecution,
)
from landline.fleet.model import Action, ExecutionState, Facts, Person

# What takes the most bytes.
LONGEST = "\U0001f600" * TEXT_CHARACTERS_MAX


def held(number: int, state: ExecutionState = ExecutionState.DELIVERED, detail: str = "") -> KnownExecution:
    return KnownExecution(f"held-{number}", state, detail, "boot", is_running=True)


def entry(number: int, detail: str = "") -> Entry:
    return Entry(f"done-{number}", Action.RESTART, ExecutionState.ACTING, "boot", detail)


def test_a_little_is_told_whole() -> None:
    told = executions_to_report([held(1)], [entry(1), entry(2)])
    assert [execution.id for execution in told] == ["done-2", "done-1", "held-1"]
    assert [execution.is_running for execution in told] == [False, False, True]
    assert executions_to_report([], []) == ()


def test_what_is_held_is_told_once_as_it_is_now() -> None:
    known = KnownExecution("done-1", ExecutionState.DONE, "now")
    assert executions_to_report([known], [entry(1), entry(2)])[0] == known
    assert len(executions_to_report([known], [entry(1), entry(2)])) == 2


@pytest.mark.parametrize("detail", ["", "no person is logged on", LONGEST])
def test_the_most_fits_a_join(detail: str) -> None:
    known = [held(number, detail=detail) for number in range(100)]
    journal = [entry(number, detail) for number in range(2 * ENTRIES_MAX)]
    told = executions_to_report(known, journal)
    persons = persons_to_report(tuple(Person("ä" * 1000, "s" * 1000) for _ in range(500)))
    longest = dict.fromkeys(
        ("host_name", "os", "boot_id", "agent_version", "power"), "😀" * TEXT_CHARACTERS_MAX
    )
    facts = Facts(name="x" * 64, persons=persons, mac_addresses=("02:00:00:00:00:01",) * 32, **longest)
    body = msgspec.msgpack.encode(Join(facts, told))
    assert len(body) < MESSAGE_BYTES_MAX - 1024
    assert msgspec.msgpack.decode(body, type=Join).executions == told
    assert check_facts(facts) == facts
    assert sum(len(msgspec.msgpack.encode(execution)) for execution in told) <= JOIN_BYTES_MAX
    assert len(told) <= EXECUTIONS_MAX
    # The last entries of the journal are always reported.
    assert {f"done-{2 * ENTRIES_MAX - 1 - number}" for number in range(RECENT_ENTRIES)} <= {
        it.id for it in told
    }


def test_what_has_begun_comes_first() -> None:
    known = [*(held(number, detail=LONGEST) for number in range(200)), held(200, ExecutionState.ACTING)]
    assert executions_to_report(known, [])[0].id == "held-200"


def test_a_hundred_persons_are_told_and_the_facts_are_taken() -> None:
    persons = tuple(Person(f"person-{number}") for number in range(150))
    assert persons_to_report(persons) == persons[:100]
    facts = msgspec.to_builtins(Facts(name="lab-1", persons=persons_to_report(persons)))
    assert len(msgspec.convert(facts, FactsChecked).persons) == 100
