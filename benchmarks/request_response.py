"""Requests end to end: each library's own Python client and server."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

from benchmarks.clients import PAYLOAD
from benchmarks.peers import installed
from benchmarks.processes import Child, cpu_seconds
from benchmarks.progress import Progress
from benchmarks.report import Cost, Figure, Row, missing_figures
from benchmarks.settings import Settings

PEERS: Final = ("landline", "landline_quic", "websockets", "socketio", "nats_py")
Answers = list[dict[str, Any]]
"""The results of the rounds of a client."""
SERVERS: Final = {"nats_py": "nats"}


def run(settings: Settings, progress: Progress) -> Row:
    """Measure rounds with each peer in turn, with one request in flight and with many."""
    peers = settings.choose(PEERS)
    names = installed(peers)
    many = settings.requests_in_flight
    with ExitStack() as stack:
        clients: dict[str, Child] = {}
        pids: dict[str, list[int]] = {}
        for peer in names:
            with progress.step(f"{peer}: starting"):
                server = stack.enter_context(Child("servers", SERVERS.get(peer, peer)))
                where = server.read()
                pids[peer] = [where["pid"]]
                if peer == "nats_py":
                    responder = stack.enter_context(Child("requesters", "respond", str(where["port"])))
                    pids[peer].append(responder.read()["pid"])
                arguments = [str(where["port"]), *filter(None, [where.get("ca_file")])]
                clients[peer] = stack.enter_context(Child("requesters", peer, *arguments))
                clients[peer].read()

        single, whole = ask_in_rounds(clients, pids, settings, progress)
    return Row(
        name="request_response",
        title=f"requests answered each second, asked by one Python client, {many} in flight",
        unit="req/s",
        settings={
            "in_flight": many,
            "payload_bytes": len(PAYLOAD),
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "load": "each library's own client",
        },
        cost_title=f"µs for one request, 1 → {many} in flight",
        figures=[*(figure_of(peer, single[peer], whole[peer]) for peer in names), *missing_figures(peers)],
    )


def ask_in_rounds(
    clients: Mapping[str, Child], pids: Mapping[str, Sequence[int]], settings: Settings, progress: Progress
) -> tuple[dict[str, Answers], dict[str, Answers]]:
    """Let the clients send requests in turn. Return the results with one request in flight, and with many.

    ``pids`` are the processes that answer each of them.
    """

    def measure(name: str, in_flight: int) -> dict[str, Any]:
        cpu = sum(map(cpu_seconds, pids[name]))
        answer = clients[name].ask(in_flight=in_flight, seconds=settings.seconds)
        cpu = sum(map(cpu_seconds, pids[name])) - cpu
        return {"server_cpu_s": cpu, **answer}

    single: dict[str, Answers] = {name: [] for name in clients}
    whole: dict[str, Answers] = {name: [] for name in clients}
    for number in range(1, settings.rounds + 1):
        with progress.step(f"round {number} of {settings.rounds} with {', '.join(clients)}"):
            for name in clients:
                single[name].append(measure(name, 1))
                whole[name].append(measure(name, settings.requests_in_flight))
    return single, whole


def figure_of(peer: str, single: list[dict[str, Any]], whole: list[dict[str, Any]]) -> Figure:
    """Return the figure of a peer: the rate with many requests in flight, and the cost of one alone and among many."""
    alone = statistics.median(answer["rate"] for answer in single)
    return Figure(
        peer=peer,
        values=[round(answer["rate"], 1) for answer in whole],
        details={
            "one in flight": round(alone, 1),
            "answers compared": sum(answer["count"] for answer in whole + single),
        },
        cost=Cost(
            round(1e6 / alone, 1), round(1e6 / statistics.median(answer["rate"] for answer in whole), 1)
        ),
        load_busy=round(statistics.median(answer["load_busy"] for answer in whole), 3),
    )
