"""The power back end of a Linux machine with systemd: logind on the system bus.

Method, property and signal names are those of org.freedesktop.login1(5); the delay lock is described under
"Inhibitor Locks" of the systemd documentation. The bus is the system bus, or the one named by the environment
variable ``DBUS_SYSTEM_BUS_ADDRESS``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Final

import msgspec
from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError
from dbus_fast.unpack import unpack_variants

from landline import guarded_logger, safe_text
from landline.fleet.agent.power import OutcomeUnknown, Permit, PowerError, SystemShutdown
from landline.fleet.agent.power.login_sessions import is_closing, person_from_logind
from landline.fleet.model import Action, Person

CALL_TIMEOUT_S: Final = 10.0
"""How long one call may take. logind answers in milliseconds; polkit, which it may ask, in a second."""

LOG_OFF_TIMEOUT_S: Final = 30.0
"""How long sessions may take to end; desktops that ask to save files take longest."""

SESSIONS_POLL_S: Final = 1.0
"""How often sessions are listed again while waiting for their end, in case a signal of it is lost."""

RECONNECT_TIMEOUT_S: Final = 15.0
"""How long a job waits for a bus or a logind that is being restarted before it is refused; both take a few seconds."""

RECONNECT_FIRST_S: Final = 0.1
RECONNECT_CAP_S: Final = 2.0
"""The pause before the second attempt to reach the bus; it doubles up to the cap."""

JOBS_TIMEOUT_S: Final = 1.0
"""How long systemd may take to list its jobs: it is asked by an agent that is about to be killed."""

SERVICE: Final = "org.freedesktop.login1"
MANAGER_PATH: Final = "/org/freedesktop/login1"
MANAGER: Final = "org.freedesktop.login1.Manager"
SESSION: Final = "org.freedesktop.login1.Session"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
SYSTEMD: Final = "org.freedesktop.systemd1"
SYSTEMD_PATH: Final = "/org/freedesktop/systemd1"
SYSTEMD_MANAGER: Final = "org.freedesktop.systemd1.Manager"
BUS: Final = "org.freedesktop.DBus"

BLOCKING_MAX: Final = 3
BLOCKING_CHARACTERS_MAX: Final = 100
"""How many programs that block a shutdown are named to the operator, and how much of each."""

INHIBIT_WHY: Final = "Say goodbye to the control server"

_GONE_ERRORS: Final = frozenset(
    {f"{SERVICE}.NoSuchSession", f"{BUS}.Error.UnknownObject", f"{BUS}.Error.UnknownMethod"}
)

_KINDS: Final = {
    "poweroff": Action.SHUT_DOWN,
    "halt": Action.SHUT_DOWN,
    "reboot": Action.RESTART,
    "kexec": Action.RESTART,
    "soft-reboot": Action.RESTART,
}
"""What logind's ``PrepareForShutdownWithMetadata`` (since systemd 255) and systemd's targets call it."""

log = guarded_logger(__name__)


class Session(msgspec.Struct, frozen=True):
    """A logind session with a person behind it."""

    id: str
    person: Person
    is_closing: bool = False
    """Whether it is logged off already, and some of its processes still run."""


class LogindPower:
    """Restart, shut down and log off through logind.

    ``bus_address`` replaces the system bus. A bus that was lost is connected to again by the next call that needs
    it; :meth:`refusal` and the preparations of :meth:`act` wait ``reconnect_timeout_s`` for one that is being
    restarted, all others try once.
    """

    name = "logind"

    def __init__(
        self,
        *,
        bus_address: str | None = None,
        call_timeout_s: float = CALL_TIMEOUT_S,
        log_off_timeout_s: float = LOG_OFF_TIMEOUT_S,
        reconnect_timeout_s: float = RECONNECT_TIMEOUT_S,
    ) -> None:
        self._bus_address = bus_address
        self._call_timeout_s = call_timeout_s
        self._log_off_timeout_s = log_off_timeout_s
        self._reconnect_timeout_s = reconnect_timeout_s
        self._opening = asyncio.Lock()
        self._bus: MessageBus | None = None
        self._lost: asyncio.Future[None] | None = None
        """Done once the connection to the bus ended."""
        self._owner: str | None = None
        """The unique name of logind on the bus: signals are believed from it alone."""
        self._inhibitor: int | None = None
        self._asking: set[asyncio.Task[None]] = set()
        """What a signal made necessary: taking the delay lock again, or asking a new logind."""
        self._going: SystemShutdown | None = None
        self._kind: Action | None = None
        """What the newer signal said, which comes directly before the older one that everything waits for."""
        self._announced = asyncio.Event()
        self._called_off = asyncio.Event()
        self._called_off.set()
        self._sessions_changed = asyncio.Event()

    async def open(self) -> None:
        """Connects to the bus, listens to logind and takes the delay lock. Does nothing when already open.

        Raises :class:`PowerError` when there is no bus or no logind. A refused delay lock is only logged: the
        machine can still be restarted, but a goodbye may come too late. Cancelling leaves it closed.
        """
        async with self._opening:
            if self._bus is not None and self._bus.connected:
                return
            await self._let_go()
            bus = await self._connect()
            self._bus = bus
            self._lost = asyncio.ensure_future(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
            self._lost.add_done_callback(_log_lost)
            try:
                bus.add_message_handler(self._handle_message)
                for rule in (
                    f"type='signal',sender='{SERVICE}',path='{MANAGER_PATH}',interface='{MANAGER}'",
                    f"type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{SERVICE}'",
                ):
                    await self._call(bus, BUS, "/org/freedesktop/DBus", BUS, "AddMatch", "s", [rule])
                await self._look_at_logind(bus)
            except BaseException:
                await self._let_go()
                raise

    async def close(self) -> None:
        """Lets go of the delay lock and of the bus; safe to call twice and before :meth:`open`."""
        await self._let_go()

    async def _let_go(self) -> None:
        for task in self._asking:
            task.cancel()
        self._drop_inhibitor()
        bus, lost = self._bus, self._lost
        self._bus = self._lost = self._owner = None
        if bus is None or lost is None:
            return
        bus.disconnect()
        # The library closes the socket when it reads its end, which a broken loop or bus might never deliver.
        await asyncio.wait({lost}, timeout=self._call_timeout_s)
        lost.cancel()

    async def _look_at_logind(self, bus: MessageBus) -> None:
        """Asks a logind that is new to us whether it goes down, and takes the delay lock if it does not.

        This also starts logind where the bus starts it on demand, and tells its unique name. What an earlier one
        announced, or called off, while nobody listened is found out here.
        """
        is_preparing = await self._is_preparing(bus)
        if is_preparing:
            self._set_going(self._going or SystemShutdown(self._kind))
        else:
            self._set_going(None)
            await self._take_inhibitor(bus)

    async def _is_preparing(self, bus: MessageBus) -> bool:
        reply = await self._call_logind(
            bus, MANAGER_PATH, PROPERTIES, "Get", "ss", [MANAGER, "PreparingForShutdown"]
        )
        return bool(unpack_variants(reply.body) == [True])

    async def persons(self) -> tuple[Person, ...]:
        """Who is logged on now: sessions of a person that are not closing. Raises :class:`PowerError`."""
        sessions = await self._sessions(await self._open_bus())
        return tuple(session.person for session in sessions if not session.is_closing)

    async def unsupported_reason(self, action: Action) -> str | None:
        """Why ``action`` cannot be done here, ``None`` when it can; asks ``CanReboot`` and ``CanPowerOff``.

        A logind that does not answer is a reason too, so this raises nothing.
        """
        if action is Action.LOG_OFF:
            # logind has no "Can" for this; only trying tells.
            return None
        if action is Action.WAKE:
            return "A machine that is on cannot be woken."
        member = "CanReboot" if action is Action.RESTART else "CanPowerOff"
        try:
            bus = await self._bus_in_time()
            reply = await self._call_logind(bus, MANAGER_PATH, MANAGER, member)
            answer = str(reply.body[0])
            blocking = await self._blocking(bus) if answer in _BLOCKED else ()
        except PowerError as error:
            return str(error)
        return unsupported_reason_from_can(action, answer, blocking)

    async def act(self, action: Action, *, reason: str, permit: Permit) -> None:
        """Carries out ``action``; ``reason`` is shown on terminals as the wall message.

        Restart and shut down return when logind accepted them. Log off returns when every person's session is
        gone, local and remote. Raises :class:`PowerError` when logind refuses or ``permit`` ended before it was asked,
        :class:`OutcomeUnknown` when it does not answer within the permit, and after ``log_off_timeout_s`` a
        :class:`PowerError` naming who is still logged on. Cancelling stops the waiting, not the action.
        """
        match action:
            case Action.LOG_OFF:
                await self._log_off(permit)
            case Action.RESTART:
                await self._go_down("Reboot", reason, permit)
            case Action.SHUT_DOWN:
                await self._go_down("PowerOff", reason, permit)
            case _:
                raise PowerError("A machine that is on cannot be woken.")

    async def wait_for_shutdown(self) -> SystemShutdown:
        """Returns after ``PrepareForShutdown(true)``, also one before the call, until that is called off.

        While the delay lock is held logind then waits, by default at most 5 s (``InhibitDelayMaxSec=``). A
        shutdown that is called off takes the lock again. Raises :class:`PowerError` when the bus is lost or closed,
        so that nothing waits for an announcement that cannot come. Cancelling is safe.
        """
        await self._wait_for(self._announced)
        return self._going or SystemShutdown()

    async def wait_for_cancellation(self) -> None:
        """Returns after ``PrepareForShutdown(false)``, or when logind says after its restart that it stays up."""
        await self._wait_for(self._called_off)

    async def _wait_for(self, event: asyncio.Event) -> None:
        if event.is_set():
            return
        lost = self._lost
        if self._bus is None or not self._bus.connected or lost is None:
            raise PowerError("There is no connection to the system bus.")
        told = asyncio.ensure_future(event.wait())
        waiting: set[asyncio.Future[Any]] = {told, lost}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
        if not event.is_set() and not told.done():
            raise PowerError("The connection to the system bus was lost; shutdowns are no longer announced.")

    async def release_shutdown(self) -> None:
        """Gives the delay lock back, so that the system goes on with going down; safe to call twice."""
        self._drop_inhibitor()

    async def pending_shutdown(self) -> SystemShutdown | None:
        """What logind announced; where it did not say whether it is a restart, what systemd has begun.

        Raises :class:`PowerError` when neither can be asked.
        """
        going = self._going
        if going is not None and going.action is not None:
            return going
        if self._bus is None or not self._bus.connected:
            if going is not None:
                return going
            raise PowerError("There is no connection to the system bus.")
        try:
            reply = await self._call(
                self._bus, SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "ListJobs", timeout_s=JOBS_TIMEOUT_S
            )
        except PowerError:
            return going
        for _, unit, kind, *_ in reply.body[0]:
            action = _KINDS.get(str(unit).removesuffix(".target"))
            if action is not None and kind == "start":
                return SystemShutdown(action)
        return going

    # Actions

    async def _go_down(self, member: str, reason: str, permit: Permit) -> None:
        bus = await self._bus_in_time()
        is_wall_set = bool(reason) and await self._set_wall_message(bus, reason)
        try:
            # A logind that hangs is found here, where nothing is lost yet.
            await self._is_preparing(bus)
            left_s = permit.check()
            # False: polkit must not ask anybody for a password, there may be nobody.
            await self._call_logind(
                bus, MANAGER_PATH, MANAGER, member, "b", [False], timeout_s=min(left_s, self._call_timeout_s)
            )
        except OutcomeUnknown:
            # logind asks the bus who a caller is before it acts. It refuses one that has gone, so hanging up takes
            # back a request that it has not read yet.
            await self._hang_up(bus)
            raise
        except PowerError:
            if is_wall_set:
                # Left behind, it would be shown at somebody else's shutdown later.
                await self._set_wall_message(bus, "")
            raise

    async def _hang_up(self, bus: MessageBus) -> None:
        async with self._opening:
            if self._bus is bus:
                await self._let_go()

    async def _set_wall_message(self, bus: MessageBus, text: str) -> bool:
        try:
            await self._call_logind(
                bus, MANAGER_PATH, MANAGER, "SetWallMessage", "sb", [safe_text(text, None), True]
            )
        except PowerError as error:
            log.warning("The message for terminals was not set: %s", error)
            return False
        return True

    async def _log_off(self, permit: Permit) -> None:
        bus = await self._bus_in_time()
        targets = {session.id: session for session in await self._sessions(bus)}
        refusals: dict[str, str] = {}
        self._sessions_changed.clear()
        for session_id, session in targets.items():
            if session.is_closing:
                continue
            try:
                timeout_s = min(permit.check(), self._call_timeout_s)
                await self._call_logind(
                    bus, MANAGER_PATH, MANAGER, "TerminateSession", "s", [session_id], timeout_s=timeout_s
                )
            except _CallRefused as error:
                if error.error_name not in _GONE_ERRORS:
                    refusals[session_id] = str(error)
            except OutcomeUnknown:
                await self._hang_up(bus)
                raise
        left = await self._wait_logged_off(targets, refusals)
        if left:
            raise PowerError(still_on(left, refusals.values()))

    async def _wait_logged_off(
        self, targets: Mapping[str, Session], refusals: Mapping[str, str]
    ) -> list[Session]:
        """Waits until the sessions are gone, and returns those that are not in time or were refused.

        A session that is "closing" still has processes: it is gone when logind no longer knows it.
        """
        left = list(targets.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._log_off_timeout_s):
                while True:
                    sessions = await self._sessions(await self._bus_in_time())
                    left = [session for session in sessions if session.id in targets]
                    if set(refusals).issuperset(session.id for session in left):
                        break
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._sessions_changed.wait(), SESSIONS_POLL_S)
                    self._sessions_changed.clear()
        return left

    async def _sessions(self, bus: MessageBus) -> list[Session]:
        """Every session of a person, those that are closing too."""
        reply = await self._call_logind(bus, MANAGER_PATH, MANAGER, "ListSessions")
        sessions = []
        for session_id, _uid, _user, _seat, path in reply.body[0]:
            try:
                answer = await self._call_logind(bus, path, PROPERTIES, "GetAll", "s", [SESSION])
            except _CallRefused as error:
                if error.error_name in _GONE_ERRORS:
                    continue  # It ended since it was listed.
                raise
            properties = unpack_variants(answer.body[0])
            if (person := person_from_logind(properties)) is not None:
                sessions.append(Session(session_id, person, is_closing=is_closing(properties)))
        return sessions

    async def _blocking(self, bus: MessageBus) -> tuple[str, ...]:
        """Which programs block a shutdown, and why: ``Updates (installing)``."""
        reply = await self._call_logind(bus, MANAGER_PATH, MANAGER, "ListInhibitors")
        return tuple(
            safe_text(f"{who} ({why})", BLOCKING_CHARACTERS_MAX)
            for what, who, why, mode, *_ in reply.body[0]
            if "shutdown" in str(what).split(":") and str(mode).startswith("block")
        )[:BLOCKING_MAX]

    # The delay lock

    async def _take_inhibitor(self, bus: MessageBus) -> None:
        try:
            reply = await self._call_logind(
                bus, MANAGER_PATH, MANAGER, "Inhibit", "ssss", ["shutdown", "landline", INHIBIT_WHY, "delay"]
            )
        except PowerError as error:
            log.warning("No delay lock, a goodbye may come too late: %s", error)
            return
        if not reply.unix_fds:
            log.warning("No delay lock, a goodbye may come too late: logind sent no file descriptor.")
            return
        self._drop_inhibitor()
        self._inhibitor = reply.unix_fds[0]

    def _drop_inhibitor(self) -> None:
        if self._inhibitor is not None:
            descriptor, self._inhibitor = self._inhibitor, None
            os.close(descriptor)

    # The bus

    async def _connect(self) -> MessageBus:
        try:
            async with asyncio.timeout(self._call_timeout_s):
                return await MessageBus(
                    self._bus_address, bus_type=BusType.SYSTEM, negotiate_unix_fd=True
                ).connect()
        except TimeoutError as error:
            raise PowerError(f"The system bus did not answer in {self._call_timeout_s:g} s.") from error
        except (OSError, EOFError, DBusFastError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            raise PowerError(
                f"The system bus cannot be reached: {reason.lower()}; where there is no logind, choose another --power"
            ) from error

    async def _open_bus(self) -> MessageBus:
        """The connection, made again if it was lost. Raises :class:`PowerError`."""
        await self.open()
        if self._bus is None:  # It was closed meanwhile.
            raise PowerError("There is no connection to the system bus.")
        return self._bus

    async def _bus_in_time(self) -> MessageBus:
        """The connection; a bus or a logind that is being restarted is waited for."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._reconnect_timeout_s
        pause_s = RECONNECT_FIRST_S
        while True:
            try:
                return await self._open_bus()
            except PowerError:
                if loop.time() + pause_s > ends_at:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RECONNECT_CAP_S)

    def _handle_message(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.sender == BUS and message.interface == BUS and message.member == "NameOwnerChanged":
            if message.body[0] == SERVICE:
                self._owner = message.body[2] or None
                if self._owner is not None and self._bus is not None:
                    # A new logind knows nothing of our delay lock, and may not go down any more.
                    self._drop_inhibitor()
                    self._ask(self._look_at_logind(self._bus))
        # Anybody on the bus may send us a signal of this name; match rules filter broadcasts only.
        elif message.sender == self._owner and message.interface == MANAGER:
            self._handle_logind_signal(message)

    def _handle_logind_signal(self, message: Message) -> None:
        match (message.member, message.body):
            case ("PrepareForShutdownWithMetadata", [True, dict(metadata)]):
                self._kind = _KINDS.get(str(unpack_variants(metadata).get("type", "")))
            case ("PrepareForShutdown", [True]):
                self._set_going(SystemShutdown(self._kind))
                self._kind = None
            case ("PrepareForShutdown", [False]):
                log.info("The shutdown was called off.")
                self._set_going(None)
                if self._inhibitor is None and self._bus is not None:
                    self._ask(self._take_inhibitor(self._bus))
            case ("SessionRemoved", _):
                self._sessions_changed.set()

    def _set_going(self, going: SystemShutdown | None) -> None:
        self._going = going
        told, taken_back = (
            (self._called_off, self._announced) if going is None else (self._announced, self._called_off)
        )
        taken_back.clear()
        told.set()

    def _ask(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._asked)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, PowerError):
                raise error
            log.warning("logind was started again and does not answer: %s", error)

    async def _call_logind(
        self,
        bus: MessageBus,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Message:
        reply = await self._call(bus, SERVICE, path, interface, member, signature, body, timeout_s=timeout_s)
        self._owner = reply.sender
        return reply

    async def _call(
        self,
        bus: MessageBus,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Message:
        if not bus.connected:
            # A call on a connection that ended would never return.
            raise PowerError("There is no connection to the system bus.")
        timeout_s = self._call_timeout_s if timeout_s is None else timeout_s
        request = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body or [],
        )
        call = asyncio.ensure_future(bus.call(request))
        try:
            async with asyncio.timeout(timeout_s):
                reply = await asyncio.shield(call)
        except TimeoutError as error:
            call.add_done_callback(_drop_late_reply)
            raise OutcomeUnknown(
                f"logind did not answer {member} in {timeout_s:.3g} s; it may still do it."
            ) from error
        except asyncio.CancelledError:
            call.add_done_callback(_drop_late_reply)
            raise
        except (OSError, EOFError, DBusFastError) as error:
            raise OutcomeUnknown(f"The system bus was lost during {member}; it may still happen.") from error
        if reply is None:  # The library answers so when it was disconnected.
            raise OutcomeUnknown(f"The system bus was closed during {member}; it may still happen.")
        if reply.message_type is MessageType.ERROR:
            raise _CallRefused(member, reply)
        return reply


_BLOCKED: Final = frozenset({"inhibited", "inhibitor-blocked", "challenge-inhibitor-blocked"})
"""Answers of newer versions: another program holds a lock. The caller may override it, may not, or may with a
password; the agent never does."""


def unsupported_reason_from_can(action: Action, answer: str, blocking: Iterable[str] = ()) -> str | None:
    """What an answer of ``CanReboot``/``CanPowerOff`` means, as a sentence; ``None`` for "yes".

    ``blocking`` are the programs that hold a lock against it.
    """
    what = "restart" if action is Action.RESTART else "shut down"
    if answer in _BLOCKED:
        who = ", ".join(blocking) or "another program"
        return f"This machine must not {what} now: {who} blocks it. Try again when that is over."
    match answer:
        case "yes":
            return None
        case "challenge":
            return f"The agent may {what} this machine only after somebody typed a password; run it as root."
        case "no":
            return f"The agent is not allowed to {what} this machine."
        case "na":
            return f"This machine cannot {what}: its system says that it is not supported."
        case _:
            return (
                f"logind gave an answer that is not understood when asked whether it can {what}: {answer!r}."
            )


def still_on(left: Iterable[Session], refusals: Iterable[str]) -> str:
    """One sentence naming who is still logged on, and the first reason logind gave, if any."""
    names = ", ".join(
        f"{session.person.name} ({session.person.seat or f'session {session.id}'})"
        + (", whose session is closing" if session.is_closing else "")
        for session in left
    )
    reason = next(iter(refusals), "")
    return f"Still logged on: {names}." + (f" {reason}" if reason else "")


class _CallRefused(PowerError):
    """logind answered a call with an error."""

    def __init__(self, member: str, reply: Message) -> None:
        self.error_name = reply.error_name or ""
        text = str(reply.body[0]) if reply.body else self.error_name
        super().__init__(f"logind refused {member}: {text.rstrip('.')}.")


def _drop_late_reply(call: asyncio.Future[Message]) -> None:
    # A descriptor in a reply nobody waits for would hold up every shutdown for as long as we live.
    if call.cancelled() or call.exception() is not None:
        return
    reply: Message | None = call.result()
    for descriptor in reply.unix_fds if reply is not None else ():
        os.close(descriptor)


def _log_lost(lost: asyncio.Future[None]) -> None:
    if not lost.cancelled() and (error := lost.exception()) is not None:
        log.warning("The connection to the system bus was lost: %s", error)
