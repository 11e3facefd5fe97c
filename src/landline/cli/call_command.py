"""``call``: one request to a server, and its answer as JSON."""

from __future__ import annotations

from typing import Any

import click

from landline.cli.command_runner import run_command
from landline.cli.exit_codes import ALL_DONE, NO_SERVER, SOME_NOT_DONE, CommandFailed, WrongUse, sentence
from landline.cli.log_output import quiet_logs
from landline.cli.parameter_types import Duration
from landline.cli.shared_options import ca_option, print_json, read_shared_token, token_option
from landline.cli.terminal_text import printable


@click.command
@click.argument("url", metavar="URL", help="The server, such as tcp://host:5463, udp://host or mdns://NAME.")
@click.argument("name", metavar="NAME", help="The name of a handler of the server.")
@click.argument("value", metavar="[JSON]", required=False, help="The value of the request. Default: null.")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="DURATION",
    type=Duration(),
    default="10s",
    show_default=True,
    help="How long the connection and the answer may take together.",
)
@token_option
@ca_option
def call(
    url: str, name: str, value: str | None, timeout_s: float, token_file: str | None, ca: str | None
) -> int:
    """Send one request to a server, and print the answer as JSON.

    Bytes in the answer are printed as Base64. Exit status 1: the server refused, the handler failed, or no answer came
    and the handler may have run; 3: no server could be reached, and the handler did not run.
    """
    if timeout_s == 0:
        raise WrongUse("--timeout takes at least 1s.")
    quiet_logs()
    return run_command(_call(url, name, _decode(value), timeout_s, read_shared_token(token_file), ca))


async def _call(url: str, name: str, value: Any, timeout_s: float, token: str | None, ca: str | None) -> int:
    import msgspec

    import landline
    from landline.cli.connection_errors import failure_reason

    try:
        answer = await landline.call(
            url,
            name,
            value,
            timeout=timeout_s,
            auth=landline.SharedToken(token) if token else None,
            options=landline.TransportOptions(ca_file=ca),
        )
    except (landline.ConfigurationError, landline.MissingExtra) as error:
        raise WrongUse(sentence(str(error).replace("TransportOptions(ca_file=)", "--ca"))) from error
    except landline.ConnectFailed as error:
        reason = failure_reason(error, url, has_token=token is not None)
        status = SOME_NOT_DONE if isinstance(error, landline.Rejected) else NO_SERVER
        raise CommandFailed(sentence(f"{url}: {reason}"), status) from error
    except OverflowError as error:
        raise WrongUse(
            f"The value of the request holds a number that cannot be sent: {printable(str(error))}."
        ) from error
    try:
        print_json(answer)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise CommandFailed(
            f"The answer cannot be printed as JSON: {printable(str(error)).rstrip('.')}.", SOME_NOT_DONE
        ) from error
    return ALL_DONE


def _decode(text: str | None) -> Any:
    import msgspec

    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        reason = str(error) if isinstance(error, msgspec.DecodeError) else "it is not text"
        raise WrongUse(
            f"The value of the request is not JSON: {printable(reason)}; "
            "write text in quotation marks, such as '\"text\"'."
        ) from error
