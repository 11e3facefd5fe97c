"""The library alone: a server and its clients, messages of all sizes both ways, requests, readers that stop reading."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from tests.line_internals import has_session, session_of
from tests.simulation.deliveries import Deliveries
from tests.simulation.faults import Fault, Options
from tests.simulation.network import Network
from tests.simulation.node import Node
from tests.simulation.watch import LineWatch
from tests.simulation.world import SECOND, World

from landline import (
    Backoff,
    BufferFull,
    Heartbeat,
    LandlineError,
    Limits,
    Line,
    LineClosed,
    LineState,
    RequestError,
    SendBuffer,
    Server,
    SessionLost,
    SharedToken,
    TransportOptions,
    connect,
)
from landline.session.constants import FRAGMENT_BYTES

HEARTBEAT = Heartbeat(interval_s=3.0, timeout_s=2.0)
LIMITS = Limits(message_bytes=3 * FRAGMENT_BYTES, window_bytes=5 * FRAGMENT_BYTES, window_frames=128)
SEND_BUFFER = SendBuffer(size_bytes=8 * FRAGMENT_BYTES, messages=128)
TOKEN = SharedToken("a token of the simulation")
SIZES = (0, 10, 100, 100, 1000, FRAGMENT_BYTES, 2 * FRAGMENT_BYTES)
RESUME_WINDOW_S = 20.0
SUPERVISED_EVERY_S = 1.0


class Datagrams:
    """Datagrams of all lines: each arrives at most once, none that was not taken. They lose nothing else its place."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._last = 0
        self._under_way: set[int] = set()
        self.count = 0

    async def send(self, line: Line, rng: Random, is_over: Callable[[], bool]) -> None:
        pace_s = rng.choice([0.2, 2.0])
        while not is_over():
            await asyncio.sleep(rng.expovariate(1 / pace_s))
            for _ in range(rng.choice([1] * 9 + [80])):
                self._last += 1
                try:
                    is_taken = line.send_datagram([self._last, bytes(rng.choice([0, 100, 1000]))])
                except LineClosed:
                    return
                if is_taken:
                    self._under_way.add(self._last)

    def arrived(self, line: Line, datagram: list) -> None:
        number, _ = datagram
        if number not in self._under_way:
            self._world.fail(f"datagram {number} arrived at {line!r} a second time, or was never sent")
        self._under_way.discard(number)
        self.count += 1


class LinesScenario:
    """One server, several clients."""

    rest_s = 80.0

    def __init__(self, world: World, network: Network, options: Options) -> None:
        self.world = world
        self.deliveries = Deliveries(world)
        self.watch = LineWatch(world, interval_s=HEARTBEAT.interval_s, timeout_s=HEARTBEAT.timeout_s)
        self.server = Node(world, network, "server", self._serve)
        self.clients = [
            Node(world, network, f"client-{number}", self._be_client) for number in range(options.clients)
        ]
        self._is_over = False
        self._may_lie = options.lies
        self._url = f"{options.scheme}://server:5463"
        self._running: Server | None = None
        self._lines: dict[Node, Line] = {}
        self._answered: dict[tuple[bytes, int], int] = {}
        self._datagrams = Datagrams(world)
        self._sessions: dict[Node, set[bytes]] = {node: set() for node in (self.server, *self.clients)}
        self.server.after_step = self._look_at_server
        self.server.on_death = self._excuse
        for node in self.clients:
            node.on_death = self._excuse
            node.on_end = self._client_ended
            node.after_step = self._look_at_client

    def begin(self) -> None:
        self.server.power_on()
        for node in self.clients:
            node.power_on()
        self._supervise()

    def do(self, fault: Fault, node: Node) -> None:
        """Apply a fault to a whole process or machine."""
        if fault.kind == "kill":
            node.kill()
        elif fault.kind == "power":
            node.power_off()
            self.world.after(min(fault.seconds, 20), node.power_on)

    def heal(self) -> None:
        self._is_over = True

    def check_rest(self) -> None:
        lines = self._running.lines if self._running is not None else []
        live = {line.session_id for line in self._lines.values()}
        for node, line in self._lines.items():
            if line.state is not LineState.ONLINE:
                self.world.fail(f"{node.name} is {line.state.value} long after every fault was repaired")
        if {line.session_id for line in lines} != live:
            self.world.fail(f"the server knows {len(lines)} lines, the clients {len(live)}")
        for line in (*lines, *self._lines.values()):
            if has_session(line) and not session_of(line).outbound.is_drained:
                self.world.fail(f"{line.buffered_bytes} bytes are still kept for {line!r}")
        self.deliveries.check_rest(live)
        if not self.deliveries.count:
            self.world.fail("not one message arrived")
        if not self._datagrams.count:
            self.world.fail("not one datagram arrived")

    # Processes.

    async def _serve(self, node: Node) -> None:
        server = self._running = Server(
            auth=TOKEN,
            heartbeat=HEARTBEAT,
            resume_window_s=RESUME_WINDOW_S,
            limits=LIMITS,
            send_buffer=SEND_BUFFER,
            clock=node.monotonic,
            random=node.rng,
        )
        server.on("double", int)(self._double)
        server.on_datagram(self._datagrams.arrived)
        server.on_state(lambda line, change: self.watch.changed(node, self.clients, change))
        server.on_session_lost(lambda line, lost: self.deliveries.reported(lost, by_server=True))

        @server.on_line
        async def talk(line: Line) -> None:
            rng = Random(node.rng.random())
            await asyncio.gather(
                self._send(line, rng, by_server=True),
                self._receive(line, rng, True),
                self._datagrams.send(line, Random(rng.random()), lambda: self._is_over),
            )

        async with server.listen(self._url):
            await server.serve_forever()

    async def _be_client(self, node: Node) -> None:
        connector = connect(
            self._url,
            auth=TOKEN,
            identity=node.name,
            connect_timeout_s=None,
            backoff=Backoff(first_s=0.5, cap_s=5.0),
            on_state=lambda line, change: self.watch.changed(node, [self.server], change),
            on_session_lost=lambda line, lost: self.deliveries.reported(lost, by_server=False),
            limits=LIMITS,
            send_buffer=SEND_BUFFER,
            clock=node.monotonic,
            random=node.rng,
            options=TransportOptions(proxy=False),
        )
        connector.on("double", int)(self._double)
        connector.on_datagram(self._datagrams.arrived)
        rng = Random(node.rng.random())
        line = await connector
        self._lines[node] = line
        try:
            await asyncio.gather(
                self._send(line, rng, by_server=False),
                self._receive(line, rng, False),
                self._ask(line, rng),
                self._datagrams.send(line, Random(rng.random()), lambda: self._is_over),
            )
        except LandlineError as error:
            if not self._may_lie:
                raise
            self.world.note(f"{node.name}: {error}")
        finally:
            if isinstance(line.error, SessionLost):
                self.deliveries.reported(line.error.unconfirmed, by_server=False)

    async def _double(self, line: Line, number: int) -> int:
        key = (line.session_id, number)
        self._answered[key] = self._answered.get(key, 0) + 1
        if self._answered[key] > 1:
            self.world.fail(f"request {number} was answered {self._answered[key]} times")
        await asyncio.sleep(number % 7 * 0.1)
        return number * 2

    async def _send(self, line: Line, rng: Random, *, by_server: bool) -> None:
        pace_s = rng.choice([0.01, 0.1, 1.0])
        while not self._is_over:
            await asyncio.sleep(rng.expovariate(1 / pace_s))
            bulk = rng.random() < 0.3
            size = rng.choice(SIZES)
            for _ in range(rng.choice([1, 1, 1, 20])):
                message = self.deliveries.next_message(line, by_server=by_server, bulk=bulk, size=size)
                try:
                    if by_server:
                        await line.send(message, bulk=bulk)
                    else:
                        # A client's line may get a new session while it waits, and then the number would be wrong.
                        line.send_nowait(message, bulk=bulk)
                except BufferFull:
                    await asyncio.sleep(0.2)
                else:
                    self.deliveries.sent(message, by_server=by_server)

    async def _receive(self, line: Line, rng: Random, is_server: bool) -> None:
        async for message in line:
            self.deliveries.arrived(message, by_server=not is_server)
            if rng.random() < 0.01 and not self._is_over:
                await asyncio.sleep(rng.choice([0.5, 5.0, 15.0]))

    async def _ask(self, line: Line, rng: Random) -> None:
        while not self._is_over:
            await asyncio.sleep(rng.expovariate(1.0))
            number = rng.randrange(10**9)
            try:
                answer = await line.request("double", number, timeout=rng.choice([0.05, 1.0, 10.0, None]))
            except RequestError as error:
                self.world.note(f"{line!r}: {error.code}")
            except LineClosed:
                return
            else:
                if answer != number * 2:
                    self.world.fail(f"the answer to {number} was {answer}")

    # Looking.

    def _look_at_server(self, node: Node) -> None:
        for line in self._running.lines if self._running is not None else ():
            self.watch.look(node, line, is_server=True)
            self._sessions[node].add(line.session_id)

    def _look_at_client(self, node: Node) -> None:
        line = self._lines.get(node)
        if line is not None and has_session(line):
            self.watch.look(node, line, is_server=False)
            self._sessions[node].add(line.session_id)

    def _excuse(self, node: Node) -> None:
        self.deliveries.excuse(by_server=node is self.server, session_ids=self._sessions[node])
        if node is self.server:
            self._running = None
        else:
            self._lines.pop(node, None)

    def _client_ended(self, node: Node, error: BaseException | None) -> None:
        if error is not None:
            self.world.fail(f"{node.name} gave up: {error!r}")

    def _supervise(self) -> None:
        for node in (self.server, *self.clients):
            if node.is_powered and not node.is_running:
                node.start()
        self.world.at(self.world.now_ns + int(SUPERVISED_EVERY_S * SECOND), self._supervise)
