"""Python clients that send requests, and the responder for nats-py.

Usage: ``python -m benchmarks.requesters KIND PORT [CA_FILE]``.

Each is the client of its own library, on uvloop, in a separate process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import uvloop

import landline
from benchmarks.clients import PAYLOAD
from benchmarks.processes import LOAD_CORE, SERVER_CORE, begin_child, say

Ask = Callable[[bytes], Awaitable[Any]]
HOST: Final = "127.0.0.1"
WARM_UP_SHARE: Final = 0.25
ID_BYTES: Final = 8


@asynccontextmanager
async def landline_client(port: int) -> AsyncIterator[Ask]:
    """``line.request``."""
    async with landline.connect(f"tcp://{HOST}:{port}") as line:
        yield lambda body: line.request("echo", body)


@asynccontextmanager
async def landline_quic_client(port: int) -> AsyncIterator[Ask]:
    """``line.request`` over QUIC. The third argument of the program names the file of the server's authority."""
    options = landline.TransportOptions(ca_file=sys.argv[3])
    async with landline.connect(f"quic://{HOST}:{port}", options=options) as line:
        yield lambda body: line.request("echo", body)


@asynccontextmanager
async def websockets_client(port: int) -> AsyncIterator[Ask]:
    """The asyncio client of ``websockets``; responses are matched by a leading number."""
    from websockets.asyncio.client import connect

    waiting: dict[bytes, asyncio.Future[bytes]] = {}
    last = 0
    loop = asyncio.get_running_loop()
    async with connect(f"ws://{HOST}:{port}", compression=None) as connection:

        async def receive() -> None:
            async for message in connection:
                assert isinstance(message, bytes)
                waiting.pop(message[:ID_BYTES]).set_result(message[ID_BYTES:])

        async def ask(body: bytes) -> bytes:
            nonlocal last
            last += 1
            number = last.to_bytes(ID_BYTES, "big")
            answer: asyncio.Future[bytes] = loop.create_future()
            waiting[number] = answer
            await connection.send(number + body)
            return await answer

        receiver = asyncio.create_task(receive())
        yield ask
        receiver.cancel()


@asynccontextmanager
async def socketio_client(port: int) -> AsyncIterator[Ask]:
    """``AsyncClient.call``."""
    import socketio

    client = socketio.AsyncClient(handle_sigint=False)
    await client.connect(f"http://{HOST}:{port}", transports=["websocket"])
    yield lambda body: client.call("echo", body)
    await client.disconnect()


@asynccontextmanager
async def nats_client(port: int) -> AsyncIterator[Ask]:
    """``Client.request`` of nats-py; :func:`respond` answers."""
    import nats

    client = await nats.connect(f"nats://{HOST}:{port}")

    async def ask(body: bytes) -> bytes:
        answer: bytes = (await client.request("echo", body, timeout=30)).data
        return answer

    yield ask
    await client.close()


CLIENTS: Final[dict[str, Callable[[int], AbstractAsyncContextManager[Ask]]]] = {
    "landline": landline_client,
    "landline_quic": landline_quic_client,
    "websockets": websockets_client,
    "socketio": socketio_client,
    "nats_py": nats_client,
}


async def respond(port: int) -> None:
    """Respond to the requests of nats-py until standard input ends."""
    import nats

    client = await nats.connect(f"nats://{HOST}:{port}")

    async def answer(message: Any) -> None:
        await message.respond(message.data)

    await client.subscribe("echo", cb=answer)
    await client.flush()
    say(pid=os.getpid())
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await client.close()


async def measure(ask: Ask, in_flight: int, seconds: float) -> dict[str, Any]:
    """Run workers that each send one request after the other, and compare every response with its request."""
    count = 0
    ended = False

    async def work() -> None:
        nonlocal count
        while not ended:
            if await ask(PAYLOAD) != PAYLOAD:
                raise RuntimeError("a response differs from its request")
            count += 1

    async with asyncio.TaskGroup() as workers:
        for _ in range(in_flight):
            workers.create_task(work())
        await asyncio.sleep(seconds * WARM_UP_SHARE)
        before, cpu, started = count, time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        while count == before:
            await asyncio.sleep(seconds / 10)
        elapsed, answered = time.monotonic() - started, count - before
        cpu = time.process_time() - cpu
        ended = True
    return {"count": answered, "rate": answered / elapsed, "load_busy": cpu / elapsed}


async def main(kind: str, port: int) -> None:
    """Execute the commands on standard input until it ends."""
    loop = asyncio.get_running_loop()
    async with CLIENTS[kind](port) as ask:
        say(ready=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            say(**await measure(ask, **json.loads(line)))


if __name__ == "__main__":
    if sys.argv[1] == "respond":
        begin_child(SERVER_CORE)
        uvloop.run(respond(int(sys.argv[2])))
    else:
        begin_child(LOAD_CORE)
        uvloop.run(main(sys.argv[1], int(sys.argv[2])))
