"""``agent``: the service on each machine."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import click

from landline.cli.command_runner import needs_fleet, run_command
from landline.cli.exit_codes import ALL_DONE, SOME_NOT_DONE, CommandFailed, WrongUse
from landline.cli.log_output import log_options, show_logs
from landline.cli.parameter_types import NonEmptyPath, OneOf
from landline.cli.shared_options import read_shared_token
from landline.cli.terminal_text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from landline.fleet.agent.power import PowerBackend
    from landline.fleet.agent.prompt import Prompt
    from landline.fleet.model import Action

POWER_KINDS: Final = ("logind", "command", "simulated", "dry-run")
PROMPT_KINDS: Final = ("auto", "tk", "terminal", "none")
_MACHINE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class _MachineName(click.ParamType[str]):
    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        del param, ctx
        text = str(value)
        if not _MACHINE_NAME.fullmatch(text):
            raise WrongUse(
                f"--name takes up to 64 letters, digits, dots, dashes and underscores, the first a letter or a digit; "
                f"not '{printable(text[:80])}'."
            )
        return text


class _ServerUrl(click.ParamType[str]):
    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        import landline

        del param, ctx
        try:
            if not str(value).lower().startswith("mdns"):  # The name of an announced server, not an address.
                landline.parse_url(str(value))
        except landline.ConfigurationError as error:
            raise WrongUse(f"--server: {printable(str(error))}; use for example tcp://host:5463.") from error
        return str(value)


@click.command
@click.option(
    "--server",
    "servers",
    metavar="URL",
    type=_ServerUrl(),
    multiple=True,
    required=True,
    help="The control server: tcp://host:5463, or mdns+tcp://NAME as it is announced. May be repeated.",
)
@click.option(
    "--token-file",
    metavar="PATH",
    help="File that holds the agents' token. Default: the variable LANDLINE_TOKEN.",
)
@click.option(
    "--name", metavar="NAME", type=_MachineName(), help="The machine's name. Default: its host name."
)
@click.option(
    "--power",
    metavar="KIND",
    type=OneOf(POWER_KINDS),
    default="logind",
    show_default=True,
    help=f"How to restart and shut down: {', '.join(POWER_KINDS)}.",
)
@click.option(
    "--config",
    metavar="FILE",
    type=NonEmptyPath(),
    help="TOML file with a table [commands], for --power command.",
)
@click.option(
    "--prompt",
    metavar="KIND",
    type=OneOf(PROMPT_KINDS),
    default="auto",
    show_default=True,
    help=f"How to ask the person: {', '.join(PROMPT_KINDS)}.",
)
@click.option(
    "--data",
    metavar="DIR",
    type=NonEmptyPath(),
    help="Directory of the machine's id and journal. Default: ~/.local/share/landline/agent.",
)
@log_options
def agent(
    servers: tuple[str, ...],
    token_file: str | None,
    name: str | None,
    power: str,
    config: Path | None,
    prompt: str,
    data: Path | None,
    log_format: str,
    log_level: str,
) -> int:
    """Keep this machine connected to a control server, and carry out its jobs."""
    if config is not None and power != "command":
        raise WrongUse("--config holds commands, which only --power command uses.")
    token = read_shared_token(token_file)
    if token is None:
        raise WrongUse(
            "The agent needs the token of its control server; give --token-file or set LANDLINE_TOKEN."
        )
    with needs_fleet("agent"):
        show_logs(log_format, log_level, attempts=False)
    return run_command(_agent(servers, token, name, power, config, prompt, data), interrupted=ALL_DONE)


async def _agent(
    servers: Sequence[str],
    token: str,
    name: str | None,
    power_kind: str,
    config: Path | None,
    prompt_kind: str,
    data: Path | None,
) -> int:
    import asyncio
    import signal

    import landline
    from landline.fleet.agent.agent import Agent
    from landline.fleet.agent.boot_id import find_boot
    from landline.fleet.agent.facts import machine_facts, machine_id
    from landline.fleet.agent.journal import Journal
    from landline.fleet.agent.prompt.notices import send_notices
    from landline.fleet.agent.prompt.prompt_selection import unavailable_reason
    from landline.fleet.paths import data_directory

    directory = data or data_directory() / "agent"
    power = _power(power_kind, config)
    journal = Journal.open(directory / "journal.jsonl")
    try:
        try:
            identity = machine_id(directory / "machine-id")
        except ValueError as error:
            raise CommandFailed(
                f"{directory / 'machine-id'} holds no machine id; remove the file to get a new one.",
                SOME_NOT_DONE,
            ) from error
        boot_id, boot_record = find_boot(directory / "boot.json")
        running = Agent(
            urls=list(servers),
            auth=landline.SharedToken(token),
            machine_id=identity,
            facts=machine_facts(name, power=power_kind, version=landline.__version__, boot_id=boot_id),
            power=power,
            prompt=_prompt(prompt_kind),
            no_prompt="it was started with --prompt none"
            if prompt_kind == "none"
            else unavailable_reason() or "",
            notices=send_notices,
            journal=journal,
            boot_record=boot_record,
            on_state=_print_state,
            on_joined=_print_joined,
        )
        if power_kind == "simulated":
            from landline.fleet.agent.power.simulated import SimulatedPower

            if isinstance(power, SimulatedPower):
                power.terminate = running.stop
            sys.stdout.write("This machine is simulated: a restart or shutdown only ends this agent.\n")
            sys.stdout.flush()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, running.stop)
        goodbye = await running.run()
    finally:
        journal.close()
    sys.stdout.write(f"Said goodbye: {goodbye.cause.value}.\n")
    return ALL_DONE


def _print_state(line: Any, change: Any) -> None:
    """Print the state of the line to the control server."""
    import landline

    del line
    if change.state is landline.LineState.ONLINE and change.resumed is False:
        return  # The control server may still refuse this machine: _print_joined() follows.
    text = f"{change.state.value}: {change.detail}" if change.detail else change.state.value
    if change.due_in_s is not None:
        text += f"; attempt {change.attempt} in {change.due_in_s:.1f} s"
    # The detail may be the server's text.
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def _print_joined(name: str) -> None:
    """Print that the control server has accepted this machine."""
    del name
    sys.stdout.write("online\n")
    sys.stdout.flush()


def _power(kind: str, config: Path | None) -> PowerBackend:
    if kind == "logind":
        with needs_fleet("agent"):
            from landline.fleet.agent.power.logind import LogindPower

        return LogindPower()
    if kind == "command":
        from landline.fleet.agent.power.command import CommandPower, default_commands

        return CommandPower(default_commands(sys.platform) if config is None else _read_commands(config))
    if kind == "simulated":
        from landline.fleet.agent.power.simulated import SimulatedPower

        return SimulatedPower()
    if kind == "dry-run":
        from landline.fleet.agent.power.dry_run import DryRunPower

        return DryRunPower()
    raise AssertionError(f"no back end for {kind!r} in POWER_KINDS")


def _read_commands(path: Path) -> Mapping[Action, Sequence[str]]:
    """Return the ``[commands]`` table of a TOML file: an argument list for each action. Raise :class:`WrongUse`."""
    import msgspec

    from landline.fleet.model import Action

    # Not a class: its annotations could not refer to what is imported here.
    config = dict[Literal["commands"], dict[Action, Annotated[list[str], msgspec.Meta(min_length=1)]]]
    example = 'write for example [commands] and below it restart = ["shutdown", "-r", "now"]'
    try:
        commands = msgspec.toml.decode(path.read_bytes(), type=config).get("commands")
    except OSError as error:
        raise WrongUse(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = "it is not text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise WrongUse(f"{path} is not a table of commands: {printable(reason)}; {example}.") from error
    if not commands:
        raise WrongUse(f"{path} holds no commands; {example}.")
    return commands


def _prompt(kind: str) -> Prompt | None:
    if kind == "none":
        return None
    if kind == "tk":
        from landline.fleet.agent.prompt.tk_prompt import TkPrompt

        return TkPrompt()
    if kind == "terminal":
        from landline.fleet.agent.prompt.terminal_prompt import TerminalPrompt

        return TerminalPrompt()
    from landline.fleet.agent.prompt.prompt_selection import choose_prompt

    return choose_prompt()
