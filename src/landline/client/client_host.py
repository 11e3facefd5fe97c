"""The loop that keeps one line connected: connect, wait for a loss, wait, connect again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import get_ident
from typing import Final

import msgspec

from landline.client.backoff import Schedule
from landline.client.connect_attempt import EndpointConnector
from landline.client.dialer import Dialer, Welcomed
from landline.codes import Code
from landline.errors import (
    ConnectFailed,
    GaveUp,
    LineClosed,
    ProtocolError,
    Rejected,
    SessionLost,
    Unconfirmed,
)
from landline.files.exchange import FileExchange
from landline.line.handlers import Handlers, call_back
from landline.line.line import Line, StateCallback, driver_of
from landline.line.line_state import DisconnectCause, LineState, StateChange
from landline.runtime.flush_queue import FlushQueue
from landline.runtime.guarded_log import guarded_logger
from landline.runtime.timer_wheel import TimerWheel
from landline.runtime.turns import Turns, turns_of
from landline.session.events import Ended
from landline.session.handshake import RandomSource
from landline.session.settings import SendBuffer
from landline.transports.linger import TransportCloser
from landline.transports.urls import Endpoint

# A logger of its own: a program that displays the states of its line does not need its attempts in the log as well.
logger: Final = guarded_logger("landline.client")

SessionLostCallback = Callable[[Line, tuple[Unconfirmed, ...]], None]


class _Setback(msgspec.Struct, frozen=True):
    """Why the line has to be connected again, and when the server wants it to."""

    cause: DisconnectCause
    detail: str
    error: Exception | None = None
    """The error of a failed attempt."""
    code: Code | None = None
    retry_after_s: float | None = None
    spread_s: float = 0.0


class ClientHost:
    """The host of one client's line; see :class:`landline.line.interfaces.LineHost`."""

    continues_lines = True

    def __init__(
        self,
        dialer: Dialer,
        endpoint_connector: EndpointConnector,
        schedule: Schedule,
        *,
        connect_timeout_s: float | None,
        send_buffer: SendBuffer,
        handlers: Handlers,
        random: RandomSource,
    ) -> None:
        self.handlers = handlers
        self.files: FileExchange = FileExchange(handlers)
        self.dialer = dialer
        self.endpoint_connector = endpoint_connector
        self.on_state: StateCallback | None = None
        self.on_session_lost: SessionLostCallback | None = None
        self.endpoint: Endpoint | None = None
        """The address the line is, or was last, connected to."""
        self.ends_with_line = False
        """Whether closing the line also stops this host. Otherwise its user calls :meth:`stop`."""
        self.messages_dropped = 0
        self.loop: asyncio.AbstractEventLoop
        self.thread: int
        self.wheel: TimerWheel
        self.flush_queue: FlushQueue
        self.closer: TransportCloser
        self.turns: Turns
        self._schedule = schedule
        self._connect_timeout_s = connect_timeout_s
        self._send_buffer = send_buffer
        self._random = random
        self._last_failure: Exception | None = None
        self._line: Line | None = None
        self._task: asyncio.Task[None] | None = None
        self._detached: asyncio.Future[tuple[DisconnectCause, str, Ended | None]] | None = None

    @property
    def is_started(self) -> bool:
        """Whether :meth:`open` has been called."""
        return self._task is not None

    # Lifecycle

    async def open(self) -> Line:
        """Return the line once it is connected. Raise why it cannot be; cancelling ends the attempts."""
        if self._task is not None:
            raise RuntimeError("a connector can be used only once; call connect() again")
        self.loop = asyncio.get_running_loop()
        self.thread = get_ident()
        self.wheel = TimerWheel(self.loop, self.dialer.clock)
        self.flush_queue = FlushQueue(self.loop)
        self.closer = TransportCloser(self.loop)
        self.turns = turns_of(self.loop, self.dialer.clock)
        line = self._line = Line(self, identity=self.dialer.identity)
        line.on_state(self.on_state)
        online: asyncio.Future[None] = self.loop.create_future()
        self._task = self.loop.create_task(self._keep_connected(line, online))
        time_limit = asyncio.timeout(self._connect_timeout_s)
        try:
            async with time_limit:
                await online
        except BaseException as error:
            await self.stop()
            if not (isinstance(error, TimeoutError) and time_limit.expired()):
                raise
            gave_up = GaveUp(
                self._schedule.failures, self._last_failure, connect_timeout_s=self._connect_timeout_s
            )
            change = StateChange(state=LineState.CLOSED, cause=DisconnectCause.GAVE_UP, detail=str(gave_up))
            driver_of(line).finish(change, gave_up)
            raise gave_up from self._last_failure
        return line

    async def close(self, *, at_once: bool) -> None:
        """Close the line and stop; see :meth:`landline.Line.close`.

        :param at_once: whether not to wait until the peer has acknowledged everything.
        """
        line = self._line
        assert line is not None
        try:
            if at_once:
                line.abort(Code.NORMAL)
            else:
                await line.close()
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Stop connecting, and return when the BYE has arrived, after 3 s at most."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        self.wheel.close()
        await self.closer.wait()

    # Interface for the line

    def line_changed(self, line: Line, change: StateChange) -> None:
        if change.state is not LineState.CLOSED:
            return
        if self._detached is not None and not self._detached.done():
            self._detached.set_result((change.cause, change.detail, None))
        task = self._task
        if self.ends_with_line and task is not None and not _is_running(task):
            # It may wait for its next attempt.
            task.cancel()

    def line_detached(self, line: Line, cause: DisconnectCause, detail: str) -> None:
        self._report_detached(cause, detail, None)

    def line_ended(self, line: Line, ended: Ended) -> None:
        cause = DisconnectCause.CLOSED_BY_PEER if ended.by_peer else DisconnectCause.PROTOCOL_ERROR
        self._report_detached(cause, ended.reason or ended.code.name, ended)

    def line_too_slow(self, line: Line, detail: str) -> None:
        error = self._final_error(line, LineClosed(detail, Code.TOO_SLOW))
        change = StateChange(
            state=LineState.CLOSED, cause=DisconnectCause.TOO_SLOW, detail=detail, code=Code.TOO_SLOW
        )
        driver_of(line).finish(change, error)

    def line_expired(self, line: Line) -> None:
        raise AssertionError("a client's line does not expire by itself")

    async def wait_closed(self, line: Line) -> None:
        """Stop with the line if nothing else will."""
        if self.ends_with_line:
            await self.stop()

    # Reconnect loop

    def _report_detached(self, cause: DisconnectCause, detail: str, ended: Ended | None) -> None:
        if self._detached is not None and not self._detached.done():
            self._detached.set_result((cause, detail, ended))

    async def _keep_connected(self, line: Line, online: asyncio.Future[None]) -> None:
        try:
            await self._run(line, online)
            if not online.done():
                online.set_exception(LineClosed("the line was closed before it was connected"))
        except Exception as error:  # noqa: BLE001 - it closes the line, and is raised to the line's users
            code = error.code if isinstance(error, Rejected) else None
            change = StateChange(state=LineState.CLOSED, cause=_cause_of(error), detail=str(error), code=code)
            driver_of(line).finish(change, self._final_error(line, error))
            if not online.done():
                online.set_exception(error)

    async def _run(self, line: Line, online: asyncio.Future[None]) -> None:
        """Connect, wait for the loss, wait for the next attempt; return when the line is closed."""
        while not line.is_closed:
            setback = await self._try_to_connect(line, is_first=not online.done())
            if setback is None:
                if self.endpoint is None:
                    # Closed during the first attempt: the line was never online.
                    return
                if not online.done():
                    online.set_result(None)
                setback = await self._wait_for_loss(line)
                if setback is None:
                    return
            await self._wait_for_next_attempt(line, setback)

    async def _try_to_connect(self, line: Line, *, is_first: bool) -> _Setback | None:
        """Try to connect; return ``None`` on success and when the line was closed. Raise if retrying is useless."""
        self._detached = self.loop.create_future()

        def take_welcome(welcomed: Welcomed) -> None:
            self._take_welcome(line, welcomed)

        try:
            failed = await self.endpoint_connector.connect_any(line, take_welcome, is_first=is_first)
        except Rejected as error:
            if not error.code.may_return:
                raise
            return _Setback(
                DisconnectCause.REJECTED, str(error), error, error.code, error.retry_after_s, error.spread_s
            )
        if failed is not None:
            return _Setback(DisconnectCause.CONNECT_FAILED, str(failed), failed)
        self._schedule.receive_connected(self.wheel.time())
        return None

    def _take_welcome(self, line: Line, welcomed: Welcomed) -> None:
        if line.is_closed:
            raise ConnectFailed("the line was closed during the handshake")
        session = driver_of(line).session
        if not welcomed.welcome.resumed:
            if session is not None:
                self._lose_session(line, "the server no longer has the session")
            session = welcomed.new_session(self._send_buffer)
        # The handshake accepts "resumed" only for a session that it asked for.
        assert session is not None
        # Set before attaching: on_state callbacks may read it.
        self.endpoint = welcomed.endpoint
        welcomed.attach(line, session, phase=self._random.random())

    async def _wait_for_loss(self, line: Line) -> _Setback | None:
        """Return why the link was lost, or ``None`` when the line was closed with it."""
        assert self._detached is not None
        cause, detail, ended = await self._detached
        if cause is DisconnectCause.CLOSED_HERE or line.is_closed:
            return None
        if ended is None:
            self.endpoint_connector.receive_lost(detail)
            return _Setback(cause, detail)
        if not ended.code.may_return:
            self._close_ended(line, cause, ended)
            return None
        self._lose_session(line, f"the server ended the session: {detail}")
        self.endpoint_connector.prefer_alternatives(ended.alternatives)
        return _Setback(
            cause, detail, code=ended.code, retry_after_s=ended.retry_after_s, spread_s=ended.spread_s
        )

    async def _wait_for_next_attempt(self, line: Line, setback: _Setback) -> None:
        """Wait until the next attempt is due. Raise :class:`GaveUp` when the policy allows none."""
        if line.is_closed:
            return
        self._last_failure = setback.error or ConnectFailed(setback.detail)
        delay_s = self._schedule.next_delay(
            self.wheel.time(),
            self._random,
            retry_after_s=setback.retry_after_s,
            spread_s=setback.spread_s,
        )
        if delay_s is None:
            raise GaveUp(self._schedule.failures, self._last_failure)
        attempt = self._schedule.failures + 1
        logger.warning("%s; trying again in %.1f s (attempt %d)", setback.detail, delay_s, attempt)
        driver_of(line).change(
            StateChange(
                state=LineState.RECONNECTING,
                cause=setback.cause,
                detail=setback.detail,
                code=setback.code,
                attempt=attempt,
                due_in_s=delay_s,
            )
        )
        await asyncio.sleep(delay_s)
        if not line.is_closed:
            driver_of(line).change(
                StateChange(state=LineState.CONNECTING, cause=setback.cause, attempt=attempt)
            )

    # Lost sessions

    def _lose_session(self, line: Line, why: str) -> None:
        """Report the messages lost with a session to the callback; without one, raise :class:`SessionLost`."""
        lost = driver_of(line).discard_session(why)
        driver_of(line).clear_session()
        if self.on_session_lost is not None:
            call_back(self.on_session_lost, line, lost)
        elif lost:
            raise SessionLost(why, lost)

    def _final_error(self, line: Line, error: Exception) -> Exception:
        """Return the error that closes the line: ``error``, or a :class:`SessionLost` caused by it if messages were
        lost and there is no callback to report them to.
        """
        lost = driver_of(line).discard_session(str(error))
        if not lost:
            return error
        if self.on_session_lost is not None:
            call_back(self.on_session_lost, line, lost)
            return error
        last = SessionLost(str(error), lost, error.code if isinstance(error, Rejected | LineClosed) else None)
        last.__cause__ = error
        return last

    def _close_ended(self, line: Line, cause: DisconnectCause, ended: Ended) -> None:
        """Close the line after a BYE that forbids returning, or after the server violated the protocol."""
        lost = driver_of(line).unconfirmed_messages()
        text = f"the server closed the line: {ended.reason or ended.code.name}"
        error: Exception | None = None
        if not ended.by_peer:
            text = f"the server broke the protocol: {ended.reason}"
            error = ProtocolError(text, ended.code)
        elif lost:
            error = SessionLost(text, lost, ended.code)
        elif ended.code is not Code.NORMAL:
            error = LineClosed(text, ended.code)
        driver_of(line).finish(
            StateChange(state=LineState.CLOSED, cause=cause, detail=text, code=ended.code), error
        )


def _is_running(task: asyncio.Task[None]) -> bool:
    """Return whether the code runs inside this task; callbacks of the event loop run inside none."""
    return asyncio.current_task() is task


def _cause_of(error: Exception) -> DisconnectCause:
    """Return the cause for a line that this error closed."""
    if isinstance(error, Rejected):
        return DisconnectCause.REJECTED
    if isinstance(error, GaveUp):
        return DisconnectCause.GAVE_UP
    if isinstance(error, SessionLost):
        return DisconnectCause.EXPIRED
    if isinstance(error, ProtocolError) or isinstance(error.__cause__, ProtocolError):
        return DisconnectCause.PROTOCOL_ERROR
    return DisconnectCause.CONNECT_FAILED
