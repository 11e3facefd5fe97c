"""Fan-out: one small message to very many connections."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any, Final

from benchmarks.clients import PAYLOAD
from benchmarks.peers import installed
from benchmarks.processes import Child
from benchmarks.progress import Progress
from benchmarks.report import Budget, Cost, Figure, Row, missing_figures
from benchmarks.settings import Settings, tenth

BUDGET: Final = Budget(100, "less")
PEERS: Final = ("landline", "bare_uvloop", "websockets", "picows", "nats", "mosquitto")
ROUNDS: Final = 7
TENTH_ROUNDS: Final = 3
TIMEOUT_S: Final = 60.0


def run(settings: Settings, progress: Progress) -> Row:
    """Open the connections of all peers, and let each peer send in turn. Each has a separate load process."""
    peers = settings.choose(PEERS)
    names = installed(peers)
    few, many = tenth(settings.lines), settings.lines
    small: dict[str, list[dict[str, Any]]] = {peer: [] for peer in names}
    whole: dict[str, list[dict[str, Any]]] = {peer: [] for peer in names}
    with ExitStack() as stack:
        pairs = {
            peer: _Pair(peer, stack.enter_context(Child("load")), stack.enter_context(Child("servers", peer)))
            for peer in names
        }
        cores = 0
        for pair in pairs.values():
            cores = pair.start()
        for total, rounds, answers in ((few, TENTH_ROUNDS, small), (many, ROUNDS, whole)):
            for peer, pair in pairs.items():
                with progress.step(f"{total:,} connections to {peer}"):
                    pair.hold(total)
            for number in range(1, rounds + 1):
                with progress.step(
                    f"round {number} of {rounds}: one message to {total:,} connections of each"
                ):
                    for peer, pair in pairs.items():
                        answers[peer].append(pair.broadcast())
    return Row(
        name="fan_out",
        title="from the call until one message is at the last of very many connections",
        unit="ms",
        settings={
            "connections": many,
            "payload_bytes": len(PAYLOAD),
            "rounds": ROUNDS,
            "load": f"C, {'spins' if cores >= 2 else 'sleeps'}",
            "cores": cores,
        },
        cost_title=f"µs for one connection, {few:,} → {many:,} connections",
        figures=[
            *(_figure(peer, small[peer], few, whole[peer], many) for peer in names),
            *missing_figures(peers),
        ],
    )


class _Pair:
    """A server and the load with its connections."""

    def __init__(self, peer: str, load: Child, server: Child) -> None:
        self._peer = peer
        self._load = load
        self._server = server
        self._where: dict[str, Any] = {}
        self._held = 0

    def start(self) -> int:
        """Returns how many cores the load sees."""
        cores: int = self._load.read()["cores"]
        self._where = self._server.read()
        return cores

    def hold(self, total: int) -> None:
        self._load.ask(
            timeout_s=TIMEOUT_S,
            do="hold",
            kind=self._peer,
            port=self._where["port"],
            connections=total - self._held,
        )
        self._held = total

    def broadcast(self) -> dict[str, Any]:
        self._load.ask(do="receive_one", pid=self._where["pid"])
        called_at = self._server.ask(timeout_s=TIMEOUT_S, do="broadcast")["called_at"]
        received = self._load.read(TIMEOUT_S)
        return {"ms": (received["last_at"] - called_at) * 1e3, **received}


def _figure(
    peer: str, small: list[dict[str, Any]], few: int, whole: list[dict[str, Any]], many: int
) -> Figure:
    return Figure(
        peer=peer,
        values=[round(answer["ms"], 2) for answer in whole],
        budget=BUDGET if peer == "landline" else None,
        details={
            "server CPU ms": round(statistics.median(answer["server_cpu_s"] for answer in whole) * 1e3, 1),
            "delivered": sum(answer["messages"] for answer in whole),
        },
        cost=Cost(
            round(statistics.median(answer["ms"] for answer in small) * 1e3 / few, 2),
            round(statistics.median(answer["ms"] for answer in whole) * 1e3 / many, 2),
        ),
    )
