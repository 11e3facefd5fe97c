"""The fleet: a control server, machines with agents and persons, an operator who orders all sorts of things."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from random import Random

from tests.line_internals import has_session, session_of
from tests.simulation.deliveries import Deliveries
from tests.simulation.disk import Database, JournalDisk
from tests.simulation.faults import Fault, Options
from tests.simulation.lines import HEARTBEAT, TOKEN
from tests.simulation.network import Network
from tests.simulation.node import Node
from tests.simulation.watch import LineWatch
from tests.simulation.world import SECOND, World

import landline
from landline import Backoff, LandlineError, Line, LineState, Server
from landline.fleet.agent.agent import Agent
from landline.fleet.agent.journal import Journal
from landline.fleet.agent.power import Permit, PowerError
from landline.fleet.agent.power.simulated import SimulatedPower
from landline.fleet.agent.prompt import Answer, Choice, PromptError, Question
from landline.fleet.api import CancelRequest, JobRequest, OperationError, StorageError
from landline.fleet.control.control_server import ControlServer
from landline.fleet.control.jobs import GRANT_VALID_S
from landline.fleet.model import Action, Execution, ExecutionState, Facts, Person, PresenceState, Unasked

RESUME_WINDOW_S = 30.0
NOTICED_S = 12.0
"""The heartbeat's interval and timeout, what a clogged network may still deliver, and some slack."""
LATE_S = 0.05
"""How much later an act may seem on another machine's clock: drift over the ten seconds of a permit."""
CALLED_OFF = 0.2
"""How often a restart or shutdown is called off before it comes to the end of the agent."""
TERMINATED = 0.5
"""How often a system that goes down ends its agent in order, instead of losing its power with the agent in it."""
CLONES_NOTICED_S = 30.0
"""Two machines with one identity that can both reach the control server for so long are noticed."""
REPLACED_MAX = 3
"""How often one may be taken for a remnant of the other in that time, because something keeps it from answering."""
NOT_DONE = {ExecutionState.CANCELLED, ExecutionState.EXPIRED, ExecutionState.REFUSED, ExecutionState.FAILED}


class Machine(Node):
    """A machine that shuts down or restarts on command, and starts again."""

    persons: tuple[Person, ...] = ()
    known_as = ""
    """The name of the machine it takes itself for; a copy has that of the original."""
    is_shy: bool = False
    """Whether its display, and what tells who is on, come and go."""

    def fails_now(self, what: str) -> bool:
        """Whether ``what`` does not work at the moment: so many seconds, then as many not."""
        period_s = {"display": 20, "sessions": 13}[what]
        return self.is_shy and int(self.world.now_s / period_s) % 2 == 0


class MachinePower(SimulatedPower):
    """Tells the scenario of every act."""

    def __init__(self, scenario: FleetScenario, node: Machine) -> None:
        super().__init__(node.persons)
        self._scenario = scenario
        self._node = node

    async def act(self, action: Action, *, reason: str, permit: Permit) -> None:
        if self._node.loop is not asyncio.get_running_loop():
            return
        permit.check()
        self._scenario.acted(self._node, action, reason, is_anybody_on=bool(self._persons))
        await super().act(action, reason=reason, permit=permit)

    async def persons(self) -> tuple[Person, ...]:
        if self._node.fails_now("sessions"):
            raise PowerError("the sessions cannot be listed")
        return await super().persons()


class AnsweringPerson:
    """Answers as people do; on a shy machine there may be nothing to show the question on."""

    name = "simulated"

    def __init__(self, scenario: FleetScenario, node: Machine, rng: Random) -> None:
        self._scenario = scenario
        self._node = node
        self._rng = rng

    def unavailable_reason(self) -> str | None:
        return "no display" if self._node.fails_now("display") else None

    def seat(self) -> str:
        return "seat0"

    async def ask(self, question: Question) -> Answer:
        answer = await self._answer(question)
        if self._node.fails_now("display"):
            raise PromptError("the display went away")
        if answer.choice in {Choice.NOW, Choice.TIMED_OUT}:
            self._scenario.agreed(self._node, question.message)
        return answer

    async def _answer(self, question: Question) -> Answer:
        think_s = self._rng.uniform(0.1, 10.0)
        if think_s >= question.countdown_s:
            await asyncio.sleep(question.countdown_s)
            return Answer(choice=Choice.TIMED_OUT)
        await asyncio.sleep(think_s)
        choice = self._rng.choice([Choice.NOW, Choice.NOW, Choice.CANCEL, Choice.POSTPONE])
        return Answer(choice=choice, postpone_s=self._rng.uniform(1, 15) if choice is Choice.POSTPONE else 0)


class FleetScenario:
    """One control server, several machines."""

    rest_s = 170.0

    def __init__(self, world: World, network: Network, options: Options) -> None:
        self.world = world
        self.deliveries = Deliveries(world)
        self.watch = LineWatch(world, interval_s=HEARTBEAT.interval_s, timeout_s=HEARTBEAT.timeout_s)
        self.server = Node(world, network, "control", self._control)
        self.clients = [
            Machine(world, network, f"machine-{number:03d}", self._agent) for number in range(options.clients)
        ]
        self._copy: Machine | None = None
        if options.clones:
            self._copy = Machine(world, network, "machine-090", self._agent)
            self.clients.append(self._copy)
        self._replaced_at_ns: list[int] = []
        self._together_since_ns: int | None = None
        self._cloned_since_ns: int | None = None
        self._rng = world.rng("fleet")
        self._is_over = False
        self._orders = 0
        self._accepted: dict[str, str] = {}
        self._acts: Counter[tuple[str, str]] = Counter()
        # By machine: the orders to which the running agent got an answer, or that had none when the countdown ended.
        self._agreed: dict[Node, set[str]] = {node: set() for node in self.clients}
        self._called_off: set[tuple[str, str]] = set()
        self._powers: dict[Node, MachinePower] = {}
        self._running: tuple[Server, ControlServer] | None = None
        self._agents: dict[Node, Agent] = {}
        self._sessions: dict[Node, set[bytes]] = {node: set() for node in (self.server, *self.clients)}
        self._stays_off: set[Node] = set()
        self._going: set[Node] = set()
        self._down_since_ns: dict[Node, int] = {}
        self.server.after_step = self._look_at_server
        self.server.on_death = self._excuse
        for node in self.clients:
            node.on_death = self._excuse
            node.after_step = self._look_at_client
            node.on_end = self._agent_ended
            node.known_as = node.name if node is not self._copy else self.clients[0].name
            if self._rng.random() < 0.5:
                node.persons = (Person("ada", "seat0"),)
        # A generator of their own, so that each seed still draws what it drew before there were shy machines.
        shy_rng = world.rng("shy")
        for node in self.clients:
            node.is_shy = shy_rng.random() < 0.3

    def begin(self) -> None:
        self.server.power_on()
        for node in self.clients:
            if node is self._copy:
                self._power_on_after(node, self._rng.uniform(1, 20))
            else:
                node.power_on()
        self._supervise()

    def do(self, fault: Fault, node: Node) -> None:
        """Apply a fault to a whole process or machine."""
        if fault.kind == "kill":
            node.kill()
        elif fault.kind == "power":
            node.power_off()
            self._power_on_after(node, min(fault.seconds, 20))
        elif fault.kind == "write crash":
            node.write_crash = ("before", "torn", "after")[int(fault.variant * 3)]
        elif fault.kind == "disk full":
            node.disk_full_until_ns = self.world.now_ns + int(min(fault.seconds, 10) * SECOND)

    def heal(self) -> None:
        self._is_over = True
        if self._copy is not None:
            # The operator gives it an identity of its own.
            self._copy.known_as = self._copy.name
            self._copy.kill()
        for node in (self.server, *self.clients):
            node.disk_full_until_ns = 0

    def agreed(self, node: Machine, tag: str) -> None:
        """The person agreed, or did not answer while the question was on the screen."""
        self._agreed[node].add(tag)

    def acted(self, node: Machine, action: Action, reason: str, *, is_anybody_on: bool) -> None:
        """A machine does what an order says: the moment that must not come twice, nor too late, nor without asking."""
        self.world.note(f"{node.name} acts: {action.value} ({reason})")
        key = (reason, node.known_as)
        self._acts[key] += 1
        if self._acts[key] > 1:
            self.world.fail(f"{node.name} did {reason!r} {self._acts[key]} times")
        # A permit that was given before is valid for a while.
        since_ns = self.world.now_ns if self._cloned_since_ns is None else self._cloned_since_ns
        if node in self._twins() and self.world.now_ns - since_ns > (GRANT_VALID_S + LATE_S) * SECOND:
            self.world.fail(f"{node.name} did {reason!r}, and shares its identity with another machine")
        execution = self._execution(*key)
        if execution is None:
            self.world.fail(f"{node.name} did {reason!r}, which is not on record")
        elif execution.state is not ExecutionState.ACTING:
            self.world.fail(f"{node.name} did {reason!r}, which is {execution.state.value} on record")
        elif self.server.wall() > execution.expires_at + LATE_S:
            late_s = self.server.wall() - execution.expires_at
            self.world.fail(f"{node.name} did {reason!r} {late_s:.3f} s after it had expired")
        elif is_anybody_on and reason not in self._agreed[node]:
            self._check_unasked(node, reason, execution)
        if action is Action.LOG_OFF:
            persons, node.persons = node.persons, ()
            self.world.after(self._rng.uniform(1, 20), lambda: setattr(node, "persons", persons))
            return
        boot = node.boots
        self._going.add(node)
        ends_after_s = self._rng.uniform(0.2, 4)
        fate = self._rng.random()
        if fate < CALLED_OFF:
            self.world.after(ends_after_s, lambda: self._is_called_off(node, key, boot))
            return
        if action is Action.SHUT_DOWN:
            self._stays_off.add(node)
        if fate < CALLED_OFF + (1 - CALLED_OFF) * TERMINATED:
            self.world.after(ends_after_s, lambda: self._terminate(node, boot))
            ends_after_s += self._rng.uniform(0.0, 2)
        self.world.after(ends_after_s, lambda: self._goes_down(node, action, boot))

    def _check_unasked(self, node: Machine, reason: str, execution: Execution) -> None:
        """A person is on who was not asked: only where the operator wants that, and after the whole countdown."""
        job = self.server.disk["jobs"][execution.job_id]
        countdown_s = 60.0 if job.delay_s is None else min(job.delay_s, 60.0)
        if job.unasked is not Unasked.ACT:
            self.world.fail(f"{node.name} did {reason!r}, although nobody could be asked")
        elif self.server.wall() < job.created_at + countdown_s - LATE_S:
            self.world.fail(f"{node.name} did {reason!r} before its countdown was over, and nobody was asked")

    def check_rest(self) -> None:
        if self._running is None:
            self.world.fail("the control server does not run")
            return
        server, control = self._running
        machines = {machine.name: machine for machine in control.machines()}
        for node in self.clients:
            presence = machines[node.name].presence if node.name in machines else None
            if node.is_running and (presence is None or presence.state is not PresenceState.ONLINE):
                self.world.fail(f"{node.name} is on, and shown as {presence}")
            if not node.is_running and presence and presence.state is not PresenceState.OFFLINE:
                self.world.fail(f"{node.name} is off, and shown as {presence}")
        self._check_executions()
        agents = {node: agent for node, agent in self._agents.items() if node.is_running}
        live = {agent.line.session_id for agent in agents.values() if agent.line is not None}
        for line in server.lines:
            if has_session(line) and not session_of(line).outbound.is_drained and line.session_id in live:
                self.world.fail(f"{line.buffered_bytes} bytes are still kept for {line!r}")
        self.deliveries.check_rest(live)

    def _check_executions(self) -> None:
        jobs, executions = self.server.disk["jobs"], self.server.disk["executions"]
        for tag, job_id in self._accepted.items():
            if job_id not in jobs:
                self.world.fail(f"the accepted job {tag!r} is not on record")
        by_id = {node.name: node for node in self.clients}
        for execution in executions.values():
            job = jobs[execution.job_id]
            acts = self._acts[job.message, execution.machine_name]
            what = f"{job.message!r} ({job.action.value}) on {execution.machine_name}"
            if not execution.state.is_final and by_id[execution.machine_name].is_running:
                self.world.fail(f"{what} is still {execution.state.value}")
            is_called_off = (job.message, execution.machine_name) in self._called_off
            if execution.state in NOT_DONE and acts and not is_called_off:
                self.world.fail(f"{what} is {execution.state.value} ({execution.detail}), and was done")
            if execution.state is ExecutionState.DONE and not acts:
                self._check_done(job.action, execution, what)

    def recorded(self, execution: Execution) -> None:
        """An execution's state is on disk: what is called done must have happened by then."""
        job = self.server.disk["jobs"].get(execution.job_id)
        if job is None or execution.state is not ExecutionState.DONE:
            return
        if job.action in {Action.RESTART, Action.SHUT_DOWN}:
            what = f"{job.message!r} ({job.action.value}) on {execution.machine_name}"
            self._check_done(job.action, execution, what)

    def _check_done(self, action: Action, execution: Execution, what: str) -> None:
        """What is called done and was not done by the agent: its effect must be there all the same."""
        name = execution.boot_id_before.partition("-boot-")[0] or execution.machine_name
        node = next(node for node in self.clients if node.name == name)
        if action is Action.LOG_OFF:
            self.world.fail(f"{what} is done, and was never done")
        elif action is not Action.WAKE and execution.boot_id_before == node.boot_id and node.is_powered:
            self.world.fail(f"{what} is done, and the machine is in the same boot")

    # Processes.

    async def _control(self, node: Node) -> None:
        storage = Database(node, self.recorded)
        server = Server(
            auth=TOKEN,
            heartbeat=HEARTBEAT,
            resume_window_s=RESUME_WINDOW_S,
            clock=node.monotonic,
            random=node.rng,
        )
        server.on_session_lost(lambda line, lost: self.deliveries.reported(lost, by_server=True))
        server.on("count")(lambda line, message: self.deliveries.arrived(message, by_server=False))
        control = await ControlServer.start(server, storage, waker=self, clock=node.wall, random=node.rng)
        # Between control and server, so that both hear of it.
        callback = server._host.on_state

        def changed(line: Line, change: landline.StateChange) -> None:
            self.watch.changed(node, self.clients, change)
            if change.state is LineState.CLOSED and change.cause is landline.DisconnectCause.CLOSED_HERE:
                # Another agent of the same machine has joined: the dead one's session is given up knowingly.
                self.deliveries.excuse(by_server=True, session_ids=[line.session_id])
            callback(line, change)

        server.on_state(changed)
        async with server.listen("tcp://control:5463"):
            self._running = (server, control)
            rng = Random(node.rng.random())
            await asyncio.gather(self._operate(control, rng), self._count_down(server, rng))
            await server.serve_forever()

    async def _agent(self, node: Machine) -> None:
        rng = Random(node.rng.random())
        connect = functools.partial(self._connect, node)
        power = self._powers[node] = MachinePower(self, node)
        agent = Agent(
            urls=["tcp://control:5463"],
            auth=TOKEN,
            machine_id=f"{node.known_as}-id",
            facts=Facts(
                name=node.known_as,
                host_name=node.name,
                boot_id=node.boot_id,
                power="simulated",
                mac_addresses=(_mac(node.name),),
            ),
            power=power,
            prompt=AnsweringPerson(self, node, rng),
            journal=Journal(JournalDisk(node)),
            backoff=Backoff(first_s=0.5, cap_s=5.0),
            connect=connect,
            boot_clock=node.boot_clock,
            on_state=lambda line, change: self.watch.changed(node, [self.server], change),
        )
        agent.connector.on("count")(lambda line, message: self.deliveries.arrived(message, by_server=True))
        self._agents[node] = agent
        counting = asyncio.get_running_loop().create_task(self._count_up(agent, rng))
        try:
            await agent.run()
        finally:
            counting.cancel()

    def _connect(self, node: Node, urls, *, on_session_lost, **arguments):
        def lost(line: Line, unconfirmed) -> None:
            self.deliveries.reported(
                [message for message in unconfirmed if message.name == "count"], by_server=False
            )
            on_session_lost(line, unconfirmed)

        return landline.connect(
            urls, clock=node.monotonic, random=node.rng, on_session_lost=lost, **arguments
        )

    async def _operate(self, control: ControlServer, rng: Random) -> None:
        known: list[str] = []
        unasked_rng = Random(f"{self.world.seed}/unasked")
        while not self._is_over:
            await asyncio.sleep(rng.expovariate(1 / 3))
            try:
                if known and rng.random() < 0.2:
                    await control.cancel_job(rng.choice(known), CancelRequest(cancelled_by="the operator"))
                    continue
                self._orders += 1
                tag = f"order {self._orders}"
                request = JobRequest(
                    action=rng.choice(
                        [Action.LOG_OFF, Action.LOG_OFF, Action.RESTART, Action.SHUT_DOWN, Action.WAKE]
                    ),
                    targets=(rng.choice(["*", f"machine-00{rng.randrange(4)}"]),),
                    message=tag,
                    delay_s=rng.choice([None, 0.0, rng.uniform(0, 10)]),
                    valid_for_s=rng.choice([1.0, 5.0, 60.0]),
                    queue_for_s=rng.choice([None, 60.0]),
                    may_cancel=rng.random() < 0.7,
                    may_postpone=rng.random() < 0.7,
                    unasked=unasked_rng.choice(list(Unasked)),
                    request_id=tag,
                )
                view = await control.create_job(request)
            except (OperationError, StorageError, landline.RequestError) as error:
                self.world.note(f"the operator receives: {error}")
            else:
                self._accepted[tag] = view.job.id
                known.append(view.job.id)
                self.world.note(f"accepted: {tag} {request.action.value} as {view.job.id}")

    async def _count_down(self, server: Server, rng: Random) -> None:
        while not self._is_over:
            await asyncio.sleep(rng.expovariate(1.0))
            for line in server.lines:
                if line.data is not None:
                    self._send_count(line, by_server=True)

    async def _count_up(self, agent: Agent, rng: Random) -> None:
        while not self._is_over:
            await asyncio.sleep(rng.expovariate(1.0))
            if agent.line is not None and not agent.is_ending:
                self._send_count(agent.line, by_server=False)

    def _send_count(self, line: Line, *, by_server: bool) -> None:
        message = self.deliveries.next_message(line, by_server=by_server, bulk=False)
        try:
            line.send_nowait(message, name="count")
        except LandlineError as error:
            self.world.note(f"not sent over {line!r}: {error}")
        else:
            self.deliveries.sent(message, by_server=by_server)

    def wake(self, mac_addresses) -> None:
        """Send the wake-up packet of the control server."""
        for node in self.clients:
            if _mac(node.name) in mac_addresses and not node.is_powered:
                self._stays_off.discard(node)
                self._power_on_after(node, self._rng.uniform(0.5, 5))

    # Machines.

    def _goes_down(self, node: Machine, action: Action, boot: int) -> None:
        if node.boots != boot or not node.is_powered:
            return
        self._going.discard(node)
        node.power_off()
        if action is Action.RESTART:
            self._power_on_after(node, self._rng.uniform(1, 10))

    def _terminate(self, node: Machine, boot: int) -> None:
        """End the processes, as the system does before it shuts down."""
        agent = self._agents.get(node)
        if node.boots == boot and node.is_powered and node.loop is not None and agent is not None:
            self.world.note(f"{node.name} ends its agent")
            node.loop.call_soon(agent.stop)

    def _is_called_off(self, node: Machine, key: tuple[str, str], boot: int) -> None:
        self._called_off.add(key)
        if node.boots != boot or not node.is_powered:
            return
        self.world.note(f"{node.name} stays up: {key[0]!r} is called off")
        self._going.discard(node)
        if node.loop is not None:
            node.loop.call_soon(self._powers[node].call_off)

    def _power_on_after(self, node: Node, seconds: float) -> None:
        def power_on() -> None:
            if node not in self._stays_off:
                self._going.discard(node)
                node.power_on()

        self.world.after(seconds, power_on)

    def _agent_ended(self, node: Node, error: BaseException | None) -> None:
        """Check that an agent ends by itself only when its machine shuts down."""
        if isinstance(error, landline.LineClosed) and node in self._twins():
            # The other one came while this one did not answer; that is not the rule.
            self._replaced_at_ns.append(self.world.now_ns)
            recent = [at for at in self._replaced_at_ns if self.world.now_ns - at < CLONES_NOTICED_S * SECOND]
            if len(recent) > REPLACED_MAX:
                self.world.fail("two machines with one identity replace each other")
            return
        if error is not None:
            self.world.fail(f"the agent of {node.name} gave up: {error!r}")

    def _supervise(self) -> None:
        for node in (self.server, *self.clients):
            if node.is_powered and not node.is_running and node not in self._going:
                node.start()
        self._check_presence()
        self._check_twins()
        self.world.at(self.world.now_ns + SECOND, self._supervise)

    # Looking.

    def _check_presence(self) -> None:
        """Check that a vanished machine is not shown as on for longer than the heartbeat allows."""
        world = self.world
        for node in self.clients:
            if node.is_running or node in self._twins():
                self._down_since_ns.pop(node, None)
                continue
            since_ns = self._down_since_ns.setdefault(node, world.now_ns)
            since_ns = max(since_ns, self.server.disturbed_at_ns, self.server.up_since_ns)
            if self._running is None or world.now_ns - since_ns < NOTICED_S * SECOND:
                continue
            for machine in self._running[1].machines():
                if machine.name == node.name and machine.presence.state in {
                    PresenceState.ONLINE,
                    PresenceState.SILENT,
                }:
                    world.fail(f"{node.name} has been gone for long, and is shown as {machine.presence}")

    def _twins(self) -> list[Machine]:
        """Return the two machines that share one identity at the moment."""
        copy, original = self._copy, self.clients[0]
        return [original, copy] if copy is not None and copy.known_as == original.name else []

    def _check_twins(self) -> None:
        """Check that two connected machines with one identity are detected."""
        world, twins = self.world, self._twins()
        known = self.server.disk.get("machines", {}).get(f"{self.clients[0].name}-id")
        is_cloned = known is not None and bool(known.claimants)
        if is_cloned and self._cloned_since_ns is None:
            self._cloned_since_ns = world.now_ns
        elif not is_cloned:
            self._cloned_since_ns = None
        lines = [self._agents[node].line if node in self._agents else None for node in twins]
        if (
            not twins
            or is_cloned
            or any(line is None or line.state is not LineState.ONLINE for line in lines)
        ):
            self._together_since_ns = None
        elif self._together_since_ns is None:
            self._together_since_ns = world.now_ns
        else:
            since_ns = max(
                self._together_since_ns,
                *(node.disturbed_at_ns for node in (self.server, *twins)),
                self.server.disk_full_until_ns,
            )
            if world.now_ns - since_ns > CLONES_NOTICED_S * SECOND:
                world.fail("two machines share one identity, and no warning was given")

    def _look_at_server(self, node: Node) -> None:
        for line in self._running[0].lines if self._running is not None else ():
            self.watch.look(node, line, is_server=True)
            self._sessions[node].add(line.session_id)

    def _look_at_client(self, node: Node) -> None:
        agent = self._agents.get(node)
        if agent is not None and agent.line is not None:
            self.watch.look(node, agent.line, is_server=False)
            self._sessions[node].add(agent.line.session_id)

    def _excuse(self, node: Node) -> None:
        self._down_since_ns[node] = self.world.now_ns
        self.deliveries.excuse(by_server=node is self.server, session_ids=self._sessions[node])
        if node is self.server:
            self._running = None
        else:
            self._agents.pop(node, None)
            self._agreed[node].clear()

    def _execution(self, tag: str, machine_name: str):
        jobs = self.server.disk["jobs"]
        for execution in self.server.disk["executions"].values():
            if execution.machine_name == machine_name and jobs[execution.job_id].message == tag:
                return execution
        return None


def _mac(name: str) -> str:
    return f"02:00:00:00:00:{int(name[-3:]):02x}"
