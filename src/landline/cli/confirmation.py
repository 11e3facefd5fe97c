"""Asking before acting on machines."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from landline.cli.exit_codes import INTERRUPTED, SOME_NOT_DONE, CommandFailed
from landline.cli.formatting import PRESENCE_COLOUR, counted, listed, persons_cell
from landline.cli.tables import Cell, table_lines
from landline.cli.terminal_text import Colour, printable, wants_colour
from landline.fleet.api import Target
from landline.fleet.model import Action, PresenceState, Unasked

PLAIN_QUESTION_MACHINES_MAX: Final = 3
"""More machines than this are confirmed by typing their number: a reflex must not be enough."""

_VERB: Final = {
    Action.LOG_OFF: "log off",
    Action.RESTART: "restart",
    Action.SHUT_DOWN: "shut down",
    Action.WAKE: "wake",
}


class Question(NamedTuple):
    """What is asked, and the answers that mean yes."""

    text: str
    yes: frozenset[str]


def question(action: Action, machines: int) -> Question:
    """What to ask before ``action`` on so many machines."""
    verb = _VERB[action]
    if machines <= PLAIN_QUESTION_MACHINES_MAX:
        these = "this machine" if machines == 1 else f"these {machines} machines"
        return Question(f"{verb.capitalize()} {these}? [y/N] ", frozenset({"y", "yes"}))
    return Question(
        f"{verb.capitalize()} these {machines} machines? Type their number to go on: ",
        frozenset({str(machines)}),
    )


def cannot_ask_line(action: Action, machines: Sequence[Target], unasked: Unasked) -> str:
    """Which machines cannot ask a person who is on, or may be, and what they do then; empty when there are none."""
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


def ask_to_go_on(action: Action, machines: Sequence[Target], unasked: Unasked = Unasked.WAIT) -> None:
    """Shows the machines on standard error and asks on the terminal.

    Returns when the answer is yes; raises :class:`CommandFailed` otherwise.
    """
    asked = question(action, len(machines))
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
        sys.stderr.write("\n".join(table) + "\n" + asked.text)
        sys.stderr.flush()
        answer = _read_line()
    except KeyboardInterrupt:
        raise CommandFailed("\nNothing was sent.", INTERRUPTED) from None
    if answer.strip().lower() not in asked.yes:
        number = counted(len(machines), "machine")
        raise CommandFailed(f"Not confirmed; nothing was sent to the {number}.", SOME_NOT_DONE)


def _read_line() -> str:
    """A line from the terminal.

    A Ctrl-C in the instant before ``readline`` waits would be noticed only with the next key: the handler has run,
    and nothing ends the wait. It leaves a byte in the wake-up pipe (``signal.set_wakeup_fd``), which does.
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
