"""Lines of a :class:`landline.Server` over the WebSockets of an ASGI server, such as uvicorn or Hypercorn.

The ASGI server reads and writes the sockets; to a line, each of its WebSockets is a transport like any other. The
messages are those of docs/protocol.md §2.4, so every client of ``ws://`` can connect.
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
"""The line pauses when more than this waits to be sent; asyncio's own transports have the same limit."""
LOW_WATER_BYTES: Final = HIGH_WATER_BYTES // 4

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def asgi(server: Server, *, origins: tuple[str, ...] = (), handle_signals: bool = True) -> AsgiApp:
    """Return an ASGI application whose WebSockets are lines of ``server``: serve it alone, or mount it under a path.

    Served alone, it closes the server when the ASGI server stops. If it is mounted in another application, that
    application's lifespan must call :meth:`Server.close` at its end. The server may listen on other addresses at the
    same time. After the server was closed, make a new application.

    :param origins: the origins of web pages that may connect, in addition to those of the same host; see
        :class:`landline.TransportOptions`.
    :param handle_signals: under uvicorn, close the server on SIGTERM and Ctrl-C, and pass the signal to uvicorn after
        the goodbyes: uvicorn closes its WebSockets before it tells an application that it stops. A second signal is
        passed at once. Other signal handlers are left alone.
    :raises ConfigurationError: when ``origins`` is not a tuple of text.
    """
    TransportOptions(origins=origins)  # Checks them: a plain text would allow each of its parts.
    return _Application(server, origins, handle_signals=handle_signals)


class _Application:
    """The ASGI application; to the server, it is a listener."""

    def __init__(self, server: Server, allowed_origins: tuple[str, ...], *, handle_signals: bool) -> None:
        self._server = server
        self._interceptor = SignalInterceptor(server) if handle_signals else None
        self._origins = allowed_origins
        self._protocol_factory: ProtocolFactory | None = None
        self._is_closed = False

    # Interface for the server: a landline.transports.base.Listener

    @property
    def endpoint(self) -> Endpoint:
        """A placeholder: only the ASGI server knows the address."""
        return Endpoint("ws")

    def close(self) -> None:
        self._is_closed = True
        if self._interceptor is not None:
            self._interceptor.stop()

    # Interface for the ASGI server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await _answer(send, "http.response", 426, "this URL is for WebSocket clients of landline")

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
        """Start the server in the running event loop, at the first WebSocket or in the lifespan."""
        if self._protocol_factory is None:
            self._protocol_factory = self._server._host.add_listener(self)
            if self._interceptor is not None:
                self._interceptor.start(asyncio.get_running_loop())
        if self._server._host.loop is not asyncio.get_running_loop():
            raise RuntimeError("a landline server belongs to the event loop in which it started")
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
        """Return the HTTP status and a sentence for a WebSocket to refuse, or ``None`` to accept it."""
        if self._is_closed:
            return 503, "the server stops"
        if SUBPROTOCOL not in scope.get("subprotocols", ()):
            return 400, f"no subprotocol {SUBPROTOCOL} was offered"
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not origins.is_allowed(headers.get(b"origin"), headers.get(b"host"), self._origins):
            return 403, f"pages of {headers[b'origin']} may not connect"
        return None


class SignalInterceptor:
    """Closes a server when uvicorn gets a signal to stop, and passes the signal on afterwards.

    uvicorn (0.54) sends a close frame with the code 1012 on every WebSocket before it tells applications that it stops:
    at ``lifespan.shutdown`` no connection is left for a goodbye. So its signal handlers, and no others, are called
    after the goodbyes.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop: asyncio.AbstractEventLoop | None = None
        self._uvicorns: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._closing: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Replace uvicorn's handlers, if there are any. Python handles signals in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._loop = loop
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler) and _is_of_uvicorn(handler):
                self._uvicorns[number] = handler
                signal.signal(number, self._receive)

    def stop(self) -> None:
        """Restore uvicorn's handlers, unless another handler has been installed since."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._uvicorns.items():
            # Each access to a bound method makes a new object, so compare by value.
            if signal.getsignal(number) == self._receive and self._closing is None:
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        assert self._loop is not None
        if self._closing is not None or self._loop.is_closed():
            self._uvicorns[number](number, frame)
            return
        # A signal may interrupt anything, so leave the rest to the event loop.
        self._loop.call_soon_threadsafe(self._close_server, number)

    def _close_server(self, number: int) -> None:
        if self._closing is not None:
            self._uvicorns[number](number, None)
            return
        assert self._loop is not None
        self._closing = self._loop.create_task(self._server.close())
        self._closing.add_done_callback(lambda done: self._pass_on(done, number))

    def _pass_on(self, done: asyncio.Task[None], number: int) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            logger.error("the server could not be closed in order", exc_info=error)
        self._uvicorns[number](number, None)


def _is_of_uvicorn(handler: object) -> bool:
    owner = getattr(handler, "__self__", None)
    # With several servers in one application, each interceptor passes the signal to the one before it.
    return isinstance(owner, SignalInterceptor) or any(
        kind.__module__.partition(".")[0] == "uvicorn" for kind in type(owner).__mro__
    )


class AsgiTransport(asyncio.Transport):
    """A WebSocket of an ASGI server, as the transport of a line.

    The ASGI server's task for the WebSocket reads; another task writes while there is something to write.

    :param linger_s: how many seconds a closing WebSocket has to send what was written.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        protocol: asyncio.BaseProtocol,
        *,
        linger_s: float = LINGER_TIMEOUT_S,
    ) -> None:
        client = scope.get("client")
        super().__init__({"peername": tuple(client) if client else ""})
        self._receive = receive
        self._send = send
        self._linger_s = linger_s
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
        # When it expires, the application drops the WebSocket, whatever the ASGI server still waits for.
        self._deadline = asyncio.timeout(None)

    async def run(self) -> None:
        """Serve the line until either side closes the WebSocket. Cancelling breaks the line's link."""
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
            # This does not wait while the ASGI server has messages in its buffer.
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

    # Interface for the line: an asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send the bytes as one message, or as several if they exceed the limit of a message."""
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
        """Close the WebSocket after what was written, or after ``linger_s`` seconds."""
        self._close(1000)

    def linger(self, discard_bytes_max: int) -> None:
        """See :class:`landline.transports.linger.SupportsLinger`."""
        self._discard_bytes = discard_bytes_max
        self.close()

    def abort(self) -> None:
        """Drop the WebSocket, with what was not sent."""
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
        """Return ``False``: a WebSocket cannot be closed in one direction only."""
        return False

    # Internals

    def _close(self, code: int) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._close_code = code
            self._write_soon()
            self._end_at(self._linger_s)

    def _end_at(self, in_s: float) -> None:
        when = self._deadline.when()
        due = asyncio.get_running_loop().time() + in_s
        # Once it has ended or expired there is nothing to hasten: the line aborts its transport after the end, too.
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
            # Raised by ASGI servers when the client is gone (ASGI 2.4); the reader notices it as well.
            self.abort()
        except Exception:
            logger.exception("the ASGI server failed to send")
            self.abort()
        finally:
            self._writing = None


async def _deny(scope: Scope, send: Send, status: int, sentence: str) -> None:
    """Refuse a WebSocket: with a sentence if the ASGI server supports it, otherwise with its status 403."""
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
