"""Simulates machines, each with a real agent, journal and connection.

The demo runs it as ``python -m landline.fleet.demo.simulated_machines``. It reads its :class:`FleetPlan` as one line of
JSON from standard input, begins to cut links when more input arrives, runs until the input is closed, and then prints
its :class:`FleetResult`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

import landline
from landline import Backoff, Line, SharedToken, guarded_logger
from landline.fleet.agent.agent import Agent, AgentRefused
from landline.fleet.agent.journal import Journal
from landline.fleet.agent.power.simulated import SimulatedPower
from landline.fleet.agent.prompt import Answer, Choice, Question
from landline.fleet.demo.message_count import MESSAGE_NAME, MessageCount, SessionCount
from landline.fleet.model import Action, Cause, Facts, Person

logger: Final = guarded_logger("landline.simulated")

PERSONS: Final = ("ada", "grace", "edsger", "barbara", "alan", "margaret", "dennis", "frances")
SYSTEMS: Final = ("Debian GNU/Linux 12", "Ubuntu 24.04 LTS", "Fedora Linux 41", "Windows 11 Education")
RESTART_S: Final = (2.0, 4.0)
"""The range of the random time that a simulated restart takes."""
LOG_ON_AGAIN_S: Final = (5.0, 15.0)
POSTPONE_S: Final = 15.0
SEAT: Final = "seat0"
FLAKY_DISPLAY_EVERY: Final = 6
"""One in this number of machines cannot always ask its person: sim-06, sim-12, ..."""
FLAKY_DISPLAY_S: Final = 8.0
"""Time for which such a machine cannot ask, and then can: short, so that a job in the demo waits and continues."""
MAGIC_HEADER: Final = b"\xff" * 6


class FleetPlan(msgspec.Struct):
    """What to simulate."""

    url: str
    token: str
    machines: int
    seed: int
    directory: str
    count_every_s: float = 1.0
    """Mean interval at which each machine sends a numbered message."""
    cut_every_s: float | None = None
    """Interval at which the link of a random machine is cut; ``None`` for never."""


class FleetReady(msgspec.Struct, tag="ready"):
    """The machines are starting; they receive wake-up packets on this UDP port of 127.0.0.1."""

    wake_port: int


class FleetResult(msgspec.Struct, tag="result"):
    """The counts of the machines."""

    sessions: dict[str, SessionCount]
    links_cut: int


class SimulatedPerson:
    """Answers as persons do: at once, later, or not at all.

    :param has_flaky_display: whether the person alternately can and cannot be asked, each for :data:`FLAKY_DISPLAY_S`.
    """

    name = "simulated"

    def __init__(
        self,
        rng: random.Random,
        *,
        has_flaky_display: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rng = rng
        self._has_flaky_display = has_flaky_display
        self._clock = clock

    def unavailable_reason(self) -> str | None:
        """Return why the person cannot be asked at the moment, or ``None``."""
        is_away = self._has_flaky_display and self._clock() % (2 * FLAKY_DISPLAY_S) < FLAKY_DISPLAY_S
        return "no display" if is_away else None

    def seat(self) -> str:
        """Return where the person sits."""
        return SEAT

    async def ask(self, question: Question) -> Answer:
        """Answer after a moment, or let the countdown run out."""
        mood = self._rng.random()
        think_s = self._rng.uniform(0.5, 2.5)
        if mood < 0.4 or think_s >= question.countdown_s:
            await asyncio.sleep(question.countdown_s if mood >= 0.2 else min(think_s, question.countdown_s))
            return Answer(choice=Choice.TIMED_OUT if mood >= 0.2 else Choice.NOW)
        await asyncio.sleep(think_s)
        if mood < 0.55 and question.may_cancel:
            return Answer(choice=Choice.CANCEL)
        if mood < 0.7 and question.may_postpone:
            return Answer(choice=Choice.POSTPONE, postpone_s=POSTPONE_S)
        return Answer(choice=Choice.NOW)


class SimulatedMachine:
    """A machine with a power back end, a person, an agent, and a disk that survives restarts."""

    def __init__(
        self,
        number: int,
        *,
        url: str,
        token: str,
        directory: Path,
        rng: random.Random,
        counts: MessageCount,
        every_s: float,
    ) -> None:
        self.name: str = f"sim-{number:02d}"
        self.mac_address: str = "02:00:00:" + ":".join(f"{byte:02x}" for byte in number.to_bytes(3, "big"))
        self._id = str(uuid.UUID(bytes=rng.randbytes(16), version=4))
        self._url = url
        self._auth = SharedToken(token)
        self._journal_path = directory / self.name / "journal.jsonl"
        self._rng = rng
        self._counts = counts
        self._every_s = every_s
        self._os = rng.choice(SYSTEMS)
        self._has_flaky_display = number % FLAKY_DISPLAY_EVERY == 0
        self._person = rng.choice(PERSONS) if rng.random() < 0.7 or self._has_flaky_display else None
        self._on = asyncio.Event()
        self._on.set()
        self._stopping = False
        self._agent: Agent | None = None

    @property
    def line(self) -> Line | None:
        """The line of the running agent."""
        return self._agent.line if self._agent is not None else None

    async def run(self) -> None:
        """Run until :meth:`stop`: start, shut down, start again."""
        await asyncio.sleep(self._rng.random() * 0.2)
        while not self._stopping:
            power = SimulatedPower(self._persons(), logged_off=self._person_returns_later)
            self._power = power
            await self._run_agent(power)
            if power.going is Action.SHUT_DOWN:
                self._on.clear()
                await self._on.wait()
            elif power.going is Action.RESTART:
                await asyncio.sleep(self._rng.uniform(*RESTART_S))

    def wake(self) -> None:
        """Switch the machine on, as the power button or a magic packet does."""
        self._on.set()

    def stop(self) -> None:
        """Let the agent say goodbye, and :meth:`run` return."""
        self._stopping = True
        self._on.set()
        if self._agent is not None:
            self._agent.stop(Cause.AGENT_STOPPED, "the demo is over")

    async def _run_agent(self, power: SimulatedPower) -> None:
        journal = Journal.open(self._journal_path)
        try:
            agent = self._agent = Agent(
                urls=[self._url],
                auth=self._auth,
                machine_id=self._id,
                facts=Facts(
                    name=self.name,
                    host_name=f"{self.name}.example",
                    os=self._os,
                    boot_id=str(uuid.UUID(bytes=self._rng.randbytes(16), version=4)),
                    mac_addresses=(self.mac_address,),
                    agent_version=landline.__version__,
                    power=power.name,
                ),
                power=power,
                prompt=SimulatedPerson(self._rng, has_flaky_display=self._has_flaky_display),
                journal=journal,
                backoff=Backoff(first_s=0.5, cap_s=5.0),
            )
            power.terminate = agent.stop
            agent.connector.on(MESSAGE_NAME)(self._counts.receive)
            counting = asyncio.create_task(self._count(agent))
            try:
                await agent.run()
            finally:
                counting.cancel()
        finally:
            self._agent = None
            journal.close()

    async def _count(self, agent: Agent) -> None:
        while True:
            await asyncio.sleep(self._every_s * self._rng.uniform(0.5, 1.5))
            if agent.line is not None and not agent.is_ending:
                self._counts.send(agent.line)

    def _persons(self) -> tuple[Person, ...]:
        return (Person(self._person, SEAT),) if self._person else ()

    def _person_returns_later(self) -> None:
        if self._person is None:
            return
        power, person = self._power, self._person
        delay_s = self._rng.uniform(*LOG_ON_AGAIN_S)
        asyncio.get_running_loop().call_later(delay_s, power.log_on, Person(person, SEAT))


class _NetworkCards(asyncio.DatagramProtocol):
    """Receives magic packets for the network cards of all machines."""

    def __init__(self, machines: Sequence[SimulatedMachine]) -> None:
        self._machines = {
            bytes.fromhex(machine.mac_address.replace(":", "")): machine for machine in machines
        }

    def datagram_received(self, data: bytes, addr: tuple[str | None, int]) -> None:
        address = data[6:12]
        machine = self._machines.get(address)
        if machine is not None and data[:102] == MAGIC_HEADER + address * 16:
            machine.wake()


async def run_fleet(
    plan: FleetPlan, ready: asyncio.Future[int], may_cut: asyncio.Event, until: asyncio.Event
) -> FleetResult:
    """Run the machines until ``until``; ``ready`` gets the UDP port for wake-up packets."""
    rng = random.Random(plan.seed)  # noqa: S311 - a simulation is to be repeatable
    counts = MessageCount()
    machines = [
        SimulatedMachine(
            number,
            url=plan.url,
            token=plan.token,
            directory=Path(plan.directory),
            rng=random.Random(rng.random()),  # noqa: S311 - repeatable too
            counts=counts,
            every_s=plan.count_every_s,
        )
        for number in range(1, plan.machines + 1)
    ]
    loop = asyncio.get_running_loop()
    cards, _ = await loop.create_datagram_endpoint(
        lambda: _NetworkCards(machines), local_addr=("127.0.0.1", 0)
    )
    ready.set_result(cards.get_extra_info("sockname")[1])
    cutter = _Cutter(plan.cut_every_s, rng)
    running = [asyncio.create_task(_run_machine(machine)) for machine in machines]
    try:
        cutting = asyncio.create_task(cutter.run(machines, may_cut))
        await until.wait()
        cutting.cancel()
        for machine in machines:
            machine.stop()
        await asyncio.wait(running, timeout=10)
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        cards.close()
    return FleetResult(counts.sessions, cutter.links_cut)


class _Cutter:
    """Cuts the link of a random machine at regular intervals."""

    def __init__(self, every_s: float | None, rng: random.Random) -> None:
        self._every_s = every_s
        self._rng = rng
        self.links_cut = 0

    async def run(self, machines: Sequence[SimulatedMachine], may_cut: asyncio.Event) -> None:
        await may_cut.wait()
        while self._every_s is not None:
            await asyncio.sleep(self._every_s)
            line = self._rng.choice(machines).line
            if line is not None and not line.is_closed:
                line.break_link("the demo cut the link")
                self.links_cut += 1


async def _run_machine(machine: SimulatedMachine) -> None:
    try:
        await machine.run()
    except (landline.LandlineError, AgentRefused) as error:
        logger.error("%s: %s", machine.name, error)


async def _main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    plan = msgspec.json.decode(await reader.readline(), type=FleetPlan)
    may_cut, until = asyncio.Event(), asyncio.Event()
    ready: asyncio.Future[int] = loop.create_future()
    fleet = asyncio.create_task(run_fleet(plan, ready, may_cut, until))
    _print_message(FleetReady(await ready))
    while await reader.read(65536):
        may_cut.set()
    until.set()
    _print_message(await fleet)
    pipe.close()


def _print_message(message: msgspec.Struct) -> None:
    data = msgspec.json.encode(message) + b"\n"
    # Not through the buffer of sys.stdout: if the demo was killed, that would fail again at exit.
    with contextlib.suppress(BrokenPipeError):
        while data:
            data = data[os.write(sys.stdout.fileno(), data) :]


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    landline.run(_main())
