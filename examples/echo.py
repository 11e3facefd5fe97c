"""The smallest server and client: what is sent comes back, whatever happens to the sockets meanwhile.

    python examples/echo.py server
    python examples/echo.py client                  # a number each second, until Ctrl-C
    python examples/echo.py client hello world      # these words

Stop the server and start it again, pull a cable, suspend the laptop: the client says what it notices, and goes on.
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
        say(f"listening on {endpoint}; Ctrl-C stops it")
        await server.serve_forever()


async def ask(url: str, words: Sequence[str], interval_s: float) -> None:
    # With attempts=None, the default, the first connection is waited for as well: start them in any order.
    async with landline.connect(url, backoff=landline.Backoff(cap_s=5), on_state=show_change) as line:
        for word in words or map(str, itertools.count(1)):
            asked_at = perf_counter()
            try:
                answer = await line.request("echo", word, timeout=None)
            except landline.RequestLost as error:
                # Only when the session is gone, as after a restart of the server: nobody knows whether it answered.
                say(f"{word}: {error}")
            else:
                say(f"{answer}  ({(perf_counter() - asked_at) * 1000:.1f} ms)")
            if not words:
                await asyncio.sleep(interval_s)


def show_change(line: landline.Line, change: landline.StateChange) -> None:
    if change.state is landline.LineState.ONLINE:
        say(f"-- online, {'where we were' if change.resumed else 'a new session'}")
    elif change.state is landline.LineState.RECONNECTING:
        say(f"-- {change.detail}; trying again in {change.due_in_s:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description="A server that sends back what it gets, and a client of it.")
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("server", help="answer until Ctrl-C")
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
    # The states are printed here; the log would say the same again.
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
