"""Fairness: how long an honest client waits beside a connection that floods."""

from __future__ import annotations

import math
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks import transport_processes
from benchmarks.fairness_processes import ASK_EVERY_S, HEARTBEAT, KINDS
from benchmarks.peers import installed
from benchmarks.processes import Child
from benchmarks.progress import Progress
from benchmarks.report import Budget, Figure, Row, missing_figures
from benchmarks.settings import OURS, Settings

PEERS: Final = (OURS, "over_unix", "over_tls", "over_ws", "over_quic")
BUDGET: Final = Budget(25.0, "less")
QUIET: Final = "no flood"
LEAD_S: Final = 0.2
"""The flood starts this long before the honest client is measured, and ends this long after it."""


def run(settings: Settings, progress: Progress) -> Row:
    """Measure each flood over each transport, with the honest client on the same transport."""
    peers = settings.choose(PEERS)
    figures: list[Figure] = []
    for peer in installed(peers):
        scheme = peer.removeprefix("over_") if peer != OURS else "tcp"
        with ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="landline-"))
            transport_processes.write_certificates(Path(directory))
            server = stack.enter_context(Child("fairness_processes", "serve", scheme, directory))
            arguments = (scheme, directory, server.read()["url"])
            honest = stack.enter_context(Child("fairness_processes", "ask", *arguments))
            flooder = stack.enter_context(Child("fairness_processes", "flood", *arguments))
            honest.read()
            flooder.read()
            for kind in (QUIET, *KINDS):
                with progress.step(f"{scheme}://: {kind}"):
                    figures.append(_measure(peer, kind, server, honest, flooder, settings.fairness_seconds))
    return Row(
        name="fairness",
        title="the longest an honest client waits for an answer beside one connection that floods",
        unit="ms",
        settings={
            "seconds": settings.fairness_seconds,
            "a_request_every_ms": ASK_EVERY_S * 1000,
            "payload_bytes": 64,
            "heartbeat_s": f"{HEARTBEAT.interval_s:g} + {HEARTBEAT.timeout_s:g}",
        },
        figures=[*figures, *missing_figures(peers)],
        compares=False,
    )


def _measure(peer: str, kind: str, server: Child, honest: Child, flooder: Child, seconds: float) -> Figure:
    server.ask()
    flood: dict[str, Any] = {"ended_after_s": []}
    if kind != QUIET:
        flooder.tell(kind=kind, seconds=seconds + 2 * LEAD_S)
    answer = honest.ask(timeout_s=60 + seconds, seconds=seconds)
    if kind != QUIET:
        flood = flooder.read(60 + seconds)
    delays = sorted(1000 * delay_s for delay_s in answer["delays_s"])
    details = {
        "p99": round(_percentile(delays, 0.99), 2),
        "p50": round(_percentile(delays, 0.5), 2),
        "answers": len(delays),
        "honest links lost": answer["links_lost"],
    }
    details["longest turn, ms of CPU"] = round(1000 * server.ask()["longest_turn_s"], 2)
    ends = sorted(flood["ended_after_s"])
    note = "not ended" if kind != QUIET else ""
    if ends:
        details["flooders ended"] = len(ends)
        details["each after s"] = round(_percentile(ends, 0.5), 3)
        note = ""
    return Figure(
        peer=peer,
        label=kind,
        values=[round(delays[-1], 2)],
        budget=BUDGET,
        details=details,
        note=note,
    )


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
