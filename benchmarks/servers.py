"""The measured servers, each written as its users would write it: ``python -m benchmarks.servers KIND``.

All that are Python run on uvloop, which favours the peers that do not choose it by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import shutil
import ssl
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, cast

import uvloop

import landline
from benchmarks import brokers
from benchmarks.clients import PAYLOAD
from benchmarks.processes import SERVER_CORE, anonymous_bytes, begin_child, say, trim_heap

HOST: Final = "127.0.0.1"
NEVER_S: Final = 3_600.0
BACKLOG: Final = 4096
UNLIMITED: Final = landline.Admission(per_s=1e6, burst=10**6, unfinished=10**6)
_length = struct.Struct(">I").unpack_from


class Serving:
    """A running server: its address, its process, and how to make it send one message to all connections."""

    def __init__(
        self, port: int, broadcast: Callable[[], object], *, pid: int | None = None, ca_file: str = ""
    ) -> None:
        self.port = port
        self.ca_file = ca_file
        """The certificate authority for clients, in a directory that is removed with the server."""
        self.broadcast = broadcast
        self.pid = os.getpid() if pid is None else pid


Kind = Callable[[float], AbstractAsyncContextManager[Serving]]
"""Called with the heartbeat interval in seconds."""


def make_landline_server(heartbeat_s: float) -> landline.Server:
    """Create a server of landline. Like the peers it admits all clients at once."""
    return landline.Server(heartbeat=landline.Heartbeat(interval_s=heartbeat_s), admission=UNLIMITED)


def tls_context() -> ssl.SSLContext:
    """Return a TLS context with a new certificate."""
    import trustme

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(HOST).configure_cert(context)
    return context


def make_landline_echo(heartbeat_s: float) -> landline.Server:
    """Answer a message with a message, and a request with a response."""
    server = make_landline_server(heartbeat_s)

    @server.on_message
    def echo_message(line: landline.Line, message: Any) -> None:
        line.send_nowait(message)

    @server.on("echo")
    def echo(line: landline.Line, body: Any) -> Any:
        return body

    return server


@asynccontextmanager
async def landline_messages(
    heartbeat_s: float, tls: ssl.SSLContext | None = None, scheme: str = "tcp"
) -> AsyncIterator[Serving]:
    """Lines over TCP, TLS or WebSocket."""
    server = make_landline_echo(heartbeat_s)
    async with server.listen(f"{scheme}://{HOST}:0", options=landline.TransportOptions(tls=tls)) as endpoint:
        yield Serving(endpoint.port, lambda: server.broadcast(PAYLOAD))


@asynccontextmanager
async def landline_quic(heartbeat_s: float) -> AsyncIterator[Serving]:
    """Lines over QUIC, with a new certificate."""
    import trustme

    server = make_landline_echo(heartbeat_s)
    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        ca_file, certificate_file, key_file = (f"{folder}/{name}.pem" for name in ("ca", "server", "key"))
        authority.cert_pem.write_to_path(ca_file)
        issued.private_key_pem.write_to_path(key_file)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(certificate_file, append=True)
        options = landline.TransportOptions(certificate_file=certificate_file, private_key_file=key_file)
        async with server.listen(f"quic://{HOST}:0", options=options) as endpoint:
            yield Serving(endpoint.port, lambda: server.broadcast(PAYLOAD), ca_file=ca_file)


class BareEcho(asyncio.Protocol):
    """``u32 length · payload``: parses every frame and answers all frames of one read in one write."""

    transports: Final[set[asyncio.Transport]] = set()

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.transports.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        position, end = 0, len(buffer)
        output = []
        while end - position >= 4:
            frame_end = position + 4 + _length(buffer, position)[0]
            if frame_end > end:
                break
            output.append(buffer[position:frame_end])
            position = frame_end
        self._buffer = buffer[position:]
        self._transport.write(b"".join(output))


@asynccontextmanager
async def bare_uvloop(heartbeat_s: float, tls: ssl.SSLContext | None = None) -> AsyncIterator[Serving]:
    """The upper limit of this language and event loop. It has no heartbeats."""
    server = await asyncio.get_running_loop().create_server(BareEcho, HOST, 0, ssl=tls, backlog=BACKLOG)
    frame = struct.pack(">I", len(PAYLOAD)) + PAYLOAD

    def broadcast() -> None:
        for transport in BareEcho.transports:
            transport.write(frame)

    yield Serving(server.sockets[0].getsockname()[1], broadcast)


@asynccontextmanager
async def websockets_server(heartbeat_s: float, tls: ssl.SSLContext | None = None) -> AsyncIterator[Serving]:
    """The asyncio server of ``websockets``, compression off."""
    from websockets.asyncio.server import ServerConnection, broadcast, serve
    from websockets.exceptions import ConnectionClosed

    async def echo(connection: ServerConnection) -> None:
        try:
            async for message in connection:
                await connection.send(message)
        except ConnectionClosed:
            pass

    async with serve(
        echo,
        HOST,
        0,
        ssl=tls,
        compression=None,
        ping_interval=heartbeat_s,
        ping_timeout=heartbeat_s / 2,
        backlog=BACKLOG,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield Serving(port, lambda: broadcast(server.connections, PAYLOAD))


@asynccontextmanager
async def picows_server(heartbeat_s: float) -> AsyncIterator[Serving]:
    """A listener of ``picows`` that echoes messages."""
    import picows

    connected: set[Any] = set()

    class Echo(picows.WSListener):
        def on_ws_connected(self, transport: Any) -> None:
            connected.add(transport)

        def on_ws_disconnected(self, transport: Any) -> None:
            connected.discard(transport)

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == picows.WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
                transport.disconnect()
            else:
                transport.send(frame.msg_type, frame.get_payload_as_bytes())

    def broadcast() -> None:
        for transport in connected:
            transport.send(picows.WSMsgType.BINARY, PAYLOAD)

    server = await picows.ws_create_server(
        lambda request: Echo(),
        HOST,
        0,
        enable_auto_ping=True,
        # It waits for both in turn, also after the pong: their sum is the time between two pings.
        auto_ping_idle_timeout=heartbeat_s * 2 / 3,
        auto_ping_reply_timeout=heartbeat_s / 3,
        auto_ping_strategy=picows.WSAutoPingStrategy.PING_PERIODICALLY,
        backlog=BACKLOG,
    )
    yield Serving(server.sockets[0].getsockname()[1], broadcast)


@asynccontextmanager
async def socketio_server(heartbeat_s: float) -> AsyncIterator[Serving]:
    """``python-socketio`` on uvicorn, WebSocket only: an event is answered with an event, a call with its answer."""
    import socketio
    import uvicorn

    server = socketio.AsyncServer(
        async_mode="asgi", transports=["websocket"], ping_interval=heartbeat_s, ping_timeout=heartbeat_s / 2
    )

    async def receive_message(sid: str, data: Any) -> None:
        await server.emit("message", data, to=sid)

    async def answer(sid: str, data: Any) -> Any:
        return data

    server.on("message", receive_message)
    server.on("echo", answer)
    config = uvicorn.Config(
        socketio.ASGIApp(server), host=HOST, port=0, log_level="error", lifespan="off", backlog=BACKLOG
    )
    web = uvicorn.Server(config)
    serving = asyncio.create_task(web.serve())
    while not web.started:
        if serving.done():
            await serving
        await asyncio.sleep(0.01)
    yield Serving(web.servers[0].sockets[0].getsockname()[1], lambda: None)


def _broker(run: Callable[[float], brokers.Broker]) -> Kind:
    @asynccontextmanager
    async def serve(heartbeat_s: float) -> AsyncIterator[Serving]:
        with run(heartbeat_s) as broker:
            yield Serving(broker.port, broker.publish, pid=broker.pid)

    return serve


KINDS: Final[dict[str, Kind]] = {
    "landline": landline_messages,
    "landline_request": landline_messages,
    "landline_tls": lambda heartbeat_s: landline_messages(heartbeat_s, tls_context(), "tls"),
    "landline_ws": lambda heartbeat_s: landline_messages(heartbeat_s, scheme="ws"),
    "landline_quic": landline_quic,
    "bare_uvloop": bare_uvloop,
    "bare_uvloop_tls": lambda heartbeat_s: bare_uvloop(heartbeat_s, tls_context()),
    "websockets": websockets_server,
    "websockets_tls": lambda heartbeat_s: websockets_server(heartbeat_s, tls_context()),
    "picows": picows_server,
    "socketio": socketio_server,
    "nats": _broker(brokers.nats_server),
    "mosquitto": _broker(brokers.mosquitto),
}


BY_LANDLINE: Final = ("landline", "landline_request", "landline_tls", "landline_ws", "landline_quic")
"""Run by :func:`landline.run`, which runs uvloop after configuring the C library's allocator."""


async def main(kind: str, heartbeat_s: float) -> None:
    """Execute the commands on standard input until it ends."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    async with KINDS[kind](heartbeat_s) as serving:

        def receive_command() -> None:
            data = os.read(0, 4096)
            if not data:
                loop.remove_reader(0)
                ended.set_result(None)
                return
            command = json.loads(data)["do"]
            if command in {"memory", "memory_trimmed"}:
                gc.collect()
                if command == "memory_trimmed":
                    trim_heap()
                say(anonymous_bytes=anonymous_bytes(serving.pid))
            elif command == "broadcast":
                called_at = time.monotonic()
                serving.broadcast()
                say(called_at=called_at)

        loop.add_reader(0, receive_command)
        trusted = {"ca_file": serving.ca_file} if serving.ca_file else {}
        say(port=serving.port, pid=serving.pid, **trusted)
        await ended
        if serving.pid == os.getpid():
            if serving.ca_file:
                shutil.rmtree(os.path.dirname(serving.ca_file))
            # No client is left to close a line to.
            os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--heartbeat", type=float, default=NEVER_S)
    arguments = parser.parse_args()
    begin_child(SERVER_CORE)
    # Thousands of cut connections are part of the measurement, not errors to log.
    logging.getLogger().setLevel(logging.CRITICAL)
    try:
        run = landline.run if arguments.kind in BY_LANDLINE else uvloop.run
        run(main(arguments.kind, arguments.heartbeat))
    except OSError as error:
        print(json.dumps({"failed": str(error)}), flush=True)
        raise
