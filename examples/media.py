"""Live sound from one publisher to any number of viewers. What would come too late is dropped, not waited for.

    python examples/media.py server
    python examples/media.py publish                # a tone, until Ctrl-C
    python examples/media.py view                   # in as many terminals as you like
    python examples/media.py view --wav tone.wav    # and keep it, with silence where something was missing

A chunk of 20 ms is worth nothing to a viewer after its deadline. Where it has to wait, for a network that is out, the
newest ones push out the oldest (`DROP_OLDEST`, `max_pending=`). Where the network is merely thin, the server keeps
no more on its way than can arrive in time. Viewers count what they played, missed, and got too late.
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
KEEP = 8
"""Chunks that may wait for a line that is out: 160 ms."""
ON_THE_WAY_S = 0.25
"""How much is on its way to a viewer at once: sent and not yet acknowledged. More would wait in the queues of a thin
network, and be late; much less would not do for a long one (acknowledgements take a round trip and up to 0.1 s)."""
END = "end"


class Chunk(msgspec.Struct, array_like=True):
    number: int
    samples: bytes
    """One channel, 16 bits each, little-endian."""

    @property
    def at_s(self) -> float:
        """Its place in the stream, in seconds since the beginning."""
        return self.number * CHUNK_S


async def serve(url: str, on_the_way_s: float) -> None:
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=2, timeout_s=1), resume_window_s=30)
    viewers = server.group("viewers")
    publishers = server.group("publishers")
    on_the_way_bytes = on_the_way_s * SAMPLES_PER_S * 2
    skipped = 0

    @server.on_line
    async def enter(line: landline.Line) -> None:
        if line.identity != "publisher":
            viewers.add(line)
            return
        for other in publishers:
            other.abort(landline.Code.REPLACED, "another publisher came")
        publishers.add(line)
        async for chunk in line:
            if isinstance(chunk, bytes) and len(chunk) <= CHUNK_BYTES_MAX:
                for viewer in viewers:
                    relay(viewer, chunk)
        viewers.broadcast(END)

    def relay(viewer: landline.Line, chunk: bytes) -> None:
        nonlocal skipped
        if viewer.state is landline.LineState.ONLINE and viewer.buffered_bytes > on_the_way_bytes:
            skipped += 1
        elif not viewer.is_closed:
            viewer.send_nowait(chunk, overflow=landline.OverflowPolicy.DROP_OLDEST, max_pending=KEEP)

    async with server.listen(url) as endpoint:
        say(f"listening on {endpoint}; Ctrl-C stops it")
        while True:
            await asyncio.sleep(1)
            if publishers:
                dropped = skipped + server.messages_dropped
                say(f"{len(viewers)} viewers; {dropped} chunks were not sent, for they would have been late")


async def publish(url: str, seconds: float | None) -> None:
    async with landline.connect(url, identity="publisher", backoff=SOON, on_session_lost=forget) as line:
        say("publishing; Ctrl-C stops it")
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        for number in itertools.count():
            chunk = Chunk(number, tone(number))
            if seconds is not None and chunk.at_s >= seconds:
                return
            await asyncio.sleep(began_at + chunk.at_s - loop.time())
            # Encoded here, so that the server passes on bytes it need not look into.
            line.send_nowait(
                msgspec.msgpack.encode(chunk), overflow=landline.OverflowPolicy.DROP_OLDEST, max_pending=KEEP
            )


def tone(number: int, hertz: float = 440.0) -> bytes:
    first = number * CHUNK_SAMPLES
    step = 2 * math.pi * hertz / SAMPLES_PER_S
    wave_form = (round(8000 * math.sin(step * n)) for n in range(first, first + CHUNK_SAMPLES))
    return struct.pack(f"<{CHUNK_SAMPLES}h", *wave_form)


class Player:
    """Decides what is played.

    Clocks of two machines differ: the quickest chunk so far is taken for one that was not delayed.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._quickest: float | None = None
        self._next_number: int | None = None
        self.played = self.missing = self.late = 0
        self.ages_s: list[float] = []

    def receive(self, chunk: Chunk, now: float) -> bytes:
        """The samples to play for it, with silence for those that are missing before it."""
        under_way = now - chunk.at_s
        if self._next_number is None or chunk.number < self._next_number:
            self._next_number = chunk.number  # the first one, or the first of a publisher that begins anew
            self._quickest = under_way
        assert self._quickest is not None
        self._quickest = min(self._quickest, under_way)
        age_s = under_way - self._quickest
        gap = chunk.number - self._next_number
        self._next_number = chunk.number + 1
        self.missing += gap
        self.ages_s.append(age_s)
        is_late = age_s > self._deadline_s
        self.late += is_late
        self.played += not is_late
        # A gap of hours is no reason to write hours of silence.
        silence = bytes(2 * CHUNK_SAMPLES) * min(gap, round(10 / CHUNK_S))
        return silence + (bytes(len(chunk.samples)) if is_late else chunk.samples)

    def __str__(self) -> str:
        return f"played {self.played}, missing {self.missing}, late {self.late}"


async def view(url: str, deadline_s: float, wav: Path | None) -> None:
    player = Player(deadline_s)
    loop = asyncio.get_running_loop()
    with ExitStack() as files:
        recording = files.enter_context(open_wav(wav)) if wav else None
        async with landline.connect(url, identity="viewer", backoff=SOON, on_session_lost=forget) as line:
            say("viewing; Ctrl-C stops it")
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
    say(f"the end: {player}")


@contextmanager
def open_wav(path: Path) -> Iterator[wave.Wave_write]:
    # Opened here: a path that wave cannot open leaves it with half an object.
    with path.open("wb") as file, closing(wave.open(file, "wb")) as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(SAMPLES_PER_S)
        yield recording


SOON = landline.Backoff(first_s=0.1, cap_s=2)


def forget(line: landline.Line, unconfirmed: tuple[landline.Unconfirmed, ...]) -> None:
    """Goes on with a new session, as after a restart of the server: what was live is past."""


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Live sound: late chunks are dropped, not waited for.")
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("server", help="pass on what is published until Ctrl-C")
    server.add_argument(
        "--listen", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    server.add_argument(
        "--on-the-way", metavar="S", type=float, default=ON_THE_WAY_S, help="of sound; default: %(default)s s"
    )
    publisher = roles.add_parser("publish", help="publish a tone")
    publisher.add_argument("--seconds", metavar="S", type=float, help="how long; default: until Ctrl-C")
    viewer = roles.add_parser("view", help="receive it, and count")
    viewer.add_argument("--deadline", metavar="S", type=float, default=1.0, help="default: %(default)s s")
    viewer.add_argument("--wav", metavar="FILE", type=Path, help="write what was played into a file")
    for role in (publisher, viewer):
        role.add_argument(
            "--server", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
        )
    given = parser.parse_args()
    try:
        if given.role == "server":
            landline.run(serve(given.listen, given.on_the_way))
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
