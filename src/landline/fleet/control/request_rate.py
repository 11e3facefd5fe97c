"""The rate at which requests of one agent are handled: each may cause a write to disk and updates for subscribers.

No request is refused or lost. Requests that arrive faster wait, and flow control slows the agent down.
"""

from __future__ import annotations

from typing import Final

REQUEST_EVERY_S: Final = 0.02
"""Average interval between the requests of one agent: fifty per second. An execution needs fewer than ten."""
REQUESTS_AT_ONCE: Final = 200
"""Requests without a pause, as when an agent returns with many executions."""
FACTS_EVERY_S: Final = 0.25
"""Minimum interval between changes of facts. Of those that arrive faster, the latest counts."""


class RequestThrottle:
    """The request rate of one agent. Sans-I/O; times are in seconds on a monotonic clock."""

    __slots__ = ("_next_at",)

    def __init__(self) -> None:
        self._next_at = float("-inf")

    def wait_s(self, now: float) -> float:
        """Count a request that arrives now, and return how long it must wait."""
        at = max(self._next_at, now - (REQUESTS_AT_ONCE - 1) * REQUEST_EVERY_S)
        self._next_at = at + REQUEST_EVERY_S
        return max(0.0, at - now)
