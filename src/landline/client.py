"""The client's side: connect, stay connected, come back."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from random import SystemRandom
from time import monotonic
from types import TracebackType
from typing import Any, Final, cast

from landline.backoff import Backoff, Schedule
from landline.changes import LineState, LossKind, StateChange
from landline.errors import (
    ConfigurationError,
    ConnectFailed,
    GaveUp,
    LandlineError,
    LineClosed,
    ProtocolError,
    Rejected,
    SessionLost,
)
from landline.files.decisions import FileLimits
from landline.files.exchange import exchange_of
from landline.files.receiving import AcceptFunction, ProgressFunction, ReceivedFunction
from landline.handlers import Function, Handlers
from landline.line import Line, StateCallback, call_back, unconfirmed_messages
from landline.outbox import Outbox
from landline.session.auth import Anonymous, ClientAuth
from landline.session.codes import Code
from landline.session.events import Ended, Unconfirmed
from landline.session.handshake import HANDSHAKE_TIMEOUT_S, ClientHandshake, Limits, RandomSource, Welcome
from landline.session.session import SendBuffer, Session
from landline.timers import TimerWheel
from landline.transports import Endpoint, TransportOptions, load, parse_url

logger = logging.getLogger("landline")

CONNECT_TIMEOUT_S: Final = 10.0

_FATAL_CODES: Final = frozenset({Code.UNSUPPORTED_VERSION, Code.UNAUTHENTICATED})

SessionLostCallback = Callable[[Line, tuple[Unconfirmed, ...]], None]


def connect(
    urls: str | Sequence[str],
    *,
    auth: ClientAuth | None = None,
    identity: str = "",
    backoff: Backoff | None = None,
    on_state: StateCallback | None = None,
    on_session_lost: SessionLostCallback | None = None,
    limits: Limits | None = None,
    send_buffer: SendBuffer | None = None,
    options: TransportOptions | None = None,
    clock: Callable[[], float] = monotonic,
    random: RandomSource | None = None,
) -> Connector:
    """A line to a server, which repairs itself until it is closed.

    Use it as ``async with landline.connect(url) as line``; entering waits for the first connection, leaving closes
    the line in order. Handlers for the server's requests are registered on the connector before entering it.

    :param urls: one URL, or several that are tried in turn.
    :param auth: proves who we are, such as :class:`landline.SharedToken`.
    :param identity: who we say we are (covered by the proof), 200 bytes at most.
    :param backoff: the reconnect policy, for the first connection too; by default ``Backoff()``, which never gives up.
    :param on_state: called as ``on_state(line, change)`` on every change of state.
    :param on_session_lost: called as ``on_session_lost(line, unconfirmed)`` when the server no longer has the
        session and the line goes on with a new one. Without it, a line whose session was lost with messages of
        unknown fate is closed, and :class:`SessionLost` raised to whoever reads or sends.
    :param clock: the clock of all deadlines, in seconds that only go forward; a simulation gives its own.
    :param random: where nonces and jitter come from; a simulation gives a seeded one.
    :raises ConfigurationError: when an argument makes no sense.
    """
    endpoints = [parse_url(url) for url in ([urls] if isinstance(urls, str) else urls)]
    if not endpoints:
        raise ConfigurationError("connect() needs at least one URL")
    if len(identity.encode()) > 200:
        raise ConfigurationError(f"an identity of {len(identity.encode())} bytes; 200 are allowed")
    return Connector(
        endpoints,
        auth=auth or Anonymous(),
        identity=identity,
        backoff=backoff or Backoff(),
        on_state=on_state,
        on_session_lost=on_session_lost,
        limits=limits or Limits(),
        send_buffer=send_buffer or SendBuffer(),
        options=options or TransportOptions(),
        clock=clock,
        random=random or SystemRandom(),
    )


class Connector:
    """Made by :func:`connect`: keeps one line connected."""

    def __init__(
        self,
        endpoints: list[Endpoint],
        *,
        auth: ClientAuth,
        identity: str,
        backoff: Backoff,
        on_state: StateCallback | None,
        on_session_lost: SessionLostCallback | None,
        limits: Limits,
        send_buffer: SendBuffer,
        options: TransportOptions,
        clock: Callable[[], float],
        random: RandomSource,
    ) -> None:
        self.handlers = Handlers()
        self._given = endpoints
        self._endpoints = endpoints
        self._auth = auth
        self._identity = identity
        self._schedule = Schedule(backoff)
        self._on_state = on_state
        self._on_session_lost = on_session_lost
        self._limits = limits
        self._send_buffer = send_buffer
        self._options = options
        self._clock = clock
        self._random = random
        self._attempts = 0
        self._line: Line | None = None
        self._task: asyncio.Task[None] | None = None
        self._detached: asyncio.Future[tuple[LossKind, str, Ended | None]] | None = None
        self.messages_dropped = 0
        self.loop: asyncio.AbstractEventLoop
        self.wheel: TimerWheel
        self.outbox: Outbox

    def on(self, name: str, body_type: Any = Any) -> Callable[[Function], Function]:
        """Registers a handler for the server's requests and messages called ``name``; see :meth:`Server.on`."""
        return self.handlers.on(name, body_type)

    def on_message(self, function: Function) -> Function:
        """Registers a handler for messages without a name, instead of ``async for``."""
        return self.handlers.on_message(function)

    def on_file(
        self,
        directory: str | os.PathLike[str],
        *,
        to: str = "",
        limits: FileLimits | None = None,
        accept: AcceptFunction | None = None,
        progress: ProgressFunction | None = None,
        overwrite: bool = False,
    ) -> Callable[[ReceivedFunction], ReceivedFunction]:
        """Receives files that the server sends into ``directory``; see :meth:`Server.on_file`."""
        return exchange_of(self.handlers).on_file(
            directory, to=to, limits=limits, accept=accept, progress=progress, overwrite=overwrite
        )

    async def __aenter__(self) -> Line:
        """Waits for the first connection.

        Raises :class:`Rejected` when the server does not want us, :class:`GaveUp` when the policy ends,
        :class:`ProtocolError` when it is no landline server. Cancelling gives up.
        """
        if self._task is not None:
            raise RuntimeError("a connector can be entered once")
        self.loop = asyncio.get_running_loop()
        self.wheel = TimerWheel(self.loop, self._clock)
        self.outbox = Outbox(self.loop)
        line = self._line = Line(self, identity=self._identity)
        line.on_state(self._on_state)
        online: asyncio.Future[None] = self.loop.create_future()
        self._task = self.loop.create_task(self._keep_connected(line, online))
        try:
            await online
        except BaseException:
            await self._stop()
            raise
        return line

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the line in order; see :meth:`Line.close`. After an exception it does not wait for the peer."""
        line = self._line
        assert line is not None
        try:
            if error is None:
                await line.close()
            else:
                line.end(Code.NORMAL)
        finally:
            await self._stop()

    # For the line.

    def line_changed(self, line: Line, change: StateChange) -> None:
        if change.state is LineState.CLOSED and self._detached is not None and not self._detached.done():
            self._detached.set_result((change.cause, change.detail, None))

    def line_detached(self, line: Line, cause: LossKind, detail: str) -> None:
        self._report_detached(cause, detail, None)

    def line_ended(self, line: Line, ended: Ended) -> None:
        cause = LossKind.CLOSED_BY_PEER if ended.by_peer else LossKind.PROTOCOL_ERROR
        self._report_detached(cause, ended.reason or ended.code.name, ended)

    def line_too_slow(self, line: Line, detail: str) -> None:
        error = self._last_word(line, LineClosed(detail, Code.TOO_SLOW))
        change = StateChange(
            state=LineState.CLOSED, cause=LossKind.TOO_SLOW, detail=detail, code=Code.TOO_SLOW
        )
        line.finish(change, error)

    def line_expired(self, line: Line) -> None:
        raise AssertionError("a client's line does not expire by itself")

    # Inside.

    def _report_detached(self, cause: LossKind, detail: str, ended: Ended | None) -> None:
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

    async def _keep_connected(self, line: Line, online: asyncio.Future[None]) -> None:
        try:
            await self._run(line, online)
        except Exception as error:  # noqa: BLE001 - it ends the line, and is raised to whoever uses it
            cause = LossKind.PROTOCOL_ERROR if isinstance(error, LandlineError) else LossKind.CONNECT_FAILED
            code: Code | None = None
            if isinstance(error, Rejected):
                cause, code = LossKind.REJECTED, error.code
            elif isinstance(error, GaveUp):
                cause = LossKind.GAVE_UP
            elif isinstance(error, SessionLost):
                cause = LossKind.EXPIRED
            change = StateChange(state=LineState.CLOSED, cause=cause, detail=str(error), code=code)
            line.finish(change, self._last_word(line, error))
            if not online.done():
                online.set_exception(error)

    def _last_word(self, line: Line, error: Exception) -> Exception:
        """What ends the line: the error, or :class:`SessionLost` because of it when messages went down with it."""
        lost = line.abandon_session(str(error))
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
            ended: Ended | None = None
            endpoint = self._endpoints[self._attempts % len(self._endpoints)]
            self._attempts += 1
            retry_after_s: float | None = None
            spread_s = 0.0
            failure: Exception | None = None
            try:
                self._detached = self.loop.create_future()
                await self._connect(line, endpoint)
            except Rejected as error:
                if not error.code.may_return:
                    raise
                cause, detail, failure = LossKind.REJECTED, str(error), error
                retry_after_s, spread_s = error.retry_after_s, error.spread_s
            except ProtocolError as error:
                # Whoever answers in the server's place while it restarts (a proxy's error page, another program)
                # is no reason to give up a line that has worked.
                if not online.done() or error.code in _FATAL_CODES:
                    raise
                cause, detail, failure = LossKind.CONNECT_FAILED, f"{endpoint}: {error}", error
            except (ConnectFailed, OSError, UnicodeError) as error:
                cause, detail, failure = LossKind.CONNECT_FAILED, f"{endpoint}: {_reason(error)}", error
            else:
                self._schedule.receive_connected(self.wheel.time())
                if not online.done():
                    online.set_result(None)
                # The address that works is the first one to be tried again.
                self._attempts -= 1
                cause, detail, ended = await self._detached
                if cause is LossKind.CLOSED_HERE or line.is_closed:
                    return
                if ended is not None:
                    if not ended.code.may_return:
                        self._close_ended(line, cause, ended)
                        return
                    self._lose_session(line, f"the server ended the session: {detail}")
                    retry_after_s, spread_s = ended.retry_after_s, ended.spread_s
                    self._try_first(ended.alternatives)
            await self._wait(line, cause, detail, failure, retry_after_s, spread_s)

    def _try_first(self, alternatives: Sequence[str]) -> None:
        """The server named others that can take us: they go before the URLs we were given.

        One that would give up encryption where all our own have it is not followed.
        """
        if not alternatives:
            return
        named = []
        for url in alternatives:
            try:
                endpoint = parse_url(url)
            except ConfigurationError as error:
                logger.warning("the server named an alternative that cannot be used: %s", error)
                continue
            if not endpoint.is_encrypted and all(own.is_encrypted for own in self._given):
                logger.warning("the server named %s, which is not encrypted; not followed", endpoint)
                continue
            named.append(endpoint)
        self._endpoints = named + [endpoint for endpoint in self._given if endpoint not in named]
        self._attempts = 0

    async def _wait(
        self,
        line: Line,
        cause: LossKind,
        detail: str,
        failure: Exception | None,
        retry_after_s: float | None,
        spread_s: float,
    ) -> None:
        if line.is_closed:
            return
        delay = self._schedule.next_delay(
            self.wheel.time(), self._random, retry_after_s=retry_after_s, spread_s=spread_s
        )
        if delay is None:
            raise GaveUp(self._schedule.failures, failure or ConnectFailed(detail))
        logger.warning("%s; trying again in %.1f s (attempt %d)", detail, delay, self._schedule.failures + 1)
        line.change(
            StateChange(
                state=LineState.RECONNECTING,
                cause=cause,
                detail=detail,
                attempt=self._schedule.failures + 1,
                due_in_s=delay,
            )
        )
        await asyncio.sleep(delay)
        if not line.is_closed:
            line.change(
                StateChange(state=LineState.CONNECTING, cause=cause, attempt=self._schedule.failures + 1)
            )

    async def _connect(self, line: Line, endpoint: Endpoint) -> None:
        """One attempt: raises what went wrong, or returns with the line attached."""
        session = line.session
        handshake = ClientHandshake(
            random=self._random,
            auth=self._auth,
            identity=self._identity,
            limits=self._limits,
            resume=session.ticket if session is not None else None,
        )
        welcomed: asyncio.Future[None] = self.loop.create_future()
        link = _HandshakeLink(self, line, handshake, welcomed)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await load(endpoint).connect(endpoint, lambda: link, self._options)
        except TimeoutError as error:
            raise ConnectFailed(f"no connection within {CONNECT_TIMEOUT_S:g} s") from error
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                await welcomed
        except TimeoutError as error:
            raise ConnectFailed(
                f"no welcome within {HANDSHAKE_TIMEOUT_S:g} s; is it a landline server?"
            ) from error
        finally:
            link.give_up()

    def receive_welcome(
        self,
        line: Line,
        transport: asyncio.Transport,
        welcome: Welcome,
        *,
        limits: Limits,
        round_trip_s: float,
        rest: bytes,
    ) -> None:
        """A handshake finished; called by its link."""
        if line.is_closed:
            raise ConnectFailed("the line was closed meanwhile")
        session = line.session
        peer_received = welcome.received
        if not welcome.resumed:
            if session is not None:
                self._lose_session(line, "the server no longer has the session")
            session = Session(
                session_id=welcome.session,
                secret=welcome.secret,
                is_server=False,
                limits=limits,
                peer_limits=welcome.limits,
                heartbeat=welcome.heartbeat,
                send_buffer=self._send_buffer,
            )
            peer_received = 0
        assert session is not None
        line.attach(
            session,
            transport,
            epoch=welcome.epoch,
            peer_received=peer_received,
            phase=self._random.random(),
            resumed=welcome.resumed,
            round_trip_s=round_trip_s,
            rest=rest,
        )

    def _lose_session(self, line: Line, why: str) -> None:
        """Tells the owner what is lost with a session, by the callback if there is one, else by ending the line."""
        lost = line.abandon_session(why)
        line.forget_session()
        if self._on_session_lost is not None:
            call_back(self._on_session_lost, line, lost)
        elif lost:
            raise SessionLost(why, lost)

    def _close_ended(self, line: Line, cause: LossKind, ended: Ended) -> None:
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


class _HandshakeLink(asyncio.Protocol):
    """The protocol of a transport until it is welcomed; then the line's own takes its place."""

    def __init__(
        self, connector: Connector, line: Line, handshake: ClientHandshake, welcomed: asyncio.Future[None]
    ) -> None:
        self._connector = connector
        self._line = line
        self._handshake = handshake
        self._welcomed = welcomed
        self._transport: asyncio.Transport | None = None
        self._hello_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.Transport, but have all its methods.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or self._welcomed.done():
            return
        try:
            rest = self._handshake.receive_data(data)
            output = self._handshake.data_to_send()
            if output:
                transport.write(output)
                self._hello_at = self._connector.wheel.time()
            welcome = self._handshake.welcome
            if welcome is not None:
                self._connector.receive_welcome(
                    self._line,
                    transport,
                    welcome,
                    limits=self._handshake.limits,
                    round_trip_s=self._connector.wheel.time() - self._hello_at,
                    rest=rest,
                )
                self._transport = None
                self._welcomed.set_result(None)
        except LandlineError as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectFailed(f"the connection ended during the handshake{f': {exc}' if exc else ''}"))

    def give_up(self) -> None:
        """Drops the transport unless it was handed to the line."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _fail(self, error: Exception) -> None:
        if not self._welcomed.done():
            self._welcomed.set_exception(error)


def _reason(error: Exception) -> str:
    """An error as part of a sentence; the system's text where there is one."""
    if isinstance(error, ConnectionRefusedError):
        return "nobody answers (connection refused)"
    if isinstance(error, FileNotFoundError):
        return "no such socket"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
