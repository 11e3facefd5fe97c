"""A thousand sensors, each with its own line, and a collector that plots their readings.

    python examples/telemetry.py collector
    python examples/telemetry.py sensors                        # 1,000 sensors, one reading a second each
    python examples/telemetry.py sensors --count 200 --interval 0.1

Only the newest reading of a sensor matters: readings are sent with `DROP_OLDEST` and `max_pending=1`. While a
connection is lost or the collector is slow, one reading of each sensor waits. The collector counts the skipped ones.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import math
import random
import resource
import sys
from collections import deque
from collections.abc import Callable
from statistics import fmean
from time import time
from typing import Annotated

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

import landline

GROUPS = {"boiler": (72.0, 6.0), "cellar": (12.0, 1.0), "hall": (21.0, 2.5), "roof": (4.0, 9.0)}
"""By room: the mean temperature and its amplitude, in °C."""
BARS = "▁▂▃▄▅▆▇█"
HISTORY_S = 40


class Reading(msgspec.Struct, array_like=True):
    number: int
    celsius: Annotated[float, msgspec.Meta(ge=-100, le=200)]


class Room:
    """The readings of the sensors in one room."""

    def __init__(self) -> None:
        self.latest: dict[str, Reading] = {}
        self.received = 0
        self.skipped = 0
        self.means: deque[float] = deque(maxlen=HISTORY_S)

    def receive(self, sensor: str, reading: Reading) -> None:
        before = self.latest.get(sensor)
        if before is not None and reading.number > before.number:
            self.skipped += reading.number - before.number - 1
        self.received += 1
        self.latest[sensor] = reading

    def plot(self) -> str:
        if not self.means:
            return ""
        low, high = min(self.means), max(self.means)
        scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
        return "".join(BARS[round((mean - low) * scale)] for mean in self.means)


async def collect(url: str, interval_s: float) -> None:
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=5, timeout_s=2))
    rooms = {name: Room() for name in GROUPS}
    console = Console()

    @server.on("reading", Reading)
    def receive(line: landline.Line, reading: Reading) -> None:
        # The identity is the client's claim: ignore the ones of unknown rooms.
        if room := rooms.get(line.identity.partition("-")[0]):
            room.receive(line.identity, reading)

    @server.on_state
    def changed(line: landline.Line, change: landline.StateChange) -> None:
        # Closed, or away for longer than the resume window: its last reading is out of date.
        if change.state is landline.LineState.CLOSED:
            for room in rooms.values():
                room.latest.pop(line.identity, None)

    async with server.listen(url) as endpoint:
        print(f"listening on {endpoint}; press Ctrl-C to stop", flush=True)
        with Live(console=console, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(interval_s)
                for room in rooms.values():
                    if room.latest:
                        room.means.append(fmean(reading.celsius for reading in room.latest.values()))
                if console.is_terminal:
                    live.update(draw(rooms, server.lines, interval_s), refresh=True)
                else:
                    print(sum_up(rooms, server.lines, interval_s), flush=True)
                for room in rooms.values():
                    room.received = 0


def count_online(lines: list[landline.Line], name: str = "") -> int:
    return sum(line.state is landline.LineState.ONLINE and line.identity.startswith(name) for line in lines)


def draw(rooms: dict[str, Room], lines: list[landline.Line], interval_s: float) -> Table:
    table = Table(title=f"{count_online(lines)} of {len(lines)} sensors online")
    for heading in ("room", "online", "readings/s", "skipped", "mean °C", f"last {HISTORY_S} values"):
        table.add_column(heading, justify="left" if heading == "room" else "right", no_wrap=True)
    for name, room in rooms.items():
        mean = f"{room.means[-1]:.2f}" if room.means else "-"
        online = str(count_online(lines, name))
        table.add_row(name, online, f"{room.received / interval_s:.0f}", str(room.skipped), mean, room.plot())
    return table


def sum_up(rooms: dict[str, Room], lines: list[landline.Line], interval_s: float) -> str:
    rate = sum(room.received for room in rooms.values()) / interval_s
    skipped = sum(room.skipped for room in rooms.values())
    means = ", ".join(f"{name} {room.means[-1]:.1f} °C" for name, room in rooms.items() if room.means)
    return f"{count_online(lines)} online, {rate:.0f} readings/s, {skipped} skipped: {means}"


async def measure(url: str, count: int, interval_s: float) -> None:
    names = [f"{room}-{number:04}" for number in range(count) for room in GROUPS][:count]
    online: set[str] = set()

    def changed(line: landline.Line, change: landline.StateChange) -> None:
        if change.state is landline.LineState.ONLINE:
            online.add(line.identity)
        else:
            online.discard(line.identity)

    async def report() -> None:
        reported = None
        while True:
            if reported != len(online):
                reported = len(online)
                print(
                    f"{reported} of {count} sensors are connected to {url}; press Ctrl-C to stop", flush=True
                )
            await asyncio.sleep(1)

    await asyncio.gather(report(), *(run_sensor(url, name, interval_s, changed) for name in names))


async def run_sensor(
    url: str,
    name: str,
    interval_s: float,
    changed: Callable[[landline.Line, landline.StateChange], None],
) -> None:
    mean, amplitude = GROUPS[name.partition("-")[0]]
    async with landline.connect(
        url,
        identity=name,
        connect_timeout_s=None,  # A sensor may start before the collector.
        backoff=landline.Backoff(first_s=0.5, cap_s=5),
        on_state=changed,
        on_session_lost=discard,
    ) as line:
        await asyncio.sleep(random.random() * interval_s)
        for number in itertools.count(1):
            celsius = mean + amplitude * math.sin(time() / 10) + random.gauss(0, amplitude / 10)
            line.send_nowait(
                Reading(number, celsius),
                name="reading",
                overflow=landline.OverflowPolicy.DROP_OLDEST,
                max_pending=1,
            )
            await asyncio.sleep(interval_s)


def discard(line: landline.Line, unconfirmed: tuple[landline.Unconfirmed, ...]) -> None:
    """Continue with a new session after a restart of the collector, without the old readings."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Many sensors, one collector, newest readings only.")
    roles = parser.add_subparsers(dest="role", required=True)
    collector = roles.add_parser("collector", help="collect and plot readings until Ctrl-C")
    collector.add_argument(
        "--listen", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    sensors = roles.add_parser("sensors", help="send readings until Ctrl-C")
    sensors.add_argument(
        "--server", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    sensors.add_argument("--count", metavar="N", type=int, default=1000, help="default: %(default)s")
    for role in (collector, sensors):
        role.add_argument("--interval", metavar="S", type=float, default=1.0, help="seconds; default: 1")
    given = parser.parse_args()
    if given.interval <= 0:
        parser.error("--interval must be greater than 0")
    if given.role == "sensors" and given.count < 1:
        parser.error("--count must be at least 1")
    # If the collector stops, each of the thousand lines would log a warning.
    logging.getLogger("landline").setLevel(logging.ERROR)
    # Each line uses a file descriptor; the default limit is often 1,024 (getrlimit(2)).
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    try:
        if given.role == "collector":
            landline.run(collect(given.listen, given.interval))
        else:
            landline.run(measure(given.server, given.count, given.interval))
    except (landline.LandlineError, OSError) as error:
        sys.exit(f"telemetry.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
