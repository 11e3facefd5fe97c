"""Requests over each transport, sent by landline's own client."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import transport_processes
from benchmarks.clients import PAYLOAD
from benchmarks.peers import installed
from benchmarks.processes import Child
from benchmarks.progress import Progress
from benchmarks.report import Row, missing_figures
from benchmarks.request_response import ask_in_rounds, figure_of
from benchmarks.settings import OURS, Settings

PEERS = tuple(OURS if scheme == "tcp" else f"over_{scheme}" for scheme in transport_processes.schemes())


def run(settings: Settings, progress: Progress) -> Row:
    """Measure rounds over each transport in turn, with one request in flight and with many."""
    peers = settings.choose(PEERS)
    names = installed(peers)
    many = settings.requests_in_flight
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="landline-"))
        transport_processes.write_certificates(Path(directory))
        clients: dict[str, Child] = {}
        pids: dict[str, list[int]] = {}
        for peer in names:
            scheme = peer.removeprefix("over_") if peer != OURS else "tcp"
            with progress.step(f"{scheme}://: starting"):
                server = stack.enter_context(Child("transport_processes", "serve", scheme, directory)).read()
                pids[peer] = [server["pid"]]
                clients[peer] = stack.enter_context(
                    Child("transport_processes", "ask", server["url"], directory)
                )
                clients[peer].read()

        single, whole = ask_in_rounds(clients, pids, settings, progress)
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
        figures=[*(figure_of(peer, single[peer], whole[peer]) for peer in names), *missing_figures(peers)],
    )
