"""The server and the clients of a storm, each a process on its own core.

Usage: ``python -m benchmarks.storm_processes serve|crowd OPTIONS``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from random import Random
from typing import Final

import uvloop

import landline
from benchmarks.processes import LOAD_CORE, SERVER_CORE, begin_child, say
from benchmarks.servers import HOST, UNLIMITED
from landline import Admission, Line, LineState, StateChange

BIN_S: Final = 0.1
AT_ONCE: Final = 100
"""Number of clients that connect at the same time at the start."""


class Longest(Random):
    """A random generator without randomness: every delay is the longest possible one, and equal for all."""

    def random(self) -> float:
        return 1.0


async def serve(port: int, per_s: float) -> None:
    """Count connections until standard input ends. A line on it requests the counts."""
    admission = Admission(per_s=per_s, burst=max(1, int(per_s))) if per_s else UNLIMITED
    server = landline.Server(admission=admission)
    loop = asyncio.get_running_loop()
    welcomed = 0
    tried: list[int] = []

    def count() -> None:
        tried.append(server.connections_refused + welcomed)
        loop.call_at(started + BIN_S * (len(tried) + 1), count)

    @server.on_line
    async def take(line: Line) -> None:
        nonlocal welcomed
        welcomed += 1

    async with server.listen(f"tcp://{HOST}:{port}"):
        started = loop.time()
        loop.call_at(started + BIN_S, count)
        say(pid=os.getpid(), listening_at=time.monotonic())
        while await loop.run_in_executor(None, sys.stdin.readline):
            # The last bin is counted at its end.
            await asyncio.sleep(2 * BIN_S)
            say(tried=tried)


async def crowd(port: int, clients: int, *, jitter: bool) -> None:
    """Connect all clients and report that; after each line on standard input, report when all have reconnected."""
    loop = asyncio.get_running_loop()
    back = asyncio.Event()
    returned: list[float] = []
    refused: Counter[str] = Counter()

    def changed(line: Line, change: StateChange) -> None:
        if change.state is LineState.ONLINE:
            returned.append(time.monotonic())
            if len(returned) == clients:
                back.set()
        elif change.state is LineState.RECONNECTING:
            refused[change.cause.value] += 1

    async with AsyncExitStack() as stack:
        for begin in range(0, clients, AT_ONCE):
            connectors = [
                landline.connect(
                    f"tcp://{HOST}:{port}",
                    connect_timeout_s=None,
                    on_state=changed,
                    random=Random() if jitter else Longest(),
                )
                for _ in range(begin, min(begin + AT_ONCE, clients))
            ]
            await asyncio.gather(*map(stack.enter_async_context, connectors))
        while True:
            say(online=len(returned), returned=returned, refused=refused)
            returned.clear()
            refused.clear()
            back.clear()
            if not await loop.run_in_executor(None, sys.stdin.readline):
                os._exit(0)  # Closing thousands of lines would only take time.
            await back.wait()


def main() -> None:
    """Run the side that the arguments name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("serve", "crowd"))
    parser.add_argument("options", type=json.loads)
    arguments = parser.parse_args()
    if arguments.side == "serve":
        begin_child(SERVER_CORE)
        uvloop.run(serve(**arguments.options))
    else:
        begin_child(LOAD_CORE)
        uvloop.run(crowd(**arguments.options))


if __name__ == "__main__":
    main()
