"""A crowd that loses its server at once, with the real back-off and admission: ``python -m tests.simulation.storm``.

Only arrivals are simulated: a client that is let in is back. So a million of them fit into a minute.
"""

from __future__ import annotations

import argparse
import sys
from heapq import heapify, heappop, heapreplace
from pathlib import Path
from random import Random

import msgspec

from landline import Admission, Backoff
from landline.client.backoff import Schedule
from landline.server.admission import RateLimiter

NOTICE_S = 0.2
"""How far apart the clients notice: a server that dies closes all its sockets at once."""


class NoJitter(Random):
    """A random generator that always draws the longest delay."""

    def random(self) -> float:
        return 1.0


class Storm(msgspec.Struct):
    """How a crowd came back, second by second from the return of the server on."""

    clients: int
    away_s: float
    jitter: bool
    per_s: float | None
    bin_s: float
    attempts: list[int]
    returned: list[int]

    @property
    def peak(self) -> int:
        """Return the largest number of attempts in one second."""
        return max(self.attempts)

    @property
    def all_back_s(self) -> int:
        """Return the second in which the last client had returned."""
        return len(self.returned)


def storm(
    clients: int, *, away_s: float, admission: Admission | None, jitter: bool = True, seed: int = 0
) -> Storm:
    """Everybody loses the server at 0; it is away for ``away_s`` seconds. Without admission it takes in all at once."""
    notice = Random(seed)
    rng = Random(seed + 1) if jitter else NoJitter(seed)
    gate = RateLimiter(admission) if admission is not None else None
    policy = Backoff()
    schedules = [Schedule(policy) for _ in range(clients)]
    heap = []
    for number, schedule in enumerate(schedules):
        schedule.receive_connected(-1000.0)
        at = notice.random() * NOTICE_S
        heap.append((at + schedule.next_delay(at, rng), number))
    heapify(heap)
    attempts: list[int] = []
    returned: list[int] = []
    while heap:
        now, number = heap[0]
        retry_after_s = None
        if now >= away_s:
            second = int(now - away_s)
            while len(attempts) <= second:
                attempts.append(0)
                returned.append(0)
            attempts[second] += 1
            retry_after_s = gate.admit(now) if gate is not None else None
            if retry_after_s is None:
                returned[second] += 1
                heappop(heap)
                continue
        delay = schedules[number].next_delay(now, rng, retry_after_s=retry_after_s)
        heapreplace(heap, (now + delay, number))
    per_s = admission.per_s if admission is not None else None
    return Storm(clients, away_s, jitter, per_s, 1.0, attempts, returned)


def find_peak(*, jitter: bool, clients: int = 2000) -> int:
    """Return how many clients return in one second at most to a server that was away for long."""
    found = storm(clients, away_s=90.0, admission=None, jitter=jitter)
    return max(found.returned)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.storm", description=__doc__)
    parser.add_argument("--clients", type=int, default=1_000_000)
    parser.add_argument("--away", type=float, default=60.0, help="seconds the server is away (default 60)")
    parser.add_argument("--per-s", type=float, default=5000.0, help="admission, in clients a second")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the curves to FILE")
    options = parser.parse_args(arguments)
    if options.clients < 1 or options.away < 0 or not 0 < options.per_s <= 1e6:
        print("--clients and --per-s must be above zero, --away not below it", file=sys.stderr)
        return 2
    admission = Admission(per_s=options.per_s, burst=max(1, int(options.per_s)))
    found = []
    for jitter, gate in ((True, admission), (False, admission), (True, None), (False, None)):
        each = storm(options.clients, away_s=options.away, admission=gate, jitter=jitter)
        found.append(each)
        print(
            f"{'with' if jitter else 'without'} jitter, {'with' if gate else 'without'} admission: "
            f"{each.clients:,} clients, {sum(each.attempts):,} attempts after the return of the server, "
            f"at most {each.peak:,} a second; all back after {each.all_back_s:,} s",
            flush=True,
        )
    if options.json is not None:
        options.json.write_bytes(msgspec.json.encode(found) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
