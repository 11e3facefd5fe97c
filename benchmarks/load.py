"""The process that loads the servers: ``python -m benchmarks.load``, commands on standard input.

Its inner loops are C, compiled when it starts, where there is a compiler; otherwise the one of echo is Python, which
may be slower than the server it loads (the result says so: "load-bound").
"""

from __future__ import annotations

import ctypes
import json
import math
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.bulk_connect import Connection, connect, reconnect
from benchmarks.clients import CLIENTS, Frames
from benchmarks.loops import CLoop, Crowd, Loop, PythonLoop, compile_loops
from benchmarks.processes import LOAD_CORE, begin_child, cpu_seconds, say

WARM_UP_SHARE = 0.25
DRAIN_TIMEOUT_S = 2.0
FAN_OUT_TIMEOUT_S = 30.0
SETTLE_S = 0.02
SETTLE_EACH_S = 20e-6
"""What a server still does with the last acknowledgements is counted as its CPU time, this long, and this more for
each connection."""
LISTEN_S = 0.2
"""How soon a listener notices its end."""
RATE_MAX = 3_000_000
"""Messages per second for which frames are encoded: more than any measured server reaches."""
FRAMES_MAX = 300_000


class Load:
    """Executes the commands of the parent."""

    def __init__(self, library: ctypes.CDLL | None, *, may_spin: bool) -> None:
        self._library = library
        self._may_spin = may_spin
        self._frames: dict[tuple[str, int, int], Frames] = {}
        self._held: list[Connection] = []
        self._held_kind = ""
        self._crowd: Crowd | None = None
        self._listener: threading.Thread | None = None
        self._is_over = threading.Event()
        self._broken = ""

    def echo(
        self,
        *,
        kind: str,
        port: int,
        pid: int,
        connections: int,
        in_flight: int,
        seconds: float,
        sleeps: bool,
    ) -> dict[str, Any]:
        """Measure one round against one server. Unless it ``sleeps`` between responses, the load spins on its core."""
        client = CLIENTS[kind]
        frames = self._frames_for(kind, connections, in_flight, seconds)
        opened = connect(kind, port, connections)
        sockets = [connection.sock for connection in opened]
        loop: Loop = (
            CLoop(self._library, sockets, client, frames, spin=self._may_spin and not sleeps)
            if self._library is not None
            else PythonLoop(sockets, client, frames)
        )
        try:
            loop.start(in_flight)
            loop.run(seconds * WARM_UP_SHARE, refill=True)
            server_cpu, started = cpu_seconds(pid), time.monotonic()
            messages = loop.run(seconds, refill=True)
            elapsed = time.monotonic() - started
            server_cpu = cpu_seconds(pid) - server_cpu
            load_share = loop.busy_share()
            if any(loop.sent(index) == frames.count for index in range(connections)):
                raise RuntimeError(f"the {frames.count} frames for each connection ran out")
            loop.run(DRAIN_TIMEOUT_S, refill=False)
            if loop.in_flight():
                raise RuntimeError(f"{loop.in_flight()} messages did not come back")
            answered = sum(loop.sent(index) for index in range(connections))
            for index, sock in enumerate(sockets):
                sock.sendall(client.goodbye(loop.sent(index)))
        finally:
            loop.close()
            for sock in sockets:
                sock.close()
        return {
            "answered": answered,
            "rate": messages / elapsed,
            "server_cpu": server_cpu / elapsed,
            "load_busy": load_share,
            "cost_us": server_cpu / max(messages, 1) * 1e6,
        }

    def round_trip(self, *, kind: str, port: int, pid: int, seconds: float) -> dict[str, Any]:
        """Measure one message at a time on one connection."""
        client = CLIENTS[kind]
        frames = self._frames_for(kind, 30, 1, seconds)
        (connection,) = connect(kind, port, 1)
        loop = CLoop(self._needs_library(), [connection.sock], client, frames, spin=True)
        try:
            loop.round_trips(seconds * WARM_UP_SHARE)
            server_cpu, started = cpu_seconds(pid), time.monotonic()
            away_s = loop.round_trips(seconds)
            elapsed = time.monotonic() - started
            server_share = (cpu_seconds(pid) - server_cpu) / elapsed
            connection.sock.sendall(client.goodbye(loop.sent(0)))
        finally:
            loop.close()
            connection.sock.close()
        hundredths = statistics.quantiles(away_s, n=100)
        return {
            "count": len(away_s),
            "p50_us": hundredths[49] * 1e6,
            "p99_us": hundredths[98] * 1e6,
            "server_cpu": server_share,
        }

    def hold(self, *, kind: str, port: int, connections: int) -> dict[str, Any]:
        """Open more connections and keep them idle."""
        self._forget_crowd()
        self._held += connect(kind, port, connections)
        self._held_kind = kind
        return {"held": len(self._held)}

    def release(self) -> dict[str, Any]:
        """Close the held connections."""
        self._forget_crowd()
        for connection in self._held:
            connection.cut()
        self._held.clear()
        return {}

    def answer_pings(self) -> dict[str, Any]:
        """Answer the pings on the held connections in a thread, until they are released."""
        crowd = self._listeners()

        def listen() -> None:
            try:
                while not self._is_over.is_set():
                    # Without the GIL, so that commands are read meanwhile.
                    if crowd.run(LISTEN_S, spin=False):
                        raise ConnectionError("an idle connection got a message")
            except OSError as error:
                self._broken = str(error)

        self._is_over.clear()
        self._listener = threading.Thread(target=listen)
        self._listener.start()
        return {}

    def count_pings(self) -> dict[str, Any]:
        """Return the number of answered pings."""
        if self._broken:
            raise RuntimeError(self._broken)
        return {"pings": self._listeners().pings}

    def receive_one(self, *, pid: int) -> dict[str, Any]:
        """Wait until one message has reached each held connection, and acknowledge it."""
        crowd = self._listeners()
        server_cpu = cpu_seconds(pid)
        say(listening=True)
        count = crowd.run(FAN_OUT_TIMEOUT_S, until=len(self._held))
        last_at = crowd.last_at
        crowd.acknowledge()
        extra = crowd.run(SETTLE_S + SETTLE_EACH_S * len(self._held), spin=False)
        fewest, most = crowd.spread()
        if extra or count != len(self._held) or fewest != most:
            raise RuntimeError(
                f"{count + extra} messages reached {len(self._held)} connections, {fewest} to {most} in all on each"
            )
        return {"last_at": last_at, "messages": count, "server_cpu_s": cpu_seconds(pid) - server_cpu}

    def reconnect(self, *, kind: str, port: int, pid: int) -> dict[str, Any]:
        """Cut all held connections at once, and reconnect each."""
        self._forget_crowd()
        tickets = [connection.ticket for connection in self._held]
        server_cpu, load_cpu, started = cpu_seconds(pid), time.process_time(), time.monotonic()
        for connection in self._held:
            connection.cut()
        self._held.clear()
        self._held += reconnect(kind, port, tickets)
        elapsed = time.monotonic() - started
        return {
            "connections": len(self._held),
            "resumed": sum(connection.ticket is not None for connection in self._held),
            "rate": len(self._held) / elapsed,
            "load_busy": (time.process_time() - load_cpu) / elapsed,
            "server_cpu": (cpu_seconds(pid) - server_cpu) / elapsed,
            "cost_us": (cpu_seconds(pid) - server_cpu) / len(self._held) * 1e6,
        }

    def _listeners(self) -> Crowd:
        if self._crowd is None:
            self._crowd = Crowd(
                self._needs_library(),
                [connection.sock for connection in self._held],
                CLIENTS[self._held_kind].format,
                spin=self._may_spin,
            )
        return self._crowd

    def _forget_crowd(self) -> None:
        if self._listener is not None:
            self._is_over.set()
            self._listener.join()
            self._listener = None
        if self._crowd is not None:
            self._crowd.close()
            self._crowd = None

    def _needs_library(self) -> ctypes.CDLL:
        if self._library is None:
            raise RuntimeError("there is no C compiler (cc) here that compiles the load")
        return self._library

    def _frames_for(self, kind: str, connections: int, in_flight: int, seconds: float) -> Frames:
        wanted = math.ceil(RATE_MAX * seconds * (1 + WARM_UP_SHARE) / connections)
        key = (kind, min(wanted, FRAMES_MAX) + 2 * in_flight, in_flight)
        if key not in self._frames:
            self._frames[key] = CLIENTS[kind].encode(*key[1:])
        return self._frames[key]


def main() -> None:
    """Execute one command per line until standard input ends."""
    cores = begin_child(LOAD_CORE)
    with tempfile.TemporaryDirectory() as directory:
        library = compile_loops(Path(directory))
        # Spinning on the server's own core would take its time.
        load = Load(library, may_spin=cores >= 2)
        say(language="Python" if library is None else "C", cores=cores)
        for line in sys.stdin:
            command = json.loads(line)
            try:
                answer = getattr(load, command.pop("do"))(**command)
            except (OSError, RuntimeError) as error:
                say(failed=f"{type(error).__name__}: {error}")
            else:
                say(**answer)
        load.release()


if __name__ == "__main__":
    main()
