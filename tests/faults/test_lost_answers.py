"""Answers that are lost on their way to the command line: a job is accepted once, and the command says what is true."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults import processes as processes_module
from tests.faults import relays

from landline.cli.exit_codes import ALL_DONE, NO_SERVER, SOME_NOT_DONE
from landline.fleet.api import CancelRequest
from landline.fleet.model import Action, ExecutionState

IMPATIENT = """
from landline.cli import main
from landline.cli import job_progress as following
from landline.cli import retry as retrying
retrying.Retries.__init__.__kwdefaults__.update({changes})
following.follow.__kwdefaults__.update(absence_s_max={gone_s})
main()
"""


@pytest.fixture(scope="module")
def machine(fleet):
    return fleet.machine("busy")


@pytest.fixture
def place(fleet) -> Iterator[Path]:
    """An empty directory with a name short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="ll-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def run(fleet, place):
    """Runs a command through a relay; ``answer_s`` and ``change_s`` are its patience."""

    def run_through(relay_path: Path, *arguments: str, gone_s: float = 60.0, **changes: float):
        program = fleet.control.processes.start(
            *arguments,
            *("--server", f"unix://{relay_path}"),
            program=("-c", IMPATIENT.format(changes=changes, gone_s=gone_s)),
        )
        program.ends()
        return program

    return run_through


def relay(fleet, place, matching: str, *faults) -> relays.AnswerRelay:
    return relays.AnswerRelay(place / "relay", fleet.control.socket, matching, *faults)


@pytest.mark.parametrize(
    "fault",
    [relays.never_arrives, relays.loses_answer, relays.cuts_answer, relays.is_silent],
    ids=lambda fault: fault.__name__,
)
def test_a_job_is_accepted_once_when_its_answer_is_lost(fleet, machine, place, run, fault):
    machine.forget()
    with relay(fleet, place, "POST /api/v1/jobs ", fault, fault) as lost:
        ended = run(place / "relay", "logoff", "busy", "--message", fault.__name__, "--yes", answer_s=1.0)
    assert ended.process.returncode == ALL_DONE, ended.err
    assert len(lost.requests) == 3
    assert machine.acts == [fault.__name__]
    assert "repeating the request for the job (request " in ended.err
    assert "try again" not in ended.err
    [request_id] = {json.loads(each.partition(b"\r\n\r\n")[2])["request_id"] for each in lost.requests}
    assert len(fleet.control.api.jobs(100)) == len({view.job.id for view in fleet.control.api.jobs(100)})
    assert fleet.control.api.job_of_request(request_id).job.message == fault.__name__


def test_a_job_whose_answers_are_all_lost_may_have_been_accepted(fleet, machine, place, run):
    machine.forget()
    faults = [relays.loses_answer] * 50
    with relay(fleet, place, "POST /api/v1/jobs ", *faults):
        ended = run(
            place / "relay", "logoff", "busy", "--message", "unheard", "--yes", "--json", change_s=1.0
        )
    assert ended.process.returncode == SOME_NOT_DONE
    document = json.loads(ended.out)
    assert document == {"accepted": "unknown", "request_id": document["request_id"]}
    lookup = re.search(
        r"may have been accepted and may run; 'landline (jobs --request \w+)' shows", ended.err
    )
    assert "try again" not in ended.err
    processes_module.until(lambda: machine.ended == ["unheard"])
    found = run(fleet.control.socket, *lookup[1].split(), "--json")
    assert json.loads(found.out)["job"]["message"] == "unheard"
    missing = run(fleet.control.socket, "jobs", "--request", "0" * 32, "--json")
    assert missing.process.returncode == SOME_NOT_DONE
    assert json.loads(missing.out) == {"accepted": "no", "request_id": "0" * 32}
    assert missing.err == f"No job was accepted for request {'0' * 32}.\n"


def test_a_job_is_accepted_once_when_its_server_is_frozen(fleet, machine, place):
    machine.forget()
    control = fleet.control
    before = len(control.api.jobs(1000))
    program = control.processes.start(
        *("logoff", "busy", "--message", "frozen", "--yes"),
        *("--server", f"unix://{place / 'relay'}"),
        program=("-c", IMPATIENT.format(changes={"answer_s": 1.0}, gone_s=60.0)),
    )

    def freezes(client, server) -> None:
        # The request is in the server's socket, and will be read.
        control.program.freeze()
        client.recv(1)

    with relay(fleet, place, "POST /api/v1/jobs ", freezes):
        processes_module.until(lambda: "repeating the request" in program.err)
        control.program.thaw()
        assert program.ends() == ALL_DONE, program.err
    assert machine.acts == ["frozen"]
    assert len(control.api.jobs(1000)) == before + 1


def test_a_job_is_accepted_once_when_its_server_is_killed_before_it_answers(fleet, machine, place):
    machine.forget()
    control = fleet.control
    before = len(control.api.jobs(1000))

    def kills(client, server) -> None:
        server.recv(65_536)  # It is on disk.
        control.program.kill()

    program = control.processes.start(
        *("logoff", "busy", "--message", "killed", "--yes"),
        *("--server", f"unix://{place / 'relay'}"),
        program=("-c", IMPATIENT.format(changes={}, gone_s=60.0)),
    )
    with relay(fleet, place, "POST /api/v1/jobs ", kills):
        processes_module.until(lambda: "repeating the request" in program.err)
        control.start()
        assert program.ends() == ALL_DONE, program.err
    assert machine.acts == ["killed"]
    assert len(control.api.jobs(1000)) == before + 1


@pytest.mark.parametrize(
    "fault", [relays.never_arrives, relays.cuts_answer], ids=lambda fault: fault.__name__
)
def test_a_job_is_cancelled_when_the_answer_is_lost(fleet, machine, place, run, fault):
    machine.forget()
    job = fleet.control.order(Action.LOG_OFF, "busy", delay_s=600.0)
    with relay(fleet, place, "POST ", fault) as lost:
        ended = run(place / "relay", "cancel", job[:4], "--json")
    assert ended.process.returncode == ALL_DONE, ended.err
    assert json.loads(ended.out)["executions"][0]["state"] == "cancelled"
    assert f"repeating the request for the cancellation of job {job}" in ended.err
    # The whole id, which no other job can come to share.
    assert {each.split()[1] for each in lost.requests} == {f"/api/v1/jobs/{job}/cancel".encode()}

    job = fleet.control.order(Action.LOG_OFF, "busy", delay_s=600.0)
    with relay(fleet, place, "POST ", *[fault] * 50):
        ended = run(place / "relay", "cancel", job, "--json", change_s=1.0)
    assert ended.process.returncode == SOME_NOT_DONE
    assert json.loads(ended.out) == {"accepted": "unknown", "job_id": job}
    assert f"may have been cancelled; 'landline jobs {job}' shows" in ended.err
    fleet.control.api.cancel_job(job, CancelRequest())


def test_following_continues_after_its_updates_break(fleet, machine, place, run):
    machine.forget()
    breaks = [relays.cuts_stream(b'"type":"job"'), relays.cuts_stream(b'"type":"snapshot"')]
    with relay(fleet, place, "GET /api/v1/updates", *breaks) as lost:
        ended = run(
            place / "relay", "logoff", "busy", "--message", "followed", "--in", "1s", "--yes", "--json"
        )
    assert ended.process.returncode == ALL_DONE, ended.err
    assert len(lost.requests) >= 2
    view = json.loads(ended.out)
    assert view["executions"][0]["state"] == "done"
    assert len(fleet.control.api.jobs(1000)) == len({each.job.id for each in fleet.control.api.jobs(1000)})
    assert machine.acts == ["followed"]
    assert "The job continues; waiting for the server." in ended.err
    assert "try again" not in ended.err


def test_a_server_that_does_not_come_back_leaves_the_job_as_it_was_seen_last(fleet, machine, place, run):
    job_message = "left alone"
    machine.forget()
    faults = [relays.never_arrives] * 50
    with relay(fleet, place, "GET /api/v1/updates", *faults):
        ended = run(
            *(place / "relay", "logoff", "busy", "--message", job_message, "--in", "600s", "--yes", "--json"),
            gone_s=0.5,
        )
    assert ended.process.returncode == NO_SERVER
    view = json.loads(ended.out)
    assert view["job"]["message"] == job_message
    assert (
        f"The job was accepted and may continue: 'landline jobs {view['job']['id']}' shows it." in ended.err
    )
    assert fleet.control.api.job(view["job"]["id"]).executions[0].state is not ExecutionState.CANCELLED
    fleet.control.api.cancel_job(view["job"]["id"], CancelRequest())
