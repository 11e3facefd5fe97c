"""A line: what users hold on both ends. One session, riding one transport at a time.

The session decides; this file moves bytes between it and the transport, hands messages to handlers, and lets
senders wait. It has no task of its own: it runs in the callbacks of its transport, of the timer wheel, and of
those who call it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar, overload

from landline.answers import Answers
from landline.changes import LineState, LossKind, StateChange
from landline.errors import (
    BufferFull,
    LineClosed,
    RequestLost,
    SessionLost,
)
from landline.files.exchange import exchange_of
from landline.files.sending import STALL_TIMEOUT_S, ProgressCallback, send_file
from landline.files.words import FileReceipt
from landline.handlers import RESERVED_PREFIX, Handlers, decode_value, encode_value
from landline.line_datagrams import handle_datagrams, send_datagram
from landline.outbox import Outbox
from landline.requests import Requests
from landline.room import Room, WhenFull, check_policy, wake
from landline.session.codes import Code
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
    Unconfirmed,
)
from landline.session.handshake import Bye, encode_body
from landline.session.liveness import LAG_TOLERANCE_S
from landline.session.session import WRITE_BYTES, Session
from landline.session.state import State
from landline.session.wire import Kind, Operation, encode_datagram
from landline.timers import TimerWheel
from landline.transports import Leaving, LinkProtocol, close_in_time

logger = logging.getLogger("landline")

COMPLAINTS_MAX: Final = 50
"""Messages that fit no handler, or are refused by one, that are logged of one transport."""

DRAIN_TIMEOUT_S: Final = 5.0


# Looked up once: an enum's attribute costs as much as a function call.
_CLOSED = LineState.CLOSED
_MESSAGE = Operation.MESSAGE
_WAIT = WhenFull.WAIT
_DROP_OLDEST = WhenFull.DROP_OLDEST


StateCallback = Callable[["Line", StateChange], None]
Response = TypeVar("Response")


class LineOwner(Protocol):
    """What the lines of one server, or the line of one client, share and report to."""

    loop: asyncio.AbstractEventLoop
    wheel: TimerWheel
    outbox: Outbox
    handlers: Handlers
    messages_dropped: int
    """Of all lines, for want of room in their send buffers."""

    def line_changed(self, line: Line, change: StateChange) -> None:
        """The line changed its state."""

    def line_detached(self, line: Line, cause: LossKind, detail: str) -> None:
        """The line lost its transport; its session can be resumed."""

    def line_ended(self, line: Line, ended: Ended) -> None:
        """The session was ended by the peer or by a breach of the protocol."""

    def line_too_slow(self, line: Line, detail: str) -> None:
        """The session was ended here, because the peer does not take what is sent to it."""

    def line_expired(self, line: Line) -> None:
        """The time set with :meth:`Line.expire_at` has come."""


class LineLink(LinkProtocol):
    """One transport of a line."""

    __slots__ = ("complaints", "epoch", "has_warned", "line", "transport")

    def __init__(self, line: Line, transport: asyncio.Transport, epoch: int) -> None:
        self.line = line
        self.transport = transport
        self.epoch = epoch
        self.complaints = 0
        self.has_warned = False

    def data_received(self, data: bytes) -> None:
        self.line.receive_data(self, data)

    def datagram_received(self, data: bytes) -> None:
        self.line.receive_datagram(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.line.receive_link_lost(self, exc)

    def pause_writing(self) -> None:
        self.line.pause_writing(self)

    def resume_writing(self) -> None:
        self.line.resume_writing(self)


class _Waiting:
    """What users of a line wait for from the peer. Made when somebody first waits."""

    __slots__ = ("pings", "reader")

    def __init__(self) -> None:
        self.reader: asyncio.Future[None] | None = None
        self.pings: dict[int, asyncio.Future[float]] = {}


class Line:
    """A connection that outlives its sockets. Made by :func:`landline.connect` and :class:`landline.Server`.

    Messages are any value MessagePack can hold, or bytes, which travel untouched. All methods belong to the event
    loop's thread.
    """

    __slots__ = (
        "__weakref__",
        "_answers",
        "_callback",
        "_cause",
        "_datagrams_dropped",
        "_datagrams_ignored",
        "_eof_received",
        "_expires_at",
        "_flush_scheduled",
        "_in_batch",
        "_inbox",
        "_link",
        "_owner",
        "_peer",
        "_requests",
        "_room",
        "_session",
        "_state",
        "_waiting",
        "_written_in",
        "data",
        "error",
        "identity",
        "leaving",
        "timer_tick",
    )

    def __init__(
        self, owner: LineOwner, *, identity: str = "", state: LineState = LineState.CONNECTING
    ) -> None:
        self._owner = owner
        self._session: Session | None = None
        self._link: LineLink | None = None
        self._state = state
        self._cause: StateChange | None = None
        self._callback: StateCallback | None = None
        self._peer = ""
        self._flush_scheduled = False
        # The turn in which a broadcast was written at once.
        self._written_in = 0
        self._in_batch = False
        self._eof_received = False
        self._expires_at: float | None = None
        self._inbox: deque[MessageReceived] | None = None
        self._answers: Answers | None = None
        self._requests: Requests | None = None
        self._room: Room | None = None
        self._waiting: _Waiting | None = None
        # Of earlier sessions, and of the time between two.
        self._datagrams_dropped = self._datagrams_ignored = 0
        self.timer_tick: int | None = None
        self.leaving: Leaving | None = None
        """The last transport, once it is on its way out."""
        self.identity = identity
        """Who the peer proved to be (on a server's lines), or who this side said it is."""
        self.data: Any = None
        """For the application's own use."""
        self.error: Exception | None = None
        """Once closed: what a reader or sender gets, or ``None`` after an orderly end."""

    def __repr__(self) -> str:
        return f"<Line {self.identity or self.peer or 'new'} {self._state.value}>"

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
    def cause(self) -> StateChange | None:
        """The last change of state, with its cause."""
        return self._cause

    @property
    def peer(self) -> str:
        """The peer's address, ``IP:port`` or a socket path, of the current transport or the last one."""
        if self._link is not None:
            self._peer = _format_peer(self._link.transport.get_extra_info("peername"))
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
    def buffered_bytes(self) -> int:
        """Bytes waiting to be sent or acknowledged."""
        return self._session.buffered_bytes if self._session else 0

    @property
    def duplicates_dropped(self) -> int:
        """Frames of this session that arrived a second time and were dropped."""
        return self._session.duplicates_dropped if self._session else 0

    @property
    def messages_dropped(self) -> int:
        """Messages to the peer that were dropped for want of room, or because newer ones took their place."""
        return self._room.messages_dropped if self._room else 0

    @property
    def datagrams_dropped(self) -> int:
        """Datagrams to the peer that were not sent; those that got lost on their way are not known."""
        session = self._session
        return self._datagrams_dropped + (session.datagrams_dropped if session is not None else 0)

    @property
    def datagrams_ignored(self) -> int:
        """Datagrams of the peer that had no handler, did not fit its type, or came too many in one read."""
        session = self._session
        return self._datagrams_ignored + (session.datagrams_ignored if session is not None else 0)

    def on_state(self, callback: StateCallback | None) -> None:
        """Calls ``callback(line, change)`` on every change of state, inside the event loop."""
        self._callback = callback

    # Sending.

    async def send(
        self,
        value: Any,
        *,
        name: str = "",
        bulk: bool = False,
        when_full: WhenFull = _WAIT,
        keep: int | None = None,
    ) -> bool:
        """Sends a message; it arrives once and in order while the session lives (P1).

        Waits while the send buffer is full, or a lost session has no successor yet. Returns once the message is in
        the buffer, not when it arrived: ``close()`` and the session's end tell what did not. ``bulk`` lets later
        messages overtake it.

        ``when_full`` names another policy than waiting; with it the call never waits and returns whether the message
        was taken. ``keep`` is for ``DROP_OLDEST``: so many messages of this name may wait at most, however much room
        there is; older ones are dropped.

        Cancelling a waiting call leaves the message unsent. Raises :class:`MessageTooLarge`,
        :class:`LineClosed` or what ended the line; :class:`TypeError` for values MessagePack has no form for.
        """
        body, is_packed = encode_value(value)
        if when_full is _WAIT and keep is None:
            await self.transmit(Operation.MESSAGE, name.encode(), body, is_packed=is_packed, is_bulk=bulk)
            return True
        return self._offer(name.encode(), body, is_packed, bulk, when_full, keep)

    def send_nowait(
        self,
        value: Any,
        *,
        name: str = "",
        bulk: bool = False,
        when_full: WhenFull = _WAIT,
        keep: int | None = None,
    ) -> bool:
        """As :meth:`send`, but raises :class:`BufferFull` where that would wait; then nothing was sent."""
        body, is_packed = (value, False) if type(value) is bytes else encode_value(value)
        encoded_name = name.encode() if name else b""
        if when_full is not _WAIT or keep is not None:
            return self._offer(encoded_name, body, is_packed, bulk, when_full, keep)
        session = self._session
        if self._room is not None or session is None or self._state is _CLOSED:
            self.send_encoded(encoded_name, body, is_packed=is_packed, is_bulk=bulk)
            return True
        # The shortest way for the commonest case; send_encoded would do the same.
        try:
            dropped = session.send(_MESSAGE, encoded_name, body, is_packed=is_packed, is_bulk=bulk)
        except LineClosed:
            self._live_session()  # Raises BufferFull where another session may follow.
            raise
        if dropped:
            self._count_dropped(dropped)
        if not self._in_batch:
            self._flush_soon()
        return True

    def send_encoded(
        self,
        name: bytes,
        body: bytes,
        *,
        is_packed: bool,
        is_bulk: bool = False,
        when_full: WhenFull = _WAIT,
        keep: int | None = None,
        turn: int = 0,
    ) -> int:
        """Sends a value encoded before, as a broadcast does once for all lines.

        With a ``turn`` of the outbox the first such message of that turn is written at once: to go over thousands of
        lines again at its end would mean to fetch all of them into the processor's cache a second time.

        Returns how many older messages were dropped for it. Raises :class:`BufferFull` when there is no room;
        :meth:`receive_full` then does what the policy says.
        """
        if (
            self._room is not None
            and self._room.has_senders
            and when_full is not _DROP_OLDEST
            and when_full is not WhenFull.DISCONNECT
        ):
            raise BufferFull("others wait for room in the send buffer already")
        session = self._session
        if session is None or self._state is _CLOSED:
            session = self._live_session()
        try:
            if when_full is _DROP_OLDEST:
                dropped = session.send(
                    _MESSAGE, name, body, is_packed=is_packed, is_bulk=is_bulk, is_droppable=True, keep=keep
                )
            else:
                dropped = session.send(_MESSAGE, name, body, is_packed=is_packed, is_bulk=is_bulk)
        except LineClosed:
            self._live_session()
            raise
        if dropped:
            self._count_dropped(dropped)
        if turn and turn != self._written_in and not self._flush_scheduled and not self._in_batch:
            self._written_in = turn
            self._flush()
        else:
            self._flush_soon()
        return dropped

    def receive_full(self, when_full: WhenFull) -> None:
        """There was no room for a message: counts it as dropped, or ends the line, as its policy says."""
        if when_full is not WhenFull.DISCONNECT:
            self._count_dropped(1)
        elif self._session is not None:
            self.end_too_slow("the send buffer is full")

    def _offer(
        self, name: bytes, body: bytes, is_packed: bool, is_bulk: bool, when_full: WhenFull, keep: int | None
    ) -> bool:
        check_policy(when_full, keep)
        try:
            self.send_encoded(
                name, body, is_packed=is_packed, is_bulk=is_bulk, when_full=when_full, keep=keep
            )
        except BufferFull:
            self.receive_full(when_full)
            if when_full is WhenFull.DISCONNECT:
                # Raises what ended the line, or that there is no session which could be ended.
                self._live_session()
            return False
        return True

    def send_datagram(self, value: Any, *, name: str = "") -> bool:
        """Sends a value that arrives at most once, and soon or never: it is not kept and not sent again.

        For what the next one makes worthless: positions, meters, pointers. It is dropped (and counted) while the line
        is not connected or its transport takes no data, and where many wait to be written in this turn of the event
        loop. Returns whether it was taken; whether it arrived, nobody is told. It may overtake messages, and be
        overtaken where the transport carries datagrams of its own. :meth:`send_eof` does not end datagrams.

        Raises :class:`MessageTooLarge` above 1,200 bytes with name and 2 bytes of header, :class:`LineClosed` or what
        ended the line, :class:`TypeError` for values MessagePack has no form for.
        """
        body, is_packed = encode_value(value)
        return self.send_encoded_datagram(encode_datagram(name.encode(), body, is_packed=is_packed))

    def send_encoded_datagram(self, frame: bytes) -> bool:
        """Sends a datagram encoded before, as a broadcast does once for all lines."""
        session, link = self._session, self._link
        if self._state is _CLOSED:
            self._live_session()
        if session is None or link is None:
            self._datagrams_dropped += 1
            return False
        is_taken = send_datagram(session, link.transport, frame)
        if is_taken:
            self._flush_soon()
        return is_taken

    async def send_eof(self) -> None:
        """Says that no more will be sent, behind everything sent so far; the peer can go on sending (half-close)."""
        while (self._room is not None and self._room.has_senders) or not self._has_room(0):
            await self._ensure_room().wait(lambda: self._has_room(0))
        self._live_session().send_eof()
        self._flush_soon()

    @overload
    async def request(
        self, name: str, value: Any = ..., *, timeout: float | None = ..., response_type: type[Response]
    ) -> Response: ...

    @overload
    async def request(
        self, name: str, value: Any = ..., *, timeout: float | None = ..., response_type: Any = ...
    ) -> Any: ...

    async def request(
        self, name: str, value: Any = None, *, timeout: float | None = 30.0, response_type: Any = Any
    ) -> Any:
        """Asks the peer's handler ``name`` and returns its answer, converted to ``response_type`` if given.

        ``timeout`` is in seconds and covers everything, reconnecting included; ``None`` waits while the line lives.
        Cancelling the call, or the timeout, tells the peer to cancel its handler.

        Raises :class:`RequestTimeout`, :class:`RequestLost` (the session ended; whether the peer acted is
        unknown), :class:`NoHandler`, :class:`RequestError` for the handler's own error (and with the code
        ``bad_response`` for an answer that does not fit), and what :meth:`send` raises.
        """
        if self._eof_received and self._state is not LineState.CLOSED:
            raise RequestLost(name, "the peer said it sends no more")
        if self._requests is None:
            self._requests = Requests(self, self._owner.loop)
        return await self._requests.ask(name, value, timeout, response_type)

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
        files = exchange_of(self._owner.handlers)
        return await send_file(
            files, self, path, name=name, to=to, progress=progress, stall_timeout_s=stall_timeout_s
        )

    async def ping(self, *, timeout: float | None = 10.0) -> float:
        """Measures a round trip now; seconds. Raises :class:`TimeoutError`, or :class:`LineClosed`."""
        waiting = self._waits()
        future: asyncio.Future[float] = self._owner.loop.create_future()
        session = self._session if self._state is not LineState.CLOSED else self._live_session()
        if session is None or not session.is_attached:
            raise LineClosed("the line is not connected just now")
        number = session.send_ping(self._owner.wheel.time())
        waiting.pings[number] = future
        self._flush_soon()
        try:
            async with asyncio.timeout(timeout):
                return await future
        finally:
            waiting.pings.pop(number, None)

    def break_link(self, detail: str = "the link was given up here") -> None:
        """Drops the current transport as if the network had; the session goes on over the next one.

        For programs that learn of a change of network before the heartbeat does, and for tests. Without a
        transport it does nothing.
        """
        self._drop_link(LossKind.LINK_LOST, detail)

    # Receiving.

    def __aiter__(self) -> Line:
        return self

    async def __anext__(self) -> Any:
        """The next message without a name. Cancelling loses nothing.

        Iteration ends when the peer said it sends no more or the line ended in order; otherwise it raises what
        ended the line.
        """
        while not self._inbox:
            if self._state is LineState.CLOSED and self.error is not None:
                raise self.error
            if self._eof_received or self._state is LineState.CLOSED:
                raise StopAsyncIteration
            waiting = self._waits()
            if waiting.reader is not None:
                raise RuntimeError("two tasks read from one line")
            waiting.reader = self._owner.loop.create_future()
            try:
                await waiting.reader
            finally:
                waiting.reader = None
        message = self._inbox.popleft()
        self.take(message)
        return decode_value(message.body, message.is_packed)

    # Ending.

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
        closes at once. Closing a closed line does nothing.
        """
        if self._state is LineState.CLOSED:
            return
        try:
            await self.drain(timeout)
        finally:
            lost = self.end(code, reason, retry_after_s=retry_after_s, spread_s=spread_s)
        if lost:
            raise SessionLost(f"closed here: {reason or code.name}", lost, code)

    def end(
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
        session = self._session
        if self._state is LineState.CLOSED or session is None:
            self.finish(StateChange(state=LineState.CLOSED, cause=LossKind.CLOSED_HERE, detail=reason), None)
            return ()
        lost = unconfirmed_messages(session)
        session.close(code, reason, retry_after_s=retry_after_s, spread_s=spread_s, alternatives=alternatives)
        self._flush()
        change = StateChange(state=LineState.CLOSED, cause=LossKind.CLOSED_HERE, detail=reason, code=code)
        self.finish(change, None)
        return lost

    # For the transport.

    def receive_data(self, link: LineLink, data: bytes) -> None:
        """Bytes of a transport."""
        session = self._session
        if session is None or link is not self._link:
            return
        owner = self._owner
        now = owner.wheel.time()
        session.receive_data(data, now, epoch=link.epoch)
        self._in_batch = True
        plain_message = owner.handlers.plain_message
        take = session.take
        try:
            if session.has_datagrams:
                handle_datagrams(self, session, owner.handlers)
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
                    take(event)
                    try:
                        plain_message(self, decode_value(event.body, True) if event.is_packed else event.body)
                    except Exception as error:  # noqa: BLE001 - it is logged
                        self._answering().log_failed(event, error)
                else:
                    self._dispatch(event)
        finally:
            self._in_batch = False
        if self._room is not None and self._session is not None:
            self._room.receive_acks(self._session)
        if self._answers is not None:
            self._answers.resume()
        if session.is_attached:
            self._flush(now)
        elif session.state is State.DETACHED and link is self._link:
            self._drop_link(LossKind.LINK_LOST, "the session went on over another transport")

    def receive_datagram(self, link: LineLink, data: bytes) -> None:
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

    def receive_link_lost(self, link: LineLink, error: Exception | None) -> None:
        """A transport ended."""
        if link is not self._link:
            return
        detail = (
            f"the connection broke: {error}" if error else "the peer's connection ended without a goodbye"
        )
        self._drop_link(LossKind.LINK_LOST, detail)

    def pause_writing(self, link: LineLink) -> None:
        """The transport's buffer is full."""
        if link is self._link and self._session is not None:
            self._session.pause_writing()

    def resume_writing(self, link: LineLink) -> None:
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

    # For the owner.

    @property
    def session(self) -> Session | None:
        """The session behind the line."""
        return self._session

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
            old.transport.write(
                encode_body(Kind.BYE, Bye(int(Code.LINK_REPLACED), "resumed on a newer transport"))
            )
            close_in_time(self._owner.loop, old.transport)
        link = self._link = LineLink(self, transport, epoch)
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
        self._cause = change
        self._owner.line_changed(self, change)
        if self._callback is not None:
            call_back(self._callback, self, change)

    def expire_at(self, due: float) -> None:
        """Asks for ``line_expired`` at that time unless a transport is attached before."""
        self._expires_at = due
        self._owner.wheel.schedule(self, due)

    def abandon_session(self, why: str) -> tuple[Unconfirmed, ...]:
        """The session is lost: fails what was asked in it, and returns the messages whose fate is unknown."""
        session = self._session
        if session is None:
            return ()
        # What arrived stays readable, but there is nobody left to acknowledge it to.
        for message in [*(self._inbox or ()), *(self._answers.untaken() if self._answers else ())]:
            message.sequence = 0
        lost = unconfirmed_messages(session)
        if session.state is not State.CLOSED:
            session.close(Code.EXPIRED)
        if self._requests is not None:
            self._requests.fail(why)
        if self._answers is not None:
            self._answers.abandon()
        self._eof_received = False
        return lost

    def forget_session(self) -> None:
        """The line waits for a new session."""
        self._datagrams_dropped = self.datagrams_dropped
        self._datagrams_ignored = self.datagrams_ignored
        self._session = None

    def finish(self, change: StateChange, error: Exception | None) -> None:
        """The line is over: wakes everybody with ``error``, or in order. Does nothing the second time."""
        if self._state is LineState.CLOSED:
            return
        link, self._link = self._link, None
        if link is not None:
            self._peer = _format_peer(link.transport.get_extra_info("peername"))
            self.leaving = close_in_time(self._owner.loop, link.transport)
        self.error = error
        if self._session is not None and self._session.state is not State.CLOSED:
            self._session.close(Code.EXPIRED)
        self.change(change)
        if self._requests is not None:
            self._requests.fail(change.detail or change.cause.value)
        if self._answers is not None:
            self._answers.abandon()
        ended = error or LineClosed(f"the line is closed: {change.detail or change.cause.value}", change.code)
        if self._room is not None:
            self._room.fail(ended)
        if self._waiting is not None:
            for ping in self._waiting.pings.values():
                if not ping.done():
                    ping.set_exception(ended)
            wake(self._waiting.reader)

    def end_too_slow(self, detail: str) -> None:
        """Ends the line because its peer does not take what is sent to it, or holds too much of our memory."""
        session = self._session
        if session is None or self._state is LineState.CLOSED:
            return
        session.close(Code.TOO_SLOW, detail)
        self._flush()
        self._owner.line_too_slow(self, detail)

    # Inside: sending.

    def _live_session(self) -> Session:
        if self._state is LineState.CLOSED:
            raise self.error or LineClosed(f"the line is closed: {self._cause.detail if self._cause else ''}")
        # One that the peer has ended stays here until its owner has seen what is lost with it.
        if self._session is None or self._session.state is State.CLOSED:
            raise BufferFull("the line has no session just now")
        return self._session

    def _has_room(self, size: int) -> bool:
        """Whether a message can be sent at once. Raises what ended the line."""
        if self._state is LineState.CLOSED:
            self._live_session()
        session = self._session
        return session is not None and session.state is not State.CLOSED and session.has_room(size)

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
        """Sends a message of any operation, waiting for room and for those who wait already."""
        size = len(name) + len(body)
        if (self._room is not None and self._room.has_senders) or not self._has_room(size):
            await self._ensure_room().wait(lambda: self._has_room(size))
        dropped = self._live_session().send(
            operation, name, body, correlation=correlation, is_packed=is_packed, is_bulk=is_bulk
        )
        if dropped:
            self._count_dropped(dropped)
        self._flush_soon()
        if self._room is not None:
            self._room.wake_sender(self._session)

    def transmit_nowait(
        self, operation: Operation, name: bytes, body: bytes, *, correlation: int, is_packed: bool
    ) -> None:
        """Sends a message of any operation. Raises :class:`BufferFull` where :meth:`transmit` would wait."""
        dropped = self._live_session().send(
            operation, name, body, correlation=correlation, is_packed=is_packed
        )
        if dropped:
            self._count_dropped(dropped)
        self._flush_soon()

    def _ensure_room(self) -> Room:
        if self._room is None:
            self._room = Room(self, self._owner.loop)
        return self._room

    def _count_dropped(self, count: int) -> None:
        self._owner.messages_dropped += count
        self._ensure_room().count_dropped(count, self._session)

    async def drain(self, timeout: float | None = DRAIN_TIMEOUT_S) -> bool:
        """Waits until the peer's application has taken everything sent, ``timeout`` seconds at most.

        Returns whether it has. Cancelling it changes nothing.
        """
        session = self._session
        if session is None or session.is_drained or (timeout is not None and timeout <= 0):
            return session is None or session.is_drained
        return await self._ensure_room().drain(session, timeout)

    def _flush_soon(self) -> None:
        """Writes at the end of this turn of the loop, so that many small sends make one write."""
        if not self._in_batch and not self._flush_scheduled:
            self._flush_scheduled = True
            self._owner.outbox.add(self)

    def write_out(self) -> None:
        """The outbox's call."""
        self._flush_scheduled = False
        self._flush()

    def _flush(self, now: float | None = None) -> None:
        session, link = self._session, self._link
        if session is None or link is None:
            return
        if now is None:
            now = self._owner.wheel.time()
        while data := session.data_to_send(now):
            link.transport.write(data)
            if len(data) < WRITE_BYTES:
                break
        # What is read and written only puts the heartbeat off. A line that is to be woken already needs an earlier
        # time for nothing but an acknowledgement.
        due = session.next_timeout() if self.timer_tick is None else session.ack_due
        if due is not None:
            self._owner.wheel.schedule(self, due)

    def _waits(self) -> _Waiting:
        if self._waiting is None:
            self._waiting = _Waiting()
        return self._waiting

    # Inside: receiving.

    def _answering(self) -> Answers:
        if self._answers is None:
            self._answers = Answers(self, self._owner.handlers, self._owner.loop)
        return self._answers

    def take(self, message: MessageReceived) -> None:
        """The application has a message. Messages of a lost session have no number any more."""
        if self._session is not None and message.sequence and self._state is not LineState.CLOSED:
            self._session.take(message)
            if not self._in_batch:
                self._flush_soon()

    def _dispatch(self, message: MessageReceived) -> None:
        operation = message.operation
        if operation is Operation.MESSAGE:
            handler = self._owner.handlers.find(message.name)
            if handler is None:
                self._receive_unhandled(message)
            else:
                self._answering().receive_message(message, handler)
        elif operation is Operation.REQUEST:
            self._answering().receive_request(message)
        elif operation is Operation.CANCEL:
            self.take(message)
            self._answering().cancel_request(message.correlation)
        else:
            self.take(message)
            if self._requests is not None:
                self._requests.receive_answer(message)

    def complain(self, sentence: str, *arguments: object) -> None:
        """Logs what the peer does wrong, a few times for each transport: the log is not the peer's to fill.

        ``sentence`` begins with ``%r`` for this line.
        """
        link = self._link
        complaints = COMPLAINTS_MAX + 1 if link is None else link.complaints
        if complaints < COMPLAINTS_MAX:
            logger.warning(sentence, self, *arguments)
        elif complaints == COMPLAINTS_MAX:
            logger.warning("%r goes on like that; no more is told of it on this connection", self)
        else:
            return
        assert link is not None
        link.complaints += 1

    def _receive_unhandled(self, message: MessageReceived) -> None:
        if message.name:
            self.take(message)
            self.complain("%r sent a message named %r, for which there is no handler", message.name)
            return
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.append(message)
        if self._waiting is not None:
            wake(self._waiting.reader)

    # Inside: events and ends.

    def _handle_event(self, event: Event) -> None:
        if isinstance(event, PongReceived):
            # Only the answer to the last ping is reported; it answers those before it as well.
            for number, future in self._waiting.pings.items() if self._waiting else ():
                if number <= event.number and not future.done():
                    future.set_result(event.round_trip_s)
        elif isinstance(event, Suspected):
            detail = f"nothing heard for {event.silence_s:.1f} s"
            self.change(StateChange(state=LineState.SUSPECT, cause=LossKind.SILENT, detail=detail))
        elif isinstance(event, Recovered):
            self.change(StateChange(state=LineState.ONLINE, resumed=True, epoch=self.epoch))
        elif isinstance(event, PeerSilent):
            self._drop_link(LossKind.SILENT, f"nothing heard for {event.silence_s:.1f} s")
        elif isinstance(event, EofReceived):
            self._eof_received = True
            if self._requests is not None:
                self._requests.fail("the peer said it sends no more")
            if self._waiting is not None:
                wake(self._waiting.reader)
        elif isinstance(event, NoticeReceived):
            link = self._link
            if link is not None and not link.has_warned:
                # Once a transport: a peer must not fill the log.
                link.has_warned = True
                logger.warning("%r: the peer warns: %s (%s)", self, event.reason, event.code.name)
        elif isinstance(event, Ended):
            self._flush()
            link, self._link = self._link, None
            if link is not None:
                self._peer = _format_peer(link.transport.get_extra_info("peername"))
                self.leaving = close_in_time(self._owner.loop, link.transport)
            self._owner.line_ended(self, event)

    def _drop_link(self, cause: LossKind, detail: str) -> None:
        link, self._link = self._link, None
        if link is None or self._session is None:
            return
        self._peer = _format_peer(link.transport.get_extra_info("peername"))
        # Nothing that still waits in a dead transport's buffer is worth its memory: the session has it all.
        link.transport.abort()
        self._session.receive_link_lost()
        if self._waiting is not None:
            for future in self._waiting.pings.values():
                if not future.done():
                    future.set_exception(LineClosed(detail))
        self._owner.line_detached(self, cause, detail)


def call_back(function: Callable[..., object], *arguments: object) -> None:
    """Calls a function of the user's; what it raises is logged, and upsets neither the line nor its owner."""
    try:
        function(*arguments)
    except Exception:
        logger.exception("the callback %r failed", function)


def unconfirmed_messages(session: Session) -> tuple[Unconfirmed, ...]:
    """The unconfirmed messages their owner must hear of.

    Requests, and the library's own messages, are told by the exception of the call they belong to.
    """
    return tuple(
        entry
        for entry in session.unconfirmed()
        if entry.operation is Operation.MESSAGE and not entry.name.startswith(RESERVED_PREFIX)
    )


def _format_peer(peername: Any) -> str:
    if isinstance(peername, tuple) and len(peername) >= 2:
        host, port = peername[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "local" if peername == "" else str(peername or "")
