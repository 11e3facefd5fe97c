"""``ping``: the round-trip time to a server, and its name."""

from __future__ import annotations

import sys
from statistics import median
from typing import TYPE_CHECKING, Final

import click
import msgspec

from landline.cli.command_runner import run_command
from landline.cli.exit_codes import ALL_DONE, NO_SERVER, SOME_NOT_DONE, WrongUse, sentence
from landline.cli.log_output import quiet_logs
from landline.cli.parameter_types import Duration, WholeNumber
from landline.cli.shared_options import ca_option, json_option, print_json, read_shared_token, token_option
from landline.cli.terminal_text import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import landline

    Ping = Callable[[], Awaitable[float | None]]
    """Measures one round trip, in seconds; ``None`` when there is no answer in time."""

COUNT_MAX: Final = 1_000_000
PING_NAME: Final = "landline.ping"
"""The name of a handler that no server has. The answer that there is none measures the round trip too."""


class PingResult(msgspec.Struct):
    """The measurements, as ``--json`` prints them."""

    url: str
    server: str = ""
    """The server's name; empty over ``udp://``."""
    handshake_s: float | None = None
    round_trips_s: list[float | None] = []
    """``null`` for each ping that was not answered in time."""
    problem: str = ""


@click.command
@click.argument("url", metavar="URL", help="The server, such as tcp://host:5463, udp://host or mdns://NAME.")
@click.option(
    "--count",
    metavar="N",
    type=WholeNumber(1, COUNT_MAX),
    default="3",
    show_default=True,
    help="How many round trips to measure.",
)
@click.option(
    "--interval",
    "interval_s",
    metavar="DURATION",
    type=Duration(),
    default="1s",
    show_default=True,
    help="Pause between two round trips.",
)
@click.option(
    "--timeout",
    "timeout_s",
    metavar="DURATION",
    type=Duration(),
    default="5s",
    show_default=True,
    help="How long the handshake and each round trip may take.",
)
@token_option
@ca_option
@json_option
def ping(
    url: str,
    count: int,
    interval_s: float,
    timeout_s: float,
    token_file: str | None,
    ca: str | None,
    as_json: bool,
) -> int:
    """Measure the round-trip time to a server, and show its name."""
    if timeout_s == 0:
        raise WrongUse("--timeout takes at least 1s.")
    quiet_logs()
    measurement = _Measurement(PingResult(url), count, interval_s, timeout_s, is_quiet=as_json)
    return run_command(measurement.run(read_shared_token(token_file), ca))


class _Measurement:
    """One run of ``ping``."""

    def __init__(
        self, result: PingResult, count: int, interval_s: float, timeout_s: float, *, is_quiet: bool
    ) -> None:
        self._result = result
        self._count = count
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._is_quiet = is_quiet

    async def run(self, token: str | None, ca: str | None) -> int:
        """Measure, print the result, and return the exit status."""
        import landline
        from landline.cli.connection_errors import failure_reason

        result = self._result
        auth = landline.SharedToken(token) if token else None
        options = landline.TransportOptions(ca_file=ca)
        try:
            if result.url.lower().startswith("udp:"):
                await self._measure_calls(auth, options)
            else:
                await self._measure_line(auth, options)
        except (landline.ConfigurationError, landline.MissingExtra) as error:
            raise WrongUse(sentence(str(error).replace("TransportOptions(ca_file=)", "--ca"))) from error
        except landline.LandlineError as error:
            reason = failure_reason(error, result.url, has_token=token is not None)
            result.problem = sentence(f"{self._server_text()}: {reason}")
        if self._is_quiet:
            print_json(result)
        elif result.problem:
            sys.stderr.write(printable(result.problem) + "\n")
        else:
            _print(self._summary())
        if result.handshake_s is None:
            return SOME_NOT_DONE if result.server else NO_SERVER
        return ALL_DONE if all(result.round_trips_s) and not result.problem else SOME_NOT_DONE

    async def _measure_line(
        self, auth: landline.SharedToken | None, options: landline.TransportOptions
    ) -> None:
        import asyncio
        from time import monotonic

        import landline

        connector = landline.connect(
            self._result.url,
            auth=auth,
            connect_timeout_s=None,
            backoff=landline.Backoff(attempts=1),
            options=options,
        )
        started_at = monotonic()
        try:
            async with asyncio.timeout(self._timeout_s) as connecting, connector as line:
                connecting.reschedule(None)
                self._result.server = printable(connector.server_name)
                self._result.handshake_s = monotonic() - started_at

                async def ping_once() -> float | None:
                    try:
                        return await line.ping(timeout=self._timeout_s)
                    except TimeoutError:
                        return None

                await self._repeat(ping_once)
        except TimeoutError as error:
            raise landline.ConnectFailed(f"no answer within {self._timeout_s:g} s") from error
        finally:
            # A server that refuses has sent its name before.
            self._result.server = printable(connector.server_name)

    async def _measure_calls(
        self, auth: landline.SharedToken | None, options: landline.TransportOptions
    ) -> None:
        from time import monotonic

        import landline

        async def ping_once() -> float | None:
            started_at = monotonic()
            try:
                await landline.call(
                    self._result.url, PING_NAME, auth=auth, options=options, timeout=self._timeout_s
                )
            except landline.RequestTimeout:
                return None
            except landline.NoHandler:
                pass
            return monotonic() - started_at

        # The first call takes an extra round trip, in which the server verifies the client's address.
        self._result.handshake_s = await ping_once()
        if self._result.handshake_s is None:
            raise landline.ConnectFailed(f"no answer within {self._timeout_s:g} s")
        await self._repeat(ping_once)

    async def _repeat(self, ping_once: Ping) -> None:
        import asyncio

        self._say(self._greeting())
        for number in range(1, self._count + 1):
            round_trip_s = await ping_once()
            self._result.round_trips_s.append(round_trip_s)
            self._say(f"{number}: {'no answer' if round_trip_s is None else _milliseconds(round_trip_s)}")
            if number < self._count:
                await asyncio.sleep(self._interval_s)

    def _server_text(self) -> str:
        result = self._result
        return f"'{result.server}' at {result.url}" if result.server else result.url

    def _greeting(self) -> str:
        result = self._result
        assert result.handshake_s is not None
        took = _milliseconds(result.handshake_s)
        if result.server:
            return f"'{result.server}' at {result.url}: connected in {took}"
        return f"A server at {result.url}: the first answer took {took}"

    def _summary(self) -> str:
        round_trips_s = self._result.round_trips_s
        answered = sorted(each_s for each_s in round_trips_s if each_s is not None)
        text = f"{len(answered)} of {len(round_trips_s)} answered"
        if answered:
            least, middle, most = (
                _milliseconds(each_s) for each_s in (answered[0], median(answered), answered[-1])
            )
            text += f"; minimum {least}, median {middle}, maximum {most}"
        return text

    def _say(self, text: str) -> None:
        if not self._is_quiet:
            _print(text)


def _milliseconds(duration_s: float) -> str:
    return f"{duration_s * 1000:.2f} ms"


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
