"""A line: what users hold on both ends. One session, riding one transport at a time.

The session decides; this file moves bytes between it and the transport, hands messages to handlers, and follows the
line from its first transport to its end. How values are sent is in ``line_sending.py``, and what users wait for in
``line_waiting.py``. A line has no task of its own: it runs in the callbacks of its transport, of the timer wheel, and
of those who call it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Protocol

from landline.codes import Code, Operation
from landline.errors import LineClosed, SessionLost, Unconfirmed
from landline.line.codec import decode_value
from landline.line.dispatcher import Dispatcher
from landline.line.file_sender import STALL_TIMEOUT_S, FileReceipt, FileSender, ProgressCallback
from landline.line.handlers import FAILURES, RESERVED_PREFIX
from landline.line.line_datagrams import handle_datagrams
from landline.line.line_state import DisconnectCause, LineState, StateChange
from landline.line.link import TransportLink
from landline.line.reader import LineReader
from landline.line.writer import DRAIN_TIMEOUT_S, LineResources
from landline.runtime.guarded_log import guarded_logger
from landline.runtime.loop_thread import check_thread
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
from landline.session.frames import ByeFinder, Kind
from landline.session.handshake import Bye, encode_body
from landline.session.heartbeat import LAG_TOLERANCE_S
from landline.session.session import Session
from landline.session.state import State
from landline.signatures import check_function
from landline.texts import safe_text
from landline.transports.linger import DISCARD_BYTES_MAX, SCAN_BYTES

logger = guarded_logger("landline")

# Looked up once: an enum's attribute costs as much as a function call.
_MESSAGE = Operation.MESSAGE

StateCallback = Callable[["Line", StateChange], None]


class LineOwner(LineResources, Protocol):
    """What the lines of one server, or the line of one client, share and report to."""

    @property
    def files(self) -> FileSender[Line]:
        """What sends files over its lines."""
        ...

    def line_changed(self, line: Line, change: StateChange) -> None:
        """The line changed its state."""

    def line_detached(self, line: Line, cause: DisconnectCause, detail: str) -> None:
        """The line lost its transport; its session can be resumed."""

    def line_ended(self, line: Line, ended: Ended) -> None:
        """The session was ended by the peer or by a breach of the protocol."""

    def line_too_slow(self, line: Line, detail: str) -> None:
        """The session was ended here, because the peer does not take what is sent to it."""

    def line_expired(self, line: Line) -> None:
        """The time set with :meth:`Line.expire_at` has come."""

    async def wait_closed(self, line: Line) -> None:
        """Return when everything that ends with the line, which has just been closed, has ended."""


class Line(LineReader):
    """A connection that outlives its sockets. Made by :func:`landline.connect` and :class:`landline.Server`.

    Messages are any value MessagePack can hold, or bytes, which travel untouched. All methods belong to the event
    loop's thread.
    """

    __slots__ = (
        "_answers",
        "_callback",
        "_datagrams_ignored",
        "_expires_at",
        "_peer",
        "data",
        "identity",
    )

    # The layers below know only what it shares.
    _owner: LineOwner

    def __init__(
        self, owner: LineOwner, *, identity: str = "", state: LineState = LineState.CONNECTING
    ) -> None:
        super().__init__(owner, state)
        self._callback: StateCallback | None = None
        self._peer = ""
        self._expires_at: float | None = None
        self._answers: Dispatcher | None = None
        # Of earlier sessions, and of the time between two.
        self._datagrams_ignored = 0
        self.identity = identity
        """Who the peer proved to be (on a server's lines), or who this side said it is."""
        self.data: Any = None
        """For the application's own use."""

    def __repr__(self) -> str:
        # Both may be the peer's choice.
        return f"<Line {safe_text(self.identity or self.peer or 'new')} {self._state.value}>"

    # What it is.

    @property
    def state(self) -> LineState:
        """Where the line stands."""
        return self._state

    @property
    def is_closed(self) -> bool:
        """Whether the line is over for good."""
        return self._state is LineState.CLOSED

    @property
    def last_change(self) -> StateChange | None:
        """The last change of state, with its cause."""
        return self._last_change

    @property
    def peer(self) -> str:
        """The peer's address, ``IP:port`` or a socket path, of the current transport or the last one."""
        if self._link is not None:
            self._peer = self._link.peer
        return self._peer

    @property
    def round_trip_s(self) -> float | None:
        """The last measured round trip in seconds; ``None`` before the first."""
        return self._session.round_trip_s if self._session else None

    @property
    def session_id(self) -> bytes:
        """Names the session; a line that had to begin a new one has a new id."""
        return self._session.session_id if self._session else b""

    @property
    def epoch(self) -> int:
        """How many transports the session has ridden."""
        return self._session.epoch if self._session else 0

    @property
    def duplicates_dropped(self) -> int:
        """Frames of this session that arrived a second time and were dropped."""
        return self._session.duplicates_dropped if self._session else 0

    @property
    def datagrams_ignored(self) -> int:
        """Datagrams of the peer that had no handler, did not fit its type, or came too many in one read."""
        session = self._session
        return self._datagrams_ignored + (session.datagrams_ignored if session is not None else 0)

    @property
    def held_bytes(self) -> int:
        """About how much memory the line holds: what waits in both directions, and what handlers are at work on."""
        session, answers = self._session, self._answers
        held = session.held_bytes if session is not None else 0
        return held if answers is None else held + answers.held_bytes

    def look_closely(self) -> None:
        """Makes :attr:`held_bytes` more exact, at some cost; before that it may be far too much."""
        if self._answers is not None:
            self._answers.look_closely()

    def on_state(self, callback: StateCallback | None) -> None:
        """Calls ``callback(line, change)`` on every change of state, inside the event loop."""
        if callback is not None:
            check_function(
                callback, "the callback of Line.on_state()", ("line", "change"), may_be_async=False
            )
        self._callback = callback

    # Files.

    async def send_file(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        to: str = "",
        progress: ProgressCallback | None = None,
        stall_timeout_s: float | None = STALL_TIMEOUT_S,
    ) -> FileReceipt:
        """Sends a file; returns when it is on the receiver's disk, whole and under its name (``docs/files.md``).

        It goes on over other transports, with a new session, and, when called again with the same file, over
        another line or in another process: what the receiver has is compared by its hash and not sent twice.

        :param name: what the receiver is to call it; by default the path's last part.
        :param to: which of the receiver's directories it is for, as its ``on_file(to=...)`` says.
        :param progress: called as ``progress(FileProgress)`` in the event loop, about ten times a second at most.
        :param stall_timeout_s: seconds without a word of the receiver, while the line is connected, until it is given
            up; ``None`` waits while the line lives.
        :raises FileRefused: the receiver does not take it, with its code and its reason.
        :raises FileChanged: it was written to meanwhile; the receiver keeps nothing.
        :raises FileStalled: nothing was heard for too long.
        :raises ConfigurationError: the path is no regular file, or the name cannot be used.
        :raises OSError: the file cannot be read.
        :raises LineClosed: or what else ended the line, as :meth:`send` does.

        Cancelling tells the receiver, which keeps what it has so that it can be resumed; a cancel that comes behind the
        last byte may find the file stored.
        """
        return await self._owner.files.send(
            self, path, name=name, to=to, progress=progress, stall_timeout_s=stall_timeout_s
        )

    # Ending.

    def break_link(self, detail: str = "the link was given up here") -> None:
        """Drops the current transport as if the network had; the session goes on over the next one.

        For programs that learn of a change of network before the heartbeat does, and for tests. Without a
        transport it does nothing.
        """
        check_thread(self._owner.thread, "line.break_link")
        self._drop_link(DisconnectCause.LINK_LOST, detail)

    async def close(
        self,
        code: Code = Code.NORMAL,
        reason: str = "",
        *,
        timeout: float | None = DRAIN_TIMEOUT_S,
        retry_after_s: float | None = None,
        spread_s: float = 0.0,
    ) -> None:
        """Ends the line in order: waits until the peer has taken everything (``timeout`` seconds at most), says BYE.

        Raises :class:`SessionLost` when messages stayed unconfirmed; the line is closed all the same. Cancelling
        closes at once. Closing a closed line only waits, for what ``abort`` has left to end.
        """
        if self._state is LineState.CLOSED:
            await self._owner.wait_closed(self)
            return
        try:
            await self.drain(timeout)
        finally:
            lost = self.abort(code, reason, retry_after_s=retry_after_s, spread_s=spread_s)
            await self._owner.wait_closed(self)
        if lost:
            raise SessionLost(f"closed here: {reason or code.name}", lost, code)

    def abort(
        self,
        code: Code,
        reason: str = "",
        *,
        retry_after_s: float | None = None,
        spread_s: float = 0.0,
        alternatives: tuple[str, ...] = (),
    ) -> tuple[Unconfirmed, ...]:
        """Ends the line at once with a BYE and returns the messages that stayed unconfirmed.

        A client that may return does so after ``retry_after_s`` and a random part of ``spread_s``, and tries the
        URLs of ``alternatives`` (16 at most) first.
        """
        check_thread(self._owner.thread, "line.abort")
        session = self._session
        if self._state is LineState.CLOSED or session is None:
            self.finish(
                StateChange(state=LineState.CLOSED, cause=DisconnectCause.CLOSED_HERE, detail=reason), None
            )
            return ()
        lost = unconfirmed_messages(session)
        session.close(code, reason, retry_after_s=retry_after_s, spread_s=spread_s, alternatives=alternatives)
        self._flush()
        change = StateChange(
            state=LineState.CLOSED, cause=DisconnectCause.CLOSED_HERE, detail=reason, code=code
        )
        self.finish(change, None)
        return lost

    # For the transport.

    def receive_data(self, link: TransportLink, data: bytes) -> None:
        """Bytes of a transport, or none when it is the turn of those that wait.

        Handles so many frames as one turn of the event loop has room for; the link waits with the rest.
        """
        session = self._session
        if session is None or link is not self._link:
            return
        owner = self._owner
        now = owner.wheel.time()
        if link.is_waiting:
            session.receive_data(data, now, epoch=link.epoch, frames_max=0)
            link.wait(owner.turns, session.unread_bytes)
            return
        size = len(data)
        handlers = owner.handlers
        plain_message = handlers.plain_message
        objects_max = handlers.message_objects
        ack = session.ack
        steps = FRAMES_PER_TURN // FRAMES_PER_STEP
        self._in_batch = True
        try:
            while True:
                session.receive_data(data, now, epoch=link.epoch, frames_max=FRAMES_PER_STEP)
                if session.has_datagrams:
                    handle_datagrams(self, session, handlers)
                for event in session.next_events():
                    if type(event) is not MessageReceived:
                        self._handle_event(event)
                    elif (
                        # The shortest way for the commonest case; _dispatch would do the same.
                        event.operation is _MESSAGE
                        and plain_message is not None
                        and not event.name
                        and (self._answers is None or not self._answers.has_backlog)
                    ):
                        ack(event)
                        try:
                            plain_message(
                                self,
                                decode_value(event.body, True, objects_max)
                                if event.is_packed
                                else event.body,
                            )
                        except FAILURES as error:
                            self._answering().log_failed(event, error)
                    else:
                        self._dispatch(event)
                if not session.has_unread:
                    if size >= LARGE_READ_BYTES and not owner.turns.has_time():
                        link.wait(owner.turns, 0)
                    break
                steps -= 1
                if not steps or not owner.turns.has_time():
                    link.wait(owner.turns, session.unread_bytes)
                    break
                data = b""
                now = owner.wheel.time()
        finally:
            self._in_batch = False
        if self._room is not None and self._session is not None:
            self._room.receive_acks(self._session)
        if self._answers is not None:
            self._answers.resume()
        if session.is_attached:
            self._flush(now)
        elif session.state is State.DETACHED and link is self._link:
            self._drop_link(DisconnectCause.LINK_LOST, "the session went on over another transport")

    def receive_datagram(self, link: TransportLink, data: bytes) -> None:
        """A datagram that the transport carried outside of its stream."""
        session = self._session
        if session is None or link is not self._link:
            return
        now = self._owner.wheel.time()
        session.receive_datagram(data, now, epoch=link.epoch)
        self._in_batch = True
        try:
            handle_datagrams(self, session, self._owner.handlers)
            # That a suspected peer was heard, or broke the protocol.
            for event in session.next_events():
                self._handle_event(event)
        finally:
            self._in_batch = False
        self._flush(now)

    def receive_link_lost(self, link: TransportLink, error: Exception | None) -> None:
        """A transport ended."""
        if link is not self._link:
            return
        detail = (
            f"the connection broke: {error}" if error else "the peer's connection ended without a goodbye"
        )
        self._drop_link(DisconnectCause.LINK_LOST, detail)

    def pause_writing(self, link: TransportLink) -> None:
        """The transport's buffer is full."""
        if link is self._link and self._session is not None:
            self._session.pause_writing()

    def resume_writing(self, link: TransportLink) -> None:
        """The transport takes data again."""
        if link is self._link and self._session is not None:
            self._session.resume_writing()
            self._flush()

    def handle_timer(self, now: float) -> None:
        """The timer wheel's call."""
        session = self._session
        if session is None or self._state is LineState.CLOSED:
            return
        if self._expires_at is not None and now >= self._expires_at:
            late_s = now - self._expires_at
            if late_s > LAG_TOLERANCE_S:
                # We were held up ourselves, and so was the peer that may be waiting to be let in.
                self.expire_at(now + late_s)
                return
            self._expires_at = None
            self._owner.line_expired(self)
            return
        session.handle_timeout(now)
        for event in session.next_events():
            self._handle_event(event)
        self._flush(now)
        if self._expires_at is not None:
            self._owner.wheel.schedule(self, self._expires_at)

    # Inside: what came, and what the session makes of it.

    def _dispatch(self, message: MessageReceived) -> None:
        operation = message.operation
        if operation is Operation.MESSAGE:
            handler = self._owner.handlers.find(message.name)
            if handler is None:
                self._receive_unhandled(message)
            else:
                self._answering().receive_message(message, handler)
        elif operation is Operation.REQUEST:
            if not self._answering().receive_request(message):
                self.abort(Code.PROTOCOL_ERROR, "two requests with one correlation id")
        elif operation is Operation.CANCEL:
            self.take(message)
            self._answering().cancel_request(message.correlation)
        else:
            self.take(message)
            if self._requests is not None:
                self._requests.receive_answer(message)

    def _answering(self) -> Dispatcher:
        if self._answers is None:
            self._answers = Dispatcher(self, self._owner.handlers, self._owner.loop, self._owner.turns)
        return self._answers

    def _handle_event(self, event: Event) -> None:
        if isinstance(event, PongReceived):
            self._receive_pong(event)
        elif isinstance(event, Suspected):
            detail = f"nothing heard for {event.silence_s:.1f} s"
            self.change(StateChange(state=LineState.SUSPECT, cause=DisconnectCause.SILENT, detail=detail))
        elif isinstance(event, Recovered):
            self.change(StateChange(state=LineState.ONLINE, resumed=True, epoch=self.epoch))
        elif isinstance(event, PeerSilent):
            self._drop_link(DisconnectCause.SILENT, f"nothing heard for {event.silence_s:.1f} s")
        elif isinstance(event, EofReceived):
            self._receive_eof()
        elif isinstance(event, NoticeReceived):
            link = self._link
            if link is not None and not link.has_warned:
                # Once a transport: a peer must not fill the log.
                link.has_warned = True
                logger.warning("%r: the peer warns: %s (%s)", self, event.reason, event.code.name)
        elif isinstance(event, Ended):
            self._flush()
            self._leave_link(event)
            self._owner.line_ended(self, event)

    # For the owner.

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
        rest: bytes = b"",
    ) -> None:
        """Puts a session onto a transport whose handshake is done. ``rest`` are bytes that came behind it.

        Raises :class:`landline.ProtocolError` when the peer cannot have received what it says; nothing changed then.
        """
        now = self._owner.wheel.time()
        session.attach(now, epoch=epoch, peer_received=peer_received, phase=phase, round_trip_s=round_trip_s)
        self._session = session
        self._expires_at = None
        old = self._link
        if old is not None:
            old.leave()
            if not old.is_lost:
                old.transport.write(
                    encode_body(Kind.BYE, Bye(int(Code.LINK_REPLACED), "resumed on a newer transport"))
                )
                self._owner.closer.close(old.transport, discard_bytes_max=_discard_bytes_max(session))
        link = self._link = TransportLink(self, transport, epoch)
        transport.set_protocol(link)
        self.change(StateChange(state=LineState.ONLINE, resumed=resumed, epoch=epoch))
        if rest:
            self.receive_data(link, rest)
        if self._room is not None:
            # Those who waited for a new session; the old one's acknowledgements wake nobody any more.
            self._room.receive_acks(session)
        due = session.next_timeout()
        if due is not None:
            self._owner.wheel.schedule(self, due)
        self._flush(now)

    def change(self, change: StateChange) -> None:
        """Enters a state and tells everybody. Closed is final."""
        if self._state is LineState.CLOSED:
            return
        self._state = change.state
        self._last_change = change
        self._owner.line_changed(self, change)
        if self._callback is not None:
            call_back(self._callback, self, change)

    def expire_at(self, due: float) -> None:
        """Asks for ``line_expired`` at that time unless a transport is attached before."""
        self._expires_at = due
        self._owner.wheel.schedule(self, due)

    def discard_session(self, why: str) -> tuple[Unconfirmed, ...]:
        """The session is lost: fails what was asked in it, and returns the messages whose fate is unknown."""
        session = self._session
        if session is None:
            return ()
        # What arrived stays readable, but there is nobody left to acknowledge it to.
        for message in [*(self._inbox or ()), *(self._answers.untaken() if self._answers else ())]:
            message.sequence = 0
        lost = unconfirmed_messages(session)
        session.abort()
        self._fail_requests(why)
        if self._answers is not None:
            self._answers.abandon()
        self._eof_received = False
        return lost

    def clear_session(self) -> None:
        """The line waits for a new session."""
        self._datagrams_dropped = self.datagrams_dropped
        self._datagrams_ignored = self.datagrams_ignored
        self._session = None

    def finish(self, change: StateChange, error: Exception | None) -> None:
        """The line is over: wakes everybody with ``error``, or in order. Does nothing the second time."""
        if self._state is LineState.CLOSED:
            return
        self._leave_link()
        self.error = error
        if self._session is not None:
            self._session.abort()
        self.change(change)
        self._fail_requests(change.reason)
        if self._answers is not None:
            self._answers.abandon()
        ended = error or LineClosed(f"the line is closed: {change.reason}", change.code)
        if self._room is not None:
            self._room.fail(ended)
        self._fail_pings(ended)
        self._wake_reader()

    def end_too_slow(self, detail: str) -> None:
        """Ends the line because its peer does not take what is sent to it, or holds too much of our memory."""
        session = self._session
        if session is None or self._state is LineState.CLOSED:
            return
        session.close(Code.TOO_SLOW, detail)
        self._flush()
        self._owner.line_too_slow(self, detail)

    # Inside: its transport.

    def _leave_link(self, ended: Ended | None = None) -> None:
        """Close the transport so that the BYE arrives; ``ended`` is the end of the session, unless it is ours."""
        link, self._link = self._link, None
        if link is None:
            return
        self._peer = link.peer
        link.leave()
        if link.is_lost:
            return
        session = self._session
        assert session is not None
        # Of a peer that broke the protocol nobody knows where a frame begins.
        rest = session.pop_trailing_data() if ended is None else b""
        finder = ByeFinder(rest[:SCAN_BYTES]) if ended is None else None
        self._owner.closer.close(
            link.transport,
            discard_bytes_max=_discard_bytes_max(session),
            detect_bye=finder.feed if finder is not None else None,
            trailing_data=rest[SCAN_BYTES:],
            is_ended_by_peer=ended.by_peer if ended is not None else finder is not None and finder.is_found,
        )

    def _drop_link(self, cause: DisconnectCause, detail: str) -> None:
        link, self._link = self._link, None
        if link is None or self._session is None:
            return
        self._peer = link.peer
        # Nothing that still waits in a dead transport's buffer is worth its memory: the session has it all.
        if not link.is_lost:
            link.transport.abort()
        self._session.receive_link_lost()
        self._fail_pings(LineClosed(detail))
        self._owner.line_detached(self, cause, detail)


def _discard_bytes_max(session: Session) -> int:
    """A peer that keeps to its window has not more than this under way when it reads our BYE."""
    return session.limits.window_bytes + DISCARD_BYTES_MAX


def call_back(function: Callable[..., object], *arguments: object) -> None:
    """Calls a function of the user's; what it raises is logged, and upsets neither the line nor its owner."""
    try:
        function(*arguments)
    except FAILURES:
        logger.exception("the callback %r failed", function)


def unconfirmed_messages(session: Session) -> tuple[Unconfirmed, ...]:
    """The unconfirmed messages their owner must hear of.

    Requests, and the library's own messages, are told by the exception of the call they belong to.
    """
    return tuple(
        entry
        for entry in session.unconfirmed(operation=Operation.MESSAGE)
        if not entry.name.startswith(RESERVED_PREFIX)
    )
