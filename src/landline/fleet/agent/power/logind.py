"""The power back end for Linux with systemd: logind on the system bus.

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
"""Time-out of one call. logind answers in milliseconds; polkit, which it may ask, in a second."""

LOG_OFF_TIMEOUT_S: Final = 30.0
"""Time in which sessions must end; desktops that ask to save files take longest."""

SESSIONS_POLL_S: Final = 1.0
"""Interval at which sessions are listed while they end, in case a signal is lost."""

RECONNECT_TIMEOUT_S: Final = 15.0
"""Time that a job waits for a bus or a logind that restarts, before it is refused; both take a few seconds."""

RECONNECT_FIRST_S: Final = 0.1
RECONNECT_CAP_S: Final = 2.0
"""Pause before the second attempt to reach the bus; doubled up to the cap."""

JOBS_TIMEOUT_S: Final = 1.0
"""Time-out for listing systemd's jobs: the agent that asks is about to be killed."""

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
"""How many programs that block a shutdown are named, and the length of each name."""

INHIBIT_WHY: Final = "Say goodbye to the control server"

_GONE_ERRORS: Final = frozenset(
    {f"{SERVICE}.NoSuchSession", f"{BUS}.Error.UnknownObject", f"{BUS}.Error.UnknownMethod"}
)

_SHUTDOWN_TYPES: Final = {
    "poweroff": Action.SHUT_DOWN,
    "halt": Action.SHUT_DOWN,
    "reboot": Action.RESTART,
    "kexec": Action.RESTART,
    "soft-reboot": Action.RESTART,
}
"""The names in logind's ``PrepareForShutdownWithMetadata`` (since systemd 255) and of systemd's targets."""

log: Final = guarded_logger(__name__)


class LogindSession(msgspec.Struct, frozen=True):
    """A logind session that belongs to a person."""

    id: str
    person: Person
    is_closing: bool = False
    """Whether it is logged off, while some of its processes still run."""


class LogindPower:
    """Restarts, shuts down and logs off through logind.

    If the bus connection is lost, the next call that needs it connects again. :meth:`unsupported_reason` and the
    preparations of :meth:`act` wait ``reconnect_timeout_s`` for a bus that restarts; all other methods try once.

    :param bus_address: replaces the address of the system bus.
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
        """Done when the connection to the bus has ended."""
        self._owner: str | None = None
        """The unique name of logind on the bus: signals from other senders are ignored."""
        self._inhibitor: int | None = None
        self._asking: set[asyncio.Task[None]] = set()
        """Calls that a signal made necessary: taking the delay lock again, or asking a new logind."""
        self._shutdown: SystemShutdown | None = None
        self._announced_type: Action | None = None
        """The type from the newer signal, which comes directly before the older one that announces the shutdown."""
        self._announced = asyncio.Event()
        self._cancelled = asyncio.Event()
        self._cancelled.set()
        self._sessions_changed = asyncio.Event()

    async def open(self) -> None:
        """Connect to the bus, subscribe to logind's signals and take the delay lock. Do nothing when already open.

        A refused delay lock is only logged: the machine can still be restarted, but a goodbye may come too late.
        Cancelling leaves the back end closed.

        :raises PowerError: if there is no bus or no logind.
        """
        async with self._opening:
            if self._bus is not None and self._bus.connected:
                return
            await self._release()
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
                await self._ask_logind_state(bus)
            except BaseException:
                await self._release()
                raise

    async def close(self) -> None:
        """Release the delay lock and the bus. Idempotent, also before :meth:`open`."""
        await self._release()

    async def _release(self) -> None:
        for task in self._asking:
            task.cancel()
        self._drop_inhibitor()
        bus, lost = self._bus, self._lost
        self._bus = self._lost = self._owner = None
        if bus is None or lost is None:
            return
        bus.disconnect()
        # The library closes the socket when it reads its end, which may never come from a broken loop or bus.
        await asyncio.wait({lost}, timeout=self._call_timeout_s)
        lost.cancel()

    async def _ask_logind_state(self, bus: MessageBus) -> None:
        """Ask a new logind whether the system is shutting down; take the delay lock if it is not.

        This also starts logind where the bus does that on demand, and shows its unique name. It makes up for
        announcements and cancellations that were missed.
        """
        is_preparing = await self._is_preparing(bus)
        if is_preparing:
            self._set_shutdown(self._shutdown or SystemShutdown(self._announced_type))
        else:
            self._set_shutdown(None)
            await self._take_inhibitor(bus)

    async def _is_preparing(self, bus: MessageBus) -> bool:
        reply = await self._call_logind(
            bus, MANAGER_PATH, PROPERTIES, "Get", "ss", [MANAGER, "PreparingForShutdown"]
        )
        return bool(unpack_variants(reply.body) == [True])

    async def persons(self) -> tuple[Person, ...]:
        """Return the persons of all sessions that are not closing. Raise :class:`PowerError`."""
        sessions = await self._sessions(await self._open_bus())
        return tuple(session.person for session in sessions if not session.is_closing)

    async def unsupported_reason(self, action: Action) -> str | None:
        """Return why ``action`` cannot be done here, or ``None``; asks ``CanReboot`` and ``CanPowerOff``.

        If logind does not answer, that is the reason; so this raises no :class:`PowerError`.
        """
        if action is Action.LOG_OFF:
            # logind has no "Can" method for this.
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
        """Carry out ``action``. Cancelling stops the waiting, not the action.

        Restart and shut down return when logind has accepted them. Log off returns when the sessions of all persons
        have ended, local and remote.

        :param reason: shown on terminals as the wall message.
        :raises PowerError: if logind refuses, if the permit expired before logind was asked, or if persons are still
            logged on after ``log_off_timeout_s``.
        :raises OutcomeUnknown: if logind does not answer while the permit is valid.
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
        """Return after ``PrepareForShutdown(true)``, also if it came before the call and was not cancelled since.

        logind then waits while the delay lock is held, by default at most 5 s (``InhibitDelayMaxSec=``). When a
        shutdown is cancelled, the lock is taken again. Cancelling this method is safe.

        :raises PowerError: if the bus is lost or closed, as no announcement can arrive then.
        """
        await self._wait_for(self._announced)
        return self._shutdown or SystemShutdown()

    async def wait_for_cancellation(self) -> None:
        """Return after ``PrepareForShutdown(false)``, or when a restarted logind reports no shutdown."""
        await self._wait_for(self._cancelled)

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
        """Release the delay lock, so that the shutdown continues. Idempotent."""
        self._drop_inhibitor()

    async def pending_shutdown(self) -> SystemShutdown | None:
        """Return the shutdown that logind announced; if it did not tell the type, the one that systemd has begun.

        :raises PowerError: if neither answers.
        """
        going = self._shutdown
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
            action = _SHUTDOWN_TYPES.get(str(unit).removesuffix(".target"))
            if action is not None and kind == "start":
                return SystemShutdown(action)
        return going

    # Actions

    async def _go_down(self, member: str, reason: str, permit: Permit) -> None:
        bus = await self._bus_in_time()
        is_wall_set = bool(reason) and await self._set_wall_message(bus, reason)
        try:
            # Detects a logind that hangs before the call that matters.
            await self._is_preparing(bus)
            left_s = permit.check()
            # False: polkit must not ask for a password, as there may be no person to type it.
            await self._call_logind(
                bus, MANAGER_PATH, MANAGER, member, "b", [False], timeout_s=min(left_s, self._call_timeout_s)
            )
        except OutcomeUnknown:
            # Before logind acts, it asks the bus who the caller is, and refuses a caller that has left. So
            # disconnecting takes back a request that logind has not read yet.
            await self._disconnect(bus)
            raise
        except PowerError:
            if is_wall_set:
                # Otherwise the message would be shown at a later shutdown.
                await self._set_wall_message(bus, "")
            raise

    async def _disconnect(self, bus: MessageBus) -> None:
        async with self._opening:
            if self._bus is bus:
                await self._release()

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
                await self._disconnect(bus)
                raise
        left = await self._wait_logged_off(targets, refusals)
        if left:
            raise PowerError(still_on(left, refusals.values()))

    async def _wait_logged_off(
        self, targets: Mapping[str, LogindSession], refusals: Mapping[str, str]
    ) -> list[LogindSession]:
        """Wait until the sessions have ended; return those that have not ended in time or were refused.

        A session that is "closing" still has processes: it has ended when logind no longer lists it.
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

    async def _sessions(self, bus: MessageBus) -> list[LogindSession]:
        """Return all sessions of persons, also those that are closing."""
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
                sessions.append(LogindSession(session_id, person, is_closing=is_closing(properties)))
        return sessions

    async def _blocking(self, bus: MessageBus) -> tuple[str, ...]:
        """Return the programs that block a shutdown, each with its reason: ``Updates (installing)``."""
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
        """Return the connection; connect again if it was lost. Raise :class:`PowerError`."""
        await self.open()
        if self._bus is None:  # It was closed meanwhile.
            raise PowerError("There is no connection to the system bus.")
        return self._bus

    async def _bus_in_time(self) -> MessageBus:
        """Return the connection; wait for a bus or a logind that restarts."""
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
                    # A new logind does not know this delay lock, and may have dropped the shutdown.
                    self._drop_inhibitor()
                    self._ask(self._ask_logind_state(self._bus))
        # Any process on the bus may send a signal of this name; match rules filter broadcasts only.
        elif message.sender == self._owner and message.interface == MANAGER:
            self._handle_logind_signal(message)

    def _handle_logind_signal(self, message: Message) -> None:
        match (message.member, message.body):
            case ("PrepareForShutdownWithMetadata", [True, dict(metadata)]):
                self._announced_type = _SHUTDOWN_TYPES.get(str(unpack_variants(metadata).get("type", "")))
            case ("PrepareForShutdown", [True]):
                self._set_shutdown(SystemShutdown(self._announced_type))
                self._announced_type = None
            case ("PrepareForShutdown", [False]):
                log.info("The shutdown was cancelled.")
                self._set_shutdown(None)
                if self._inhibitor is None and self._bus is not None:
                    self._ask(self._take_inhibitor(self._bus))
            case ("SessionRemoved", _):
                self._sessions_changed.set()

    def _set_shutdown(self, shutdown: SystemShutdown | None) -> None:
        self._shutdown = shutdown
        to_set, to_clear = (
            (self._cancelled, self._announced) if shutdown is None else (self._announced, self._cancelled)
        )
        to_clear.clear()
        to_set.set()

    def _ask(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._asked)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, PowerError):
                raise error
            log.warning("logind restarted and does not answer: %s", error)

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
"""Answers of newer versions: another program holds a lock. The caller may override it, may not, or may with a password;
the agent never does."""


def unsupported_reason_from_can(action: Action, answer: str, blocking: Iterable[str] = ()) -> str | None:
    """Return what an answer of ``CanReboot`` or ``CanPowerOff`` means, as a sentence; ``None`` for "yes".

    :param blocking: the programs that hold a lock against it.
    """
    what = "restart" if action is Action.RESTART else "shut down"
    if answer in _BLOCKED:
        who = ", ".join(blocking) or "another program"
        return f"This machine must not {what} now: {who} blocks it. Try again when that is over."
    match answer:
        case "yes":
            return None
        case "challenge":
            return f"The agent may {what} this machine only after a password was typed; run it as root."
        case "no":
            return f"The agent is not allowed to {what} this machine."
        case "na":
            return f"This machine cannot {what}: its system says that it is not supported."
        case _:
            return f"logind gave an unknown answer when asked whether it can {what}: {answer!r}."


def still_on(left: Iterable[LogindSession], refusals: Iterable[str]) -> str:
    """Return a sentence with who is still logged on and the first reason that logind gave, if any."""
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
    # A descriptor in an unexpected reply would delay every shutdown while this process runs.
    if call.cancelled() or call.exception() is not None:
        return
    reply: Message | None = call.result()
    for descriptor in reply.unix_fds if reply is not None else ():
        os.close(descriptor)


def _log_lost(lost: asyncio.Future[None]) -> None:
    if not lost.cancelled() and (error := lost.exception()) is not None:
        log.warning("The connection to the system bus was lost: %s", error)
