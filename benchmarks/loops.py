"""The inner loops of the load: load.c and crowd.c through ctypes, and load.c's loop in Python."""

from __future__ import annotations

import ctypes
import select
import shutil
import socket
import subprocess
import time
from array import array
from pathlib import Path
from typing import Final, Protocol

from benchmarks.clients import LANDLINE, LANDLINE_WS, PREFIXED, WEBSOCKET, Client, Frames
from landline.session.constants import Kind

ROUND_TRIPS_MAX: Final = 500_000
SOURCES: Final = ("load.c", "crowd.c")


class Loop(Protocol):
    """The inner loop on one set of connections."""

    def start(self, in_flight: int) -> None:
        """Send the first frames on every connection."""

    def run(self, seconds: float, *, refill: bool) -> int:
        """Send one frame for each that returns, or none without ``refill``. Return how many returned."""
        ...

    def busy_share(self) -> float:
        """Return the part of the last run in which the loop was busy; near 1, it was the limit."""
        ...

    def in_flight(self) -> int:
        """Return the number of sent frames that have not returned."""
        ...

    def sent(self, index: int) -> int:
        """Return the number of frames sent on one connection."""
        ...

    def close(self) -> None:
        """Free the memory of the loop."""


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
            raise OSError("cannot create the load")
        self._load = ctypes.c_void_p(handle)

    def start(self, in_flight: int) -> None:
        if self._library.load_start(self._load, in_flight) < 0:
            raise ConnectionError("a connection broke")

    def run(self, seconds: float, *, refill: bool) -> int:
        started = time.monotonic()
        count = int(
            self._library.load_run(self._load, ctypes.c_double(seconds), int(refill), int(self._spin))
        )
        self._busy_share = 1 - self._library.load_idle_s(self._load) / (time.monotonic() - started)
        if count < 0:
            raise ConnectionError("a connection broke, or its server sent invalid data")
        return count

    def busy_share(self) -> float:
        return self._busy_share

    def in_flight(self) -> int:
        return int(self._library.load_in_flight(self._load))

    def sent(self, index: int) -> int:
        return int(self._library.load_sent(self._load, index))

    def round_trips(self, seconds: float) -> array[float]:
        """Return the round-trip time of each message in seconds, one at a time on the first connection."""
        round_trip_s = array("d", bytes(8 * ROUND_TRIPS_MAX))
        address, _ = round_trip_s.buffer_info()
        count = self._library.load_round_trips(
            self._load, ctypes.c_double(seconds), ctypes.c_int64(ROUND_TRIPS_MAX), ctypes.c_void_p(address)
        )
        if count < 0:
            raise ConnectionError("the connection broke, or its server did not answer")
        return round_trip_s[:count]

    def close(self) -> None:
        self._library.load_free(self._load)


class PythonLoop:
    """The loop of load.c in Python, for machines without a compiler."""

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
        cpu_before, started = time.process_time(), time.monotonic()
        end = started + seconds
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
        self._busy_share = (time.process_time() - cpu_before) / (time.monotonic() - started)
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
    """Return the number of complete messages in the bytes of a server, and the bytes after the last complete frame."""
    messages = position = 0
    header = 5 if form in (PREFIXED, LANDLINE, LANDLINE_WS) else 2
    while len(data) - position >= header:
        if form == LANDLINE_WS and data[position] & 0x80:
            end, is_message = position + _websocket_prefix(data, position), False
        elif header == 2:
            end = position + 2 + data[position + 1]
            is_message = data[position] == (0x82 if form == WEBSOCKET else 0x81)
        else:
            end = position + 4 + int.from_bytes(data[position : position + 4], "big")
            is_message = form == PREFIXED or data[position + 4] == Kind.DATA
        if end > len(data):
            break
        messages += is_message
        position = end
    return messages, data[position:]


def _websocket_prefix(data: bytes, position: int) -> int:
    """Return the size of a message header or of a control frame, as in frames.h."""
    length = data[position + 1]
    header = 2 if length < 126 else 4 if length == 126 else 10
    return header if data[position] == 0x82 else header + length


class Crowd:
    """The loop of crowd.c: many connections that receive messages and answer the server's pings."""

    def __init__(self, library: ctypes.CDLL, sockets: list[socket.socket], form: int, *, spin: bool) -> None:
        self._library = library
        self._spin = spin
        # Must live as long as the C side points to it.
        self._descriptors = (ctypes.c_int * len(sockets))(*(sock.fileno() for sock in sockets))
        handle: int | None = library.crowd_new(len(sockets), self._descriptors, form)
        if handle is None:
            raise OSError("cannot create the connections")
        self._crowd = ctypes.c_void_p(handle)

    def run(self, seconds: float, *, until: int = 0, spin: bool | None = None) -> int:
        """Receive for that many seconds, or until that many messages. Return the number of messages."""
        count = int(
            self._library.crowd_run(
                self._crowd,
                ctypes.c_double(seconds),
                ctypes.c_int64(until),
                int(self._spin if spin is None else spin),
            )
        )
        if count < 0:
            raise ConnectionError("a connection broke, or its server sent invalid data")
        return count

    def acknowledge(self) -> None:
        """Acknowledge the received messages to a server of landline."""
        if self._library.crowd_acknowledge(self._crowd) < 0:
            raise ConnectionError("a connection broke")

    @property
    def last_at(self) -> float:
        """Return the time of the last message on the monotonic clock."""
        return float(self._library.crowd_last_at(self._crowd))

    @property
    def pings(self) -> int:
        """Return the number of answered pings."""
        return int(self._library.crowd_pings(self._crowd))

    def spread(self) -> tuple[int, int]:
        """Return the lowest and the highest number of messages of one connection."""
        fewest, most = ctypes.c_int64(), ctypes.c_int64()
        self._library.crowd_spread(self._crowd, ctypes.byref(fewest), ctypes.byref(most))
        return fewest.value, most.value

    def close(self) -> None:
        """Free the memory of the loop; the connections stay open."""
        self._library.crowd_free(self._crowd)


def has_compiler() -> bool:
    """Return whether a C compiler is installed."""
    return shutil.which("cc") is not None


def compile_loops(directory: Path) -> ctypes.CDLL | None:
    """Compile and load the C files. Return ``None`` if that is not possible."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = directory / "load.so"
    done = subprocess.run(
        [
            compiler,
            "-O2",
            "-shared",
            "-fPIC",
            "-o",
            str(library),
            *(str(Path(__file__).with_name(name)) for name in SOURCES),
        ],
        check=False,
        capture_output=True,
        timeout=30,
    )
    if done.returncode != 0:
        return None
    loaded = ctypes.CDLL(str(library))
    loaded.load_new.restype = loaded.crowd_new.restype = ctypes.c_void_p
    loaded.load_idle_s.restype = loaded.crowd_last_at.restype = ctypes.c_double
    for function in (
        loaded.load_run,
        loaded.load_in_flight,
        loaded.load_sent,
        loaded.load_round_trips,
        loaded.crowd_run,
        loaded.crowd_pings,
    ):
        function.restype = ctypes.c_int64
    return loaded
