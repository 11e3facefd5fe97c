"""The smallest server and client: the server returns what the client sends, over any number of connections.

    python examples/echo.py server
    python examples/echo.py client                  # one number a second, until Ctrl-C
    python examples/echo.py client hello world      # these words

Restart the server, unplug the network, suspend the laptop: the client prints what happens, and continues.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import sys
from collections.abc import Sequence
from functools import partial
from time import perf_counter

import landline

say = partial(print, flush=True)


async def serve(url: str) -> None:
    server = landline.Server()

    @server.on("echo")
    def echo(line: landline.Line, body: object) -> object:
        return body

    @server.on_state
    def changed(line: landline.Line, change: landline.StateChange) -> None:
        say(f"{line.peer} is {change.state}{f' ({change.detail})' if change.detail else ''}")

    async with server.listen(url) as endpoint:
        say(f"listening on {endpoint}; press Ctrl-C to stop")
        await server.serve_forever()


async def ask(url: str, words: Sequence[str], interval_s: float) -> None:
    # The client also waits for the first connection, so the two programs can be started in any order.
    async with landline.connect(url, backoff=landline.Backoff(cap_s=5), on_state=show_change) as line:
        for word in words or map(str, itertools.count(1)):
            asked_at = perf_counter()
            try:
                answer = await line.request("echo", word, timeout=None)
            except landline.RequestLost as error:
                # The session is lost, as after a restart of the server: the request may or may not have been handled.
                say(f"{word}: {error}")
            else:
                say(f"{answer}  ({(perf_counter() - asked_at) * 1000:.1f} ms)")
            if not words:
                await asyncio.sleep(interval_s)


def show_change(line: landline.Line, change: landline.StateChange) -> None:
    if change.state is landline.LineState.ONLINE:
        say(f"-- online, {'session resumed' if change.resumed else 'new session'}")
    elif change.state is landline.LineState.RECONNECTING:
        say(f"-- {change.detail}; retrying in {change.due_in_s:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description="A server that returns what it receives, and a client.")
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("server", help="serve until Ctrl-C")
    server.add_argument(
        "--listen", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    client = roles.add_parser("client", help="send words, or numbers until Ctrl-C")
    client.add_argument(
        "--server", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    client.add_argument(
        "--interval", metavar="S", type=float, default=1.0, help="seconds between two numbers"
    )
    client.add_argument("words", metavar="WORD", nargs="*")
    given = parser.parse_args()
    # show_change() prints the states; the log would repeat them.
    logging.getLogger("landline").setLevel(logging.ERROR)
    try:
        if given.role == "server":
            landline.run(serve(given.listen))
        else:
            landline.run(ask(given.server, given.words, given.interval))
    except (landline.LandlineError, OSError) as error:
        sys.exit(f"echo.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
