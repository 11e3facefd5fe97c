"""Commands that serve: ``demo``, ``serve``, ``agent``. Servers are imported when they run."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from landline.cli import log_output as logs
from landline.cli.exit_codes import ALL_DONE, INTERRUPTED, SOME_NOT_DONE, CommandFailed, WrongUse, sentence
from landline.cli.listen_option import listen_endpoint
from landline.cli.options import Json, read_token
from landline.cli.terminal_text import printable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    import landline
    from landline.fleet.agent.power import PowerBackend
    from landline.fleet.agent.prompt import Prompt
    from landline.fleet.demo.demo import Demo
    from landline.fleet.model import Action

MACHINES_MAX = 5000
POWERS = ("logind", "command", "simulated", "dry-run")
PROMPTS = ("auto", "tk", "terminal", "none")
_EXPECTED: Final = {
    "landline.fleet.agent.agent": "AgentRefused",
    "landline.fleet.agent.journal_file": "JournalError",
    "landline.fleet.agent.power": "PowerError",
    "landline.fleet.demo.demo": "DemoFailed",
    "landline.fleet.paths": "UnsafePath",
    "landline.fleet.api": "StorageError",
    "landline.fleet.web.http_server": "CannotListen",
}
"""Errors that say all there is to say, by the module that defines them."""
_MACHINE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

TRY = (
    "landline ls",
    "landline watch",
    'landline restart sim-03 --message "Updates" --yes',
    "landline shutdown --all --in 5s --yes",
    "landline wake --all --yes",
    "landline logoff 'sim-0[1-4]'",
    "landline jobs",
)


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    app.command("demo")(demo)
    app.command("serve")(serve)
    app.command("agent")(agent)


def demo(
    machines: Annotated[
        str, typer.Option("--machines", metavar="N", help="How many machines to simulate.")
    ] = "8",
    seconds: Annotated[
        str | None,
        typer.Option(
            "--seconds",
            metavar="S",
            help="Drive itself for so long: issue jobs, cut links, count; then end.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run a control server and a simulated fleet on this machine; other commands find it by themselves."""
    count = _whole_number("--machines", machines, 1, MACHINES_MAX)
    duration = None if seconds is None else _whole_number("--seconds", seconds, 3, 86_400)
    if json and duration is None:
        raise WrongUse("--json prints the figures of a demo that ends; give --seconds too.")
    logs.quiet_logs()
    # One that would have ended by itself has not done what was asked.
    interrupted = ALL_DONE if duration is None else INTERRUPTED
    sys.exit(_run(_demo(count, duration, as_json=json), interrupted))


def serve(
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Database and tokens. Default: ~/.local/share/landline/control.",
            show_default=False,
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option("--listen", metavar="URL", help="Where agents connect. Not encrypted yet."),
    ] = "tcp://127.0.0.1:5463",
    announce: Annotated[
        str | None,
        typer.Option(
            "--announce",
            metavar="NAME",
            help="Announce it to agents on the local network by this name.",
            show_default=False,
        ),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option("--http", metavar="HOST:PORT", help="The operators' API on TCP too, with a token."),
    ] = None,
    socket: Annotated[
        str | None,
        typer.Option("--socket", metavar="PATH", help="The operators' unix socket.", show_default=False),
    ] = None,
    log_format: logs.Format = "auto",
    log_level: logs.Level = "info",
) -> None:
    """Run the control server until Ctrl-C or SIGTERM."""
    logs.check_logging(log_format, log_level)
    logs.show_logs(log_format, log_level)
    directory = None if data is None else _path("--data", data)
    unix_path = None if socket is None else _path("--socket", socket)
    tcp = None if http is None else _host_and_port(http)
    sys.exit(_run(_serve(directory, listen, announce, tcp, unix_path)))


def agent(
    server: Annotated[
        list[str],
        typer.Option(
            "--server",
            metavar="URL",
            help="The control server: tcp://host:5463, or mdns+tcp://NAME as announced. May be repeated.",
        ),
    ],
    token_file: Annotated[
        str | None,
        typer.Option(
            "--token-file", metavar="PATH", help="File with the agents' token; else LANDLINE_TOKEN."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="The machine's name. Default: its host name.", show_default=False
        ),
    ] = None,
    power: Annotated[
        str, typer.Option("--power", metavar="KIND", help=f"How to act: {', '.join(POWERS)}.")
    ] = "logind",
    config: Annotated[
        str | None,
        typer.Option(
            "--config", metavar="FILE", help="TOML with [commands] for --power command.", show_default=False
        ),
    ] = None,
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="KIND", help=f"How to ask the person: {', '.join(PROMPTS)}.")
    ] = "auto",
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="The machine's id and journal. Default: ~/.local/share/landline/agent.",
            show_default=False,
        ),
    ] = None,
    log_format: logs.Format = "auto",
    log_level: logs.Level = "info",
) -> None:
    """Keep this machine connected to a control server, and carry out its jobs."""
    if name is not None and not _MACHINE_NAME.fullmatch(name):
        raise WrongUse(
            f"--name takes up to 64 letters, digits, dots, dashes and underscores, and begins with a letter or a "
            f"digit; {printable(name[:80])!r} does not fit."
        )
    if power not in POWERS:
        raise WrongUse(f"--power {power!r} is not one of {', '.join(POWERS)}.")
    if prompt not in PROMPTS:
        raise WrongUse(f"--prompt {prompt!r} is not one of {', '.join(PROMPTS)}.")
    logs.check_logging(log_format, log_level)
    logs.show_logs(log_format, log_level, attempts=False)
    sys.exit(_run(_agent(server, _agents_token(token_file), name, power, config, prompt, data)))


# demo


async def _demo(machines: int, seconds: int | None, *, as_json: bool) -> int:
    import asyncio
    import signal

    import msgspec

    from landline.fleet.demo.demo import demo as run_demo

    # As Ctrl-C does: everything is ended in order, and there are no figures.
    main = asyncio.current_task()
    assert main is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    say = sys.stderr if as_json else sys.stdout
    say.write(f"Starting a control server and {machines} simulated machines ...\n")
    say.flush()
    async with run_demo(machines, self_driven=seconds is not None) as shown:
        await shown.wait_online()
        if seconds is None:
            await _show_demo(shown)
            return ALL_DONE
        say.write(f"{machines} machines online. Driving itself for {seconds} s ...\n")
        say.flush()
        await shown.drive(seconds, seed=1)
        result = msgspec.structs.replace(await shown.finish(), seconds=float(seconds))
    if as_json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    else:
        for field in result.__struct_fields__:
            sys.stdout.write(f"{field.replace('_', ' '):<22} {getattr(result, field)}\n")
    return ALL_DONE if not result.messages_lost and not result.messages_duplicated else SOME_NOT_DONE


async def _show_demo(shown: Demo) -> None:
    """Shows the fleet live: this terminal runs what ``landline watch`` would."""
    import asyncio

    from landline.fleet.paths import control_socket

    # One that there is.
    commands = [line.replace("sim-03", f"sim-{min(3, shown.machines):02d}") for line in TRY]
    url = f"unix://{shown.socket}"
    if shown.socket != control_socket():
        # The commands find the other one.
        commands.insert(0, f"export LANDLINE_SERVER={shlex.quote(url)}")
        sys.stdout.write(
            "\nAnother demo or control server of yours is what commands find by themselves. "
            "To reach this one, set LANDLINE_SERVER.\n"
        )
    sys.stdout.write(
        f"\n{shown.machines} machines are online.\n"
        f"The control server listens for agents on {shown.running.agents}\n"
        f"and for operators on {url}\n\n"
        "Try in a second terminal:\n"
        + "".join(f"    {line}\n" for line in commands)
        + "\nCtrl-C ends the demo.\n\n"
    )
    sys.stdout.flush()
    footer = "Try in a second terminal:\n" + "\n".join(f"  {line}" for line in commands)
    watching = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "landline",
        "watch",
        "--footer",
        footer,
        env={**os.environ, "LANDLINE_SERVER": url},
    )
    try:
        await watching.wait()
    finally:
        if watching.returncode is None:
            watching.terminate()
            await watching.wait()


# serve


async def _serve(
    data: Path | None,
    listen: str,
    announce: str | None,
    http: tuple[str, int] | None,
    unix_path: Path | None,
) -> int:
    import asyncio
    import signal

    from landline.fleet.control.serve import ControlServerOptions, run_control_server
    from landline.fleet.paths import control_socket, data_directory

    listen_endpoint(listen, "serve")
    directory = data or data_directory() / "control"
    plan = ControlServerOptions(
        data=directory,
        listen=listen,
        announce=announce,
        socket=unix_path or control_socket(),
        http=http,
    )
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with run_control_server(plan) as running:
        sys.stdout.write(
            f"Agents connect to {running.agents} with the token in {directory / 'agents.token'}:\n"
            f"    landline agent --server {_for_agents(running.agents)} --token-file {directory / 'agents.token'}\n"
            + _announced_hint(announce, running.agents)
            + f"Operators use unix://{plan.socket}"
        )
        if running.http is not None:
            host, port = running.http
            sys.stdout.write(f" or http://{host}:{port} with the token in {directory / 'operators.token'}")
        sys.stdout.write(".\nCtrl-C stops it.\n")
        sys.stdout.flush()
        await stopping.wait()
        sys.stdout.write("Saying goodbye to the agents ...\n")
    return ALL_DONE


def _for_agents(listening: landline.Endpoint) -> str:
    """What other machines connect to: every address of this one stands for none of them."""
    import socket

    import msgspec

    if listening.host in {"0.0.0.0", "::"}:  # noqa: S104 - it is compared
        return str(msgspec.structs.replace(listening, host=socket.gethostname()))
    return str(listening)


def _announced_hint(name: str | None, agents: landline.Endpoint) -> str:
    if name is None:
        return ""
    import landline

    url = landline.DiscoveredServer(name.lower(), "", (agents,)).url
    return f"On this network --server {url} finds it too.\n"


# agent


async def _agent(
    urls: list[str],
    token: str,
    name: str | None,
    power: str,
    config: str | None,
    prompt: str,
    data: str | None,
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

    directory = data_directory() / "agent" if data is None else _path("--data", data)
    switch = _power(power, config)
    journal = Journal.open(directory / "journal.jsonl")
    try:
        try:
            identity = machine_id(directory / "machine-id")
        except ValueError as error:
            raise CommandFailed(
                f"{directory / 'machine-id'} holds no machine id; remove it to get a new one.", 1
            ) from error
        boot_id, boot_record = find_boot(directory / "boot.json")
        running = Agent(
            urls=urls,
            auth=landline.SharedToken(token),
            machine_id=identity,
            facts=machine_facts(name, power=power, version=landline.__version__, boot_id=boot_id),
            power=switch,
            prompt=_prompt(prompt),
            no_prompt="it was started with --prompt none" if prompt == "none" else unavailable_reason() or "",
            notices=send_notices,
            journal=journal,
            boot_record=boot_record,
            on_state=_say_state,
        )
        if power == "simulated":
            from landline.fleet.agent.power.simulated import SimulatedPower

            if isinstance(switch, SimulatedPower):
                switch.terminate = running.stop
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, running.stop)
        goodbye = await running.run()
    finally:
        journal.close()
    sys.stdout.write(f"Said goodbye: {goodbye.cause.value}.\n")
    return ALL_DONE


def _say_state(line: Any, change: Any) -> None:
    """The agent's working state, for the person who looks at it (M2)."""
    text = f"{change.state.value}: {change.detail}" if change.detail else change.state.value
    if change.due_in_s is not None:
        text += f"; attempt {change.attempt} in {change.due_in_s:.1f} s"
    # A server says why it ends a line.
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def _power(kind: str, config: str | None) -> PowerBackend:
    if config is not None and kind != "command":
        raise WrongUse("--config holds commands, which only --power command uses.")
    if kind == "logind":
        from landline.fleet.agent.power.logind import LogindPower

        return LogindPower()
    if kind == "command":
        from landline.fleet.agent.power.command import CommandPower, default_commands

        if config is None:
            return CommandPower(default_commands(sys.platform))
        return CommandPower(_commands(_path("--config", config)))
    if kind == "simulated":
        from landline.fleet.agent.power.simulated import SimulatedPower

        return SimulatedPower()
    from landline.fleet.agent.power.dry_run import DryRunPower

    return DryRunPower()


def _commands(path: Path) -> Mapping[Action, Sequence[str]]:
    """The ``[commands]`` table of a TOML file: action to argument list."""
    import msgspec

    from landline.fleet.model import Action

    # No class of its own: its annotations could not see what is imported here.
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


# shared


def _run(main: Coroutine[Any, Any, int], interrupted: int = ALL_DONE) -> int:
    """Runs a coroutine; what is expected to go wrong becomes one sentence and an exit status.

    ``interrupted`` is that of Ctrl-C.
    """
    import asyncio

    import landline

    try:
        return landline.run(main)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return interrupted
    except (landline.ConfigurationError, landline.MissingExtra) as error:
        raise WrongUse(sentence(str(error))) from error
    except OSError as error:
        raise CommandFailed(sentence(_system_error(error)), SOME_NOT_DONE) from error
    except Exception as error:
        if not isinstance(error, (landline.LandlineError, *_expected_errors())):
            raise
        raise CommandFailed(sentence(str(error)), SOME_NOT_DONE) from error


def _expected_errors() -> tuple[type[Exception], ...]:
    """Those of the modules that were loaded: an agent needs no database and no web server to fail."""
    return tuple(
        getattr(sys.modules[module], name) for module, name in _EXPECTED.items() if module in sys.modules
    )


def _system_error(error: OSError) -> str:
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{error.filename} cannot be used: {reason.lower()}"


def _path(option: str, text: str) -> Path:
    # Nothing is never the default: it is what a script's unset variable leaves.
    if not text.strip():
        raise WrongUse(f"{option} is empty; name a path, or leave the option out.")
    return Path(text)


def _whole_number(option: str, text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise WrongUse(f"{option} takes a whole number from {least} to {most}, not {text!r}.")
    return int(text)


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise WrongUse(f"--http takes HOST:PORT, such as 127.0.0.1:5464, not {text!r}.")
    return host.strip("[]"), int(port)


def _agents_token(token_file: str | None) -> str:
    token = read_token(token_file)
    if token is None:
        raise WrongUse(
            "An agent needs the token of its control server: give --token-file or set LANDLINE_TOKEN."
        )
    return token
