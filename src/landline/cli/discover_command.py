"""``discover``: the servers that are announced on the local network."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from landline.cli.command_runner import run_command
from landline.cli.exit_codes import ALL_DONE
from landline.cli.parameter_types import WholeNumber
from landline.cli.shared_options import json_option, print_json
from landline.cli.tables import Cell, table_lines
from landline.cli.terminal_text import Colour, wants_colour

if TYPE_CHECKING:
    from landline import DiscoveredServer

SECONDS_MAX: Final = 60
HEADER: Final = ("NAME", "ENCRYPTED", "ADDRESSES", "HOST", "CONNECT TO")


@click.command
@click.option(
    "--seconds",
    metavar="S",
    type=WholeNumber(1, SECONDS_MAX),
    default="3",
    show_default=True,
    help="How long to listen.",
)
@json_option
def discover(seconds: int, as_json: bool) -> int:
    """List the servers that are announced on the local network.

    Every machine on the network can announce a server under any name.
    """
    return run_command(_discover(seconds, as_json=as_json))


async def _discover(seconds: int, *, as_json: bool) -> int:
    import landline

    servers = await landline.discover(float(seconds))
    if as_json:
        print_json({"servers": [_document(server) for server in servers]})
    elif not servers:
        sys.stdout.write("No server is announced on this network.\n")
    else:
        lines = table_lines(HEADER, [_row(server) for server in servers], colours=wants_colour(sys.stdout))
        sys.stdout.write("\n".join(lines) + "\n")
    return ALL_DONE


def _row(server: DiscoveredServer) -> list[Cell]:
    encrypted = Cell("yes") if server.is_encrypted else Cell("no", Colour.WAITING)
    addresses = ", ".join(str(endpoint) for endpoint in server.endpoints)
    return [Cell(server.name), encrypted, Cell(addresses), Cell(server.host.rstrip(".")), Cell(server.url)]


def _document(server: DiscoveredServer) -> dict[str, object]:
    return {
        "name": server.name,
        "is_encrypted": server.is_encrypted,
        "endpoints": [str(endpoint) for endpoint in server.endpoints],
        "host": server.host.rstrip("."),
        "url": server.url,
    }
