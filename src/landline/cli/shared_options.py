"""Options that several commands share, and their values: an API client, a token, an address to listen on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import click

from landline.cli.exit_codes import WrongUse
from landline.cli.terminal_text import printable, printable_json
from landline.fleet.paths import control_sockets, is_there, open_to_all

if TYPE_CHECKING:
    from landline import Endpoint
    from landline.cli.api_client import ApiClient

_Function = TypeVar("_Function", bound=Callable[..., Any])
OptionDecorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

TOKEN_BYTES_MIN: Final = 16
"""The library takes no shorter shared token; see :class:`landline.SharedToken`."""

json_option: OptionDecorator = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead of text."
)

token_option: OptionDecorator = click.option(
    "--token-file",
    metavar="PATH",
    help="File that holds the server's token. Default: the variable LANDLINE_TOKEN.",
)

ca_option: OptionDecorator = click.option(
    "--ca",
    metavar="FILE",
    help="Certificate of the authority to trust, as PEM, for tls://, wss:// and quic://.",
)


def server_options(function: _Function) -> _Function:
    """Add ``--server`` and ``--token-file``, which name a control server."""
    server = click.option(
        "--server",
        envvar="LANDLINE_SERVER",
        show_envvar=True,
        metavar="URL",
        help="The control server: unix:///path or http://host:port. Default: this user's server on this machine, "
        "or else the system's.",
    )
    token_file = click.option(
        "--token-file",
        metavar="PATH",
        help="File that holds the token for an http:// server. Default: the variable LANDLINE_TOKEN.",
    )
    return server(token_file(function))


def control_client(server: str | None, token_file: str | None) -> ApiClient:
    """Return the client for ``--server`` and ``--token-file``.

    :raises WrongUse: when one of them cannot be used.
    """
    from landline.cli.api_client import ApiClient, ServerAddress, parse_server

    if server:
        return ApiClient(parse_server(server), read_token(token_file))
    candidates = control_sockets()
    path = next(filter(is_there, candidates), candidates[0])
    return ApiClient(ServerAddress(unix_path=str(path)), read_token(token_file), looked_at=candidates)


def read_token(token_file: str | None) -> str | None:
    """Return the token in that file, or in ``LANDLINE_TOKEN``; ``None`` when there is none.

    Warn on standard error when every user of this machine can read or change the file.

    :raises WrongUse: when the file cannot be read or is empty, or when the text cannot be a token.
    """
    if token_file is None:
        token = os.environ.get("LANDLINE_TOKEN", "")
    else:
        try:
            with Path(token_file).open() as file:
                mode = os.fstat(file.fileno()).st_mode
                token = file.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise WrongUse(f"Cannot read the token file {token_file}: {reason.lower()}.") from error
        if token.strip() and (warning := open_to_all(token_file, mode)):
            sys.stderr.write(f"Warning: {printable(warning)}.\n")
    token = token.strip()
    if token_file is not None and not token:
        raise WrongUse(f"The token file {token_file} is empty; write the token into it.")
    if not token.isascii() or not (token.isprintable() or not token):
        raise WrongUse(f"{_token_source(token_file)} contains characters that no token has; copy it again.")
    return token or None


def read_shared_token(token_file: str | None) -> str | None:
    """Return the token of a landline server, as :func:`read_token` does.

    :raises WrongUse: as :func:`read_token`, and when the token is too short.
    """
    token = read_token(token_file)
    if token is not None and len(token) < TOKEN_BYTES_MIN:
        raise WrongUse(
            f"{_token_source(token_file)} is too short: a token has at least {TOKEN_BYTES_MIN} characters, "
            f"and this one has {len(token)}; copy the whole token."
        )
    return token


def listen_endpoint(url: str, command: str) -> Endpoint:
    """Return the endpoint of ``--listen``.

    :raises landline.ConfigurationError: for a text that is no URL of a server.
    :raises WrongUse: for an endpoint on which ``command`` cannot listen: it has no certificate, and needs lines.
    """
    import landline

    endpoint = landline.parse_url(url)
    if endpoint.is_connectionless:
        raise WrongUse(
            f"--listen {printable(url)} takes single calls only, and {command!r} needs lines; use for example tcp://."
        )
    if endpoint.is_encrypted:
        raise WrongUse(
            f"--listen {endpoint.scheme}:// needs a certificate, which {command!r} cannot take yet; "
            "use tcp:// on a network you trust."
        )
    return endpoint


def print_json(value: object) -> None:
    """Print ``value`` as one indented JSON document on standard output."""
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    sys.stdout.write(printable_json(text) + "\n")


def _token_source(token_file: str | None) -> str:
    return "The token in LANDLINE_TOKEN" if token_file is None else f"The token in {token_file}"
