"""The client's side: connect, stay connected, come back."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from random import SystemRandom
from time import monotonic
from types import TracebackType
from typing import Any, Final, cast

import msgspec

from landline.announcement import SEARCH_S, Announced, choose, load_discovery, parse_road
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
from landline.handlers import Function, Handlers, TakesDatagrams
from landline.line import Line, StateCallback, call_back, unconfirmed_messages
from landline.outbox import Outbox
from landline.race import first_of
from landline.roads import Roads
from landline.session.auth import IDENTITY_BYTES_MAX, ClientAuth, client_auth
from landline.session.codes import Code
from landline.session.events import Ended, Unconfirmed
from landline.session.handshake import HANDSHAKE_TIMEOUT_S, ClientHandshake, Limits, RandomSource, Welcome
from landline.session.session import SendBuffer, Session
from landline.timers import TimerWheel
from landline.transports import (
    ADDRESS_STAGGER_S,
    LEAVE_AT_EXIT_S,
    Endpoint,
    LinkProtocol,
    TransportOptions,
    load,
    parse_url,
)

logger = logging.getLogger("landline")

CONNECT_TIMEOUT_S: Final = 10.0

STAGGER_S_MIN: Final = 0.01
STAGGER_S_MAX: Final = 10.0
"""What RFC 8305 §8 allows at least, and as long as an attempt may take."""

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
    stagger_s: float | None = None,
    clock: Callable[[], float] = monotonic,
    random: RandomSource | None = None,
) -> Connector:
    """A line to a server, which repairs itself until it is closed.

    Use it as ``async with landline.connect(url) as line``; entering waits for the first connection, leaving closes
    the line in order. Handlers for the server's requests are registered on the connector before entering it.

    :param urls: one URL, or several, the best first: each attempt tries them until one works. Over which roads the
        line then goes, and when it returns to a better one, is told in :mod:`landline.roads`. What is not encrypted
        is used only if it stands here. ``mdns://name`` stands for a server announced on the local network, which is
        looked for anew at every attempt (see :mod:`landline.announcement`).
    :param auth: proves who we are, such as :class:`landline.SharedToken`.
    :param identity: who we say we are (covered by the proof), 200 bytes at most.
    :param backoff: the reconnect policy, for the first connection too; by default ``Backoff()``, which never gives up.
    :param on_state: called as ``on_state(line, change)`` on every change of state.
    :param on_session_lost: called as ``on_session_lost(line, unconfirmed)`` when the server no longer has the
        session and the line goes on with a new one. Without it, a line whose session was lost with messages of
        unknown fate is closed, and :class:`SessionLost` raised to whoever reads or sends.
    :param stagger_s: with several URLs, seconds (0.01 to 10) after which the next one is begun although the one before
        has not failed; the first over which a server speaks is used, and the others are closed before anything was
        said on them (RFC 8305, "Happy Eyeballs", recommends 0.25). By default each has all its time.
    :param clock: the clock of all deadlines, in seconds that only go forward; a simulation gives its own.
    :param random: where nonces and jitter come from; a simulation gives a seeded one.
    :raises ConfigurationError: when an argument makes no sense.
    """
    endpoints = [parse_road(url) for url in ([urls] if isinstance(urls, str) else urls)]
    if not endpoints:
        raise ConfigurationError("connect() needs at least one URL")
    for endpoint in endpoints:
        if isinstance(endpoint, Endpoint):
            check_carries_lines(endpoint)
    if stagger_s is not None and not STAGGER_S_MIN <= stagger_s <= STAGGER_S_MAX:
        raise ConfigurationError(
            f"connect(stagger_s={stagger_s:g}): {STAGGER_S_MIN:g} to {STAGGER_S_MAX:g} seconds are possible"
        )
    check_identity(identity)
    return Connector(
        endpoints,
        auth=client_auth(auth),
        identity=identity,
        backoff=backoff or Backoff(),
        on_state=on_state,
        on_session_lost=on_session_lost,
        limits=limits or Limits(),
        send_buffer=send_buffer or SendBuffer(),
        options=options or TransportOptions(),
        stagger_s=stagger_s,
        clock=clock,
        random=random or SystemRandom(),
    )


def parse_urls(urls: str | Sequence[str], function: str) -> list[Endpoint]:
    """The endpoints of one URL or several. Raises :class:`ConfigurationError` for none, and for what is no URL."""
    endpoints = [parse_url(url) for url in ([urls] if isinstance(urls, str) else urls)]
    if not endpoints:
        raise ConfigurationError(f"{function} needs at least one URL")
    return endpoints


def check_carries_lines(endpoint: Endpoint) -> None:
    """Raises :class:`ConfigurationError` for a scheme without connections."""
    if endpoint.is_connectionless:
        raise ConfigurationError(
            f"{endpoint} carries single calls, landline.call(), and no lines: a line needs tls:// or quic://, say"
        )


def check_identity(identity: str) -> None:
    """Raises :class:`ConfigurationError` for an identity that no handshake has room for."""
    size = len(identity.encode())
    if size > IDENTITY_BYTES_MAX:
        raise ConfigurationError(f"an identity of {size} bytes; {IDENTITY_BYTES_MAX} are allowed")


class Connector(TakesDatagrams):
    """Made by :func:`connect`: keeps one line connected."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint | Announced],
        *,
        auth: ClientAuth,
        identity: str,
        backoff: Backoff,
        on_state: StateCallback | None,
        on_session_lost: SessionLostCallback | None,
        limits: Limits,
        send_buffer: SendBuffer,
        options: TransportOptions,
        stagger_s: float | None,
        clock: Callable[[], float],
        random: RandomSource,
    ) -> None:
        self.handlers = Handlers()
        self._given = endpoints
        self._endpoints = endpoints
        self._endpoint: Endpoint | None = None
        self._auth = auth
        self._identity = identity
        self._schedule = Schedule(backoff)
        self._on_state = on_state
        self._on_session_lost = on_session_lost
        self._limits = limits
        self._send_buffer = send_buffer
        self._options = options
        self._stagger_s = stagger_s
        self._roads: Roads[Endpoint | Announced] = Roads(backoff.stable_after)
        self._clock = clock
        self._random = random
        self._line: Line | None = None
        self._task: asyncio.Task[None] | None = None
        self._detached: asyncio.Future[tuple[LossKind, str, Ended | None]] | None = None
        self.messages_dropped = 0
        self.server_name = ""
        """What the server calls itself, as soon as it said so; also that of one that refused us."""
        self.loop: asyncio.AbstractEventLoop
        self.wheel: TimerWheel
        self.outbox: Outbox

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
        :class:`ProtocolError` when it is no landline server, :class:`ConfigurationError` when a module is missing,
        :class:`ConnectFailed` when no URL of several can work. Cancelling gives up.
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
        if self._line is not None and self._line.leaving is not None:
            await self._line.leaving.wait(LEAVE_AT_EXIT_S)

    async def _keep_connected(self, line: Line, online: asyncio.Future[None]) -> None:
        try:
            await self._run(line, online)
            if not online.done():
                online.set_exception(LineClosed("the line was closed before it was connected"))
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
            code: Code | None = None
            retry_after_s: float | None = None
            spread_s = 0.0
            failure: Exception | None = None
            attempt = _Attempt(may_close=not online.done())
            try:
                self._detached = self.loop.create_future()
                is_connected = await self._attempt(line, attempt)
            except Rejected as error:
                if not error.code.may_return:
                    raise
                cause, detail, failure, code = LossKind.REJECTED, str(error), error, error.code
                retry_after_s, spread_s = error.retry_after_s, error.spread_s
            else:
                if is_connected:
                    self._schedule.receive_connected(self.wheel.time())
                    if not online.done():
                        online.set_result(None)
                    cause, detail, ended = await self._detached
                    if cause is LossKind.CLOSED_HERE or line.is_closed:
                        return
                else:
                    cause = LossKind.CONNECT_FAILED
                    detail, failure = self._explain(attempt)
                if ended is not None:
                    if not ended.code.may_return:
                        self._close_ended(line, cause, ended)
                        return
                    self._lose_session(line, f"the server ended the session: {detail}")
                    code, retry_after_s, spread_s = ended.code, ended.retry_after_s, ended.spread_s
                    self._try_first(ended.alternatives)
                elif is_connected:
                    self._roads.receive_lost(self.wheel.time(), detail)
            await self._wait(line, cause, detail, failure, code, retry_after_s, spread_s)

    async def _attempt(self, line: Line, attempt: _Attempt) -> bool:
        """Tries every road worth it until one leads to a welcome; returns whether one did.

        Raises :class:`Rejected` when a server refused, and what makes going on useless.
        """
        roads = self._roads.order(self._endpoints, self.wheel.time())
        attempt.speaks_at_once = (self._stagger_s is None or len(roads) == 1) and not any(
            isinstance(road, Announced) for road in roads
        )
        if await first_of([partial(self._try_road, line, road, attempt) for road in roads], self._stagger_s):
            return True
        if attempt.rejected is not None:
            raise attempt.rejected
        if not self._roads.order(self._endpoints, self.wheel.time()):
            detail, failure = self._explain(attempt)
            raise failure if len(self._endpoints) == 1 else ConnectFailed(f"no road works: {detail}")
        return False

    def _explain(self, attempt: _Attempt) -> tuple[str, Exception]:
        """Why an attempt failed, in a sentence that names each road, and as an exception."""
        detail = self._roads.reasons(self._endpoints)
        [*_, last] = attempt.failures
        if len(self._endpoints) == 1:
            return detail, last
        failure = ConnectFailed(detail)
        failure.__cause__ = last
        return detail, failure

    async def _try_road(self, line: Line, road: Endpoint | Announced, attempt: _Attempt) -> bool:
        """Tries one road; whatever only says that it leads nowhere is recorded. A closed line needs none."""
        if line.is_closed:
            return True
        if attempt.rejected is not None:
            return False
        failure: Exception
        is_closed = False
        try:
            if isinstance(road, Announced):
                await self._connect_announced(line, road, attempt)
            else:
                await self._connect(line, road, attempt, self._options)
        except Rejected as error:
            if not error.code.may_return:
                raise
            attempt.rejected = failure = error
        except ConfigurationError as error:
            failure, is_closed = error, True
        except ProtocolError as error:
            # Whoever answers in the server's place while it restarts (a proxy's error page, another program)
            # is no reason to give up a road that has worked.
            failure, is_closed = error, attempt.may_close or error.code in _FATAL_CODES
        except (ConnectFailed, OSError, UnicodeError) as error:
            failure = error
        else:
            self._roads.receive_connected(road, self.wheel.time())
            return True
        attempt.failures.append(failure)
        reason = reason_of(failure)
        if self._roads.receive_failed(road, self.wheel.time(), reason, is_closed=is_closed):
            log = logger.warning if len(self._endpoints) > 1 else logger.debug
            log("%s cannot be used: %s", road, reason)
        return False

    def _try_first(self, alternatives: Sequence[str]) -> None:
        """The server named others that can take us: they go before the URLs we were given.

        One that would give up encryption where none of our own does is not followed; a unix socket is on this machine.
        """
        if not alternatives:
            return
        named: list[Endpoint | Announced] = []
        for url in alternatives:
            try:
                endpoint = parse_url(url)
                check_carries_lines(endpoint)
            except ConfigurationError as error:
                logger.warning("the server named an alternative that cannot be used: %s", error)
                continue
            if _is_exposed(endpoint) and not any(_is_exposed(own) for own in self._given):
                logger.warning("the server named %s, which is not encrypted; not followed", endpoint)
                continue
            named.append(endpoint)
        self._endpoints = named + [endpoint for endpoint in self._given if endpoint not in named]
        self._roads.forget()

    async def _wait(
        self,
        line: Line,
        cause: LossKind,
        detail: str,
        failure: Exception | None,
        code: Code | None,
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
                code=code,
                attempt=self._schedule.failures + 1,
                due_in_s=delay,
            )
        )
        await asyncio.sleep(delay)
        if not line.is_closed:
            line.change(
                StateChange(state=LineState.CONNECTING, cause=cause, attempt=self._schedule.failures + 1)
            )

    async def _connect_announced(self, line: Line, road: Announced, attempt: _Attempt) -> None:
        """Looks for an announced server and tries its addresses beside each other; raises why none led to a welcome.

        What is announced says where to go, not who is there: the certificate must be valid for the name.
        """
        name, endpoints = choose(road, await load_discovery().search(SEARCH_S, road))
        options = self._options
        if not options.server_name:
            options = msgspec.structs.replace(options, server_name=name)
        failures: list[tuple[Endpoint, Exception]] = []

        async def try_address(endpoint: Endpoint) -> bool:
            if failures and isinstance(failures[-1][1], Rejected):
                return False
            try:
                await self._connect(line, endpoint, attempt, options)
            except (ConnectFailed, ConfigurationError, ProtocolError, OSError, UnicodeError) as error:
                failures.append((endpoint, error))
                return False
            return True

        if not await first_of([partial(try_address, endpoint) for endpoint in endpoints], ADDRESS_STAGGER_S):
            for _, error in failures:
                if isinstance(error, Rejected) or (len(failures) == 1 and isinstance(error, ProtocolError)):
                    raise error
            raise ConnectFailed(
                "; ".join(f"{endpoint}: {reason_of(error)}" for endpoint, error in failures)
            ) from failures[-1][1]

    async def connect_once(self, line: Line, endpoint: Endpoint) -> None:
        """Tries one address: raises what went wrong, or returns with the line attached."""
        await self._connect(line, endpoint, _Attempt(may_close=True), self._options)

    async def _connect(
        self, line: Line, endpoint: Endpoint, attempt: _Attempt, options: TransportOptions
    ) -> None:
        """Tries one address: raises what went wrong, or returns with the line attached."""
        session = line.session
        handshake = ClientHandshake(
            random=self._random,
            auth=self._auth,
            identity=self._identity,
            limits=self._limits,
            resume=session.ticket if session is not None else None,
        )
        link = _HandshakeLink(self, line, endpoint, handshake, speaks_at_once=attempt.speaks_at_once)
        try:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await load(endpoint).connect(endpoint, lambda: link, options)
            except TimeoutError as error:
                raise ConnectFailed(f"no connection within {CONNECT_TIMEOUT_S:g} s") from error
            try:
                async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                    await link.shake_hands(attempt.turn)
            except TimeoutError as error:
                raise ConnectFailed(
                    f"no welcome within {HANDSHAKE_TIMEOUT_S:g} s; is it a landline server?"
                ) from error
        finally:
            link.give_up()

    def receive_welcome(
        self,
        line: Line,
        endpoint: Endpoint,
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
        # Those who are told that the line is online may ask.
        self._endpoint = endpoint
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


class _Attempt:
    """One attempt to connect, over as many roads as there are."""

    __slots__ = ("failures", "may_close", "rejected", "speaks_at_once", "turn")

    def __init__(self, *, may_close: bool) -> None:
        self.may_close = may_close
        """Whether who answers and is no landline server closes a road: before the line has worked."""
        self.speaks_at_once = True
        """Whether no other road is under way at the same time."""
        self.turn = asyncio.Lock()
        """Held by the one road that may say HELLO."""
        self.failures: list[Exception] = []
        self.rejected: Rejected | None = None
        """A server refused and said when to come back: no further road is begun."""


class _HandshakeLink(LinkProtocol):
    """The protocol of a transport until it is welcomed; then the line's own takes its place."""

    def __init__(
        self,
        connector: Connector,
        line: Line,
        endpoint: Endpoint,
        handshake: ClientHandshake,
        *,
        speaks_at_once: bool,
    ) -> None:
        self._connector = connector
        self._line = line
        self._endpoint = endpoint
        self._handshake = handshake
        self._speaks_at_once = speaks_at_once
        # The server spoke, or never will.
        self._greeted = asyncio.Event()
        self._welcomed: asyncio.Future[None] = connector.loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._hello_at = 0.0

    async def shake_hands(self, turn: asyncio.Lock) -> None:
        """Returns once the server's welcome was handed to the line; raises what came instead.

        Of the roads of one attempt only the one whose turn it is says HELLO: were it said on two, the server would
        resume the session on both. After a welcome the turn is kept, so that none of the others gets it.
        """
        if self._speaks_at_once:
            await self._welcomed
            return
        await self._greeted.wait()
        if self._welcomed.done():
            # It ended or was refused before its turn.
            self._welcomed.result()
            return
        await turn.acquire()
        try:
            self._speaks_at_once = True
            self._say_hello()
            await self._welcomed
        except BaseException:
            # Nothing must come of this HELLO any more when the next one is said.
            self.give_up()
            turn.release()
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.Transport, but have all its methods.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or self._welcomed.done():
            return
        try:
            try:
                rest = self._handshake.receive_data(data)
            finally:
                self._connector.server_name = self._handshake.server_name
            self._greeted.set()
            if self._speaks_at_once:
                self._say_hello()
            welcome = self._handshake.welcome
            if welcome is not None:
                self._connector.receive_welcome(
                    self._line,
                    self._endpoint,
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
        """Drops the transport unless it was handed to the line. Nobody waits for the welcome any more."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        if not self._welcomed.cancel() and not self._welcomed.cancelled():
            self._welcomed.exception()

    def _say_hello(self) -> None:
        """Sends HELLO if there is one, which is after the server's CHALLENGE."""
        output = self._handshake.data_to_send()
        if output and self._transport is not None:
            self._transport.write(output)
            self._hello_at = self._connector.wheel.time()

    def _fail(self, error: Exception) -> None:
        if not self._welcomed.done():
            self._welcomed.set_exception(error)
        self._greeted.set()


def _is_exposed(road: Endpoint | Announced) -> bool:
    """Whether others on a network can read what goes there."""
    return not road.is_encrypted and road.scheme != "unix"


def reason_of(error: Exception) -> str:
    """An error as part of a sentence; the system's text where there is one."""
    if isinstance(error, ConnectionRefusedError):
        return "nobody answers (connection refused)"
    if isinstance(error, FileNotFoundError):
        return "no such socket"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
