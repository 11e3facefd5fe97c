"""The sending side of a line: from a value to the bytes its transport is given.

A message goes into the session's buffer at once where there is room, else its sender waits or its policy decides.
What the session has to say is written at the end of the event loop's turn, in one go for many small sends.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from threading import get_ident
from typing import Any, Final, Protocol

from landline.codes import Operation
from landline.errors import BufferFull, LineClosed, SendTimeout
from landline.line.flow_control import OverflowPolicy, SendFlowControl, check_policy
from landline.line.handlers import Handlers
from landline.line.line_datagrams import send_datagram
from landline.line.line_state import LineState, StateChange
from landline.line.link import TransportLink
from landline.runtime.flush_queue import FlushQueue
from landline.runtime.loop_thread import check_thread, wrong_thread
from landline.runtime.timer_wheel import TimerWheel
from landline.runtime.turns import Turns
from landline.session.events import MessageReceived
from landline.session.frames import encode_datagram
from landline.session.outbound import WRITE_BYTES
from landline.session.session import Session
from landline.session.state import State
from landline.transports.linger import TransportCloser

DRAIN_TIMEOUT_S: Final = 5.0

# Looked up once: an enum's attribute costs as much as a function call.
_CLOSED = LineState.CLOSED
_MESSAGE = Operation.MESSAGE
_WAIT = OverflowPolicy.WAIT
_DROP_OLDEST = OverflowPolicy.DROP_OLDEST


class LineResources(Protocol):
    """What the lines of one server, or the line of one client, share."""

    loop: asyncio.AbstractEventLoop
    wheel: TimerWheel
    flush_queue: FlushQueue
    closer: TransportCloser
    thread: int
    """The thread of the loop, as ``threading.get_ident()`` has it."""
    turns: Turns
    handlers: Handlers
    continues_lines: bool
    """Whether a line whose session has ended may get another one."""
    messages_dropped: int
    """Of all lines, for want of room in their send buffers."""


class LineWriter(ABC):
    """What a line sends, and the session, the transport and the state that decide whether and how it can.

    :class:`landline.Line` sets those three; here they are only used.
    """

    __slots__ = (
        "__weakref__",
        "_datagrams_dropped",
        "_flush_scheduled",
        "_in_batch",
        "_last_change",
        "_link",
        "_owner",
        "_room",
        "_session",
        "_state",
        "_written_in",
        "error",
        "timer_tick",
    )

    def __init__(self, owner: LineResources, state: LineState) -> None:
        self._owner = owner
        self._session: Session | None = None
        self._link: TransportLink | None = None
        self._state = state
        self._last_change: StateChange | None = None
        self._flush_scheduled = False
        # The turn in which a broadcast was written at once.
        self._written_in = 0
        # While what was read is worked off, whose end writes everything.
        self._in_batch = False
        self._room: SendFlowControl | None = None
        # Of earlier sessions, and of the time between two.
        self._datagrams_dropped = 0
        self.timer_tick: int | None = None
        self.error: Exception | None = None
        """Once closed: what a reader or sender gets, or ``None`` after an orderly end."""

    @property
    def handlers(self) -> Handlers:
        """What the peer may ask, and how values are encoded."""
        return self._owner.handlers

    @property
    def session(self) -> Session | None:
        """The session behind the line."""
        return self._session

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be sent any more in the session that the line has, or had."""
        session = self._session
        return self._state is _CLOSED or session is None or session.state is State.CLOSED

    @property
    def buffered_bytes(self) -> int:
        """Bytes waiting to be sent or acknowledged."""
        return self._session.buffered_bytes if self._session else 0

    @property
    def messages_dropped(self) -> int:
        """Messages to the peer that were dropped for want of room, or because newer ones took their place."""
        return self._room.messages_dropped if self._room else 0

    @property
    def datagrams_dropped(self) -> int:
        """Datagrams to the peer that were not sent; those that got lost on their way are not known."""
        session = self._session
        return self._datagrams_dropped + (session.datagrams_dropped if session is not None else 0)

    # Messages.

    async def send(
        self,
        value: Any,
        *,
        name: str = "",
        bulk: bool = False,
        overflow: OverflowPolicy = _WAIT,
        max_pending: int | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Sends a message; it arrives once and in order while the session lives (P1).

        Waits while the send buffer is full, or a lost session has no successor yet: after a server's goodbye, until the
        line is connected again or ends. After ``timeout`` seconds :class:`SendTimeout` is raised, and nothing was sent;
        ``None`` waits as long as the line lives. Returns once the message is in the buffer, not when it arrived:
        ``close()`` and the session's end tell what did not. ``bulk`` lets later messages overtake it.

        ``overflow`` names another policy than waiting; with it the call never waits and returns whether the message
        was taken. ``max_pending`` is for ``DROP_OLDEST``: so many messages of this name may wait at most, however
        much room there is; older ones are dropped.

        Cancelling a waiting call leaves the message unsent. Raises :class:`MessageTooLarge`,
        :class:`LineClosed` or what ended the line; :class:`TypeError` for values MessagePack has no form for.
        """
        if get_ident() != self._owner.thread:
            raise wrong_thread("line.send")
        body, is_packed = self._owner.handlers.encode(value)
        if overflow is _WAIT and max_pending is None:
            sending = self.transmit(Operation.MESSAGE, name.encode(), body, is_packed=is_packed, is_bulk=bulk)
            await (sending if timeout is None else _in_time(sending, timeout))
            return True
        return self._offer(name.encode(), body, is_packed, bulk, overflow, max_pending)

    def send_nowait(
        self,
        value: Any,
        *,
        name: str = "",
        bulk: bool = False,
        overflow: OverflowPolicy = _WAIT,
        max_pending: int | None = None,
    ) -> bool:
        """As :meth:`send`, but raises :class:`BufferFull` where that would wait; then nothing was sent."""
        if get_ident() != self._owner.thread:
            raise wrong_thread("line.send_nowait")
        body, is_packed = (value, False) if type(value) is bytes else self._owner.handlers.encode(value)
        encoded_name = name.encode() if name else b""
        if overflow is not _WAIT or max_pending is not None:
            return self._offer(encoded_name, body, is_packed, bulk, overflow, max_pending)
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
        overflow: OverflowPolicy = _WAIT,
        max_pending: int | None = None,
        turn: int = 0,
        now: float | None = None,
    ) -> int:
        """Sends a value encoded before, as a broadcast does once for all lines.

        With a ``turn`` of the flush queue the first such message of that turn is written at once: a second pass
        over thousands of lines would evict them from the CPU cache. ``now`` saves
        looking at the clock for each of them.

        Returns how many older messages were dropped for it. Raises :class:`BufferFull` when there is no room;
        :meth:`receive_full` then does what the policy says.
        """
        if (
            self._room is not None
            and self._room.has_senders
            and overflow is not _DROP_OLDEST
            and overflow is not OverflowPolicy.DISCONNECT
        ):
            raise BufferFull("others wait for room in the send buffer already")
        session = self._session
        if session is None or self._state is _CLOSED:
            session = self._live_session()
        try:
            if overflow is _DROP_OLDEST:
                dropped = session.send(
                    _MESSAGE,
                    name,
                    body,
                    is_packed=is_packed,
                    is_bulk=is_bulk,
                    is_droppable=True,
                    max_pending=max_pending,
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
            self._flush(now)
        else:
            self._flush_soon()
        return dropped

    def receive_full(self, overflow: OverflowPolicy) -> None:
        """There was no room for a message: counts it as dropped, or ends the line, as its policy says."""
        if overflow is not OverflowPolicy.DISCONNECT:
            self._count_dropped(1)
        elif self._session is not None:
            self.end_too_slow("the send buffer is full")

    def _offer(
        self,
        name: bytes,
        body: bytes,
        is_packed: bool,
        is_bulk: bool,
        overflow: OverflowPolicy,
        max_pending: int | None,
    ) -> bool:
        check_policy(overflow, max_pending)
        try:
            self.send_encoded(
                name, body, is_packed=is_packed, is_bulk=is_bulk, overflow=overflow, max_pending=max_pending
            )
        except BufferFull:
            self.receive_full(overflow)
            if overflow is OverflowPolicy.DISCONNECT:
                # Raises what ended the line, or that there is no session which could be ended.
                self._live_session()
            return False
        return True

    # Requests, their answers and their cancellation, beside what users send.

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
        """Sends a message of any operation, past those who wait. Raises :class:`BufferFull` where there is no room."""
        dropped = self._live_session().send(
            operation, name, body, correlation=correlation, is_packed=is_packed
        )
        if dropped:
            self._count_dropped(dropped)
        self._flush_soon()

    # Datagrams.

    def send_datagram(self, value: Any, *, name: str = "") -> bool:
        """Sends a value that arrives at most once, and soon or never: it is not kept and not sent again.

        For what the next one makes worthless: positions, meters, pointers. It is dropped (and counted) while the line
        is not connected or its transport takes no data, and where many wait to be written in this turn of the event
        loop. Returns whether it was taken; whether it arrived, nobody is told. It may overtake messages, and be
        overtaken where the transport carries datagrams of its own. :meth:`send_eof` does not end datagrams.

        Raises :class:`MessageTooLarge` above 1,200 bytes with name and 2 bytes of header, :class:`LineClosed` or what
        ended the line, :class:`TypeError` for values MessagePack has no form for.
        """
        if get_ident() != self._owner.thread:
            raise wrong_thread("line.send_datagram")
        body, is_packed = self._owner.handlers.encode(value)
        return self.send_encoded_datagram(encode_datagram(name.encode(), body, is_packed=is_packed))

    def send_encoded_datagram(self, frame: bytes) -> bool:
        """Sends a datagram encoded before, as a broadcast does once for all lines."""
        session, link = self._session, self._link
        if self._state is _CLOSED:
            self._live_session()
        if session is None or link is None or link.is_lost or session.state is State.CLOSED:
            self._datagrams_dropped += 1
            return False
        is_taken = send_datagram(session, link.transport, frame, self._owner.wheel.time())
        if is_taken:
            self._flush_soon()
        return is_taken

    # The end of what is sent.

    async def send_eof(self, *, timeout: float | None = None) -> None:
        """Says that no more will be sent, after everything sent so far; the peer can go on sending (half-close).

        Waits, and raises :class:`SendTimeout`, as :meth:`send` does.
        """
        check_thread(self._owner.thread, "line.send_eof")
        if timeout is not None:
            return await _in_time(self.send_eof(), timeout)
        while (self._room is not None and self._room.has_senders) or not self._has_room(0):
            await self._ensure_room().wait(lambda: self._has_room(0))
        self._live_session().send_eof()
        self._flush_soon()
        return None

    async def drain(self, timeout: float | None = DRAIN_TIMEOUT_S) -> bool:
        """Waits until the peer's application has taken everything sent, ``timeout`` seconds at most.

        Returns whether it has. Cancelling it changes nothing.
        """
        check_thread(self._owner.thread, "line.drain")
        session = self._session
        if session is None or session.is_drained or (timeout is not None and timeout <= 0):
            return session is None or session.is_drained
        return await self._ensure_room().drain(session, timeout)

    # Room in the send buffer.

    def _live_session(self) -> Session:
        if self._state is _CLOSED:
            assert self._last_change is not None
            raise self.error or LineClosed(
                f"the line is closed: {self._last_change.reason}", self._last_change.code
            )
        # One that the peer has ended stays here until its owner has seen what is lost with it.
        if self._session is None or self._session.state is State.CLOSED:
            if self._session is not None and not self._owner.continues_lines:
                raise LineClosed("the session has ended, and the line with it")
            raise BufferFull("the line has no session just now")
        return self._session

    def _has_room(self, size: int) -> bool:
        """Whether a message can be sent at once. Raises what ended the line."""
        if self._state is _CLOSED:
            self._live_session()
        session = self._session
        return session is not None and session.state is not State.CLOSED and session.has_space(size)

    def _ensure_room(self) -> SendFlowControl:
        if self._room is None:
            self._room = SendFlowControl(self, self._owner.loop)
        return self._room

    def _count_dropped(self, count: int) -> None:
        self._owner.messages_dropped += count
        self._ensure_room().count_dropped(count, self._session)

    # To the transport.

    def take(self, message: MessageReceived) -> None:
        """The application has a message. Messages of a lost session have no number any more."""
        if self._session is not None and message.sequence and self._state is not _CLOSED:
            self._session.ack(message)
            if not self._in_batch:
                self._flush_soon()

    def _flush_soon(self) -> None:
        """Writes at the end of this turn of the loop, so that many small sends make one write."""
        if not self._in_batch and not self._flush_scheduled:
            self._flush_scheduled = True
            self._owner.flush_queue.add(self)

    def write_out(self) -> None:
        """The flush queue's call."""
        self._flush_scheduled = False
        self._flush()

    def _flush(self, now: float | None = None) -> None:
        session, link = self._session, self._link
        if session is None or link is None or link.is_lost:
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

    # Where the whole line is needed: landline.Line.

    def log_peer_error(self, sentence: str, *arguments: object) -> None:
        """Logs what the peer does wrong, a few times for each transport; see :meth:`TransportLink.log_peer_error`."""
        if self._link is not None:
            self._link.log_peer_error(sentence, *arguments)

    @abstractmethod
    def end_too_slow(self, detail: str) -> None:
        """Ends the line because its peer does not take what is sent to it, or holds too much of our memory."""

    @abstractmethod
    def handle_timer(self, now: float) -> None:
        """The timer wheel's call, at the time that what was written asked for."""


async def _in_time(sending: Coroutine[Any, Any, None], timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await sending
    except TimeoutError as error:
        raise SendTimeout(f"no room in the send buffer within {timeout_s:g} s; nothing was sent") from error
