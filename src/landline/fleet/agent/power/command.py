"""The power back end that runs commands: those of the system, or those that the operator configured.

The tests run the default commands of Linux with a substitute for the program, as the machine of a test must stay on,
and parse the output of the real ``who``. The commands for Windows and macOS were written from ``shutdown /?``,
``logoff /?``, ``query user /?``, shutdown(8) and launchctl(1), and were not run.
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
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Final

from landline import guarded_logger, safe_text
from landline.fleet.agent.power import OutcomeUnknown, Permit, PowerError, SystemShutdown
from landline.fleet.agent.power.login_sessions import (
    LoginSession,
    sessions_from_query_user,
    sessions_from_who,
)
from landline.fleet.model import Action, Person

log: Final = guarded_logger(__name__)

TIME_LIMIT_S: Final = 30.0
"""Time-out of a command. The default commands only send a request to the system, which takes under a second."""

STATE_TIMEOUT_S: Final = 1.0
"""Time-out for asking whether the system is shutting down: the agent that asks is about to be killed."""

LOG_OFF_TIMEOUT_S: Final = 30.0
"""Time in which the sessions must end after the log off commands; desktops that ask to save files take longest."""

LOG_OFF_POLL_S: Final = 1.0
"""Interval at which persons are listed while their sessions end; each list starts a process."""

OUTPUT_BYTES_MAX: Final = 64 * 1024
"""Bytes read from the end of a command's output: enough for over a thousand logged-on persons."""

REASON_CHARACTERS_MAX: Final = 512
"""The limit of Windows' ``shutdown /c``."""

_TARGETS: Final = {
    "poweroff.target": Action.SHUT_DOWN,
    "halt.target": Action.SHUT_DOWN,
    "reboot.target": Action.RESTART,
    "kexec.target": Action.RESTART,
    "soft-reboot.target": Action.RESTART,
}
"""The targets that systemd starts for a shutdown."""

OPTION_PREFIXES: Final = ("-", "/")
"""The first characters of a program's options, on any system."""

_PLACEHOLDER: Final = re.compile(r"\{(reason|person|session)\}")


def default_commands(platform: str) -> dict[Action, tuple[str, ...]]:
    """Return the commands of ``platform`` (as in :data:`sys.platform`); none for an unknown one.

    Linux: shutdown(8), loginctl(1). Windows: ``shutdown``, ``logoff``. macOS: shutdown(8), and ``launchctl
    bootout`` of the person's domain, which ends all their programs without asking. All need administrator
    rights.
    """
    match platform:
        case "linux":
            return {
                Action.LOG_OFF: ("loginctl", "terminate-user", "{person}"),
                Action.RESTART: ("shutdown", "-r", "now"),
                Action.SHUT_DOWN: ("shutdown", "-h", "now"),
            }
        case "win32":
            return {
                Action.LOG_OFF: ("logoff", "{session}"),
                Action.RESTART: ("shutdown", "/r", "/t", "0", "/c", "{reason}"),
                Action.SHUT_DOWN: ("shutdown", "/s", "/t", "0", "/c", "{reason}"),
            }
        case "darwin":
            return {
                Action.LOG_OFF: ("launchctl", "bootout", "user/{session}"),
                Action.RESTART: ("shutdown", "-r", "now"),
                Action.SHUT_DOWN: ("shutdown", "-h", "now"),
            }
        case _:
            return {}


def default_persons_command(platform: str) -> tuple[str, ...]:
    """Return the command that lists who is logged on: ``query user`` on Windows, who(1) elsewhere."""
    return ("query", "user") if platform == "win32" else ("who",)


def default_state_command(platform: str) -> tuple[str, ...] | None:
    """Return the command that lists the jobs of systemd; ``None`` if systemd does not run (sd_booted(3))."""
    if platform == "linux" and os.path.isdir("/run/systemd/system"):
        return ("systemctl", "list-jobs", "--no-legend", "--plain")
    return None


class CommandPower:
    """Runs one command for each action: a list of arguments, never a shell.

    In each argument ``{reason}`` is replaced by the operator's message, ``{person}`` by an account name and
    ``{session}`` by the system's identifier of that person's session: a terminal on Linux, a session number on Windows,
    the user id on macOS. A command with ``{person}`` or ``{session}`` runs once for each logged-on person.
    """

    name = "command"

    def __init__(
        self,
        commands: Mapping[Action, Sequence[str]],
        *,
        persons_command: Sequence[str] | None = None,
        platform: str = sys.platform,
        time_limit_s: float = TIME_LIMIT_S,
        state_command: Sequence[str] | None = None,
        log_off_timeout_s: float = LOG_OFF_TIMEOUT_S,
    ) -> None:
        self._commands = {action: tuple(command) for action, command in commands.items()}
        self._persons_command = tuple(persons_command or default_persons_command(platform))
        self._platform = platform
        self._time_limit_s = time_limit_s
        self._log_off_timeout_s = log_off_timeout_s
        self._state_command = tuple(state_command) if state_command else default_state_command(platform)

    async def open(self) -> None:
        """Do nothing: a program is looked up when it is run."""

    async def close(self) -> None:
        """Do nothing: no command outlives its call."""

    async def persons(self) -> tuple[Person, ...]:
        """Return who is logged on now. Raise :class:`PowerError` if the list is not available."""
        return tuple(entry.person for entry in await self._logged_on())

    async def unsupported_reason(self, action: Action) -> str | None:
        """Return why ``action`` cannot be done: it has no command, or the program is not installed."""
        command = self._commands.get(action)
        if not command:
            return f"No command is set for {action.value} on this machine."
        if shutil.which(command[0]) is None:
            return f"The program {command[0]} for {action.value} is not on this machine."
        return None

    async def act(self, action: Action, *, reason: str, permit: Permit) -> None:
        """Run the command of ``action`` and return when it succeeded; after a log off, when the sessions have ended.

        The permit is checked directly before each start of a command; the command itself is limited only by its
        time-out. If several persons are logged off, a failure for one does not stop the others. The exit status 0 of a
        log off command proves nothing, as it may only have sent a request: so the persons are listed until their
        sessions have ended. Cancelling kills the command; its effect may have happened.

        :raises PowerError: if the command failed, with the last line that it wrote to standard error; or if sessions
            have not ended after ``log_off_timeout_s``, with their persons.
        :raises OutcomeUnknown: if a restart or shutdown was ended by a signal (a system that shuts down ends it with
            all other processes) or by its time-out; or if it is not known whether sessions have ended.
        """
        refusal = await self.unsupported_reason(action)
        if refusal is not None:
            raise PowerError(refusal)
        command = self._commands[action]
        failures: list[PowerError] = []
        logged_on: tuple[LoginSession, ...] | None = ()
        if is_per_person(command):
            logged_on = await self._logged_on()
        elif action is Action.LOG_OFF:
            logged_on = await self._logged_on_if_known()
        for argv in argv_for(command, reason, logged_on or ()):
            try:
                await self._run_well(argv, permit)
            except PowerError as error:
                failures.append(error)
        if failures:
            sentence = " ".join(str(failure) for failure in failures)
            if action is not Action.LOG_OFF and any(isinstance(each, OutcomeUnknown) for each in failures):
                raise OutcomeUnknown(sentence)
            raise PowerError(sentence)
        if action is Action.LOG_OFF:
            await self._wait_logged_off(logged_on)

    async def wait_for_shutdown(self) -> SystemShutdown:
        """Never return, as commands announce nothing; ends by being cancelled."""
        await asyncio.Event().wait()
        raise AssertionError("nothing sets this event")

    async def release_shutdown(self) -> None:
        """Do nothing: no shutdown is delayed."""

    async def wait_for_cancellation(self) -> None:
        """Never return, as commands announce nothing."""
        await asyncio.Event().wait()

    async def pending_shutdown(self) -> SystemShutdown | None:
        """Return the shutdown that systemd has begun. Raise :class:`PowerError` without an answer of systemd."""
        if self._state_command is None:
            raise PowerError("This system does not tell whether it is shutting down.")
        output = await self._run_well(self._state_command, time_limit_s=STATE_TIMEOUT_S)
        return shutdown_from_jobs(output)

    async def _logged_on_if_known(self) -> tuple[LoginSession, ...] | None:
        try:
            return await self._logged_on()
        except PowerError as error:
            log.warning("The persons to log off cannot be listed: %s", error)
            return None

    async def _wait_logged_off(self, before: Iterable[LoginSession] | None) -> None:
        """Return when none of the sessions ``before`` is left; if that is ``None`` (not known), when no session is.

        Raise as :meth:`act`. A list that fails is requested again, as that may happen while sessions end.
        """
        problem: PowerError | None
        left: list[LoginSession]
        targets = None if before is None else {_session_key(entry) for entry in before}
        if targets is not None and not targets:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + self._log_off_timeout_s
        while True:
            # The list is the evidence, so it is not interrupted. The time-out of commands limits it.
            problem, left = None, []
            try:
                entries = await self._logged_on()
            except PowerError as error:
                problem = error
            else:
                left = [each for each in entries if targets is None or _session_key(each) in targets]
                if not left:
                    return
            left_s = until - loop.time()
            if left_s <= 0:
                break
            await asyncio.sleep(min(left_s, LOG_OFF_POLL_S))
        if problem is not None:
            raise OutcomeUnknown(
                f"It is not known whether the persons are logged off: {problem}"
            ) from problem
        if targets is None:
            raise OutcomeUnknown(f"{still_on(left)} It is not known who was logged on before.")
        raise PowerError(still_on(left))

    async def _logged_on(self) -> tuple[LoginSession, ...]:
        if self._platform == "win32":
            status, output, errors = await self._run(self._persons_command)
            entries = sessions_from_query_user(output)
            # `query user` ends with 1 both after a list and if no person is logged on. Its first line is a heading.
            if not entries:
                _check_lists_no_person(self._persons_command, output.splitlines()[1:])
            if status not in (0, 1) or (not entries and last_line(errors) and "No User exists" not in errors):
                raise PowerError(failure_sentence(self._persons_command, status, errors))
            return entries
        output = await self._run_well(self._persons_command)
        entries = sessions_from_who(output, self._platform)
        if not entries:
            is_mac = self._platform == "darwin"
            others = [line for line in output.splitlines() if not (is_mac and line.startswith("_"))]
            _check_lists_no_person(self._persons_command, others)
        return entries

    async def _run_well(
        self, argv: Sequence[str], permit: Permit | None = None, *, time_limit_s: float | None = None
    ) -> str:
        status, output, errors = await self._run(argv, permit, time_limit_s=time_limit_s)
        if status < 0:
            raise OutcomeUnknown(failure_sentence(argv, status, errors))
        if status != 0:
            raise PowerError(failure_sentence(argv, status, errors))
        return output

    async def _run(
        self, argv: Sequence[str], permit: Permit | None = None, *, time_limit_s: float | None = None
    ) -> tuple[int, str, str]:
        time_limit_s = self._time_limit_s if time_limit_s is None else time_limit_s
        # Files, not pipes: a daemon that the command starts would keep a pipe open.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            if permit is not None:
                permit.check()
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    # The output is parsed, so its language and date format must be fixed.
                    env={**os.environ, "LC_ALL": "C"},
                    start_new_session=sys.platform != "win32",
                )
            except OSError as error:
                raise PowerError(f"{argv[0]} cannot be run: {error.strerror or error}.") from error
            try:
                async with asyncio.timeout(time_limit_s):
                    status = await process.wait()
            except TimeoutError as error:
                raise OutcomeUnknown(
                    f"{argv[0]} was stopped because it took longer than {time_limit_s:g} s."
                ) from error
            finally:
                if process.returncode is None:
                    _kill_group(process)
                    await process.wait()
            return status, _read_end(output), _read_end(errors)


def still_on(left: Iterable[LoginSession]) -> str:
    """Return a sentence that names who is still logged on."""
    names = (f"{each.person.name} ({each.person.seat or f'session {each.session}'})" for each in left)
    return f"Still logged on: {', '.join(names)}."


def _session_key(entry: LoginSession) -> tuple[str, str, float | None]:
    """Return what identifies a session: on Windows, a session that is disconnected loses its seat."""
    return entry.person.name, entry.session, entry.person.since_at


def _check_lists_no_person(argv: Sequence[str], lines: Iterable[str]) -> None:
    """Raise :class:`PowerError` for any text in ``lines``: an unknown format does not mean an empty list."""
    line = last_line("\n".join(lines))
    if line:
        raise PowerError(f"{argv[0]} printed its list of persons in an unknown format: {line[:100]}.")


def is_per_person(command: Sequence[str]) -> bool:
    """Return whether ``command`` runs once for each person."""
    return any("{person}" in argument or "{session}" in argument for argument in command)


def argv_for(command: Sequence[str], reason: str, logged_on: Iterable[LoginSession]) -> list[tuple[str, ...]]:
    """Return the argument lists to run, without duplicates: one, or one for each person if ``command`` names them.

    Inserted values are not expanded again, so a reason may contain ``{person}``. A reason that the command would take
    for an option gets a space in front. Raise :class:`PowerError` for a person or session that it would take for one.
    """
    reason = safe_text(reason, REASON_CHARACTERS_MAX)
    if not is_per_person(command):
        return [_substituted(command, {"reason": reason})]
    argvs = []
    for entry in logged_on:
        values = {"reason": reason, "person": entry.person.name, "session": entry.session}
        for value in (entry.person.name, entry.session):
            if value.startswith(OPTION_PREFIXES):
                raise PowerError(f"{value!r} cannot be passed to {command[0]}: it looks like an option.")
        argvs.append(_substituted(command, values))
    return list(dict.fromkeys(argvs))


def shutdown_from_jobs(text: str) -> SystemShutdown | None:
    """Return the shutdown that the output of ``systemctl list-jobs`` shows: the start of one of its targets."""
    for line in text.splitlines():
        match line.split():
            case [_, unit, "start", *_] if unit in _TARGETS:
                return SystemShutdown(_TARGETS[unit])
    return None


def failure_sentence(argv: Sequence[str], status: int, errors: str) -> str:
    """Return a sentence with the command that failed and the last line that it wrote to standard error."""
    if status < 0:
        how = f"{argv[0]} was ended by {signal.Signals(-status).name}"
    else:
        how = f"{argv[0]} failed with status {status}"
    line = last_line(errors)
    return f"{how}: {line.rstrip('.')}." if line else f"{how}."


def last_line(text: str) -> str:
    """Return the last line of ``text`` that is not blank, or an empty string."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _substituted(command: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(_filled(argument, values) for argument in command)


def _filled(argument: str, values: Mapping[str, str]) -> str:
    filled = _PLACEHOLDER.sub(lambda match: values[match[1]], argument)
    # Only for an argument that begins with the operator's text. "--" in front of it would help only with programs that
    # know it, and not on Windows.
    return f" {filled}" if filled.startswith(OPTION_PREFIXES) and _PLACEHOLDER.match(argument) else filled


def _kill_group(process: asyncio.subprocess.Process) -> None:
    # The process may have ended just now.
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _read_end(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - OUTPUT_BYTES_MAX))
    # Console programs of Windows use the code page of the console, not of the desktop.
    return file.read().decode("oem" if sys.platform == "win32" else "utf-8", errors="replace")
