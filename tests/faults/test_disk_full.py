"""Full disks of the control server and of an agent: jobs that cannot be recorded are not done, and this is reported."""

import contextlib
import os
import re
import shutil
import subprocess

import pytest

from landline.cli.api_client import Refused
from landline.fleet.model import Action, ExecutionState, PresenceState

SIZE_BYTES = 2 * 1024 * 1024


class SmallDisks:
    """File systems of two megabytes, in a mount namespace of the programs of one test; they end with its holder."""

    def __init__(self, directory, *names):
        self.directory = directory
        paths = [directory / name for name in names]
        for path in paths:
            path.mkdir(parents=True)
        mounts = [f"mount -t tmpfs -o size={SIZE_BYTES},mode=0700 tmpfs '{path}'" for path in paths]
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", "; ".join([*mounts, "echo mounted", "exec cat"])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self._holder.stdout.readline() != "mounted\n":
            pytest.skip(f"no private file systems here: {self._holder.communicate()[1].strip()}")

    @property
    def prefix(self):
        return ("nsenter", "--mount", f"--target={self._holder.pid}")

    def seen(self, path):
        """Return the path under which this process finds the ``path`` of a program in the namespace."""
        return os.path.join(f"/proc/{self._holder.pid}/root", str(path).lstrip("/"))

    def fill(self, name):
        with contextlib.suppress(OSError), open(self.seen(self.directory / name / "filler"), "wb") as filler:
            while True:
                os.write(filler.fileno(), bytes(4096))

    def free(self, name):
        os.unlink(self.seen(self.directory / name / "filler"))

    def end(self):
        self._holder.communicate()


class House:
    def __init__(self, programs, processes, disks):
        self.disks = disks
        processes.prefix = disks.prefix
        self.control = programs.ControlServer(processes)
        self.machine = programs.CommandMachine(processes, self.control, "box")


@pytest.fixture
def house(programs, directory, request):
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("nsenter"):
        pytest.skip("needs root, unshare and nsenter")
    own = directory / re.sub(r"\W+", "", request.node.name)[-20:]
    own.mkdir()
    disks = SmallDisks(own, "control", "box/data")
    try:
        with programs.run_processes(own) as processes:
            house = House(programs, processes, disks)
            try:
                house.control.shows("box", PresenceState.ONLINE)
                yield house
            finally:
                house.machine.end()
    finally:
        disks.end()


def test_full_disk_of_the_control_server(house):
    """Orders are refused with 503 and are not done; machines stay online; accepted jobs are done once when there is
    space again, and the server continues normally."""
    control, machine = house.control, house.machine
    waiting = control.order(Action.LOG_OFF, "box", message="accepted before", delay_s=2.0)
    house.disks.fill("control")
    accepted, refusal = {"accepted before": waiting}, None
    for number in range(200):
        # The database may have some free space in its file.
        message = f"while full {number}"
        try:
            accepted[message] = control.order(Action.LOG_OFF, "box", message=message)
        except Refused as error:
            refusal = error
            break
    assert refusal is not None
    assert refusal.code == "storage_failed"
    assert "nothing was done" in str(refusal)
    assert control.machine("box").presence.state is PresenceState.ONLINE
    assert control.execution(waiting).job_id == waiting
    house.disks.free("control")
    for job in accepted.values():
        assert control.ended(job).state is ExecutionState.DONE, control.life(job)
    after = control.order(Action.LOG_OFF, "box", message="after")
    assert control.ended(after).state is ExecutionState.DONE
    assert sorted(machine.acts) == sorted([*accepted, "after"])
    assert control.program.err.count("the disk is full") > 0


def test_full_disk_of_a_control_server_that_is_killed(house):
    """Jobs that were accepted before the disk was full and the server was killed exist after its restart."""
    control, machine = house.control, house.machine
    before = control.order(Action.LOG_OFF, "box", message="before", delay_s=3.0)
    house.disks.fill("control")
    control.program.kill()
    house.disks.free("control")
    control.start()
    assert control.ended(before).state is ExecutionState.DONE
    assert machine.acts == ["before"]


def test_full_disk_of_an_agent(house):
    """A job that cannot be recorded beforehand is not done, and the operator learns why. With free space, the next
    order is carried out, and the failed one never."""
    control, machine = house.control, house.machine
    house.disks.fill("box/data")
    failed = control.ended(control.order(Action.LOG_OFF, "box", message="not on record"))
    assert failed.state is ExecutionState.FAILED
    assert "nothing was done" in failed.detail
    assert "No space left on device" in failed.detail
    assert machine.acts == []
    house.disks.free("box/data")
    done = control.ended(control.order(Action.LOG_OFF, "box", message="on record"))
    assert done.state is ExecutionState.DONE
    assert machine.acts == ["on record"]
    machine.agent.kill()
    machine.start()
    control.shows("box", PresenceState.ONLINE)
    assert machine.acts == ["on record"]
    assert control.execution(failed.job_id).state is ExecutionState.FAILED
