"""``--unasked``, and what the command line shows of machines that wait for a person."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from landline.cli.confirmation import cannot_ask_line
from landline.cli.job_progress import progress_lines
from landline.cli.terminal_text import width
from landline.fleet.api import JobRequest, Target
from landline.fleet.model import Action, ExecutionState, Person, PresenceState, Unasked

ADA = (Person("ada"),)


@pytest.mark.parametrize(
    "arguments", [[], ["--unasked", "wait"], ["--unasked", "refuse"], ["--unasked", "act"]]
)
async def test_unasked_is_in_the_request(cli, fleet, server, arguments) -> None:
    fleet.outcome = (ExecutionState.DONE, "")
    assert (await cli.run("restart", "lab-1", "--yes", *arguments)).status == 0
    assert [request.unasked for request in fleet.requests] == [Unasked((arguments or ["wait"])[-1])]


@pytest.mark.parametrize("value", ["", "Act", "never\x1b[2J"])
async def test_wrong_use(cli, fleet, server, value: str) -> None:
    ended = await cli.run("restart", "lab-1", "--yes", "--unasked", value)
    shown = value.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    assert (ended.status, ended.err) == (2, f"--unasked takes wait, refuse or act, not '{shown}'.\n")
    assert fleet.requests == []


async def test_the_api_refuses_other_values_of_unasked(server, directory) -> None:
    reader, writer = await asyncio.open_unix_connection(directory / "control.sock")
    body = b'{"action": "restart", "targets": ["lab-1"], "unasked": "perhaps"}'
    writer.write(
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "bad_request"


# Before the job.


def target(name: str, **changes: object) -> Target:
    values = {"persons": ADA, "knows_persons": True, "asks_by": "tk", "presence": PresenceState.ONLINE}
    return Target(machine_id=name, name=name, **{**values, **changes})


MIXED = [
    target("asks"),
    target("free", persons=(), asks_by="", asking_problem="no display"),
    target("cannot", asks_by="", asking_problem="no display"),
    target("old", knows_persons=False, asks_by=""),
    target("may-ask", persons=(), knows_persons=False),
    target("unknown", persons=(), knows_persons=False, asks_by="", asking_problem="no display"),
    target("off", asks_by="", asking_problem="no display", presence=PresenceState.OFFLINE),
]


@pytest.mark.parametrize(
    ("unasked", "then"),
    [
        (Unasked.WAIT, "they wait"),
        (Unasked.REFUSE, "they refuse"),
        (Unasked.ACT, "they act after the countdown without an answer"),
    ],
)
def test_the_confirmation_names_machines_that_cannot_ask(unasked: Unasked, then: str) -> None:
    assert cannot_ask_line(Action.RESTART, MIXED, unasked) == (
        f"3 of 7 machines cannot ask the person: cannot, old, unknown; with --unasked {unasked} {then}."
    )


def test_the_confirmation_names_few_machines_that_cannot_ask() -> None:
    assert cannot_ask_line(Action.RESTART, MIXED[:3], Unasked.WAIT) == (
        "1 of 3 machines cannot ask the person: cannot; with --unasked wait it waits."
    )
    many = [target(f"pc-{number:03}", asks_by="") for number in range(500)]
    assert "pc-000, pc-001, pc-002, pc-003, pc-004 and 495 more; with" in cannot_ask_line(
        Action.LOG_OFF, many, Unasked.WAIT
    )
    assert cannot_ask_line(Action.WAKE, many, Unasked.WAIT) == ""
    assert cannot_ask_line(Action.RESTART, MIXED[:2], Unasked.WAIT) == ""


async def test_the_confirmation_on_a_terminal(fleet, server, terminal) -> None:
    fleet.add("hall", asks_by="", asking_problem="no display")
    fleet.add("lobby", person="", knows_persons=False, asks_by="", asking_problem="no display")
    screen = await terminal("restart", "--all", "--unasked", "refuse")
    await screen.shows("unknown")
    await screen.shows(
        "2 of 5 machines cannot ask the person: hall, lobby; with --unasked refuse they refuse."
    )
    await screen.shows("Type their number to confirm: ")
    screen.interrupt()
    assert await screen.ended() == 130


# While it waits.

WAITING = "ada cannot be asked: no display"


async def test_a_waiting_job_shows_the_reason_and_a_hint(cli, fleet, server) -> None:
    async def line() -> str:
        return (await process.stdout.readline()).decode().rstrip()

    process = await cli.start("restart", "lab-[12]", "--yes")
    assert [await line(), await line()] == ["lab-1: queued", "lab-2: queued"]
    await fleet.first_reader.wait()
    fleet.report("0001abcd", "lab-1", ExecutionState.WAITING, WAITING)
    assert await line() == f"lab-1: waiting ({WAITING})"
    assert await line() == (
        "1 machine waits because no person can be asked; it continues when a person can be asked or no one is logged "
        "on, or the job expires. 'landline cancel 0001abcd' cancels it; --unasked act would act without an answer."
    )
    fleet.report("0001abcd", "lab-2", ExecutionState.WAITING, WAITING)
    assert await line() == f"lab-2: waiting ({WAITING})"  # The rest was said.
    fleet.report("0001abcd", "lab-1", ExecutionState.EXPIRED, f"its time ran out; {WAITING}")
    assert await line() == f"lab-1: expired (its time ran out; {WAITING})"
    fleet.report("0001abcd", "lab-2", ExecutionState.DONE)
    assert [await line(), await line()] == ["lab-2: done", "restart of 2 machines: 1 done, 1 expired."]
    assert await process.wait() == 1


async def test_jobs_shows_waiting_machines_and_who_was_asked(cli, fleet, server) -> None:
    request = JobRequest(action=Action.RESTART, targets=("lab-[12]",), unasked=Unasked.ACT)
    job_id = (await fleet.create_job(request)).job.id
    fleet.report(job_id, "lab-1", ExecutionState.WAITING, WAITING)
    view = fleet.views[job_id]
    first, second = view.executions
    second = msgspec.structs.replace(
        second, asked="ada (:0), bob (tty3)", answered_by="ada (:0)\x07", notices="wall", rounds=1
    )
    fleet.views[job_id] = msgspec.structs.replace(view, executions=(first, second))
    assert "1 queued, 1 waiting" in (await cli.run("jobs")).out
    lines = (await cli.run("jobs", job_id)).out.splitlines()
    assert lines[0] == f"{job_id}: restart of 2 machines: 1 queued, 1 waiting."
    assert lines[1] == f"lab-1: waiting ({WAITING})"
    assert (
        "  asked: ada (:0), bob (tty3); answered: ada (:0)\N{REPLACEMENT CHARACTER}; notified by: wall"
        in lines
    )
    assert lines[-1] == (
        "1 machine waits because no person can be asked; it acts after the countdown. "
        f"'landline cancel {job_id}' cancels what has not started."
    )
    document = json.loads((await cli.run("jobs", job_id, "--json")).out)
    assert document["job"]["unasked"] == "act"
    assert document["executions"][1]["asked"] == "ada (:0), bob (tty3)"


async def test_progress_with_a_hint_fits_the_terminal(fleet) -> None:
    for number in range(100):
        fleet.add(f"room-{number:03}")
    view = await fleet.create_job(JobRequest(action=Action.RESTART, targets=("room-*",)))
    fleet.report(view.job.id, "room-007", ExecutionState.WAITING, WAITING)
    for rows in (24, 10, 5):
        lines = progress_lines(fleet.views[view.job.id], 80, rows, colours=False)
        assert len(lines) == rows - 1
        assert all(width(line) < 80 for line in lines)
        hint = " ".join(lines).partition("1 machine waits")[2]
        assert bool(hint) == (rows >= 10)
        assert rows < 10 or f"'landline cancel {view.job.id}'" in hint
