"""Remote calls: typed both ways, with errors, time-outs, cancellation, and calls from the server to the client.

    python examples/calls.py server
    python examples/calls.py client

The client makes one call of each kind and says what came of it; the server says when a call was cancelled. Types are
`msgspec.Struct`s: a body that does not fit never reaches a handler.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from functools import partial
from typing import Annotated

import msgspec

import landline

say = partial(print, flush=True)


class Division(msgspec.Struct):
    dividend: float
    divisor: float


class Quotient(msgspec.Struct):
    value: float


class Countdown(msgspec.Struct):
    start: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    step_s: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.1


class Transfer(msgspec.Struct):
    amount: Annotated[int, msgspec.Meta(ge=1)]
    to: str


async def serve(url: str) -> None:
    server = landline.Server()

    @server.on("divide", Division)
    def divide(line: landline.Line, division: Division) -> Quotient:
        # A plain function: called inside the event loop, the fast way for what is computed at once.
        if division.divisor == 0:
            raise landline.RequestError(
                "division_by_zero", f"{division.dividend:g} cannot be divided by zero"
            )
        return Quotient(division.dividend / division.divisor)

    @server.on("count_down", Countdown)
    async def count_down(line: landline.Line, countdown: Countdown) -> str:
        # A coroutine: a task of its own, cancelled when the caller gives up, and when the session ends.
        left = countdown.start
        try:
            while left:
                await asyncio.sleep(countdown.step_s)
                left -= 1
        except asyncio.CancelledError:
            say(f"cancelled with {left} left of {countdown.start}")
            raise
        return "lift-off"

    @server.on("transfer", Transfer)
    async def transfer(line: landline.Line, order: Transfer) -> str:
        # The other way round: the server asks the client that is waiting for its answer.
        question = f"send {order.amount} to {order.to}?"
        if not await line.request("confirm", question, timeout=5, response_type=bool):
            raise landline.RequestError("refused", "you did not confirm")
        return f"{order.amount} sent to {order.to}"

    async with server.listen(url) as endpoint:
        say(f"listening on {endpoint}; Ctrl-C stops it")
        await server.serve_forever()


async def call(url: str) -> None:
    connector = landline.connect(url)

    @connector.on("confirm", str)
    def confirm(line: landline.Line, question: str) -> bool:
        say(f"   the server asks: {question}")
        return "mallory" not in question

    async with connector as line:
        quotient = await line.request("divide", Division(7, 2), response_type=Quotient)
        say(f"1. an answer: 7 / 2 = {quotient.value:g}")

        try:
            await line.request("divide", Division(7, 0))
        except landline.RequestError as error:
            say(f"2. an error, with a code for programs: {error.code}: {error.message}")

        try:
            await line.request("divide", {"dividend": "seven"})
        except landline.RequestError as error:
            say(f"3. a body that does not fit: {error.message}")

        try:
            await line.request("multiply", Division(7, 2))
        except landline.NoHandler as error:
            say(f"4. a call nobody answers to: {error.message}")

        try:
            await line.request("count_down", Countdown(start=1000), timeout=0.3)
        except landline.RequestTimeout as error:
            say(f"5. not in time: {error.message}")

        task = asyncio.create_task(line.request("count_down", Countdown(start=500)))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.wait([task])
        say("6. cancelled: the server's handler ends as well")

        for order in (Transfer(10, "alice"), Transfer(10, "mallory")):
            try:
                say(f"7. calls in both directions: {await line.request('transfer', order)}")
            except landline.RequestError as error:
                say(f"8. and their errors: {error.message}")

        # Requests are under way side by side on one line; a slow one holds up nobody.
        slow = line.request("count_down", Countdown(start=2, step_s=0.05))
        quick = [line.request("divide", Division(n, 2), response_type=Quotient) for n in range(100)]
        lift_off, *halves = await asyncio.gather(slow, *quick)
        say(f"9. side by side: {len(halves)} divisions while counting down to {lift_off}")

    third: Quotient = await landline.call(url, "divide", Division(9, 3), response_type=Quotient)
    say(f"10. one call, and no line to keep: 9 / 3 = {third.value:g}")


def main() -> None:
    parser = argparse.ArgumentParser(description="A server that can be called, and a client that calls it.")
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("server", help="answer until Ctrl-C")
    server.add_argument(
        "--listen", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    client = roles.add_parser("client", help="make one call of each kind")
    client.add_argument(
        "--server", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    given = parser.parse_args()
    try:
        landline.run(serve(given.listen) if given.role == "server" else call(given.server))
    except (landline.LandlineError, OSError) as error:
        sys.exit(f"calls.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
