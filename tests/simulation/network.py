"""Streams between nodes: delayed, cut to pieces, held back, broken; and what a system's TCP does about it."""

from __future__ import annotations

import asyncio
from collections import deque
from random import Random

from tests.simulation.node import Node
from tests.simulation.world import SECOND, World

HIGH_WATER_BYTES = 64 * 1024
LOW_WATER_BYTES = 16 * 1024
IN_FLIGHT_BYTES_MAX = 128 * 1024
USER_TIMEOUT_S = 30.0
"""After this long without an acknowledgement the system gives a connection up (TCP_USER_TIMEOUT)."""
SYN_AGAIN_S = (1.0, 2.0, 4.0, 8.0)

FIN = object()


class Socket:
    """What is left of a socket for those who ask a transport for it."""

    def __init__(self, port: int) -> None:
        self._port = port

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Do nothing: there are no socket options."""

    def fileno(self) -> int:
        return -1

    def getsockname(self) -> tuple[str, int]:
        return "0.0.0.0", self._port


class Listening:
    """What ``create_server`` returns."""

    def __init__(self, network: Network, address: tuple[str, int]) -> None:
        self._network = network
        self._address = address
        self.sockets = [Socket(address[1])]

    def close(self) -> None:
        self._network.listeners.pop(self._address, None)


class Transport(asyncio.Transport):
    """One end of a stream. What it writes travels to :attr:`other`."""

    def __init__(self, network: Network, node: Node, peer: Node, number: int) -> None:
        super().__init__()
        self.network = network
        self.node = node
        self.peer = peer
        self.number = number
        self.loop = node.loop
        self.other: Transport
        self.protocol: asyncio.Protocol | None = None
        self.is_lost = False
        self.is_dead = False
        """Its process is gone."""
        self.has_left = False
        """Its system has no way to the other end any more, and so does not answer."""
        self.arrives_ns = 0
        self.flight: deque[tuple[int, object]] = deque()
        self.in_flight_bytes = 0
        self.lies: Random | None = None
        self._out = bytearray()
        self._received = bytearray()
        self._is_closing = False
        self._is_paused = False
        self._ends = False
        self._is_reading_paused = False
        self._fin_sent = False
        self._was_read_soon = False
        self._has_ended = False
        self._early: list[object] = []

    # For the protocol.

    def begin(self, protocol) -> None:
        """Report that the connection is made, then deliver the bytes that arrived before."""
        self.protocol = protocol
        protocol.connection_made(self)
        early, self._early = self._early, []
        for piece in early:
            self.arrive(piece)

    def get_extra_info(self, name, default=None):
        if name == "peername":
            return (self.peer.name, 40_000 + self.number)
        return Socket(0) if name == "socket" else default

    def set_protocol(self, protocol) -> None:
        self.protocol = protocol

    def get_protocol(self):
        return self.protocol

    def is_closing(self) -> bool:
        return self._is_closing or self.is_lost

    def get_write_buffer_size(self) -> int:
        return len(self._out)

    def write(self, data: bytes) -> None:
        if self.is_closing() or self.is_dead:
            return
        if self.lies is not None:
            data = self.network.add_lie(self, bytes(data))
        self._out += data
        self.pump()
        if len(self._out) > HIGH_WATER_BYTES and not self._is_paused:
            self._is_paused = True
            self.protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._ends = True
        self.pump()

    def is_reading(self) -> bool:
        return not self._is_reading_paused and not self.is_closing()

    def pause_reading(self) -> None:
        self._is_reading_paused = True

    def resume_reading(self) -> None:
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._read_soon()

    def close(self) -> None:
        if not self.is_closing():
            self._is_closing = True
            self.pump()

    def abort(self) -> None:
        if not self.is_lost and not self.is_dead:
            self._out.clear()
            self._lose(None)
            self.network.after_delay(self, lambda: self.other.reset("reset by the peer"))

    # For the network.

    def pump(self) -> None:
        """Put on its way what the window allows."""
        if self.is_dead:
            return
        network = self.network
        while self._out and self.in_flight_bytes < IN_FLIGHT_BYTES_MAX:
            piece = bytes(self._out[: network.segment_bytes(len(self._out))])
            del self._out[: len(piece)]
            self.in_flight_bytes += len(piece)
            network.send(self, piece)
        if self._is_paused and len(self._out) <= LOW_WATER_BYTES and not self.is_lost:
            self._is_paused = False
            self.loop.call_soon(self.protocol.resume_writing)
        if self._out or self.is_lost or not (self._is_closing or self._ends):
            return
        if not self._fin_sent:
            self._fin_sent = True
            network.send(self, FIN)
        if self._is_closing:
            self._lose(None)

    def arrive(self, piece: object) -> None:
        """Receive a segment."""
        if self.has_left:
            return
        if self.is_dead or self.is_lost:
            # Nobody owns the socket any more: the system answers with a reset.
            self.other.in_flight_bytes = 0
            if piece is not FIN:
                self.network.after_delay(self, lambda: self.other.reset("reset by the peer"))
        elif self.protocol is None:
            self._early.append(piece)
        else:
            if piece is FIN:
                self._has_ended = True
            else:
                self._received += piece
            self._read_soon()

    def reset(self, why: str) -> None:
        """Report to this end that the connection is broken."""
        if not self.is_lost and not self.is_dead:
            self._out.clear()
            self._received.clear()
            self._lose(ConnectionResetError(why))

    def _read_soon(self) -> None:
        if not self._was_read_soon and not self._is_reading_paused and not self.is_lost:
            self._was_read_soon = True
            self.loop.call_soon(self._read)

    def _read(self) -> None:
        self._was_read_soon = False
        if self.is_lost or self._is_closing or self._is_reading_paused:
            return
        data = bytes(self._received)
        self._received.clear()
        self.other.in_flight_bytes -= len(data)
        if data:
            self.protocol.data_received(data)
        self.other.pump()
        if self._has_ended and not self._is_reading_paused:
            self._end_of_stream()

    def _end_of_stream(self) -> None:
        if not self.is_closing() and not self.protocol.eof_received():
            self.close()

    def _lose(self, error: Exception | None) -> None:
        self.is_lost = self._is_closing = True
        self.network.transports.pop(self, None)
        if self.protocol is not None:
            self.loop.call_soon(self._tell_lost, error)

    def _tell_lost(self, error: Exception | None) -> None:
        self.protocol.connection_lost(error)


class Network:
    """All streams, and what holds them back. Faults go through the methods at its end."""

    def __init__(self, world: World, *, delay_s: float, jitter_s: float, segment_bytes_max: int) -> None:
        self.world = world
        self.rng = world.rng("network")
        self.delay_s = delay_s
        self.jitter_s = jitter_s
        self.listeners: dict[tuple[str, int], tuple[Node, object]] = {}
        self.transports: dict[Transport, None] = {}
        self.liars: dict[Node, Random] = {}
        self._segment_bytes_max = segment_bytes_max
        self._holes: dict[tuple[Node, Node], int] = {}
        self._clogs: dict[Node, tuple[int, float]] = {}
        self._number = 0
        self.add_lie = lambda transport, data: data

    def segment_bytes(self, waiting_bytes: int) -> int:
        # Much is not cut into thousands of pieces: that would only take time.
        return self.rng.randint(1, max(self._segment_bytes_max, waiting_bytes // 8))

    def delay_ns(self, one: Node, other: Node) -> int:
        delay_s = self.delay_s + self.rng.random() * self.jitter_s
        for node in (one, other):
            until_ns, extra_s = self._clogs.get(node, (0, 0.0))
            if self.world.now_ns < until_ns:
                delay_s += extra_s
        return int(delay_s * SECOND)

    def after_delay(self, end: Transport, action) -> None:
        """Schedule an action at the other end, unless the path is closed: then it is lost."""
        if not self.is_closed(end.node, end.peer):
            self.world.at(self.world.now_ns + self.delay_ns(end.node, end.peer), action)

    def is_closed(self, source: Node, target: Node) -> bool:
        return self.world.now_ns < self._holes.get((source, target), 0)

    # What TCP does.

    async def connect(self, node: Node, factory, host: str, port: int):
        loop = node.loop
        done = loop.create_future()
        self._syn(node, factory, (host, port), done, iter(SYN_AGAIN_S))
        return await done

    def listen(self, node: Node, factory, host: str, port: int) -> Listening:
        self.listeners[host, port] = (node, factory)
        return Listening(self, (host, port))

    def send(self, end: Transport, piece: object) -> None:
        arrives_ns = max(end.arrives_ns, self.world.now_ns + self.delay_ns(end.node, end.peer))
        end.arrives_ns = arrives_ns
        end.flight.append((arrives_ns, piece))
        self.world.at(arrives_ns, lambda: self._deliver(end))

    def _deliver(self, end: Transport) -> None:
        while end.flight and end.flight[0][0] <= self.world.now_ns:
            if self.is_closed(end.node, end.peer):
                opens_ns = self._holes[end.node, end.peer]
                self.world.at(opens_ns, lambda: self._deliver(end))
                self.world.after(USER_TIMEOUT_S, lambda opens_ns=opens_ns: self._give_up(end, opens_ns))
                return
            _, piece = end.flight.popleft()
            if not end.peer.is_powered:
                continue
            end.other.arrive(piece)

    def _give_up(self, end: Transport, opens_ns: int) -> None:
        if self.world.now_ns < opens_ns and end.flight:
            end.reset("timed out")

    def _syn(self, node: Node, factory, address, done: asyncio.Future, again) -> None:
        target = self.listeners.get(address)
        host = target[0] if target else self.hosts[address[0]]

        def arrive() -> None:
            if done.cancelled() or node.loop is not done.get_loop():
                return
            listening = self.listeners.get(address)
            if self.is_closed(node, host) or not host.is_powered:
                wait_s = next(again, None)
                if wait_s is not None:
                    self.world.after(wait_s, lambda: self._syn(node, factory, address, done, again))
            elif listening is None or listening[0].loop is None:
                self._later(node, host, lambda: self._refuse(done))
            else:
                self._accept(node, host, listening[1], factory, done)

        self.world.at(self.world.now_ns + self.delay_ns(node, host), arrive)

    def _later(self, node: Node, host: Node, action) -> None:
        self.world.at(self.world.now_ns + self.delay_ns(host, node), action)

    def _refuse(self, done: asyncio.Future) -> None:
        if not done.done() and not done.get_loop().is_closed():
            error = ConnectionRefusedError(111, "Connection refused")
            done.get_loop().call_soon(lambda: done.done() or done.set_exception(error))

    def _accept(self, node: Node, host: Node, host_factory, factory, done: asyncio.Future) -> None:
        self._number += 1
        near, far = Transport(self, node, host, self._number), Transport(self, host, node, self._number)
        near.other, far.other = far, near
        near.lies = self.liars.get(node)
        self.transports[far] = None

        def made_far() -> None:
            if not far.is_lost:
                far.begin(host_factory())

        def made_near() -> None:
            if done.done() or far.is_dead or near.is_lost:
                near.is_lost = True
                far.reset("given up")
                if not done.done():
                    done.set_exception(ConnectionResetError("reset by the peer"))
                return
            self.transports[near] = None
            near.begin(factory())
            done.set_result((near, near.protocol))

        def answer() -> None:
            if self.is_closed(host, node):
                self.world.at(self._holes[host, node] + 1, answer)
            elif not done.get_loop().is_closed():
                done.get_loop().call_soon(made_near)
            else:
                far.reset("reset by the peer")

        far.loop.call_soon(made_far)
        self._later(node, host, answer)

    # What nodes do.

    hosts: dict[str, Node]

    def process_died(self, node: Node) -> None:
        """Close the sockets of a process that ended. The other ends are notified when their path is open."""
        for address in [address for address, (owner, _) in self.listeners.items() if owner is node]:
            del self.listeners[address]
        for end in [end for end in self.transports if end.node is node]:
            end.is_dead = True
            del self.transports[end]
            self.after_delay(end, lambda end=end: end.other.reset("reset by the peer"))

    def power_lost(self, node: Node) -> None:
        for address in [address for address, (owner, _) in self.listeners.items() if owner is node]:
            del self.listeners[address]
        for end in [end for end in self.transports if end.node is node]:
            end.is_dead = True
            del self.transports[end]

    def powered_on(self, node: Node) -> None:
        """Do nothing: a node that sends to a machine which has forgotten the connection gets a reset."""

    # Faults.

    def cut(self, end: Transport, *, is_orderly: bool) -> None:
        """End a connection as a middlebox does, with FIN or RST to both ends."""
        for one in (end, end.other):
            one.node.disturb()
            if is_orderly:
                if not one.is_lost and not one.is_dead and one.protocol is not None:
                    one.loop.call_soon(one._end_of_stream)
            else:
                delay_ns = int(self.rng.random() * 0.3 * SECOND)
                self.world.at(self.world.now_ns + delay_ns, lambda one=one: one.reset("cut"))

    def stray(self, end: Transport, seconds: float) -> None:
        """Move one end to another network. Segments sent over the old one arrive late."""
        end.node.disturb(seconds)
        end.peer.disturb(seconds)
        late_ns = int(seconds * SECOND)
        end.flight = deque((at_ns + late_ns, piece) for at_ns, piece in end.flight)
        for at_ns, _ in end.flight:
            self.world.at(at_ns, lambda: self._deliver(end))
        end.has_left = True
        end.reset("the network changed")

    def close_way(self, source: Node, target: Node, seconds: float) -> None:
        """Block one direction for a while. Bytes sent meanwhile arrive afterwards, as TCP sends them again."""
        until_ns = self.world.now_ns + int(seconds * SECOND)
        self._holes[source, target] = max(until_ns, self._holes.get((source, target), 0))
        for node in (source, target):
            node.disturb(seconds)

    def clog(self, node: Node, seconds: float, extra_s: float) -> None:
        """Delay everything to and from a node for a while."""
        self._clogs[node] = (self.world.now_ns + int(seconds * SECOND), extra_s)
        node.disturb(seconds + extra_s)

    def heal(self) -> None:
        """Open all paths."""
        now_ns = self.world.now_ns
        self._clogs.clear()
        for pair, until_ns in self._holes.items():
            self._holes[pair] = min(until_ns, now_ns)
        for end in list(self.transports):
            self.world.at(now_ns, lambda end=end: self._deliver(end))
