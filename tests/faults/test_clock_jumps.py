"""The wall clock of a control server, or of an agent, jumps by a day, forward or back: real processes, faked clocks.

Only the time of day jumps, as when a person sets it; libfaketime does not change the monotonic clock.
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
        new = self._path.with_suffix(".new")
        new.write_text(f"{days:+d}d\n")
        # The processes read the file whenever they read the clock, and must never find half of it.
        new.replace(self._path)
        self.days = days


class Site:
    """A control server and a machine, each with its own clock."""

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
        site = None
        try:
            site = Site(programs, directory, processes)
            yield site
        finally:
            if site is not None:
                site.machine.end()


@pytest.fixture
def site(built):
    built.machine.forget()
    built.control.shows("box", PresenceState.ONLINE)
    yield built
    built.machine.agent.thaw()
    built.server_clock.set(0)
    built.agent_clock.set(0)


def join_of(site) -> str:
    machine = site.control.shows("box", PresenceState.ONLINE)
    return machine.presence.join


def is_useful(site) -> bool:
    job = site.control.order(Action.LOG_OFF, "box", message="another")
    return site.control.ended(job).state is ExecutionState.DONE


def test_clock_set_forward_on_the_control_server(site):
    """Line and presence stay; a pending job expires and is never done; the next job is done."""
    before = join_of(site)
    pending = site.control.order(Action.LOG_OFF, "box", message="too late", delay_s=20.0)
    site.control.reaches(pending, ExecutionState.DELIVERED)
    site.server_clock.set(+1)
    assert site.control.ended(pending).state is ExecutionState.EXPIRED
    assert is_useful(site)
    assert join_of(site) == before
    assert site.machine.acts == ["another"]


def test_clock_set_back_on_the_control_server(site, poll):
    """A job does not stay valid for a day longer: it expires on time while its machine is frozen, and is not done when
    the machine continues. A job that is in time is done once. Then the clock of the server is right again."""
    before = join_of(site)
    late = site.control.order(Action.LOG_OFF, "box", message="too late", delay_s=4.0, valid_for_s=1.0)
    site.control.reaches(late, ExecutionState.DELIVERED)
    site.machine.agent.freeze()
    site.server_clock.set(-1)
    assert site.control.ended(late).state is ExecutionState.EXPIRED
    site.machine.agent.thaw()
    assert is_useful(site)
    site.server_clock.set(-2)
    timely = site.control.order(Action.LOG_OFF, "box", message="in time", delay_s=1.5)
    site.control.reaches(timely, ExecutionState.DELIVERED)
    site.server_clock.set(-3)
    assert site.control.ended(timely).state is ExecutionState.DONE
    assert site.machine.acts == ["another", "in time"]
    assert join_of(site) == before
    poll(lambda: site.control.program.err.count("clock_set_back") >= 1)


def test_clock_set_back_while_the_control_server_is_down(site):
    """Validity continues over a restart: a job that waits for a machine expires on time, not a day later."""
    site.machine.agent.freeze()
    late = site.control.order(Action.LOG_OFF, "box", message="too late", delay_s=1.0, valid_for_s=1.0)
    site.control.program.kill()
    site.server_clock.set(-1)
    site.start_control()
    assert site.control.ended(late).state is ExecutionState.EXPIRED
    site.machine.agent.thaw()
    site.control.shows("box", PresenceState.ONLINE)
    assert is_useful(site)
    assert site.machine.acts == ["another"]


@pytest.mark.parametrize("days", [+1, -1])
def test_clock_jump_on_the_agent(site, days):
    """The countdown is elapsed time: the job is done once, and not before it is due; the line stays."""
    before = join_of(site)
    job = site.control.order(Action.LOG_OFF, "box", message="once", delay_s=3.0)
    due_at = site.control.reaches(job, ExecutionState.DELIVERED).due_at
    site.agent_clock.set(days)
    assert site.control.ended(job).state is ExecutionState.DONE
    [acting] = [event for event in site.control.api.job(job).events if event.state is ExecutionState.ACTING]
    assert acting.at >= due_at - 0.1
    assert site.machine.acts == ["once"]
    assert join_of(site) == before


@pytest.mark.parametrize("days", [+1, -1])
def test_clock_jump_while_a_command_runs(site, poll, days):
    """A started command is not repeated; its outcome is reported correctly, though it may be unknown for a while."""
    site.machine.shut_gate()
    job = site.control.order(Action.LOG_OFF, "box", message="once")
    poll(lambda: site.machine.acts)
    site.control.reaches(job, ExecutionState.ACTING)
    site.server_clock.set(days)
    site.agent_clock.set(days)
    if days > 0:
        assert site.control.ended(job).state is ExecutionState.UNKNOWN
    site.machine.open_gate()
    poll(lambda: site.control.execution(job).state is ExecutionState.DONE)
    assert site.machine.acts == ["once"]
