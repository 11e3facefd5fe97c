"""A TCP proxy that does to connections what networks do: delay, thin, slice, hold, cut, reset and refuse.

It stands in front of any TCP server, of landline's or not, inside the event loop of the test::

    async with FaultProxy("127.0.0.1", port) as proxy:
        async with landline.connect(proxy.url) as line:
            proxy.up = Faults(latency_s=0.1, jitter_s=0.05)
            proxy.hold("down")
            ...
            proxy.heal()
            proxy.reset()

*Up* is the way from clients to the server, *down* the way back. Faults may change at any moment, and count for the
connections there are as for new ones, and for bytes that are under way.

TCP delivers all bytes in order or breaks, and so does this proxy: what it holds back comes later, in order, and
bytes are only lost together with their connection.
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
"""What the proxy itself keeps of one direction of one connection; then it stops reading. Like the window of a plain
TCP connection: with a latency it bounds the throughput."""
SOCKET_BUFFER_BYTES: Final = 16 * 1024
"""Asked of the kernel for each socket, so that its buffers do not hide a thin or held link from the sender. Smaller
ones stall the loopback device, whose segments have 64 KiB."""
THIN_SHARE_S: Final = 0.02
"""On a thin link no more is read at once than it carries in this time, so that its bytes flow and do not burst."""
CATCH_UP_S: Final = 0.05
"""How far a thin link may catch up on wake-ups that came late."""
ACCEPT_RETRY_S: Final = 0.05
"""When to accept again after the system could not give us a socket."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to the bytes of one direction. The default is: nothing.

    :param latency_s: how long every byte is under way, in seconds.
    :param jitter_s: up to so many seconds more, drawn anew for each piece that is read; the order of bytes is kept.
    :param bandwidth_bytes_per_s: no more than this goes through, for each connection; ``None`` is no limit.
    :param slice_bytes: bytes arrive in pieces of at most this size; ``None`` leaves them together.
    :param is_held: a black hole. Nothing arrives and nobody is told, while the sockets stay open; once this is over,
        what was held arrives in order, as TCP's retransmissions would bring it.
    :raises ConfigurationError: when a value makes no sense.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bandwidth_bytes_per_s: float | None = None
    slice_bytes: int | None = None
    is_held: bool = False

    def __post_init__(self) -> None:
        for name, seconds in (("latency_s", self.latency_s), ("jitter_s", self.jitter_s)):
            if not 0 <= seconds < float("inf"):
                raise ConfigurationError(f"Faults({name}={seconds:g}): zero or more seconds are possible")
        if self.bandwidth_bytes_per_s is not None and not self.bandwidth_bytes_per_s > 0:
            raise ConfigurationError(
                f"Faults(bandwidth_bytes_per_s={self.bandwidth_bytes_per_s:g}): it must be more than nothing; "
                "is_held=True lets nothing through"
            )
        if self.slice_bytes is not None and self.slice_bytes < 1:
            raise ConfigurationError(f"Faults(slice_bytes={self.slice_bytes}): one byte is the least")


class FaultProxy:
    """Relays TCP connections to ``host:port`` while it is entered, with the faults it is told.

    It listens on a free port of ``listen_host``. All chance comes out of ``seed``; what it meets, the segments of
    real sockets, does not repeat. Memory is bounded: 64 KiB for each direction of a connection, and small buffers
    in the kernel; then it stops reading, and the sender feels it. Leaving it resets all connections.
    """

    def __init__(self, host: str, port: int, *, listen_host: str = "127.0.0.1", seed: int = 0) -> None:
        self.port = 0
        """Where it listens, once entered."""
        self.on_connection: Callable[[ProxiedConnection], None] | None = None
        """Called with every connection that is accepted, before anything of it was relayed."""
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
        """Listens. Raises :class:`OSError` when the target's name is not known or nothing can be listened on."""
        if self._port_holder is not None:
            raise RuntimeError("a FaultProxy can be entered once at a time")
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(*self._target, type=socket.SOCK_STREAM)
        self._address = (found[0][0], found[0][4])
        [family, _, _, _, listen_address], *_ = await loop.getaddrinfo(
            self._listen_host, 0, type=socket.SOCK_STREAM
        )
        # This one keeps the port ours while nobody listens: then the kernel refuses connections to it.
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
        """For :func:`landline.connect`; programs with other URLs make their own of :attr:`port`."""
        host = f"[{self._listen_host}]" if ":" in self._listen_host else self._listen_host
        return f"tcp://{host}:{self.port}"

    @property
    def connections(self) -> tuple[ProxiedConnection, ...]:
        """Those with a socket that is still open, oldest first."""
        return tuple(self._connections)

    # Faults of all connections, old and new.

    @property
    def up(self) -> Faults:
        """What happens to bytes from clients to the server; assign another to change it."""
        return self._up

    @up.setter
    def up(self, faults: Faults) -> None:
        self._up = faults
        self._wake()

    @property
    def down(self) -> Faults:
        """What happens to bytes from the server to clients; assign another to change it."""
        return self._down

    @down.setter
    def down(self, faults: Faults) -> None:
        self._down = faults
        self._wake()

    def faults(self, way: Way) -> Faults:
        """What happens to bytes in one direction."""
        return self._up if way == "up" else self._down

    def hold(self, way: Way | None = None) -> None:
        """Opens a black hole, in one direction or both: see :class:`Faults`.

        Connections that are opened meanwhile are accepted, and not relayed before both directions are open.
        """
        if way != "down":
            self.up = msgspec.structs.replace(self._up, is_held=True)
        if way != "up":
            self.down = msgspec.structs.replace(self._down, is_held=True)

    def heal(self) -> None:
        """Ends the faults of both directions. Connections that were ended stay so, and so does a refusal."""
        self._up = self._down = Faults()
        self._wake()

    async def refuse(self) -> None:
        """From now on new connections are refused by the kernel, as where no program listens; old ones go on."""
        accepting, self._accepting = self._accepting, None
        listener, self._listener = self._listener, None
        if accepting is not None and listener is not None:
            accepting.cancel()
            await asyncio.wait({accepting})
            listener.close()

    def accept(self) -> None:
        """Accepts new connections again."""
        if self._listener is None:
            self._listen()

    def cut(self) -> None:
        """Ends all connections in order: see :meth:`ProxiedConnection.cut`."""
        for connection in self.connections:
            connection.cut()

    def reset(self) -> None:
        """Breaks all connections: see :meth:`ProxiedConnection.reset`."""
        for connection in self.connections:
            connection.reset()

    # Inside.

    def _listen(self) -> None:
        assert self._port_holder is not None
        listener = socket.socket(self._port_holder.family, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _make_small(listener)
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
            # It does not inherit that from the listener, and may be ended before it is relayed.
            client.setblocking(False)
            self._accepted += 1
            connection = ProxiedConnection(self, client, self._address, f"{self._seed}/{self._accepted}")
            task = self._connections[connection] = loop.create_task(connection.run())
            task.add_done_callback(partial(self._over, connection))
            if self.on_connection is not None:
                self.on_connection(connection)

    def _over(self, connection: ProxiedConnection, task: asyncio.Task[None]) -> None:
        # Not in its task, which may have been cancelled before its first step.
        connection.close_sockets()
        del self._connections[connection]
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a proxied connection failed", "exception": error}
            )

    def _wake(self) -> None:
        for connection in self._connections:
            connection.wake()


class ProxiedConnection:
    """One client's connection, and the one to the server behind it."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, address: tuple[int, Any], seed: str) -> None:
        self._proxy = proxy
        self._address = address
        self._client = client
        self._server: socket.socket | None = None
        self._up = _Flow(self, "up", Random(f"{seed}/up"))  # noqa: S311 - chance that repeats is what a test wants
        self._down = _Flow(self, "down", Random(f"{seed}/down"))  # noqa: S311
        self._woken = asyncio.Event()
        self._relaying: asyncio.Task[None] | None = None
        self._endings: tuple[Ending, Ending] | None = None
        self._closing: dict[socket.socket | None, asyncio.Task[None]] = {}
        self.is_spent = False
        """Whether it was ended by the number of bytes given to :meth:`end_after`."""

    def __repr__(self) -> str:
        state = "over" if self.is_over else "open" if self._endings is None else "ended"
        return f"<ProxiedConnection {state} up={self.up_bytes} down={self.down_bytes}>"

    @property
    def up_bytes(self) -> int:
        """Bytes from the client that were given to the server."""
        return self._up.delivered_bytes

    @property
    def down_bytes(self) -> int:
        """Bytes from the server that were given to the client."""
        return self._down.delivered_bytes

    @property
    def is_over(self) -> bool:
        """Whether both its sockets are closed."""
        return self not in self._proxy.connections

    def cut(self) -> None:
        """Ends it in order: both sides read the end (FIN) behind what was relayed so far."""
        self.end(client="cut", server="cut")

    def reset(self) -> None:
        """Breaks it: both sides get a reset (RST)."""
        self.end(client="reset", server="reset")

    def end(self, *, client: Ending, server: Ending) -> None:
        """Ends each side in a way of its own; what was not delivered yet is lost.

        ``"cut"`` lets that side read the end, ``"reset"`` breaks its connection, and to an ``"abandon"``-ed side it
        looks alive, though what it sends vanishes. A side that was cut or abandoned is kept until it closes by
        itself, or until it is reset. Takes effect in the next turns of the event loop.
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
        """As :meth:`end`, once ``size_bytes`` more have arrived in the direction ``way``; no byte more arrives.

        :raises ConfigurationError: when the number is less than one.
        """
        if size_bytes < 1:
            raise ConfigurationError(f"end_after({size_bytes}): one byte is the least; end() ends at once")
        flow = self._up if way == "up" else self._down
        flow.end_after(size_bytes, (client, server))

    # For the proxy and the flows.

    async def run(self) -> None:
        """From its acceptance until both sockets are closed. Cancelling leaves sockets to be closed."""
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

    def close_sockets(self) -> None:
        """Resets what is still open."""
        for sock in (self._client, self._server):
            if sock is not None and sock.fileno() >= 0:
                _reset(sock)

    def wake(self) -> None:
        """The faults have changed."""
        self._woken.set()
        self._up.wake()
        self._down.wake()

    def faults(self, way: Way) -> Faults:
        return self._proxy.faults(way)

    def spent(self, endings: tuple[Ending, Ending]) -> None:
        """So many bytes have arrived as there were to be."""
        self.is_spent = True
        client, server = endings
        self.end(client=client, server=server)

    async def passes(self, *ways: Way) -> None:
        """Returns when none of the directions is held."""
        while any(self.faults(way).is_held for way in ways):
            self._woken.clear()
            await self._woken.wait()

    async def _relay(self) -> None:
        loop = asyncio.get_running_loop()
        # Neither half of TCP's own greeting passes a black hole.
        await self.passes("up", "down")
        family, address = self._address
        server = self._server = socket.socket(family, socket.SOCK_STREAM)
        server.setblocking(False)
        for sock in (self._client, server):
            _make_small(sock)
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
        # Both sides said that they send no more.
        self._endings = self._endings or ("cut", "cut")


class _Piece:
    """Bytes of one read. An empty piece is the end of the stream; no bytes at all mean that it broke."""

    __slots__ = ("data", "jitter", "read_at")

    def __init__(self, data: bytes | None, read_at: float, jitter: float) -> None:
        self.data = data
        self.read_at = read_at
        self.jitter = jitter


class _Flow:
    """One direction of a connection: what was read and is under way."""

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
        return self._connection.faults(self._way)

    # Reading.

    async def read(self, source: socket.socket) -> None:
        """Reads while there is room, at the pace of the link."""
        loop = asyncio.get_running_loop()
        while True:
            while self._buffered_bytes >= self._room_bytes():
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
        """As ``loop.sock_recv``, but how much is read is decided when there is something."""
        while True:
            try:
                return source.recv(self._read_bytes())
            except BlockingIOError:
                await _readable(source)

    def _room_bytes(self) -> int:
        faults = self._faults
        if faults.bandwidth_bytes_per_s is None:
            return BUFFER_BYTES
        under_way_s = faults.latency_s + faults.jitter_s + THIN_SHARE_S
        return max(1, min(BUFFER_BYTES, int(faults.bandwidth_bytes_per_s * under_way_s)))

    def _read_bytes(self) -> int:
        bandwidth = self._faults.bandwidth_bytes_per_s
        if bandwidth is None:
            return BUFFER_BYTES
        return max(1, min(BUFFER_BYTES, int(bandwidth * THIN_SHARE_S)))

    async def _pace(self, size_bytes: int) -> None:
        """Waits while the link is taken by what was read last."""
        loop = asyncio.get_running_loop()
        bandwidth = self._faults.bandwidth_bytes_per_s
        if bandwidth is None:
            return
        self._free_at = max(loop.time() - CATCH_UP_S, self._free_at) + size_bytes / bandwidth
        # A change of the faults frees it at once.
        while (wait_s := self._free_at - loop.time()) > 0:
            await _next(self._reader_woken, wait_s)

    # Writing.

    async def write(self, target: socket.socket) -> None:
        """Delivers what is due."""
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
                slice_bytes, rest = self._next_slice(piece.data)
                await loop.sock_sendall(target, slice_bytes)
            except OSError:
                # The target is gone. The source hears of it once news from there come through.
                await self._connection.passes(self._other_way)
                self._connection.reset()
                return
            if rest:
                piece.data = rest
            else:
                self._pieces.popleft()
            self._delivered(len(slice_bytes))
            if self._left_bytes == 0:
                self._connection.spent(self._endings)
                return
            if rest:
                # A reader in this very process is to find one slice: its turn comes behind the next one of ours.
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
    """Returns at the next wake-up, or after so many seconds."""
    woken.clear()
    try:
        async with asyncio.timeout(wait_s):
            await woken.wait()
    except TimeoutError:
        return


async def _close(sock: socket.socket, ending: Ending) -> None:
    """Ends one side, and closes its socket when it may be."""
    if ending == "reset":
        _reset(sock)
        return
    try:
        if ending == "cut":
            sock.shutdown(socket.SHUT_WR)
        # Closing a socket with bytes in it that nobody read would reset the connection.
        while True:
            try:
                if not sock.recv(BUFFER_BYTES):
                    break
                await asyncio.sleep(0)
            except BlockingIOError:
                await _readable(sock)
    except OSError:
        # It broke, or was never connected; either way it is over.
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


def _make_small(sock: socket.socket) -> None:
    """Little is kept in the kernel, and nothing waits there to become more."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
