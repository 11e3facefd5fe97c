"""Closes under load: whether the code and the reason of a BYE arrive while the peer streams the other way.

    python -m tests.faults.closes --count 1000                      # every transport, both directions, both loops
    python -m tests.faults.closes --count 1000 --scheme tls --loop asyncio --direction server

The server is a process of its own, so that both ends run at the same time.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import trustme
import uvloop

import landline

ROOT = Path(__file__).parents[2]
SCHEMES = ("tcp", "unix", "tls", "ws", "wss", "quic")
DIRECTIONS = ("server", "client")
"""Which side closes; the other one streams."""
LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
AT_ONCE = 8
MESSAGE = bytes(4000)
SEND_BUFFER = landline.SendBuffer(size_bytes=512 * 1024)
"""More than a socket takes, so that unread input is there at the close; and little enough for thousands of closes."""
MESSAGES_MAX = 40
"""The closing side closes after it has taken 1 to so many messages, another number for each connection."""
ANSWER_TIMEOUT_S = 20.0
CODE = landline.Code.FORBIDDEN
"""A code for which nobody comes back: what a client does after it shows whether it has arrived."""


class Order(msgspec.Struct):
    """What the client wants of a connection."""

    direction: str
    after: int
    """Messages until the close."""
    drains: bool
    """Whether it is ``line.close()``, which waits for what was sent, and not ``line.abort()``."""


class Outcome(msgspec.Struct, frozen=True):
    """What the side that does not close has seen."""

    cause: str
    code: int | None
    detail: str

    @classmethod
    def of(cls, change: landline.StateChange) -> "Outcome":
        return cls(change.cause.value, None if change.code is None else int(change.code), change.detail)

    def is_right(self, reason: str) -> bool:
        return self.code == int(CODE) and reason in self.detail


def reason_for(identity: str) -> str:
    return f"no more of {identity}"


async def close_line(line: landline.Line, *, drains: bool) -> None:
    if drains:
        # What the other side does not take before its end is not asked for here.
        with contextlib.suppress(landline.SessionLost):
            await line.close(CODE, reason_for(line.identity))
    else:
        line.abort(CODE, reason_for(line.identity))


# The server's process.


def make_credentials(directory: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(directory / "key.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(directory / "certificate.pem", append=True)


def server_options(directory: Path, scheme: str) -> landline.TransportOptions:
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    if scheme == "quic":
        return landline.TransportOptions(certificate_file=certificate, private_key_file=key)
    if scheme in {"tls", "wss"}:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        return landline.TransportOptions(tls=context)
    return landline.TransportOptions()


def client_options(directory: Path, scheme: str) -> landline.TransportOptions:
    options: dict[str, Any] = {}
    if scheme == "quic":
        options["ca_file"] = directory / "ca.pem"
    if scheme in {"tls", "wss"}:
        options["tls"] = ssl.create_default_context(cafile=directory / "ca.pem")
    if scheme in {"ws", "wss"}:
        options["proxy"] = False
    return landline.TransportOptions(**options)


class ClosingServer:
    """Closes lines that stream to it, streams to lines that close, and reports how those ended."""

    def __init__(self) -> None:
        self._outcomes: dict[str, asyncio.Future[Outcome]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.server = landline.Server(
            admission=landline.Admission(per_s=100_000), send_buffer=SEND_BUFFER, resume_window_s=1.0
        )
        self.server.on_session_lost(lambda line, lost: None)
        self.server.on("begin", Order)(self._begin)
        self.server.on("outcome")(self._outcome)
        self.server.on_message(self._count)
        self.server.on_state(self._record)

    def _begin(self, line: landline.Line, order: Order) -> None:
        line.data = order
        if order.direction == "client":
            self._start(self._stream(line))

    def _count(self, line: landline.Line, message: bytes) -> None:
        order: Order | None = line.data
        if order is None:
            return
        order.after -= 1
        if order.after == 0:
            if order.drains:
                self._start(close_line(line, drains=True))
            else:
                line.abort(CODE, reason_for(line.identity))

    async def _stream(self, line: landline.Line) -> None:
        with contextlib.suppress(landline.LandlineError):
            while True:
                await line.send(MESSAGE)

    def _record(self, line: landline.Line, change: landline.StateChange) -> None:
        if change.state in {landline.LineState.RECONNECTING, landline.LineState.CLOSED}:
            outcome = self._future(line.identity)
            if not outcome.done():
                outcome.set_result(Outcome.of(change))

    async def _outcome(self, line: landline.Line, identity: str) -> Outcome:
        return await asyncio.wait_for(self._future(identity), ANSWER_TIMEOUT_S)

    def _future(self, identity: str) -> asyncio.Future[Outcome]:
        if identity not in self._outcomes:
            self._outcomes[identity] = asyncio.get_running_loop().create_future()
        return self._outcomes[identity]

    def _start(self, work) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def serve(directory: Path, schemes: list[str]) -> None:
    """Prints its addresses as JSON, and stops at the end of its input."""
    closing = ClosingServer()
    async with contextlib.AsyncExitStack() as stack:
        addresses = {}
        for scheme in schemes:
            url = f"unix://{directory}/{os.getpid()}" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
            options = server_options(directory, scheme)
            addresses[scheme] = str(
                await stack.enter_async_context(closing.server.listen(url, options=options))
            )
        print(json.dumps(addresses), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await closing.server.close(timeout=0)


@contextlib.contextmanager
def running_server(loop: str, directory: Path, schemes: Iterable[str] = SCHEMES) -> Iterator[dict[str, str]]:
    """Yields the addresses of a server in a process of its own, by scheme."""
    command = [sys.executable, "-m", "tests.faults.closes", "--serve", str(directory), "--loop", loop]
    for scheme in schemes:
        command += ["--scheme", scheme]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()


# The clients' process.


async def close_once(
    address: str, options: landline.TransportOptions, order: Order, identity: str
) -> Outcome | None:
    """What the streaming side saw when it is the client; else ``None``, for the server to tell."""
    loop = asyncio.get_running_loop()
    seen: asyncio.Future[landline.StateChange] = loop.create_future()
    enough: asyncio.Future[None] = loop.create_future()
    left = order.after

    def on_state(line: landline.Line, change: landline.StateChange) -> None:
        lost = {landline.LineState.RECONNECTING, landline.LineState.CLOSED}
        # A busy machine may miss the time for a handshake; then there is no line yet that could be closed.
        is_attempt = change.cause is landline.DisconnectCause.CONNECT_FAILED
        if change.state in lost and not is_attempt and not seen.done():
            seen.set_result(change)

    def count(line: landline.Line, message: bytes) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            enough.set_result(None)
            if order.direction == "client" and not order.drains:
                line.abort(CODE, reason_for(identity))

    connector = landline.connect(
        address, identity=identity, options=options, on_state=on_state, send_buffer=SEND_BUFFER
    )
    connector.on_message(count)
    async with connector as line:
        await line.request("begin", order)
        if order.direction == "client":
            await enough
            if order.drains:
                await close_line(line, drains=True)
            return None
        with contextlib.suppress(landline.LandlineError):
            while not seen.done():
                await line.send(MESSAGE)
        outcome = Outcome.of(await seen)
        line.abort(landline.Code.NORMAL)
        return outcome


async def count_closes(
    address: str, directory: Path, scheme: str, direction: str, count: int, *, at_once: int = AT_ONCE
) -> Counter[str]:
    """Closes so many lines, ``at_once`` at the same time. Counts ``right`` and, in words, whatever else was seen."""
    options = client_options(directory, scheme)
    outcomes: Counter[str] = Counter()
    numbers = iter(range(count))
    run = f"{scheme}-{direction}-{time.monotonic_ns()}"

    async def work(control: landline.Line) -> None:
        for number in numbers:
            identity = f"{run}-{number}"
            order = Order(direction, 1 + number * 7 % MESSAGES_MAX, number % 2 == 0)
            outcome = await close_once(address, options, order, identity)
            if outcome is None:
                outcome = await control.request(
                    "outcome", identity, timeout=2 * ANSWER_TIMEOUT_S, response_type=Outcome
                )
            is_right = outcome.is_right(reason_for(identity))
            outcomes[
                "right" if is_right else f"{outcome.cause}: {outcome.detail.replace(identity, '…')}"
            ] += 1

    async with (
        landline.connect(address, identity=f"{run}-control", options=options) as control,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(at_once):
            group.create_task(work(control))
    return outcomes


async def report(schemes: list[str], directions: list[str], loop: str, count: int, at_once: int) -> bool:
    is_all_right = True
    with tempfile.TemporaryDirectory(prefix="ll-") as name:
        directory = Path(name)
        make_credentials(directory)
        with running_server(loop, directory, schemes) as addresses:
            for scheme, direction in itertools.product(schemes, directions):
                begun = time.monotonic()
                outcomes = await count_closes(
                    addresses[scheme], directory, scheme, direction, count, at_once=at_once
                )
                is_all_right &= outcomes["right"] == count
                took_s = time.monotonic() - begun
                print(
                    f"{loop:8} {scheme:5} {direction} closes: {outcomes['right']} of {count} ({took_s:.1f} s)",
                    flush=True,
                )
                for what, times in outcomes.most_common():
                    if what != "right":
                        print(f"           {times:5} {what}", flush=True)
    return is_all_right


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--scheme", action="append", choices=SCHEMES)
    parser.add_argument("--direction", action="append", choices=DIRECTIONS)
    parser.add_argument("--loop", action="append", choices=list(LOOPS))
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    schemes = arguments.scheme or list(SCHEMES)
    loops = arguments.loop or list(LOOPS)
    if arguments.serve is not None:
        with asyncio.Runner(loop_factory=LOOPS[loops[0]]) as runner:
            runner.run(serve(arguments.serve, schemes))
        return 0
    is_all_right = True
    for loop in loops:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            directions = arguments.direction or list(DIRECTIONS)
            is_all_right &= runner.run(report(schemes, directions, loop, arguments.count, arguments.at_once))
    return 0 if is_all_right else 1


if __name__ == "__main__":
    sys.exit(main())
