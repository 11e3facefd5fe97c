"""Control servers and agents as separate processes, with machines whose acts are counted outside the product.

All functions are synchronous: they poll for events in other processes.
"""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tests.ports import hold_tcp_port, port_of

from landline import Heartbeat
from landline.cli.api_client import ApiClient, ServerAddress
from landline.cli.retry import Retries
from landline.fleet.api import JobRequest
from landline.fleet.model import Action, Execution, ExecutionState, Machine, PresenceState

PATIENCE_S = 45.0
"""Longer than any step takes on a busy machine, and shorter than the time limit of a test."""
SERVE_WITH_HEARTBEAT = """
from functools import partial
import landline
from landline.cli import main
from landline.fleet.control import serve
heartbeat = landline.Heartbeat(interval_s={interval_s}, timeout_s={timeout_s})
serve.ControlServerOptions = partial(serve.ControlServerOptions, heartbeat=heartbeat)
main()
"""
_Result = TypeVar("_Result")


def until(condition: Callable[[], _Result], describe: Callable[[], object] = str) -> _Result:
    """Return the first true value of ``condition``."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not (result := condition()):
        assert time.monotonic() < give_up_at, describe()
        time.sleep(0.01)
    return result


class Program:
    """One running ``landline …``."""

    def __init__(self, processes: "Processes", arguments: tuple[str, ...], program: tuple[str, ...]) -> None:
        number = len(processes.started)
        self.out_path = processes.directory / f"{number}-{arguments[0]}.out"
        self.err_path = processes.directory / f"{number}-{arguments[0]}.err"
        self.is_checked = True
        with self.out_path.open("w") as out, self.err_path.open("w") as err:
            self.process = subprocess.Popen(
                [*processes.prefix, sys.executable, *program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**processes.environment, **processes.extra_environment},
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self.out_path.read_text()

    @property
    def err(self) -> str:
        return self.err_path.read_text()

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until it has written ``pattern`` to its standard output."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.out)
            assert match or self.process.poll() is None, (
                f"it ended with {self.process.returncode}: {self.err}"
            )
            return match

        return until(found, lambda: f"{pattern!r} was not said: {self.out} {self.err}")

    def kill(self) -> None:
        """Kill it as ``kill -9`` does."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Stop it; return when it has stopped."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def ends(self, number: signal.Signals | None = None) -> int:
        """Wait until it has ended, by itself or because of a signal. Return its exit status."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE_S)


class Processes:
    """All programs of a test; they are ended and checked when the test ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[Program] = []
        self._ports: list[socket.socket] = []
        self.prefix: tuple[str, ...] = ()
        """The command that starts a program, if it is not started directly."""
        self.extra_environment: dict[str, str] = {}
        """Environment variables of programs started from now on."""
        # No person is logged on at the machines, even if one is at this computer.
        bin_directory = directory / "bin"
        bin_directory.mkdir()
        (bin_directory / "who").symlink_to("/bin/true")
        self.environment = {
            "PATH": f"{bin_directory}:{os.environ['PATH']}",
            "HOME": str(directory),
            "LC_ALL": "C.UTF-8",
            "LANDLINE_RUNTIME_DIR": str(directory / "run"),
        }
        if "PYTHONPATH" in os.environ:
            # The processes run the same sources as the tests.
            self.environment["PYTHONPATH"] = os.environ["PYTHONPATH"]

    def start(self, *arguments: str, program: tuple[str, ...] = ("-m", "landline")) -> Program:
        """Start a command; ``program`` are the arguments of Python in front of the command's own."""
        started = Program(self, arguments, program)
        self.started.append(started)
        return started

    def run(self, *arguments: str) -> Program:
        """Start a command that ends by itself; return when it has ended."""
        program = self.start(*arguments)
        program.ends()
        return program

    def hold_port(self) -> int:
        """Reserve a port of 127.0.0.1 for these processes, also while none of them listens."""
        self._ports.append(hold_tcp_port())
        return port_of(self._ports[-1])

    def end(self) -> None:
        for holder in self._ports:
            holder.close()
        for program in self.started:
            if program.process.poll() is None:
                program.kill()
        for program in self.started:
            assert not program.is_checked or "Traceback" not in program.err, program.err
            assert "was never" not in program.err, program.err


class ControlServer:
    """A control server with its own data directory and port, on which it can be restarted.

    :param heartbeat: the heartbeat of its lines; by default that of ``landline serve``.
    """

    def __init__(self, processes: Processes, *options: str, heartbeat: Heartbeat | None = None) -> None:
        self.data = processes.directory / "control"
        self.url = f"tcp://127.0.0.1:{processes.hold_port()}"
        self._options = options
        self._program: tuple[str, ...] = ("-m", "landline")
        if heartbeat is not None:
            source = SERVE_WITH_HEARTBEAT.format(
                interval_s=heartbeat.interval_s, timeout_s=heartbeat.timeout_s
            )
            self._program = ("-c", source)
        self.processes = processes
        self.socket = Path(processes.environment["LANDLINE_RUNTIME_DIR"]) / "control.sock"
        # A request that fails because the test has killed the server is not repeated.
        self.api = ApiClient(
            ServerAddress(unix_path=str(self.socket)),
            retries=Retries(answer_s=PATIENCE_S, change_s=0.0, read_s=0.0),
        )
        self.start()

    def start(self) -> None:
        """Start it, with the same data and port as before."""
        self.program = self.processes.start(
            *("serve", "--data", str(self.data), "--listen", self.url),
            *self._options,
            program=self._program,
        )
        self.program.says("Ctrl-C stops it")

    @property
    def token_file(self) -> str:
        return str(self.data / "agents.token")

    def machine(self, name: str) -> Machine | None:
        return next((machine for machine in self.api.machines() if machine.name == name), None)

    def shows(self, name: str, state: PresenceState) -> Machine:
        """Wait until a machine has the presence ``state``."""

        def found() -> Machine | None:
            machine = self.machine(name)
            return machine if machine is not None and machine.presence.state is state else None

        return until(found, lambda: f"{name} did not become {state}: {self.machine(name)}")

    def order(self, action: Action, name: str, **options) -> str:
        """Order a job for one machine; return its id. The machine records the message when it acts."""
        options.setdefault("message", f"{action} of {name}")
        options.setdefault("delay_s", 0.0)
        options.setdefault("request_id", os.urandom(8).hex())
        return self.api.create_job(JobRequest(action=action, targets=(name,), **options)).job.id

    def execution(self, job_id: str) -> Execution:
        [execution] = self.api.job(job_id).executions
        return execution

    def reaches(self, job_id: str, state: ExecutionState) -> Execution:
        """Wait until the only execution of a job has been in the state; fail if it ends without.

        It may have left the state since, so short states are seen on a busy machine too.
        """

        def found() -> Execution | None:
            view = self.api.job(job_id)
            states = {event.state for event in view.events}
            if state in states:
                return view.executions[0]
            # The state is visible shortly before its event is on disk.
            last = view.executions[0].state
            assert not (last.is_final and last in states), self.life(job_id)
            return None

        return until(found, lambda: f"not {state}: {self.life(job_id)}")

    def ended(self, job_id: str) -> Execution:
        """Wait until the only execution of a job has ended."""

        def found() -> Execution | None:
            execution = self.execution(job_id)
            return execution if execution.state.is_final else None

        return until(found, lambda: f"not over: {self.life(job_id)}")

    def life(self, job_id: str) -> list[str]:
        view = self.api.job(job_id)
        return [f"{event.at - view.job.created_at:.3f} {event.state} {event.detail}" for event in view.events]


class CommandMachine:
    """A machine whose acts are commands that record the message of the job; they wait while the gate is shut."""

    SCRIPT = (
        'echo "$1" >> acts; echo $$ >> pids; if [ -p gate ]; then read line < gate; fi; echo "$1" >> ended'
    )

    def __init__(self, processes: Processes, control: ControlServer, name: str) -> None:
        self.name = name
        self.directory = processes.directory / name
        self.directory.mkdir(exist_ok=True)
        self.journal = self.directory / "data" / "journal.jsonl"
        self._processes = processes
        self._control = control
        command = ["sh", "-c", f"cd {shlex.quote(str(self.directory))}; {self.SCRIPT}", "sh", "{reason}"]
        quoted = ", ".join("'''" + argument + "'''" for argument in command)
        (self.directory / "commands.toml").write_text(
            "[commands]\n"
            + "".join(f"{action} = [{quoted}]\n" for action in ("logoff", "restart", "shutdown"))
        )
        self.start()

    def start(self) -> None:
        """Start its agent with the same data as before; return when it has joined."""
        self.begin_to_start()
        self.joins(1)

    def begin_to_start(self) -> None:
        self.agent = self._processes.start(
            *("agent", "--server", self._control.url, "--token-file", self._control.token_file),
            *("--name", self.name, "--data", str(self.directory / "data"), "--prompt", "none"),
            *("--power", "command", "--config", str(self.directory / "commands.toml")),
        )

    def joins(self, times: int) -> None:
        """Wait until the running agent has joined the given number of times."""
        until(
            lambda: self.agent.err.count(f"joined as {self.name}") >= times,
            lambda: f"{self.name} did not join: {self.agent.out} {self.agent.err}",
        )

    def shut_gate(self) -> None:
        os.mkfifo(self.directory / "gate")

    def open_gate(self) -> None:
        """Release the waiting command, and let later ones pass."""
        gate = self.directory / "gate"

        def opened() -> bool:
            # There is no reader before the command waits at the gate (ENXIO).
            with contextlib.suppress(OSError):
                os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
                return True
            return False

        until(opened)
        gate.unlink()

    def open_gate_if_shut(self) -> None:
        """Remove the gate: no command waits at it."""
        (self.directory / "gate").unlink(missing_ok=True)

    @property
    def pids(self) -> list[int]:
        """The process groups of its commands."""
        return [int(line) for line in self._lines("pids")]

    @property
    def acts(self) -> list[str]:
        """The messages of the jobs whose command has started, in order."""
        return self._lines("acts")

    @property
    def ended(self) -> list[str]:
        """The messages of the jobs whose command has ended."""
        return self._lines("ended")

    def forget(self) -> None:
        """Clear the record of acts."""
        for name in ("acts", "ended", "pids"):
            (self.directory / name).unlink(missing_ok=True)

    def _lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def end(self) -> None:
        """End the agent and its commands, which may outlive a killed agent."""
        if self.agent.process.poll() is None:
            self.agent.kill()
        for pid in self._lines("pids"):
            # The pid may belong to another process now: kill it only if it is the command.
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                if str(self.directory).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(int(pid), signal.SIGKILL)


class Fleet:
    """A control server and its machines."""

    def __init__(self, processes: Processes, heartbeat: Heartbeat | None = None) -> None:
        self.control = ControlServer(processes, heartbeat=heartbeat)
        self._processes = processes
        self._machines: list[CommandMachine] = []

    def machine(self, name: str) -> CommandMachine:
        machine = CommandMachine(self._processes, self.control, name)
        self._machines.append(machine)
        return machine

    def end_machines(self) -> None:
        for machine in self._machines:
            machine.end()


@contextlib.contextmanager
def run_processes(directory: Path) -> Iterator[Processes]:
    processes = Processes(directory)
    try:
        yield processes
    finally:
        processes.end()


@contextlib.contextmanager
def run_fleet(directory: Path, heartbeat: Heartbeat | None = None) -> Iterator[Fleet]:
    with run_processes(directory) as processes:
        fleet = None
        try:
            fleet = Fleet(processes, heartbeat)
            yield fleet
        finally:
            if fleet is not None:
                fleet.end_machines()
