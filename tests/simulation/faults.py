"""What goes wrong, and when: drawn from the seed before anything happens, so that faults can be left out one by one."""

from __future__ import annotations

from random import Random

import msgspec

KINDS = (
    "cut",
    "stray",
    "silence",
    "clog",
    "kill",
    "power",
    "pause",
    "suspend",
    "write crash",
    "disk full",
    "wall clock",
)


class Fault(msgspec.Struct, frozen=True):
    """One thing that goes wrong. ``client`` and ``variant`` are in [0, 1) and choose where and how."""

    kind: str
    at_s: float
    at_server: bool
    client: float
    seconds: float
    variant: float

    def __str__(self) -> str:
        where = "server" if self.at_server else f"client {self.client:.2f}"
        return f"{self.at_s:8.3f} {self.kind} ({where}, {self.seconds:.2f} s, {self.variant:.2f})"


class Options(msgspec.Struct, frozen=True):
    """What a seed draws for a whole run, in the manner of swarm testing: many runs lack some kinds of faults."""

    scenario: str
    clients: int
    delay_s: float
    jitter_s: float
    segment_bytes_max: int
    is_lax: bool
    """Peers repeat a few frames that the other side has, as the protocol allows (§7.2)."""
    lies: bool
    """One client acknowledges what was never sent."""
    faults: tuple[Fault, ...]
    clones: bool = False
    """The first machine has a copy, with the same identity, until every fault is repaired."""
    scheme: str = "tcp"
    """What the lines ride: a bare stream, or the messages of a WebSocket."""


FAULTS_S = 60.0
"""How long faults happen; afterwards every fault is repaired, and the system must come to rest."""


def draw(seed: int, rng: Random) -> Options:
    """Return the options of a seed."""
    scenario = "lines" if seed % 2 else "fleet"
    faults = []
    for kind in KINDS:
        rate = rng.choice([0, 0.02, 0.1, 0.3]) if rng.random() < 0.6 else 0.0
        own = Random(rng.random())
        at_s = 2.0
        while rate and (at_s := at_s + own.expovariate(rate)) < FAULTS_S:
            seconds = own.choice([own.uniform(0, 1), own.uniform(1, 8), own.uniform(4, 40)])
            faults.append(Fault(kind, at_s, own.random() < 0.3, own.random(), seconds, own.random()))
    return Options(
        scenario=scenario,
        clients=rng.randint(1, 4),
        delay_s=rng.choice([0.0001, 0.01, 0.05]),
        jitter_s=rng.choice([0.0, 0.01, 0.1]),
        segment_bytes_max=rng.choice([7, 100, 1500, 65536]) if scenario == "lines" else 1500,
        is_lax=rng.random() < 0.3,
        lies=scenario == "lines" and rng.random() < 0.2,
        faults=tuple(sorted(faults, key=lambda fault: fault.at_s)),
        clones=scenario == "fleet" and Random(f"{seed}/clones").random() < 0.15,
        # A die of its own: what a seed drew before there was a choice, it draws still.
        scheme=Random(f"{seed}/scheme").choice(["tcp", "ws"]) if scenario == "lines" else "tcp",
    )
