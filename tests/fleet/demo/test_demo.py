"""``landline demo``: a whole fleet on one machine, driven by itself or by the other commands."""

import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.faults import processes as processes_module

from landline.fleet.api import JobView
from landline.fleet.model import ExecutionState, Machine


@pytest.fixture
def processes() -> Iterator:
    directory = Path(tempfile.mkdtemp(prefix="ll-"))
    with processes_module.run_processes(directory) as running:
        yield running
    shutil.rmtree(directory)


def test_drives_itself(processes):
    demo = processes.run("demo", "--machines", "6", "--seconds", "6", "--json")
    assert demo.process.returncode == 0, demo.err
    [line] = demo.out.splitlines()
    figures = json.loads(line)
    assert figures["machines"] == figures["machines_online"] == 6
    assert figures["messages_sent"] > 0
    assert figures["messages_lost"] == figures["messages_duplicated"] == 0
    assert figures["jobs"]
    assert all(ExecutionState(state).is_final for state in figures["jobs"]), figures["jobs"]
    assert_nothing_is_left(processes, descendants_of(demo.process.pid))


def test_two_demos_run_beside_each_other_and_a_third_program_finds_the_first(processes):
    poll = processes_module.until
    first = processes.start("demo", "--machines", "2")
    first.says("2 machines are online")
    second = processes.start("demo", "--machines", "3")
    second.says("Commands find another demo or control server of yours")
    url = second.says(r"export LANDLINE_SERVER=(unix://\S+)")[1]
    assert url not in first.out
    # Each shows its own machines.
    second.says("3 machines are online")
    poll(lambda: "sim-03" in second.out, lambda: second.out)
    assert len(states(processes)) == 2
    processes.extra_environment["LANDLINE_SERVER"] = url
    assert len(states(processes)) == 3
    assert second.ends(signal.SIGINT) == 0
    assert not Path(url.removeprefix("unix://")).exists()
    del processes.extra_environment["LANDLINE_SERVER"]
    assert len(states(processes)) == 2
    assert first.ends(signal.SIGINT) == 0


def test_other_commands_find_it(processes):
    poll = processes_module.until
    demo = processes.start("demo", "--machines", "4")
    poll(lambda: states(processes) == ["online"] * 4, lambda: f"{states(processes)} {demo.err}")
    demo.says("4 machines are online")
    children = descendants_of(demo.process.pid)
    assert children

    status, view = act(processes, "restart", "sim-01", "--in", "1s", "--no-cancel", "--no-postpone")
    assert (status, view.executions[0].state) == (0, ExecutionState.DONE)
    assert "new boot id" in view.executions[0].detail

    status, view = act(processes, "shutdown", "sim-02", "--in", "1s", "--no-cancel", "--no-postpone")
    assert (status, view.executions[0].state) == (0, ExecutionState.DONE)
    poll(lambda: states(processes)[1] == "offline (shut down)")
    status, view = act(processes, "restart", "sim-02")
    assert (status, view.executions[0].state) == (1, ExecutionState.REFUSED)
    assert "offline (shut down)" in view.executions[0].detail

    # It waits for a machine that is off, where nobody can answer before it is cancelled.
    later = processes.run("restart", "sim-02", "--queue-for", "1h", "--yes", "--no-wait", "--json")
    assert later.process.returncode == 0
    job_id = msgspec.json.decode(later.out, type=JobView).job.id
    cancelled = processes.run("cancel", job_id, "--json")
    assert cancelled.process.returncode == 0
    view = msgspec.json.decode(cancelled.out, type=JobView)
    assert [execution.state for execution in view.executions] == [ExecutionState.CANCELLED]

    status, view = act(processes, "wake", "sim-02")
    assert (status, view.executions[0].state) == (0, ExecutionState.DONE)
    assert states(processes)[1] == "online"

    assert demo.ends(signal.SIGINT) == 0
    assert demo.err == ""
    assert_nothing_is_left(processes, children)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_ends_while_it_starts(processes, number):
    demo = processes.start("demo", "--machines", "2")
    children = processes_module.until(lambda: descendants_of(demo.process.pid))
    assert demo.ends(number) == 0
    assert demo.err == ""
    assert_nothing_is_left(processes, children)


def test_killed(processes):
    """Its machines and its view of them end by themselves, and the next one takes its place."""
    demo = processes.start("demo", "--machines", "2")
    demo.says("2 machines are online")
    processes_module.until(lambda: len(descendants_of(demo.process.pid)) == 2)
    children = set(descendants_of(demo.process.pid))
    demo.kill()
    processes_module.until(lambda: not [pid for pid in children if is_alive(pid)])
    after = processes.start("demo", "--machines", "2")
    after.says("2 machines are online")
    assert after.ends(signal.SIGTERM) == 0
    assert after.err == ""
    assert_nothing_is_left(processes, children)


def act(processes, *arguments: str) -> tuple[int, JobView]:
    """A command that follows its job to the end: its exit status, and the job then."""
    program = processes.run(*arguments, "--yes", "--json")
    return program.process.returncode, msgspec.json.decode(program.out, type=JobView)


def states(processes) -> list[str]:
    """The presence of every machine, in order of name; none where no control server answers."""
    listed = processes.run("ls", "--json")
    if listed.process.returncode != 0:
        return []
    machines = msgspec.convert(json.loads(listed.out)["machines"], list[Machine])
    return [
        machine.presence.state.value + (f" ({machine.presence.cause})" if machine.presence.cause else "")
        for machine in machines
    ]


def descendants_of(pid: int) -> set[int]:
    """The processes that a process started, and those that they started."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            match = re.search(r"\) \S (\d+)", status.read_text())
        except OSError:
            continue
        parents[int(status.parent.name)] = int(match[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def assert_nothing_is_left(processes, children: set[int]) -> None:
    processes_module.until(lambda: not [pid for pid in children if is_alive(pid)])
    assert not list((processes.directory / "run").glob("*.sock"))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
