"""The wall clock of a control server, or of an agent, is set by a day, forward or back: real processes, faked clocks.

Only the time of day jumps, as it does when somebody sets it; libfaketime leaves the monotonic clock alone.
"""

from pathlib import Path

import pytest

from landline.fleet.model import Action, ExecutionState, PresenceState

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
DAY_S = 86_400.0

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (Debian's package libfaketime)")


class WallClock:
    """The time of day of some processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.days = 0
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, days: int) -> None:
        beside = self._path.with_suffix(".new")
        beside.write_text(f"{days:+d}d\n")
        # The processes read it every time they ask for the time, and must not find half of it.
        beside.replace(self._path)
        self.days = days


class House:
    """A control server and a machine, each with a clock of its own."""

    def __init__(self, programs, directory: Path, processes) -> None:
        self.server_clock = WallClock(directory / "server.clock")
        self.agent_clock = WallClock(directory / "agent.clock")
        self._processes = processes
        processes.extra_environment = self.server_clock.environment
        self.control = programs.ControlServer(processes)
        processes.extra_environment = self.agent_clock.environment
        self.machine = programs.CommandMachine(processes, self.control, "box")

    def start_control(self) -> None:
        self._processes.extra_environment = self.server_clock.environment
        self.control.start()


@pytest.fixture(scope="module")
def built(programs, directory):
    with programs.run_processes(directory) as processes:
        house = None
        try:
            house = House(programs, directory, processes)
            yield house
        finally:
            if house is not None:
                house.machine.end()


@pytest.fixture
def house(built):
    built.machine.forget()
    built.control.shows("box", PresenceState.ONLINE)
    yield built
    built.machine.agent.thaw()
    built.server_clock.set(0)
    built.agent_clock.set(0)


def join_of(house) -> str:
    machine = house.control.shows("box", PresenceState.ONLINE)
    return machine.presence.join


def is_useful(house) -> bool:
    job = house.control.order(Action.LOG_OFF, "box", message="another")
    return house.control.ended(job).state is ExecutionState.DONE


def test_forward_on_the_control_server(house):
    """The line stays, and so does presence; a job that was pending expires, and is never done; the next one is done."""
    before = join_of(house)
    pending = house.control.order(Action.LOG_OFF, "box", message="too late", delay_s=20.0)
    house.control.reaches(pending, ExecutionState.DELIVERED)
    house.server_clock.set(+1)
    assert house.control.ended(pending).state is ExecutionState.EXPIRED
    assert is_useful(house)
    assert join_of(house) == before
    assert house.machine.acts == ["another"]


def test_back_on_the_control_server(house, poll):
    """A job does not stay valid for a day longer: while its machine is frozen it expires when it would have, and is
    not done when the machine goes on. One that is in time is done, once. Then the server's clock is right again."""
    before = join_of(house)
    late = house.control.order(Action.LOG_OFF, "box", message="too late", delay_s=4.0, valid_for_s=1.0)
    house.control.reaches(late, ExecutionState.DELIVERED)
    house.machine.agent.freeze()
    house.server_clock.set(-1)
    assert house.control.ended(late).state is ExecutionState.EXPIRED
    house.machine.agent.thaw()
    assert is_useful(house)
    house.server_clock.set(-2)
    timely = house.control.order(Action.LOG_OFF, "box", message="in time", delay_s=1.5)
    house.control.reaches(timely, ExecutionState.DELIVERED)
    house.server_clock.set(-3)
    assert house.control.ended(timely).state is ExecutionState.DONE
    assert house.machine.acts == ["another", "in time"]
    assert join_of(house) == before
    poll(lambda: house.control.program.err.count("clock_set_back") >= 1)


def test_back_on_the_control_server_while_it_is_down(house):
    """What it said before counts on: a job that waits for a machine expires after the time it had, not a day later."""
    house.machine.agent.freeze()
    late = house.control.order(Action.LOG_OFF, "box", message="too late", delay_s=1.0, valid_for_s=1.0)
    house.control.program.kill()
    house.server_clock.set(-1)
    house.start_control()
    assert house.control.ended(late).state is ExecutionState.EXPIRED
    house.machine.agent.thaw()
    house.control.shows("box", PresenceState.ONLINE)
    assert is_useful(house)
    assert house.machine.acts == ["another"]


@pytest.mark.parametrize("days", [+1, -1])
def test_on_the_agent(house, days):
    """Its countdown is elapsed time: the job is done once, and not before it is due; the line stays."""
    before = join_of(house)
    job = house.control.order(Action.LOG_OFF, "box", message="once", delay_s=3.0)
    due_at = house.control.reaches(job, ExecutionState.DELIVERED).due_at
    house.agent_clock.set(days)
    assert house.control.ended(job).state is ExecutionState.DONE
    [acting] = [event for event in house.control.api.job(job).events if event.state is ExecutionState.ACTING]
    assert acting.at >= due_at - 0.1
    assert house.machine.acts == ["once"]
    assert join_of(house) == before


@pytest.mark.parametrize("days", [+1, -1])
def test_while_a_command_runs(house, poll, days):
    """What has begun is not repeated, and its outcome is told as it was, though it may be called unknown meanwhile."""
    house.machine.shut_gate()
    job = house.control.order(Action.LOG_OFF, "box", message="once")
    poll(lambda: house.machine.acts)
    house.control.reaches(job, ExecutionState.ACTING)
    house.server_clock.set(days)
    house.agent_clock.set(days)
    if days > 0:
        assert house.control.ended(job).state is ExecutionState.UNKNOWN
    house.machine.open_gate()
    poll(lambda: house.control.execution(job).state is ExecutionState.DONE)
    assert house.machine.acts == ["once"]
