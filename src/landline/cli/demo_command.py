"""``demo``: a control server and simulated machines on this machine, and a live view of them."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Final

import click

from landline.cli.command_runner import needs_fleet, run_command
from landline.cli.exit_codes import ALL_DONE, INTERRUPTED, SOME_NOT_DONE, WrongUse
from landline.cli.log_output import quiet_logs
from landline.cli.parameter_types import WholeNumber
from landline.cli.shared_options import json_option

if TYPE_CHECKING:
    from landline.fleet.demo.demo import Demo

MACHINES_MAX: Final = 5000
SECONDS_MIN: Final = 3
SECONDS_MAX: Final = 86_400

SUGGESTED_COMMANDS: Final = (
    "landline ls",
    "landline watch",
    'landline restart sim-03 --message "Updates" --yes',
    "landline shutdown --all --in 5s --yes",
    "landline wake --all --yes",
    "landline logoff 'sim-0[1-4]'",
    "landline jobs",
)


@click.command
@click.option(
    "--machines",
    metavar="N",
    type=WholeNumber(1, MACHINES_MAX),
    default="8",
    show_default=True,
    help="How many machines to simulate.",
)
@click.option(
    "--seconds",
    metavar="S",
    type=WholeNumber(SECONDS_MIN, SECONDS_MAX),
    help="Run by itself for this time: issue jobs, cut connections, count messages; then print the figures and end.",
)
@json_option
def demo(machines: int, seconds: int | None, as_json: bool) -> int:
    """Run a control server and a simulated fleet on this machine.

    Other commands of the same user find it without options.
    """
    if as_json and seconds is None:
        raise WrongUse("--json prints the figures of a demo that ends; give --seconds too.")
    quiet_logs()
    # A demo that would have ended by itself has not finished its work.
    interrupted = ALL_DONE if seconds is None else INTERRUPTED
    return run_command(_demo(machines, seconds, as_json=as_json), interrupted=interrupted)


async def _demo(machines: int, seconds: int | None, *, as_json: bool) -> int:
    import asyncio
    import signal

    import msgspec

    with needs_fleet("demo"):
        from landline.fleet.demo.demo import demo as run_demo

    # SIGTERM stops it as Ctrl-C does: everything ends in order, and no figures are printed.
    main = asyncio.current_task()
    assert main is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    stream = sys.stderr if as_json else sys.stdout
    stream.write(f"Starting a control server and {machines} simulated machines ...\n")
    stream.flush()
    async with run_demo(machines, self_driven=seconds is not None) as running:
        await running.wait_online()
        if seconds is None:
            await _show_live(running)
            return ALL_DONE
        stream.write(f"{machines} machines online. Running by itself for {seconds} s ...\n")
        stream.flush()
        await running.drive(seconds, seed=1)
        result = msgspec.structs.replace(await running.finish(), seconds=float(seconds))
    if as_json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    else:
        for field in result.__struct_fields__:
            sys.stdout.write(f"{field.replace('_', ' '):<22} {getattr(result, field)}\n")
    return ALL_DONE if not result.messages_lost and not result.messages_duplicated else SOME_NOT_DONE


async def _show_live(demo: Demo) -> None:
    """Show the fleet live: this terminal runs ``landline watch``, with the suggested commands below."""
    import asyncio

    from landline.fleet.paths import control_socket

    # Name a machine that exists.
    commands = [line.replace("sim-03", f"sim-{min(3, demo.machines):02d}") for line in SUGGESTED_COMMANDS]
    url = f"unix://{demo.socket}"
    if demo.socket != control_socket():
        # Without the variable, commands would find the other server.
        commands.insert(0, f"export LANDLINE_SERVER={shlex.quote(url)}")
        sys.stdout.write(
            "\nCommands find another demo or control server of yours, which was started first. "
            "To reach this one, set LANDLINE_SERVER.\n"
        )
    sys.stdout.write(
        f"\n{demo.machines} machines are online.\n"
        f"The control server listens for agents on {demo.running.agents}\n"
        f"and for operators on {url}\n\n"
        "Try in a second terminal:\n"
        + "".join(f"    {line}\n" for line in commands)
        + "\nCtrl-C ends the demo.\n\n"
    )
    sys.stdout.flush()
    footer = "Try in a second terminal:\n" + "\n".join(f"  {line}" for line in commands)
    watch = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "landline",
        "watch",
        "--footer",
        footer,
        env={**os.environ, "LANDLINE_SERVER": url},
    )
    try:
        await watch.wait()
    finally:
        if watch.returncode is None:
            watch.terminate()
            await watch.wait()
