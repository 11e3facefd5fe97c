"""How large a run is."""

from __future__ import annotations

from typing import Final

import msgspec

OURS: Final = "landline"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The defaults take about eleven minutes for everything."""

    seconds: float = 1.0
    """Measured in each round of echo, round_trip and request_response, after a quarter of it to warm up."""
    rounds: int = 5
    echo_connections: int = 100
    echo_in_flight: int = 16
    idle_connections: int = 5_000
    idle_tls_connections: int = 2_000
    lines: int = 10_000
    """Of fan_out, heartbeats and reconnect."""
    heartbeat_interval_s: float = 10.0
    heartbeat_seconds: float = 30.0
    requests_in_flight: int = 64
    fairness_seconds: float = 1.5
    """Of each flood, over each transport."""
    peers: tuple[str, ...] = ()
    """Those to measure beside landline; all when empty."""
    load_sleeps: bool = False
    """Let the load sleep between answers. Waking it then costs the server, as on no other machine it would."""

    def choose(self, peers: tuple[str, ...]) -> tuple[str, ...]:
        """Those of a row's peers that were asked for, landline in front."""
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
"""A short look, about a minute. The budgets are for the full size."""


def tenth(size: int) -> int:
    """The smaller size at which a row is looked at too."""
    return max(1, size // 10)
