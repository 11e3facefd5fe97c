"""A TCP proxy with the faults of networks: it delays, throttles, slices, holds, cuts, resets and refuses.

It is placed in front of any TCP server, landline's or another, in the event loop of the test::

    async with FaultProxy("127.0.0.1", port) as proxy:
        async with landline.connect(proxy.url) as line:
            proxy.up = Faults(latency_s=0.1, jitter_s=0.05)
            proxy.hold("down")
            ...
            proxy.heal()
            proxy.reset()

*Up* is the direction from clients to the server, *down* the opposite one. Faults may change at any time. They apply to
existing connections as to new ones, and to bytes in flight.

TCP delivers all bytes in order or breaks the connection, and so does this proxy: held bytes arrive later, in order, and
bytes are lost only together with their connection.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Final, Literal, Self

import msgspec

from landline.errors import ConfigurationError

Way = Literal["up", "down"]
Ending = Literal["cut", "reset", "abandon"]

BUFFER_BYTES: Final = 64 * 1024
"""How much the proxy buffers for one direction of one connection before it stops reading. With a latency it limits the
throughput, like the window of a TCP connection."""
SOCKET_BUFFER_BYTES: Final = 16 * 1024
"""The kernel buffers of each socket, so small that they do not hide a slow or held link from the sender. Smaller ones
stall the loopback device, whose segments have 64 KiB."""
SLOW_READ_S: Final = 0.02
"""A read from a slow link is limited to what it carries in this time, so that its bytes flow instead of bursting."""
CATCH_UP_S: Final = 0.05
"""How far a slow link may catch up after late wake-ups."""
ACCEPT_RETRY_S: Final = 0.05
"""The delay before the next ``accept()`` after the system could not provide a socket."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """The faults of one direction. By default there are none.

    :param latency_s: the delay of every byte, in seconds.
    :param jitter_s: the maximum of an additional delay, in seconds, random for each piece that is read; the order of
        bytes is kept.
    :param bandwidth_bytes_per_s: the limit for each connection; ``None`` means no limit.
    :param slice_bytes: the size of the largest piece in which bytes arrive; ``None`` leaves them together.
    :param is_held: a black hole: no byte arrives, and the sockets stay open. Afterwards the held bytes arrive in
        order, as after retransmissions of TCP.
    :raises ConfigurationError: if a value is invalid.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bandwidth_bytes_per_s: float | None = None
    slice_bytes: int | None = None
    is_held: bool = False

    def __post_init__(self) -> None:
        for name, seconds in (("latency_s", self.latency_s), ("jitter_s", self.jitter_s)):
            if not 0 <= seconds < float("inf"):
                raise ConfigurationError(f"Faults({name}={seconds:g}): must be finite and at least 0")
        if self.bandwidth_bytes_per_s is not None and not self.bandwidth_bytes_per_s > 0:
            raise ConfigurationError(
                f"Faults(bandwidth_bytes_per_s={self.bandwidth_bytes_per_s:g}): must be greater than 0; "
                "use is_held=True to stop all bytes"
            )
        if self.slice_bytes is not None and self.slice_bytes < 1:
            raise ConfigurationError(f"Faults(slice_bytes={self.slice_bytes}): must be at least 1")


class FaultProxy:
    """Relays TCP connections to ``host:port`` with the given faults; an asynchronous context manager.

    It listens on a free port of ``listen_host``. All random decisions come from ``seed``, but the segments of real
    sockets differ from run to run. Memory is limited to 64 KiB for each direction of a connection, and small kernel
    buffers; after that the proxy stops reading, which slows the sender down. Leaving it resets all connections.
    """

    def __init__(self, host: str, port: int, *, listen_host: str = "127.0.0.1", seed: int = 0) -> None:
        self.port: int = 0
        """The port on which it listens, after entering."""
        self.on_connection: Callable[[ProxiedConnection], None] | None = None
        """Called with every accepted connection, before any of its bytes are relayed."""
        self._target = (host, port)
        self._listen_host = listen_host
        self._seed = seed
        self._up = self._down = Faults()
        self._address: tuple[int, Any] | None = None
        self._port_holder: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: dict[ProxiedConnection, asyncio.Task[None]] = {}
        self._accepted = 0

    async def __aenter__(self) -> Self:
        """Listen. Raise :class:`OSError` if the name of the target is unknown, or listening fails."""
        if self._port_holder is not None:
            raise RuntimeError("this FaultProxy is already entered")
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(*self._target, type=socket.SOCK_STREAM)
        self._address = (found[0][0], found[0][4])
        [family, _, _, _, listen_address], *_ = await loop.getaddrinfo(
            self._listen_host, 0, type=socket.SOCK_STREAM
        )
        # This socket reserves the port while the proxy does not listen; the kernel then refuses connections to it.
        self._port_holder = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._port_holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._port_holder.bind(listen_address)
            self.port = self._port_holder.getsockname()[1]
            self._listen()
        except BaseException:
            self._port_holder.close()
            self._port_holder = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.refuse()
            tasks = list(self._connections.values())
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
        finally:
            assert self._port_holder is not None
            self._port_holder.close()
            self._port_holder = None

    @property
    def url(self) -> str:
        """The URL for :func:`landline.connect`. For other kinds of URLs, use :attr:`port`."""
        host = f"[{self._listen_host}]" if ":" in self._listen_host else self._listen_host
        return f"tcp://{host}:{self.port}"

    @property
    def connections(self) -> tuple[ProxiedConnection, ...]:
        """The connections with an open socket, oldest first."""
        return tuple(self._connections)

    # Faults of all connections

    @property
    def up(self) -> Faults:
        """The faults of the direction from clients to the server; assign others to change them."""
        return self._up

    @up.setter
    def up(self, faults: Faults) -> None:
        self._up = faults
        self._wake()

    @property
    def down(self) -> Faults:
        """The faults of the direction from the server to clients; assign others to change them."""
        return self._down

    @down.setter
    def down(self, faults: Faults) -> None:
        self._down = faults
        self._wake()

    def faults(self, way: Way) -> Faults:
        """Return the faults of one direction."""
        return self._up if way == "up" else self._down

    def hold(self, way: Way | None = None) -> None:
        """Start a black hole in one direction, or in both by default: see :class:`Faults`.

        New connections are accepted, but not relayed before both directions are open.
        """
        if way != "down":
            self.up = msgspec.structs.replace(self._up, is_held=True)
        if way != "up":
            self.down = msgspec.structs.replace(self._down, is_held=True)

    def heal(self) -> None:
        """Clear the faults of both directions. Ended connections stay ended, and a refusal stays in effect."""
        self._up = self._down = Faults()
        self._wake()

    async def refuse(self) -> None:
        """Let the kernel refuse new connections, as if no program listened. Existing connections continue."""
        accepting, self._accepting = self._accepting, None
        listener, self._listener = self._listener, None
        if accepting is not None and listener is not None:
            accepting.cancel()
            await asyncio.wait({accepting})
            listener.close()

    def accept(self) -> None:
        """Accept new connections again, after :meth:`refuse`."""
        if self._listener is None:
            self._listen()

    def cut(self) -> None:
        """Close all connections properly: see :meth:`ProxiedConnection.cut`."""
        for connection in self.connections:
            connection.cut()

    def reset(self) -> None:
        """Reset all connections: see :meth:`ProxiedConnection.reset`."""
        for connection in self.connections:
            connection.reset()

    # Accepting connections

    def _listen(self) -> None:
        assert self._port_holder is not None
        listener = socket.socket(self._port_holder.family, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _use_small_buffers(listener)
            listener.bind(self._port_holder.getsockname())
            listener.listen(1024)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listener))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                await _readable(listener)
                continue
            except OSError:
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            assert self._address is not None
            # It does not inherit this from the listener, and it may be ended before it is relayed.
            client.setblocking(False)
            self._accepted += 1
            connection = ProxiedConnection(self, client, self._address, f"{self._seed}/{self._accepted}")
            task = self._connections[connection] = loop.create_task(connection._run())
            task.add_done_callback(partial(self._remove, connection))
            if self.on_connection is not None:
                self.on_connection(connection)

    def _remove(self, connection: ProxiedConnection, task: asyncio.Task[None]) -> None:
        # Not in its task, which may be cancelled before its first step.
        connection._close_sockets()
        del self._connections[connection]
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a proxied connection failed", "exception": error}
            )

    def _wake(self) -> None:
        for connection in self._connections:
            connection._wake()


class ProxiedConnection:
    """A connection of a client, with its connection to the server."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, address: tuple[int, Any], seed: str) -> None:
        self._proxy = proxy
        self._address = address
        self._client = client
        self._server: socket.socket | None = None
        self._up = _Flow(self, "up", Random(f"{seed}/up"))  # noqa: S311 - a test needs reproducible random numbers
        self._down = _Flow(self, "down", Random(f"{seed}/down"))  # noqa: S311
        self._woken = asyncio.Event()
        self._relaying: asyncio.Task[None] | None = None
        self._endings: tuple[Ending, Ending] | None = None
        self._closing: dict[socket.socket | None, asyncio.Task[None]] = {}
        self.is_spent: bool = False
        """Whether it was ended because of :meth:`end_after`."""

    def __repr__(self) -> str:
        state = "over" if self.is_over else "open" if self._endings is None else "ended"
        return f"<ProxiedConnection {state} up={self.up_bytes} down={self.down_bytes}>"

    @property
    def up_bytes(self) -> int:
        """The number of bytes of the client that were delivered to the server."""
        return self._up.delivered_bytes

    @property
    def down_bytes(self) -> int:
        """The number of bytes of the server that were delivered to the client."""
        return self._down.delivered_bytes

    @property
    def is_over(self) -> bool:
        """Whether both sockets are closed."""
        return self not in self._proxy.connections

    def cut(self) -> None:
        """Close it properly: both sides read the end of the stream (FIN) after all data relayed so far."""
        self.end(client="cut", server="cut")

    def reset(self) -> None:
        """Break it: both sides get a reset (RST)."""
        self.end(client="reset", server="reset")

    def end(self, *, client: Ending, server: Ending) -> None:
        """End the connection, each side in its own way. Undelivered bytes are lost.

        ``"cut"`` lets that side read the end of the stream, and ``"reset"`` breaks its connection. To an
        ``"abandon"``-ed side the connection looks alive, but all bytes it sends are lost. A side that was cut or
        abandoned stays open until it closes by itself or is reset. This takes effect in the next iterations of the
        event loop.
        """
        if self._endings is None:
            self._endings = (client, server)
            if self._relaying is not None:
                self._relaying.cancel()
            return
        for sock, ending in ((self._client, client), (self._server, server)):
            if ending == "reset" and sock in self._closing:
                self._closing[sock].cancel()

    def end_after(
        self, size_bytes: int, *, way: Way, client: Ending = "reset", server: Ending = "reset"
    ) -> None:
        """End it as :meth:`end` does, after exactly ``size_bytes`` more bytes in the direction ``way``.

        :raises ConfigurationError: if the number is less than 1.
        """
        if size_bytes < 1:
            raise ConfigurationError(f"end_after({size_bytes}): must be at least 1; end() ends at once")
        flow = self._up if way == "up" else self._down
        flow.end_after(size_bytes, (client, server))

    # Called by the proxy and the flows

    async def _run(self) -> None:
        """Relay until both sockets are closed. After cancelling, call :meth:`_close_sockets`."""
        loop = asyncio.get_running_loop()
        try:
            if self._endings is None:
                self._relaying = loop.create_task(self._relay())
                await asyncio.wait({self._relaying})
                if not self._relaying.cancelled():
                    self._relaying.result()
            client, server = self._endings or ("reset", "reset")
            self._closing = {
                sock: loop.create_task(_close(sock, ending))
                for sock, ending in ((self._client, client), (self._server, server))
                if sock is not None
            }
            await asyncio.wait(self._closing.values())
        finally:
            tasks = [task for task in (self._relaying, *self._closing.values()) if task is not None]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def _close_sockets(self) -> None:
        """Reset the sockets that are still open."""
        for sock in (self._client, self._server):
            if sock is not None and sock.fileno() >= 0:
                _reset(sock)

    def _wake(self) -> None:
        """Apply changed faults."""
        self._woken.set()
        self._up.wake()
        self._down.wake()

    def _faults(self, way: Way) -> Faults:
        return self._proxy.faults(way)

    def _end_spent(self, endings: tuple[Ending, Ending]) -> None:
        """End the connection: the bytes of :meth:`end_after` have arrived."""
        self.is_spent = True
        client, server = endings
        self.end(client=client, server=server)

    async def _until_open(self, *ways: Way) -> None:
        """Wait until none of the directions is held."""
        while any(self._faults(way).is_held for way in ways):
            self._woken.clear()
            await self._woken.wait()

    async def _relay(self) -> None:
        loop = asyncio.get_running_loop()
        # The handshake of TCP needs both directions.
        await self._until_open("up", "down")
        family, address = self._address
        server = self._server = socket.socket(family, socket.SOCK_STREAM)
        server.setblocking(False)
        for sock in (self._client, server):
            _use_small_buffers(sock)
        try:
            await loop.sock_connect(server, address)
        except OSError:
            self._endings = ("reset", "reset")
            return
        async with asyncio.TaskGroup() as group:
            for flow, source, target in (
                (self._up, self._client, server),
                (self._down, server, self._client),
            ):
                group.create_task(flow.read(source))
                group.create_task(flow.write(target))
        # Both sides have ended their stream.
        self._endings = self._endings or ("cut", "cut")


class _Piece:
    """The bytes of one read. Empty bytes are the end of the stream; ``None`` means that the connection broke."""

    __slots__ = ("data", "jitter", "read_at")

    def __init__(self, data: bytes | None, read_at: float, jitter: float) -> None:
        self.data = data
        self.read_at = read_at
        self.jitter = jitter


class _Flow:
    """One direction of a connection, with the bytes that were read and not delivered."""

    def __init__(self, connection: ProxiedConnection, way: Way, random: Random) -> None:
        self.delivered_bytes = 0
        self._connection = connection
        self._way: Way = way
        self._other_way: Way = "down" if way == "up" else "up"
        self._random = random
        self._pieces: deque[_Piece] = deque()
        self._buffered_bytes = 0
        self._free_at = 0.0
        self._left_bytes: int | None = None
        self._endings: tuple[Ending, Ending] = ("reset", "reset")
        self._reader_woken = asyncio.Event()
        self._writer_woken = asyncio.Event()

    def wake(self) -> None:
        self._free_at = 0.0
        self._reader_woken.set()
        self._writer_woken.set()

    def end_after(self, size_bytes: int, endings: tuple[Ending, Ending]) -> None:
        self._left_bytes = size_bytes
        self._endings = endings

    @property
    def _faults(self) -> Faults:
        return self._connection._faults(self._way)

    # Reading

    async def read(self, source: socket.socket) -> None:
        """Read while the buffer has space, at the speed of the link."""
        loop = asyncio.get_running_loop()
        while True:
            while self._buffered_bytes >= self._buffer_bytes_max():
                await _next(self._reader_woken)
            try:
                data = await self._receive(source)
            except OSError:
                data = None
            self._pieces.append(_Piece(data, loop.time(), self._random.random()))
            self._writer_woken.set()
            if not data:
                return
            self._buffered_bytes += len(data)
            await self._pace(len(data))

    async def _receive(self, source: socket.socket) -> bytes | None:
        """Receive as ``loop.sock_recv`` does, but choose the size when data is available."""
        while True:
            try:
                return source.recv(self._read_bytes())
            except BlockingIOError:
                await _readable(source)

    def _buffer_bytes_max(self) -> int:
        faults = self._faults
        if faults.bandwidth_bytes_per_s is None:
            return BUFFER_BYTES
        in_flight_s = faults.latency_s + faults.jitter_s + SLOW_READ_S
        return max(1, min(BUFFER_BYTES, int(faults.bandwidth_bytes_per_s * in_flight_s)))

    def _read_bytes(self) -> int:
        bandwidth = self._faults.bandwidth_bytes_per_s
        if bandwidth is None:
            return BUFFER_BYTES
        return max(1, min(BUFFER_BYTES, int(bandwidth * SLOW_READ_S)))

    async def _pace(self, size_bytes: int) -> None:
        """Wait while the link is busy with the last read."""
        loop = asyncio.get_running_loop()
        bandwidth = self._faults.bandwidth_bytes_per_s
        if bandwidth is None:
            return
        self._free_at = max(loop.time() - CATCH_UP_S, self._free_at) + size_bytes / bandwidth
        # A change of the faults ends the wait at once.
        while (wait_s := self._free_at - loop.time()) > 0:
            await _next(self._reader_woken, wait_s)

    # Writing

    async def write(self, target: socket.socket) -> None:
        """Deliver bytes when they are due."""
        loop = asyncio.get_running_loop()
        while True:
            await self._until_due()
            piece = self._pieces[0]
            if piece.data is None:
                self._connection.reset()
                return
            try:
                if not piece.data:
                    target.shutdown(socket.SHUT_WR)
                    return
                slice_bytes, remaining = self._next_slice(piece.data)
                await loop.sock_sendall(target, slice_bytes)
            except OSError:
                # The target has gone. The source learns of it when the other direction is open.
                await self._connection._until_open(self._other_way)
                self._connection.reset()
                return
            if remaining:
                piece.data = remaining
            else:
                self._pieces.popleft()
            self._delivered(len(slice_bytes))
            if self._left_bytes == 0:
                self._connection._end_spent(self._endings)
                return
            if remaining:
                # A reader in the same process is to find a single slice: it runs after the next iteration.
                await asyncio.sleep(0)
                await asyncio.sleep(0)

    def _next_slice(self, data: bytes) -> tuple[bytes, bytes]:
        size = min(self._faults.slice_bytes or len(data), len(data))
        if self._left_bytes is not None:
            size = min(size, self._left_bytes)
        return data[:size], data[size:]

    def _delivered(self, size_bytes: int) -> None:
        self.delivered_bytes += size_bytes
        self._buffered_bytes -= size_bytes
        self._reader_woken.set()
        if self._left_bytes is not None:
            self._left_bytes -= size_bytes

    async def _until_due(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            faults = self._faults
            wait_s = None
            if self._pieces and not faults.is_held:
                piece = self._pieces[0]
                due_at = piece.read_at + faults.latency_s + piece.jitter * faults.jitter_s
                wait_s = due_at - loop.time()
                if wait_s <= 0:
                    return
            await _next(self._writer_woken, wait_s)


async def _next(woken: asyncio.Event, wait_s: float | None = None) -> None:
    """Wait for the next wake-up, for at most ``wait_s`` seconds."""
    woken.clear()
    try:
        async with asyncio.timeout(wait_s):
            await woken.wait()
    except TimeoutError:
        return


async def _close(sock: socket.socket, ending: Ending) -> None:
    """End one side, and close its socket when that does not lose data."""
    if ending == "reset":
        _reset(sock)
        return
    try:
        if ending == "cut":
            sock.shutdown(socket.SHUT_WR)
        # Closing a socket with unread input would reset the connection.
        while True:
            try:
                if not sock.recv(BUFFER_BYTES):
                    break
                await asyncio.sleep(0)
            except BlockingIOError:
                await _readable(sock)
    except OSError:
        # The connection is broken, or was never open.
        sock.close()
    except asyncio.CancelledError:
        _reset(sock)
        raise
    else:
        sock.close()


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _wake_up, readable)
    try:
        await readable
    finally:
        loop.remove_reader(sock)


def _wake_up(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()


def _use_small_buffers(sock: socket.socket) -> None:
    """Use small kernel buffers, and send without delay."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
