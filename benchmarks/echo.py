"""Echo: many connections, several small messages in flight on each."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any, Final

from benchmarks.clients import PAYLOAD
from benchmarks.processes import Child
from benchmarks.report import Budget, Figure, Row
from benchmarks.settings import Settings

BUDGET: Final = Budget(400_000, "more")
PEERS: Final = ("landline", "landline_request", "bare_uvloop", "websockets")
SATURATED: Final = 0.9


def run(settings: Settings) -> Row:
    """Rounds against each server in turn: A B C D A B C D …"""
    answers: dict[str, list[dict[str, Any]]] = {peer: [] for peer in PEERS}
    with ExitStack() as stack:
        load = stack.enter_context(Child("load"))
        begun = load.read()
        sleeps = settings.load_sleeps or begun["language"] != "C" or begun["cores"] < 2
        servers = {peer: stack.enter_context(Child("servers", peer)) for peer in PEERS}
        ports = {peer: server.read()["port"] for peer, server in servers.items()}
        for _ in range(settings.rounds):
            for peer in PEERS:
                answers[peer].append(
                    load.ask(
                        timeout_s=30 + 3 * settings.seconds,
                        do="echo",
                        kind=peer,
                        port=ports[peer],
                        pid=servers[peer].pid,
                        connections=settings.echo_connections,
                        in_flight=settings.echo_in_flight,
                        seconds=settings.seconds,
                        sleeps=sleeps,
                    )
                )
    return Row(
        name="echo",
        title="messages answered each second by one server on one core",
        unit="msg/s",
        settings={
            "connections": settings.echo_connections,
            "in_flight": settings.echo_in_flight,
            "payload_bytes": len(PAYLOAD),
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "load": f"{begun['language']}, {'sleeps' if sleeps else 'spins'}",
            "cores": begun["cores"],
        },
        figures=[_figure(peer, answers[peer]) for peer in PEERS],
    )


def _figure(peer: str, answers: list[dict[str, Any]]) -> Figure:
    server_cpu = statistics.median(answer["server_cpu"] for answer in answers)
    load_busy = statistics.median(answer["load_busy"] for answer in answers)
    note = ""
    if server_cpu < SATURATED:
        note = "load-bound" if load_busy > SATURATED else "neither side was busy: the machine was disturbed"
    return Figure(
        peer=peer,
        values=[round(answer["rate"], 1) for answer in answers],
        budget=BUDGET if peer == "landline" else None,
        server_cpu=round(server_cpu, 3),
        load_busy=round(load_busy, 3),
        note=note,
    )
