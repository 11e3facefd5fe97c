"""A UDP relay with the faults of networks: it loses, duplicates, reorders, delays and holds datagrams, and changes
addresses.

It is placed in front of any UDP server, in the event loop of the test::

    async with DatagramProxy("127.0.0.1", port) as proxy:
        async with landline.connect(proxy.url("quic"), options=options) as line:
            proxy.up = DatagramFaults(loss=0.2, reorder=0.1)
            proxy.rebind()
            ...

*Up* is the direction from clients to the server, *down* the opposite one. Like a router with address translation, it
has a separate socket for each client, so the server sees each client at another address.
"""

from __future__ import annotations

import asyncio
import socket
from random import Random
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

import msgspec

from landline.errors import ConfigurationError

Direction = Literal["up", "down"]

CLIENTS_MAX: Final = 1024
"""How many client addresses are relayed at the same time; a further one replaces the oldest."""
DELAYED_MAX: Final = 4096
"""How many datagrams of one client are delayed at the same time; further ones are lost, as in a full router."""
REORDER_S: Final = 0.01
"""How much later a reordered datagram arrives: after those that follow it closely."""


class DatagramFaults(msgspec.Struct, frozen=True, kw_only=True):
    """The faults of one direction. By default there are none.

    :param loss: the share of datagrams that are lost, 0 to 1.
    :param duplicate: the share that arrives twice.
    :param reorder: the share that is delayed by another 10 ms, so that following datagrams overtake it.
    :param latency_s: the delay of every datagram, in seconds.
    :param jitter_s: the maximum of an additional delay, in seconds, random for each datagram; they overtake each other.
    :raises ConfigurationError: if a value is invalid.
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
                raise ConfigurationError(f"DatagramFaults({name}={share:g}): must be from 0 to 1")
        for name in ("latency_s", "jitter_s"):
            seconds = getattr(self, name)
            if not 0 <= seconds < float("inf"):
                raise ConfigurationError(f"DatagramFaults({name}={seconds:g}): must be finite and at least 0")


class DatagramProxy:
    """Relays UDP datagrams to ``host:port`` with the given faults; an asynchronous context manager.

    It listens on a free port of ``listen_host``. All random decisions come from ``seed``, but the order of real
    datagrams differs from run to run. Leaving it drops delayed datagrams.
    """

    def __init__(self, host: str, port: int, *, listen_host: str = "127.0.0.1", seed: int = 0) -> None:
        self.port: Any = 0
        """The port on which it listens, after entering."""
        self.up: DatagramFaults = DatagramFaults()
        """The faults of the direction from clients to the server; assign others to change them."""
        self.down: DatagramFaults = DatagramFaults()
        """The faults of the direction from the server to clients."""
        self.up_datagrams: int = 0
        """The number of datagrams delivered to the server, duplicates included."""
        self.down_datagrams: int = 0
        """The number of datagrams delivered to clients, duplicates included."""
        self.lost_datagrams: int = 0
        """The number of lost datagrams, of both directions."""
        self._target = (host, port)
        self._listen_host = listen_host
        self._random = Random(seed)  # noqa: S311 - a test needs reproducible random numbers
        self._is_held = False
        self._family = 0
        self._address: Any = None
        self._front: asyncio.DatagramTransport | None = None
        self._paths: dict[Any, _ClientPath] = {}
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Self:
        """Listen. Raise :class:`OSError` if the name of the target is unknown, or listening fails."""
        if self._front is not None:
            raise RuntimeError("this DatagramProxy is already entered")
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
        for path in list(self._paths.values()):
            path.close()
        self._paths.clear()

    def url(self, scheme: str) -> str:
        """Return the URL for :func:`landline.connect`, with the scheme of a transport over UDP."""
        host = f"[{self._listen_host}]" if ":" in self._listen_host else self._listen_host
        return f"{scheme}://{host}:{self.port}"

    @property
    def client_ports(self) -> tuple[int, ...]:
        """The current ports of the clients as the server sees them, oldest client first."""
        return tuple(path.port for path in self._paths.values())

    def rebind(self) -> None:
        """Give every client another port towards the server, like a router that has lost its address table.

        Datagrams in flight to the old ports are lost.
        """
        for path in self._paths.values():
            path.rebind()

    def hold(self) -> None:
        """Start a black hole: every datagram is lost."""
        self._is_held = True

    def heal(self) -> None:
        """End the black hole, and clear the faults of both directions."""
        self._is_held = False
        self.up = DatagramFaults()
        self.down = self.up

    # Relaying

    def _receive_up(self, data: bytes, client: Any) -> None:
        """Receive a datagram of a client."""
        path = self._paths.get(client)
        if path is None:
            if len(self._paths) >= CLIENTS_MAX:
                self._paths.pop(next(iter(self._paths))).close()
            path = self._paths[client] = _ClientPath(self, client, self._loop)
        self._relay("up", data, path)

    def _relay(self, direction: Direction, data: bytes, path: _ClientPath) -> None:
        """Apply the faults of the direction to a datagram."""
        faults = self.up if direction == "up" else self.down
        random = self._random.random
        if self._is_held or random() < faults.loss:
            self.lost_datagrams += 1
            return
        for _ in range(2 if random() < faults.duplicate else 1):
            delay_s = faults.latency_s + faults.jitter_s * random()
            if random() < faults.reorder:
                delay_s += REORDER_S
            if delay_s <= 0:
                self._deliver(direction, data, path)
            elif not path.delay(direction, data, delay_s):
                self.lost_datagrams += 1

    def _deliver(self, direction: Direction, data: bytes, path: _ClientPath) -> None:
        """Deliver a datagram to its receiver."""
        if self._front is None:
            return
        if direction == "up":
            self.up_datagrams += 1
            path.send(data)
        else:
            self.down_datagrams += 1
            self._front.sendto(data, path.client)

    def _open_socket(self) -> socket.socket:
        """Return a new socket towards the server."""
        sock = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect(self._address)
        except BaseException:
            sock.close()
            raise
        return sock


class _Front(asyncio.DatagramProtocol):
    """The protocol of the socket to which clients send."""

    def __init__(self, proxy: DatagramProxy) -> None:
        self._proxy = proxy

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._proxy._receive_up(data, addr)

    def error_received(self, exc: Exception) -> None:
        """Ignore that a client has gone: a network does not report it either."""


class _ClientPath:
    """A client, and the socket that represents it towards the server.

    The socket is used directly, because opening an endpoint of the event loop is a coroutine.
    """

    def __init__(self, proxy: DatagramProxy, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.client = client
        self._proxy = proxy
        self._loop = loop
        self._delayed: set[asyncio.TimerHandle] = set()
        self._socket = proxy._open_socket()
        loop.add_reader(self._socket, self._read)

    @property
    def port(self) -> int:
        """The port of the socket."""
        return cast(int, self._socket.getsockname()[1])

    def rebind(self) -> None:
        """Replace the socket. The new one is opened before the old one is closed, so that it has another port."""
        old, self._socket = self._socket, self._proxy._open_socket()
        self._loop.add_reader(self._socket, self._read)
        self._loop.remove_reader(old)
        old.close()

    def send(self, data: bytes) -> None:
        """Send a datagram to the server."""
        try:
            self._socket.send(data)
        except OSError:
            # No process listens there, or the buffer of the kernel is full: the datagram is lost.
            self._proxy.lost_datagrams += 1

    def delay(self, direction: Direction, data: bytes, delay_s: float) -> bool:
        """Deliver a datagram later. Return ``False`` if too many are delayed already."""
        if len(self._delayed) >= DELAYED_MAX:
            return False

        def deliver() -> None:
            self._delayed.discard(handle)
            self._proxy._deliver(direction, data, self)

        handle = self._loop.call_later(delay_s, deliver)
        self._delayed.add(handle)
        return True

    def close(self) -> None:
        """Drop delayed datagrams, and close the socket."""
        for handle in self._delayed:
            handle.cancel()
        self._delayed.clear()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        try:
            data = self._socket.recv(65_535)
        except OSError:
            # There is no data, or no process listens on the server's port, which a network does not report.
            return
        self._proxy._relay("down", data, self)
