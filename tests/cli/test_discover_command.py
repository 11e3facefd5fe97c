"""``serve --announce``, ``discover`` and an agent that goes by a name: real processes, real multicast."""

import json
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from tests.cli.in_process import run_in_process
from tests.faults import processes as processes_module

from landline.cli.exit_codes import ALL_DONE, SOME_NOT_DONE, WRONG_USE


@pytest.fixture
def processes():
    directory = Path(tempfile.mkdtemp(prefix="ll-"))
    with processes_module.run_processes(directory) as running:
        yield running
    shutil.rmtree(directory)


def test_an_agent_finds_the_control_server_by_its_name(processes, multicast):
    name = f"test-{secrets.token_hex(6)}"
    data = processes.directory / "control"
    control = processes.start(
        "serve", "--data", str(data), "--listen", "tcp://0.0.0.0:0", "--announce", name.upper()
    )
    port = control.says(r"Agents connect to tcp://0\.0\.0\.0:(\d+)")[1]
    control.says(rf"On this network, agents find it with --server mdns\+tcp://{name} too\.\n")

    def found():
        """Looks again where the machine was too slow to answer in time."""
        listed = processes.run("discover", "--seconds", "2", "--json")
        assert listed.process.returncode == ALL_DONE, listed.err
        servers = [each for each in json.loads(listed.out)["servers"] if each["name"] == name]
        return servers if servers and f"tcp://{multicast}:{port}" in servers[0]["endpoints"] else None

    [shown] = processes_module.until(found)
    assert f"tcp://{multicast}:{port}" in shown["endpoints"]
    assert (shown["url"], shown["is_encrypted"]) == (f"mdns+tcp://{name}", False)

    def table_with_it():
        lines = processes.run("discover", "--seconds", "2").out.splitlines()
        return lines if any(line.startswith(name) for line in lines) else None

    table = processes_module.until(table_with_it)
    assert table[0].split() == ["NAME", "ENCRYPTED", "ADDRESSES", "HOST", "CONNECT", "TO"]
    [row] = [line for line in table if line.startswith(name)]
    assert row.endswith(f"mdns+tcp://{name}")

    agent = processes.start(
        "agent",
        "--server",
        f"mdns+tcp://{name}",
        "--token-file",
        str(data / "agents.token"),
        "--data",
        str(processes.directory / "agent"),
        "--power",
        "dry-run",
    )
    agent.says("online")
    assert agent.ends(signal.SIGTERM) == ALL_DONE
    assert control.ends(signal.SIGTERM) == ALL_DONE
    gone = processes.run("discover", "--seconds", "1", "--json")
    assert name not in gone.out


@pytest.mark.parametrize("seconds", ["0", "61", "1.5", "-1", "x", "", "9" * 30])
async def test_wrong_seconds_are_refused(cli, seconds):
    ended = await cli.run("discover", f"--seconds={seconds}")
    assert ended.status == WRONG_USE
    assert ended.err == f"--seconds takes a whole number from 1 to 60, not '{seconds}'.\n"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--listen", "tcp://0.0.0.0:0", "--announce", "two words"), "cannot be announced as a name"),
        (("--listen", "tcp://127.0.0.1:0", "--announce", "lab"), "only this machine can reach it"),
    ],
)
def test_a_server_that_cannot_be_announced_is_refused(processes, options, text):
    arguments = ["serve", "--data", str(processes.directory / "control"), *options]
    ended = run_in_process(arguments, processes.environment)
    assert ended.status == WRONG_USE
    assert text in ended.err
    assert ended.err.count("\n") == 1


@pytest.fixture
def without_a_network(processes):
    """Programs run in a network namespace of their own, with nothing but a loopback device that is down."""
    prefix = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], check=False).returncode != 0:
        pytest.skip("needs unshare, and leave to make a network namespace")
    processes.prefix = prefix


@pytest.mark.usefixtures("without_a_network")
def test_the_announcement_fails_without_a_network(processes):
    options = ("--listen", "tcp://0.0.0.0:0", "--announce", "lab")
    program = processes.run("serve", "--data", str(processes.directory / "control"), *options)
    assert program.process.returncode == SOME_NOT_DONE
    assert program.err == (
        "The server cannot be announced as 'lab' on the local network: this machine has no address that others can "
        "reach; connect this machine to a network, or do not announce it.\n"
    )
    assert program.out == ""


def test_an_announced_name_in_use_is_refused(processes, multicast):
    name = f"test-{secrets.token_hex(6)}"
    options = ("--listen", "tcp://0.0.0.0:0", "--announce", name)
    first = processes.start("serve", "--data", str(processes.directory / "one"), *options)
    first.says("Ctrl-C stops it")
    second = processes.run(
        "serve",
        "--data",
        str(processes.directory / "two"),
        "--socket",
        str(processes.directory / "two.sock"),
        *options,
    )
    assert second.process.returncode == SOME_NOT_DONE
    assert f"announced as '{name}' on this network; choose another name" in second.err
    assert first.ends(signal.SIGTERM) == ALL_DONE
