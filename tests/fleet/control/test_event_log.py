"""What the control server logs of machines, jobs and itself, with real agents."""

import logging
import re
from pathlib import Path

import msgspec
import pytest

from landline import RequestError
from landline.fleet.agent.agent import AgentRefused
from landline.fleet.agent.prompt import Answer, Choice
from landline.fleet.api import CancelRequest, OperationError, StorageError
from landline.fleet.control import event_log
from landline.fleet.control.event_log import EVENTS, EventLog, presence_event
from landline.fleet.model import Action, Cause, ExecutionState, Presence, PresenceState
from landline.testing import FaultProxy

DOCUMENT = Path(__file__).parents[3] / "docs" / "fleet.md"


class Seen:
    """The events that were logged, each checked against the list."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def all(self) -> list[dict]:
        events = [dict(record.msg) for record in self._caplog.records if isinstance(record.msg, dict)]
        levels = [record.levelno for record in self._caplog.records if isinstance(record.msg, dict)]
        for event, level in zip(events, levels, strict=True):
            known = EVENTS[event["event"]]
            assert (level, set(event) - {"event"}) == (known.level, set(known.fields)), event
        return events

    def names(self, **fields) -> list[str]:
        return [each["event"] for each in self.all() if fields.items() <= each.items()]

    def one(self, name: str) -> dict:
        [event] = [each for each in self.all() if each["event"] == name]
        return event


@pytest.fixture
def seen(caplog) -> Seen:
    caplog.set_level(logging.DEBUG, event_log.LOGGER)
    return Seen(caplog)


def test_the_list_is_the_documents():
    section = DOCUMENT.read_text().partition("### What is logged")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", section, flags=re.MULTILINE)
    documented = {
        name: (level.upper(), tuple(re.findall(r"`(\w+)`", fields))) for name, level, fields in rows
    }
    assert documented == {
        name: (logging.getLevelName(event.level), event.fields) for name, event in EVENTS.items()
    }


def test_no_field_hides_a_standard_field():
    reserved = {"time", "level", "logger", "event", "exception", "exc_info", "_record", "_from_structlog"}
    assert not reserved & {field for event in EVENTS.values() for field in event.fields}


async def test_a_machine_comes_and_goes(fleet, seen, until):
    await fleet.start()
    machine = await fleet.machine().boot()
    joined = seen.one("machine_joined")
    assert (joined["machine"], joined["id"], joined["was"]) == ("lab-1", machine.id, "new")
    assert re.fullmatch(r"127\.0\.0\.1:\d+", joined["address"])
    machine.line.break_link("cable pulled")
    await until(lambda: "machine_recovered" in seen.names())
    assert seen.one("machine_resuming")["cause"] == "link lost"
    assert seen.one("machine_recovered")["was"] == "resuming (link lost)"
    machine.agent.stop()
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    assert seen.one("machine_offline")["cause"] == "agent stopped"
    await machine.boot()
    assert [each["was"] for each in seen.all() if each["event"] == "machine_joined"] == [
        "new",
        "offline (agent stopped)",
    ]
    assert "machine_replaced" not in seen.names()


async def test_a_machine_that_is_back_before_its_loss_was_noticed(fleet, seen):
    fleet.control_timing = msgspec.structs.replace(fleet.control_timing, probe_timeout_s=0.2)
    await fleet.start()
    async with FaultProxy(fleet.endpoint.host, fleet.endpoint.port) as between:
        url, fleet.url = fleet.url, between.url
        machine = await fleet.machine().boot()
        between.hold()
        await machine.kill_agent()
        fleet.url = url
        await machine.boot()
    replaced = seen.one("machine_replaced")
    assert (replaced["id"], replaced["was"]) == (machine.id, "online")
    assert replaced["before"] != replaced["address"]


async def test_a_name_that_is_taken(fleet, seen):
    await fleet.start()
    await fleet.machine().boot()
    other = await fleet.machine(id="another-id").boot(wait=False)
    with pytest.raises(AgentRefused):
        await other.ended()
    refused = seen.one("join_refused")
    assert (refused["id"], refused["code"]) == ("another-id", "name_taken")
    assert "lab-1" in refused["detail"]


async def test_a_name_that_is_taken_over(fleet, seen):
    await fleet.start()
    machine = await fleet.machine().boot()
    machine.agent.stop()
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    await fleet.machine(id="another-id").boot()
    renamed = seen.one("machine_renamed")
    assert (renamed["id"], renamed["before"], renamed["machine"]) == (machine.id, "lab-1", "lab-1.old-1")


async def test_a_job_from_the_order_to_its_end(fleet, seen, person, ada, until):
    await fleet.start()
    await fleet.machine(persons=(ada,), prompt=person(Answer(choice=Choice.NOW))).boot()
    job = await fleet.order(Action.LOG_OFF, requested_by="bo@desk", request_id="r-1")
    # Memory changes first; what is logged is on disk.
    await until(lambda: seen.names(state="done"))
    accepted = seen.one("job_accepted")
    assert accepted == {
        "event": "job_accepted",
        "job": job.job.id,
        "action": "logoff",
        "by": "bo@desk",
        "targets": ("lab-1",),
        "machines": 1,
        "request": "r-1",
    }
    states = [each["state"] for each in seen.all() if each["event"].startswith("execution_")]
    assert ["queued", *states] == await fleet.steps(job)
    assert seen.names(state="accepted") == ["execution_answered"]
    assert seen.names(state="done") == ["execution_ended"]
    again = await fleet.order(Action.LOG_OFF, requested_by="bo@desk", request_id="r-1")
    assert again.job.id == job.job.id
    assert seen.names().count("job_accepted") == 1


async def test_executions_that_end_at_once_or_are_cancelled(fleet, seen):
    await fleet.start()
    machine = await fleet.machine().boot()
    job = await fleet.order(Action.RESTART, delay_s=600.0)
    await fleet.control.cancel_job(job.job.id, CancelRequest(cancelled_by="bo@desk"))
    assert seen.one("job_cancelled") == {
        "event": "job_cancelled",
        "job": job.job.id,
        "by": "bo@desk",
        "machines": 1,
    }
    assert seen.names(state="cancelled") == ["execution_ended"]
    machine.agent.stop()
    await machine.ended()
    await machine.shown(PresenceState.OFFLINE)
    await fleet.order(Action.RESTART)
    assert seen.names(state="refused") == ["execution_ended"]


async def test_a_refused_job_request(fleet, seen):
    await fleet.start()
    with pytest.raises(OperationError):
        await fleet.order(Action.RESTART, "nope", requested_by="bo@desk")
    refused = seen.one("job_refused")
    assert (refused["by"], refused["targets"], refused["code"]) == ("bo@desk", ("nope",), "unknown_target")


async def test_repeated_storage_failures_are_logged_at_intervals(fleet, seen, monkeypatch, until):
    await fleet.start()
    now = 100.0
    monkeypatch.setattr(fleet.control.events, "_clock", lambda: now)

    async def fail(*_):
        raise StorageError("the disk is full")

    monkeypatch.setattr(fleet.storage, "save_machines", fail)
    monkeypatch.setattr(fleet.storage, "save_machine", fail)
    tries = []
    original = fleet.control.events.storage_failed
    monkeypatch.setattr(
        fleet.control.events, "storage_failed", lambda error: (tries.append(error), original(error))
    )
    machine = await fleet.machine().boot(wait=False)
    await until(lambda: len(tries) >= 3)
    assert [(each["detail"], each["times"]) for each in seen.all() if "times" in each] == [
        ("the disk is full", 1)
    ]
    now += event_log.STORAGE_AGAIN_S
    before = len(tries)
    await until(lambda: len(tries) > before)
    [_, again] = [each["times"] for each in seen.all() if "times" in each]
    assert again >= 2
    await machine.kill_agent()
    monkeypatch.undo()


def test_events_of_machines_do_not_displace_those_of_operators(seen, monkeypatch):
    now = 100.0
    monkeypatch.setattr(event_log, "PEERS_LINES_AT_ONCE", 3)
    log = EventLog(clock=lambda: now)
    error = RequestError("name_taken", "it is taken")
    for number in range(10):
        log.join_refused(f"id-{number}", "10.0.0.7:1", error)
    assert [each["id"] for each in seen.all()] == ["id-0", "id-1", "id-2"]
    log.event("control_stopping", machines=1)
    now += 1 / event_log.PEERS_LINES_PER_S
    log.join_refused("id-10", "10.0.0.7:1", error)
    log.join_refused("id-11", "10.0.0.7:1", error)
    assert seen.names()[3:] == ["control_stopping", "events_left_out", "join_refused"]
    assert seen.one("events_left_out")["count"] == 7


async def test_a_disabled_level_logs_nothing(caplog):
    caplog.set_level(logging.WARNING, event_log.LOGGER)
    EventLog().event("control_stopped")
    assert caplog.records == []


def presence(state: PresenceState, cause: Cause = Cause.NONE, *, join: str = "a", since_at: float = 1.0):
    return Presence(
        state=state, cause=cause, join=join, since_at=since_at, address="10.0.0.7:1", detail="why"
    )


@pytest.mark.parametrize("before", list(PresenceState))
@pytest.mark.parametrize("after", list(PresenceState))
@pytest.mark.parametrize("join", ["a", "b"])
def test_every_change_of_presence_is_an_event_with_its_fields(before, after, join):
    change = presence_event(presence(before), presence(after, join=join, since_at=3.0))
    if change is None:
        assert before is after
        return
    name, fields = change
    added = {"machine"} | (
        {"id", "address", "agent"} if "was" in fields and "after_s" not in fields else set()
    )
    assert set(fields) | added == set(EVENTS[name].fields)


def test_no_change_is_no_event():
    it = presence(PresenceState.ONLINE)
    assert presence_event(it, it) is None
    assert presence_event(it, msgspec.structs.replace(it, address="10.0.0.8:1")) is None


def test_every_state_has_an_event():
    assert set(event_log._EXECUTION_EVENTS) == set(ExecutionState)
    with pytest.raises(KeyError):
        EventLog().event("unknown")
