"""Live sound from one publisher to any number of viewers. Chunks that would arrive too late are dropped.

    python examples/media.py server
    python examples/media.py publish                # a tone, until Ctrl-C
    python examples/media.py view                   # in any number of terminals
    python examples/media.py view --wav tone.wav    # and record it, with silence for missing chunks

A chunk of 20 ms is useless to a viewer after its deadline. While a connection is lost, the newest chunks replace the
oldest pending ones (`DROP_OLDEST`, `max_pending=`). If the network is too slow, the server limits how much is in flight
to what can arrive in time. Viewers count the played, missing and late chunks.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import struct
import sys
import wave
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median

import msgspec

import landline

SAMPLES_PER_S = 48_000
CHUNK_S = 0.02
CHUNK_SAMPLES = round(SAMPLES_PER_S * CHUNK_S)
CHUNK_BYTES_MAX = 8 * 1024
PENDING_MAX = 8
"""Chunks that may wait for a lost connection: 160 ms."""
IN_FLIGHT_S = 0.25
"""Seconds of sound in flight to a viewer: sent and not yet acknowledged. More would wait in the queues of a slow
network and be late; much less would not fill a long one (an acknowledgement takes a round trip and up to 0.1 s)."""
END = "end"


class Chunk(msgspec.Struct, array_like=True):
    number: int
    samples: bytes
    """One channel, 16 bits each, little-endian."""

    @property
    def at_s(self) -> float:
        """Position in the stream, in seconds."""
        return self.number * CHUNK_S


async def serve(url: str, in_flight_s: float) -> None:
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=2, timeout_s=1), resume_window_s=30)
    viewers = server.group("viewers")
    publishers = server.group("publishers")
    in_flight_bytes = in_flight_s * SAMPLES_PER_S * 2
    skipped = 0

    @server.on_line
    async def enter(line: landline.Line) -> None:
        if line.identity != "publisher":
            viewers.add(line)
            return
        for other in publishers:
            other.abort(landline.Code.REPLACED, "replaced by another publisher")
        publishers.add(line)
        async for chunk in line:
            if isinstance(chunk, bytes) and len(chunk) <= CHUNK_BYTES_MAX:
                for viewer in viewers:
                    relay(viewer, chunk)
        viewers.broadcast(END)

    def relay(viewer: landline.Line, chunk: bytes) -> None:
        nonlocal skipped
        if viewer.state is landline.LineState.ONLINE and viewer.buffered_bytes > in_flight_bytes:
            skipped += 1
        elif not viewer.is_closed:
            viewer.send_nowait(chunk, overflow=landline.OverflowPolicy.DROP_OLDEST, max_pending=PENDING_MAX)

    async with server.listen(url) as endpoint:
        say(f"listening on {endpoint}; press Ctrl-C to stop")
        while True:
            await asyncio.sleep(1)
            if publishers:
                dropped = skipped + server.messages_dropped
                say(f"{len(viewers)} viewers; {dropped} late chunks were not sent")


async def publish(url: str, seconds: float | None) -> None:
    async with landline.connect(
        url, identity="publisher", backoff=QUICK, on_session_lost=continue_live
    ) as line:
        say("publishing; press Ctrl-C to stop")
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        for number in itertools.count():
            chunk = Chunk(number, tone(number))
            if seconds is not None and chunk.at_s >= seconds:
                return
            await asyncio.sleep(started_at + chunk.at_s - loop.time())
            # Encoded here, so that the server forwards bytes without decoding them.
            line.send_nowait(
                msgspec.msgpack.encode(chunk),
                overflow=landline.OverflowPolicy.DROP_OLDEST,
                max_pending=PENDING_MAX,
            )


def tone(number: int, hertz: float = 440.0) -> bytes:
    first = number * CHUNK_SAMPLES
    step = 2 * math.pi * hertz / SAMPLES_PER_S
    wave_form = (round(8000 * math.sin(step * n)) for n in range(first, first + CHUNK_SAMPLES))
    return struct.pack(f"<{CHUNK_SAMPLES}h", *wave_form)


class Player:
    """Decides which chunks are played.

    Since the clocks of two machines differ, delays are relative to the fastest chunk so far.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._least_delay_s: float | None = None
        self._next_number: int | None = None
        self.played = self.missing = self.late = 0
        self.ages_s: list[float] = []

    def receive(self, chunk: Chunk, now: float) -> bytes:
        """Return the samples to play, with silence for missing chunks before this one."""
        delay_s = now - chunk.at_s
        if self._next_number is None or chunk.number < self._next_number:
            self._next_number = chunk.number  # the first chunk of a publisher
            self._least_delay_s = delay_s
        assert self._least_delay_s is not None
        self._least_delay_s = min(self._least_delay_s, delay_s)
        age_s = delay_s - self._least_delay_s
        gap = chunk.number - self._next_number
        self._next_number = chunk.number + 1
        self.missing += gap
        self.ages_s.append(age_s)
        is_late = age_s > self._deadline_s
        self.late += is_late
        self.played += not is_late
        # At most ten seconds of silence, however long the gap is.
        silence = bytes(2 * CHUNK_SAMPLES) * min(gap, round(10 / CHUNK_S))
        return silence + (bytes(len(chunk.samples)) if is_late else chunk.samples)

    def __str__(self) -> str:
        return f"played {self.played}, missing {self.missing}, late {self.late}"


async def view(url: str, deadline_s: float, wav: Path | None) -> None:
    player = Player(deadline_s)
    loop = asyncio.get_running_loop()
    with ExitStack() as files:
        recording = files.enter_context(open_wav(wav)) if wav else None
        async with landline.connect(
            url, identity="viewer", backoff=QUICK, on_session_lost=continue_live
        ) as line:
            say("viewing; press Ctrl-C to stop")
            report_at = loop.time() + 1
            async for message in line:
                if message == END:
                    break
                chunk = msgspec.msgpack.decode(message, type=Chunk)
                samples = player.receive(chunk, loop.time())
                if recording:
                    recording.writeframesraw(samples)
                if loop.time() >= report_at:
                    report_at = loop.time() + 1
                    ages_ms = [age_s * 1000 for age_s in player.ages_s]
                    player.ages_s.clear()
                    say(f"{player}; age {median(ages_ms):.1f} ms, at most {max(ages_ms):.1f} ms")
    say(f"end of stream: {player}")


@contextmanager
def open_wav(path: Path) -> Iterator[wave.Wave_write]:
    # Opened here: wave.open() does not clean up when it cannot open a path.
    with path.open("wb") as file, closing(wave.open(file, "wb")) as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(SAMPLES_PER_S)
        yield recording


QUICK = landline.Backoff(first_s=0.1, cap_s=2)


def continue_live(line: landline.Line, unconfirmed: tuple[landline.Unconfirmed, ...]) -> None:
    """Continue with a new session after a restart of the server. Unconfirmed chunks are too old to be sent again."""


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Live sound: late chunks are dropped.")
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("server", help="forward the published sound until Ctrl-C")
    server.add_argument(
        "--listen", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    server.add_argument(
        "--in-flight",
        metavar="S",
        type=float,
        default=IN_FLIGHT_S,
        help="seconds of sound; default: %(default)s",
    )
    publisher = roles.add_parser("publish", help="publish a tone")
    publisher.add_argument("--seconds", metavar="S", type=float, help="duration; default: until Ctrl-C")
    viewer = roles.add_parser("view", help="receive the sound and count chunks")
    viewer.add_argument("--deadline", metavar="S", type=float, default=1.0, help="default: %(default)s s")
    viewer.add_argument("--wav", metavar="FILE", type=Path, help="record the sound to a file")
    for role in (publisher, viewer):
        role.add_argument(
            "--server", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
        )
    given = parser.parse_args()
    try:
        if given.role == "server":
            landline.run(serve(given.listen, given.in_flight))
        elif given.role == "publish":
            landline.run(publish(given.server, given.seconds))
        else:
            landline.run(view(given.server, given.deadline, given.wav))
    except (landline.LandlineError, msgspec.DecodeError, OSError) as error:
        sys.exit(f"media.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
