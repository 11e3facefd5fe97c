"""Which of several roads to a server is tried first. Pure: ``now`` is an argument.

The order in which the URLs were given counts, except that a road which failed lately stands behind those which did
not. A line therefore comes back over the road that carried it last, and returns to a better one, by and by, when it
has to connect anyway; nobody leaves a road that works.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Final, Generic, TypeVar

import msgspec

FORGET_S: Final = 600.0
"""How long the first failure of a road puts it behind the others; each further one in a row, for twice as long."""
FORGET_S_MAX: Final = 86_400.0
"""A network that never lets a road through costs one wasted attempt a day."""
SHORT_LINKS_MAX: Final = 2
"""So many links in a row that did not last are a failure of their road: it may let a handshake through, and no more
(a path whose largest packets vanish does). One alone may be anything."""
ROADS_MAX: Final = 256
"""How many roads are remembered. Addresses that are looked up anew each time would else add up for ever."""

Road = TypeVar("Road", bound=Hashable)


class _Memory(msgspec.Struct):
    """What is known of one road."""

    failures: int = 0
    """In a row, without a link that lasted in between."""
    forget_at: float | None = None
    """Until when it stands behind the others; ``None`` while it works."""
    short_links: int = 0
    reason: str = ""
    is_closed: bool = False
    """Whether there is no use in trying again before ``forget_at``."""


class EndpointSelector(Generic[Road]):
    """What happened on the roads of one client.

    :param stable_after_s: how long a link must stay up to prove that its road carries one.
    """

    __slots__ = ("_memories", "_stable_after_s", "_used", "_used_since")

    def __init__(self, stable_after_s: float) -> None:
        self._stable_after_s = stable_after_s
        self._memories: dict[Road, _Memory] = {}
        self._used: Road | None = None
        self._used_since = 0.0

    @property
    def used(self) -> Road | None:
        """The road in use, or the last one that was; ``None`` before the first."""
        return self._used

    def order(self, roads: Iterable[Road], now: float) -> list[Road]:
        """Those worth trying now, the best first: as given, and behind them what failed lately, oldest first."""
        good: list[Road] = []
        bad: list[tuple[float, Road]] = []
        for road in dict.fromkeys(roads):
            memory = self._memories.get(road)
            if memory is None or memory.forget_at is None or now >= memory.forget_at:
                good.append(road)
            elif not memory.is_closed:
                bad.append((memory.forget_at - _forget_s(memory.failures), road))
        bad.sort(key=lambda item: item[0])
        return good + [road for _, road in bad]

    def receive_connected(self, road: Road, now: float) -> None:
        """A road led to a welcome."""
        self._used, self._used_since = road, now
        memory = self._memories.get(road)
        if memory is not None:
            memory.forget_at = None
            memory.is_closed = False

    def receive_lost(self, now: float, detail: str) -> None:
        """The link over the road in use broke, and nobody had said goodbye."""
        road = self._used
        if road is None:
            return
        if now - self._used_since >= self._stable_after_s:
            self._memories.pop(road, None)
            return
        memory = self._memory(road)
        memory.short_links += 1
        if memory.short_links >= SHORT_LINKS_MAX:
            self.receive_failed(road, now, f"{memory.short_links} links in a row did not last: {detail}")

    def receive_failed(self, road: Road, now: float, reason: str, *, is_closed: bool = False) -> bool:
        """A road led nowhere. Returns whether the reason is news, so that each is reported once.

        ``is_closed`` says that trying again soon is useless: what it needs is not installed, or whoever answers
        there is not the server.
        """
        memory = self._memory(road)
        is_news = memory.reason != reason
        memory.failures += 1
        memory.short_links = 0
        memory.forget_at = now + _forget_s(memory.failures)
        memory.reason = reason
        memory.is_closed = is_closed
        return is_news

    def forget(self) -> None:
        """Every road is as good as new."""
        self._memories.clear()

    def reasons(self, roads: Sequence[Road]) -> str:
        """Each of the roads with why it failed last, as part of a sentence."""
        return "; ".join(
            f"{road}: {memory.reason}"
            for road in roads
            if (memory := self._memories.get(road)) is not None and memory.reason
        )

    def _memory(self, road: Road) -> _Memory:
        memory = self._memories.get(road)
        if memory is None:
            if len(self._memories) >= ROADS_MAX:
                # The one that was first met longest ago; dictionaries keep that order.
                del self._memories[next(iter(self._memories))]
            memory = self._memories[road] = _Memory()
        return memory


def _forget_s(failures: int) -> float:
    # The exponent is bounded too: 2.0 ** 1024 is no float, and so many attempts fail in one night.
    return min(FORGET_S_MAX, FORGET_S * 2.0 ** min(failures - 1, 64))
