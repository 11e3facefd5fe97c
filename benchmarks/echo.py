"""Echo: many connections, several small messages in flight on each."""

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

BUDGET: Final = Budget(400_000, "more")
PEERS: Final = (
    "landline",
    "landline_request",
    "landline_ws",
    "bare_uvloop",
    "websockets",
    "picows",
    "socketio",
)
SATURATED: Final = 0.9
TENTH_ROUNDS: Final = 2


def run(settings: Settings, progress: Progress) -> Row:
    """Measure rounds against each server in turn: A B C D A B C D …"""
    peers = settings.choose(PEERS)
    names = installed(peers)
    answers: dict[str, list[dict[str, Any]]] = {peer: [] for peer in names}
    small: dict[str, list[dict[str, Any]]] = {peer: [] for peer in names}
    with ExitStack() as stack:
        load = stack.enter_context(Child("load"))
        started = load.read()
        sleeps = settings.load_sleeps or started["language"] != "C" or started["cores"] < 2
        servers = {peer: stack.enter_context(Child("servers", peer)) for peer in names}
        where = {peer: server.read() for peer, server in servers.items()}

        def measure(peer: str, connections: int) -> dict[str, Any]:
            return load.ask(
                timeout_s=30 + 3 * settings.seconds,
                do="echo",
                kind=peer,
                port=where[peer]["port"],
                pid=where[peer]["pid"],
                connections=connections,
                in_flight=settings.echo_in_flight,
                seconds=settings.seconds,
                sleeps=sleeps,
            )

        few = tenth(settings.echo_connections)
        for number in range(1, settings.rounds + 1):
            with progress.step(f"round {number} of {settings.rounds} with {', '.join(names)}"):
                for peer in names:
                    answers[peer].append(measure(peer, settings.echo_connections))
        with progress.step(f"the same with {few} connections"):
            for _ in range(min(TENTH_ROUNDS, settings.rounds)):
                for peer in names:
                    small[peer].append(measure(peer, few))
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
            "load": f"{started['language']}, {'sleeps' if sleeps else 'spins'}",
            "cores": started["cores"],
        },
        cost_title=f"µs of the server's CPU for one message, {few} → {settings.echo_connections} connections",
        figures=[
            *(_figure(peer, answers[peer], small[peer]) for peer in names),
            *missing_figures(peers),
        ],
    )


def _figure(peer: str, answers: list[dict[str, Any]], small: list[dict[str, Any]]) -> Figure:
    server_cpu = statistics.median(answer["server_cpu"] for answer in answers)
    load_busy = statistics.median(answer["load_busy"] for answer in answers)
    return Figure(
        peer=peer,
        values=[round(answer["rate"], 1) for answer in answers],
        budget=BUDGET if peer == "landline" else None,
        details={"answered": sum(answer["answered"] for answer in answers + small)},
        cost=Cost(
            round(statistics.median(answer["cost_us"] for answer in small), 3),
            round(statistics.median(answer["cost_us"] for answer in answers), 3),
        ),
        server_cpu=round(server_cpu, 3),
        load_busy=round(load_busy, 3),
        note=limit_note(server_cpu, load_busy),
    )


def limit_note(server_cpu: float, load_busy: float) -> str:
    """Return a note for a rate at which the server was not busy all the time."""
    if server_cpu >= SATURATED:
        return ""
    return "load-bound" if load_busy > SATURATED else "neither side was busy: the machine was disturbed"
