"""Idle memory: what a connected connection that says nothing costs its server."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Final

from benchmarks.processes import Child, connections_max
from benchmarks.report import Budget, Figure, Row
from benchmarks.settings import Settings

BUDGET: Final = Budget(3_500, "less")
PEERS: Final = ("landline", "bare_uvloop", "websockets")
FIRST_CONNECTIONS: Final = 100
"""Opened before the first look, so that what a server loads once is not counted."""
SETTLE_S: Final = 0.3
"""The server has no event for "nothing more comes": the last handshakes and acknowledgements get this long."""


def run(settings: Settings) -> Row:
    """Opens connections and divides what the server grew by their number.

    The kernel's own memory (socket buffers) is not in it.
    """
    count = min(settings.idle_connections, connections_max() - FIRST_CONNECTIONS)
    with Child("load") as load:
        load.read()
        figures = [
            Figure(
                peer=peer,
                values=[round(_growth(load, peer, count), 1) for _ in range(settings.idle_rounds)],
                budget=BUDGET if peer == "landline" else None,
            )
            for peer in PEERS
        ]
    return Row(
        name="idle_memory",
        title="memory of one idle connection",
        unit="bytes",
        settings={"connections": count, "rounds": settings.idle_rounds},
        figures=figures,
    )


def _growth(load: Child, peer: str, count: int) -> float:
    with ExitStack() as stack:
        # Left after the server has ended, which so is not troubled by thousands of broken connections.
        stack.callback(load.ask, do="release")
        server = stack.enter_context(Child("servers", peer))
        port = server.read()["port"]
        load.ask(do="hold", kind=peer, port=port, connections=min(FIRST_CONNECTIONS, count))
        before = _memory(server)
        load.ask(timeout_s=60, do="hold", kind=peer, port=port, connections=count)
        return (_memory(server) - before) / count


def _memory(server: Child) -> int:
    time.sleep(SETTLE_S)
    return int(server.ask(do="memory")["anonymous_bytes"])
