"""Virtual time, the random generators, and the record of what happened."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from random import Random

SECOND = 1_000_000_000
LAST_EVENTS = 20


class Violation(Exception):
    """Something that must always hold did not."""


class World:
    """A heap of what is to happen. Time moves from one entry to the next and stands still in between."""

    def __init__(self, seed: int, events_kept: int | None = LAST_EVENTS) -> None:
        self.seed = seed
        self.now_ns = 0
        self.steps = 0
        self.last_events: deque[str] = deque(maxlen=events_kept)
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._hash = blake2b(digest_size=8)
        self.failure: Violation | None = None

    def rng(self, what: str) -> Random:
        """Return a random generator for one purpose, independent of what happens elsewhere."""
        return Random(f"{self.seed}/{what}")

    @property
    def now_s(self) -> float:
        return self.now_ns / SECOND

    def at(self, when_ns: int, action: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._heap, (max(when_ns, self.now_ns), self._count, action))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self.at(self.now_ns + int(delay_s * SECOND), action)

    def note(self, text: str) -> None:
        """Put an event on record; two runs of one seed must make the same record."""
        line = f"{self.now_s:12.6f} {text}"
        self.last_events.append(line)
        self._hash.update(line.encode())

    @property
    def fingerprint(self) -> str:
        return self._hash.hexdigest()

    def fail(self, text: str) -> None:
        """Remembers the first violation; :meth:`run` raises it outside of the code that is simulated."""
        if self.failure is None:
            self.failure = Violation(text)
            self.note(f"VIOLATION {text}")

    def run(self, until_s: float) -> None:
        """Let everything happen up to that time. Raises :class:`Violation`."""
        until_ns = int(until_s * SECOND)
        while self._heap and self._heap[0][0] <= until_ns:
            self.now_ns, _, action = heappop(self._heap)
            self.steps += 1
            action()
            if self.failure is not None:
                raise self.failure
        self.now_ns = until_ns
