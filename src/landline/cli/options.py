"""Options that several commands share, and the client they describe."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from landline.cli.api_client import ApiClient, ServerAddress, parse_server
from landline.cli.exit_codes import WrongUse
from landline.cli.terminal_text import printable, printable_json
from landline.fleet.paths import control_sockets, is_there, open_to_all

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="LANDLINE_SERVER",
        metavar="URL",
        help="The control server: unix:///path or http://host:port. Default: that of this user, or of the system.",
        show_default=False,
    ),
]
TokenFile = Annotated[
    str | None,
    typer.Option(
        "--token-file",
        metavar="PATH",
        help="File with the token for an http:// server; else LANDLINE_TOKEN is taken.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def client(server: str | None, token_file: str | None) -> ApiClient:
    """The client for these options. Raises :class:`landline.cli.exit_codes.WrongUse`."""
    if server:
        return ApiClient(parse_server(server), read_token(token_file))
    looked = control_sockets()
    path = next(filter(is_there, looked), looked[0])
    return ApiClient(ServerAddress(unix_path=str(path)), read_token(token_file), looked_at=looked)


def read_token(token_file: str | None) -> str | None:
    """The token of that file, or of ``LANDLINE_TOKEN``. Raises :class:`landline.cli.exit_codes.WrongUse`.

    Warns on standard error of a file that every user of this machine can read or change.
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
        raise WrongUse(f"The token file {token_file} is empty; put the token into it.")
    if not token.isascii() or not (token.isprintable() or not token):
        raise WrongUse("The token holds characters no token has; check --token-file or LANDLINE_TOKEN.")
    return token or None


def print_json(value: object) -> None:
    """``value`` as one indented JSON document on standard output."""
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    sys.stdout.write(printable_json(text) + "\n")
