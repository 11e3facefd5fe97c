"""The driver of a line: moves bytes between a session and its transports.

The session decides; the driver does the I/O, from the first transport of the line to its end. It has no task of its
own: it runs in callbacks of the transport, of the timer wheel and of the flush queue, and in calls of the line and its
host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from landline.codes import Code, Operation
from landline.errors import BufferFull, LineClosed, Unconfirmed
from landline.line.datagrams import handle_datagrams, send_datagram
from landline.line.dispatcher import Dispatcher
from landline.line.flow_control import OverflowPolicy, SendFlowControl, check_policy
from landline.line.handlers import RESERVED_PREFIX, call_back
from landline.line.inbox import Inbox
from landline.line.interfaces import LineHost
from landline.line.line_state import DisconnectCause, LineState, StateChange
from landline.line.link import TransportLink
from landline.line.pending_pings import PendingPings
from landline.line.pending_requests import PendingRequests
from landline.line.session_events import handle_event, handle_frames
from landline.session.constants import LAG_TOLERANCE_S, WRITE_BYTES
from landline.session.events import Ended, MessageReceived
from landline.session.session import Session
from landline.session.state import State
from landline.texts import safe_text

# Looked up once: an enum's attribute costs as much as a function call.
_CLOSED = LineState.CLOSED
_SESSION_CLOSED = State.CLOSED
_MESSAGE = Operation.MESSAGE
_WAIT = OverflowPolicy.WAIT
_DROP_OLDEST = OverflowPolicy.DROP_OLDEST
_DISCONNECT = OverflowPolicy.DISCONNECT


class LineDriver:
    """The machinery of one :class:`landline.Line`. Its host calls it, and so does its transport, by its link.

    Its parts are created when first needed: most lines are idle most of the time.

    :param line: what handlers and the host are called with.
    """

    __slots__ = (
        "_datagrams_dropped",
        "_datagrams_ignored",
        "_expires_at",
        "_flow",
        "_flush_scheduled",
        "_in_batch",
        "_peer",
        "_written_turn",
        "callback",
        "dispatcher",
        "error",
        "host",
        "identity",
        "inbox",
        "last_change",
        "line",
        "link",
        "pending_pings",
        "pending_requests",
        "session",
        "state",
        "timer_tick",
    )

    def __init__(self, line: Any, host: LineHost[Any], *, identity: str, state: LineState) -> None:
        self.line: Any = line
        """``None`` once the line is closed, so that a closed line is freed when its user lets go of it."""
        self.host: LineHost[Any] = host
        self.identity: str = identity
        self.session: Session | None = None
        self.link: TransportLink | None = None
        self.state: LineState = state
        self.last_change: StateChange | None = None
        self.error: Exception | None = None
        self.callback: Callable[[Any, StateChange], None] | None = None
        """Called on every change of state."""
        self.timer_tick: int | None = None
        self._expires_at: float | None = None
        self._peer = ""
        self._flush_scheduled = False
        # The iteration of the event loop in which a broadcast was written at once.
        self._written_turn = 0
        # Whether received frames are being handled; everything is written at their end.
        self._in_batch = False
        # Of earlier sessions, and of the time between two.
        self._datagrams_dropped = 0
        self._datagrams_ignored = 0
        self._flow: SendFlowControl | None = None
        self.dispatcher: Dispatcher | None = None
        self.inbox: Inbox | None = None
        self.pending_requests: PendingRequests | None = None
        self.pending_pings: PendingPings | None = None

    def __repr__(self) -> str:
        # The peer may have chosen both.
        return f"<Line {safe_text(self.identity or self.peer or 'new')} {self.state.value}>"

    # Properties

    @property
    def is_closed(self) -> bool:
        """Whether the line is closed."""
        return self.state is _CLOSED

    @property
    def is_attached(self) -> bool:
        """Whether a transport carries the session now."""
        return self.session is not None and self.session.is_attached

    @property
    def is_at_eof(self) -> bool:
        """Whether the peer has sent EOF."""
        return self.inbox is not None and self.inbox.is_at_eof

    @property
    def has_ended(self) -> bool:
        """Whether nothing more can be sent in the current or last session."""
        session = self.session
        return self.state is _CLOSED or session is None or session.state is _SESSION_CLOSED

    @property
    def peer(self) -> str:
        """See :attr:`landline.Line.peer`."""
        if self.link is not None:
            self._peer = self.link.peer
        return self._peer

    @property
    def messages_dropped(self) -> int:
        """See :attr:`landline.Line.messages_dropped`."""
        return self._flow.messages_dropped if self._flow is not None else 0

    @property
    def datagrams_dropped(self) -> int:
        """See :attr:`landline.Line.datagrams_dropped`."""
        session = self.session
        return self._datagrams_dropped + (session.datagrams_dropped if session is not None else 0)

    @property
    def datagrams_ignored(self) -> int:
        """See :attr:`landline.Line.datagrams_ignored`."""
        session = self.session
        return self._datagrams_ignored + (session.datagrams_ignored if session is not None else 0)

    @property
    def held_bytes(self) -> int:
        """About how much memory the line holds: messages in both directions, and those that handlers work on."""
        session, dispatcher = self.session, self.dispatcher
        held = session.held_bytes if session is not None else 0
        return held if dispatcher is None else held + dispatcher.held_bytes

    def unconfirmed_messages(self) -> tuple[Unconfirmed, ...]:
        """Return the unconfirmed messages of the session that must be reported.

        Requests, and the library's own messages, are reported by the exception of the call they belong to.
        """
        if self.session is None:
            return ()
        return tuple(
            entry
            for entry in self.session.outbound.unconfirmed(operation=_MESSAGE)
            if not entry.name.startswith(RESERVED_PREFIX)
        )

    def refine_held_bytes(self) -> None:
        """Make :attr:`held_bytes` more exact, at some cost; before that it may be far too large."""
        if self.dispatcher is not None:
            self.dispatcher.refine_held_bytes()

    # Parts, created when first needed

    def open_inbox(self) -> Inbox:
        """Return the messages without a handler."""
        if self.inbox is None:
            self.inbox = Inbox(self)
        return self.inbox

    def open_pending_requests(self) -> PendingRequests:
        """Return this side's requests."""
        if self.pending_requests is None:
            self.pending_requests = PendingRequests(self)
        return self.pending_requests

    def open_pending_pings(self) -> PendingPings:
        """Return this side's pings."""
        if self.pending_pings is None:
            self.pending_pings = PendingPings(self)
        return self.pending_pings

    def open_dispatcher(self) -> Dispatcher:
        """Return what runs the handlers."""
        if self.dispatcher is None:
            self.dispatcher = Dispatcher(self)
        return self.dispatcher

    @property
    def _flow_control(self) -> SendFlowControl:
        if self._flow is None:
            self._flow = SendFlowControl(self)
        return self._flow

    # Transports and sessions

    def attach(
        self,
        session: Session,
        transport: asyncio.Transport,
        *,
        epoch: int,
        peer_received: int,
        phase: float,
        resumed: bool,
        round_trip_s: float | None = None,
        trailing_data: bytes = b"",
    ) -> None:
        """Attach a session to a transport whose handshake is done.

        :param trailing_data: bytes received after the handshake.
        :raises ProtocolError: when the peer cannot have received what it claims; then nothing has changed.
        """
        now = self.host.wheel.time()
        session.attach(now, epoch=epoch, peer_received=peer_received, phase=phase, round_trip_s=round_trip_s)
        self.session = session
        self._expires_at = None
        old = self.link
        if old is not None:
            old.close_replaced(self.host.closer, session)
        link = self.link = TransportLink(self, transport)
        transport.set_protocol(link)
        self.change(StateChange(state=LineState.ONLINE, resumed=resumed, epoch=epoch))
        if trailing_data:
            link.data_received(trailing_data)
        if self._flow is not None:
            # For senders that waited for a new session: acknowledgements of the old one will not wake them.
            self._flow.receive_acks(session)
        due = session.next_timeout()
        if due is not None:
            self.host.wheel.schedule(self, due)
        self._flush(now)

    def break_link(self, detail: str) -> None:
        """See :meth:`landline.Line.break_link`."""
        self.drop_link(DisconnectCause.LINK_LOST, detail)

    def expire_at(self, due: float) -> None:
        """Call the host's ``line_expired`` at that time unless a transport is attached before."""
        self._expires_at = due
        self.host.wheel.schedule(self, due)

    def discard_session(self, why: str) -> tuple[Unconfirmed, ...]:
        """Give up the session: fail its requests, and return the messages whose fate is unknown."""
        session = self.session
        if session is None:
            return ()
        # What arrived stays readable, but can no longer be acknowledged.
        inbox, dispatcher = self.inbox, self.dispatcher
        for message in [
            *(inbox.messages if inbox is not None else ()),
            *(dispatcher.unacked() if dispatcher is not None else ()),
        ]:
            message.sequence = 0
        lost = self.unconfirmed_messages()
        session.abort()
        self.fail_requests(why)
        if dispatcher is not None:
            dispatcher.discard_session()
        if inbox is not None:
            inbox.is_at_eof = False
        return lost

    def clear_session(self) -> None:
        """Wait for a new session."""
        self._datagrams_dropped = self.datagrams_dropped
        self._datagrams_ignored = self.datagrams_ignored
        self.session = None

    # State

    def change(self, change: StateChange) -> None:
        """Enter a state and notify the host and the user. The closed state is final."""
        if self.state is _CLOSED:
            return
        line = self.line
        self.state = change.state
        self.last_change = change
        self.host.line_changed(line, change)
        if self.callback is not None:
            call_back(self.callback, line, change)

    def finish(self, change: StateChange, error: Exception | None) -> None:
        """Close the line: fail everything that waits with ``error``, if there is one. Idempotent."""
        if self.state is _CLOSED:
            return
        self._close_link()
        self.error = error
        if self.session is not None:
            self.session.abort()
        self.change(change)
        self.fail_requests(change.reason)
        if self.dispatcher is not None:
            self.dispatcher.discard_session()
        ended = error or LineClosed(f"the line is closed: {change.reason}", change.code)
        if self._flow is not None:
            self._flow.fail(ended)
        if self.pending_pings is not None:
            self.pending_pings.fail(ended)
        if self.inbox is not None:
            self.inbox.wake()
        self.line = self.callback = None

    def abort(
        self,
        code: Code,
        reason: str = "",
        *,
        retry_after_s: float | None = None,
        spread_s: float = 0.0,
        alternatives: tuple[str, ...] = (),
    ) -> tuple[Unconfirmed, ...]:
        """See :meth:`landline.Line.abort`."""
        session = self.session
        if self.state is _CLOSED or session is None:
            change = StateChange(state=_CLOSED, cause=DisconnectCause.CLOSED_HERE, detail=reason)
            self.finish(change, None)
            return ()
        lost = self.unconfirmed_messages()
        session.close(code, reason, retry_after_s=retry_after_s, spread_s=spread_s, alternatives=alternatives)
        self._flush()
        change = StateChange(state=_CLOSED, cause=DisconnectCause.CLOSED_HERE, detail=reason, code=code)
        self.finish(change, None)
        return lost

    def end_too_slow(self, detail: str) -> None:
        """End the session because its peer does not acknowledge messages, or makes this side hold too much memory."""
        session = self.session
        if session is None or self.state is _CLOSED:
            return
        session.close(Code.TOO_SLOW, detail)
        self._flush()
        self.host.line_too_slow(self.line, detail)

    # Called by the link

    def receive_data(self, data: bytes) -> None:
        """Handle received bytes, or without any those that wait.

        Handles as many frames as fit one turn of the event loop; the link waits with the rest.
        """
        session, link = self.session, self.link
        assert session is not None
        assert link is not None
        now = self.host.wheel.time()
        if link.is_waiting:
            session.receive_data(data, now, frames_max=0)
            link.wait(self.host.turns, session.inbound.unread_bytes)
            return
        self._in_batch = True
        try:
            now = handle_frames(self, session, link, data, now)
        finally:
            self._in_batch = False
        if self._flow is not None and self.session is not None:
            self._flow.receive_acks(self.session)
        if self.dispatcher is not None:
            self.dispatcher.resume()
        if session.is_attached:
            self._flush(now)
        elif session.state is State.DETACHED and link is self.link:
            self.drop_link(DisconnectCause.LINK_LOST, "the session was resumed on another transport")

    def receive_datagram(self, data: bytes) -> None:
        """Handle a datagram that the transport carried outside its stream."""
        session, link = self.session, self.link
        assert session is not None
        assert link is not None
        now = self.host.wheel.time()
        session.receive_datagram(data, now)
        self._in_batch = True
        try:
            handle_datagrams(self, self.line, session, self.host.handlers)
            # A suspected peer was heard, or the peer violated the protocol.
            for event in session.next_events():
                handle_event(self, event)
        finally:
            self._in_batch = False
        self._flush(now)

    def receive_link_lost(self, error: Exception | None) -> None:
        """Detach the session: its transport has ended."""
        detail = (
            f"the connection broke: {error}" if error else "the peer's connection ended without a goodbye"
        )
        self.drop_link(DisconnectCause.LINK_LOST, detail)

    def pause_writing(self) -> None:
        """Hold data back: the transport's buffer is full."""
        if self.session is not None:
            self.session.pause_writing()

    def resume_writing(self) -> None:
        """Send data again: the transport accepts it."""
        if self.session is not None:
            self.session.resume_writing()
            self._flush()

    # Called by the timer wheel and the flush queue

    def handle_timer(self, now: float) -> None:
        """Handle the session's timeouts, and the expiry of the line."""
        session = self.session
        if session is None or self.state is _CLOSED:
            return
        if self._expires_at is not None and now >= self._expires_at:
            late_s = now - self._expires_at
            if late_s > LAG_TOLERANCE_S:
                # This process was stalled, and with it the peer that may be waiting to resume.
                self.expire_at(now + late_s)
                return
            self._expires_at = None
            self.host.line_expired(self.line)
            return
        session.handle_timeout(now)
        for event in session.next_events():
            handle_event(self, event)
        self._flush(now)
        if self._expires_at is not None:
            self.host.wheel.schedule(self, self._expires_at)

    def write_out(self) -> None:
        """Write what waits."""
        self._flush_scheduled = False
        self._flush()

    def receive_end(self, ended: Ended) -> None:
        """Close the transport: the session has ended. Let the host decide what follows."""
        if self.state is not _CLOSED:
            self._flush()
            self._close_link(ended)
            self.host.line_ended(self.line, ended)

    # Called by the parts

    def ack(self, message: MessageReceived) -> None:
        """Acknowledge a message: the application has it. Messages of a discarded session have no number any more."""
        if self.session is not None and message.sequence and self.state is not _CLOSED:
            self.session.inbound.ack(message)
            if not self._in_batch:
                self.flush_soon()

    def log_peer_error(self, sentence: str, *arguments: object) -> None:
        """Log a mistake of the peer; see :meth:`TransportLink.log_peer_error`."""
        if self.link is not None:
            self.link.log_peer_error(sentence, *arguments)

    def fail_requests(self, why: str) -> None:
        """Fail this side's requests that have no answer yet."""
        if self.pending_requests is not None:
            self.pending_requests.fail(why)

    # Sending

    def send_encoded(
        self,
        name: bytes,
        body: bytes,
        *,
        is_packed: bool,
        is_bulk: bool = False,
        overflow: OverflowPolicy = _WAIT,
        max_pending: int | None = None,
        turn: int = 0,
        now: float | None = None,
    ) -> int:
        """Send an encoded message, which a broadcast encodes once for all lines. Return how many older ones it dropped.

        :param turn: with a turn of the flush queue, the first such message of that turn is written at once: a second
            pass over thousands of lines would evict them from the CPU cache.
        :param now: saves a look at the clock for each line.
        :raises BufferFull: when there is no room; :meth:`apply_overflow` then does what the policy says.
        """
        if (
            self._flow is not None
            and self._flow.has_senders
            and overflow is not _DROP_OLDEST
            and overflow is not _DISCONNECT
        ):
            raise BufferFull("other senders already wait for room in the send buffer")
        session = self.session
        if session is None or self.state is _CLOSED:
            session = self.live_session()
        try:
            if overflow is _DROP_OLDEST:
                dropped = session.outbound.send(
                    _MESSAGE,
                    name,
                    body,
                    is_packed=is_packed,
                    is_bulk=is_bulk,
                    is_droppable=True,
                    max_pending=max_pending,
                )
            else:
                dropped = session.outbound.send(_MESSAGE, name, body, is_packed=is_packed, is_bulk=is_bulk)
        except LineClosed:
            self.live_session()  # Raises BufferFull when another session may follow.
            raise
        if dropped:
            self._count_dropped(dropped)
        if turn and turn != self._written_turn and not self._flush_scheduled and not self._in_batch:
            self._written_turn = turn
            self._flush(now)
        else:
            self.flush_soon()
        return dropped

    def apply_overflow(self, overflow: OverflowPolicy) -> None:
        """Count a message as dropped for which there was no room, or end the line, as the policy says."""
        if overflow is not _DISCONNECT:
            self._count_dropped(1)
        elif self.session is not None:
            self.end_too_slow("the send buffer is full")

    def offer(
        self,
        name: bytes,
        body: bytes,
        *,
        is_packed: bool,
        is_bulk: bool,
        overflow: OverflowPolicy,
        max_pending: int | None,
    ) -> bool:
        """Send an encoded message by a policy that does not wait. Return whether it was accepted."""
        check_policy(overflow, max_pending)
        try:
            self.send_encoded(
                name, body, is_packed=is_packed, is_bulk=is_bulk, overflow=overflow, max_pending=max_pending
            )
        except BufferFull:
            self.apply_overflow(overflow)
            if overflow is _DISCONNECT:
                # Raises what ended the line, or that there is no session which could be ended.
                self.live_session()
            return False
        return True

    async def transmit(
        self,
        operation: Operation,
        name: bytes,
        body: bytes,
        *,
        correlation: int = 0,
        is_packed: bool = False,
        is_bulk: bool = False,
    ) -> None:
        """Send a message of any operation; wait for room, and for senders that wait already."""
        size = len(name) + len(body)
        if (self._flow is not None and self._flow.has_senders) or not self._has_room(size):
            await self._flow_control.wait(lambda: self._has_room(size))
        dropped = self.live_session().outbound.send(
            operation, name, body, correlation=correlation, is_packed=is_packed, is_bulk=is_bulk
        )
        if dropped:
            self._count_dropped(dropped)
        self.flush_soon()
        if self._flow is not None:
            self._flow.wake_sender(self.session)

    def transmit_nowait(
        self, operation: Operation, name: bytes, body: bytes, *, correlation: int, is_packed: bool
    ) -> None:
        """Send a message of any operation ahead of senders that wait. Raise :class:`BufferFull` without room."""
        dropped = self.live_session().outbound.send(
            operation, name, body, correlation=correlation, is_packed=is_packed
        )
        if dropped:
            self._count_dropped(dropped)
        self.flush_soon()

    def send_encoded_datagram(self, frame: bytes) -> bool:
        """Send an encoded datagram, which a broadcast encodes once for all lines. Return whether it was accepted."""
        session, link = self.session, self.link
        if self.state is _CLOSED:
            self.live_session()
        if session is None or link is None or link.is_lost or session.state is _SESSION_CLOSED:
            self._datagrams_dropped += 1
            return False
        is_accepted = send_datagram(session, link.transport, frame, self.host.wheel.time())
        if is_accepted:
            self.flush_soon()
        return is_accepted

    async def send_eof(self) -> None:
        """See :meth:`landline.Line.send_eof`."""
        while (self._flow is not None and self._flow.has_senders) or not self._has_room(0):
            await self._flow_control.wait(lambda: self._has_room(0))
        self.live_session().outbound.send_eof()
        self.flush_soon()

    async def drain(self, timeout_s: float | None) -> bool:
        """See :meth:`landline.Line.drain`."""
        session = self.session
        if session is None or session.outbound.is_drained or (timeout_s is not None and timeout_s <= 0):
            return session is None or session.outbound.is_drained
        return await self._flow_control.drain(session, timeout_s)

    def live_session(self) -> Session:
        """Return a session that can send. Raise the error that closed the line, or :class:`BufferFull` without one."""
        if self.state is _CLOSED:
            assert self.last_change is not None
            raise self.error or LineClosed(
                f"the line is closed: {self.last_change.reason}", self.last_change.code
            )
        # A session that the peer has ended stays here until the host has seen what is lost with it.
        if self.session is None or self.session.state is _SESSION_CLOSED:
            if self.session is not None and not self.host.continues_lines:
                raise LineClosed("the session has ended, and the line with it")
            raise BufferFull("the line has no session now")
        return self.session

    def _has_room(self, size: int) -> bool:
        """Return whether a message can be sent at once. Raise the error that closed the line."""
        if self.state is _CLOSED:
            self.live_session()
        session = self.session
        return (
            session is not None and session.state is not _SESSION_CLOSED and session.outbound.has_space(size)
        )

    def _count_dropped(self, count: int) -> None:
        self.host.messages_dropped += count
        self._flow_control.count_dropped(count, self.session)

    # Writing

    def flush_soon(self) -> None:
        """Write at the end of this iteration of the event loop, so that many small messages make one write."""
        if not self._in_batch and not self._flush_scheduled:
            self._flush_scheduled = True
            self.host.flush_queue.add(self)

    def _flush(self, now: float | None = None) -> None:
        session, link = self.session, self.link
        if session is None or link is None or link.is_lost:
            return
        if now is None:
            now = self.host.wheel.time()
        while data := session.data_to_send(now):
            link.transport.write(data)
            if len(data) < WRITE_BYTES:
                break
        # Reading and writing only postpone the heartbeat. A line with a scheduled wake-up needs an earlier one for
        # nothing but an acknowledgement.
        due = session.next_timeout() if self.timer_tick is None else session.inbound.ack_due
        if due is not None:
            self.host.wheel.schedule(self, due)

    def _close_link(self, ended: Ended | None = None) -> None:
        """Close the transport so that the BYE arrives.

        :param ended: how the session ended, unless this side ended it.
        """
        link, self.link = self.link, None
        if link is None:
            return
        self._peer = link.peer
        assert self.session is not None
        link.close(self.host.closer, self.session, ended)

    def drop_link(self, cause: DisconnectCause, detail: str) -> None:
        """Abort the transport; the session can be resumed on the next one."""
        link, self.link = self.link, None
        if link is None or self.session is None:
            return
        self._peer = link.peer
        link.abort()
        self.session.receive_link_lost()
        if self.pending_pings is not None:
            self.pending_pings.fail(LineClosed(detail))
        self.host.line_detached(self.line, cause, detail)
