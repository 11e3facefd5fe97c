"""Commands that look at machines: ``ls`` and ``watch``."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Annotated, Final

import typer

from landline.cli import options
from landline.cli.ages import moment
from landline.cli.api_client import ApiClient
from landline.cli.formatting import MACHINE_HEADER, machine_count, machine_rows, problem_lines
from landline.cli.lazy_groups import Group
from landline.cli.live_state import Board
from landline.cli.retry import OutcomeUnknown
from landline.cli.tables import table_lines
from landline.cli.terminal_text import printable, wants_colour
from landline.cli.update_stream import Gone, live_updates

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM)
PARENT_LOOK_S: Final = 1.0
"""How often the view of a demo looks whether the demo is still there."""


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    app.command("ls")(ls)
    app.command("watch")(watch)
    group = typer.Typer(
        name="machines",
        cls=Group,
        help="Decide on single machines.",
        rich_markup_mode=None,
        add_completion=False,
        no_args_is_help=True,
    )
    group.callback()(_machines)
    group.command("resolve")(resolve)
    app.add_typer(group)


def ls(
    server: options.Server = None, token_file: options.TokenFile = None, json: options.Json = False
) -> None:
    """Show the machines: presence and its cause, person, how they can be asked, address, OS, since when, round trip."""
    api = options.client(server, token_file)
    now_at = api.status().now_at
    machines = api.machines()
    if json:
        options.print_json({"now_at": now_at, "machines": machines})
        return
    lines = [machine_count(machines)]
    if machines:
        rows = [row for machine in machines for row in machine_rows(machine, now_at)]
        lines += table_lines(MACHINE_HEADER, rows, colours=wants_colour(sys.stdout))
        lines += problem_lines(machines)
    sys.stdout.write("\n".join(lines) + "\n")


def _machines() -> None:
    """Decide on single machines."""


def resolve(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The machine, as 'landline ls' names it.")],
    server: options.Server = None,
    token_file: options.TokenFile = None,
    json: options.Json = False,
) -> None:
    """End the mark 'cloned identity' of a machine, once only one machine with that identity is connected.

    Before that, give every other one an identity of its own: remove the file machine-id in its agent's --data
    directory, and start the agent again.
    """
    try:
        machine = options.client(server, token_file).resolve_machine(name)
    except OutcomeUnknown:
        if json:
            options.print_json({"accepted": "unknown", "machine": name})
        raise
    if json:
        options.print_json(machine)
    else:
        sys.stdout.write(f"{printable(machine.name)} has its identity for itself; it gets jobs again.\n")


def watch(
    server: options.Server = None,
    token_file: options.TokenFile = None,
    footer: Annotated[str, typer.Option("--footer", hidden=True)] = "",
) -> None:
    """Show machines and open jobs live, until Ctrl-C. Without a terminal: a line for every change."""
    api = options.client(server, token_file)
    for number in _STOPPING:
        signal.signal(number, _stop_once)
    if footer:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        if sys.stdout.isatty():
            from landline.cli.live_view import show_live

            show_live(api, footer)
        else:
            _print_changes(api)
    except KeyboardInterrupt:
        return


def _end_with(parent: int) -> None:
    """End the watching when the demo that shows it is gone: one that was killed cannot say so."""
    while os.getppid() == parent:
        time.sleep(PARENT_LOOK_S)
    main = threading.main_thread().ident
    assert main is not None
    # To the thread that waits for updates, so that it wakes up.
    signal.pthread_kill(main, signal.SIGTERM)


def _stop_once(number: int, frame: FrameType | None) -> None:
    """Ends the watching with the first signal.

    A demo's Ctrl-C brings two, one from the terminal and one from the demo: the second one must not interrupt what
    gives the terminal back, nor end the program before it does.
    """
    del number, frame
    for each in _STOPPING:
        # A function, not SIG_IGN: of one that has arrived already Python would complain that nobody takes it.
        signal.signal(each, lambda *_: None)
    raise KeyboardInterrupt


def _print_changes(api: ApiClient) -> None:
    board, is_gone = Board(), False
    for update in live_updates(api):
        if isinstance(update, Gone):
            lines = [] if is_gone else [f"{update.sentence} Waiting for it."]
            is_gone, now_at = True, time.time()
        else:
            lines = ["The control server answers again."] if is_gone else []
            lines += board.apply(update)
            is_gone, now_at = False, update.now_at
        for line in lines:
            sys.stdout.write(f"{moment(now_at, now_at)} {line}\n")
        sys.stdout.flush()
