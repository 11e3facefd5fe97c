"""A UDP relay that does to datagrams what networks do: lose, repeat, reorder, delay, hold, and change addresses.

It stands in front of any UDP server, inside the event loop of the test::

    async with DatagramProxy("127.0.0.1", port) as proxy:
        async with landline.connect(proxy.url("quic"), options=options) as line:
            proxy.up = DatagramFaults(loss=0.2, reorder=0.1)
            proxy.rebind()
            ...

*Up* is the way from clients to the server, *down* the way back. Like a router with address translation it has a socket
of its own for each client, so that the server sees each of them as another address.
"""

from __future__ import annotations

import asyncio
import socket
from random import Random
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

import msgspec

from landline.errors import ConfigurationError

Way = Literal["up", "down"]

CLIENTS: Final = 1024
"""Addresses that are relayed at once; the oldest makes room for one more."""
WAITING: Final = 4096
"""Datagrams of one client that are delayed at once; one more is lost, as a full router would."""
REORDER_S: Final = 0.01
"""How much later a reordered datagram arrives: behind those that follow it closely."""


class DatagramFaults(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to the datagrams of one direction. The default is: nothing.

    :param loss: the share that is lost, 0 to 1.
    :param duplicate: the share that arrives twice.
    :param reorder: the share that arrives 10 ms later than it would, behind those that follow it.
    :param latency_s: how long every datagram is under way, in seconds.
    :param jitter_s: up to so many seconds more, drawn for each datagram; they overtake each other.
    :raises ConfigurationError: when a value makes no sense.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    latency_s: float = 0.0
    jitter_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ConfigurationError(f"DatagramFaults({name}={share:g}): a share from 0 to 1 is possible")
        for name in ("latency_s", "jitter_s"):
            seconds = getattr(self, name)
            if not 0 <= seconds < float("inf"):
                raise ConfigurationError(
                    f"DatagramFaults({name}={seconds:g}): zero or more seconds are possible"
                )


class DatagramProxy:
    """Relays UDP datagrams to ``host:port`` while it is entered, with the faults it is told.

    It listens on a free port of ``listen_host``. All chance comes out of ``seed``; the order in which real datagrams
    meet it does not repeat. Leaving it drops what is under way.
    """

    def __init__(self, host: str, port: int, *, listen_host: str = "127.0.0.1", seed: int = 0) -> None:
        self.port = 0
        """Where it listens, once entered."""
        self.up = DatagramFaults()
        """What happens to datagrams from clients to the server; assign another to change it."""
        self.down = DatagramFaults()
        """What happens to datagrams from the server to clients."""
        self.up_datagrams = 0
        """Datagrams that were given to the server, repetitions included."""
        self.down_datagrams = 0
        """Datagrams that were given to clients, repetitions included."""
        self.lost_datagrams = 0
        """Datagrams of both directions that were not."""
        self._target = (host, port)
        self._listen_host = listen_host
        self._random = Random(seed)  # noqa: S311 - chance that repeats is what a test wants
        self._is_dark = False
        self._family = 0
        self._address: Any = None
        self._front: asyncio.DatagramTransport | None = None
        self._ways: dict[Any, _ClientWay] = {}
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Self:
        """Listens. Raises :class:`OSError` when the target's name is not known or nothing can be listened on."""
        if self._front is not None:
            raise RuntimeError("a DatagramProxy can be entered once at a time")
        self._loop = asyncio.get_running_loop()
        found = await self._loop.getaddrinfo(*self._target, type=socket.SOCK_DGRAM)
        self._family, self._address = found[0][0], found[0][4]
        front, _ = await self._loop.create_datagram_endpoint(
            lambda: _Front(self), local_addr=(self._listen_host, 0)
        )
        self._front = front
        self.port = front.get_extra_info("sockname")[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        front, self._front = self._front, None
        assert front is not None
        front.close()
        for way in list(self._ways.values()):
            way.close()
        self._ways.clear()

    def url(self, scheme: str) -> str:
        """For :func:`landline.connect`, with the scheme of a transport that uses datagrams."""
        host = f"[{self._listen_host}]" if ":" in self._listen_host else self._listen_host
        return f"{scheme}://{host}:{self.port}"

    @property
    def client_ports(self) -> tuple[int, ...]:
        """The ports from which the server hears the clients at present, oldest client first."""
        return tuple(way.port for way in self._ways.values())

    def rebind(self) -> None:
        """Gives every client another port towards the server, as a router does that has forgotten them.

        What is on its way to the old ports is lost.
        """
        for way in self._ways.values():
            way.rebind()

    def hold(self) -> None:
        """A black hole: every datagram is lost, and nobody is told."""
        self._is_dark = True

    def heal(self) -> None:
        """Ends the black hole and the faults of both directions."""
        self._is_dark = False
        self.up = self.down = DatagramFaults()

    # Inside.

    def receive_up(self, data: bytes, client: Any) -> None:
        """A client's datagram."""
        way = self._ways.get(client)
        if way is None:
            if len(self._ways) >= CLIENTS:
                self._ways.pop(next(iter(self._ways))).close()
            way = self._ways[client] = _ClientWay(self, client, self._loop)
        self.relay("up", data, way)

    def relay(self, direction: Way, data: bytes, way: _ClientWay) -> None:
        """Decides what becomes of a datagram, and when."""
        faults = self.up if direction == "up" else self.down
        random = self._random.random
        if self._is_dark or random() < faults.loss:
            self.lost_datagrams += 1
            return
        for _ in range(2 if random() < faults.duplicate else 1):
            delay_s = faults.latency_s + faults.jitter_s * random()
            if random() < faults.reorder:
                delay_s += REORDER_S
            if delay_s <= 0:
                self.deliver(direction, data, way)
            elif not way.delay(direction, data, delay_s):
                self.lost_datagrams += 1

    def deliver(self, direction: Way, data: bytes, way: _ClientWay) -> None:
        """Sends a datagram on its last leg."""
        if self._front is None:
            return
        if direction == "up":
            self.up_datagrams += 1
            way.send(data)
        else:
            self.down_datagrams += 1
            self._front.sendto(data, way.client)

    def open_back(self) -> socket.socket:
        """A socket towards the server."""
        sock = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect(self._address)
        except BaseException:
            sock.close()
            raise
        return sock


class _Front(asyncio.DatagramProtocol):
    """The socket clients send to."""

    def __init__(self, proxy: DatagramProxy) -> None:
        self._proxy = proxy

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._proxy.receive_up(data, addr)

    def error_received(self, exc: Exception) -> None:
        """A client is gone; UDP tells the relay, and the relay tells nobody."""


class _ClientWay:
    """One client, and the socket by which the server knows it.

    The socket is used directly: an endpoint of the event loop could be opened only by waiting for it.
    """

    def __init__(self, proxy: DatagramProxy, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.client = client
        self._proxy = proxy
        self._loop = loop
        self._delayed: set[asyncio.TimerHandle] = set()
        self._socket = proxy.open_back()
        loop.add_reader(self._socket, self._read)

    @property
    def port(self) -> int:
        """Of the socket."""
        return cast(int, self._socket.getsockname()[1])

    def rebind(self) -> None:
        """Takes another socket; the new one is there before the old one goes, and so has another port."""
        old, self._socket = self._socket, self._proxy.open_back()
        self._loop.add_reader(self._socket, self._read)
        self._loop.remove_reader(old)
        old.close()

    def send(self, data: bytes) -> None:
        """To the server."""
        try:
            self._socket.send(data)
        except OSError:
            # Nobody listens there, or the kernel's buffer is full: either way it is lost.
            self._proxy.lost_datagrams += 1

    def delay(self, direction: Way, data: bytes, delay_s: float) -> bool:
        """Delivers a datagram later. Returns whether there was room for one more."""
        if len(self._delayed) >= WAITING:
            return False

        def deliver() -> None:
            self._delayed.discard(handle)
            self._proxy.deliver(direction, data, self)

        handle = self._loop.call_later(delay_s, deliver)
        self._delayed.add(handle)
        return True

    def close(self) -> None:
        """Drops what is under way."""
        for handle in self._delayed:
            handle.cancel()
        self._delayed.clear()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        try:
            data = self._socket.recv(65_535)
        except OSError:
            # Nothing there after all, or nobody listens at the server's port: UDP tells the relay, which tells nobody.
            return
        self._proxy.relay("down", data, self)
