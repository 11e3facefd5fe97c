"""Orders the endpoints of one client by preference and recent failures. Pure: ``now`` is an argument.

Endpoints are tried in the order in which the URLs were given, but an endpoint that failed recently comes after those
that did not. A line therefore reconnects over the endpoint that worked last, and returns to a preferred one only when
it has to reconnect anyway. A working endpoint is never left.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Final, Generic, TypeVar

import msgspec

PENALTY_S: Final = 600.0
"""How long the first failure puts an endpoint after the others. Each further failure in a row doubles the time."""
PENALTY_S_MAX: Final = 86_400.0
"""An endpoint that never works costs one wasted attempt a day."""
SHORT_LINKS_MAX: Final = 2
"""This many short links in a row count as a failure of their endpoint: its path may let only the handshake through (for
example where the largest packets are dropped). A single short link may have any cause."""
ENDPOINTS_MAX: Final = 256
"""How many endpoints have a failure record. Discovery may return new addresses at each attempt, without end."""

EndpointT = TypeVar("EndpointT", bound=Hashable)


class _FailureRecord(msgspec.Struct):
    """The recent failures of one endpoint."""

    failures: int = 0
    """In a row, with no stable link in between."""
    penalty_until: float | None = None
    """Until when the endpoint comes after the others; ``None`` while it works."""
    short_links: int = 0
    reason: str = ""
    is_unusable: bool = False
    """Whether another attempt before ``penalty_until`` would be useless."""


class EndpointSelector(Generic[EndpointT]):
    """The failure records of one client's endpoints.

    :param stable_after_s: how many seconds a link must last before its endpoint counts as working.
    """

    __slots__ = ("_last_used", "_records", "_stable_after_s", "_used_since")

    def __init__(self, stable_after_s: float) -> None:
        self._stable_after_s = stable_after_s
        self._records: dict[EndpointT, _FailureRecord] = {}
        self._last_used: EndpointT | None = None
        self._used_since = 0.0

    @property
    def last_used(self) -> EndpointT | None:
        """The endpoint in use, or the last one that was; ``None`` before the first connection."""
        return self._last_used

    @property
    def records(self) -> int:
        """How many endpoints have a failure record."""
        return len(self._records)

    def order(self, endpoints: Iterable[EndpointT], now: float) -> list[EndpointT]:
        """Return the endpoints to try now, the best first: those without a recent failure in the given order, then
        those with one, the oldest failure first. Unusable endpoints are left out.
        """
        good: list[EndpointT] = []
        bad: list[tuple[float, EndpointT]] = []
        for endpoint in dict.fromkeys(endpoints):
            record = self._records.get(endpoint)
            if record is None or record.penalty_until is None or now >= record.penalty_until:
                good.append(endpoint)
            elif not record.is_unusable:
                bad.append((record.penalty_until - _penalty_s(record.failures), endpoint))
        bad.sort(key=lambda item: item[0])
        return good + [endpoint for _, endpoint in bad]

    def receive_connected(self, endpoint: EndpointT, now: float) -> None:
        """Record that a server sent its WELCOME over this endpoint."""
        self._last_used, self._used_since = endpoint, now
        record = self._records.get(endpoint)
        if record is not None:
            record.penalty_until = None
            record.is_unusable = False

    def receive_lost(self, now: float, detail: str) -> None:
        """Record that the link over the endpoint in use broke without a goodbye."""
        endpoint = self._last_used
        if endpoint is None:
            return
        if now - self._used_since >= self._stable_after_s:
            self._records.pop(endpoint, None)
            return
        record = self._ensure_record(endpoint)
        record.short_links += 1
        if record.short_links >= SHORT_LINKS_MAX:
            self.receive_failed(endpoint, now, f"{record.short_links} links in a row did not last: {detail}")

    def receive_failed(
        self, endpoint: EndpointT, now: float, reason: str, *, is_unusable: bool = False
    ) -> bool:
        """Record a failed attempt. Return whether the reason is new, so that each reason is reported once.

        :param is_unusable: whether another attempt soon would be useless, because a module is not installed, or
            something other than the server answers there.
        """
        record = self._ensure_record(endpoint)
        is_new = record.reason != reason
        record.failures += 1
        record.short_links = 0
        record.penalty_until = now + _penalty_s(record.failures)
        record.reason = reason
        record.is_unusable = is_unusable
        return is_new

    def reset(self) -> None:
        """Clear all failure records."""
        self._records.clear()

    def failure_reasons(self, endpoints: Sequence[EndpointT]) -> str:
        """Return each of the endpoints that failed with its last reason, as part of a sentence."""
        return "; ".join(
            f"{endpoint}: {record.reason}"
            for endpoint in endpoints
            if (record := self._records.get(endpoint)) is not None and record.reason
        )

    def _ensure_record(self, endpoint: EndpointT) -> _FailureRecord:
        record = self._records.get(endpoint)
        if record is None:
            if len(self._records) >= ENDPOINTS_MAX:
                # The oldest record: dictionaries keep the order of insertion.
                del self._records[next(iter(self._records))]
            record = self._records[endpoint] = _FailureRecord()
        return record


def _penalty_s(failures: int) -> float:
    # The exponent has a limit too: 2.0 ** 1024 overflows, and a night has that many attempts.
    return min(PENALTY_S_MAX, PENALTY_S * 2.0 ** min(failures - 1, 64))
