"""logind played by a fake of it on a private message bus; bus, signals and descriptors are real."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from tests.fleet.agent.power.permits import Watch, permit

from landline.fleet.agent.power import (
    OutcomeUnknown,
    Permit,
    PermitExpired,
    PowerBackend,
    PowerError,
    SystemShutdown,
)
from landline.fleet.agent.power.login_sessions import is_closing, person_from_logind
from landline.fleet.agent.power.logind import LogindPower, unsupported_reason_from_can
from landline.fleet.model import Action, Person

MANAGER = "org.freedesktop.login1.Manager"
MANAGER_PATH = "/org/freedesktop/login1"


def session(name: str, **properties: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "Class": "user",
        "State": "active",
        "TTY": "",
        "Display": "",
        "Remote": False,
        "Timestamp": 1_700_000_000_500_000,
        **properties,
    }


@dataclass
class FakeLogin1:
    """Answers as org.freedesktop.login1(5) says, and remembers what it was asked."""

    bus: MessageBus
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    can: str = "yes"
    errors: dict[str, str] = field(default_factory=dict)
    """Methods that fail, and with what text."""
    silent: set[str] = field(default_factory=set)
    """Methods that are never answered."""
    stubborn: set[str] = field(default_factory=set)
    """Sessions that do not end."""
    lingering: set[str] = field(default_factory=set)
    """Sessions that turn to "closing" instead of going."""
    inhibitors: list[list[Any]] = field(default_factory=list)
    jobs: list[list[Any]] = field(default_factory=list)
    """What systemd, which is played too, is about to do."""
    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What happens before a method is answered."""
    preparing: bool = False
    calls: list[tuple[str, list[Any]]] = field(default_factory=list)
    locks: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    """The reading ends of the delay locks taken: they end when the other side lets go."""

    async def start(self) -> None:
        self.bus.add_message_handler(self.handle)
        await self.bus.request_name("org.freedesktop.systemd1")
        await self.bus.request_name("org.freedesktop.login1")

    def handle(self, message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL or not (message.path or "").startswith(
            (MANAGER_PATH, "/org/freedesktop/systemd1")
        ):
            return None
        member = message.member or ""
        self.before.get(member, lambda: None)()
        if member in self.silent:
            self.calls.append((member, message.body))
            return True
        if member in self.errors:
            self.calls.append((member, message.body))
            return Message.new_error(message, "org.freedesktop.DBus.Error.AccessDenied", self.errors[member])
        if member == "Inhibit":
            self.calls.append((member, message.body))
            self.give_lock(message)
            return True
        return self.answer(message, member)

    def answer(self, message: Message, member: str) -> Message:
        reply = Message.new_method_return
        if member == "ListSessions":
            rows = [
                [key, 1000, properties["Name"], "seat0", f"{MANAGER_PATH}/session/{key}"]
                for key, properties in self.sessions.items()
            ]
            return reply(message, "a(susso)", [rows])
        if member == "GetAll":
            properties = self.sessions.get((message.path or "").rpartition("/")[2])
            if properties is None or properties.get("vanished"):
                return Message.new_error(
                    message, "org.freedesktop.DBus.Error.UnknownObject", "Unknown object"
                )
            signatures = {str: "s", bool: "b", int: "t"}
            values = {key: Variant(signatures[type(value)], value) for key, value in properties.items()}
            return reply(message, "a{sv}", [values])
        if member == "Get":
            return reply(message, "v", [Variant("b", self.preparing)])
        if member == "ListInhibitors":
            return reply(message, "a(ssssuu)", [self.inhibitors])
        if member == "ListJobs":
            return reply(message, "a(usssoo)", [self.jobs])
        self.calls.append((member, message.body))
        if member in ("CanReboot", "CanPowerOff"):
            return reply(message, "s", [self.can])
        if member == "TerminateSession":
            self.terminate(message.body[0])
        return reply(message)

    def terminate(self, key: str) -> None:
        if key in self.lingering:
            self.sessions[key]["State"] = "closing"
        elif key not in self.stubborn:
            self.remove(key)

    def remove(self, key: str) -> None:
        del self.sessions[key]
        asyncio.get_running_loop().call_soon(
            self.signal, "SessionRemoved", "so", [key, f"{MANAGER_PATH}/session/{key}"]
        )

    def give_lock(self, message: Message) -> None:
        reader, writer = os.pipe()
        sent = self.bus.send(Message.new_method_return(message, "h", [0], unix_fds=[writer]))
        sent.add_done_callback(lambda _sent: os.close(writer))
        self.locks.put_nowait(reader)

    def signal(self, member: str, signature: str, body: list[Any]) -> None:
        self.bus.send(
            Message.new_signal(
                path=MANAGER_PATH, interface=MANAGER, member=member, signature=signature, body=body
            )
        )

    def called(self, *members: str) -> list[tuple[str, list[Any]]]:
        return [call for call in self.calls if call[0] in members]


async def connected(address: str) -> AsyncIterator[MessageBus]:
    connection = await MessageBus(address, negotiate_unix_fd=True).connect()
    yield connection
    connection.disconnect()
    # It may have been the bus that ended.
    await asyncio.wait({asyncio.ensure_future(connection.wait_for_disconnect())})


@pytest.fixture
async def login1(bus: Any) -> AsyncIterator[FakeLogin1]:
    async for connection in connected(bus.address):
        fake = FakeLogin1(connection)
        await fake.start()
        yield fake
        while not fake.locks.empty():
            os.close(fake.locks.get_nowait())


@pytest.fixture
async def power(bus: Any, login1: FakeLogin1) -> AsyncIterator[LogindPower]:
    power = LogindPower(bus_address=bus.address, reconnect_timeout_s=0)
    await power.open()
    yield power
    await power.close()


async def released(reader: int) -> None:
    """Returns when the lock whose reading end this is was given back."""
    try:
        assert await asyncio.to_thread(os.read, reader, 1) == b""
    finally:
        os.close(reader)


async def is_held(reader: int) -> bool:
    os.set_blocking(reader, False)
    try:
        os.read(reader, 1)
    except BlockingIOError:
        return True
    finally:
        os.set_blocking(reader, True)
    return False


def test_answers_to_can() -> None:
    assert unsupported_reason_from_can(Action.RESTART, "yes") is None
    for answer in ("no", "na", "challenge", "perhaps"):
        sentence = unsupported_reason_from_can(Action.SHUT_DOWN, answer)
        assert sentence is not None
        assert "shut down" in sentence
        assert sentence.endswith(".")


@pytest.mark.parametrize("answer", ["inhibited", "inhibitor-blocked", "challenge-inhibitor-blocked"])
async def test_a_program_that_blocks_the_restart_is_named(
    login1: FakeLogin1, power: LogindPower, answer: str
) -> None:
    login1.can = answer
    login1.inhibitors = [
        ["sleep", "music", "playing", "block", 1000, 7],
        ["shutdown", "landline", "goodbye", "delay", 0, 8],
        ["sleep:shutdown", "apt", "installing\x1b[2J updates", "block", 0, 9],
        ["shutdown", "x" * 200, "why", "block-weak", 0, 10],
    ]
    sentence = await power.unsupported_reason(Action.RESTART)
    assert sentence == (
        f"This machine must not restart now: apt (installing\ufffd[2J updates), {'x' * 99}… blocks it. "
        "Try again when that is over."
    )
    login1.inhibitors = []
    sentence = await power.unsupported_reason(Action.SHUT_DOWN)
    assert sentence is not None
    assert sentence.startswith("This machine must not shut down now: another program blocks it.")


@pytest.mark.parametrize("class_", ["user", "user-early", "user-light", "user-early-light"])
def test_a_session_of_a_person(class_: str) -> None:
    properties = session("anna", Class=class_, TTY="tty2", Display=":0", Service="gdm-password", Leader=812)
    assert person_from_logind(properties) == Person("anna", ":0", False, 1_700_000_000.5)
    properties = session("bob", Class=class_, TTY="pts/1", Remote=True, Timestamp=0)
    assert person_from_logind(properties) == Person("bob", "pts/1", True, None)


@pytest.mark.parametrize("class_", ["greeter", "lock-screen", "manager", "background", "user-incomplete", ""])
def test_a_session_without_a_person(class_: str) -> None:
    assert person_from_logind(session("gdm", Class=class_)) is None


def test_a_session_that_is_closing() -> None:
    assert is_closing(session("anna", State="closing"))
    assert not is_closing(session("anna", State="online"))


def test_a_session_that_is_not_understood() -> None:
    with pytest.raises(PowerError, match="unknown format"):
        person_from_logind({"Name": 3, "Class": "user", "State": "active"})
    with pytest.raises(PowerError, match="unknown format"):
        person_from_logind({})


async def test_persons(login1: FakeLogin1, power: LogindPower) -> None:
    login1.sessions |= {
        "1": session("anna", TTY="tty2"),
        "2": session("bob", TTY="pts/0", Remote=True),
        "c1": session("gdm", Class="greeter"),
        "4": session("carla", State="closing"),
        "5": session("dora", vanished=True),
    }
    assert await power.persons() == (
        Person("anna", "tty2", False, 1_700_000_000.5),
        Person("bob", "pts/0", True, 1_700_000_000.5),
    )


async def test_the_system_bus_is_found_by_the_environment(
    bus: Any, login1: FakeLogin1, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
    power: PowerBackend = LogindPower()
    await power.open()
    await power.open()
    assert await power.persons() == ()
    assert len(login1.called("Inhibit")) == 1
    await power.close()
    await power.close()


async def test_refusals(login1: FakeLogin1, power: LogindPower) -> None:
    assert await power.unsupported_reason(Action.RESTART) is None
    assert await power.unsupported_reason(Action.SHUT_DOWN) is None
    assert await power.unsupported_reason(Action.LOG_OFF) is None
    assert await power.unsupported_reason(Action.WAKE) == "A machine that is on cannot be woken."
    login1.can = "no"
    assert (
        await power.unsupported_reason(Action.RESTART) == "The agent is not allowed to restart this machine."
    )
    login1.errors["CanPowerOff"] = "Broken"
    assert await power.unsupported_reason(Action.SHUT_DOWN) == "logind refused CanPowerOff: Broken."


@pytest.mark.parametrize(("action", "member"), [(Action.RESTART, "Reboot"), (Action.SHUT_DOWN, "PowerOff")])
async def test_going_down_with_a_message(
    login1: FakeLogin1, power: LogindPower, action: Action, member: str
) -> None:
    await power.act(action, reason="New kernel\x1b[2J", permit=permit())
    assert login1.called("SetWallMessage", member) == [
        ("SetWallMessage", ["New kernel\ufffd[2J", True]),
        (member, [False]),
    ]
    login1.calls.clear()
    await power.act(action, reason="", permit=permit())
    assert login1.called("SetWallMessage", member) == [(member, [False])]


async def test_a_refused_message_is_logged_only(
    login1: FakeLogin1, power: LogindPower, caplog: pytest.LogCaptureFixture
) -> None:
    login1.errors["SetWallMessage"] = "Not privileged"
    await power.act(Action.RESTART, reason="updates", permit=permit())
    assert login1.called("Reboot") == [("Reboot", [False])]
    assert "logind refused SetWallMessage: Not privileged." in caplog.text


async def test_a_failing_restart_is_told_and_its_message_taken_back(
    login1: FakeLogin1, power: LogindPower
) -> None:
    login1.errors["Reboot"] = "Interactive authentication required."
    with pytest.raises(PowerError, match=r"^logind refused Reboot: Interactive authentication required\.$"):
        await power.act(Action.RESTART, reason="updates", permit=permit())
    assert login1.called("SetWallMessage")[-1] == ("SetWallMessage", ["", True])


async def test_waking_is_no_action_here(power: LogindPower) -> None:
    with pytest.raises(PowerError, match="cannot be woken"):
        await power.act(Action.WAKE, reason="", permit=permit())


async def test_log_off_ends_every_persons_session(login1: FakeLogin1, power: LogindPower) -> None:
    login1.sessions |= {
        "1": session("anna"),
        "2": session("bob", Remote=True),
        "3": session("carla"),
        "c1": session("gdm", Class="greeter"),
    }
    await power.act(Action.LOG_OFF, reason="", permit=permit())
    assert login1.called("TerminateSession") == [("TerminateSession", [key]) for key in ("1", "2", "3")]
    assert set(login1.sessions) == {"c1"}
    await power.act(Action.LOG_OFF, reason="", permit=permit())


async def test_log_off_is_not_done_while_a_session_is_closing(login1: FakeLogin1, power: LogindPower) -> None:
    """No person is logged on any more, but their programs still run: a restart now would lose their work."""
    login1.sessions |= {"1": session("anna"), "2": session("bob", State="closing")}
    login1.lingering.add("1")
    closing = asyncio.Event()
    login1.before["ListSessions"] = lambda: closing.set() if login1.called("TerminateSession") else None
    acting = asyncio.create_task(power.act(Action.LOG_OFF, reason="", permit=permit()))
    await closing.wait()
    assert await power.persons() == ()
    assert not acting.done()
    login1.remove("1")
    await power.persons()
    assert not acting.done()
    login1.remove("2")
    await acting
    # Which is logged off already is not logged off again.
    assert login1.called("TerminateSession") == [("TerminateSession", ["1"])]


async def test_log_off_waits_for_a_session_that_takes_its_time(
    login1: FakeLogin1, power: LogindPower
) -> None:
    login1.sessions["1"] = session("anna")
    login1.stubborn.add("1")
    acting = asyncio.create_task(power.act(Action.LOG_OFF, reason="", permit=permit()))
    while not login1.called("TerminateSession"):
        await asyncio.sleep(0.01)
    assert not acting.done()
    login1.stubborn.clear()
    login1.terminate("1")
    await acting


async def test_log_off_names_who_is_still_on(bus: Any, login1: FakeLogin1) -> None:
    power = LogindPower(bus_address=bus.address, log_off_timeout_s=0.3)
    await power.open()
    login1.sessions |= {
        "1": session("anna", TTY="tty2"),
        "2": session("bob"),
        "3": session("carla"),
        "4": session("dora"),
    }
    login1.stubborn |= {"1", "2"}
    login1.lingering.add("4")
    with pytest.raises(
        PowerError,
        match=r"^Still logged on: anna \(tty2\), bob \(session 2\), dora \(session 4\), whose session is closing\.$",
    ):
        await power.act(Action.LOG_OFF, reason="", permit=permit())
    await power.close()


async def test_a_refused_log_off_tells_why_at_once(login1: FakeLogin1, power: LogindPower) -> None:
    login1.sessions["1"] = session("anna", TTY="tty2")
    login1.errors["TerminateSession"] = "Access denied"
    with pytest.raises(
        PowerError, match=r"anna \(tty2\)\. logind refused TerminateSession: Access denied\.$"
    ):
        await power.act(Action.LOG_OFF, reason="", permit=permit())


@pytest.mark.parametrize(("action", "member"), [(Action.RESTART, "Reboot"), (Action.SHUT_DOWN, "PowerOff")])
@pytest.mark.parametrize("slow", ["SetWallMessage", "Get"])
async def test_a_leave_that_ended_during_the_preparations_is_not_used(
    login1: FakeLogin1, power: LogindPower, action: Action, member: str, slow: str
) -> None:
    watch = Watch()

    def take_long() -> None:
        watch.now_s = 10.0

    login1.before[slow] = take_long
    with pytest.raises(PermitExpired, match="nothing was done"):
        await power.act(action, reason="updates", permit=Permit(10.0, watch))
    assert login1.called(member) == []
    assert login1.called("SetWallMessage")[-1] == ("SetWallMessage", ["", True])


async def test_a_leave_that_ended_while_the_sessions_were_listed_is_not_used(
    login1: FakeLogin1, power: LogindPower
) -> None:
    watch = Watch()
    login1.sessions["1"] = session("anna")
    login1.before["GetAll"] = lambda: setattr(watch, "now_s", 10.0)
    with pytest.raises(PermitExpired):
        await power.act(Action.LOG_OFF, reason="", permit=Permit(10.0, watch))
    assert login1.called("TerminateSession") == []


@pytest.mark.parametrize(
    ("action", "member"),
    [(Action.RESTART, "Reboot"), (Action.SHUT_DOWN, "PowerOff"), (Action.LOG_OFF, "TerminateSession")],
)
async def test_a_request_that_is_not_answered_within_the_leave_is_taken_back(
    bus: Any, login1: FakeLogin1, power: LogindPower, action: Action, member: str
) -> None:
    """logind refuses the request of a caller that has left the bus; a late answer would find nobody."""
    login1.silent.add(member)
    login1.sessions["1"] = session("anna")
    watch = Watch()
    (before,) = await unique_names_but(login1.bus, {login1.bus.unique_name})
    # 0.2 s are left of the permit, and logind would be given ten.
    with pytest.raises(OutcomeUnknown, match=rf"did not answer {member} in 0\.2 s"):
        await power.act(action, reason="", permit=Permit(0.2, watch))
    assert before not in await unique_names_but(login1.bus, set())
    # The next who needs it connects again, and takes the delay lock.
    login1.silent.clear()
    assert [person.name for person in await power.persons()] == ["anna"]
    assert len(login1.called("Inhibit")) == 2


async def test_going_down_is_announced_and_held_up_until_released(
    login1: FakeLogin1, power: LogindPower
) -> None:
    assert login1.called("Inhibit")[0][1][0::3] == ["shutdown", "delay"]
    lock = await login1.locks.get()
    waiting = asyncio.create_task(power.wait_for_shutdown())
    login1.signal("PrepareForShutdown", "b", [True])
    await waiting
    assert await is_held(lock)
    await power.release_shutdown()
    await power.release_shutdown()
    await released(lock)


async def test_an_announcement_before_the_call_is_not_missed(login1: FakeLogin1, power: LogindPower) -> None:
    login1.signal("PrepareForShutdown", "b", [True])
    await power.persons()  # answered after the signal
    await power.wait_for_shutdown()


async def test_going_down_already_when_opened(bus: Any, login1: FakeLogin1) -> None:
    login1.preparing = True
    power = LogindPower(bus_address=bus.address)
    await power.open()
    assert await power.wait_for_shutdown() == SystemShutdown()
    assert login1.called("Inhibit") == []
    await power.close()


async def test_a_shutdown_called_off_takes_the_lock_again(login1: FakeLogin1, power: LogindPower) -> None:
    lock = await login1.locks.get()
    await power.wait_for_cancellation()  # Nothing is going on.
    login1.signal("PrepareForShutdown", "b", [True])
    await power.wait_for_shutdown()
    await power.release_shutdown()
    await released(lock)
    staying = asyncio.create_task(power.wait_for_cancellation())
    await power.persons()
    assert not staying.done()
    login1.signal("PrepareForShutdown", "b", [False])
    await staying
    lock = await login1.locks.get()
    waiting = asyncio.create_task(power.wait_for_shutdown())
    await power.persons()
    assert not waiting.done()
    login1.signal("PrepareForShutdown", "b", [True])
    await waiting
    await power.close()
    await released(lock)


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        ("reboot", Action.RESTART),
        ("kexec", Action.RESTART),
        ("soft-reboot", Action.RESTART),
        ("poweroff", Action.SHUT_DOWN),
        ("halt", Action.SHUT_DOWN),
        ("something new", None),
    ],
)
async def test_a_newer_logind_says_what_it_is(
    login1: FakeLogin1, power: LogindPower, kind: str, action: Action | None
) -> None:
    metadata = {"type": Variant("s", kind)}
    login1.signal("PrepareForShutdownWithMetadata", "ba{sv}", [True, metadata])
    login1.signal("PrepareForShutdown", "b", [True])
    assert await power.wait_for_shutdown() == SystemShutdown(action)
    assert await power.pending_shutdown() == SystemShutdown(action)
    login1.signal("PrepareForShutdownWithMetadata", "ba{sv}", [False, metadata])
    login1.signal("PrepareForShutdown", "b", [False])
    await power.wait_for_cancellation()
    assert await power.pending_shutdown() is None
    # What an earlier one was says nothing of the next.
    login1.signal("PrepareForShutdown", "b", [True])
    assert await power.wait_for_shutdown() == SystemShutdown()


async def test_what_an_older_logind_does_not_say_is_read_from_the_jobs_of_systemd(
    login1: FakeLogin1, power: LogindPower
) -> None:
    row = [7, "ssh.service", "stop", "waiting", "/job/7", "/unit/ssh"]
    login1.jobs = [row]
    assert await power.pending_shutdown() is None
    login1.signal("PrepareForShutdown", "b", [True])
    assert await power.wait_for_shutdown() == SystemShutdown()
    assert await power.pending_shutdown() == SystemShutdown()
    login1.jobs = [row, [8, "reboot.target", "start", "waiting", "/job/8", "/unit/reboot"]]
    assert await power.pending_shutdown() == SystemShutdown(Action.RESTART)
    login1.errors["ListJobs"] = "Access denied"
    assert await power.pending_shutdown() == SystemShutdown()


async def test_a_new_logind_that_stays_up_calls_off_what_the_old_one_announced(
    bus: Any, login1: FakeLogin1, power: LogindPower
) -> None:
    login1.signal("PrepareForShutdown", "b", [True])
    await power.wait_for_shutdown()
    await login1.bus.release_name("org.freedesktop.login1")
    async for connection in connected(bus.address):
        other = FakeLogin1(connection)
        await other.start()
        await power.wait_for_cancellation()
        await other.locks.get()


async def test_a_bus_that_is_restarted_keeps_no_job_out(
    bus: Any, login1: FakeLogin1, caplog: pytest.LogCaptureFixture
) -> None:
    power = LogindPower(bus_address=bus.address)
    await power.open()
    with caplog.at_level(logging.CRITICAL, "dbus_fast"):
        bus.kill()
        with pytest.raises(PowerError, match=r"no longer announced|no connection"):
            await power.wait_for_shutdown()
        refusal = asyncio.create_task(power.unsupported_reason(Action.RESTART))
        with pytest.raises(PowerError, match="cannot be reached"):
            await power.persons()
    assert not refusal.done()
    bus.start()
    async for connection in connected(bus.address):
        again = FakeLogin1(connection)
        await again.start()
        assert await refusal is None
        await power.act(Action.RESTART, reason="", permit=permit())
        assert again.called("Reboot") == [("Reboot", [False])]
        await again.locks.get()
        again.signal("PrepareForShutdown", "b", [True])
        await power.wait_for_shutdown()
        await power.close()


async def test_closing_gives_the_lock_back_and_ends_the_waiting(
    login1: FakeLogin1, power: LogindPower
) -> None:
    lock = await login1.locks.get()
    waiting = asyncio.create_task(power.wait_for_shutdown())
    await power.persons()
    await power.close()
    with pytest.raises(PowerError, match="was lost"):
        await waiting
    await released(lock)


async def test_cancelled_waiting_can_be_taken_up_again(login1: FakeLogin1, power: LogindPower) -> None:
    waiting = asyncio.create_task(power.wait_for_shutdown())
    await power.persons()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    login1.signal("PrepareForShutdown", "b", [True])
    await power.wait_for_shutdown()


async def test_a_signal_from_another_sender_is_ignored(
    bus: Any, login1: FakeLogin1, power: LogindPower
) -> None:
    (agent,) = await unique_names_but(login1.bus, {login1.bus.unique_name})
    waiting = asyncio.create_task(power.wait_for_shutdown())
    async for stranger in connected(bus.address):
        await stranger.send(
            Message(
                destination=agent,
                message_type=MessageType.SIGNAL,
                path=MANAGER_PATH,
                interface=MANAGER,
                member="PrepareForShutdown",
                signature="b",
                body=[True],
            )
        )
        # The bus keeps the order, and answers after it passed the signal on.
        await unique_names_but(stranger, set())
    await power.persons()
    assert not waiting.done()
    login1.signal("PrepareForShutdown", "b", [True])
    await waiting


async def test_a_logind_that_was_started_anew_is_believed(
    bus: Any, login1: FakeLogin1, power: LogindPower
) -> None:
    await login1.bus.release_name("org.freedesktop.login1")
    async for connection in connected(bus.address):
        other = FakeLogin1(connection)
        await other.start()
        other.signal("PrepareForShutdown", "b", [True])
        await power.wait_for_shutdown()


async def test_a_refused_lock_is_logged_only(
    bus: Any, login1: FakeLogin1, caplog: pytest.LogCaptureFixture
) -> None:
    login1.errors["Inhibit"] = "Permission denied"
    power = LogindPower(bus_address=bus.address)
    await power.open()
    assert "a goodbye may come too late: logind refused Inhibit: Permission denied." in caplog.text
    login1.signal("PrepareForShutdown", "b", [True])
    await power.wait_for_shutdown()
    await power.release_shutdown()
    await power.close()


async def test_a_bus_that_goes_away_hangs_nothing(
    bus: Any, login1: FakeLogin1, power: LogindPower, caplog: pytest.LogCaptureFixture
) -> None:
    login1.silent.add("Reboot")
    acting = asyncio.create_task(power.act(Action.RESTART, reason="", permit=permit()))
    waiting = asyncio.create_task(power.wait_for_shutdown())
    while not login1.called("Reboot"):
        await asyncio.sleep(0.01)
    with caplog.at_level(logging.CRITICAL, "dbus_fast"):
        bus.kill()
        with pytest.raises(PowerError, match="The system bus was lost during Reboot; it may still happen"):
            await acting
        with pytest.raises(PowerError, match="shutdowns are no longer announced"):
            await waiting
    with pytest.raises(PowerError, match="cannot be reached"):
        await power.persons()
    with pytest.raises(PowerError, match="no connection"):
        await power.wait_for_shutdown()
    with pytest.raises(PowerError, match="no connection"):
        await power.pending_shutdown()
    refusal = await power.unsupported_reason(Action.RESTART)
    assert refusal is not None
    assert refusal.startswith("The system bus cannot be reached")
    with pytest.raises(PowerError, match="cannot be reached"):
        await power.open()
    await power.close()


async def test_a_logind_that_does_not_answer_is_not_waited_for(bus: Any, login1: FakeLogin1) -> None:
    power = LogindPower(bus_address=bus.address, call_timeout_s=0.2)
    await power.open()
    login1.silent |= {"Reboot", "ListSessions"}
    with pytest.raises(PowerError, match=r"did not answer Reboot in 0\.2 s; it may still do it"):
        await power.act(Action.RESTART, reason="", permit=permit())
    with pytest.raises(PowerError, match="did not answer ListSessions"):
        await power.persons()
    await power.close()


async def test_cancelling_a_call(login1: FakeLogin1, power: LogindPower) -> None:
    login1.silent.add("Reboot")
    acting = asyncio.create_task(power.act(Action.RESTART, reason="", permit=permit()))
    while not login1.called("Reboot"):
        await asyncio.sleep(0.01)
    acting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acting
    assert await power.persons() == ()


async def test_no_bus_and_no_logind(bus: Any) -> None:
    with pytest.raises(
        PowerError, match=r"The system bus cannot be reached: no such file.*; .* choose another --power"
    ):
        await LogindPower(bus_address="unix:path=/nowhere/bus").open()
    with pytest.raises(PowerError, match="The system bus cannot be reached"):
        await LogindPower(bus_address="carrier-pigeon:").open()
    power = LogindPower(bus_address=bus.address)
    with pytest.raises(PowerError, match="logind refused Get: "):
        await power.open()
    with pytest.raises(PowerError, match="logind refused Get: "):
        await power.persons()
    await power.close()


async def unique_names_but(connection: MessageBus, others: set[str | None]) -> set[str]:
    reply = await connection.call(
        Message(
            destination="org.freedesktop.DBus",
            path="/org/freedesktop/DBus",
            interface="org.freedesktop.DBus",
            member="ListNames",
        )
    )
    return {name for name in reply.body[0] if name.startswith(":")} - others
