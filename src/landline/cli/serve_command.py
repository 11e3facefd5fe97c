"""``serve``: the control server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from landline.cli.command_runner import needs_fleet, run_command
from landline.cli.exit_codes import ALL_DONE, SOME_NOT_DONE, CommandFailed, WrongUse, sentence
from landline.cli.log_output import log_options, show_logs
from landline.cli.parameter_types import NonEmptyPath
from landline.cli.shared_options import listen_endpoint
from landline.cli.terminal_text import printable

if TYPE_CHECKING:
    import landline
    from landline.fleet.control.serve import ControlServerOptions


class _HostAndPort(click.ParamType["tuple[str, int]"]):
    name = "address"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        del param, ctx
        host, _, port = str(value).rpartition(":")
        if not host or not port.isdecimal() or int(port[:6]) > 65_535:
            raise WrongUse(
                f"--http takes HOST:PORT, such as 127.0.0.1:5464, not '{printable(str(value)[:40])}'."
            )
        return host.strip("[]"), int(port)


@click.command
@click.option(
    "--data",
    metavar="DIR",
    type=NonEmptyPath(),
    help="Directory of the database and the tokens. Default: ~/.local/share/landline/control.",
)
@click.option(
    "--listen",
    metavar="URL",
    default="tcp://127.0.0.1:5463",
    show_default=True,
    help="Where agents connect. The connections are not encrypted yet.",
)
@click.option(
    "--announce", metavar="NAME", help="Announce the server to agents on the local network under this name."
)
@click.option(
    "--http",
    metavar="HOST:PORT",
    type=_HostAndPort(),
    help="Serve the operators' API on TCP too. It needs a token there.",
)
@click.option(
    "--socket",
    "unix_path",
    metavar="PATH",
    type=NonEmptyPath(),
    help="The operators' unix socket. Default: the one where commands of this user look first.",
)
@log_options
def serve(
    data: Path | None,
    listen: str,
    announce: str | None,
    http: tuple[str, int] | None,
    unix_path: Path | None,
    log_format: str,
    log_level: str,
) -> int:
    """Run the control server until Ctrl-C or SIGTERM."""
    with needs_fleet("serve"):
        from landline.fleet.control.serve import ControlServerOptions
        from landline.fleet.paths import control_socket, data_directory

        show_logs(log_format, log_level)
    options = ControlServerOptions(
        data=data or data_directory() / "control",
        listen=listen,
        announce=announce,
        socket=unix_path or control_socket(),
        http=http,
    )
    return run_command(_serve(options), interrupted=ALL_DONE)


async def _serve(options: ControlServerOptions) -> int:
    import landline

    try:
        return await _serve_until_stopped(options)
    except landline.AddressInUse as error:
        if str(options.socket) not in str(error):
            raise
        # Often a demo: it has the socket where commands look first.
        raise CommandFailed(sentence(f"{str(error).rstrip('.')} with --socket"), SOME_NOT_DONE) from error


async def _serve_until_stopped(options: ControlServerOptions) -> int:
    import asyncio
    import signal

    from landline.fleet.control.serve import run_control_server

    listen_endpoint(options.listen, "serve")
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with run_control_server(options) as running:
        token_file = options.data / "agents.token"
        sys.stdout.write(
            f"Agents connect to {running.agents} with the token in {token_file}:\n"
            f"    landline agent --server {_for_agents(running.agents)} --token-file {token_file}\n"
            + _announced_hint(options.announce, running.agents)
            + f"Operators use unix://{options.socket}"
        )
        if running.http is not None:
            host, port = running.http
            sys.stdout.write(f" or http://{host}:{port} with the token in {options.data / 'operators.token'}")
        sys.stdout.write(".\nCtrl-C stops it.\n")
        sys.stdout.flush()
        await stopping.wait()
        sys.stdout.write("Saying goodbye to the agents ...\n")
    return ALL_DONE


def _for_agents(listening: landline.Endpoint) -> str:
    """Return the URL for other machines: the host name if the server listens on every address of this machine."""
    import socket

    import msgspec

    if listening.host in {"0.0.0.0", "::"}:  # noqa: S104 - only compared
        return str(msgspec.structs.replace(listening, host=socket.gethostname()))
    return str(listening)


def _announced_hint(name: str | None, agents: landline.Endpoint) -> str:
    if name is None:
        return ""
    import landline

    url = landline.DiscoveredServer(name.lower(), "", (agents,)).url
    return f"On this network, agents find it with --server {url} too.\n"
