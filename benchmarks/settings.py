"""How large a run is."""

from __future__ import annotations

from typing import Final

import msgspec

OURS: Final = "landline"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes and durations. With the defaults all rows take about eleven minutes."""

    seconds: float = 1.0
    """Duration of each round of echo, round_trip and request_response, after a warm-up of a quarter of it."""
    rounds: int = 5
    echo_connections: int = 100
    echo_in_flight: int = 16
    idle_connections: int = 5_000
    idle_tls_connections: int = 2_000
    lines: int = 10_000
    """Number of lines in fan_out, heartbeats and reconnect."""
    heartbeat_interval_s: float = 10.0
    heartbeat_seconds: float = 30.0
    requests_in_flight: int = 64
    fairness_seconds: float = 1.5
    """Duration of each flood, over each transport."""
    peers: tuple[str, ...] = ()
    """The peers to measure beside landline; empty for all."""
    load_sleeps: bool = False
    """Let the load sleep between responses. The server then pays for waking it, which it would not if the load ran on
    another machine."""

    def choose(self, peers: tuple[str, ...]) -> tuple[str, ...]:
        """Return the requested peers of a row, and landline."""
        return tuple(name for name in peers if not self.peers or name in self.peers or name == OURS)


QUICK = Settings(
    seconds=0.3,
    rounds=2,
    idle_connections=1_000,
    idle_tls_connections=300,
    lines=1_000,
    heartbeat_interval_s=2.0,
    heartbeat_seconds=4.0,
    fairness_seconds=0.5,
)
"""Takes about a minute. The budgets are for the full size."""


def tenth(size: int) -> int:
    """Return the smaller size at which a row is also measured."""
    return max(1, size // 10)
