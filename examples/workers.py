"""Map over connected workers: count the primes below a number, in pieces, on any number of workers.

    python examples/workers.py count                # distributes the pieces, and shows the progress
    python examples/workers.py work                 # in any number of terminals, on any machine

Workers may connect and disconnect at any time. When the connection to a worker is lost, its pieces are also given to
others, because it may be dead. If it is not, its results arrive after it has reconnected. A piece that was done twice
counts once.
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

CONCURRENCY_MAX = 64
IDENTITY = re.compile(r"[\w.-]{1,100}")


class Piece(msgspec.Struct, frozen=True):
    number: int
    start: int
    stop: int


class Job:
    """The pieces of a job: which are waiting, which worker has which, and the results."""

    def __init__(self, limit: int, size: int) -> None:
        starts = range(0, limit, size)
        self.count = len(starts)
        self.waiting: asyncio.Queue[Piece] = asyncio.Queue()
        self.assigned: dict[landline.Line, set[Piece]] = {}
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

    def reassign(self, line: landline.Line) -> None:
        """Give the pieces of this worker to others as well."""
        for piece in self.assigned.get(line, ()):
            self.waiting.put_nowait(piece)


async def count(url: str, limit: int, size: int) -> None:
    job = Job(limit, size)
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=2, timeout_s=1), resume_window_s=30)
    progress = Progress()
    bar = progress.add_task("pieces", total=job.count)

    @server.on_line
    async def employ(line: landline.Line) -> None:
        if not IDENTITY.fullmatch(line.identity):
            await line.close(landline.Code.FORBIDDEN, "use an identity of letters, digits, dots and dashes")
            return
        concurrency = await line.request("concurrency", response_type=int)
        job.assigned[line] = set()
        progress.console.print(f"{line.identity} works on {concurrency} pieces at a time")
        try:
            await asyncio.gather(*(keep_busy(line) for _ in range(min(concurrency, CONCURRENCY_MAX))))
        except landline.RequestLost:
            progress.console.print(f"{line.identity} has disconnected")
        except landline.RequestError as error:
            progress.console.print(f"{line.identity} failed: {error.message}")
        finally:
            job.reassign(line)
            del job.assigned[line]

    async def keep_busy(line: landline.Line) -> None:
        while True:
            piece = await job.waiting.get()
            if piece.number in job.results:
                continue
            # Before anything can fail: from here on the piece is reassigned when the worker disconnects.
            job.assigned[line].add(piece)
            # No time-out: heartbeats detect a dead worker, and a piece may take any time.
            result = await line.request("piece", piece, timeout=None, response_type=int)
            job.assigned[line].discard(piece)
            job.finish(piece, result, line.identity)
            progress.update(bar, completed=len(job.results))

    @server.on_state
    def changed(line: landline.Line, change: landline.StateChange) -> None:
        if change.state is landline.LineState.RECONNECTING and line in job.assigned:
            progress.console.print(f"{line.identity} is away ({change.cause})")
            job.reassign(line)

    async with server.listen(url) as endpoint:
        print(f"listening on {endpoint}; press Ctrl-C to stop", flush=True)
        with progress:
            await job.is_done.wait()
    print(f"{sum(job.results.values())} primes below {limit}: {job.count} pieces, each counted once")
    for worker, pieces in job.done_by.most_common():
        print(f"  {worker}: {pieces} pieces")


async def work(url: str, concurrency: int) -> None:
    identity = f"{socket.gethostname()}-{os.getpid()}"
    # A worker may start before the server.
    connector = landline.connect(
        url, identity=identity, connect_timeout_s=None, backoff=landline.Backoff(cap_s=5)
    )

    @connector.on("concurrency")
    def get_concurrency(line: landline.Line, nothing: object) -> int:
        return concurrency

    @connector.on("piece", Piece)
    async def do_piece(line: landline.Line, piece: Piece) -> int:
        # In a thread, so that the event loop still answers heartbeats.
        result = await asyncio.to_thread(count_primes, piece.start, piece.stop)
        print(f"piece {piece.number}: {result}", flush=True)
        return result

    async with connector as line:
        print(f"{identity} works for {url}; press Ctrl-C to stop", flush=True)
        # Ends when the server closes the line. Between two jobs, the worker waits for the next one.
        async for _ in line:
            pass


def count_primes(start: int, stop: int) -> int:
    """Count primes by trial division, which is slow on purpose."""
    return sum(
        number == 2 or (number % 2 == 1 and all(number % d for d in range(3, isqrt(number) + 1, 2)))
        for number in range(max(start, 2), stop)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Count primes on all connected machines.")
    roles = parser.add_subparsers(dest="role", required=True)
    counter = roles.add_parser("count", help="distribute pieces and collect the results")
    counter.add_argument(
        "--listen", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    counter.add_argument("--limit", metavar="N", type=int, default=2_000_000, help="default: %(default)s")
    counter.add_argument(
        "--size", metavar="N", type=int, default=20_000, help="size of a piece; default: %(default)s"
    )
    worker = roles.add_parser("work", help="work until Ctrl-C")
    worker.add_argument(
        "--server", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    worker.add_argument(
        "--concurrency", metavar="N", type=int, default=1, help="pieces at a time; default: 1"
    )
    given = parser.parse_args()
    if given.role == "count" and not (given.limit > 0 and given.size > 0):
        parser.error("--limit and --size must be greater than 0")
    if given.role == "work" and not 1 <= given.concurrency <= CONCURRENCY_MAX:
        parser.error(f"--concurrency must be from 1 to {CONCURRENCY_MAX}")
    try:
        if given.role == "count":
            landline.run(count(given.listen, given.limit, given.size))
        else:
            landline.run(work(given.server, given.concurrency))
    except (landline.LandlineError, OSError) as error:
        sys.exit(f"workers.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
