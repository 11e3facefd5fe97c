"""The process that loads the servers: ``python -m benchmarks.load``, commands on standard input.

Its inner loop is C, compiled when it starts, where there is a compiler; otherwise Python, which may be slower than
the server it loads (the result says so: "load-bound").
"""

from __future__ import annotations

import ctypes
import json
import math
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

from benchmarks.clients import CLIENTS, PREFIXED, WEBSOCKET, Client, Frames, connect
from benchmarks.processes import LOAD_CORE, begin_child, cpu_seconds, say
from landline.session.wire import Kind

WARM_UP_SHARE = 0.25
DRAIN_TIMEOUT_S = 2.0
RATE_MAX = 3_000_000
"""Messages a second for which frames are encoded: more than any server here reaches."""
FRAMES_MAX = 300_000


class Loop(Protocol):
    """The inner loop on one set of connections."""

    def start(self, in_flight: int) -> None:
        """Sends the first frames on every connection."""

    def run(self, seconds: float, *, refill: bool) -> int:
        """Sends one frame for each that comes back; returns how many did. Without ``refill``, only waits for them."""
        ...

    def busy_share(self) -> float:
        """The part of the last run in which it had something to do; near 1, it was the limit."""
        ...

    def in_flight(self) -> int:
        """Frames sent that are not back."""
        ...

    def sent(self, index: int) -> int:
        """Frames sent on one connection."""
        ...

    def close(self) -> None:
        """Frees what it holds."""


class CLoop:
    """load.c."""

    def __init__(
        self,
        library: ctypes.CDLL,
        sockets: list[socket.socket],
        client: Client,
        frames: Frames,
        *,
        spin: bool,
    ) -> None:
        self._library = library
        self._spin = spin
        self._busy_share = 0.0
        # Both must live as long as the C side points to them.
        self._frames = frames
        self._descriptors = (ctypes.c_int * len(sockets))(*(sock.fileno() for sock in sockets))
        handle: int | None = library.load_new(
            len(sockets),
            self._descriptors,
            client.format,
            ctypes.c_int64(frames.count),
            frames.data,
            ctypes.c_void_p(frames.offsets.buffer_info()[0]),
        )
        if handle is None:
            raise OSError("the load could not be set up")
        self._load = ctypes.c_void_p(handle)

    def start(self, in_flight: int) -> None:
        if self._library.load_start(self._load, in_flight) < 0:
            raise ConnectionError("a connection broke")

    def run(self, seconds: float, *, refill: bool) -> int:
        begun = time.monotonic()
        count = int(
            self._library.load_run(self._load, ctypes.c_double(seconds), int(refill), int(self._spin))
        )
        self._busy_share = 1 - self._library.load_idle_s(self._load) / (time.monotonic() - begun)
        if count < 0:
            raise ConnectionError("a connection broke, or its server sent what it cannot have meant")
        return count

    def busy_share(self) -> float:
        return self._busy_share

    def in_flight(self) -> int:
        return int(self._library.load_in_flight(self._load))

    def sent(self, index: int) -> int:
        return int(self._library.load_sent(self._load, index))

    def close(self) -> None:
        self._library.load_free(self._load)


class PythonLoop:
    """The same in Python, for machines without a compiler."""

    def __init__(self, sockets: list[socket.socket], client: Client, frames: Frames) -> None:
        self._sockets = sockets
        self._index = {sock.fileno(): index for index, sock in enumerate(sockets)}
        self._frames = frames
        self._format = client.format
        self._sent = [0] * len(sockets)
        self._buffers = [b""] * len(sockets)
        self._in_flight = 0
        self._busy_share = 0.0
        self._poll = select.poll()
        for sock in sockets:
            self._poll.register(sock, select.POLLIN)

    def start(self, in_flight: int) -> None:
        for index in range(len(self._sockets)):
            self._send(index, in_flight)

    def run(self, seconds: float, *, refill: bool) -> int:
        total = 0
        cpu_before, begun = time.process_time(), time.monotonic()
        end = begun + seconds
        while time.monotonic() < end and (refill or self._in_flight):
            for descriptor, _ in self._poll.poll(50):
                index = self._index[descriptor]
                data = self._sockets[index].recv(128 * 1024)
                if not data:
                    raise ConnectionError("a connection broke")
                messages, self._buffers[index] = count_messages(self._format, self._buffers[index] + data)
                self._in_flight -= messages
                total += messages
                if refill and messages:
                    self._send(index, messages)
        self._busy_share = (time.process_time() - cpu_before) / (time.monotonic() - begun)
        return total

    def busy_share(self) -> float:
        return self._busy_share

    def in_flight(self) -> int:
        return self._in_flight

    def sent(self, index: int) -> int:
        return self._sent[index]

    def close(self) -> None:
        pass

    def _send(self, index: int, count: int) -> None:
        first = self._sent[index]
        last = min(first + count, self._frames.count)
        offsets = self._frames.offsets
        self._sockets[index].sendall(self._frames.data[offsets[first] : offsets[last]])
        self._sent[index] = last
        self._in_flight += last - first


def count_messages(form: int, data: bytes) -> tuple[int, bytes]:
    """How many whole messages there are in the bytes of a server, and the bytes behind the last whole frame."""
    messages = position = 0
    header = 2 if form == WEBSOCKET else 5
    while len(data) - position >= header:
        if form == WEBSOCKET:
            end = position + 2 + data[position + 1]
            is_message = data[position] == 0x82
        else:
            end = position + 4 + int.from_bytes(data[position : position + 4], "big")
            is_message = form == PREFIXED or data[position + 4] == Kind.DATA
        if end > len(data):
            break
        messages += is_message
        position = end
    return messages, data[position:]


def compile_loop(directory: Path) -> ctypes.CDLL | None:
    """load.c as a library, or ``None`` where it cannot be compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = directory / "load.so"
    source = Path(__file__).with_name("load.c")
    done = subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)],
        check=False,
        capture_output=True,
        timeout=30,
    )
    if done.returncode != 0:
        return None
    loaded = ctypes.CDLL(str(library))
    loaded.load_new.restype = ctypes.c_void_p
    loaded.load_idle_s.restype = ctypes.c_double
    for function in (loaded.load_run, loaded.load_in_flight, loaded.load_sent):
        function.restype = ctypes.c_int64
    return loaded


class Load:
    """Runs the commands of the parent."""

    def __init__(self, library: ctypes.CDLL | None, *, may_spin: bool) -> None:
        self._library = library
        self._may_spin = may_spin
        self._frames: dict[tuple[str, int, int], Frames] = {}
        self._idle: list[socket.socket] = []

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
        """One round against one server. Unless it ``sleeps`` between answers, the load spins on its core."""
        client = CLIENTS[kind]
        frames = self._frames_for(kind, connections, in_flight, seconds)
        sockets = connect(kind, port, connections)
        loop: Loop = (
            CLoop(self._library, sockets, client, frames, spin=self._may_spin and not sleeps)
            if self._library is not None
            else PythonLoop(sockets, client, frames)
        )
        try:
            loop.start(in_flight)
            loop.run(seconds * WARM_UP_SHARE, refill=True)
            server_cpu, begun = cpu_seconds(pid), time.monotonic()
            messages = loop.run(seconds, refill=True)
            elapsed = time.monotonic() - begun
            server_share = (cpu_seconds(pid) - server_cpu) / elapsed
            load_share = loop.busy_share()
            if any(loop.sent(index) == frames.count for index in range(connections)):
                raise RuntimeError(f"the {frames.count} frames for each connection ran out")
            loop.run(DRAIN_TIMEOUT_S, refill=False)
            if loop.in_flight():
                raise RuntimeError(f"{loop.in_flight()} messages did not come back")
            for index, sock in enumerate(sockets):
                sock.sendall(client.goodbye(loop.sent(index)))
        finally:
            loop.close()
            for sock in sockets:
                sock.close()
        return {"rate": messages / elapsed, "server_cpu": server_share, "load_busy": load_share}

    def hold(self, *, kind: str, port: int, connections: int) -> dict[str, Any]:
        """Opens so many more connections and keeps them, saying nothing."""
        self._idle += connect(kind, port, connections)
        return {"held": len(self._idle)}

    def release(self) -> dict[str, Any]:
        """Closes those again."""
        for sock in self._idle:
            sock.close()
        self._idle.clear()
        return {}

    def _frames_for(self, kind: str, connections: int, in_flight: int, seconds: float) -> Frames:
        wanted = math.ceil(RATE_MAX * seconds * (1 + WARM_UP_SHARE) / connections)
        key = (kind, min(wanted, FRAMES_MAX) + 2 * in_flight, in_flight)
        if key not in self._frames:
            self._frames[key] = CLIENTS[kind].encode(*key[1:])
        return self._frames[key]


def main() -> None:
    """Answers one command a line until standard input ends."""
    cores = begin_child(LOAD_CORE)
    with tempfile.TemporaryDirectory() as directory:
        library = compile_loop(Path(directory))
        # Spinning on the server's own core would steal its time.
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


if __name__ == "__main__":
    main()
