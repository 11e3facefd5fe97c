"""Calls over UDP sockets, as a client and as a server."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from random import SystemRandom
from typing import Any, Final, cast

from landline.codes import Operation
from landline.errors import (
    ConfigurationError,
    ConnectFailed,
    LandlineError,
    RequestLost,
    RequestTimeout,
    outcome,
)
from landline.line.handlers import FAILURES, Handler, Handlers, describe_failure, is_cancelled
from landline.session.auth import Anonymous, SharedToken, seal_secret
from landline.session.handshake import RandomSource
from landline.transports.base import describe_address_in_use
from landline.transports.urls import Endpoint
from landline.udp_calls import CallCounts, CallPeer
from landline.udp_calls.call_client import ClientCall
from landline.udp_calls.call_server import CallServer, NewCall, error_reply
from landline.udp_calls.wire import Aead, Reply, check_call

COOKIES_KEPT_MAX: Final = 256
"""How many servers' cookies this process keeps, so that the next call takes one round trip."""

_cookies: OrderedDict[tuple[str, int, bytes], bytes] = OrderedDict()


def make_aead(auth: object) -> Aead:
    """Return the encryption for a token.

    :raises ConfigurationError: for a scheme that cannot authenticate a single datagram. A subclass counts as such a
        scheme, because its own methods would not be called.
    """
    if type(auth) is SharedToken or type(auth) is Anonymous:
        return Aead(seal_secret(auth))
    raise ConfigurationError(
        f"udp:// needs a SharedToken, or Anonymous: {type(auth).__name__} needs a handshake, which calls in "
        "datagrams do not have"
    )


def elapsed_s() -> float:
    """Read a monotonic clock, in seconds. It continues during sleep if the system can do so (clock_gettime(2))."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


async def _open(endpoint: Endpoint, use: Callable[[socket.socket, Any], None]) -> socket.socket:
    """Return a UDP socket for the first usable address of the endpoint. Raise the error of the last address.

    The event loops can create sockets too, but uvloop loses the reason for a failure.
    """
    found = await asyncio.get_running_loop().getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
    problem: OSError | None = None
    for family, kind, protocol, _, address in found:
        try:
            made = socket.socket(family, kind, protocol)
            try:
                made.setblocking(False)
                use(made, address)
            except BaseException:
                made.close()
                raise
            return made
        except OSError as error:
            problem = error
    raise problem or OSError(f"{endpoint.host} has no address")


# Client


async def call(
    endpoint: Endpoint,
    name: str,
    body: bytes,
    *,
    is_packed: bool,
    identity: str,
    auth: object,
    timeout_s: float,
) -> Reply:
    """Call a handler of the server at ``endpoint``, at most once. Errors are those of :func:`landline.call`.

    :raises ConnectFailed: if no server answered before the call was sent with a cookie: the handler has not run.
    """
    aead = make_aead(auth)
    check_call(name, body, identity)
    key = (endpoint.host, endpoint.port, aead.root)
    pending = ClientCall(
        aead=aead,
        random=SystemRandom(),
        now=elapsed_s(),
        name=name,
        body=body,
        is_packed=is_packed,
        identity=identity,
        cookie=_cookies.get(key, b""),
    )
    sock = _ClientSocket(pending)
    try:
        async with asyncio.timeout(timeout_s):
            await sock.open(endpoint)
            await sock.run()
    except TimeoutError as error:
        if pending.exposed_at is None:
            raise ConnectFailed(f"{endpoint}: no landline server answered within {timeout_s:g} s") from error
        raise outcome(RequestTimeout(name, timeout_s)) from error
    finally:
        sock.close()
        if pending.is_lost:
            _cookies.pop(key, None)
        elif pending.cookie:
            _cookies[key] = pending.cookie
            _cookies.move_to_end(key)
            while len(_cookies) > COOKIES_KEPT_MAX:
                _cookies.popitem(last=False)
    if pending.reply is None:
        raise outcome(
            RequestLost(name, "the server has restarted, or has dropped its record of earlier calls")
        )
    return pending.reply


class _ClientSocket(asyncio.DatagramProtocol):
    """The socket of one call. It is connected, so that the kernel drops datagrams of other senders."""

    def __init__(self, call: ClientCall) -> None:
        self._call = call
        self._woken = asyncio.Event()
        self._failure: LandlineError | None = None
        self._transport: asyncio.DatagramTransport | None = None

    async def open(self, endpoint: Endpoint) -> None:
        """Open the socket. Raise :class:`ConnectFailed` if the host has no address, or there is no route."""
        try:
            made = await _open(endpoint, socket.socket.connect)
            await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=made)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConnectFailed(f"{endpoint}: {reason}") from error

    async def run(self) -> None:
        """Send and repeat the call until it is over. Raise an error if the server violates the protocol."""
        call = self._call
        while not call.is_over:
            self._woken.clear()
            now = elapsed_s()
            if now >= call.due and self._transport is not None:
                self._transport.sendto(call.data_to_send(now))
            try:
                async with asyncio.timeout(call.due - now):
                    await self._woken.wait()
            except TimeoutError:
                continue
            if self._failure is not None:
                raise self._failure

    def close(self) -> None:
        """Close the socket, if it was opened."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.DatagramTransport, but have all its methods.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        try:
            if self._call.receive_datagram(data, elapsed_s()):
                self._woken.set()
        except LandlineError as error:
            self._failure = error
            self._woken.set()

    def error_received(self, exc: Exception) -> None:
        """Ignore that a datagram was not delivered: the server may be restarting, and the call is repeated."""


# Server


async def listen(
    endpoint: Endpoint,
    *,
    handlers: Handlers,
    auth: object,
    random: RandomSource,
    clock: Callable[[], float],
    counts: CallCounts,
    tasks: set[asyncio.Task[None]],
) -> UdpListener:
    """Answer calls with ``handlers``. Coroutine functions run as tasks, which are added to ``tasks``.

    :raises landline.AddressInUse: if the address is in use.
    :raises OSError: if the system refuses for another reason.
    :raises ConfigurationError: for a scheme that cannot authenticate a single datagram.
    """
    calls = CallServer(aead=make_aead(auth), random=random, now=clock(), counts=counts)
    listener = UdpListener(endpoint, calls, handlers, clock, tasks)
    with describe_address_in_use(endpoint):
        made = await _open(endpoint, socket.socket.bind)
        await listener.loop.create_datagram_endpoint(lambda: listener, sock=made)
    return listener


class UdpListener(asyncio.DatagramProtocol):
    """A listening socket that answers calls."""

    def __init__(
        self,
        endpoint: Endpoint,
        calls: CallServer,
        handlers: Handlers,
        clock: Callable[[], float],
        tasks: set[asyncio.Task[None]],
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._endpoint = endpoint
        self._calls = calls
        self._handlers = handlers
        self._clock = clock
        self._all_tasks = tasks
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None
        self._closed = asyncio.Event()

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def close(self) -> None:
        """Stop answering, and cancel running handlers, except one that calls this method."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until the socket is closed and the handlers have ended, after :meth:`close`."""
        await self._closed.wait()
        others = self._tasks - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.DatagramTransport, but have all its methods.
        self._transport = cast(asyncio.DatagramTransport, transport)
        port = transport.get_extra_info("sockname")[1]
        self._endpoint = Endpoint(self._endpoint.scheme, self._endpoint.host, port)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        decided = self._calls.receive_datagram(data, addr[0], self._clock())
        if isinstance(decided, NewCall):
            self._run(decided, addr)
        elif decided is not None:
            self._send(decided, addr)

    def error_received(self, exc: Exception) -> None:
        """Ignore that a client has gone: it repeats its call if it still wants the answer."""

    def _run(self, new: NewCall, addr: tuple[str | Any, int]) -> None:
        host, port = addr[:2]
        peer = CallPeer(new.call.identity, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        handler = self._handlers.find(new.call.name)
        # The handlers of the library itself need a line.
        if handler is None or handler.is_reserved:
            self._answer(new, error_reply("no_handler", new.call.name), addr)
        elif handler.is_async:
            task = self.loop.create_task(self._run_async(new, handler, peer, addr))
            for tasks in (self._tasks, self._all_tasks):
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        else:
            try:
                result = handler.function(peer, handler.decode_body(new.call.body, new.call.is_packed))
                reply = self._response(result)
            except FAILURES as error:
                reply = error_reply(*describe_failure(error, new.call.name, peer))
            self._answer(new, reply, addr)

    async def _run_async(
        self, new: NewCall, handler: Handler, peer: CallPeer, addr: tuple[str | Any, int]
    ) -> None:
        try:
            result = await handler.function(peer, handler.decode_body(new.call.body, new.call.is_packed))
            reply = self._response(result)
        except FAILURES as error:
            if is_cancelled(error):
                raise
            reply = error_reply(*describe_failure(error, new.call.name, peer))
        self._answer(new, reply, addr)

    def _response(self, result: Any) -> Reply:
        body, is_packed = self._handlers.encode(result)
        return Reply(Operation.RESPONSE, body, is_packed)

    def _answer(self, new: NewCall, reply: Reply, addr: tuple[str | Any, int]) -> None:
        self._send(self._calls.answer(new.call_id, reply, self._clock()), addr)

    def _send(self, datagram: bytes, addr: tuple[str | Any, int]) -> None:
        if self._transport is not None:
            self._transport.sendto(datagram, addr)
