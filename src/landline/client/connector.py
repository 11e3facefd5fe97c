"""The client's side: connect, stay connected, come back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from random import SystemRandom
from threading import get_ident
from time import monotonic
from types import TracebackType
from typing import Any, Final

import msgspec

from landline.client.backoff import Backoff, Schedule
from landline.client.connect_attempt import EndpointConnector, check_carries_lines
from landline.client.dialer import Dialer, Welcomed
from landline.codes import Code
from landline.discovery.records import parse_road
from landline.errors import (
    ConfigurationError,
    ConnectFailed,
    GaveUp,
    LandlineError,
    LineClosed,
    ProtocolError,
    Rejected,
    SessionLost,
    Unconfirmed,
)
from landline.files.exchange import FileExchange
from landline.files.incoming_file import AcceptFunction, ProgressFunction, ReceivedFunctionType
from landline.files.limits import FileLimits
from landline.line.codec import DecHook, EncHook
from landline.line.decoded_size import MESSAGE_OBJECTS, check_message_objects
from landline.line.handlers import Function, Handlers, TakesDatagrams
from landline.line.line import Line, StateCallback, call_back, unconfirmed_messages
from landline.line.line_state import DisconnectCause, LineState, StateChange
from landline.runtime.flush_queue import FlushQueue
from landline.runtime.guarded_log import guarded_logger
from landline.runtime.timer_wheel import TimerWheel
from landline.runtime.turns import Turns, turns_of
from landline.session.auth import ClientAuth, client_auth
from landline.session.events import Ended
from landline.session.handshake import Limits, RandomSource
from landline.session.outbound import SendBuffer
from landline.signatures import Expected, check_arguments, check_function
from landline.transports.linger import TransportCloser
from landline.transports.options import TransportOptions, check_client_options
from landline.transports.urls import Endpoint, url_list

# A name of its own for those who show the states of a line, and so need not hear of its attempts a second time.
logger = guarded_logger("landline.client")

CONNECT_TIMEOUT_S: Final = 60.0
"""How long entering a connector waits for the first connection: long enough for a server that restarts, and not so long
that a wrong address goes unnoticed."""
STAGGER_S_MIN: Final = 0.01
STAGGER_S_MAX: Final = 10.0
"""What RFC 8305 §8 allows at least, and as long as an attempt may take."""

SessionLostCallback = Callable[[Line, tuple[Unconfirmed, ...]], None]


def connect(
    urls: str | Sequence[str],
    *,
    auth: ClientAuth | None = None,
    identity: str = "",
    connect_timeout_s: float | None = CONNECT_TIMEOUT_S,
    backoff: Backoff | None = None,
    on_state: StateCallback | None = None,
    on_session_lost: SessionLostCallback | None = None,
    limits: Limits | None = None,
    send_buffer: SendBuffer | None = None,
    message_objects: int = MESSAGE_OBJECTS,
    options: TransportOptions | None = None,
    stagger_s: float | None = None,
    enc_hook: EncHook | None = None,
    dec_hook: DecHook | None = None,
    clock: Callable[[], float] = monotonic,
    random: RandomSource | None = None,
) -> Connector:
    """A line to a server, which repairs itself until it is closed.

    Use it as ``async with landline.connect(url) as line``; entering waits for the first connection, leaving closes
    the line in order. Handlers for the server's requests are registered on the connector before entering it.

    :param urls: one URL, or several, the best first: each attempt tries them until one works. Over which roads the
        line then goes, and when it returns to a better one, is told in :mod:`landline.client.endpoint_selector`.
        What is not encrypted
        is used only if it stands here. ``mdns://name`` stands for a server announced on the local network, which is
        looked for anew at every attempt (see :mod:`landline.discovery.records`).
    :param auth: proves who we are, such as :class:`landline.SharedToken`.
    :param identity: who we say we are (covered by the proof), 200 bytes at most.
    :param connect_timeout_s: seconds that entering waits for the first connection, over all attempts; then
        :class:`GaveUp` says what the last one failed with. ``None`` waits without end, for programs that may start
        before their server does. Once connected, only ``backoff`` says when to give up.
    :param backoff: the reconnect policy, for the first connection too; by default ``Backoff()``, which never gives up.
    :param on_state: called as ``on_state(line, change)`` on every change of state.
    :param on_session_lost: called as ``on_session_lost(line, unconfirmed)`` when the server no longer has the
        session and the line goes on with a new one. Without it, a line whose session was lost with messages of
        unknown fate is closed, and :class:`SessionLost` raised to whoever reads or sends.
    :param message_objects: how many objects the body of one message of the server may become, as in
        :class:`landline.Server`.
    :param stagger_s: with several URLs, seconds (0.01 to 10) after which the next one is begun although the one before
        has not failed; the first over which a server speaks is used, and the others are closed before anything was
        said on them (RFC 8305, "Happy Eyeballs", recommends 0.25). By default each has all its time.
    :param options: what the transports need beyond the URLs, such as ``TransportOptions(ca_file=...)``.
    :param enc_hook: called as ``enc_hook(value)`` for a value msgspec does not know; see :class:`Server`.
    :param dec_hook: called as ``dec_hook(type, value)`` for a type msgspec does not know; see :class:`Server`.
    :param clock: the clock of all deadlines, in seconds that only go forward; a simulation gives its own.
    :param random: where nonces and jitter come from; a simulation gives a seeded one.
    :raises ConfigurationError: when an argument makes no sense.
    """
    check_arguments("connect", locals(), _ARGUMENTS)
    if on_state is not None:
        check_function(on_state, "connect(on_state=)", ("line", "change"), may_be_async=False)
    if on_session_lost is not None:
        check_function(
            on_session_lost, "connect(on_session_lost=)", ("line", "unconfirmed"), may_be_async=False
        )
    roads = [parse_road(url) for url in url_list(urls, "connect")]
    for road in roads:
        if isinstance(road, Endpoint):
            check_carries_lines(road)
    if stagger_s is not None and not STAGGER_S_MIN <= stagger_s <= STAGGER_S_MAX:
        raise ConfigurationError(
            f"connect(stagger_s={stagger_s:g}): {STAGGER_S_MIN:g} to {STAGGER_S_MAX:g} seconds are possible"
        )
    options = options or TransportOptions()
    check_client_options(options, {str(road): road.schemes for road in roads})
    if connect_timeout_s is not None and not connect_timeout_s > 0:
        raise ConfigurationError(
            f"connect(connect_timeout_s={connect_timeout_s:g}): more than 0 seconds, or None to wait without end"
        )
    random = random or SystemRandom()
    backoff = backoff or Backoff()
    dialer = Dialer(
        auth=client_auth(auth), identity=identity, limits=limits or Limits(), clock=clock, random=random
    )
    attempts = EndpointConnector(
        roads,
        dialer,
        options=options,
        stagger_s=stagger_s,
        stable_after_s=backoff.stable_after_s,
    )
    return Connector(
        dialer,
        attempts,
        Schedule(backoff),
        connect_timeout_s=connect_timeout_s,
        on_state=on_state,
        on_session_lost=on_session_lost,
        send_buffer=send_buffer or SendBuffer(),
        handlers=Handlers(check_message_objects(message_objects), enc_hook=enc_hook, dec_hook=dec_hook),
        random=random,
    )


_ARGUMENTS: Final[Expected] = {
    "identity": (str, "text"),
    "connect_timeout_s": ((int, float), "seconds, or None to wait without end"),
    "backoff": (Backoff, "a landline.Backoff, such as Backoff(first_s=0.5, cap_s=30)"),
    "limits": (Limits, "a landline.Limits"),
    "send_buffer": (SendBuffer, "a landline.SendBuffer"),
    "options": (TransportOptions, "a landline.TransportOptions"),
    "stagger_s": ((int, float), "seconds"),
}


class _Setback(msgspec.Struct, frozen=True):
    """Why the line has to be connected again, and when the server wants it back."""

    cause: DisconnectCause
    detail: str
    error: Exception | None = None
    """What an attempt failed with."""
    code: Code | None = None
    retry_after_s: float | None = None
    spread_s: float = 0.0


class Connector(TakesDatagrams):
    """Made by :func:`connect`: keeps one line connected."""

    continues_lines = True
    """The line may get another session; see :class:`landline.line.writer.LineResources`."""

    def __init__(
        self,
        dialer: Dialer,
        attempts: EndpointConnector,
        schedule: Schedule,
        *,
        connect_timeout_s: float | None,
        on_state: StateCallback | None,
        on_session_lost: SessionLostCallback | None,
        send_buffer: SendBuffer,
        handlers: Handlers,
        random: RandomSource,
    ) -> None:
        self.handlers = handlers
        self._dialer = dialer
        self._attempts = attempts
        self._schedule = schedule
        self._connect_timeout_s = connect_timeout_s
        self._last_failure: Exception | None = None
        self._on_state = on_state
        self._on_session_lost = on_session_lost
        self._send_buffer = send_buffer
        self._random = random
        self._endpoint: Endpoint | None = None
        self._line: Line | None = None
        self._task: asyncio.Task[None] | None = None
        self._detached: asyncio.Future[tuple[DisconnectCause, str, Ended | None]] | None = None
        self.messages_dropped = 0
        self.files = FileExchange(self.handlers)
        self.loop: asyncio.AbstractEventLoop
        self.thread: int
        self.wheel: TimerWheel
        self.flush_queue: FlushQueue
        self.closer: TransportCloser
        self.turns: Turns

    def on(self, name: str, body_type: Any = Any) -> Callable[[Function], Function]:
        """Registers a handler for the server's requests and messages called ``name``; see :meth:`Server.on`."""
        return self.handlers.on(name, body_type)

    def on_message(self, function: Function) -> Function:
        """Registers a handler for messages without a name, instead of ``async for``."""
        return self.handlers.on_message(function)

    @property
    def endpoint(self) -> Endpoint | None:
        """The address the line goes to, or went to last; ``None`` before the first connection."""
        return self._endpoint

    @property
    def server_name(self) -> str:
        """What the server calls itself, as soon as it said so; also that of one that refused us."""
        return self._dialer.server_name

    def on_file(
        self,
        directory: str | os.PathLike[str],
        *,
        to: str = "",
        limits: FileLimits | None = None,
        accept: AcceptFunction | None = None,
        progress: ProgressFunction | None = None,
        overwrite: bool = False,
    ) -> Callable[[ReceivedFunctionType], ReceivedFunctionType]:
        """Receive files from the server into ``directory``; see :meth:`landline.Server.on_file`."""
        return self.files.on_file(
            directory, to=to, limits=limits, accept=accept, progress=progress, overwrite=overwrite
        )

    async def __aenter__(self) -> Line:
        """Waits for the first connection.

        Raises :class:`Rejected` when the server does not want us, :class:`GaveUp` when the policy or the time ends,
        :class:`ProtocolError` when it is no landline server, :class:`ConfigurationError` when a module is missing,
        :class:`ConnectFailed` when no URL of several can work. Cancelling gives up.
        """
        if self._task is not None:
            raise RuntimeError("a connector can be entered once")
        self.loop = asyncio.get_running_loop()
        self.thread = get_ident()
        self.wheel = TimerWheel(self.loop, self._dialer.clock)
        self.flush_queue = FlushQueue(self.loop)
        self.closer = TransportCloser(self.loop)
        self.turns = turns_of(self.loop, self._dialer.clock)
        line = self._line = Line(self, identity=self._dialer.identity)
        line.on_state(self._on_state)
        online: asyncio.Future[None] = self.loop.create_future()
        self._task = self.loop.create_task(self._keep_connected(line, online))
        opening = asyncio.timeout(self._connect_timeout_s)
        try:
            async with opening:
                await online
        except BaseException as error:
            await self._stop()
            if not (isinstance(error, TimeoutError) and opening.expired()):
                raise
            failed = self._schedule.failures
            gave_up = GaveUp(failed, self._last_failure, connect_timeout_s=self._connect_timeout_s)
            line.finish(
                StateChange(state=LineState.CLOSED, cause=DisconnectCause.GAVE_UP, detail=str(gave_up)),
                gave_up,
            )
            raise gave_up from self._last_failure
        return line

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the line in order; see :meth:`Line.close`.

        After an exception it does not wait until the peer has taken everything, only until the BYE has arrived, 3 s at
        most.
        """
        line = self._line
        assert line is not None
        try:
            if error is None:
                await line.close()
            else:
                line.abort(Code.NORMAL)
        finally:
            await self._stop()

    # For the line.

    def line_changed(self, line: Line, change: StateChange) -> None:
        if change.state is LineState.CLOSED and self._detached is not None and not self._detached.done():
            self._detached.set_result((change.cause, change.detail, None))

    def line_detached(self, line: Line, cause: DisconnectCause, detail: str) -> None:
        self._report_detached(cause, detail, None)

    def line_ended(self, line: Line, ended: Ended) -> None:
        cause = DisconnectCause.CLOSED_BY_PEER if ended.by_peer else DisconnectCause.PROTOCOL_ERROR
        self._report_detached(cause, ended.reason or ended.code.name, ended)

    def line_too_slow(self, line: Line, detail: str) -> None:
        error = self._last_word(line, LineClosed(detail, Code.TOO_SLOW))
        change = StateChange(
            state=LineState.CLOSED, cause=DisconnectCause.TOO_SLOW, detail=detail, code=Code.TOO_SLOW
        )
        line.finish(change, error)

    def line_expired(self, line: Line) -> None:
        raise AssertionError("a client's line does not expire by itself")

    # Inside.

    def _report_detached(self, cause: DisconnectCause, detail: str, ended: Ended | None) -> None:
        if self._detached is not None and not self._detached.done():
            self._detached.set_result((cause, detail, ended))

    async def _stop(self) -> None:
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        self.wheel.close()
        await self.closer.wait()

    async def _keep_connected(self, line: Line, online: asyncio.Future[None]) -> None:
        try:
            await self._run(line, online)
            if not online.done():
                online.set_exception(LineClosed("the line was closed before it was connected"))
        except Exception as error:  # noqa: BLE001 - it ends the line, and is raised to whoever uses it
            cause = (
                DisconnectCause.PROTOCOL_ERROR
                if isinstance(error, LandlineError)
                else DisconnectCause.CONNECT_FAILED
            )
            code: Code | None = None
            if isinstance(error, Rejected):
                cause, code = DisconnectCause.REJECTED, error.code
            elif isinstance(error, GaveUp):
                cause = DisconnectCause.GAVE_UP
            elif isinstance(error, SessionLost):
                cause = DisconnectCause.EXPIRED
            change = StateChange(state=LineState.CLOSED, cause=cause, detail=str(error), code=code)
            line.finish(change, self._last_word(line, error))
            if not online.done():
                online.set_exception(error)

    def _last_word(self, line: Line, error: Exception) -> Exception:
        """What ends the line: the error, or :class:`SessionLost` because of it when messages went down with it."""
        lost = line.discard_session(str(error))
        if not lost:
            return error
        if self._on_session_lost is not None:
            call_back(self._on_session_lost, line, lost)
            return error
        last = SessionLost(str(error), lost, error.code if isinstance(error, Rejected | LineClosed) else None)
        last.__cause__ = error
        return last

    async def _run(self, line: Line, online: asyncio.Future[None]) -> None:
        """Connects, waits for the loss, waits for the next try; returns when the line is closed in order."""
        while not line.is_closed:
            setback = await self._try_to_connect(line, may_close=not online.done())
            if setback is None:
                if self._endpoint is None:
                    # Closed while the roads were tried: it never was online.
                    return
                if not online.done():
                    online.set_result(None)
                setback = await self._wait_for_loss(line)
                if setback is None:
                    return
            await self._wait(line, setback)

    async def _try_to_connect(self, line: Line, *, may_close: bool) -> _Setback | None:
        """Tries to connect; ``None`` when that worked, or the line was closed. Raises what makes going on useless."""
        self._detached = self.loop.create_future()

        def take_welcome(welcomed: Welcomed) -> None:
            self._take_welcome(line, welcomed)

        try:
            failed = await self._attempts.make(line, take_welcome, may_close=may_close)
        except Rejected as error:
            if not error.code.may_return:
                raise
            return _Setback(
                DisconnectCause.REJECTED, str(error), error, error.code, error.retry_after_s, error.spread_s
            )
        if failed is not None:
            return _Setback(DisconnectCause.CONNECT_FAILED, failed.detail, failed.error)
        self._schedule.receive_connected(self.wheel.time())
        return None

    async def _wait_for_loss(self, line: Line) -> _Setback | None:
        """Returns when the link is gone: why, or ``None`` when the line is closed with it."""
        assert self._detached is not None
        cause, detail, ended = await self._detached
        if cause is DisconnectCause.CLOSED_HERE or line.is_closed:
            return None
        if ended is None:
            self._attempts.receive_lost(detail)
            return _Setback(cause, detail)
        if not ended.code.may_return:
            self._close_ended(line, cause, ended)
            return None
        self._lose_session(line, f"the server ended the session: {detail}")
        self._attempts.try_first(ended.alternatives)
        return _Setback(
            cause, detail, code=ended.code, retry_after_s=ended.retry_after_s, spread_s=ended.spread_s
        )

    async def _wait(self, line: Line, setback: _Setback) -> None:
        """Waits until the next attempt is due. Raises :class:`GaveUp` when the policy allows none."""
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
        line.change(
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
            line.change(StateChange(state=LineState.CONNECTING, cause=setback.cause, attempt=attempt))

    def _take_welcome(self, line: Line, welcomed: Welcomed) -> None:
        if line.is_closed:
            raise ConnectFailed("the line was closed meanwhile")
        session = line.session
        if not welcomed.welcome.resumed:
            if session is not None:
                self._lose_session(line, "the server no longer has the session")
            session = welcomed.new_session(self._send_buffer)
        # Nobody resumes a session that was not asked for: the handshake has seen to it.
        assert session is not None
        # Those who are told that the line is online may ask.
        self._endpoint = welcomed.endpoint
        welcomed.attach(line, session, phase=self._random.random())

    def _lose_session(self, line: Line, why: str) -> None:
        """Tells the owner what is lost with a session, by the callback if there is one, else by ending the line."""
        lost = line.discard_session(why)
        line.clear_session()
        if self._on_session_lost is not None:
            call_back(self._on_session_lost, line, lost)
        elif lost:
            raise SessionLost(why, lost)

    def _close_ended(self, line: Line, cause: DisconnectCause, ended: Ended) -> None:
        lost = unconfirmed_messages(line.session) if line.session is not None else ()
        text = f"the server closed the line: {ended.reason or ended.code.name}"
        if not ended.by_peer:
            text = f"the server broke the protocol: {ended.reason}"
        error: Exception | None = None
        if not ended.by_peer:
            error = ProtocolError(text, ended.code)
        elif lost:
            error = SessionLost(text, lost, ended.code)
        elif ended.code is not Code.NORMAL:
            error = LineClosed(text, ended.code)
        line.finish(StateChange(state=LineState.CLOSED, cause=cause, detail=text, code=ended.code), error)
