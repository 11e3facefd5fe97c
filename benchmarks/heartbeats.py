"""Heartbeats: the cost of keeping very many idle connections alive."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any, Final

from benchmarks.peers import installed
from benchmarks.processes import Child, cpu_seconds
from benchmarks.progress import Progress
from benchmarks.report import Budget, Cost, Figure, Row, missing_figures
from benchmarks.settings import Settings, tenth

BUDGET: Final = Budget(5, "less")
PEERS: Final = ("landline", "bare_uvloop", "websockets", "picows", "nats")
CONNECT_TIMEOUT_S: Final = 60.0
WARM_UP_INTERVALS: Final = 1.1
"""Wait for the first heartbeat of every connection before the measurement."""


def run(settings: Settings, progress: Progress) -> Row:
    """Open the connections of all peers, and a tenth of them at a second server of each, for the same period.

    What is measured is CPU time, which every process is charged for by itself.
    """
    peers = settings.choose(PEERS)
    names = installed(peers)
    few, many = tenth(settings.lines), settings.lines
    interval_s, seconds = settings.heartbeat_interval_s, settings.heartbeat_seconds
    found: dict[tuple[str, int], dict[str, Any]] = {}
    with ExitStack() as stack:
        loads: dict[tuple[str, int], Child] = {}
        pids: dict[tuple[str, int], int] = {}
        for peer in names:
            for count in (few, many):
                with progress.step(f"{count:,} connections to {peer}"):
                    load = stack.enter_context(Child("load"))
                    server = stack.enter_context(Child("servers", peer, "--heartbeat", f"{interval_s:g}"))
                    load.read()
                    where = server.read()
                    load.ask(
                        timeout_s=CONNECT_TIMEOUT_S,
                        do="hold",
                        kind=peer,
                        port=where["port"],
                        connections=count,
                    )
                    loads[peer, count], pids[peer, count] = load, where["pid"]
                    # Answer pings from now on, while the other peers connect.
                    load.ask(do="answer_pings")
        with progress.step(f"the first {interval_s * WARM_UP_INTERVALS:g} s"):
            time.sleep(interval_s * WARM_UP_INTERVALS)
        with progress.step(f"{seconds:g} s of heartbeats every {interval_s:g} s with {', '.join(names)}"):
            started = {key: _look(load, pids[key]) for key, load in loads.items()}
            time.sleep(seconds)
            for key, load in loads.items():
                now = _look(load, pids[key])
                elapsed = now["at"] - started[key]["at"]
                found[key] = {
                    "cpu": (now["cpu_s"] - started[key]["cpu_s"]) / elapsed,
                    "pings_per_s": (now["pings"] - started[key]["pings"]) / elapsed,
                }
    return Row(
        name="heartbeats",
        title="CPU time of a server that keeps idle connections alive, in percent of one core",
        unit="%",
        settings={"connections": many, "interval_s": interval_s, "seconds": seconds},
        cost_title=f"µs of the server's CPU for one connection and second, {few:,} → {many:,} connections",
        figures=[
            *(_figure(peer, found[peer, few], few, found[peer, many], many) for peer in names),
            *missing_figures(peers),
        ],
    )


def _look(load: Child, pid: int) -> dict[str, float]:
    pings = load.ask(do="count_pings")["pings"]
    return {"pings": pings, "cpu_s": cpu_seconds(pid), "at": time.monotonic()}


def _figure(peer: str, small: dict[str, Any], few: int, whole: dict[str, Any], many: int) -> Figure:
    return Figure(
        peer=peer,
        values=[round(whole["cpu"] * 100, 3)],
        budget=BUDGET if peer == "landline" else None,
        details={"pings answered/s": round(whole["pings_per_s"], 1)},
        cost=Cost(round(small["cpu"] * 1e6 / few, 2), round(whole["cpu"] * 1e6 / many, 2)),
        note="no heartbeats: the floor" if peer == "bare_uvloop" else "",
    )
