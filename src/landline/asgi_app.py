"""Lines of a :class:`landline.Server` over the WebSockets of an ASGI server, such as uvicorn or Hypercorn.

The ASGI server reads and writes the sockets; to a line, one of its WebSockets is a transport like others. The messages
are those of docs/protocol.md §2.4, so that any client of ``ws://`` reaches it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, cast

from landline.server import Server
from landline.transports import LEAVE_S, MESSAGE_BYTES_MAX, SUBPROTOCOL, Endpoint, ProtocolFactory, origins
from landline.turns import FRAMES_PER_TURN, turns_of

logger = logging.getLogger("landline")

HIGH_WATER_BYTES: Final = 64 * 1024
"""What waits for the ASGI server above this makes the line pause; as much as asyncio's own transports let wait."""
LOW_WATER_BYTES: Final = HIGH_WATER_BYTES // 4

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def asgi(server: Server, *, origins: tuple[str, ...] = ()) -> AsgiApp:
    """An ASGI application whose WebSockets are lines of ``server``: serve it alone, or mount it under a path.

    Served alone it closes the server when the ASGI server stops. Mounted in another application, which has a lifespan
    of its own, that one calls :meth:`Server.close` at its end. The server may listen elsewhere at the same time.

    :param origins: the web pages that may connect beside those of the same host, as in
        :class:`landline.TransportOptions`.
    """
    return _Application(server, origins)


class _Application:
    """Answers the scopes of ASGI; to the server, it is a listener."""

    def __init__(self, server: Server, allowed_origins: tuple[str, ...]) -> None:
        self._server = server
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
            self._protocol_factory = self._server.add_listener(self)
        if self._server.loop is not asyncio.get_running_loop():
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
        """Closes the WebSocket behind what was written; gives it up after :data:`landline.transports.LEAVE_S`."""
        self._close(1000)

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
            self._end_at(LEAVE_S)

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
