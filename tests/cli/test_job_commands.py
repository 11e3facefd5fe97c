"""Job commands against a real server, in this process and on terminals."""

import asyncio
import io
import json
import re

import pytest
from tests.fleet.web.fake_operations import FakeOperations

from landline.cli.api_client import ApiClient, ServerAddress
from landline.cli.confirmation import confirmation_prompt
from landline.cli.exit_codes import CommandFailed, WrongUse
from landline.cli.job_commands import check_targets
from landline.cli.job_progress import LineProgress, ServerLost, follow, progress_lines
from landline.cli.terminal_text import width
from landline.fleet.api import JobRequest, OperationError
from landline.fleet.model import Action, ExecutionState
from landline.fleet.web.http_server import ApiServer

DONE = (ExecutionState.DONE, "")


@pytest.mark.parametrize(
    ("action", "sent"),
    [
        ("logoff", Action.LOG_OFF),
        ("restart", Action.RESTART),
        ("shutdown", Action.SHUT_DOWN),
        ("wake", Action.WAKE),
    ],
)
async def test_a_power_command_sends_a_job_and_follows_it(cli, fleet, server, action, sent):
    fleet.outcome = DONE
    ended = await cli.run(action, "lab-[12]", "--yes")
    assert ended.status == 0, ended.err
    assert ended.out == f"lab-1: done\nlab-2: done\n{action} of 2 machines: 2 done.\n"
    request = fleet.requests[0]
    assert request.action is sent
    assert request.targets == ("lab-[12]",)
    assert request.machine_ids == ("m-lab-1", "m-lab-2")
    assert re.fullmatch(r"\S+@\S+", request.requested_by)
    assert len(request.request_id) == 32


async def test_every_option_is_in_the_request(cli, fleet, server):
    fleet.outcome = DONE
    ended = await cli.run(
        *("restart", "--all", "--in", "1m30s", "--message", "Updates", "--no-cancel", "--no-postpone"),
        *("--valid-for", "5m", "--queue-for", "8h", "-y"),
    )
    assert ended.status == 0, ended.err
    request = fleet.requests[0]
    assert (request.delay_s, request.valid_for_s, request.queue_for_s) == (90, 300, 28_800)
    assert (request.message, request.may_cancel, request.may_postpone) == ("Updates", False, False)
    assert request.all_machines
    assert len(request.machine_ids) == 3


async def test_a_job_that_is_not_done_exits_with_1(cli, fleet, server):
    fleet.outcome = (ExecutionState.FAILED, "no\x1b[2J power")
    ended = await cli.run("restart", "lab-1", "--yes")
    assert ended.status == 1
    assert (
        ended.out == "lab-1: failed (no\N{REPLACEMENT CHARACTER}[2J power)\nrestart of 1 machine: 1 failed.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["restart"], "No machine is named; name the machines to restart, or use --all for every one."),
        (
            ["logoff", "--yes"],
            "No machine is named; name the machines to log off, or use --all for every one.",
        ),
        (
            ["shutdown", "a", "--all", "--yes"],
            "Machines are named and --all is given; use only one of the two.",
        ),
        (["wake", "", "--yes"], "One of the targets is empty; name machines, or use --all for every one."),
        (
            ["restart", "lab-1"],
            "There is no terminal to ask for confirmation; add --yes to act without confirmation.",
        ),
        (
            ["restart", "lab-1", "--yes", "--in", "5"],
            "--in takes a duration such as 30s, 2m, 8h or 1h30m, not '5'; give the unit too.",
        ),
        (
            ["restart", "lab-1", "--yes", "--valid-for", "x"],
            "--valid-for takes a duration such as 30s, 2m, 8h or 1h30m, not 'x'; give the unit too.",
        ),
        (
            ["restart", "lab-1", "--yes", "--message", "x" * 501],
            "--message takes at most 500 characters, not 501; shorten it.",
        ),
        (["restart", "nope", "--yes"], "No machine is called 'nope'; see 'landline ls'."),
        (["jobs", "--limit", "0"], "--limit takes a whole number from 1 to 1000, not '0'."),
        (["jobs", "--limit", "many"], "--limit takes a whole number from 1 to 1000, not 'many'."),
        (["jobs", ""], "The job id is empty; 'landline jobs' lists the jobs."),
        (["jobs", "99"], "There is no job '99'; see 'landline jobs'."),
        (["cancel", "../x?y"], "'../x?y' cannot be a job id; 'landline jobs' lists the jobs."),
        (["cancel", " "], "The job id is empty; 'landline jobs' lists the jobs."),
    ],
)
async def test_wrong_use_sends_nothing(cli, fleet, server, arguments, sentence):
    ended = await cli.run(*arguments)
    assert (ended.status, ended.out, ended.err) == (2, "", sentence + "\n")
    assert fleet.requests == []


async def test_unknown_options_are_wrong_use(cli):
    ended = await cli.run("restart", "a", "--forse")
    assert ended.status == 2
    assert "No such option '--forse'" in ended.err


async def test_a_fleet_without_machines_matches_nothing(cli, fleet, server):
    fleet.by_id.clear()
    ended = await cli.run("restart", "--all", "--yes")
    assert ended.status == 2
    assert ended.err.startswith("No machine matches; nothing was sent.")


async def test_json_goes_to_stdout_and_progress_to_stderr(cli, fleet, server):
    fleet.outcome = DONE
    ended = await cli.run("restart", "lab-1", "--yes", "--json")
    assert ended.status == 0
    document = json.loads(ended.out)
    assert [execution["state"] for execution in document["executions"]] == ["done"]
    assert ended.err == "lab-1: done\n"


async def test_no_wait_returns_when_the_job_is_accepted(cli, fleet, server):
    ended = await cli.run("restart", "lab-1", "--yes", "--no-wait")
    assert ended.status == 0
    assert ended.out == ("Job 0001abcd: restart of 1 machine accepted; 'landline jobs 0001abcd' shows it.\n")
    ended = await cli.run("restart", "lab-1", "--yes", "--no-wait", "--json")
    assert json.loads(ended.out)["executions"][0]["state"] == "queued"


async def test_a_job_is_followed_line_by_line_across_a_restart_of_the_server(cli, fleet, directory):
    path = directory / "control.sock"

    async def line():
        return (await process.stdout.readline()).decode().rstrip()

    async with ApiServer(fleet, unix_path=path):
        process = await cli.start("restart", "lab-[12]", "--yes")
        assert [await line(), await line()] == ["lab-1: queued", "lab-2: queued"]
        await fleet.first_reader.wait()
        fleet.report("0001abcd", "lab-1", ExecutionState.PROMPTED)
        assert await line() == "lab-1: prompted"
        fleet.report("0001abcd", "lab-2", ExecutionState.CANCELLED, "ada said no")
        assert await line() == "lab-2: cancelled (ada said no)"
    assert (await line()).endswith("The job continues; waiting for the server.")
    fleet.report("0001abcd", "lab-1", ExecutionState.DONE)  # While no command is connected.
    async with ApiServer(fleet, unix_path=path):
        assert [await line(), await line()] == ["lab-1: done", "restart of 2 machines: 1 done, 1 cancelled."]
        assert await process.wait() == 1


async def test_a_few_machines_are_confirmed_with_y(cli, fleet, server, terminal):
    screen = await terminal("restart", "lab-[12]")
    await screen.shows("lab-2")
    await screen.shows("Restart these 2 machines? [y/N] ")
    screen.types("y\n")
    await screen.shows("queued")
    await fleet.first_reader.wait()
    fleet.report("0001abcd", "lab-1", ExecutionState.POSTPONED, "10 min\x1b[31m")
    await screen.shows("10 min\N{REPLACEMENT CHARACTER}[31m")
    fleet.report("0001abcd", "lab-1", ExecutionState.DONE)
    fleet.report("0001abcd", "lab-2", ExecutionState.DONE)
    await screen.shows("restart of 2 machines: 2 done.")
    assert await screen.ended() == 0
    assert "\x1b[2F" in screen.text  # In place.


@pytest.mark.parametrize("answer", ["n\n", "\n", "yea\n", "\x04"])
async def test_any_other_answer_sends_nothing(fleet, server, terminal, answer):
    screen = await terminal("shutdown", "lab-1")
    await screen.shows("Shut down this machine? [y/N] ")
    screen.types(answer)
    await screen.shows("Not confirmed; nothing was sent to the 1 machine.")
    assert await screen.ended() == 1
    assert fleet.requests == []


@pytest.mark.parametrize(("answer", "sent"), [("4", True), ("y", False), ("3", False), ("40", False)])
async def test_many_machines_are_confirmed_by_their_number(fleet, server, terminal, answer, sent):
    fleet.outcome = DONE
    fleet.add("lab-4")
    screen = await terminal("restart", "--all")
    await screen.shows("lab-4")
    await screen.shows("Restart these 4 machines? Type their number to confirm: ")
    fleet.add("lab-5")  # After the list was shown: it is not part of the confirmed list.
    screen.types(answer + "\n")
    await screen.shows("4 done" if sent else "nothing was sent to the 4 machines")
    assert await screen.ended() == (0 if sent else 1)
    assert [len(request.machine_ids) for request in fleet.requests] == ([4] if sent else [])


async def test_ctrl_c_at_the_confirmation_sends_nothing(fleet, server, terminal):
    screen = await terminal("restart", "lab-1")
    await screen.shows("[y/N] ")
    screen.interrupt()
    await screen.shows("Nothing was sent.")
    assert await screen.ended() == 130
    assert fleet.requests == []


async def test_ctrl_c_stops_following_and_not_the_job(fleet, server, terminal):
    screen = await terminal("restart", "lab-1", "--yes", "--json")
    await screen.shows("queued")
    await fleet.first_reader.wait()
    screen.interrupt()
    await screen.shows(
        "Stopped following; the job continues. 'landline cancel 0001abcd' cancels what has not started."
    )
    assert await screen.ended() == 130
    assert fleet.views["0001abcd"].executions[0].state is ExecutionState.QUEUED


async def test_jobs_lists_jobs_and_shows_the_events_of_one(cli, fleet, server):
    assert (await cli.run("jobs")).out == "No jobs yet.\n"
    request = JobRequest(action=Action.RESTART, targets=("lab-[12]",), requested_by="ada\x1b[2J@desk")
    job_id = (await fleet.create_job(request)).job.id
    fleet.report(job_id, "lab-1", ExecutionState.PROMPTED)
    fleet.report(job_id, "lab-1", ExecutionState.CANCELLED, "ada said no\x07")
    await fleet.create_job(JobRequest(action=Action.WAKE, machine_ids=("m-lab-3",)))

    ended = await cli.run("jobs")
    assert ended.out.splitlines() == [
        "JOB       ACTION   TARGETS    BY            AGE  MACHINES",
        "0002abcd  wake     1 machine  -             0 s  1 queued",
        "0001abcd  restart  lab-[12]   ada\N{REPLACEMENT CHARACTER}[2J@desk  0 s  1 queued, 1 cancelled",
    ]
    assert len((await cli.run("jobs", "--limit", "1")).out.splitlines()) == 2
    assert len(json.loads((await cli.run("jobs", "--json")).out)) == 2

    ended = await cli.run("jobs", "0001")
    assert ended.status == 0
    lines = ended.out.splitlines()
    assert lines[0] == (
        "0001abcd: restart of 2 machines: 1 queued, 1 cancelled. "
        "Requested by ada\N{REPLACEMENT CHARACTER}[2J@desk."
    )
    assert lines[1] == "lab-1: cancelled (ada said no\N{REPLACEMENT CHARACTER})"
    assert re.fullmatch(r"  \d\d:\d\d:\d\d  prompted", lines[2])
    assert re.fullmatch(r"  \d\d:\d\d:\d\d  cancelled  ada said no\N{REPLACEMENT CHARACTER}", lines[3])
    assert lines[4:] == ["lab-2: queued"]
    assert len(json.loads((await cli.run("jobs", "0001", "--json")).out)["events"]) == 2

    ended = await cli.run("jobs", "000")
    assert (ended.status, ended.err) == (2, "'000' names 2 jobs; give more of the id.\n")


async def test_cancel(cli, fleet, server):
    request = JobRequest(action=Action.RESTART, targets=("lab-[12]",))
    first, second = [(await fleet.create_job(request)).job.id for _ in range(2)]
    ended = await cli.run("cancel", first[:4])
    assert ended.status == 0
    assert re.fullmatch(
        r"lab-1: cancelled \(cancelled by \S+@\S+\)\nlab-2: cancelled \(.*\)\n"
        r"restart of 2 machines: 2 cancelled\.\n",
        ended.out,
    )
    fleet.report(second, "lab-1", ExecutionState.ACTING)
    ended = await cli.run("cancel", second, "--json")
    assert ended.status == 1
    assert [e["state"] for e in json.loads(ended.out)["executions"]] == ["acting", "cancelled"]


async def test_the_cancellation_of_a_job_that_is_over_says_so(cli, fleet, server):
    request = JobRequest(action=Action.RESTART, targets=("lab-[12]",))
    done, expired, cancelled = [(await fleet.create_job(request)).job.id for _ in range(3)]
    for name in ("lab-1", "lab-2"):
        fleet.report(done, name, ExecutionState.DONE)
        fleet.report(expired, name, ExecutionState.EXPIRED)
    for job_id in (done, expired):
        ended = await cli.run("cancel", job_id)
        assert (ended.status, ended.err) == (
            1,
            f"Job {job_id} was over already; there was nothing to cancel.\n",
        )
        ended = await cli.run("cancel", job_id, "--json")
        assert (ended.status, json.loads(ended.out)["job"]["id"]) == (1, job_id)
    # A second cancellation has the same result as the first.
    assert [(await cli.run("cancel", cancelled)).status for _ in range(2)] == [0, 0]


async def test_json_passes_a_json_tool(cli, fleet, server):
    fleet.add("evil\x1b\u009b\u202e\u2028")
    fleet.outcome = DONE
    for arguments in (["ls"], ["restart", "evil*", "--yes"], ["jobs"], ["jobs", "0001"], ["cancel", "0001"]):
        ended = await cli.run(*arguments, "--json")
        tool = await asyncio.create_subprocess_exec(
            *("python3", "-m", "json.tool"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        await tool.communicate(ended.out.encode())
        assert tool.returncode == 0
        assert not set(ended.out) & set("\x1b\u009b\u202e\u2028")


async def test_a_refused_job_exits_with_2(cli, fleet, server):
    original = fleet.create_job

    async def refuse(request):
        raise OperationError("bad_request", "The\x1b[31m delay is too long; give less than a day.")

    fleet.create_job = refuse
    ended = await cli.run("restart", "lab-1", "--yes")
    assert ended.status == 2
    assert ended.err == "The\N{REPLACEMENT CHARACTER}[31m delay is too long; give less than a day.\n"
    fleet.create_job = original


# Pure functions.


def test_confirmation_prompts():
    assert confirmation_prompt(Action.LOG_OFF, 1).text == "Log off this machine? [y/N] "
    assert confirmation_prompt(Action.WAKE, 3).yes == {"y", "yes"}
    assert confirmation_prompt(Action.SHUT_DOWN, 4).yes == {"4"}


def test_targets():
    check_targets(Action.RESTART, ("a",), False)
    check_targets(Action.RESTART, (), True)
    with pytest.raises(WrongUse):
        check_targets(Action.RESTART, ("a", " "), False)


async def test_progress_fits_the_terminal(fleet):
    for number in range(100):
        fleet.add(f"room-{number:03}-{'x' * 40}")
    view = await fleet.create_job(JobRequest(action=Action.RESTART, targets=("room-*",)))
    fleet.report(view.job.id, view.executions[0].machine_name, ExecutionState.DONE, "long " * 50)
    lines = progress_lines(fleet.views[view.job.id], 80, 24, colours=False)
    assert len(lines) == 23
    assert all(width(line) < 80 for line in lines)
    assert not any(" done " in line for line in lines[:-1])  # Unfinished machines come first.
    assert lines[-1] == "… 78 more. restart of 100 machines: 99 queued, 1 done."


async def followed_job(fleet, directory):
    """Start to follow a job of ``fleet``, and wait until it is followed."""
    view = await fleet.create_job(JobRequest(action=Action.RESTART, targets=("lab-1",), request_id="r-1"))
    api = ApiClient(ServerAddress(unix_path=str(directory / "control.sock")))
    said = io.StringIO()
    following = asyncio.create_task(
        asyncio.to_thread(follow, api, view, LineProgress(said), sleep=lambda _: None)
    )
    await fleet.first_reader.wait()
    return view.job.id, following, said


async def test_another_server_at_the_same_socket_ends_following(fleet, directory):
    path = directory / "control.sock"
    async with ApiServer(fleet, unix_path=path):
        job_id, following, said = await followed_job(fleet, directory)
    other = FakeOperations(server_id="other")
    async with ApiServer(other, unix_path=path):
        with pytest.raises(ServerLost) as caught:
            await following
    assert caught.value.status == 3
    assert str(caught.value) == (
        "Another control server answers at this address now, with other machines and jobs; the result of job "
        f"{job_id}, which the first one accepted, is not known."
    )
    assert "done" not in said.getvalue()


@pytest.mark.parametrize("request_id", ["r-2", None])
async def test_a_job_that_the_server_does_not_know_is_not_over(fleet, directory, request_id):
    """A server without an id: its jobs show that it is another one."""
    path = directory / "control.sock"
    fleet.server_id = ""
    async with ApiServer(fleet, unix_path=path):
        _, following, _ = await followed_job(fleet, directory)
    other = FakeOperations(server_id="")
    if request_id is not None:
        # Its first job has the same id.
        request = JobRequest(action=Action.WAKE, targets=("lab-1",), request_id=request_id)
        other.report((await other.create_job(request)).job.id, "lab-1", ExecutionState.DONE)
    async with ApiServer(other, unix_path=path):
        with pytest.raises(ServerLost, match="Another control server answers at this address now"):
            await following


async def test_a_job_that_is_not_in_a_snapshot_is_looked_up(fleet, directory):
    path = directory / "control.sock"
    async with ApiServer(fleet, unix_path=path):
        job_id, following, said = await followed_job(fleet, directory)
    fleet.report(job_id, "lab-1", ExecutionState.DONE, "it is back")
    async with ApiServer(fleet, unix_path=path):
        view = await following
    assert view.executions[0].state is ExecutionState.DONE
    assert said.getvalue().endswith("lab-1: done (it is back)\n")


async def test_following_ends_when_the_server_stays_away(fleet, directory):
    path = directory / "control.sock"
    view = await fleet.create_job(JobRequest(action=Action.RESTART, targets=("lab-1",)))
    api = ApiClient(ServerAddress(unix_path=str(path)))
    following = None
    async with ApiServer(fleet, unix_path=path):
        following = asyncio.create_task(
            asyncio.to_thread(
                follow, api, view, LineProgress(io.StringIO()), absence_s_max=-1.0, sleep=lambda _: None
            )
        )
        await fleet.first_reader.wait()
    with pytest.raises(CommandFailed, match="did not come back") as caught:
        await following
    assert caught.value.status == 3
