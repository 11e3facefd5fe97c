"""The servers that are measured, each written as its users would write it: ``python -m benchmarks.servers KIND``.

All run on uvloop, which favours the peers that do not choose it by themselves.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from struct import Struct
from typing import Any, cast

import uvloop
from websockets.asyncio.server import ServerConnection, serve

import landline
from benchmarks.processes import SERVER_CORE, anonymous_bytes, begin_child, say

HOST = "127.0.0.1"
_length = Struct(">I").unpack_from


@asynccontextmanager
async def landline_messages() -> AsyncIterator[int]:
    """A message is answered with a message."""
    server = landline.Server()

    @server.on_message
    def echo(line: landline.Line, message: Any) -> None:
        line.send_nowait(message)

    async with server.listen(f"tcp://{HOST}:0") as endpoint:
        yield endpoint.port


@asynccontextmanager
async def landline_requests() -> AsyncIterator[int]:
    """A request is answered with its response."""
    server = landline.Server()

    @server.on("echo")
    def echo(line: landline.Line, body: Any) -> Any:
        return body

    async with server.listen(f"tcp://{HOST}:0") as endpoint:
        yield endpoint.port


class BareEcho(asyncio.Protocol):
    """``u32 length · payload``: parses every frame, answers all of one read in one write, and does nothing else."""

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

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
async def bare_uvloop() -> AsyncIterator[int]:
    """What this language and loop can do at best."""
    server = await asyncio.get_running_loop().create_server(BareEcho, HOST, 0, backlog=4096)
    yield server.sockets[0].getsockname()[1]
    server.close()


@asynccontextmanager
async def websockets_server() -> AsyncIterator[int]:
    """The asyncio server of ``websockets``, compression off."""

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, HOST, 0, compression=None) as server:
        yield next(iter(server.sockets)).getsockname()[1]


KINDS: dict[str, Callable[[], AbstractAsyncContextManager[int]]] = {
    "landline": landline_messages,
    "landline_request": landline_requests,
    "bare_uvloop": bare_uvloop,
    "websockets": websockets_server,
}


async def main(kind: str) -> None:
    """Serves until standard input ends; any line on it asks for the memory used."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def receive_command() -> None:
        if os.read(0, 4096):
            say(anonymous_bytes=anonymous_bytes())
        else:
            loop.remove_reader(0)
            ended.set_result(None)

    async with KINDS[kind]() as port:
        loop.add_reader(0, receive_command)
        say(port=port)
        await ended
        # Nobody is left to be told goodbye.
        os._exit(0)


if __name__ == "__main__":
    begin_child(SERVER_CORE)
    try:
        uvloop.run(main(sys.argv[1]))
    except OSError as error:
        print(json.dumps({"failed": str(error)}), flush=True)
        raise
