"""Requests over each transport, asked by landline's own client."""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import over
from benchmarks.clients import PAYLOAD
from benchmarks.peers import installed
from benchmarks.processes import Child, cpu_seconds
from benchmarks.progress import Progress
from benchmarks.report import Cost, Figure, Row, missing_figures
from benchmarks.settings import OURS, Settings

PEERS = tuple(OURS if scheme == "tcp" else f"over_{scheme}" for scheme in over.schemes())


def run(settings: Settings, progress: Progress) -> Row:
    """Rounds with each in turn, with one request in flight and with many."""
    peers = settings.choose(PEERS)
    names = installed(peers)
    many = settings.requests_in_flight
    single: dict[str, list[dict[str, Any]]] = {peer: [] for peer in names}
    whole: dict[str, list[dict[str, Any]]] = {peer: [] for peer in names}
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="landline-"))
        over.write_certificates(Path(directory))
        clients: dict[str, Child] = {}
        pids: dict[str, int] = {}
        for peer in names:
            scheme = peer.removeprefix("over_") if peer != OURS else "tcp"
            with progress.step(f"{scheme}://: starting"):
                server = stack.enter_context(Child("over", "serve", scheme, directory)).read()
                pids[peer] = server["pid"]
                clients[peer] = stack.enter_context(Child("over", "ask", server["url"], directory))
                clients[peer].read()

        def measure(peer: str, in_flight: int) -> dict[str, Any]:
            cpu = cpu_seconds(pids[peer])
            answer = clients[peer].ask(in_flight=in_flight, seconds=settings.seconds)
            cpu = cpu_seconds(pids[peer]) - cpu
            return {"server_cpu_s": cpu, **answer}

        for number in range(1, settings.rounds + 1):
            with progress.step(f"round {number} of {settings.rounds} with {', '.join(names)}"):
                for peer in names:
                    single[peer].append(measure(peer, 1))
                    whole[peer].append(measure(peer, many))
    return Row(
        name="transports",
        title=f"requests answered each second over each transport, {many} in flight",
        unit="req/s",
        settings={
            "in_flight": many,
            "payload_bytes": len(PAYLOAD),
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "load": "landline's own client",
        },
        cost_title=f"µs for one request, 1 → {many} in flight",
        figures=[*(_figure(peer, single[peer], whole[peer]) for peer in names), *missing_figures(peers)],
    )


def _figure(peer: str, single: list[dict[str, Any]], whole: list[dict[str, Any]]) -> Figure:
    alone = statistics.median(answer["rate"] for answer in single)
    many = statistics.median(answer["rate"] for answer in whole)
    return Figure(
        peer=peer,
        values=[round(answer["rate"], 1) for answer in whole],
        details={
            "one in flight": round(alone, 1),
            "answers compared": sum(answer["count"] for answer in whole + single),
        },
        cost=Cost(round(1e6 / alone, 1), round(1e6 / many, 1)),
        load_busy=round(statistics.median(answer["load_busy"] for answer in whole), 3),
    )
