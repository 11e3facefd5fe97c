"""Map over whoever is connected: count the primes below a number, in pieces, on as many workers as there are.

    python examples/workers.py count                # hands out pieces, and draws how far they are
    python examples/workers.py work                 # in as many terminals, on as many machines, as you like

Workers come and go. Once a worker's network is out, others may take the pieces it has: it may be dead. If it was not,
its answers arrive when it is back, and a piece that was done twice counts once, by its number.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import socket
import sys
from collections import Counter
from math import isqrt

import msgspec
from rich.progress import Progress

import landline

AT_ONCE_MAX = 64
IDENTITY = re.compile(r"[\w.-]{1,100}")


class Piece(msgspec.Struct, frozen=True):
    number: int
    start: int
    stop: int


class Job:
    """The pieces: which wait, who has which, and what came of them."""

    def __init__(self, limit: int, size: int) -> None:
        starts = range(0, limit, size)
        self.count = len(starts)
        self.waiting: asyncio.Queue[Piece] = asyncio.Queue()
        self.taken_by: dict[landline.Line, set[Piece]] = {}
        self.results: dict[int, int] = {}
        self.done_by: Counter[str] = Counter()
        self.done_twice = 0
        self.is_done = asyncio.Event()
        for number, start in enumerate(starts):
            self.waiting.put_nowait(Piece(number, start, min(start + size, limit)))

    def finish(self, piece: Piece, result: int, worker: str) -> None:
        if piece.number in self.results:
            self.done_twice += 1
            return
        self.results[piece.number] = result
        self.done_by[worker] += 1
        if len(self.results) == self.count:
            self.is_done.set()

    def offer_again(self, line: landline.Line) -> None:
        """What this worker has may be done by others as well."""
        for piece in self.taken_by.get(line, ()):
            self.waiting.put_nowait(piece)


async def count(url: str, limit: int, size: int) -> None:
    job = Job(limit, size)
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=2, timeout_s=1), resume_window_s=30)
    progress = Progress()
    bar = progress.add_task("pieces", total=job.count)

    @server.on_line
    async def employ(line: landline.Line) -> None:
        if not IDENTITY.fullmatch(line.identity):
            await line.close(
                landline.Code.FORBIDDEN, "a worker is called by letters, digits, dots and dashes"
            )
            return
        at_once = await line.request("at_once", response_type=int)
        job.taken_by[line] = set()
        progress.console.print(f"{line.identity} works on {at_once} at once")
        try:
            await asyncio.gather(*(keep_busy(line) for _ in range(min(at_once, AT_ONCE_MAX))))
        except landline.RequestLost:
            progress.console.print(f"{line.identity} is gone")
        except landline.RequestError as error:
            progress.console.print(f"{line.identity} gets no more: {error.message}")
        finally:
            job.offer_again(line)
            del job.taken_by[line]

    async def keep_busy(line: landline.Line) -> None:
        while True:
            piece = await job.waiting.get()
            if piece.number in job.results:
                continue
            # Before anything can fail: from here on, it is offered again when the worker goes.
            job.taken_by[line].add(piece)
            # No time-out: a dead worker is noticed by its heartbeat, and a piece may take as long as it takes.
            result = await line.request("piece", piece, timeout=None, response_type=int)
            job.taken_by[line].discard(piece)
            job.finish(piece, result, line.identity)
            progress.update(bar, completed=len(job.results))

    @server.on_state
    def changed(line: landline.Line, change: landline.StateChange) -> None:
        if change.state is landline.LineState.RECONNECTING and line in job.taken_by:
            progress.console.print(f"{line.identity} is away ({change.cause})")
            job.offer_again(line)

    async with server.listen(url) as endpoint:
        print(f"listening on {endpoint}; Ctrl-C stops it", flush=True)
        with progress:
            await job.is_done.wait()
    print(f"{sum(job.results.values())} primes below {limit}: {job.count} pieces, each counted once")
    for worker, pieces in job.done_by.most_common():
        print(f"  {worker}: {pieces} pieces")


async def work(url: str, at_once: int) -> None:
    identity = f"{socket.gethostname()}-{os.getpid()}"
    # A worker may be started before the server whose pieces it works on.
    connector = landline.connect(
        url, identity=identity, connect_timeout_s=None, backoff=landline.Backoff(cap_s=5)
    )

    @connector.on("at_once")
    def tell(line: landline.Line, nothing: object) -> int:
        return at_once

    @connector.on("piece", Piece)
    async def do(line: landline.Line, piece: Piece) -> int:
        # In a thread: heartbeats go on meanwhile.
        result = await asyncio.to_thread(count_primes, piece.start, piece.stop)
        print(f"piece {piece.number}: {result}", flush=True)
        return result

    async with connector as line:
        print(f"{identity} works for {url}; Ctrl-C stops it", flush=True)
        # Ends only when the server said that this line is over. Between two jobs, it waits for the next one.
        async for _ in line:
            pass


def count_primes(start: int, stop: int) -> int:
    """By trial division: slow on purpose."""
    return sum(
        number == 2 or (number % 2 == 1 and all(number % d for d in range(3, isqrt(number) + 1, 2)))
        for number in range(max(start, 2), stop)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Count primes on all machines that are connected.")
    roles = parser.add_subparsers(dest="role", required=True)
    counter = roles.add_parser("count", help="hand out pieces and put the results together")
    counter.add_argument(
        "--listen", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    counter.add_argument("--limit", metavar="N", type=int, default=2_000_000, help="default: %(default)s")
    counter.add_argument(
        "--size", metavar="N", type=int, default=20_000, help="of a piece; default: %(default)s"
    )
    worker = roles.add_parser("work", help="do pieces until Ctrl-C")
    worker.add_argument(
        "--server", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    worker.add_argument("--at-once", metavar="N", type=int, default=1, help="pieces at once; default: 1")
    given = parser.parse_args()
    if given.role == "count" and not (given.limit > 0 and given.size > 0):
        parser.error("--limit and --size: more than 0 is needed")
    if given.role == "work" and not 1 <= given.at_once <= AT_ONCE_MAX:
        parser.error(f"--at-once: 1 to {AT_ONCE_MAX} are possible")
    try:
        if given.role == "count":
            landline.run(count(given.listen, given.limit, given.size))
        else:
            landline.run(work(given.server, given.at_once))
    except (landline.LandlineError, OSError) as error:
        sys.exit(f"workers.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
