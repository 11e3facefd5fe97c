"""Notices: the real wall on terminals of the test's own, and a notification service on a private message bus."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from landline.fleet.agent.prompt import Notice
from landline.fleet.agent.prompt.notices import PERSONS_MAX, WALL_TO_UNKNOWN, send_notices, terminal_text
from landline.fleet.model import Action, Person

NOTICE = Notice(
    action=Action.RESTART,
    requested_by="root@vm",
    message="-c --version <b>Updates</b> & 更新\x1b[2J\x07",
    due_in_s=300,
)
NO_WALL = ("/nowhere/wall",)

ACCOUNT = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
"""As root the notification is shown by another account, as by the agent of a machine."""

BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


class Terminal:
    """A pseudo-terminal that a person looks at."""

    def __init__(self) -> None:
        self._end, self._terminal = os.openpty()
        tty.setraw(self._terminal)
        self.seat = os.ttyname(self._terminal).removeprefix("/dev/")
        self.person = Person("anna", self.seat)

    async def reads(self, until: str) -> str:
        """What is written, up to ``until``."""
        seen = b""
        loop = asyncio.get_running_loop()
        while until.encode() not in seen:
            seen += await loop.run_in_executor(None, os.read, self._end, 4096)
        return seen.decode()

    def close(self) -> None:
        os.close(self._end)
        os.close(self._terminal)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


class FakeNotifications:
    """Answers as the Desktop Notifications Specification says, and keeps what it was asked."""

    def __init__(self, bus: MessageBus, runtime: Path) -> None:
        self.bus = bus
        self.runtime = runtime
        self.capabilities = ["body", "body-markup"]
        self.error = ""
        self.is_silent = False
        self.asked: asyncio.Queue[Message] = asyncio.Queue()

    async def start(self) -> None:
        self.bus.add_message_handler(self._handle)
        await self.bus.request_name("org.freedesktop.Notifications")

    def _handle(self, message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL or message.interface != (
            "org.freedesktop.Notifications"
        ):
            return None
        if message.member == "GetCapabilities":
            return Message.new_method_return(message, "as", [self.capabilities])
        self.asked.put_nowait(message)
        if self.is_silent:
            return True
        if self.error:
            return Message.new_error(message, "org.freedesktop.Notifications.Error", self.error)
        return Message.new_method_return(message, "u", [7])

    async def credentials_of(self, message: Message) -> dict[str, Any]:
        """What the bus knows of the process that sent ``message``."""
        reply = await self.bus.call(
            Message(
                destination="org.freedesktop.DBus",
                path="/org/freedesktop/DBus",
                interface="org.freedesktop.DBus",
                member="GetConnectionUnixUser",
                signature="s",
                body=[message.sender],
            )
        )
        assert reply is not None
        return {"uid": reply.body[0]}


@pytest.fixture
async def desktop() -> AsyncIterator[FakeNotifications]:
    """The message bus of :data:`ACCOUNT`, run by that account, with a notification service on it."""
    program = shutil.which("dbus-daemon")
    if program is None:
        pytest.skip("dbus-daemon is missing: apt install dbus-daemon")
    # Not pytest's directory: the path of a socket may have 107 bytes only, and others may not enter it.
    with tempfile.TemporaryDirectory(prefix="bus-", dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        own = directory / str(ACCOUNT.pw_uid)
        own.mkdir()
        os.chown(own, ACCOUNT.pw_uid, ACCOUNT.pw_gid)
        config = directory / "bus.conf"
        config.write_text(BUS_CONFIG.format(socket=own / "bus"))
        reader, writer = os.pipe()
        process = subprocess.Popen(
            [program, "--nofork", "--nopidfile", f"--config-file={config}", f"--print-address={writer}"],
            pass_fds=(writer,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **({"user": ACCOUNT.pw_uid, "group": ACCOUNT.pw_gid} if os.geteuid() == 0 else {}),
        )
        os.close(writer)
        try:
            with open(reader) as ready:
                address = ready.readline().strip()
            assert address, "dbus-daemon did not start"
            fake = FakeNotifications(await MessageBus(address).connect(), directory)
            await fake.start()
            yield fake
            fake.bus.disconnect()
        finally:
            process.kill()
            process.wait()


async def tell(desktop: FakeNotifications, notice: Notice = NOTICE, **options: Any) -> tuple[str, ...]:
    person = Person(ACCOUNT.pw_name, ":0")
    return await send_notices(
        notice, [person, person], runtime_directory=str(desktop.runtime), wall=NO_WALL, **options
    )


async def test_a_notification_is_shown_as_the_person(desktop: FakeNotifications) -> None:
    assert await tell(desktop) == (f"notification to {ACCOUNT.pw_name}",)
    asked = desktop.asked.get_nowait()
    assert desktop.asked.empty()
    name, replaces, _icon, summary, body, actions, hints, timeout_ms = asked.body
    assert (name, replaces, actions, timeout_ms) == ("landline", 0, [], 0)
    assert summary == "This computer restarts in 5 minutes"
    assert body == (
        "The administrator (root on vm) asks to restart this computer.\n\n"
        "-c --version &lt;b&gt;Updates&lt;/b&gt; &amp; 更新[2J\n\n"
        "Save your work now."
    )
    assert hints["urgency"].value == 2


async def test_the_process_that_notifies_has_no_rights_but_the_persons(desktop: FakeNotifications) -> None:
    desktop.is_silent = True
    telling = asyncio.create_task(tell(desktop))
    asked = await desktop.asked.get()
    assert (await desktop.credentials_of(asked))["uid"] == ACCOUNT.pw_uid
    [pid] = children_of(os.getpid(), "prompt.desktop_notification")
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = {name: values.split() for name, _, values in (line.partition(":") for line in status)}
    assert fields["Uid"] == [str(ACCOUNT.pw_uid)] * 4
    assert fields["Gid"] == [str(ACCOUNT.pw_gid)] * 4
    if os.geteuid() == 0:
        assert fields["Groups"] == [str(ACCOUNT.pw_gid)]
        assert fields["CapEff"] == fields["CapPrm"] == ["0" * 16]
    telling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await telling
    assert not Path(f"/proc/{pid}").exists()


async def test_a_service_that_shows_plain_text_gets_plain_text(desktop: FakeNotifications) -> None:
    desktop.capabilities = ["body"]
    await tell(desktop)
    assert "-c --version <b>Updates</b> & 更新[2J" in desktop.asked.get_nowait().body[4]


async def test_what_fails_is_logged_once_and_raises_nothing(
    desktop: FakeNotifications, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    desktop.error = "Too many notifications"
    assert await tell(desktop) == ()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "no wall: /nowhere/wall is not on this machine"),
        ("INFO", f"no notification to {ACCOUNT.pw_name}: Too many notifications"),
    ]


async def test_a_desktop_that_does_not_answer_is_not_waited_for(
    desktop: FakeNotifications, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    desktop.is_silent = True
    # Cut off while the program starts or while it waits: both are a desktop too slow.
    assert await tell(desktop, limit_s=1.0) == ()
    assert caplog.messages[-1] == f"no notification to {ACCOUNT.pw_name}: it took longer than 1 s"
    assert not children_of(os.getpid(), "prompt.desktop_notification")


async def test_persons_without_a_desktop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    persons = [Person(ACCOUNT.pw_name, "pts/99999"), Person("no such account"), Person("\0"), Person("")]
    assert await send_notices(NOTICE, persons, wall=NO_WALL, runtime_directory=str(tmp_path)) == ()
    assert set(caplog.messages) == {
        "no wall: /nowhere/wall is not on this machine",
        "no terminal pts/99999: No such file or directory",
        f"no notification to {ACCOUNT.pw_name}: {tmp_path}/{ACCOUNT.pw_uid}/bus is missing: "
        "there is no desktop session",
        "no notification to no such account: there is no such account",
        "no notification to \N{REPLACEMENT CHARACTER}: there is no such account",
    }


async def test_where_it_is_not_known_who_is_on_wall_reaches_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    wall = (sys.executable, "-c", "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())", str(out))
    assert await send_notices(NOTICE, [], wall=wall) == (WALL_TO_UNKNOWN,)
    assert out.read_text().startswith("*** ")


async def test_many_persons_are_a_bounded_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    persons = [Person(f"nobody-{n}") for n in range(PERSONS_MAX + 10)]
    await send_notices(NOTICE, persons, wall=NO_WALL, runtime_directory=str(tmp_path))
    assert len(caplog.messages) == 1 + PERSONS_MAX


async def test_terminals_are_written_to_where_wall_is_missing(terminal: Terminal, tmp_path: Path) -> None:
    ways = await send_notices(NOTICE, [terminal.person], wall=NO_WALL, runtime_directory=str(tmp_path))
    assert ways == (f"terminal {terminal.seat}",)
    seen = await terminal.reads("Save your work now.\r\n")
    assert seen.replace("\r\n", "\n") == "\a\n" + (
        "*** This computer restarts in 5 minutes ***\n\n"
        "The administrator (root on vm) asks to restart this computer.\n\n"
        "-c --version <b>Updates</b> & 更新[2J\n\n"
        "Save your work now.\n"
    )


@pytest.mark.parametrize(
    "seat", ["../tmp/x", "null", "pts/../../tmp/x", "pts/1\n", "sda", "/dev/pts/1", ":0"]
)
async def test_nothing_but_terminals_is_opened(
    seat: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    person = Person("", seat)
    assert await send_notices(NOTICE, [person], wall=NO_WALL, runtime_directory=str(tmp_path)) == ()
    assert caplog.messages == ["no wall: /nowhere/wall is not on this machine"]


async def test_a_stopped_terminal_is_not_waited_for(terminal: Terminal, tmp_path: Path) -> None:
    # As Ctrl-S does. Filling its buffer would not do: the kernel makes room in it at a time of its own.
    descriptor = os.open(f"/dev/{terminal.seat}", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    termios.tcflow(descriptor, termios.TCOOFF)
    os.close(descriptor)
    ways = await send_notices(NOTICE, [terminal.person], wall=NO_WALL, runtime_directory=str(tmp_path))
    assert ways == ()


async def test_the_text_reaches_wall_on_its_standard_input(terminal: Terminal, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "import sys; open(sys.argv[1], 'w').write(repr(sys.argv[2:]) + sys.stdin.read())"
    wall = (sys.executable, "-X", "utf8", "-c", code, str(out))
    ways = await send_notices(NOTICE, [terminal.person], wall=wall, runtime_directory=str(tmp_path))
    assert ways == ("wall",)
    assert out.read_text() == "[]" + terminal_text(Notice(**{**fields(NOTICE), "message": CLEAN}))
    # It ran, but nobody sits where it can be read.
    assert await send_notices(NOTICE, [Person("", ":0")], wall=wall, runtime_directory=str(tmp_path)) == ()


async def test_terminals_are_written_to_where_wall_fails(
    terminal: Terminal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    wall = (sys.executable, "-c", "import sys; sys.exit('wall: cannot get tty name.')")
    person = Person("", terminal.seat)
    ways = await send_notices(NOTICE, [person], wall=wall, runtime_directory=str(tmp_path))
    assert ways == (f"terminal {terminal.seat}",)
    assert caplog.messages == ["no wall: wall: cannot get tty name"]


async def test_cancelling_leaves_no_process(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    # Like wall with a stopped terminal: it has a child of its own.
    code = (
        "import os, sys, time\n"
        "child = os.fork()\n"
        "if child: open(sys.argv[1], 'w').write(f'{os.getpid()} {child}')\n"
        "time.sleep(600)\n"
    )
    wall = (sys.executable, "-c", code, str(ready))
    telling = asyncio.create_task(
        send_notices(NOTICE, [Person("", "pts/0")], wall=wall, runtime_directory=str(tmp_path), limit_s=600)
    )
    pids = [int(pid) for pid in (await asyncio.to_thread(ready.read_text)).split()]
    telling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await telling
    for pid in pids:
        while is_running(pid):
            await asyncio.sleep(0.01)


async def test_the_real_wall(terminal: Terminal, tmp_path: Path) -> None:
    """On a list of terminals of its own: the machine's must not be written to."""
    if shutil.which("wall") is None:
        pytest.skip("wall is missing: apt install bsdutils")
    utmp = tmp_path / "utmp"
    utmp.write_bytes(utmp_entry("anna", terminal.seat))
    unshare = ("unshare", "--mount", "sh", "-c")
    if shutil.which("unshare") is None or subprocess.run([*unshare, "mount -t tmpfs none /run"]).returncode:
        pytest.skip("a file system of the test's own cannot be mounted: run as root")
    wall = (*unshare, f"mount -t tmpfs none /run && cp '{utmp}' /run/utmp && exec wall")
    ways = await send_notices(NOTICE, [terminal.person], wall=wall, runtime_directory=str(tmp_path))
    assert ways == ("wall",)
    seen = await terminal.reads("Save your work now.")
    assert "*** This computer restarts in 5 minutes ***" in seen
    assert "-c --version <b>Updates</b> & 更新[2J" in seen


CLEAN = "-c --version <b>Updates</b> & 更新[2J"


def fields(notice: Notice) -> dict[str, Any]:
    return {name: getattr(notice, name) for name in notice.__struct_fields__}


def utmp_entry(name: str, line: str) -> bytes:
    """A ``USER_PROCESS`` of utmp(5), as glibc lays it out on machines with 64 bits."""
    return struct.pack(
        "<hxxi32s4s32s256shhiii4i20s",
        7,
        os.getpid(),
        line.encode(),
        b"t1",
        name.encode(),
        b"",
        0,
        0,
        0,
        1_700_000_000,
        0,
        *[0] * 4,
        b"",
    )


def children_of(parent: int, words: str) -> list[int]:
    """The running children of ``parent`` whose command line has ``words``."""
    pids = []
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with contextlib.suppress(OSError):
            if words in Path(f"/proc/{pid}/cmdline").read_text():
                pids.append(int(pid))
    return pids


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than as the remains that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
