"""``serve``, ``agent`` and ``demo``: they work together as processes, and refuse what cannot work."""

import re
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.cli.in_process import Ended, run_in_process
from tests.faults import processes as processes_module

from landline.cli.exit_codes import ALL_DONE, INTERRUPTED, NO_SERVER, SOME_NOT_DONE, WRONG_USE
from landline.fleet.agent.journal import Entry
from landline.fleet.api import JobView
from landline.fleet.model import Action, Cause, ExecutionState, PresenceState


@pytest.fixture(scope="module")
def processes() -> Iterator:
    directory = Path(tempfile.mkdtemp(prefix="ll-"))
    with processes_module.run_processes(directory) as running:
        yield running
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def control(processes):
    """A control server, with the API on TCP too."""
    return processes_module.ControlServer(processes, "--http", "127.0.0.1:0")


@pytest.fixture
def place(processes) -> Path:
    """An empty directory."""
    return Path(tempfile.mkdtemp(dir=processes.directory))


@pytest.fixture
def agent(processes, control, place):
    """The beginning of an agent's command line, which lacks how to act."""
    return (
        "agent",
        "--server",
        control.url,
        "--token-file",
        control.token_file,
        "--data",
        str(place / "agent"),
    )


@pytest.fixture
def run(processes):
    """Run a command in this process, with the environment of the programs."""
    return lambda *arguments: run_in_process(arguments, processes.environment)


def option_text(value: object) -> str | None:
    """What names a case."""
    return " ".join(value) if isinstance(value, list) else ""


def refuses(ended: Ended, status: int, *words: str) -> None:
    """Check that a command ended with the status and wrote why, in one sentence, to standard error."""
    err = ended.err
    assert ended.status == status, err
    assert err.count("\n") == 1, err
    assert err.endswith(".\n"), err
    assert "Errno" not in err
    assert err[0].isupper() or not err.split()[0].isalpha(), err
    for word in words:
        assert word in err


# Processes together


def test_dry_run(run, processes, control, agent):
    program = processes.start(*agent, "--name", "dry", "--power", "dry-run")
    program.says("online")
    machine = control.shows("dry", PresenceState.ONLINE)
    assert re.fullmatch(r"127\.0\.0\.1:\d+", machine.presence.address)
    assert machine.facts.power == "dry-run"

    listed = run("ls", "--json")
    [shown] = [each for each in msgspec.json.decode(listed.out)["machines"] if each["facts"]["name"] == "dry"]
    assert shown["presence"]["state"] == "online"
    assert shown["presence"]["address"] == machine.presence.address

    restarted = run("restart", "dry", "--yes", "--json")
    view = msgspec.json.decode(restarted.out, type=JobView)
    assert (restarted.status, view.executions[0].state) == (ALL_DONE, ExecutionState.DONE)
    assert "nothing was done" in view.executions[0].detail

    assert program.ends(signal.SIGTERM) == ALL_DONE
    assert "Said goodbye: agent stopped." in program.out
    machine = control.shows("dry", PresenceState.OFFLINE)
    assert machine.presence.cause is Cause.AGENT_STOPPED
    assert "offline (agent stopped)" in run("ls").out


def test_commands(run, processes, control):
    machine = processes_module.CommandMachine(processes, control, "commands")
    logged_off = run("logoff", "commands", "--message", "Go home", "--yes", "--json")
    view = msgspec.json.decode(logged_off.out, type=JobView)
    assert (logged_off.status, view.executions[0].state) == (ALL_DONE, ExecutionState.DONE)
    assert machine.acts == machine.ended == ["Go home"]
    assert machine.agent.ends(signal.SIGINT) == ALL_DONE


def test_command_that_fails(run, processes, control, agent, place):
    config = place / "commands.toml"
    config.write_text("""[commands]\nlogoff = ["sh", "-c", "echo no such person >&2; exit 3"]\n""")
    processes.start(
        *agent, "--name", "failing", "--power", "command", "--config", str(config), "--prompt", "none"
    )
    control.shows("failing", PresenceState.ONLINE)
    failed = run("logoff", "failing", "--yes")
    assert failed.status == SOME_NOT_DONE
    assert "failing: failed (sh failed with status 3: no such person.)" in failed.out
    refused = run("restart", "failing", "--yes")
    assert refused.status == SOME_NOT_DONE
    assert "failing: refused (No command is set for restart on this machine.)" in refused.out


@pytest.fixture
def service(processes, control, agent, place):
    """An agent as in the unit of the documentation: no terminal, no display. Returns how its ``who`` is set."""

    def set_who(script: str) -> None:
        (place / "bin" / "who").write_text(f"#!/bin/sh\n{script}\n")

    config = place / "commands.toml"
    config.write_text(f"""[commands]\nlogoff = ["touch", "{place}/acted"]\n""")
    (place / "bin").mkdir()
    (place / "bin" / "wall").write_text(f"#!/bin/sh\ncat >> {place}/told\n")
    # Logged off, she is gone.
    set_who(f"[ -e {place}/acted ] || echo 'anna     tty2         2024-05-01 10:00 (tty2)'")
    for name in ("who", "wall"):
        (place / "bin" / name).chmod(0o755)
    processes.extra_environment = {"PATH": f"{place / 'bin'}:{processes.environment['PATH']}"}
    program = processes.start(*agent, "--name", "service", "--power", "command", "--config", str(config))
    processes.extra_environment = {}
    assert control.shows("service", PresenceState.ONLINE).facts.persons[0].name == "anna"
    warning = r"WARNING landline\.agent: persons at this machine cannot be asked: no display .* jobs wait"
    processes_module.until(lambda: re.search(warning, program.err), lambda: f"no warning: {program.err}")
    yield set_who
    assert program.ends(signal.SIGTERM) == ALL_DONE


def test_a_service_that_cannot_ask_a_person_waits(run, processes, service, place):
    """The agent once acted 0.6 s after the command, while a person was logged on."""
    following = processes.start("logoff", "service", "--yes")
    following.says(r"service: waiting \(anna cannot be asked: no display and no controlling terminal")
    following.says("1 machine waits because no person can be asked; .*'landline cancel")
    listed = run("ls").out
    assert re.search(r"service +online +anna +no ", listed)
    assert "service cannot ask a person: no display and no controlling terminal" in listed
    assert not (place / "acted").exists()
    # The person goes.
    service("true")
    following.says("service: done")
    assert following.ends() == ALL_DONE
    assert (place / "acted").exists()


def test_a_service_that_cannot_tell_who_is_logged_on_waits(run, processes, service, place):
    """The agent once took this for "no one is logged on"."""
    service("echo broken >&2; exit 1")
    following = processes.start("logoff", "service", "--yes")
    following.says(
        r"service: waiting \(a person who may be logged on \(who failed with status 1: broken\) cannot be"
    )
    listed = run("ls").out
    assert re.search(r"service +online +unknown +no ", listed)
    assert "service cannot tell who is logged on: who failed with status 1: broken" in listed
    assert not (place / "acted").exists()
    service("true")
    assert following.ends() == ALL_DONE


def test_a_service_that_cannot_ask_refuses_or_acts_as_the_operator_chose(run, service, place):
    refused = run("logoff", "service", "--yes", "--unasked", "refuse")
    assert refused.status == SOME_NOT_DONE
    assert "service: refused (anna cannot be asked: " in refused.out
    assert not (place / "acted").exists()
    told = ("--message", "Exam at noon", "--in", "2s", "--unasked", "act")
    acted = run("logoff", "service", "--yes", *told)
    assert acted.status == ALL_DONE
    [job_id] = re.findall("landline cancel ([a-z0-9]+)", acted.out)
    assert "anna could not be asked: " in run("jobs", job_id, "--json").out
    assert "Exam at noon" in (place / "told").read_text()
    assert (place / "acted").exists()


def test_simulated(run, processes, control, agent):
    """The agent ends with its machine, which is not started again here."""
    program = processes.start(*agent, "--name", "simulated", "--power", "simulated")
    control.shows("simulated", PresenceState.ONLINE)
    shut_down = run("shutdown", "simulated", "--yes", "--json")
    view = msgspec.json.decode(shut_down.out, type=JobView)
    assert (shut_down.status, view.executions[0].state) == (ALL_DONE, ExecutionState.DONE)
    assert program.ends() == ALL_DONE
    assert "This machine is simulated: a restart or shutdown only ends this agent." in program.out
    assert "Said goodbye: shut down." in program.out
    assert control.shows("simulated", PresenceState.OFFLINE).presence.cause is Cause.SHUT_DOWN


def test_the_api_on_tcp_needs_the_operators_token(run, control, place):
    [url] = re.findall(r"http://127\.0\.0\.1:\d+", control.program.out)
    tokens = str(control.data / "operators.token")
    assert run("ls", "--server", url, "--token-file", tokens).status == ALL_DONE
    refuses(run("ls", "--server", url), WRONG_USE, "needs a token")
    refuses(
        run("ls", "--server", url, "--token-file", control.token_file),
        WRONG_USE,
        "does not accept this token",
    )
    assert (control.data / "operators.token").stat().st_mode & 0o777 == 0o600
    assert (control.data / "agents.token").stat().st_mode & 0o777 == 0o600


def test_control_server_stops_in_order_and_starts_again(directory):
    with processes_module.run_fleet(directory) as fleet:
        control = fleet.control
        machine = fleet.machine("loyal")
        control.shows("loyal", PresenceState.ONLINE)
        job = control.order(Action.LOG_OFF, "loyal", message="meanwhile", delay_s=1.0)
        control.reaches(job, ExecutionState.DELIVERED)
        assert control.program.ends(signal.SIGTERM) == ALL_DONE
        assert "Saying goodbye to the agents" in control.program.out
        assert not (directory / "run" / "control.sock").exists()
        machine.agent.says("reconnecting: the server stops")
        control.start()
        control.shows("loyal", PresenceState.ONLINE)
        assert control.ended(job).state is ExecutionState.DONE
        assert machine.acts == ["meanwhile"]


# Refusals, in this process.


def test_an_address_in_use_is_refused(run, control, place):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        own = ("serve", "--data", str(place / "data"), "--socket", str(place / "socket"))
        url = f"tcp://127.0.0.1:{port}"
        refuses(run(*own, "--listen", url), SOME_NOT_DONE, url, "already in use")
        http = run(*own, "--listen", "tcp://127.0.0.1:0", "--http", f"127.0.0.1:{port}")
        refuses(http, SOME_NOT_DONE, f"127.0.0.1:{port}")
    assert not (place / "socket").exists()


def test_a_second_control_server_on_the_same_socket_or_data_is_refused(run, processes, control, place):
    second = ("serve", "--data", str(place), "--listen", "tcp://127.0.0.1:0")
    refuses(
        run(*second),
        SOME_NOT_DONE,
        "control.sock",
        "already answers",
        "another path with --socket.",
    )
    # A demo is no rival: it has a socket of its own.
    demo = processes.start("demo", "--machines", "2")
    demo.says(r"export LANDLINE_SERVER=unix://\S+")
    assert demo.ends(signal.SIGTERM) == ALL_DONE
    same_data = ("serve", "--data", str(control.data), "--listen", "tcp://127.0.0.1:0")
    refused = run(*same_data, "--socket", str(place / "socket"))
    refuses(refused, SOME_NOT_DONE, "in use by another control server", str(control.program.process.pid))
    assert control.api.status().version


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--listen", "nonsense"], WRONG_USE, "tcp://"),
        (["--listen", "http://127.0.0.1:1"], WRONG_USE, "'http://127.0.0.1:1'"),
        (["--listen", "tcp://127.0.0.1:99999"], WRONG_USE, "99999"),
        (["--listen", ""], WRONG_USE, "tcp://"),
        (["--listen", "tls://127.0.0.1:0"], WRONG_USE, "needs a certificate"),
        (["--listen", "wss://127.0.0.1:0"], WRONG_USE, "needs a certificate"),
        (["--listen", "quic://127.0.0.1:0"], WRONG_USE, "needs a certificate"),
        (["--listen", "udp://127.0.0.1:0"], WRONG_USE, "'serve' needs lines"),
        (["--listen", "mdns://lab"], WRONG_USE, "write an address here"),
        (["--listen", "tcp://192.0.2.1:5463"], SOME_NOT_DONE, "tcp://192.0.2.1:5463"),
        (["--listen", "tcp://no.such.host.invalid:1"], SOME_NOT_DONE, "no.such.host.invalid"),
        (["--http", "127.0.0.1"], WRONG_USE, "HOST:PORT"),
        (["--http", "127.0.0.1:99999"], WRONG_USE, "HOST:PORT"),
        (["--http", ""], WRONG_USE, "HOST:PORT"),
        (["--http", "no.such.host.invalid:1"], SOME_NOT_DONE, "no.such.host.invalid:1"),
        (["--data", ""], WRONG_USE, "--data"),
        (["--socket", ""], WRONG_USE, "--socket"),
    ],
    ids=option_text,
)
def test_serve_refuses(run, place, options, status, words):
    defaults = {
        "--data": str(place / "data"),
        "--listen": "tcp://127.0.0.1:0",
        "--socket": str(place / "run" / "socket"),
    }
    given = defaults | dict(zip(options[::2], options[1::2], strict=True))
    arguments = [part for option in given.items() for part in option]
    refuses(run("serve", *arguments), status, words)
    assert not (place / "run" / "socket").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_stopped_before_its_figures_exits_with_130(processes, place, monkeypatch, number):
    monkeypatch.setitem(processes.environment, "LANDLINE_RUNTIME_DIR", str(place))
    program = processes.start("demo", "--machines", "1", "--seconds", "60")
    program.says("Running by itself")
    assert program.ends(number) == INTERRUPTED
    assert "messages lost" not in program.out
    assert "Traceback" not in program.err


def test_the_command_for_agents_names_this_machine(processes, place):
    program = processes.start(
        *(
            "serve",
            "--data",
            str(place / "data"),
            "--listen",
            "tcp://0.0.0.0:0",
            "--socket",
            str(place / "socket"),
        )
    )
    program.says("Ctrl-C stops it")
    assert program.ends(signal.SIGTERM) == ALL_DONE
    assert re.search(
        rf"landline agent --server tcp://{re.escape(socket.gethostname())}:\d+ --token", program.out
    )


def test_an_agent_prints_each_attempt_once(processes, control, place):
    url = f"tcp://127.0.0.1:{processes.hold_port()}"
    program = processes.start(
        *("agent", "--server", url, "--token-file", control.token_file, "--data", str(place / "agent")),
        *("--power", "dry-run", "--prompt", "none"),
    )
    program.says("attempt 3 in")
    assert program.ends(signal.SIGTERM) == ALL_DONE
    assert "connection refused" in program.out
    assert "connection refused" not in program.err


@pytest.mark.parametrize("command", ["serve", "agent"])
@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_place_of_the_data_directory_is_refused(run, agent, place, command, below):
    (place / "file").write_text("precious")
    data = ("--data", str(place / "file" / below))
    if command == "serve":
        own = ("--listen", "tcp://127.0.0.1:0", "--socket", str(place / "socket"))
        refused = run("serve", *data, *own)
    else:
        refused = run(*agent[:-2], *data, "--power", "dry-run")
    refuses(refused, SOME_NOT_DONE, str(place / "file"))
    assert (place / "file").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "content"),
    [("agents.token", b""), ("operators.token", b"short\n"), ("operators.token", b"\xff" * 40)],
    ids=["empty", "short", "binary"],
)
def test_a_token_file_without_a_token_is_refused(run, place, name, content):
    (place / "data").mkdir()
    (place / "data" / name).write_bytes(content)
    own = ("--listen", "tcp://127.0.0.1:0", "--socket", str(place / "socket"), "--http", "127.0.0.1:0")
    refuses(run("serve", "--data", str(place / "data"), *own), WRONG_USE, str(place / "data" / name))
    assert (place / "data" / name).read_bytes() == content


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (
            b"not the right token, but long enough\n",
            SOME_NOT_DONE,
            "the token is missing or wrong; give the right one with --token-file",
        ),
        (b"short\n", WRONG_USE, "too short"),
        (b"", WRONG_USE, "is empty"),
        (b"\xff" * 40, WRONG_USE, "not text"),
        (None, WRONG_USE, "no such file"),
    ],
    ids=["wrong", "short", "empty", "binary", "missing"],
)
def test_agent_without_the_right_token(run, control, agent, place, content, status, words):
    if content is not None:
        (place / "token").write_bytes(content)
        (place / "token").chmod(0o600)
    given = run(*agent, "--power", "dry-run", "--token-file", str(place / "token"))
    refuses(given, status, words)


def test_agent_without_any_token(run, control):
    refuses(run("agent", "--server", control.url), WRONG_USE, "--token-file", "LANDLINE_TOKEN")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[commands\n", "line 1"),
        (b'[commands]\nfly = ["up"]\n', "'fly'"),
        (b'[commands]\nlogoff = "loginctl"\n', "Expected `array`"),
        (b"[commands]\nlogoff = [1]\n", "Expected `str`"),
        (b"[commands]\nlogoff = []\n", "length"),
        (b"[orders]\n", "'orders'"),
        (b"", "no commands"),
        (b"\xff", "not text"),
        (None, "no such file"),
    ],
    ids=["syntax", "action", "no list", "no text", "nothing to run", "table", "empty", "binary", "missing"],
)
def test_agent_with_a_bad_config(run, agent, place, content, words):
    if content is not None:
        (place / "commands.toml").write_bytes(content)
    refused = run(*agent, "--power", "command", "--config", str(place / "commands.toml"))
    refuses(refused, WRONG_USE, str(place / "commands.toml"), words)
    assert not (place / "agent").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--power", "steam"], "'steam'"),
        (["--power", "dry-run", "--prompt", "loud"], "'loud'"),
        (["--power", "dry-run", "--config", "commands.toml"], "--power command"),
        (["--power", "dry-run", "--name", "two words"], "'two words'"),
        (["--power", "dry-run", "--name", ""], "--name"),
        (["--power", "command", "--config", ""], "--config"),
        (["--power", "dry-run", "--data", ""], "--data"),
        (
            ["--power", "dry-run", "--server", "http://127.0.0.1:1"],
            "--server: invalid URL 'http://127.0.0.1:1'",
        ),
        (["--power", "dry-run", "--server", "foo"], "--server: invalid URL 'foo'"),
    ],
    ids=option_text,
)
def test_agent_refuses(run, agent, place, options, words):
    refuses(run(*agent, *options), WRONG_USE, words)


def test_agent_without_a_system_bus(run, processes, agent, place):
    processes.environment["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={place}/nothing"
    try:
        refuses(run(*agent, "--power", "logind"), SOME_NOT_DONE, "system bus")
    finally:
        del processes.environment["DBUS_SYSTEM_BUS_ADDRESS"]


@pytest.mark.parametrize("content", [b"nonsense\n", b"", b"\xff\xfe"], ids=["nonsense", "empty", "binary"])
def test_agent_with_a_bad_machine_id(run, agent, place, content):
    (place / "agent").mkdir()
    (place / "agent" / "machine-id").write_bytes(content)
    refuses(run(*agent, "--power", "dry-run"), SOME_NOT_DONE, "machine-id", "remove the file")
    assert (place / "agent" / "machine-id").read_bytes() == content


def test_agent_with_a_damaged_journal(run, processes, control, agent, place):
    whole = msgspec.json.encode(Entry("a-1", Action.RESTART, ExecutionState.ACTING, "boot"))
    (place / "agent").mkdir()
    journal = place / "agent" / "journal.jsonl"
    damaged = whole + b"\n" + whole[:20] + b"\n" + whole + b"\n"
    journal.write_bytes(damaged)
    refuses(run(*agent, "--power", "dry-run"), SOME_NOT_DONE, str(journal), "line 2")
    assert journal.read_bytes() == damaged
    # Cut short by a crash, a last line tells of nothing that was done.
    journal.write_bytes(whole + b"\n" + whole[:20])
    processes.start(*agent, "--power", "dry-run", "--name", "recovered")
    control.shows("recovered", PresenceState.ONLINE)
    assert journal.read_bytes() == whole + b"\n"


def test_a_second_agent_with_the_same_data_or_name_is_refused(run, processes, control, agent, place):
    first = processes.start(*agent, "--power", "dry-run", "--name", "first")
    control.shows("first", PresenceState.ONLINE)
    refuses(
        run(*agent, "--power", "dry-run", "--name", "second"),
        SOME_NOT_DONE,
        "its own --data",
    )
    same_name = ("--data", str(place / "other"), "--power", "dry-run", "--name", "first")
    refused = run(*agent, *same_name)
    refuses(refused, SOME_NOT_DONE, "another --name")
    assert "online" not in refused.out
    assert control.shows("first", PresenceState.ONLINE)
    assert first.process.poll() is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--machines", "0"], "'0'"),
        (["--machines", "abc"], "'abc'"),
        (["--machines", ""], "''"),
        (["--machines", "9999999999"], "5000"),
        (["--seconds", "1"], "'1'"),
        (["--seconds", "2.5"], "'2.5'"),
        (["--json"], "--seconds"),
    ],
    ids=option_text,
)
def test_demo_refuses(run, options, words):
    refuses(run("demo", *options), WRONG_USE, words)


def test_no_server_answers(run, place):
    refuses(run("ls", "--server", f"unix://{place}/nothing"), NO_SERVER, "No control server answers")
