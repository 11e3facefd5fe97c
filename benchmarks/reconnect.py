"""Reconnect: very many connections are cut at once and all reconnect."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any, Final

from benchmarks.bulk_connect import AT_ONCE
from benchmarks.echo import limit_note
from benchmarks.peers import installed
from benchmarks.processes import Child
from benchmarks.progress import Progress
from benchmarks.report import Cost, Figure, Row, missing_figures
from benchmarks.settings import Settings, tenth

PEERS: Final = ("landline", "bare_uvloop", "websockets", "picows", "nats", "mosquitto")
ROUNDS: Final = 3
TIMEOUT_S: Final = 90.0


def run(settings: Settings, progress: Progress) -> Row:
    """Measure rounds against each server in turn, first with a tenth of the connections."""
    peers = settings.choose(PEERS)
    names = installed(peers)
    few, many = tenth(settings.lines), settings.lines
    small: dict[str, list[dict[str, Any]]] = {peer: [] for peer in names}
    whole: dict[str, list[dict[str, Any]]] = {peer: [] for peer in names}
    with ExitStack() as stack:
        loads = {peer: stack.enter_context(Child("load")) for peer in names}
        servers = {peer: stack.enter_context(Child("servers", peer)) for peer in names}
        for load in loads.values():
            load.read()
        where = {peer: server.read() for peer, server in servers.items()}

        def hold(peer: str, connections: int) -> None:
            port = where[peer]["port"]
            loads[peer].ask(timeout_s=TIMEOUT_S, do="hold", kind=peer, port=port, connections=connections)

        for total, added, answers in ((few, few, small), (many, many - few, whole)):
            with progress.step(f"{total:,} connections to each of {', '.join(names)}"):
                for peer in names:
                    hold(peer, added)
            for number in range(1, ROUNDS + 1):
                with progress.step(
                    f"round {number} of {ROUNDS}: all {total:,} of each are cut and come back"
                ):
                    for peer in names:
                        answers[peer].append(
                            loads[peer].ask(timeout_s=TIMEOUT_S, do="reconnect", kind=peer, **where[peer])
                        )
    return Row(
        name="reconnect",
        title="connections that come back each second after all were cut at once",
        unit="conn/s",
        settings={"connections": many, "at_once": AT_ONCE, "rounds": ROUNDS, "load": "Python"},
        cost_title=f"µs of the server's CPU for one connection, {few:,} → {many:,} connections",
        figures=[*(_figure(peer, small[peer], whole[peer]) for peer in names), *missing_figures(peers)],
    )


def _figure(peer: str, small: list[dict[str, Any]], whole: list[dict[str, Any]]) -> Figure:
    server_cpu = statistics.median(answer["server_cpu"] for answer in whole)
    load_busy = statistics.median(answer["load_busy"] for answer in whole)
    cost_us = statistics.median(answer["cost_us"] for answer in whole)
    details = {"server CPU µs each": round(cost_us, 1), "came back": sum(a["connections"] for a in whole)}
    if peer == "landline":
        details["sessions resumed"] = sum(answer["resumed"] for answer in whole)
    return Figure(
        peer=peer,
        values=[round(answer["rate"], 1) for answer in whole],
        details=details,
        cost=Cost(
            round(statistics.median(answer["cost_us"] for answer in small), 2),
            round(cost_us, 2),
        ),
        server_cpu=round(server_cpu, 3),
        load_busy=round(load_busy, 3),
        note=limit_note(server_cpu, load_busy),
    )
