"""Lines of a :class:`landline.Server` over the WebSockets of an ASGI server, such as uvicorn or Hypercorn.

The ASGI server reads and writes the sockets; to a line, one of its WebSockets is a transport like others. The messages
are those of docs/protocol.md §2.4, so that any client of ``ws://`` reaches it.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from types import FrameType
from typing import Any, Final, cast

from landline.runtime.guarded_log import guarded_logger
from landline.runtime.turns import FRAMES_PER_TURN, turns_of
from landline.server.server import Server
from landline.transports import origins
from landline.transports.base import MESSAGE_BYTES_MAX, SUBPROTOCOL, ProtocolFactory
from landline.transports.linger import DISCARD_BYTES_MAX, LINGER_TIMEOUT_S
from landline.transports.options import TransportOptions
from landline.transports.urls import Endpoint

logger: Final = guarded_logger("landline")

HIGH_WATER_BYTES: Final = 64 * 1024
"""What waits for the ASGI server above this makes the line pause; as much as asyncio's own transports let wait."""
LOW_WATER_BYTES: Final = HIGH_WATER_BYTES // 4

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def asgi(server: Server, *, origins: tuple[str, ...] = (), handle_signals: bool = True) -> AsgiApp:
    """An ASGI application whose WebSockets are lines of ``server``: serve it alone, or mount it under a path.

    Served alone it closes the server when the ASGI server stops. Mounted in another application, which has a lifespan
    of its own, that one calls :meth:`Server.close` at its end. The server may listen elsewhere at the same time.

    :param origins: the web pages that may connect beside those of the same host, as in
        :class:`landline.TransportOptions`.
    :param handle_signals: under uvicorn, close the server when SIGTERM or Ctrl-C comes, and let uvicorn have the signal
        once goodbye is said: it cuts its WebSockets before it tells an application that it stops. A second signal goes
        through at once. No other signal handler is touched.
    :raises ConfigurationError: for ``origins`` that are no tuple of text.
    """
    TransportOptions(origins=origins)  # Checks them: a text would let in every part of itself.
    return _Application(server, origins, handle_signals=handle_signals)


class _Application:
    """Answers the scopes of ASGI; to the server, it is a listener."""

    def __init__(self, server: Server, allowed_origins: tuple[str, ...], *, handle_signals: bool) -> None:
        self._server = server
        self._goodbye = GoodbyeFirst(server) if handle_signals else None
        self._origins = allowed_origins
        self._protocol_factory: ProtocolFactory | None = None
        self._is_closed = False

    # For the server: a landline.transports.Listener.

    @property
    def endpoint(self) -> Endpoint:
        """Where it is reached is known to the ASGI server only."""
        return Endpoint("ws")

    def close(self) -> None:
        self._is_closed = True
        if self._goodbye is not None:
            self._goodbye.stop()

    # For the ASGI server.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await _answer(send, "http.response", 426, "this is a line for programs that speak WebSocket")

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._begin()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._server.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _begin(self) -> ProtocolFactory:
        """The first WebSocket, or the lifespan, tells in which event loop the server lives."""
        if self._protocol_factory is None:
            self._protocol_factory = self._server._host.add_listener(self)
            if self._goodbye is not None:
                self._goodbye.start(asyncio.get_running_loop())
        if self._server._host.loop is not asyncio.get_running_loop():
            raise RuntimeError("a landline server belongs to the event loop in which it began")
        return self._protocol_factory

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        protocol_factory = self._begin()
        await receive()  # websocket.connect, always
        refusal = self._refusal(scope)
        if refusal is not None:
            await _deny(scope, send, *refusal)
            return
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
        await AsgiTransport(scope, receive, send, protocol_factory()).run()

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """The status of HTTP, and a sentence, for a WebSocket that is not accepted."""
        if self._is_closed:
            return 503, "the server stops"
        if SUBPROTOCOL not in scope.get("subprotocols", ()):
            return 400, f"no subprotocol {SUBPROTOCOL} was offered"
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not origins.is_allowed(headers.get(b"origin"), headers.get(b"host"), self._origins):
            return 403, f"pages of {headers[b'origin']} may not connect"
        return None


class GoodbyeFirst:
    """Closes a server when uvicorn is told to stop, and only then lets uvicorn know.

    uvicorn (0.54) sends a close frame with the code 1012 into every WebSocket before it tells applications that it
    stops: after ``lifespan.shutdown`` there is no connection left to say goodbye on. So its handlers of signals, and no
    others, are called when goodbye is said.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop: asyncio.AbstractEventLoop | None = None
        self._uvicorns: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._closing: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the place of uvicorn's handlers, if there are any. Signals are for the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._loop = loop
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler) and _is_of_uvicorn(handler):
                self._uvicorns[number] = handler
                signal.signal(number, self._receive)

    def stop(self) -> None:
        """Give uvicorn's handlers their place back, unless somebody else has it."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._uvicorns.items():
            # A bound method is another object each time.
            if signal.getsignal(number) == self._receive and self._closing is None:
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        assert self._loop is not None
        if self._closing is not None or self._loop.is_closed():
            self._uvicorns[number](number, frame)
            return
        # In the middle of anything: the loop does the rest in its next turn.
        self._loop.call_soon_threadsafe(self._say_goodbye, number)

    def _say_goodbye(self, number: int) -> None:
        if self._closing is not None:
            self._uvicorns[number](number, None)
            return
        assert self._loop is not None
        self._closing = self._loop.create_task(self._server.close())
        self._closing.add_done_callback(lambda done: self._goodbye_said(done, number))

    def _goodbye_said(self, done: asyncio.Task[None], number: int) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            logger.error("the server could not be closed in order", exc_info=error)
        self._uvicorns[number](number, None)


def _is_of_uvicorn(handler: object) -> bool:
    owner = getattr(handler, "__self__", None)
    # Of several servers in one application, each goes before the one that came earlier.
    return isinstance(owner, GoodbyeFirst) or any(
        kind.__module__.partition(".")[0] == "uvicorn" for kind in type(owner).__mro__
    )


class AsgiTransport(asyncio.Transport):
    """A WebSocket of an ASGI server, as the transport of a line.

    The task that the ASGI server runs for each WebSocket reads; another one writes, while there is something to write.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, protocol: asyncio.BaseProtocol) -> None:
        client = scope.get("client")
        super().__init__({"peername": tuple(client) if client else ""})
        self._receive = receive
        self._send = send
        self._protocol = cast(asyncio.Protocol, protocol)
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._high_bytes = HIGH_WATER_BYTES
        self._low_bytes = LOW_WATER_BYTES
        self._is_paused = False
        self._is_closing = False
        self._close_code = 1000
        self._discard_bytes = DISCARD_BYTES_MAX
        self._writing: asyncio.Task[None] | None = None
        self._reading_paused: asyncio.Future[None] | None = None
        self._is_over = False
        # Its end is when the application gives the WebSocket up, whatever the ASGI server still waits for.
        self._deadline = asyncio.timeout(None)

    async def run(self) -> None:
        """Carries the line until either side ends the WebSocket. Cancelling it breaks the line's link."""
        self._protocol.connection_made(self)
        try:
            async with self._deadline:
                await self._read()
        except TimeoutError:
            if not self._deadline.expired():
                raise
        finally:
            self._is_closing = self._is_over = True
            self._waiting.clear()
            if self._writing is not None:
                self._writing.cancel()
            self._protocol.connection_lost(None)

    async def _read(self) -> None:
        read = 0
        while True:
            # It returns without waiting while the ASGI server has read ahead.
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            read += 1
            if read % FRAMES_PER_TURN == 0:
                await turns_of(asyncio.get_running_loop()).pause()
            if self._reading_paused is not None:
                await self._reading_paused
            data = message.get("bytes")
            if self._is_closing:
                self._discard_bytes -= len(data or b"")
                if self._discard_bytes < 0:
                    self.abort()
                continue
            if data is None:
                self._close(1003)
            elif len(data) > MESSAGE_BYTES_MAX:
                self._close(1009)
            elif data:
                self._protocol.data_received(data)

    # For the line: an asyncio.Transport.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Hands the bytes to the ASGI server as one message, or several when they are more than one can hold."""
        if self._is_closing or not data:
            return
        for start in range(0, len(data), MESSAGE_BYTES_MAX):
            self._waiting.append(bytes(data[start : start + MESSAGE_BYTES_MAX]))
        self._waiting_bytes += len(data)
        self._write_soon()
        if not self._is_paused and self._waiting_bytes > self._high_bytes:
            self._is_paused = True
            self._protocol.pause_writing()

    def close(self) -> None:
        """Closes the WebSocket behind what was written; gives it up after
        :data:`landline.transports.linger.LINGER_TIMEOUT_S`.
        """
        self._close(1000)

    def linger(self, discard_bytes_max: int) -> None:
        """See :class:`landline.transports.linger.SupportsLinger`."""
        self._discard_bytes = discard_bytes_max
        self.close()

    def abort(self) -> None:
        """Gives the WebSocket up, and what was not taken with it."""
        self._is_closing = True
        self._end_at(0.0)

    def is_closing(self) -> bool:
        return self._is_closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_write_buffer_size(self) -> int:
        return self._waiting_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low_bytes, self._high_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high_bytes = HIGH_WATER_BYTES if high is None else high
        self._low_bytes = self._high_bytes // 4 if low is None else low

    def is_reading(self) -> bool:
        return self._reading_paused is None and not self._is_closing

    def pause_reading(self) -> None:
        if self._reading_paused is None:
            self._reading_paused = asyncio.get_running_loop().create_future()

    def resume_reading(self) -> None:
        paused, self._reading_paused = self._reading_paused, None
        if paused is not None and not paused.done():
            paused.set_result(None)

    def can_write_eof(self) -> bool:
        """A WebSocket cannot be closed in one direction only."""
        return False

    # Inside.

    def _close(self, code: int) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._close_code = code
            self._write_soon()
            self._end_at(LINGER_TIMEOUT_S)

    def _end_at(self, in_s: float) -> None:
        when = self._deadline.when()
        due = asyncio.get_running_loop().time() + in_s
        # Once it is over, or ending, there is nothing to hasten: a line aborts the transport whose end it hears of.
        if not (self._is_over or self._deadline.expired()) and (when is None or due < when):
            self._deadline.reschedule(due)

    def _write_soon(self) -> None:
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_out())

    async def _write_out(self) -> None:
        try:
            while self._waiting:
                data = self._waiting.popleft()
                await self._send({"type": "websocket.send", "bytes": data})
                self._waiting_bytes -= len(data)
                if self._is_paused and self._waiting_bytes <= self._low_bytes:
                    self._is_paused = False
                    self._protocol.resume_writing()
            if self._is_closing:
                await self._send({"type": "websocket.close", "code": self._close_code})
        except OSError:
            # What ASGI servers raise when the client is gone (ASGI 2.4); the reader hears of it as well.
            self.abort()
        except Exception:
            logger.exception("the ASGI server failed to send")
            self.abort()
        finally:
            self._writing = None


async def _deny(scope: Scope, send: Send, status: int, sentence: str) -> None:
    """Says no to a WebSocket: with a sentence where the ASGI server can say one, else with its 403."""
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await _answer(send, "websocket.http.response", status, sentence)
    else:
        await send({"type": "websocket.close"})


async def _answer(send: Send, kind: str, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if status == 426:
        headers.append((b"upgrade", b"websocket"))
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": f"{sentence}\n".encode()})
