"""Remote calls with types, errors, time-outs and cancellation, in both directions.

    python examples/calls.py server
    python examples/calls.py client

The client makes one call of each kind and prints the result. The server prints when a call was cancelled. The types are
`msgspec.Struct`s: a body of the wrong type never reaches a handler.
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
        # A plain function runs inside the event loop: the fastest way, for results that are computed at once.
        if division.divisor == 0:
            raise landline.RequestError(
                "division_by_zero", f"{division.dividend:g} cannot be divided by zero"
            )
        return Quotient(division.dividend / division.divisor)

    @server.on("count_down", Countdown)
    async def count_down(line: landline.Line, countdown: Countdown) -> str:
        # A coroutine runs as a task, which is cancelled when the caller cancels or the session ends.
        remaining = countdown.start
        try:
            while remaining:
                await asyncio.sleep(countdown.step_s)
                remaining -= 1
        except asyncio.CancelledError:
            say(f"cancelled: {remaining} of {countdown.start} remaining")
            raise
        return "lift-off"

    @server.on("transfer", Transfer)
    async def transfer(line: landline.Line, order: Transfer) -> str:
        # The opposite direction: the server sends a request to the client while that waits for its own.
        question = f"send {order.amount} to {order.to}?"
        if not await line.request("confirm", question, timeout=5, response_type=bool):
            raise landline.RequestError("refused", "not confirmed")
        return f"{order.amount} sent to {order.to}"

    async with server.listen(url) as endpoint:
        say(f"listening on {endpoint}; press Ctrl-C to stop")
        await server.serve_forever()


async def call(url: str) -> None:
    connector = landline.connect(url)

    @connector.on("confirm", str)
    def confirm(line: landline.Line, question: str) -> bool:
        say(f"   the server asks: {question}")
        return "mallory" not in question

    async with connector as line:
        quotient = await line.request("divide", Division(7, 2), response_type=Quotient)
        say(f"1. a response: 7 / 2 = {quotient.value:g}")

        try:
            await line.request("divide", Division(7, 0))
        except landline.RequestError as error:
            say(f"2. an error with a code: {error.code}: {error.message}")

        try:
            await line.request("divide", {"dividend": "seven"})
        except landline.RequestError as error:
            say(f"3. a body of the wrong type: {error.message}")

        try:
            await line.request("multiply", Division(7, 2))
        except landline.NoHandler as error:
            say(f"4. a name without a handler: {error.message}")

        try:
            await line.request("count_down", Countdown(start=1000), timeout=0.3)
        except landline.RequestTimeout as error:
            say(f"5. a time-out: {error.message}")

        task = asyncio.create_task(line.request("count_down", Countdown(start=500)))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.wait([task])
        say("6. cancelled, which also cancels the handler")

        for order in (Transfer(10, "alice"), Transfer(10, "mallory")):
            try:
                say(f"7. requests in both directions: {await line.request('transfer', order)}")
            except landline.RequestError as error:
                say(f"8. an error after that: {error.message}")

        # Requests on one line are concurrent; a slow one does not delay the others.
        slow = line.request("count_down", Countdown(start=2, step_s=0.05))
        quick = [line.request("divide", Division(n, 2), response_type=Quotient) for n in range(100)]
        lift_off, *halves = await asyncio.gather(slow, *quick)
        say(f"9. concurrent: {len(halves)} divisions during a countdown to {lift_off}")

    third: Quotient = await landline.call(url, "divide", Division(9, 3), response_type=Quotient)
    say(f"10. a single call without a line: 9 / 3 = {third.value:g}")


def main() -> None:
    parser = argparse.ArgumentParser(description="A server with remote calls, and a client.")
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("server", help="serve until Ctrl-C")
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
