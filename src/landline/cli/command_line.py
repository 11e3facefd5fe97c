"""The commands put together."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from landline.cli.discover_command import register as register_discovering
from landline.cli.file_commands import register as register_files
from landline.cli.job_commands import register as register_jobs
from landline.cli.lazy_groups import Group
from landline.cli.machine_commands import register as register_machines
from landline.cli.ping_command import register as register_pinging
from landline.cli.serve_commands import register as register_serving


def build() -> typer.Typer:
    """The whole command line; imports neither servers nor rich."""
    app = typer.Typer(
        name="landline",
        cls=Group,
        help="Keeps a line open to every machine you look after, and lets you act on them.",
        epilog="Exit status: 0 all done, 1 some not, 2 wrong use, 3 no control server, 130 Ctrl-C before the end.",
        rich_markup_mode=None,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_landline)
    register_machines(app)
    register_jobs(app)
    register_serving(app)
    register_discovering(app)
    register_pinging(app)
    register_files(app)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        import landline

        sys.stdout.write(f"landline {landline.__version__}\n")
        raise typer.Exit


def _landline(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    del version
