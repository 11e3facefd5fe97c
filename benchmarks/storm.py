"""A reconnect storm: many real clients lose their server at once and reconnect: ``python -m benchmarks.storm``.

The server is killed, and after a while another one listens on its port. This is repeated without the jitter of the
back-off, without the admission of the server, and without both.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.processes import Child, ChildFailed, connections_max
from benchmarks.progress import Progress
from benchmarks.reconnect_curve import ReconnectCurve
from benchmarks.servers import HOST
from benchmarks.storm_processes import BIN_S
from landline import Admission, Backoff

STEADY_S: Final = Backoff().stable_after_s + 1.0
"""Links must last this long, so that the back-off starts with its shortest delay."""
RETURN_TIMEOUT_S: Final = 180.0


def storm(
    clients: int, away_s: float, *, jitter: bool, per_s: float | None, steady_s: float = STEADY_S
) -> ReconnectCurve:
    """Measure one storm. Raise :class:`ChildFailed`, also if not all clients reconnect in time."""
    port = _free_port()
    server_options = json.dumps({"port": port, "per_s": per_s or 0})
    with Child("storm_processes", "serve", server_options) as first:
        pid = first.read()["pid"]
        crowd_options = json.dumps({"port": port, "clients": clients, "jitter": jitter})
        with Child("storm_processes", "crowd", crowd_options) as crowd:
            crowd.read(120.0)
            time.sleep(steady_s)
            os.kill(pid, signal.SIGKILL)
            lost_at = time.monotonic()
            crowd.tell()
            time.sleep(away_s)
            with Child("storm_processes", "serve", server_options) as second:
                listening_at = second.read()["listening_at"]
                answer = crowd.read(RETURN_TIMEOUT_S)
                tried = second.ask()["tried"]
    since_return = [at - listening_at for at in answer["returned"]]
    bins = len(tried)
    returned = [0] * bins
    for seconds in since_return:
        returned[min(bins - 1, max(0, int(seconds / BIN_S)))] += 1
    return ReconnectCurve(
        clients=clients,
        away_s=round(listening_at - lost_at, 1),
        jitter=jitter,
        per_s=per_s,
        bin_s=BIN_S,
        attempts=[after - before for before, after in zip([0, *tried], tried, strict=False)],
        returned=returned,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def main(arguments: list[str] | None = None) -> int:
    """Run the four storms. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__)
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--away-s", type=float, default=10.0, help="how long the server is down (default 10)")
    parser.add_argument(
        "--per-s", type=float, default=Admission().per_s, help="admission, in clients a second (default 1000)"
    )
    parser.add_argument(
        "--steady-s",
        type=float,
        default=STEADY_S,
        help="how long the clients are connected before the server is killed (default %(default)g)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the curves to FILE")
    options = parser.parse_args(arguments)
    if (
        not 0 < options.clients <= connections_max()
        or min(options.away_s, options.steady_s) < 0
        or options.per_s <= 0
    ):
        print(
            f"--clients must be between 1 and {connections_max():,}, the other numbers greater than 0",
            file=sys.stderr,
        )
        return 2
    curves = []
    progress = Progress("storm")
    for jitter, per_s in ((True, options.per_s), (False, options.per_s), (True, None), (False, None)):
        name = f"{'with' if jitter else 'without'} jitter, {'with' if per_s else 'without'} admission"
        try:
            with progress.step(name):
                curves.append(
                    storm(
                        options.clients,
                        options.away_s,
                        jitter=jitter,
                        per_s=per_s,
                        steady_s=options.steady_s,
                    )
                )
        except ChildFailed as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        print(f"{name}: {curves[-1]}", flush=True)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_bytes(msgspec.json.encode(curves) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
