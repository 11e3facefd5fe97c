"""Idle memory: what an idle connection costs its server."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from typing import Final

from benchmarks.peers import installed
from benchmarks.processes import Child, connections_max
from benchmarks.progress import Progress
from benchmarks.report import Budget, Cost, Figure, Row, missing_figures
from benchmarks.settings import Settings, tenth

BUDGETS: Final = {
    "landline": Budget(3_500, "less"),
    "landline_ws": Budget(5_250, "less"),
    "landline_tls": Budget(28_000, "less"),
}
PLAIN: Final = (
    "landline",
    "landline_ws",
    "bare_uvloop",
    "websockets",
    "picows",
    "socketio",
    "nats",
    "mosquitto",
)
TLS: Final = ("landline_tls", "bare_uvloop_tls", "websockets_tls")
FIRST_CONNECTIONS: Final = 100
"""Connections before the first measurement, so that one-time costs of the server are not counted."""
SETTLE_S: Final = 0.05
SETTLE_EACH_S: Final = 50e-6
"""The server has no event for "nothing more comes": the last handshakes and acknowledgements get this long, and this
more for each connection."""
ROUNDS: Final = 1


def run(settings: Settings, progress: Progress) -> Row:
    """Open connections and divide the growth of the server by their number.

    The kernel's own memory (socket buffers) is not in it.
    """
    most = connections_max() - FIRST_CONNECTIONS
    counts = dict.fromkeys(PLAIN, min(settings.idle_connections, most))
    counts |= dict.fromkeys(TLS, min(settings.idle_tls_connections, most))
    peers = settings.choose(PLAIN + TLS)
    figures = []
    with Child("load") as load:
        load.read()
        for peer in installed(peers):
            with progress.step(f"{counts[peer]:,} connections to {peer}"):
                costs = [_growth(load, peer, counts[peer]) for _ in range(ROUNDS)]
            figures.append(
                Figure(
                    peer=peer,
                    values=[round(cost.whole, 1) for cost in costs],
                    budget=BUDGETS.get(peer),
                    cost=Cost(
                        round(statistics.median(cost.tenth for cost in costs), 1),
                        round(statistics.median(cost.whole for cost in costs), 1),
                    ),
                )
            )
    return Row(
        name="idle_memory",
        title="memory of one idle connection",
        unit="bytes",
        settings={"connections": counts["landline"], "over_TLS": counts["landline_tls"], "rounds": ROUNDS},
        cost_title=(
            f"bytes for one connection, {tenth(counts['landline']):,} → {counts['landline']:,} connections "
            f"(over TLS {tenth(counts['landline_tls']):,} → {counts['landline_tls']:,})"
        ),
        figures=[*figures, *missing_figures(peers)],
    )


def _growth(load: Child, peer: str, count: int) -> Cost:
    """Return the bytes per connection with a tenth of the connections, and with all."""
    few = tenth(count)
    with ExitStack() as stack:
        # Closed after the server has ended, so that it does not see thousands of broken connections.
        stack.callback(load.ask, do="release")
        server = stack.enter_context(Child("servers", peer))
        port = server.read()["port"]

        def hold(connections: int) -> None:
            load.ask(timeout_s=120, do="hold", kind=peer, port=port, connections=connections)

        hold(min(FIRST_CONNECTIONS, count))
        # Memory that the start has freed would hide what the first connections use.
        before = _memory(server, count, "memory_trimmed")
        hold(few)
        at_tenth = _memory(server, count)
        if count > few:
            hold(count - few)
        return Cost((at_tenth - before) / few, (_memory(server, count) - before) / count)


def _memory(server: Child, connections: int, command: str = "memory") -> int:
    time.sleep(SETTLE_S + connections * SETTLE_EACH_S)
    return int(server.ask(do=command)["anonymous_bytes"])
