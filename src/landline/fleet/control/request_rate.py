"""How fast what one agent asks is worked on: each request may be a write to disk and news for all who watch.

Nothing is refused or lost: what comes faster waits, and in the end makes the agent wait.
"""

from __future__ import annotations

from typing import Final

REQUEST_EVERY_S: Final = 0.02
"""One agent's requests are worked on this far apart, on average: fifty a second. An execution takes fewer than ten."""
REQUESTS_AT_ONCE: Final = 200
"""... but so many without a pause, as when it returns with many executions."""
FACTS_EVERY_S: Final = 0.25
"""What a machine says of itself is taken this far apart; of what comes faster, the latest."""


class RequestThrottle:
    """The pace of one agent. Sans-I/O; times are in seconds on a clock that only goes forward."""

    __slots__ = ("_next_at",)

    def __init__(self) -> None:
        self._next_at = float("-inf")

    def wait_s(self, now: float) -> float:
        """How long the request that comes now is to wait, which counts it."""
        at = max(self._next_at, now - (REQUESTS_AT_ONCE - 1) * REQUEST_EVERY_S)
        self._next_at = at + REQUEST_EVERY_S
        return max(0.0, at - now)
