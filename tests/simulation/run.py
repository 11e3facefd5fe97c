"""One run of one seed: set up the system, inject faults, repair them, and check that the system comes to rest."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
from tests.simulation.faults import FAULTS_S, Fault, Options, draw
from tests.simulation.fleet import FleetScenario
from tests.simulation.lines import LinesScenario
from tests.simulation.network import Network, Transport
from tests.simulation.node import Node
from tests.simulation.world import LAST_EVENTS, Violation, World
from websockets.frames import Frame, Opcode

from landline.line.link import TransportLink
from landline.session.frames import encode_ack
from landline.session.replay import ReplayBuffer
from landline.transports import tcp
from landline.transports.websocket.stream import WebSocketTransport

SCENARIOS = {"lines": LinesScenario, "fleet": FleetScenario}


class Outcome(msgspec.Struct):
    """What a run showed."""

    seed: int
    options: Options
    violation: str | None
    last_events: list[str]
    fingerprint: str
    steps: int
    simulated_s: float
    longest_silence_s: float
    """The longest time that a node which was not stalled took a silent peer for alive."""


def simulate(seed: int, options: Options | None = None, *, events_kept: int | None = LAST_EVENTS) -> Outcome:
    """Run a seed, with its own options or others."""
    world = World(seed, events_kept)
    options = options or draw(seed, world.rng("options"))
    run = _Run(world, options)
    logging.disable(logging.CRITICAL)
    restore = _be_lax() if options.is_lax else lambda: None
    # There is no kernel whose queue could be lengthened.
    set_listen_backlog, tcp.set_listen_backlog = tcp.set_listen_backlog, lambda descriptor: None
    violation = None
    try:
        run.scenario.begin()
        world.run(FAULTS_S)
        run.heal()
        world.run(FAULTS_S + run.scenario.rest_s)
        run.scenario.check_rest()
        if world.failure is not None:
            raise world.failure
    except Violation as failure:
        violation = str(failure)
    finally:
        restore()
        tcp.set_listen_backlog = set_listen_backlog
        for node in run.nodes:
            node.bury()
        logging.disable(logging.NOTSET)
    return Outcome(
        seed,
        options,
        violation,
        list(world.last_events),
        world.fingerprint,
        world.steps,
        world.now_s,
        run.scenario.watch.longest_silence_s,
    )


def shrink(outcome: Outcome, budget: int = 60) -> Outcome:
    """Return the same failure with fewer faults: leave out whole kinds first, then single faults."""

    def without(max_pending: Callable[[Fault], bool]) -> bool:
        nonlocal outcome, budget
        fewer = tuple(filter(max_pending, outcome.options.faults))
        if budget <= 0 or len(fewer) == len(outcome.options.faults):
            return False
        budget -= 1
        again = simulate(outcome.seed, msgspec.structs.replace(outcome.options, faults=fewer))
        if again.violation is not None:
            outcome = again
            return True
        return False

    for kind in sorted({fault.kind for fault in outcome.options.faults}):
        without(lambda fault, kind=kind: fault.kind != kind)
    size = len(outcome.options.faults) // 2
    while size:
        start = 0
        while start < len(outcome.options.faults):
            dropped = outcome.options.faults[start : start + size]
            if not without(lambda fault, dropped=dropped: fault not in dropped):
                start += size
        size //= 2
    return outcome


class _Run:
    def __init__(self, world: World, options: Options) -> None:
        self.world = world
        self.network = Network(
            world,
            delay_s=options.delay_s,
            jitter_s=options.jitter_s,
            segment_bytes_max=options.segment_bytes_max,
        )
        self.scenario = SCENARIOS[options.scenario](world, self.network, options)
        self.nodes: list[Node] = [self.scenario.server, *self.scenario.clients]
        self.scenario.server.on_end = lambda node, error: world.fail(f"{node.name} ended: {error!r}")
        self.network.hosts = {node.name: node for node in self.nodes}
        if options.lies:
            self.network.liars[self.scenario.clients[0]] = world.rng("lies")
            self.network.add_lie = _add_lie
        for fault in options.faults:
            world.after(fault.at_s, lambda fault=fault: self._do(fault))

    def heal(self) -> None:
        self.world.note("every fault is repaired")
        self.network.heal()
        self.network.liars.clear()
        for end in self.network.transports:
            end.lies = None
        for node in self.nodes:
            node.write_crash = None
            node.go_on()
        self.scenario.heal()

    def _do(self, fault: Fault) -> None:
        clients = self.scenario.clients
        client = clients[int(fault.client * len(clients))]
        server = self.scenario.server
        node = server if fault.at_server else client
        self.world.note(f"fault: {fault}")
        if fault.kind == "cut":
            ends = [end for end in self.network.transports if end.node is client]
            if ends:
                self.network.cut(ends[-1], is_orderly=fault.variant < 0.3)
        elif fault.kind == "stray":
            ends = [end for end in self.network.transports if end.node is client]
            if ends:
                self.network.stray(ends[-1], fault.seconds)
        elif fault.kind == "silence":
            if fault.variant < 0.7:
                self.network.close_way(client, server, fault.seconds)
            if fault.variant > 0.3:
                self.network.close_way(server, client, fault.seconds)
        elif fault.kind == "clog":
            self.network.clog(node, fault.seconds, fault.variant * 5.0)
        elif fault.kind == "pause":
            node.pause(fault.seconds)
        elif fault.kind == "suspend":
            client.pause(fault.seconds, is_suspended=True)
        elif fault.kind == "wall clock":
            client.jump_wall(86_400.0 if fault.variant < 0.5 else -86_400.0)
        else:
            self.scenario.do(fault, node)


def _add_lie(end: Transport, data: bytes) -> bytes:
    """Put an acknowledgement of unsent frames in front of other frames; not in a handshake."""
    protocol, is_websocket = end.protocol, isinstance(end.protocol, WebSocketTransport)
    if is_websocket:
        protocol = protocol.get_protocol()
    if end.number and end.lies.random() < 0.02 and isinstance(protocol, TransportLink):
        lie = encode_ack(end.lies.choice([10**6, 10**4, 10**12]))
        # Those who lie are clients, whose messages are masked.
        return (Frame(Opcode.BINARY, lie).serialize(mask=True) if is_websocket else lie) + data
    return data


def _be_lax() -> Callable[[], None]:
    """Let peers repeat some frames that the other side has confirmed. Return the function that undoes it."""
    rewind, next_unwritten = ReplayBuffer.rewind, ReplayBuffer.next_unwritten
    # With the buffer, so that its id stays its own.
    repeated: dict[int, tuple[ReplayBuffer, list[bytes]]] = {}

    def rewind_too_far(self: ReplayBuffer, received: int) -> None:
        rewind(self, received)
        repeated[id(self)] = self, self.frames[max(0, self.written - 3) : self.written]

    def write_again(self: ReplayBuffer, limit_bytes: int) -> list[bytes]:
        _, again = repeated.pop(id(self), (self, []))
        return again + next_unwritten(self, limit_bytes)

    ReplayBuffer.rewind, ReplayBuffer.next_unwritten = rewind_too_far, write_again

    def undo() -> None:
        ReplayBuffer.rewind, ReplayBuffer.next_unwritten = rewind, next_unwritten

    return undo
