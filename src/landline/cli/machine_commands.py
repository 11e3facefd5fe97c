"""Commands that show machines and manage single ones: ``ls``, ``watch``, ``machines``."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Final

import click

from landline.cli.api_client import ApiClient
from landline.cli.formatting import MACHINE_HEADER, local_time, machine_count, machine_rows, problem_lines
from landline.cli.live_state import LiveState
from landline.cli.retry import AnswerLost
from landline.cli.shared_options import control_client, json_option, print_json, server_options
from landline.cli.tables import table_lines
from landline.cli.terminal_text import printable, wants_colour
from landline.cli.update_stream import Disconnected, live_updates

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
PARENT_CHECK_S: Final = 1.0
"""How often the view of a demo checks that the demo still runs."""


@click.command
@json_option
@server_options
def ls(as_json: bool, server: str | None, token_file: str | None) -> None:
    """List the machines with their presence and its cause.

    Also shows the person who is logged on, how a person can be asked, the address, the operating system, how long the
    presence has lasted, and the round-trip time.
    """
    api = control_client(server, token_file)
    now_at = api.status().now_at
    machines = api.machines()
    if as_json:
        print_json({"now_at": now_at, "machines": machines})
        return
    lines = [machine_count(machines)]
    if machines:
        rows = [row for machine in machines for row in machine_rows(machine, now_at)]
        lines += table_lines(MACHINE_HEADER, rows, colours=wants_colour(sys.stdout))
        lines += problem_lines(machines)
    sys.stdout.write("\n".join(lines) + "\n")


@click.command
@server_options
@click.option("--footer", hidden=True, default="")
def watch(server: str | None, token_file: str | None, footer: str) -> None:
    """Show machines and open jobs live, until Ctrl-C.

    Without a terminal, print one line for every change.
    """
    api = control_client(server, token_file)
    for number in _STOP_SIGNALS:
        signal.signal(number, _stop_once)
    if footer:
        threading.Thread(target=_stop_after, args=(os.getppid(),), daemon=True).start()
    try:
        if sys.stdout.isatty():
            from landline.cli.live_view import show_live

            show_live(api, footer)
        else:
            _print_changes(api)
    except KeyboardInterrupt:
        return


@click.group(invoke_without_command=False)
def machines() -> None:
    """Manage single machines."""


@machines.command
@click.argument("name", metavar="NAME", help="The machine, as 'landline ls' names it.")
@json_option
@server_options
def resolve(name: str, as_json: bool, server: str | None, token_file: str | None) -> None:
    """Remove the mark 'cloned identity' of a machine, once only one machine with that identity is connected.

    First give every other machine its own identity: remove the file machine-id in its agent's --data directory, and
    start the agent again.
    """
    try:
        machine = control_client(server, token_file).resolve_machine(name)
    except AnswerLost:
        if as_json:
            print_json({"accepted": "unknown", "machine": name})
        raise
    if as_json:
        print_json(machine)
    else:
        sys.stdout.write(
            f"{printable(machine.name)} is the only machine with its identity; it gets jobs again.\n"
        )


def _stop_after(parent: int) -> None:
    """Stop watching when the demo that started this view is gone: a demo that was killed sends no signal."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    main = threading.main_thread().ident
    assert main is not None
    # To the thread that waits for updates, so that it wakes up.
    signal.pthread_kill(main, signal.SIGTERM)


def _stop_once(number: int, frame: FrameType | None) -> None:
    """Stop watching at the first signal, and ignore the next ones.

    A demo's Ctrl-C brings two, one from the terminal and one from the demo. The second must not interrupt the code
    that restores the terminal, nor end the program before it has run.
    """
    del number, frame
    for each in _STOP_SIGNALS:
        # A function, not SIG_IGN: Python reports a signal that has arrived already and has no handler.
        signal.signal(each, lambda *_: None)
    raise KeyboardInterrupt


def _print_changes(api: ApiClient) -> None:
    state, is_disconnected = LiveState(), False
    for update in live_updates(api):
        if isinstance(update, Disconnected):
            lines = [] if is_disconnected else [f"{update.sentence} Waiting for it."]
            is_disconnected, now_at = True, time.time()
        else:
            changes = state.apply(update)
            lines = ["The control server answers again."] if is_disconnected else []
            lines += changes
            is_disconnected, now_at = False, update.now_at
        for line in lines:
            sys.stdout.write(f"{local_time(now_at, now_at)} {line}\n")
        sys.stdout.flush()
