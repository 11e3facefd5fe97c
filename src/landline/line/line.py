"""The line that users hold on both ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable
from threading import get_ident
from typing import Any, Final, Self, TypeVar, overload

from landline.codes import Code, Operation
from landline.errors import LineClosed, RequestLost, SendTimeout, SessionLost, Unconfirmed, outcome
from landline.line.driver import LineDriver
from landline.line.file_sender import STALL_TIMEOUT_S, FileReceipt, ProgressCallback
from landline.line.flow_control import OverflowPolicy
from landline.line.interfaces import LineHost
from landline.line.line_state import LineState, StateChange
from landline.runtime.loop_thread import check_thread, wrong_thread
from landline.session.frames import encode_datagram
from landline.signatures import check_function

DRAIN_TIMEOUT_S: Final = 5.0

StateCallback = Callable[["Line", StateChange], None]
_StateCallback = TypeVar("_StateCallback", bound=StateCallback | None)
Response = TypeVar("Response")

# Looked up once: an enum's attribute costs as much as a function call.
_MESSAGE = Operation.MESSAGE
_WAIT = OverflowPolicy.WAIT


class Line:
    """A connection that outlives its sockets. Created by :func:`landline.connect` and :class:`landline.Server`.

    Messages are values that MessagePack can hold, or bytes, which are sent unchanged. Call all methods in the thread of
    the event loop.
    """

    __slots__ = ("__weakref__", "_driver", "data")

    def __init__(
        self, host: LineHost[Line], *, identity: str = "", state: LineState = LineState.CONNECTING
    ) -> None:
        self._driver = LineDriver(self, host, identity=identity, state=state)
        self.data: Any = None
        """For the application's own use."""

    def __repr__(self) -> str:
        return repr(self._driver)

    # Properties

    @property
    def state(self) -> LineState:
        """The state of the line."""
        return self._driver.state

    @property
    def last_change(self) -> StateChange | None:
        """The last change of state, with its cause."""
        return self._driver.last_change

    @property
    def is_closed(self) -> bool:
        """Whether the line is closed. A closed line stays closed."""
        return self._driver.is_closed

    @property
    def error(self) -> Exception | None:
        """What closed the line, as readers and senders get it; ``None`` before, and after an orderly end."""
        return self._driver.error

    @property
    def identity(self) -> str:
        """On a server's lines, the identity that the peer proved; on a client's, the identity it gave."""
        return self._driver.identity

    @property
    def peer(self) -> str:
        """The peer's address, ``IP:port`` or a socket path, of the current transport or the last one."""
        return self._driver.peer

    @property
    def round_trip_s(self) -> float | None:
        """The last measured round trip in seconds; ``None`` before the first."""
        session = self._driver.session
        return session.round_trip_s if session is not None else None

    @property
    def session_id(self) -> bytes:
        """The id of the session; a line that had to start a new session has a new id."""
        session = self._driver.session
        return session.session_id if session is not None else b""

    @property
    def epoch(self) -> int:
        """The number of transports that the session has used."""
        session = self._driver.session
        return session.epoch if session is not None else 0

    @property
    def buffered_bytes(self) -> int:
        """Bytes waiting to be sent or acknowledged."""
        session = self._driver.session
        return session.outbound.buffered_bytes if session is not None else 0

    @property
    def held_bytes(self) -> int:
        """About how much memory the line holds: messages in both directions, and those that handlers work on."""
        return self._driver.held_bytes

    @property
    def messages_dropped(self) -> int:
        """Messages to the peer that were dropped for lack of room, or replaced by newer ones."""
        return self._driver.messages_dropped

    @property
    def duplicates_dropped(self) -> int:
        """Frames of this session that arrived a second time and were dropped."""
        session = self._driver.session
        return session.inbound.duplicates_dropped if session is not None else 0

    @property
    def datagrams_dropped(self) -> int:
        """Datagrams to the peer that were not sent. Those lost by the network are unknown."""
        return self._driver.datagrams_dropped

    @property
    def datagrams_ignored(self) -> int:
        """Datagrams of the peer that had no handler, did not fit its type, or exceeded the number for one read."""
        return self._driver.datagrams_ignored

    def on_state(self, callback: _StateCallback) -> _StateCallback:
        """Call ``callback(line, change)`` on every change of state, inside the event loop; ``None`` calls nothing.

        It replaces an earlier callback, and may be used as a decorator.
        """
        if callback is not None:
            check_function(
                callback, "the callback of Line.on_state()", ("line", "change"), may_be_async=False
            )
        self._driver.callback = callback
        return callback

    # Sending

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
        """Send a message; it arrives once and in order while the session lives.

        Waits while the send buffer is full, and while a lost session has no successor yet: after a server's goodbye,
        until the line is connected again or closed. Returns once the message is in the buffer, not when it has
        arrived: :meth:`close` and the end of the session report what has not.

        :param name: the name of the peer's handler; without one, the peer reads the message from its line.
        :param bulk: whether later messages may overtake this one.
        :param overflow: another policy than waiting; then the call never waits, and returns whether the message was
            accepted.
        :param max_pending: with ``DROP_OLDEST``, how many messages of this name may wait at most, however much room
            there is; older ones are dropped.
        :param timeout: seconds to wait; ``None`` waits as long as the line lives.
        :raises SendTimeout: when the time is over; nothing was sent.
        :raises MessageTooLarge: when the peer does not accept a message of this size.
        :raises LineClosed: when the line is closed; or the error that closed it.
        :raises TypeError: for a value that MessagePack cannot hold.

        Cancelling a call that waits leaves the message unsent.
        """
        driver = self._driver
        host = driver.host
        if get_ident() != host.thread:
            raise wrong_thread("line.send")
        body, is_packed = host.handlers.encode(value)
        if overflow is _WAIT and max_pending is None:
            sending = driver.transmit(_MESSAGE, name.encode(), body, is_packed=is_packed, is_bulk=bulk)
            await (sending if timeout is None else _send_in_time(sending, timeout))
            return True
        return driver.offer(
            name.encode(), body, is_packed=is_packed, is_bulk=bulk, overflow=overflow, max_pending=max_pending
        )

    def send_nowait(
        self,
        value: Any,
        *,
        name: str = "",
        bulk: bool = False,
        overflow: OverflowPolicy = _WAIT,
        max_pending: int | None = None,
    ) -> bool:
        """Send like :meth:`send`, but raise :class:`BufferFull` instead of waiting; then nothing was sent."""
        driver = self._driver
        host = driver.host
        if get_ident() != host.thread:
            raise wrong_thread("line.send_nowait")
        body, is_packed = (value, False) if type(value) is bytes else host.handlers.encode(value)
        encoded_name = name.encode() if name else b""
        if overflow is not _WAIT or max_pending is not None:
            return driver.offer(
                encoded_name,
                body,
                is_packed=is_packed,
                is_bulk=bulk,
                overflow=overflow,
                max_pending=max_pending,
            )
        driver.send_encoded(encoded_name, body, is_packed=is_packed, is_bulk=bulk)
        return True

    def send_datagram(self, value: Any, *, name: str = "") -> bool:
        """Send a value that arrives at most once, soon or never: it is neither kept nor sent again.

        For values that the next one makes worthless, such as positions and meter readings. It is dropped and counted
        while the line is not connected, while its transport accepts no data, and when many already wait to be written
        in this iteration of the event loop. It may overtake messages, and be overtaken where the transport carries
        datagrams of its own. :meth:`send_eof` does not end datagrams.

        :returns: whether it was accepted; whether it arrives is not reported.
        :raises MessageTooLarge: above 1,200 bytes, with its name and 2 bytes of header.
        :raises LineClosed: when the line is closed; or the error that closed it.
        :raises TypeError: for a value that MessagePack cannot hold.
        """
        driver = self._driver
        check_thread(driver.host.thread, "line.send_datagram")
        body, is_packed = driver.host.handlers.encode(value)
        return driver.send_encoded_datagram(encode_datagram(name.encode(), body, is_packed=is_packed))

    async def send_eof(self, *, timeout: float | None = None) -> None:
        """Tell the peer that nothing more will be sent, after everything sent so far (half-close).

        The peer can still send. Waits, and raises :class:`SendTimeout`, as :meth:`send` does. Idempotent.
        """
        check_thread(self._driver.host.thread, "line.send_eof")
        sending = self._driver.send_eof()
        await (sending if timeout is None else _send_in_time(sending, timeout))

    async def drain(self, timeout: float | None = DRAIN_TIMEOUT_S) -> bool:
        """Wait until the peer's application has acknowledged everything sent, ``timeout`` seconds at most.

        Returns whether it has. Cancelling the call changes nothing else.
        """
        check_thread(self._driver.host.thread, "line.drain")
        return await self._driver.drain(timeout)

    async def send_file(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        to: str = "",
        progress: ProgressCallback | None = None,
        stall_timeout_s: float | None = STALL_TIMEOUT_S,
    ) -> FileReceipt:
        """Send a file; return when it is complete on the receiver's disk, under its name (``docs/files.md``).

        The transfer continues over other transports, with a new session, and, when called again with the same file,
        over another line or in another process: what the receiver has is compared by its hash and not sent again.

        :param name: the name for the receiver; by default the last part of the path.
        :param to: the receiver's directory, as its ``on_file(to=...)`` calls it.
        :param progress: called as ``progress(FileProgress)`` in the event loop, about ten times a second at most.
        :param stall_timeout_s: seconds without a message of the receiver, while the line is connected, until the
            transfer is given up; ``None`` waits while the line lives.
        :raises FileRefused: the receiver does not accept it, with its code and reason.
        :raises FileChanged: the file was written to during the transfer; the receiver keeps nothing.
        :raises FileStalled: the receiver sent nothing for too long.
        :raises ConfigurationError: the path is not a regular file, or the name cannot be used.
        :raises OSError: the file cannot be read.
        :raises LineClosed: the line is closed; or the error that closed it, as for :meth:`send`.

        Cancelling tells the receiver, which keeps what it has so that the transfer can be resumed. A cancellation after
        the last byte may find the file stored.
        """
        return await self._driver.host.files.send(
            self, path, name=name, to=to, progress=progress, stall_timeout_s=stall_timeout_s
        )

    # Receiving

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """Return the next message without a name; see :meth:`recv`.

        Iteration ends when the peer has sent EOF, or the line was closed in order.
        """
        driver = self._driver
        check_thread(driver.host.thread, "line.__anext__")
        inbox = driver.inbox or driver.open_inbox()
        if inbox.must_wait() and not await inbox.wait():
            raise StopAsyncIteration
        return inbox.pop()

    async def recv(self) -> Any:
        """Return the next message without a name, where no ``on_message`` handler takes it.

        The message is acknowledged when it is returned. Only one task may read from a line at a time.

        :raises LineClosed: the peer has sent EOF, or the line is closed; or the error that closed it.
        :raises RuntimeError: another task already reads from the line.

        Cancelling loses no message.
        """
        driver = self._driver
        check_thread(driver.host.thread, "line.recv")
        inbox = driver.inbox or driver.open_inbox()
        if inbox.must_wait() and not await inbox.wait():
            if driver.is_closed:
                driver.live_session()  # Raises that the line is closed, and why.
            raise LineClosed("no more messages: the peer has sent EOF")
        return inbox.pop()

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
        """Send a request to the peer's handler ``name`` and return its answer.

        :param timeout: seconds for everything, reconnecting included; ``None`` waits while the line lives.
        :param response_type: the type to which the answer is converted, any that msgspec can check.
        :raises RequestTimeout: no answer in time; whether the peer acted is unknown.
        :raises RequestLost: the session ended; whether the peer acted is unknown.
        :raises NoHandler: the peer has no handler of this name.
        :raises RequestError: the error of the handler; with the code ``bad_response`` for an answer that does not fit
            ``response_type``.
        :raises LineClosed: as :meth:`send` does, which may also raise :class:`MessageTooLarge`.

        Cancelling the call, and a time-out, cancel the peer's handler.
        """
        driver = self._driver
        check_thread(driver.host.thread, "line.request")
        if driver.is_at_eof and not driver.is_closed:
            raise outcome(RequestLost(name, "the peer said it sends no more"))
        return await driver.open_pending_requests().request(name, value, timeout, response_type)

    async def ping(self, *, timeout: float | None = 10.0) -> float:
        """Measure a round trip now; return it in seconds.

        :raises TimeoutError: no answer within ``timeout`` seconds.
        :raises LineClosed: the line is not connected, or lost its connection before the answer.
        """
        check_thread(self._driver.host.thread, "line.ping")
        return await self._driver.open_pending_pings().ping(timeout)

    # Closing

    async def close(
        self,
        code: Code = Code.NORMAL,
        reason: str = "",
        *,
        timeout: float | None = DRAIN_TIMEOUT_S,
        retry_after_s: float | None = None,
        spread_s: float = 0.0,
    ) -> None:
        """Close the line in order: wait until the peer has acknowledged everything, then send a BYE.

        For a line that is closed already, only wait for what :meth:`abort` has left to end.

        :param timeout: seconds to wait at most.
        :param retry_after_s: see :meth:`abort`; so is ``spread_s``.
        :raises SessionLost: messages stayed unconfirmed; the line is closed nevertheless.

        Cancelling closes the line at once.
        """
        driver = self._driver
        if driver.is_closed:
            await driver.host.wait_closed(self)
            return
        try:
            await self.drain(timeout)
        finally:
            lost = self.abort(code, reason, retry_after_s=retry_after_s, spread_s=spread_s)
            await driver.host.wait_closed(self)
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
        """Close the line at once with a BYE. Return the messages that stayed unconfirmed.

        A client that may return does so after ``retry_after_s`` and a random part of ``spread_s``, in seconds, and
        first tries the URLs of ``alternatives`` (16 at most).
        """
        check_thread(self._driver.host.thread, "line.abort")
        return self._driver.abort(
            code, reason, retry_after_s=retry_after_s, spread_s=spread_s, alternatives=alternatives
        )

    def break_link(self, detail: str = "the link was given up here") -> None:
        """Drop the current transport as if the network had failed; the session resumes on the next one.

        For programs that learn of a change of network before the heartbeat does, and for tests. Without a transport it
        does nothing.
        """
        check_thread(self._driver.host.thread, "line.break_link")
        self._driver.break_link(detail)


async def _send_in_time(sending: Coroutine[Any, Any, None], timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await sending
    except TimeoutError as error:
        raise SendTimeout(f"no room in the send buffer within {timeout_s:g} s; nothing was sent") from error


def driver_of(line: Line) -> LineDriver:
    """Return the driver of a line, for its host."""
    return line._driver


def drivers_of(lines: Iterable[Line]) -> list[LineDriver]:
    """Return the drivers of many lines."""
    return [line._driver for line in lines]
