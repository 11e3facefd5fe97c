"""What a line does with the events of its session: messages go to handlers and readers, everything else has a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from landline.codes import Code, Operation
from landline.line.codec import decode_value
from landline.line.datagrams import handle_datagrams
from landline.line.dispatcher import Dispatcher
from landline.line.handlers import FAILURES
from landline.line.inbox import Inbox
from landline.line.interfaces import Driver
from landline.line.line_state import DisconnectCause, LineState, StateChange
from landline.line.link import TransportLink
from landline.line.pending_pings import PendingPings
from landline.line.pending_requests import PendingRequests
from landline.runtime.guarded_log import guarded_logger
from landline.runtime.turns import FRAMES_PER_STEP, FRAMES_PER_TURN, LARGE_READ_BYTES
from landline.session.events import (
    Ended,
    EofReceived,
    Event,
    MessageReceived,
    NoticeReceived,
    PeerSilent,
    PongReceived,
    Recovered,
    Suspected,
)
from landline.session.session import Session

logger: Final = guarded_logger("landline")

# Looked up once: an enum's attribute costs as much as a function call.
_MESSAGE = Operation.MESSAGE


class EventDriver(Driver, Protocol):
    """What a driver offers to the functions of this module. Parts that were not needed yet are ``None``."""

    @property
    def link(self) -> TransportLink | None:
        """The current transport."""

    @property
    def dispatcher(self) -> Dispatcher | None:
        """The handlers that run."""

    @property
    def pending_requests(self) -> PendingRequests | None:
        """This side's requests."""

    @property
    def pending_pings(self) -> PendingPings | None:
        """This side's pings."""

    def open_dispatcher(self) -> Dispatcher:
        """Return the dispatcher; create it if needed."""

    def open_inbox(self) -> Inbox:
        """Return the messages without a handler; create their list if needed."""

    def change(self, change: StateChange) -> None:
        """Enter a state and notify the host and the user."""

    def fail_requests(self, why: str) -> None:
        """Fail this side's requests that have no answer yet."""

    def abort(self, code: Code, reason: str = "") -> object:
        """Close the line at once with a BYE."""

    def drop_link(self, cause: DisconnectCause, detail: str) -> None:
        """Abort the transport; the session can be resumed on the next one."""

    def receive_end(self, ended: Ended) -> None:
        """Close the transport, and let the host decide what follows."""


# Frames


def handle_frames(
    driver: EventDriver, session: Session, link: TransportLink, data: bytes, now: float
) -> float:
    """Handle frames for one turn of the event loop. Return the time of the last look at the clock."""
    line, host = driver.line, driver.host
    turns, wheel, handlers = host.turns, host.wheel, host.handlers
    plain_message = handlers.plain_message
    objects_max = handlers.message_objects
    ack = session.inbound.ack
    size = len(data)
    steps = FRAMES_PER_TURN // FRAMES_PER_STEP
    while True:
        session.receive_data(data, now, frames_max=FRAMES_PER_STEP)
        if session.has_datagrams:
            handle_datagrams(driver, line, session, handlers)
        for event in session.next_events():
            if type(event) is not MessageReceived:
                handle_event(driver, event)
            elif (
                # A shorter way for the most common case; dispatch_message would do the same.
                event.operation is _MESSAGE
                and plain_message is not None
                and not event.name
                and (driver.dispatcher is None or not driver.dispatcher.has_backlog)
            ):
                ack(event)
                try:
                    plain_message(
                        line,
                        decode_value(event.body, True, objects_max) if event.is_packed else event.body,
                    )
                except FAILURES as error:
                    driver.open_dispatcher().log_failed(event, error)
            else:
                dispatch_message(driver, line, event)
        if not session.inbound.has_unread:
            if size >= LARGE_READ_BYTES and not turns.has_time():
                link.wait(turns, 0)
            return now
        steps -= 1
        if not steps or not turns.has_time():
            link.wait(turns, session.inbound.unread_bytes)
            return now
        data = b""
        now = wheel.time()


# Messages


def dispatch_message(driver: EventDriver, line: Any, message: MessageReceived) -> None:
    """Pass a message of any operation to its handler, its reader, or the request that it answers."""
    operation = message.operation
    if operation is _MESSAGE:
        handler = driver.host.handlers.find(message.name)
        if handler is not None:
            driver.open_dispatcher().receive_message(line, message, handler)
        elif message.name:
            driver.ack(message)
            driver.log_peer_error("%r sent a message named %r, for which there is no handler", message.name)
        else:
            driver.open_inbox().put(message)
    elif operation is Operation.REQUEST:
        if not driver.open_dispatcher().receive_request(line, message):
            driver.abort(Code.PROTOCOL_ERROR, "two requests with one correlation id")
    elif operation is Operation.CANCEL:
        driver.ack(message)
        driver.open_dispatcher().cancel_request(message.correlation)
    else:
        driver.ack(message)
        if driver.pending_requests is not None:
            driver.pending_requests.receive_answer(message)


# Other events


def handle_event(driver: EventDriver, event: Event) -> None:
    """Handle an event that is not a message."""
    _HANDLERS[type(event)](driver, event)


def _receive_pong(driver: EventDriver, event: PongReceived) -> None:
    if driver.pending_pings is not None:
        driver.pending_pings.receive_pong(event)


def _enter_suspect(driver: EventDriver, event: Suspected) -> None:
    detail = f"nothing heard for {event.silence_s:.1f} s"
    driver.change(StateChange(state=LineState.SUSPECT, cause=DisconnectCause.SILENT, detail=detail))


def _enter_online(driver: EventDriver, event: Recovered) -> None:
    epoch = driver.session.epoch if driver.session is not None else 0
    driver.change(StateChange(state=LineState.ONLINE, resumed=True, epoch=epoch))


def _drop_silent_link(driver: EventDriver, event: PeerSilent) -> None:
    driver.drop_link(DisconnectCause.SILENT, f"nothing heard for {event.silence_s:.1f} s")


def _receive_eof(driver: EventDriver, event: EofReceived) -> None:
    # The peer sends neither messages nor answers any more.
    driver.open_inbox().receive_eof()
    driver.fail_requests("the peer said it sends no more")


def _log_notice(driver: EventDriver, event: NoticeReceived) -> None:
    link = driver.link
    if link is not None and not link.has_logged_notice:
        # Once for each transport: a peer must not be able to fill the log.
        link.has_logged_notice = True
        logger.warning("%r: the peer warns: %s (%s)", driver, event.reason, event.code.name)


def _receive_end(driver: EventDriver, event: Ended) -> None:
    driver.receive_end(event)


_HANDLERS: Final[dict[type[Event], Callable[[EventDriver, Any], None]]] = {
    PongReceived: _receive_pong,
    Suspected: _enter_suspect,
    Recovered: _enter_online,
    PeerSilent: _drop_silent_link,
    EofReceived: _receive_eof,
    NoticeReceived: _log_notice,
    Ended: _receive_end,
}
