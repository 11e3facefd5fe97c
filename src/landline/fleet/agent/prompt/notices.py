"""Sends notices to persons who cannot be asked: by wall(1), on their terminals, as desktop notifications.

On Linux only. A notice takes no answer. The ways run at the same time, each for at most :data:`WAY_LIMIT_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Final

import msgspec

from landline import guarded_logger
from landline.fleet.agent.prompt import Notice
from landline.fleet.agent.prompt.prompt_texts import notice_body, notice_title, plain
from landline.fleet.model import Person

WAY_LIMIT_S: Final = 10.0
"""Time-out of one way. wall needs milliseconds; a desktop that starts its notification service needs seconds."""

PERSONS_MAX: Final = 32
"""Persons who get a desktop notification: each costs a process. wall reaches the others."""

ERRORS_BYTES_MAX: Final = 4096
"""Bytes read from the end of a program's standard error, for its last line."""

WALL: Final = ("wall",)

WALL_TO_UNKNOWN: Final = "wall (it is not known to whom)"
"""The way that is reported if wall ran and it is not known who is logged on."""

# -P: a module called "dbus_fast" in the directory the agent happens to run in must not be imported.
NOTIFICATION_COMMAND: Final = (
    sys.executable,
    "-P",
    "-m",
    "landline.fleet.agent.prompt.desktop_notification",
)

# A terminal as logind and who(1) name it. No other file is opened: the name comes from outside.
_TERMINAL: Final = re.compile(r"(?:tty|pts/|ttyS|ttyUSB|ttyAMA)[0-9]{1,6}")

log: Final = guarded_logger(__name__)


class NotificationTask(msgspec.Struct, frozen=True):
    """The input of the program that shows one notification: the account, the message bus, and the text."""

    uid: int
    gid: int
    address: str
    summary: str
    body: str


class _WayFailed(Exception):
    """One way failed; the text is the reason."""


async def send_notices(
    notice: Notice,
    persons: Sequence[Person],
    *,
    wall: Sequence[str] = WALL,
    runtime_directory: str = "/run/user",
    limit_s: float = WAY_LIMIT_S,
) -> tuple[str, ...]:
    """Send a notice to ``persons`` in all ways, and return the ways that worked.

    ``wall``: wall(1) ran, and one of ``persons`` is at a terminal. ``terminal pts/3``: written there directly, because
    wall is missing or failed. ``notification to anna``: the person's desktop accepted it. No ``persons`` means that it
    is not known who is logged on: then only wall is tried, and the result is :data:`WALL_TO_UNKNOWN`. A way that fails
    is logged at INFO with the reason and raises nothing. Takes little longer than ``limit_s``. Cancelling ends the
    child processes.

    :param wall: the command to run; the text goes to its standard input.
    :param runtime_directory: where each person's message bus is, as ``UID/bus``.
    :param limit_s: how long one way may take.
    """
    if not sys.platform.startswith("linux"):
        return ()
    notice = plain(notice)
    seats = [seat for seat in dict.fromkeys(person.seat for person in persons) if _TERMINAL.fullmatch(seat)]
    names = list(dict.fromkeys(person.name for person in persons if person.name))[:PERSONS_MAX]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_tell_terminals(notice, seats, wall, limit_s, is_known=bool(persons)))]
        tasks += [group.create_task(_notify(notice, name, runtime_directory, limit_s)) for name in names]
    return tuple(way for task in tasks for way in task.result())


def terminal_text(notice: Notice) -> str:
    """Return the text for terminals."""
    return f"*** {notice_title(notice)} ***\n\n{notice_body(notice)}\n"


async def _tell_terminals(
    notice: Notice, seats: Sequence[str], wall: Sequence[str], limit_s: float, *, is_known: bool
) -> tuple[str, ...]:
    text = terminal_text(notice)
    try:
        if shutil.which(wall[0]) is None:
            raise _WayFailed(f"{wall[0]} is not on this machine")
        # On standard input, text cannot be taken for an option or a file name. In a UTF-8 locale, wall writes
        # characters beyond ASCII unchanged.
        await _run(wall, text.encode(), {**os.environ, "LC_ALL": "C.UTF-8"}, limit_s)
    except _WayFailed as error:
        _log_failure("wall", error)
    else:
        if not is_known:
            return (WALL_TO_UNKNOWN,)
        return ("wall",) if seats else ()
    written = []
    for seat in seats:
        try:
            write_to_terminal(f"/dev/{seat}", f"\a\n{text}")
        except OSError as error:
            _log_failure(f"terminal {seat}", error.strerror or error)
        else:
            written.append(f"terminal {seat}")
    return tuple(written)


def write_to_terminal(path: str, text: str) -> None:
    """Write ``text`` to the terminal at ``path`` without waiting for it. Raises :class:`OSError`."""
    flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        if not os.isatty(descriptor):
            raise OSError(0, "it is not a terminal")
        data = text.replace("\n", "\r\n").encode()
        if os.write(descriptor, data) < len(data):
            raise OSError(0, "it takes no more text")
    finally:
        os.close(descriptor)


async def _notify(notice: Notice, name: str, runtime_directory: str, limit_s: float) -> tuple[str, ...]:
    way = f"notification to {name}"
    try:
        task = notification_task(notice, name, runtime_directory)
        # Not this environment: the program changes to the person's account.
        await _run(NOTIFICATION_COMMAND, msgspec.json.encode(task), {"PATH": os.defpath}, limit_s)
    except _WayFailed as error:
        _log_failure(way, error)
        return ()
    return (way,)


def notification_task(notice: Notice, name: str, runtime_directory: str) -> NotificationTask:
    """Return the task for a notification to the account ``name``."""
    import pwd  # Windows has no such module

    try:
        account = pwd.getpwnam(name)
    except (KeyError, ValueError) as error:
        raise _WayFailed("there is no such account") from error
    if os.geteuid() not in (0, account.pw_uid):
        raise _WayFailed("only root may notify other persons")
    socket = f"{runtime_directory}/{account.pw_uid}/bus"
    if not os.path.exists(socket):
        raise _WayFailed(f"{socket} is missing: there is no desktop session")
    return NotificationTask(
        uid=account.pw_uid,
        gid=account.pw_gid,
        address=f"unix:path={socket}",
        summary=notice_title(notice),
        body=notice_body(notice),
    )


async def _run(argv: Sequence[str], stdin: bytes, environ: Mapping[str, str], limit_s: float) -> None:
    """Run a program and the processes it starts; raise :class:`_WayFailed` unless it succeeds."""
    with tempfile.TemporaryFile() as words, tempfile.TemporaryFile() as errors:
        words.write(stdin)
        words.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=words,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environ,
                start_new_session=True,
            )
        except OSError as error:
            raise _WayFailed(f"{argv[0]} cannot be run: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(limit_s):
                status = await process.wait()
        except TimeoutError as error:
            raise _WayFailed(f"it took longer than {limit_s:g} s") from error
        finally:
            # The whole group, even after a good end: wall leaves a child for each terminal that is stopped
            # with Ctrl-S, for up to five minutes.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if status != 0:
            raise _WayFailed(_last_line(errors) or f"{argv[0]} ended with status {status}")


def _last_line(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - ERRORS_BYTES_MAX))
    lines = errors.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "").rstrip(".")


def _log_failure(way: str, reason: object) -> None:
    log.info("no %s: %s", way, reason)
