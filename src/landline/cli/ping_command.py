"""``ping``: how long it takes to reach a server, and who answers. The library is imported when it runs."""

from __future__ import annotations

import sys
from statistics import median
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from landline.cli import options
from landline.cli.durations import parse_duration
from landline.cli.exit_codes import ALL_DONE, INTERRUPTED, NO_SERVER, SOME_NOT_DONE, WrongUse, sentence
from landline.cli.log_output import quiet_logs
from landline.cli.terminal_text import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import landline

    Repeat = Callable[[Callable[[], Awaitable[float | None]]], Awaitable[None]]

COUNT_MAX: Final = 1_000_000
PING_NAME: Final = "landline.ping"
"""A handler that no server is expected to have: the answer that it has none is as good as any."""


class Report(msgspec.Struct):
    """What was measured, as ``--json`` prints it."""

    url: str
    server: str = ""
    """What the server calls itself; empty over ``udp://``."""
    handshake_s: float | None = None
    round_trips_s: list[float | None] = []
    """``null`` for each ping that was not answered in time."""
    problem: str = ""


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command("ping")(ping)


def ping(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Such as tcp://host:5463, udp://host or mdns://NAME.")
    ],
    count: Annotated[str, typer.Option("--count", metavar="N", help="How many round trips.")] = "3",
    interval: Annotated[
        str, typer.Option("--interval", metavar="DURATION", help="Between two of them.")
    ] = "1s",
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="DURATION", help="How long each may take.")
    ] = "5s",
    token_file: Annotated[
        str | None,
        typer.Option(
            "--token-file",
            metavar="PATH",
            help="File with the server's token; else LANDLINE_TOKEN is taken.",
            show_default=False,
        ),
    ] = None,
    ca: Annotated[
        str | None,
        typer.Option(
            "--ca",
            metavar="FILE",
            help="The authority to trust, as PEM, for tls://, wss://, quic://.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure how long it takes to reach a server, and show what it calls itself."""
    if not count.isdecimal() or not 1 <= int(count[:12]) <= COUNT_MAX:
        raise WrongUse(f"--count takes a whole number from 1 to {COUNT_MAX}, not '{count[:40]}'.")
    times = (parse_duration(interval, "--interval"), parse_duration(timeout, "--timeout"))
    if times[1] == 0:
        raise WrongUse("--timeout takes at least 1s: nothing answers in no time.")
    report = Report(url)
    try:
        _measure(report, int(count), *times, options.read_token(token_file), ca, quiet=json)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    if json:
        options.print_json(report)
    elif report.problem:
        sys.stderr.write(printable(report.problem) + "\n")
    else:
        sys.stdout.write(_summary(report) + "\n")
    if report.handshake_s is None:
        sys.exit(NO_SERVER if not report.server else SOME_NOT_DONE)
    sys.exit(ALL_DONE if all(report.round_trips_s) and not report.problem else SOME_NOT_DONE)


def _measure(
    report: Report,
    count: int,
    interval_s: float,
    timeout_s: float,
    token: str | None,
    ca: str | None,
    *,
    quiet: bool,
) -> None:
    import asyncio

    import landline

    quiet_logs()

    async def repeat(once: Callable[[], Awaitable[float | None]]) -> None:
        if not quiet:
            _say(_greeting(report))
        for number in range(1, count + 1):
            trip_s = await once()
            report.round_trips_s.append(trip_s)
            if not quiet:
                _say(f"{number}: {'no answer' if trip_s is None else _milliseconds(trip_s)}")
            if number < count:
                await asyncio.sleep(interval_s)

    try:
        auth = landline.SharedToken(token) if token else None
        transport = landline.TransportOptions(ca_file=ca)
        if report.url.lower().startswith("udp:"):
            landline.run(_over_calls(report, auth, transport, timeout_s, repeat))
        else:
            landline.run(_over_a_line(report, auth, transport, timeout_s, repeat))
    except (landline.ConfigurationError, landline.MissingExtra) as error:
        raise WrongUse(sentence(str(error).replace("TransportOptions(ca_file=)", "--ca"))) from error
    except landline.LandlineError as error:
        report.problem = sentence(_reason(report, error))


async def _over_a_line(
    report: Report,
    auth: landline.SharedToken | None,
    transport: landline.TransportOptions,
    timeout_s: float,
    repeat: Repeat,
) -> None:
    import asyncio
    from time import monotonic

    import landline

    connector = landline.connect(
        report.url,
        auth=auth,
        connect_timeout_s=None,
        backoff=landline.Backoff(attempts=1),
        options=transport,
    )
    begun_at = monotonic()
    try:
        async with asyncio.timeout(timeout_s) as entering, connector as line:
            entering.reschedule(None)
            report.server = printable(connector.server_name)
            report.handshake_s = monotonic() - begun_at

            async def once() -> float | None:
                try:
                    return await line.ping(timeout=timeout_s)
                except TimeoutError:
                    return None

            await repeat(once)
    except TimeoutError as error:
        raise landline.ConnectFailed(f"no answer within {timeout_s:g} s") from error
    finally:
        # One that refused us has said its name before.
        report.server = printable(connector.server_name)


async def _over_calls(
    report: Report,
    auth: landline.SharedToken | None,
    transport: landline.TransportOptions,
    timeout_s: float,
    repeat: Repeat,
) -> None:
    from time import monotonic

    import landline

    async def once() -> float | None:
        begun_at = monotonic()
        try:
            await landline.call(report.url, PING_NAME, auth=auth, options=transport, timeout=timeout_s)
        except landline.RequestTimeout:
            return None
        except landline.NoHandler:
            pass
        return monotonic() - begun_at

    # The first call takes one round trip more, in which the server makes sure of our address.
    report.handshake_s = await once()
    if report.handshake_s is None:
        raise landline.ConnectFailed(f"no answer within {timeout_s:g} s")
    await repeat(once)


def _reason(report: Report, error: landline.LandlineError) -> str:
    """What went wrong; of a policy that made one attempt, only what the attempt failed with."""
    import landline

    cause: BaseException | None = error.last if isinstance(error, landline.GaveUp) else error
    who = f"'{report.server}' at {report.url}" if report.server else report.url
    # The error names the endpoint itself, in the normal form of its URL.
    endpoint = report.url if report.url.lower().startswith("mdns") else landline.parse_url(report.url)
    return f"{who}: {str(cause).removeprefix(f'{endpoint}: ')}"


def _greeting(report: Report) -> str:
    assert report.handshake_s is not None
    took = _milliseconds(report.handshake_s)
    if report.server:
        return f"'{report.server}' at {report.url}: connected, and shook hands, in {took}"
    return f"A server at {report.url}: the first answer took {took}"


def _summary(report: Report) -> str:
    answered = sorted(trip_s for trip_s in report.round_trips_s if trip_s is not None)
    text = f"{len(answered)} of {len(report.round_trips_s)} answered"
    if answered:
        least, middle, most = (
            _milliseconds(trip_s) for trip_s in (answered[0], median(answered), answered[-1])
        )
        text += f"; {least} at best, {middle} in the middle, {most} at worst"
    return text


def _milliseconds(duration_s: float) -> str:
    return f"{duration_s * 1000:.2f} ms"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
