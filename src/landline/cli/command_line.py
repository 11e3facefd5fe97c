"""The ``landline`` command: a table of its subcommands, each imported only when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import Final, NamedTuple

import click
from click.exceptions import NoSuchCommand


class Subcommand(NamedTuple):
    """Where a subcommand is defined, and its line in ``landline --help``."""

    module: str
    function: str
    summary: str
    """The first sentence of the function's docstring. Repeated here, so that ``--help`` imports no subcommand."""


SUBCOMMANDS: Final = {
    "ls": Subcommand("machine_commands", "ls", "List the machines with their presence and its cause."),
    "watch": Subcommand("machine_commands", "watch", "Show machines and open jobs live, until Ctrl-C."),
    "machines": Subcommand("machine_commands", "machines", "Manage single machines."),
    "logoff": Subcommand(
        "job_commands", "logoff", "Log off the persons at machines, and follow the job until it is over."
    ),
    "restart": Subcommand(
        "job_commands", "restart", "Restart machines, and follow the job until every one is back."
    ),
    "shutdown": Subcommand(
        "job_commands", "shutdown", "Shut down machines, and follow the job until they are off."
    ),
    "wake": Subcommand(
        "job_commands", "wake", "Wake machines over the network, and follow the job until they are on."
    ),
    "jobs": Subcommand("job_commands", "jobs", "List the newest jobs, or show one job machine by machine."),
    "cancel": Subcommand("job_commands", "cancel", "Cancel the parts of a job that have not started."),
    "demo": Subcommand("demo_command", "demo", "Run a control server and a simulated fleet on this machine."),
    "serve": Subcommand("serve_command", "serve", "Run the control server until Ctrl-C or SIGTERM."),
    "agent": Subcommand(
        "agent_command", "agent", "Keep this machine connected to a control server, and carry out its jobs."
    ),
    "discover": Subcommand(
        "discover_command", "discover", "List the servers that are announced on the local network."
    ),
    "ping": Subcommand("ping_command", "ping", "Measure the round-trip time to a server, and show its name."),
    "call": Subcommand("call_command", "call", "Send one request to a server, and print the answer as JSON."),
    "send-file": Subcommand(
        "file_commands", "send_file", "Send a file to a machine that runs 'landline receive-files'."
    ),
    "receive-files": Subcommand(
        "file_commands", "receive_files", "Receive files into a directory until Ctrl-C or SIGTERM."
    ),
}


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is used. Importing all of them would double the start-up time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = SUBCOMMANDS.get(cmd_name)
        if entry is None:
            if cmd_name.startswith("-"):
                return None  # An option in the place of the subcommand; Click names it.
            raise NoSuchCommand(cmd_name, possibilities=SUBCOMMANDS, ctx=ctx)
        command: click.Command = getattr(import_module(f"landline.cli.{entry.module}"), entry.function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table. Click would import every subcommand, and cut its summary at the end of the line."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in SUBCOMMANDS.items()])


def _show_version(ctx: click.Context, param: click.Parameter, is_given: bool) -> None:
    del param
    if is_given:
        import landline

        click.echo(f"landline {landline.__version__}")
        ctx.exit()


@click.group(
    "landline",
    cls=LazyGroup,
    help="Keep a line open to every machine you look after, and act on them.",
    epilog="Exit status: 0 everything was done, 1 something was not, 2 wrong use, 3 no server can be reached, "
    "130 stopped with Ctrl-C before the end.",
    context_settings={"help_option_names": ["--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version and exit.",
)
def command_line() -> None:
    """Run a subcommand."""
