"""Round trip: one connection, one small message at a time."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any, Final

from benchmarks.clients import PAYLOAD
from benchmarks.peers import installed
from benchmarks.processes import Child
from benchmarks.progress import Progress
from benchmarks.report import Budget, Cost, Figure, Row, missing_figures
from benchmarks.settings import Settings

BUDGET: Final = Budget(75, "less")
PEERS: Final = (
    "landline",
    "landline_request",
    "landline_ws",
    "bare_uvloop",
    "websockets",
    "picows",
    "nats",
    "mosquitto",
)
BROKERS: Final = ("nats", "mosquitto")
"""A broker delivers to the sender what that published; with thousands subscribed to the same subject
it would deliver to all of them, so brokers are not measured beside idle connections."""


def run(settings: Settings, progress: Progress) -> Row:
    """Measure rounds against each server in turn, then once more beside many idle connections."""
    peers = settings.choose(PEERS)
    names = installed(peers)
    idle = settings.lines // 10
    answers: dict[str, list[dict[str, Any]]] = {peer: [] for peer in names}
    crowded: dict[str, list[dict[str, Any]]] = {peer: [] for peer in names}
    with ExitStack() as stack:
        load = stack.enter_context(Child("load"))
        started = load.read()
        servers = {peer: stack.enter_context(Child("servers", peer)) for peer in names}
        where = {peer: server.read() for peer, server in servers.items()}

        def measure(peer: str) -> dict[str, Any]:
            return load.ask(do="round_trip", kind=peer, seconds=settings.seconds, **where[peer])

        for number in range(1, settings.rounds + 1):
            with progress.step(f"round {number} of {settings.rounds} with {', '.join(names)}"):
                for peer in names:
                    answers[peer].append(measure(peer))
        for peer in names:
            if peer in BROKERS:
                continue
            with progress.step(f"{peer} beside {idle:,} idle connections"):
                load.ask(timeout_s=60, do="hold", kind=peer, port=where[peer]["port"], connections=idle)
                crowded[peer] = [measure(peer) for _ in range(min(2, settings.rounds))]
                load.ask(do="release")
    return Row(
        name="round_trip",
        title="from sending a message to its answer, one at a time; the median of each round",
        unit="µs",
        settings={
            "connections": 1,
            "payload_bytes": len(PAYLOAD),
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "load": f"{started['language']}, spins",
            "cores": started["cores"],
        },
        cost_title=f"p50 in µs, alone → beside {idle:,} idle connections of the same server",
        figures=[
            *(_figure(peer, answers[peer], crowded[peer]) for peer in names),
            *missing_figures(peers),
        ],
    )


def _figure(peer: str, answers: list[dict[str, Any]], crowded: list[dict[str, Any]]) -> Figure:
    median_us = statistics.median(answer["p50_us"] for answer in answers)
    beside = statistics.median(answer["p50_us"] for answer in crowded) if crowded else None
    return Figure(
        peer=peer,
        values=[round(answer["p50_us"], 1) for answer in answers],
        budget=BUDGET if peer == "landline" else None,
        details={
            "p99": round(statistics.median(answer["p99_us"] for answer in answers), 1),
            "round trips": sum(answer["count"] for answer in answers),
        },
        cost=None if beside is None else Cost(round(median_us, 1), round(beside, 1)),
        server_cpu=round(statistics.median(answer["server_cpu"] for answer in answers), 3),
    )
