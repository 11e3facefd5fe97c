"""Ask for confirmation before a job is sent."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from landline.cli.exit_codes import INTERRUPTED, SOME_NOT_DONE, CommandFailed
from landline.cli.formatting import ACTION_VERB, PRESENCE_COLOUR, counted, listed, persons_cell
from landline.cli.tables import Cell, table_lines
from landline.cli.terminal_text import Colour, printable, wants_colour
from landline.fleet.api import Target
from landline.fleet.model import Action, PresenceState, Unasked

SIMPLE_PROMPT_MACHINES_MAX: Final = 3
"""More machines than this are confirmed by typing their number, so that pressing a key by habit is not enough."""


class ConfirmationPrompt(NamedTuple):
    """The question, and the answers that mean yes."""

    text: str
    yes: frozenset[str]


def confirmation_prompt(action: Action, machines: int) -> ConfirmationPrompt:
    """Return the question before ``action`` on this number of machines."""
    verb = ACTION_VERB[action].capitalize()
    if machines <= SIMPLE_PROMPT_MACHINES_MAX:
        these = "this machine" if machines == 1 else f"these {machines} machines"
        return ConfirmationPrompt(f"{verb} {these}? [y/N] ", frozenset({"y", "yes"}))
    return ConfirmationPrompt(
        f"{verb} these {machines} machines? Type their number to confirm: ",
        frozenset({str(machines)}),
    )


def cannot_ask_line(action: Action, machines: Sequence[Target], unasked: Unasked) -> str:
    """Return which machines cannot ask a person who is, or may be, logged on, and what they do then; empty if none."""
    names = [
        target.name
        for target in machines
        if target.presence is not PresenceState.OFFLINE
        and not target.asks_by
        and (target.persons or not target.knows_persons)
    ]
    if not names or action is Action.WAKE:
        return ""
    one = len(names) == 1
    then = {
        Unasked.WAIT: "it waits" if one else "they wait",
        Unasked.REFUSE: "it refuses" if one else "they refuse",
        Unasked.ACT: ("it acts" if one else "they act") + " after the countdown without an answer",
    }[unasked]
    return printable(
        f"{len(names)} of {counted(len(machines), 'machine')} cannot ask the person: {listed(names)}; "
        f"with --unasked {unasked} {then}."
    )


def confirm(action: Action, machines: Sequence[Target], unasked: Unasked = Unasked.WAIT) -> None:
    """Show the machines on standard error, and ask on the terminal. Return when the answer is yes.

    :raises CommandFailed: for any other answer, and for Ctrl-C; nothing was sent.
    """
    prompt = confirmation_prompt(action, len(machines))
    rows = [
        (
            Cell(target.name, Colour.STRONG),
            Cell(str(target.presence), PRESENCE_COLOUR[target.presence]),
            persons_cell(target.persons, target.knows_persons, target.presence),
        )
        for target in machines
    ]
    table = table_lines(("MACHINE", "PRESENCE", "PERSON"), rows, colours=wants_colour(sys.stderr))
    if line := cannot_ask_line(action, machines, unasked):
        table.append(line)
    try:
        sys.stderr.write("\n".join(table) + "\n" + prompt.text)
        sys.stderr.flush()
        answer = _read_line()
    except KeyboardInterrupt:
        raise CommandFailed("\nNothing was sent.", INTERRUPTED) from None
    if answer.strip().lower() not in prompt.yes:
        number = counted(len(machines), "machine")
        raise CommandFailed(f"Not confirmed; nothing was sent to the {number}.", SOME_NOT_DONE)


def _read_line() -> str:
    """Return a line from the terminal.

    Python would notice a Ctrl-C that comes just before ``readline`` waits only at the next key: its handler has run by
    then, and nothing ends the wait. So wait for the wake-up pipe (``signal.set_wakeup_fd``) too.
    """
    if sys.platform == "win32":
        return sys.stdin.readline()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer)
    try:
        select.select([sys.stdin, reader], [], [])
        return sys.stdin.readline()
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
