"""How large a run is."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults take about 45 seconds for everything."""

    seconds: float = 1.0
    """Measured in each round, after a quarter of it to warm up."""
    rounds: int = 5
    echo_connections: int = 100
    echo_in_flight: int = 16
    idle_connections: int = 5_000
    idle_rounds: int = 1
    load_sleeps: bool = False
    """Let the load sleep between answers. Waking it then costs the server, as on no other machine it would."""
