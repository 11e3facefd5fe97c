"""The power switch of a Linux machine with systemd: logind on the system bus.

Method, property and signal names are those of org.freedesktop.login1(5); the delay lock is described under
"Inhibitor Locks" of the systemd documentation. The bus is the system bus, or the one named by the environment
variable ``DBUS_SYSTEM_BUS_ADDRESS``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError
from dbus_fast.unpack import unpack_variants

from landline.fleet.agent.power import OutcomeUnknown, PowerError
from landline.fleet.agent.power.logged_on import person_from_session
from landline.fleet.model import Action, Person

CALL_TIMEOUT_S: Final = 10.0
"""How long one call may take. logind answers in milliseconds; polkit, which it may ask, in a second."""

LOG_OFF_TIMEOUT_S: Final = 30.0
"""How long sessions may take to end; desktops that ask to save files take longest."""

SESSIONS_POLL_S: Final = 1.0
"""How often sessions are listed again while waiting: turning to "closing" is not signalled as removed."""

SERVICE: Final = "org.freedesktop.login1"
MANAGER_PATH: Final = "/org/freedesktop/login1"
MANAGER: Final = "org.freedesktop.login1.Manager"
SESSION: Final = "org.freedesktop.login1.Session"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
BUS: Final = "org.freedesktop.DBus"

INHIBIT_WHY: Final = "Say goodbye to the control server"

_GONE_ERRORS: Final = frozenset(
    {f"{SERVICE}.NoSuchSession", f"{BUS}.Error.UnknownObject", f"{BUS}.Error.UnknownMethod"}
)

log = logging.getLogger(__name__)


class Session(msgspec.Struct, frozen=True):
    """A logind session with a person behind it."""

    id: str
    person: Person


class LogindPower:
    """Restart, shut down and log off through logind.

    ``bus_address`` replaces the system bus. After the bus was lost, every method raises :class:`PowerError`
    (none waits for it to come back) until :meth:`open` is called again.
    """

    name = "logind"

    def __init__(
        self,
        *,
        bus_address: str | None = None,
        call_timeout_s: float = CALL_TIMEOUT_S,
        log_off_timeout_s: float = LOG_OFF_TIMEOUT_S,
    ) -> None:
        self._bus_address = bus_address
        self._call_timeout_s = call_timeout_s
        self._log_off_timeout_s = log_off_timeout_s
        self._bus: MessageBus | None = None
        self._lost: asyncio.Future[None] | None = None
        """Done once the connection to the bus ended."""
        self._owner: str | None = None
        """The unique name of logind on the bus: signals are believed from it alone."""
        self._inhibitor: int | None = None
        self._inhibiting: asyncio.Task[None] | None = None
        self._announced = asyncio.Event()
        self._sessions_changed = asyncio.Event()

    async def open(self) -> None:
        """Connects to the bus, listens to logind and takes the delay lock. Does nothing when already open.

        Raises :class:`PowerError` when there is no bus or no logind. A refused delay lock is only logged: the
        machine can still be restarted, but a goodbye may come too late. Cancelling leaves it closed.
        """
        if self._bus is not None and self._bus.connected:
            return
        await self.close()
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
                await self._call(BUS, "/org/freedesktop/DBus", BUS, "AddMatch", "s", [rule])
            # Also starts logind where the bus starts it on demand, and tells its unique name.
            preparing = await self._call_logind(
                MANAGER_PATH, PROPERTIES, "Get", "ss", [MANAGER, "PreparingForShutdown"]
            )
            if unpack_variants(preparing.body) == [True]:
                self._announced.set()
            else:
                await self._take_inhibitor()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Lets go of the delay lock and of the bus; safe to call twice and before :meth:`open`."""
        if self._inhibiting is not None:
            self._inhibiting.cancel()
            self._inhibiting = None
        self._drop_inhibitor()
        self._announced.clear()
        bus, lost = self._bus, self._lost
        self._bus = self._lost = self._owner = None
        if bus is None or lost is None:
            return
        bus.disconnect()
        # The library closes the socket when it reads its end, which a broken loop or bus might never deliver.
        await asyncio.wait({lost}, timeout=self._call_timeout_s)
        lost.cancel()

    async def persons(self) -> tuple[Person, ...]:
        """Who is logged on now: sessions of a person that are not closing. Raises :class:`PowerError`."""
        return tuple(session.person for session in await self._sessions())

    async def refusal(self, action: Action) -> str | None:
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
            reply = await self._call_logind(MANAGER_PATH, MANAGER, member)
        except PowerError as error:
            return str(error)
        return refusal_from_can(action, str(reply.body[0]))

    async def act(self, action: Action, *, reason: str) -> None:
        """Carries out ``action``; ``reason`` is shown on terminals as the wall message.

        Restart and shut down return when logind accepted them. Log off returns when every person's session is
        gone, local and remote. Raises :class:`PowerError` when logind refuses, does not answer (what becomes
        of the action is then unknown, and said so) or, after ``log_off_timeout_s``, naming who is still
        logged on. Cancelling stops the waiting, not the action.
        """
        match action:
            case Action.LOG_OFF:
                await self._log_off()
            case Action.RESTART:
                await self._go_down("Reboot", reason)
            case Action.SHUT_DOWN:
                await self._go_down("PowerOff", reason)
            case _:
                raise PowerError("A machine that is on cannot be woken.")

    async def wait_going_down(self) -> None:
        """Returns on ``PrepareForShutdown(true)``, once for each announcement, even one made before the call.

        While the delay lock is held logind then waits, by default at most 5 s (``InhibitDelayMaxSec=``). A
        shutdown that is called off takes the lock again, and this may be awaited again. Raises
        :class:`PowerError` when the bus is lost or closed, so that nothing waits for an announcement that
        cannot come. Cancelling is safe.
        """
        self._connected_bus()
        assert self._lost is not None
        announced = asyncio.ensure_future(self._announced.wait())
        waiting: set[asyncio.Future[Any]] = {announced, self._lost}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            announced.cancel()
        if not self._announced.is_set() and not announced.done():
            raise PowerError("The connection to the system bus was lost; shutdowns are no longer announced.")
        self._announced.clear()

    async def release_going_down(self) -> None:
        """Gives the delay lock back, so that the system goes on with going down; safe to call twice."""
        self._drop_inhibitor()

    # Actions

    async def _go_down(self, member: str, reason: str) -> None:
        is_wall_set = bool(reason) and await self._set_wall_message(reason)
        try:
            # False: polkit must not ask anybody for a password, there may be nobody.
            await self._call_logind(MANAGER_PATH, MANAGER, member, "b", [False])
        except PowerError:
            if is_wall_set:
                # Left behind, it would be shown at somebody else's shutdown later.
                await self._set_wall_message("")
            raise

    async def _set_wall_message(self, text: str) -> bool:
        try:
            await self._call_logind(MANAGER_PATH, MANAGER, "SetWallMessage", "sb", [printable(text), True])
        except PowerError as error:
            log.warning("The message for terminals was not set: %s", error)
            return False
        return True

    async def _log_off(self) -> None:
        targets = {session.id: session for session in await self._sessions()}
        refusals: dict[str, str] = {}
        self._sessions_changed.clear()
        for session_id in targets:
            try:
                await self._call_logind(MANAGER_PATH, MANAGER, "TerminateSession", "s", [session_id])
            except _CallRefused as error:
                if error.error_name not in _GONE_ERRORS:
                    refusals[session_id] = str(error)
        left = list(targets.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._log_off_timeout_s):
                while True:
                    left = [session for session in await self._sessions() if session.id in targets]
                    if set(refusals).issuperset(session.id for session in left):
                        break
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._sessions_changed.wait(), SESSIONS_POLL_S)
                    self._sessions_changed.clear()
        if left:
            raise PowerError(still_on(left, refusals.values()))

    async def _sessions(self) -> list[Session]:
        reply = await self._call_logind(MANAGER_PATH, MANAGER, "ListSessions")
        sessions = []
        for session_id, _uid, _user, _seat, path in reply.body[0]:
            try:
                properties = await self._call_logind(path, PROPERTIES, "GetAll", "s", [SESSION])
            except _CallRefused as error:
                if error.error_name in _GONE_ERRORS:
                    continue  # It ended since it was listed.
                raise
            person = person_from_session(unpack_variants(properties.body[0]))
            if person is not None:
                sessions.append(Session(session_id, person))
        return sessions

    # The delay lock

    async def _take_inhibitor(self) -> None:
        try:
            reply = await self._call_logind(
                MANAGER_PATH, MANAGER, "Inhibit", "ssss", ["shutdown", "landline", INHIBIT_WHY, "delay"]
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

    def _connected_bus(self) -> MessageBus:
        # A call on a connection that ended would never return.
        if self._bus is None or not self._bus.connected:
            raise PowerError("There is no connection to the system bus.")
        return self._bus

    def _handle_message(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.sender == BUS and message.interface == BUS and message.member == "NameOwnerChanged":
            if message.body[0] == SERVICE:
                self._owner = message.body[2] or None
        # Anybody on the bus may send us a signal of this name; match rules filter broadcasts only.
        elif message.sender == self._owner and message.interface == MANAGER:
            self._handle_logind_signal(message)

    def _handle_logind_signal(self, message: Message) -> None:
        match (message.member, message.body):
            case ("PrepareForShutdown", [True]):
                self._announced.set()
            case ("PrepareForShutdown", [False]):
                log.info("The shutdown was called off.")
                self._announced.clear()
                if self._inhibitor is None:
                    self._inhibiting = asyncio.ensure_future(self._take_inhibitor())
            case ("SessionRemoved", _):
                self._sessions_changed.set()

    async def _call_logind(
        self, path: str, interface: str, member: str, signature: str = "", body: list[Any] | None = None
    ) -> Message:
        reply = await self._call(SERVICE, path, interface, member, signature, body)
        self._owner = reply.sender
        return reply

    async def _call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
    ) -> Message:
        bus = self._connected_bus()
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
            async with asyncio.timeout(self._call_timeout_s):
                reply = await asyncio.shield(call)
        except TimeoutError as error:
            call.add_done_callback(_drop_late_reply)
            raise OutcomeUnknown(
                f"logind did not answer {member} in {self._call_timeout_s:g} s; it may still do it."
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


def refusal_from_can(action: Action, answer: str) -> str | None:
    """What an answer of ``CanReboot``/``CanPowerOff`` means, as a sentence; ``None`` for "yes"."""
    what = "restart" if action is Action.RESTART else "shut down"
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
        f"{session.person.name} ({session.person.seat or f'session {session.id}'})" for session in left
    )
    reason = next(iter(refusals), "")
    return f"Still logged on: {names}." + (f" {reason}" if reason else "")


def printable(text: str) -> str:
    """``text`` with everything that could steer a terminal replaced by a space."""
    return "".join(character if character.isprintable() else " " for character in text)


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
