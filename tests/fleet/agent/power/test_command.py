from __future__ import annotations

import asyncio
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.fleet.agent.power.permits import Watch, permit

from landline.fleet.agent.power import OutcomeUnknown, Permit, PowerBackend, PowerError, SystemShutdown
from landline.fleet.agent.power import command as command_module
from landline.fleet.agent.power.command import (
    REASON_CHARACTERS_MAX,
    CommandPower,
    argv_for,
    default_commands,
    default_persons_command,
    default_state_command,
    failure_sentence,
    last_line,
    shutdown_from_jobs,
)
from landline.fleet.agent.power.login_sessions import (
    LoginSession,
    sessions_from_query_user,
    sessions_from_who,
)
from landline.fleet.model import Action, Person

WHO_LINUX = """\
anna     tty2         2024-05-01 10:00 (tty2)
anna     pts/0        2024-05-01 10:05 (:0)
bob      pts/1        2024-05-01 11:30 (192.168.1.5)
bob      pts/2        2024-05-01 11:31 (tmux(812).%0)
carla    pts/3        2024-05-01 11:32 (fe80::1%eth0)
long-account-name@example.org pts/4        2024-05-01 11:33
"""
WHO_MACOS = """\
_mbsetupuser console      Oct  2 08:00\x20
root     console      Oct  2 08:11\x20
root     ttys000      Oct 12 09:30\t(10.0.0.5)
"""
QUERY_USER = """\
 USERNAME              SESSIONNAME        ID  STATE   IDLE TIME  LOGON TIME
>anna bell             console             1  Active      none   10/2/2023 8:11 AM
 bob                                       2  Disc            5  10/2/2023 9:00 AM
 administrator-of-all  rdp-tcp#30         13  Active          .  10/2/2023 9:05 AM
"""
QUERY_USER_GERMAN = """\
 BENUTZERNAME          SITZUNGSNAME       ID  STATUS  LEERLAUF   ANMELDEZEIT
>jürgen                console             1  Aktiv       Kein   02.10.2023 08:11
"""

RECORD = "import sys, pathlib; pathlib.Path(sys.argv[1]).open('a').write(repr(sys.argv[2:]) + chr(10))"


SHOW_NEXT = """
import sys, pathlib
texts = sorted(pathlib.Path(sys.argv[1]).iterdir())
text = texts[0].read_text()
if len(texts) > 1:
    texts[0].unlink()
sys.exit(text) if text.startswith("error") else print(text, end="")
"""


def lists(directory: Path, *texts: str) -> tuple[str, ...]:
    """A command that lists persons: each of ``texts`` once, and the last from then on; ``error…`` fails."""
    directory.mkdir()
    for number, text in enumerate(texts):
        (directory / f"{number}").write_text(text)
    return python(SHOW_NEXT, str(directory))


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *arguments)


def at(hour: int, minute: int) -> float:
    return datetime(2024, 5, 1, hour, minute, tzinfo=UTC).timestamp()


def test_who_on_linux() -> None:
    assert [entry.person for entry in sessions_from_who(WHO_LINUX, "linux", UTC)] == [
        Person("anna", "tty2", False, at(10, 0)),
        Person("anna", "pts/0", False, at(10, 5)),
        Person("bob", "pts/1", True, at(11, 30)),
        Person("bob", "pts/2", False, at(11, 31)),
        Person("carla", "pts/3", True, at(11, 32)),
        Person("long-account-name@example.org", "pts/4", False, at(11, 33)),
    ]


def test_who_on_macos() -> None:
    assert sessions_from_who(WHO_MACOS, "darwin") == (
        LoginSession(Person("root", "console"), "0"),
        LoginSession(Person("root", "ttys000", True), "0"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "anna",
        "anna tty2",
        "anna tty2 yesterday",
        "         system boot  2024-05-01 09:00",
        "anna tty2 2024-99-99 10:00",
        "\x00\xff(((",
        "anna tty2 2024-05-01 10:00 (((",
    ],
)
def test_who_never_fails(text: str) -> None:
    for entry in sessions_from_who(text, "linux", UTC):
        assert entry.person.name == "anna"
        assert entry.person.since_at in (None, at(10, 0))


def test_who_cut_anywhere_never_fails() -> None:
    for end in range(len(WHO_LINUX)):
        sessions_from_who(WHO_LINUX[:end], "linux", UTC)


def test_query_user() -> None:
    assert sessions_from_query_user(QUERY_USER) == (
        LoginSession(Person("anna bell", "console"), "1"),
        LoginSession(Person("bob", ""), "2"),
        LoginSession(Person("administrator-of-all", "rdp-tcp#30", True), "13"),
    )
    assert sessions_from_query_user(QUERY_USER_GERMAN) == (LoginSession(Person("jürgen", "console"), "1"),)
    assert sessions_from_query_user("No User exists for *\n") == ()


def test_values_are_put_in_once_and_never_looked_at_again() -> None:
    command = ("stop", "{reason}", "--who={person}", "{other}")
    entry = LoginSession(Person("anna"), "tty2")
    assert argv_for(command, "because {person}", [entry]) == [
        ("stop", "because {person}", "--who=anna", "{other}")
    ]


def test_a_command_for_each_person_runs_once_for_each_of_them() -> None:
    entries = [LoginSession(Person("anna", "tty2"), "tty2"), LoginSession(Person("anna", "tty3"), "tty3")]
    assert argv_for(("end", "{person}"), "", entries) == [("end", "anna")]
    assert argv_for(("end", "{session}"), "", entries) == [("end", "tty2"), ("end", "tty3")]
    assert argv_for(("end", "{person}"), "", []) == []
    assert argv_for(("stop",), "", entries) == [("stop",)]


@pytest.mark.parametrize("name", ["--all", "/server:other"])
def test_a_name_that_reads_as_an_option_is_refused(name: str) -> None:
    with pytest.raises(PowerError, match="cannot be passed to end"):
        argv_for(("end", "{person}"), "", [LoginSession(Person(name), "1")])


@pytest.mark.parametrize("reason", ["-c", "--no-wall", "-", "--", "/a", "/r /t 0"])
def test_a_reason_is_never_an_option(reason: str) -> None:
    assert argv_for(("shutdown", "-r", "now", "{reason}"), reason, []) == [
        ("shutdown", "-r", "now", f" {reason}")
    ]
    # Also where it comes first because what is in front of it is empty.
    assert argv_for(("say", "{reason}{reason}"), reason, []) == [("say", f" {reason}{reason}")]
    # The command's own options stay what they are, and so does a reason that belongs to one.
    assert argv_for(("say", "-x", "--text={reason}"), reason, []) == [("say", "-x", f"--text={reason}")]


@pytest.mark.skipif(shutil.which("getopt") is None, reason="util-linux is not installed")
async def test_a_program_that_reads_options_as_gnu_does_takes_a_reason_as_text(tmp_path: Path) -> None:
    program = tmp_path / "shutdown"
    program.write_text(f'#!/bin/sh\ngetopt -o rc -- "$@" > {tmp_path}/read\n')
    program.chmod(0o755)
    power = CommandPower({Action.RESTART: (str(program), "-r", "now", "{reason}")})
    await power.act(Action.RESTART, reason="-c", permit=permit())
    assert (tmp_path / "read").read_text() == " -r -- 'now' ' -c'\n"


def test_the_reason_is_printable_and_short() -> None:
    ((_, reason),) = argv_for(("stop", "{reason}"), "a\nb\x1b[2J" + "x" * 2000, [])
    assert reason.startswith("a b\ufffd[2Jxxx")
    assert len(reason) == REASON_CHARACTERS_MAX


def test_defaults() -> None:
    for platform in ("linux", "win32", "darwin"):
        assert set(default_commands(platform)) == {Action.LOG_OFF, Action.RESTART, Action.SHUT_DOWN}
    assert default_commands("plan9") == {}
    assert default_commands("linux")[Action.RESTART] == ("shutdown", "-r", "now")
    assert default_persons_command("win32") == ("query", "user")
    assert default_persons_command("linux") == ("who",)


JOBS = """\
 1433 systemd-update-utmp-runlevel.service stop  running
 1394 {target}                             start waiting
 1402 ssh.service                          stop  running
"""


@pytest.mark.parametrize(
    ("target", "action"),
    [
        ("reboot.target", Action.RESTART),
        ("kexec.target", Action.RESTART),
        ("soft-reboot.target", Action.RESTART),
        ("poweroff.target", Action.SHUT_DOWN),
        ("halt.target", Action.SHUT_DOWN),
    ],
)
async def test_what_systemd_says_of_going_down(target: str, action: Action) -> None:
    assert shutdown_from_jobs(JOBS.format(target=target)) == SystemShutdown(action)
    power = CommandPower({}, state_command=python(f"print({JOBS.format(target=target)!r})"))
    assert await power.pending_shutdown() == SystemShutdown(action)


def test_a_system_that_stays_up() -> None:
    assert shutdown_from_jobs("No jobs running.\n") is None
    assert shutdown_from_jobs(JOBS.format(target="my-reboot.target")) is None
    assert shutdown_from_jobs("7 reboot.target stop waiting\n") is None
    assert shutdown_from_jobs("") is None


async def test_a_system_that_does_not_say_whether_it_goes_down() -> None:
    assert default_state_command("win32") is None
    assert default_state_command("darwin") is None
    with pytest.raises(PowerError, match="does not tell"):
        await CommandPower({}, platform="win32").pending_shutdown()
    power = CommandPower({}, state_command=python("raise SystemExit('Failed to connect to bus')"))
    with pytest.raises(PowerError, match="Failed to connect to bus"):
        await power.pending_shutdown()


async def test_a_leave_that_ended_while_the_persons_were_listed_is_not_used(tmp_path: Path) -> None:
    """It is looked at again before each command."""
    record = tmp_path / "record"
    watch = Watch()
    power = CommandPower(
        {Action.LOG_OFF: python(RECORD, str(record), "{person}")},
        persons_command=python(f"print({WHO_LINUX!r}, end='')"),
        platform="linux",
    )
    watch.now_s = 10.0
    with pytest.raises(PowerError, match="nothing was done"):
        await power.act(Action.LOG_OFF, reason="", permit=Permit(10.0, watch))
    assert not record.exists()
    assert watch.looks == 4


@pytest.mark.parametrize("action", [Action.RESTART, Action.SHUT_DOWN])
async def test_a_restart_whose_command_is_ended_by_a_signal_may_have_happened(action: Action) -> None:
    power = CommandPower({action: python("import os; os.kill(os.getpid(), 15)")})
    with pytest.raises(OutcomeUnknown, match=r"was ended by SIGTERM\.$"):
        await power.act(action, reason="", permit=permit())


async def test_a_log_off_whose_command_is_ended_by_a_signal_has_failed() -> None:
    power = CommandPower({Action.LOG_OFF: python("import os; os.kill(os.getpid(), 15)")})
    with pytest.raises(PowerError, match=r"was ended by SIGTERM\.$") as caught:
        await power.act(Action.LOG_OFF, reason="", permit=permit())
    assert not isinstance(caught.value, OutcomeUnknown)


def test_sentences() -> None:
    assert (
        failure_sentence(["stop"], 1, "first\nNot allowed.\n\n") == "stop failed with status 1: Not allowed."
    )
    assert failure_sentence(["stop"], 3, "") == "stop failed with status 3."
    assert failure_sentence(["stop"], -9, "") == "stop was ended by SIGKILL."
    assert last_line(" \n") == ""


async def test_the_command_gets_its_arguments_as_they_are(tmp_path: Path) -> None:
    record = tmp_path / "record"
    power: PowerBackend = CommandPower({Action.RESTART: python(RECORD, str(record), "{reason}")})
    await power.open()
    await power.act(Action.RESTART, reason='it\'s $(time) for "updates" & more', permit=permit())
    await power.close()
    assert record.read_text() == repr(['it\'s $(time) for "updates" & more']) + "\n"


async def test_each_person_is_logged_off_although_one_fails(tmp_path: Path) -> None:
    record = tmp_path / "record"
    code = RECORD + "; sys.exit('bob is busy' if 'bob' in sys.argv else 0)"
    power = CommandPower(
        {Action.LOG_OFF: python(code, str(record), "{person}")},
        persons_command=python(f"print({WHO_LINUX!r}, end='')"),
        platform="linux",
    )
    with pytest.raises(PowerError, match=r"failed with status 1: bob is busy\.$"):
        await power.act(Action.LOG_OFF, reason="", permit=permit())
    assert record.read_text().splitlines() == [
        "['anna']",
        "['bob']",
        "['carla']",
        "['long-account-name@example.org']",
    ]


async def test_windows_sessions_are_logged_off_by_number(tmp_path: Path) -> None:
    record = tmp_path / "record"
    power = CommandPower(
        {Action.LOG_OFF: python(RECORD, str(record), "{session}")},
        persons_command=lists(tmp_path / "persons", QUERY_USER, QUERY_USER, QUERY_USER.splitlines()[0]),
        platform="win32",
    )
    assert [person.name for person in await power.persons()] == ["anna bell", "bob", "administrator-of-all"]
    await power.act(Action.LOG_OFF, reason="", permit=permit())
    assert record.read_text().splitlines() == ["['1']", "['2']", "['13']"]


COMMANDS_FOR_LOG_OFF = pytest.mark.parametrize("command", [python("pass", "{person}"), python("pass")])
"""One for each person, and one for all: both end well at once, and the persons go later or never."""


@COMMANDS_FOR_LOG_OFF
async def test_a_log_off_returns_when_who_was_on_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(command_module, "LOG_OFF_POLL_S", 0.01)
    newcomer = "dora     tty5         2024-05-01 12:00 (tty5)\n"
    persons = lists(
        tmp_path / "persons", WHO_LINUX, WHO_LINUX, "error: busy", WHO_LINUX.splitlines()[0], newcomer
    )
    power = CommandPower({Action.LOG_OFF: command}, persons_command=persons, platform="linux")
    await power.act(Action.LOG_OFF, reason="", permit=permit())
    assert os.listdir(tmp_path / "persons") == ["4"]


@COMMANDS_FOR_LOG_OFF
async def test_a_log_off_fails_while_a_person_stays_logged_on(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The command ended well, and was taken for the end of the sessions."""
    left = "".join(line + "\n" for line in WHO_LINUX.splitlines() if line.startswith("bob"))
    power = CommandPower(
        {Action.LOG_OFF: command},
        persons_command=lists(tmp_path / "persons", WHO_LINUX, left),
        platform="linux",
        log_off_timeout_s=0.0,
    )
    with pytest.raises(PowerError, match=r"^Still logged on: bob \(pts/1\), bob \(pts/2\)\.$") as caught:
        await power.act(Action.LOG_OFF, reason="", permit=permit())
    assert not isinstance(caught.value, OutcomeUnknown)


async def test_who_is_on_in_a_disconnected_session_is_not_logged_off(tmp_path: Path) -> None:
    """It loses its seat, and keeps its number."""
    disconnected = """\
 USERNAME              SESSIONNAME        ID  STATE   IDLE TIME  LOGON TIME
 anna bell                                 1  Disc           1  10/2/2023 8:11 AM
"""
    power = CommandPower(
        {Action.LOG_OFF: python("pass", "{session}")},
        persons_command=lists(tmp_path / "persons", QUERY_USER, disconnected),
        platform="win32",
        log_off_timeout_s=0.0,
    )
    with pytest.raises(PowerError, match=r"^Still logged on: anna bell \(session 1\)\.$"):
        await power.act(Action.LOG_OFF, reason="", permit=permit())


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (
            (WHO_LINUX, "error: no list"),
            "It is not known whether the persons are logged off: .*error: no list",
        ),
        (("error: no list", WHO_LINUX), "Still logged on: anna .* It is not known who was logged on before"),
    ],
)
async def test_a_log_off_of_which_nobody_can_tell_is_unknown(
    tmp_path: Path, texts: tuple[str, ...], sentence: str
) -> None:
    power = CommandPower(
        {Action.LOG_OFF: python("pass")},
        persons_command=lists(tmp_path / "persons", *texts),
        platform="linux",
        log_off_timeout_s=0.0,
    )
    with pytest.raises(OutcomeUnknown, match=sentence):
        await power.act(Action.LOG_OFF, reason="", permit=permit())


async def test_a_log_off_is_done_when_nobody_is_on_although_nobody_knows_who_was(tmp_path: Path) -> None:
    power = CommandPower(
        {Action.LOG_OFF: python("pass")},
        persons_command=lists(tmp_path / "persons", "error: no list", ""),
        platform="linux",
    )
    await power.act(Action.LOG_OFF, reason="", permit=permit())


async def test_nobody_on_windows_is_no_failure_but_an_error_is() -> None:
    nobody = python("import sys; sys.exit('No User exists for *')")
    assert await CommandPower({}, persons_command=nobody, platform="win32").persons() == ()
    broken = python("import sys; sys.exit('Error 5 getting session names')")
    with pytest.raises(PowerError, match="Error 5 getting session names"):
        await CommandPower({}, persons_command=broken, platform="win32").persons()


async def test_a_failure_tells_the_last_line() -> None:
    code = "import sys; print('noise', file=sys.stderr); sys.exit('Call to Reboot failed: Access denied')"
    power = CommandPower({Action.SHUT_DOWN: python(code)})
    with pytest.raises(PowerError, match=r"failed with status 1: Call to Reboot failed: Access denied\.$"):
        await power.act(Action.SHUT_DOWN, reason="", permit=permit())


async def test_a_command_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    power = CommandPower({Action.RESTART: python("import time; time.sleep(600)")}, time_limit_s=0.2)
    with pytest.raises(PowerError, match=r"was stopped because it took longer than 0\.2 s"):
        await power.act(Action.RESTART, reason="", permit=permit())


async def test_cancelling_kills_the_command_and_what_it_started(tmp_path: Path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    # The child and its own child hold the pipe's writing end: its end is the proof that both are gone.
    code = (
        "import subprocess, sys\n"
        "file = open(sys.argv[1], 'w')\n"
        "argv = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = subprocess.Popen(argv, pass_fds=[file.fileno()])\n"
        "file.write('ready'); file.flush(); child.wait()"
    )
    power = CommandPower({Action.RESTART: python(code, str(told))})
    acting = asyncio.create_task(power.act(Action.RESTART, reason="", permit=permit()))
    reader = await asyncio.to_thread(told.open, "rb", 0)
    with reader:
        assert await asyncio.to_thread(reader.read, 5) == b"ready"
        acting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await acting
        assert await asyncio.to_thread(reader.read, 1) == b""


async def test_what_a_command_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    # It inherits standard error, lives until the test lets it go, and must not hold up the action.
    child = "import sys; open(sys.argv[1]).read()"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}, sys.argv[1]])"
    power = CommandPower({Action.RESTART: python(code, str(told))})
    await power.act(Action.RESTART, reason="", permit=permit())
    with await asyncio.to_thread(told.open, "wb", 0):
        pass


async def test_endless_output_is_not_kept_in_memory() -> None:
    code = "import sys; sys.stderr.write('x' * 5_000_000 + chr(10) + 'the end'); sys.exit(2)"
    with pytest.raises(PowerError, match=r"failed with status 2: the end\.$"):
        await CommandPower({Action.RESTART: python(code)}).act(Action.RESTART, reason="", permit=permit())


async def test_refusals() -> None:
    power = CommandPower({Action.RESTART: ("no-such-program-anywhere",), Action.SHUT_DOWN: python("")})
    assert await power.unsupported_reason(Action.SHUT_DOWN) is None
    assert await power.unsupported_reason(Action.LOG_OFF) == "No command is set for logoff on this machine."
    sentence = "The program no-such-program-anywhere for restart is not on this machine."
    assert await power.unsupported_reason(Action.RESTART) == sentence
    with pytest.raises(PowerError, match=sentence):
        await power.act(Action.RESTART, reason="", permit=permit())


async def test_a_program_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(PowerError, match=r"/nowhere/who cannot be run: No such file or directory\."):
        await CommandPower({}, persons_command=("/nowhere/who",), platform="linux").persons()


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("who") is None, reason="there is no who")
async def test_the_real_who_is_understood() -> None:
    await CommandPower({}).persons()


def speaking(directory: Path, text: str, platform: str, status: int = 0) -> CommandPower:
    """A power back end whose list of persons is ``text``."""
    script = directory / "persons"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\nexit {status}\n")
    script.chmod(0o755)
    return CommandPower({}, persons_command=[str(script)], platform=platform)


@pytest.mark.parametrize(
    ("platform", "text"),
    [
        ("linux", "anna tty2 since yesterday\n"),
        ("linux", "USER  TTY  IDLE  TIME  HOST\n"),
        ("darwin", "anna console a while ago\n"),
        ("win32", " USERNAME  SESSIONNAME  ID\n anna: console, active\n"),
    ],
)
async def test_a_list_that_is_not_understood_is_not_an_empty_one(
    tmp_path: Path, platform: str, text: str
) -> None:
    with pytest.raises(PowerError, match="unknown format"):
        await speaking(tmp_path, text, platform).persons()


@pytest.mark.parametrize(
    ("platform", "text"),
    [("linux", ""), ("darwin", "_mbsetupuser console Oct  2 08:11\n"), ("win32", "No User exists for *\n")],
)
async def test_an_empty_list_says_that_nobody_is_on(tmp_path: Path, platform: str, text: str) -> None:
    assert await speaking(tmp_path, text, platform).persons() == ()


async def test_waiting_for_going_down_ends_by_cancelling_only() -> None:
    power = CommandPower({})
    waiting = asyncio.create_task(power.wait_for_shutdown())
    done, _ = await asyncio.wait({waiting}, timeout=0.01)
    assert not done
    await power.release_shutdown()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
