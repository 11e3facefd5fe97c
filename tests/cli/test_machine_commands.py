"""``ls``, ``watch`` and ``machines`` against a real server."""

import json
import re
import signal

import msgspec
import pytest
from tests.fleet.web.fake_operations import FakeOperations

import landline
from landline.fleet.api import JobRequest
from landline.fleet.model import Action, Cause, Claimant, ExecutionState, PresenceState
from landline.fleet.web.http_server import ApiServer

LEAVE_SCREEN = "\x1b[?1049l"
SHOW_CURSOR = "\x1b[?25h"


async def test_ls(cli, fleet, server):
    fleet.add("office", PresenceState.AWAY, Cause.RESTARTING)
    fleet.add("old", PresenceState.OFFLINE, Cause.LINK_LOST, os="Windows 11", person="bob", since_s=7500)
    ended = await cli.run("ls")
    assert ended.status == 0, ended.err
    assert ended.out.splitlines() == [
        "5 machines: 3 online, 1 away, 1 offline",
        "NAME    PRESENCE             PERSON  ASK       ADDRESS         HOST        OS          SINCE       RTT",
        "lab-1   online               ada     tk on :0  10.0.0.7:40112  lab-1.lan   Debian      1 min       12.3 ms",
        "lab-2   online               ada     tk on :0  10.0.0.7:40112  lab-2.lan   Debian      1 min       12.3 ms",
        "lab-3   online               ada     tk on :0  10.0.0.7:40112  lab-3.lan   Debian      1 min       12.3 ms",
        "office  away (restarting)    -       -         -               office.lan  Debian      1 min       -",
        "old     offline (link lost)  -       -         -               old.lan     Windows 11  2 h 05 min  -",
    ]


async def test_ls_shows_machines_that_cannot_ask_or_cannot_tell_who_is_logged_on(cli, fleet, server):
    fleet.by_id.clear()
    fleet.add("free", person="")
    fleet.add("hall", asks_by="", asking_problem="no display\x1b[2J")
    fleet.add("lab-1", person="", knows_persons=False, persons_problem="the bus is gone")
    fleet.add("lab-2", person="", knows_persons=False, persons_problem="the bus is gone")
    fleet.add("old", person="", knows_persons=False, asks_by="")
    ended = await cli.run("ls")
    lines = ended.out.splitlines()
    assert [re.split(r"  +", line)[:4] for line in lines[2:7]] == [
        ["free", "online", "-", "tk on :0"],
        ["hall", "online", "ada", "no"],
        ["lab-1", "online", "unknown", "tk on :0"],
        ["lab-2", "online", "unknown", "tk on :0"],
        ["old", "online", "unknown", "unknown"],
    ]
    assert lines[7:] == [
        "hall cannot ask a person: no display\N{REPLACEMENT CHARACTER}[2J",
        "lab-1, lab-2 cannot tell who is logged on: the bus is gone",
        "old cannot ask a person: the agent did not say how it asks",
        "old cannot tell who is logged on: the agent did not say why",
    ]
    document = json.loads((await cli.run("ls", "--json")).out)
    facts = {machine["facts"]["name"]: machine["facts"] for machine in document["machines"]}
    assert facts["hall"]["asking_problem"] == "no display\x1b[2J"
    assert facts["lab-1"]["persons_problem"] == "the bus is gone"
    assert (facts["free"]["knows_persons"], facts["free"]["asks_by"]) == (True, "tk on :0")


async def test_machines_with_a_cloned_identity_and_resolve(cli, fleet, server):
    claimants = tuple(
        Claimant(
            name=f"pc{number}",
            host_name=f"pc{number}.lan",
            address=f"10.0.0.{number}:4711",
            boot_id="",
            is_live=number < 3,
            since_at=fleet.now - 60,
        )
        for number in (1, 2, 3)
    )
    fleet.put(msgspec.structs.replace(fleet.by_id["m-lab-2"], claimants=claimants))
    ended = await cli.run("ls")
    assert ended.out.splitlines()[3:6] == [
        "lab-2  online (cloned identity)   -       -         10.0.0.1:4711   pc1.lan    Debian  1 min  -",
        "lab-2  online (cloned identity)   -       -         10.0.0.2:4711   pc2.lan    Debian  1 min  -",
        "lab-2  offline (cloned identity)  -       -         10.0.0.3:4711   pc3.lan    Debian  1 min  -",
    ]
    refused = await cli.run("machines", "resolve", "lab-2")
    assert (refused.status, refused.out, refused.err) == (2, "", "2 machines use the identity of lab-2.\n")
    unknown = await cli.run("machines", "resolve", "lab-9")
    assert (unknown.status, unknown.err) == (2, "There is no machine called 'lab-9'.\n")
    live = msgspec.structs.replace(claimants[1], is_live=False)
    fleet.put(msgspec.structs.replace(fleet.by_id["m-lab-2"], claimants=(claimants[0], live, claimants[2])))
    resolved = await cli.run("machines", "resolve", "lab-2")
    assert (resolved.status, resolved.out) == (
        0,
        "lab-2 is the only machine with its identity; it gets jobs again.\n",
    )
    assert "cloned" not in (await cli.run("ls")).out


async def test_ls_without_machines(cli, fleet, server):
    fleet.by_id.clear()
    assert (await cli.run("ls")).out == "0 machines\n"


async def test_ls_json(cli, fleet, server):
    ended = await cli.run("ls", "--json")
    document = json.loads(ended.out)
    assert [machine["facts"]["name"] for machine in document["machines"]] == ["lab-1", "lab-2", "lab-3"]
    assert document["now_at"] == fleet.now


async def test_text_of_a_machine_cannot_control_the_terminal(cli, fleet, server):
    fleet.add("evil\x1b[2J\u202e", os="\x1b]0;owned\x07\x9b5n", person="a\r\nb")
    for arguments in (["ls"], ["ls", "--json"]):
        ended = await cli.run(*arguments)
        assert ended.status == 0
        assert not set(ended.out) & set("\x1b\x07\r\x9b\u202e")
    assert len((await cli.run("ls")).out.splitlines()) == 6


async def test_no_server_answers(cli, directory):
    for command in (["ls"], ["watch"], ["jobs"], ["cancel", "1"], ["restart", "a", "--yes"]):
        # Signal handlers, such as those of watch, need the main thread.
        ended = await (cli.run_process if command == ["watch"] else cli.run)(*command)
        assert ended.status == 3
        assert ended.out == ""
        assert ended.err == (
            f"No control server answers at unix://{directory}/control.sock; start one with 'landline demo' "
            "or 'landline serve', or name its address with --server.\n"
        )


async def test_over_tcp_with_a_token(cli, fleet, directory):
    async with ApiServer(fleet, tcp=("127.0.0.1", 0), token="s3cret") as server:
        url = "http://{}:{}".format(*server.tcp_address)
        token_file = directory / "token"
        token_file.write_text("s3cret\n")
        token_file.chmod(0o640)
        ended = await cli.run("ls", "--server", url, "--token-file", str(token_file))
        assert (ended.status, ended.err) == (0, "")
        for mode in (0o644, 0o602):
            token_file.chmod(mode)
            ended = await cli.run("ls", "--server", url, "--token-file", str(token_file))
            assert (ended.status, ended.err) == (
                0,
                f"Warning: {token_file} can be read or changed by every user of this machine, and it holds a secret; "
                f"make it private with: chmod 600 {token_file}.\n",
            )
        assert (await cli.run("ls", LANDLINE_SERVER=url, LANDLINE_TOKEN="s3cret")).status == 0
        for environment, problem in (
            ({}, "needs a token"),
            ({"LANDLINE_TOKEN": "wrong"}, "does not accept this token"),
        ):
            ended = await cli.run("ls", "--server", url, **environment)
            assert ended.status == 2
            assert ended.err == (
                f"The control server at {url} {problem}; give the operators' token with --token-file or "
                "LANDLINE_TOKEN.\n"
            )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--server", "lab"], "--server takes unix:///path or http://host:port, not 'lab'."),
        (["--token-file", "/no/such"], "Cannot read the token file /no/such: no such file or directory."),
    ],
)
async def test_wrong_use(cli, arguments, sentence):
    ended = await cli.run("ls", *arguments)
    assert (ended.status, ended.err) == (2, sentence + "\n")


async def test_the_port_of_the_agents_is_not_the_api(cli):
    async with landline.Server().listen("tcp://127.0.0.1:0") as endpoint:
        ended = await cli.run("ls", "--server", f"http://127.0.0.1:{endpoint.port}")
    assert ended.status == 3
    assert ended.err.endswith(
        "does not answer as the API of a landline control server of this version; check the address: it is the one of "
        "'landline serve --http', not the one where agents connect.\n"
    )


async def test_a_failing_server_exits_with_3(cli, fleet, server):
    fleet.failure = RuntimeError("secret")
    ended = await cli.run("ls")
    assert (ended.status, ended.err) == (
        3,
        "The control server failed while it handled this request; its log says why.\n",
    )


async def test_a_closed_pipe_causes_no_traceback(cli, fleet, server):
    process = await cli.start("ls")
    process.stdout._transport.close()
    assert b"Traceback" not in await process.stderr.read()
    await process.wait()


async def lines_of(process, *wanted):
    """Reads lines until one ends with each of ``wanted``, in that order."""
    for end in wanted:
        while not (line := (await process.stdout.readline()).decode()).rstrip().endswith(end):
            assert line, f"ended before {end!r}: {(await process.stderr.read()).decode()}"


async def test_watch_without_a_terminal_prints_changes(cli, fleet, directory):
    path = directory / "control.sock"
    async with ApiServer(fleet, unix_path=path):
        process = await cli.start("watch")
        await lines_of(process, "3 machines: 3 online", "lab-1 online [ada]", "lab-3 online [ada]")
        fleet.put(msgspec.structs.replace(fleet.by_id["m-lab-1"], round_trip_s=0.5))  # Not worth a line.
        fleet.add("lab-2", PresenceState.OFFLINE, Cause.SHUT_DOWN)
        line = (await process.stdout.readline()).decode().rstrip()
        assert line.endswith("lab-2 offline (shut down) [ada]")
        view = await fleet.create_job(JobRequest(action=Action.RESTART, targets=("lab-1",)))
        job_id = view.job.id
        fleet.report(job_id, "lab-1", ExecutionState.REFUSED, "busy\x1b[31m")
        await lines_of(
            process,
            f"job {job_id} restart lab-1: queued",
            f"job {job_id} restart lab-1: refused (busy\N{REPLACEMENT CHARACTER}[31m)",
        )
        open_job = (await fleet.create_job(JobRequest(action=Action.RESTART, targets=("lab-1",)))).job.id
        await lines_of(process, f"job {open_job} restart lab-1: queued")
    await lines_of(process, "went away. Waiting for it.")
    fleet.report(open_job, "lab-1", ExecutionState.DONE)
    del fleet.by_id["m-lab-3"]
    async with ApiServer(fleet, unix_path=path):
        await lines_of(
            process,
            "The control server answers again.",
            "lab-3 is no longer known",
            f"job {open_job} is no longer open; 'landline jobs {open_job}' shows the result",
        )
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
        assert await process.stderr.read() == b""


async def test_watch_ends_when_another_server_answers_at_the_same_socket(cli, fleet, directory):
    path = directory / "control.sock"
    async with ApiServer(fleet, unix_path=path):
        process = await cli.start("watch")
        await lines_of(process, "lab-3 online [ada]")
    async with ApiServer(FakeOperations(server_id="other"), unix_path=path):
        _, err = await process.communicate()
    assert process.returncode == 3
    assert err.decode() == (
        "Another control server answers at this address now, with other machines and jobs; start the command again to "
        "watch that one.\n"
    )


async def test_watch_on_a_terminal_is_live(cli, fleet, server, terminal):
    screen = await terminal("watch")
    await screen.shows("3 machines: 3 online")
    fleet.add("evil\x1b[2J[red]", PresenceState.OFFLINE, Cause.LINK_LOST)
    await screen.shows("evil\N{REPLACEMENT CHARACTER}[2J[red]")
    view = await fleet.create_job(JobRequest(action=Action.RESTART, targets=("lab-1",)))
    await screen.shows(view.job.id)
    fleet.report(view.job.id, "lab-1", ExecutionState.POSTPONED, "10 minutes more")
    await screen.shows("10 minutes more")
    screen.interrupt()
    assert await screen.ended() == 0
    assert "Traceback" not in screen.text


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]], ids=["one", "both"])
async def test_watch_restores_the_terminal_after_signals(server, terminal, until, numbers):
    screen = await terminal("watch")
    await screen.shows("3 machines: 3 online")
    for number in numbers:
        screen.process.send_signal(number)
    # A second one may arrive so late that Python has put its handlers away; the terminal is given back before.
    assert await screen.ended() in ({0} if len(numbers) == 1 else {0, -signal.SIGTERM})
    await until(lambda: SHOW_CURSOR in screen.text and LEAVE_SCREEN in screen.text)
    assert "Traceback" not in screen.text


async def test_a_demo_restores_the_terminal(terminal, until):
    screen = await terminal("demo", "--machines", "1")
    # It proposes what can be done here.
    await screen.shows("landline restart sim-01 ")
    await screen.shows("1 machine: 1 online")
    screen.interrupt()
    assert await screen.ended() == 0
    await until(lambda: SHOW_CURSOR in screen.text and LEAVE_SCREEN in screen.text)
    assert "Traceback" not in screen.text


async def test_a_narrow_terminal_shows_names_and_presence(cli, fleet, server, terminal):
    screen = await terminal("watch", COLUMNS="36")
    await screen.shows("3 machines: 3 online")
    await screen.shows("NAME")
    await screen.shows("PRESENCE")
    for name in ("lab-1", "lab-2", "lab-3"):
        await screen.shows(name)
        await screen.shows("online")
    assert "…" not in screen.text
    screen.interrupt()
    assert await screen.ended() == 0


async def test_watch_on_a_terminal_waits_for_a_lost_server(cli, fleet, directory, terminal):
    path = directory / "control.sock"
    async with ApiServer(fleet, unix_path=path):
        screen = await terminal("watch")
        await screen.shows("3 machines: 3 online")
    await screen.shows("Waiting for it")
    fleet.add("lab-4")
    async with ApiServer(fleet, unix_path=path):
        await screen.shows("4 machines: 4 online")
        screen.interrupt()
        assert await screen.ended() == 0
