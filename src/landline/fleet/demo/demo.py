"""Runs a control server and a simulated fleet on this machine; needs nothing more.

The control server runs in this process, the machines in a child of it, with real connections between them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from landline import AddressInUse, Heartbeat, Line, Unconfirmed
from landline.fleet.api import CancelRequest, JobRequest, JobView
from landline.fleet.control.serve import ControlServerOptions, RunningControlServer, run_control_server
from landline.fleet.control.wake_on_lan import MagicPackets
from landline.fleet.demo.message_count import MESSAGE_NAME, MessageCount, compare_counts
from landline.fleet.demo.simulated_machines import FleetPlan, FleetReady, FleetResult
from landline.fleet.model import Action, ExecutionState, PresenceState
from landline.fleet.paths import control_socket

HEARTBEAT: Final = Heartbeat(interval_s=3.0, timeout_s=2.0)
"""Faster than the default, so that changes are soon visible."""
GONE_GRACE_S: Final = 1.0
"""Time that a machine must stay away for its shutdown to be done: here no service manager restarts an agent."""
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
SETTLE_SHARE: Final = 0.35
"""The last part of a self-driven demo: no job is created, and open jobs come to their end."""
SETTLE_S_MAX: Final = 10.0
OVERTIME_S_MAX: Final = 10.0
"""Extra time of a self-driven demo for executions that have begun."""
JOB_EVERY_S: Final = 1.0
WAITING_STATES: Final = {
    ExecutionState.QUEUED,
    ExecutionState.DELIVERED,
    ExecutionState.WAITING,
    ExecutionState.POSTPONED,
}


_Message = TypeVar("_Message", FleetReady, FleetResult)


class DemoFailed(Exception):
    """The demo cannot run; the text says why."""


class DemoResult(msgspec.Struct, frozen=True):
    """The result of a self-driven demo, counted by the machines, by the control server, and on disk."""

    machines: int
    machines_online: int
    """The largest number online at once."""
    jobs: dict[str, int]
    """Executions by their final state."""
    reconnects: int
    """How often a session resumed over a new connection."""
    links_cut: int
    messages_sent: int
    messages_lost: int
    messages_duplicated: int
    messages_unconfirmed: int
    """Messages in flight to a machine as it shut down, reported to their sender as unconfirmed."""
    seconds: float


class Demo:
    """A running demo; made by :func:`demo`."""

    def __init__(
        self, running: RunningControlServer, socket: Path, machines: int, counts: MessageCount
    ) -> None:
        self.running = running
        self.socket = socket
        """The unix socket for commands."""
        self.machines = machines
        self._counts = counts
        self._most_online = 0
        self._job_ids: list[str] = []
        self._finished_job_ids: set[str] = set()
        self._fleet: asyncio.subprocess.Process | None = None

    async def wait_online(self) -> None:
        """Wait until every machine is online. Raise :class:`DemoFailed` if that takes too long."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while self.look() < self.machines:
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            raise DemoFailed(
                f"only {self.look()} of {self.machines} machines came online within {START_TIMEOUT_S:g} s"
            ) from error

    def look(self) -> int:
        """Return the number of machines online now; record the largest."""
        online = sum(
            machine.presence.state is PresenceState.ONLINE for machine in self.running.control.machines()
        )
        self._most_online = max(self._most_online, online)
        return online

    async def drive(self, seconds: float, *, seed: int) -> None:
        """Create jobs for most of the time, then let the open ones come to their end."""
        assert self._fleet is not None
        assert self._fleet.stdin is not None
        self._fleet.stdin.write(b"cut\n")
        rng = random.Random(seed)  # noqa: S311 - a demo is to be repeatable
        ends_at = time.monotonic() + seconds
        settles_at = ends_at - min(SETTLE_S_MAX, seconds * SETTLE_SHARE)
        while time.monotonic() < settles_at:
            await self._issue_job(rng)
            await self._look_until(min(settles_at, time.monotonic() + JOB_EVERY_S))
        # Jobs that have begun end by themselves; a restart takes a few seconds. A person may still postpone.
        while time.monotonic() < ends_at + OVERTIME_S_MAX:
            is_open = await self._cancel_waiting()
            if not is_open and time.monotonic() >= ends_at:
                break
            await self._look_until(time.monotonic() + 0.5)

    async def finish(self) -> DemoResult:
        """Stop the fleet and return the counts."""
        views = [await self.running.control.job(job_id) for job_id in self._job_ids]
        result = await self._end_fleet()
        counted = compare_counts(result.sessions, self._counts.sessions)
        states: Counter[str] = Counter(
            execution.state.value for view in views for execution in view.executions
        )
        return DemoResult(
            machines=self.machines,
            machines_online=self._most_online,
            jobs=dict(sorted(states.items())),
            reconnects=self.running.control.resumes,
            links_cut=result.links_cut,
            messages_sent=counted.messages_sent,
            messages_lost=counted.messages_lost,
            messages_duplicated=counted.messages_duplicated,
            messages_unconfirmed=counted.messages_unconfirmed,
            seconds=0.0,
        )

    async def _issue_job(self, rng: random.Random) -> None:
        control = self.running.control
        away = [machine for machine in control.machines() if machine.presence.state is PresenceState.OFFLINE]
        online = [machine for machine in control.machines() if machine.presence.state is PresenceState.ONLINE]
        action = rng.choice([Action.RESTART, Action.RESTART, Action.LOG_OFF, Action.SHUT_DOWN, Action.WAKE])
        pool = away if action is Action.WAKE else online
        if not pool:
            return
        targets = rng.sample(pool, min(len(pool), rng.randint(1, max(1, self.machines // 20))))
        view: JobView = await control.create_job(
            JobRequest(
                action=action,
                targets=tuple(machine.name for machine in targets),
                message="Updates",
                requested_by="demo",
                delay_s=rng.uniform(1.0, 3.0),
                valid_for_s=30.0,
            )
        )
        self._job_ids.append(view.job.id)

    async def _cancel_waiting(self) -> bool:
        """Cancel jobs that would outlast the demo: postponed or not begun. Return whether a job is still open."""
        is_open = False
        for job_id in self._job_ids:
            if job_id in self._finished_job_ids:
                continue
            view = await self.running.control.job(job_id)
            if all(execution.state.is_final for execution in view.executions):
                self._finished_job_ids.add(job_id)
                continue
            is_open = True
            if any(execution.state in WAITING_STATES for execution in view.executions):
                await self.running.control.cancel_job(
                    job_id, CancelRequest(cancelled_by="the end of the demo")
                )
        return is_open

    async def _look_until(self, due: float) -> None:
        while (left := due - time.monotonic()) > 0:
            self.look()
            await asyncio.sleep(min(left, 0.1))

    async def start_fleet(self, plan: FleetPlan) -> FleetReady:
        """Start the machines in a child process."""
        self._fleet = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "landline.fleet.demo.simulated_machines",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=256 * 1024 * 1024,
            # Ctrl-C goes to this process only, which then stops the fleet.
            start_new_session=True,
        )
        assert self._fleet.stdin is not None
        self._fleet.stdin.write(msgspec.json.encode(plan) + b"\n")
        await self._fleet.stdin.drain()
        return await self._read(FleetReady, START_TIMEOUT_S)

    async def _end_fleet(self) -> FleetResult:
        assert self._fleet is not None
        assert self._fleet.stdin is not None
        self._fleet.stdin.close()
        result = await self._read(FleetResult, STOP_TIMEOUT_S)
        await self._fleet.wait()
        return result

    async def stop_fleet(self) -> None:
        """Stop the machines; kill them if necessary."""
        if self._fleet is None or self._fleet.returncode is not None:
            return
        assert self._fleet.stdin is not None
        self._fleet.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._fleet.wait()
        except TimeoutError:
            self._fleet.kill()
            await self._fleet.wait()

    async def _read(self, kind: type[_Message], timeout_s: float) -> _Message:
        assert self._fleet is not None
        assert self._fleet.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._fleet.stdout.readline()
        except TimeoutError as error:
            raise DemoFailed(f"the simulated fleet did not answer for {timeout_s:g} s") from error
        if not line:
            raise DemoFailed("the simulated fleet ended; its error is printed above")
        return msgspec.json.decode(line, type=kind)


@contextlib.asynccontextmanager
async def demo(machines: int, *, self_driven: bool, seed: int = 1) -> AsyncIterator[Demo]:
    """Run a control server and ``machines`` simulated machines for the duration of the block.

    Commands find it by themselves, unless another control server of this user is there already: then it has a socket of
    its own, :attr:`Demo.socket`. ``self_driven``: links are cut now and then. Raises :class:`DemoFailed`, and what
    :func:`landline.fleet.control.serve.run_control_server` raises.
    """
    counts = MessageCount()
    with tempfile.TemporaryDirectory(prefix="landline-demo-") as directory:
        waker = MagicPackets(host="127.0.0.1", port=9)
        plan = ControlServerOptions(
            data=Path(directory) / "control",
            listen="tcp://127.0.0.1:0",
            socket=control_socket(),
            heartbeat=HEARTBEAT,
            waker=waker,
            gone_grace_s=GONE_GRACE_S,
        )
        async with contextlib.AsyncExitStack() as stack:
            try:
                running = await stack.enter_async_context(run_control_server(plan))
            except AddressInUse:
                # Another demo or control server has the default socket.
                plan.socket = Path(directory) / "control.sock"
                running = await stack.enter_async_context(run_control_server(plan))
            _count(running, counts)
            shown = Demo(running, plan.socket, machines, counts)
            try:
                ready = await shown.start_fleet(
                    FleetPlan(
                        url=str(running.agents),
                        token=running.agents_token,
                        machines=machines,
                        seed=seed if self_driven else secrets.randbits(32),
                        directory=directory,
                        cut_every_s=20.0 / machines if self_driven else None,
                    )
                )
                waker.port = ready.wake_port
                yield shown
            finally:
                await shown.stop_fleet()


def _count(running: RunningControlServer, counts: MessageCount) -> None:
    """Answer every number of a machine with a number, and count both."""

    def receive(line: Line, number: int) -> None:
        counts.receive(line, number)
        if line.data is not None:
            counts.send(line)

    def lost(line: Line, unconfirmed: tuple[Unconfirmed, ...]) -> None:
        counts.note_unconfirmed(line, sum(message.name == MESSAGE_NAME for message in unconfirmed))

    running.server.on(MESSAGE_NAME, int)(receive)
    running.server.on_session_lost(lost)
