"""The command that looks around on the local network: ``discover``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from landline.cli import options
from landline.cli.exit_codes import INTERRUPTED, SOME_NOT_DONE, CommandFailed, WrongUse, sentence
from landline.cli.tables import Cell, table_lines
from landline.cli.terminal_text import Colour, printable, wants_colour

if TYPE_CHECKING:
    from landline import DiscoveredServer

SECONDS_MAX: Final = 60
HEADER: Final = ("NAME", "ENCRYPTED", "ADDRESSES", "HOST", "CONNECT TO")


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command("discover")(discover)


def discover(
    seconds: Annotated[str, typer.Option("--seconds", metavar="S", help="How long to listen.")] = "3",
    json: options.Json = False,
) -> None:
    """List the servers that are announced on this network. Anybody there can announce one."""
    if not (seconds.isascii() and seconds.isdigit()) or not 1 <= int(seconds[:9]) <= SECONDS_MAX:
        raise WrongUse(
            f"--seconds takes a whole number from 1 to {SECONDS_MAX}, not {printable(seconds[:40])!r}."
        )
    announcements = _search(float(seconds))
    if json:
        options.print_json({"servers": [_document(one) for one in announcements]})
    elif not announcements:
        sys.stdout.write("No server is announced on this network.\n")
    else:
        lines = table_lines(HEADER, [_row(one) for one in announcements], colours=wants_colour(sys.stdout))
        sys.stdout.write("\n".join(lines) + "\n")


def _search(seconds: float) -> list[DiscoveredServer]:
    import landline

    try:
        return landline.run(landline.discover(seconds))
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except (landline.ConfigurationError, landline.MissingExtra) as error:
        raise WrongUse(sentence(str(error))) from error
    except OSError as error:
        raise CommandFailed(sentence(error.strerror or str(error)), SOME_NOT_DONE) from error


def _row(one: DiscoveredServer) -> list[Cell]:
    encrypted = Cell("yes") if one.is_encrypted else Cell("no", Colour.WAITING)
    addresses = ", ".join(str(endpoint) for endpoint in one.endpoints)
    return [Cell(one.name), encrypted, Cell(addresses), Cell(one.host.rstrip(".")), Cell(one.url)]


def _document(one: DiscoveredServer) -> dict[str, object]:
    return {
        "name": one.name,
        "is_encrypted": one.is_encrypted,
        "endpoints": [str(endpoint) for endpoint in one.endpoints],
        "host": one.host.rstrip("."),
        "url": one.url,
    }
