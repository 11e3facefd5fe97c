"""A single request: connect, ask, disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import SystemRandom
from threading import get_ident
from time import monotonic
from typing import Any, Final, TypeVar, overload

import msgspec

from landline.client.dialer import CONNECT_TIMEOUT_S, Dialer, Welcomed, reason_of
from landline.codes import Code, Operation
from landline.errors import (
    ConfigurationError,
    ConnectFailed,
    ProtocolError,
    Rejected,
    RequestTimeout,
    outcome,
)
from landline.line.codec import DecHook, EncHook, decoder_of
from landline.line.file_sender import FileSender
from landline.line.handlers import Handlers
from landline.line.line import Line, driver_of
from landline.line.line_state import DisconnectCause, LineState, StateChange
from landline.line.pending_requests import read_answer
from landline.runtime.flush_queue import FlushQueue
from landline.runtime.timer_wheel import TimerWheel
from landline.runtime.turns import turns_of
from landline.session.auth import ClientAuth, client_auth
from landline.session.constants import HANDSHAKE_TIMEOUT_S
from landline.session.events import Ended
from landline.session.handshake import RandomSource
from landline.session.settings import Limits, SendBuffer
from landline.signatures import Expected, check_arguments
from landline.transports.linger import TransportCloser
from landline.transports.options import TransportOptions, check_client_options
from landline.transports.urls import Endpoint, parse_url, url_list
from landline.udp_calls.scheme import load_call_module

CALL_TIMEOUT_S: Final = 10.0
UNANSWERED_WAIT_S: Final = 0.5
"""How long an unanswered call waits for the server to read its BYE; a server that hangs would never read it."""

Response = TypeVar("Response")


@overload
async def call(
    url: str | Sequence[str],
    name: str,
    value: Any = ...,
    *,
    timeout: float | None = ...,
    auth: ClientAuth | None = ...,
    identity: str = ...,
    options: TransportOptions | None = ...,
    response_type: type[Response],
    enc_hook: EncHook | None = ...,
    dec_hook: DecHook | None = ...,
) -> Response: ...


@overload
async def call(
    url: str | Sequence[str],
    name: str,
    value: Any = ...,
    *,
    timeout: float | None = ...,
    auth: ClientAuth | None = ...,
    identity: str = ...,
    options: TransportOptions | None = ...,
    response_type: Any = ...,
    enc_hook: EncHook | None = ...,
    dec_hook: DecHook | None = ...,
) -> Any: ...


async def call(
    url: str | Sequence[str],
    name: str,
    value: Any = None,
    *,
    timeout: float | None = CALL_TIMEOUT_S,
    auth: ClientAuth | None = None,
    identity: str = "",
    options: TransportOptions | None = None,
    response_type: Any = Any,
    enc_hook: EncHook | None = None,
    dec_hook: DecHook | None = None,
) -> Any:
    """Call a server's handler ``name`` and return its answer, without keeping a line.

    Connect, do the handshake, ask, say goodbye, and wait until the connection is closed. The handler runs at most once:
    nothing is repeated after the request may have been received. Cancelling tells the server to cancel the handler, and
    disconnects; over ``udp://`` it only stops asking, and a running handler continues.

    :param url: one URL, or several, which are tried in order. Only a failed connection leads to the next one; each may
        take an equal share of the remaining time.
    :param timeout: the time limit of everything, in seconds. ``None`` waits for the answer as long as the connected
        server is alive; it is not possible for ``udp://``.
    :param auth: proves the client's identity, such as :class:`landline.SharedToken`.
    :param identity: the identity that the client claims, 200 bytes at most.
    :param response_type: the type the answer is converted to, any type msgspec supports.
    :param enc_hook: called as ``enc_hook(value)`` for a value msgspec does not know; see :class:`Server`.
    :param dec_hook: called as ``dec_hook(type, value)`` for a type msgspec does not know; see :class:`Server`.
    :raises ConnectFailed: no connection to a landline server could be made in time: the handler did not run.
    :raises Rejected: the server refused the connection; if the client may return, the next URL is tried first.
    :raises NoHandler: the server has no handler of that name.
    :raises RequestError: the handler's own error; or the code ``bad_response`` when the answer does not fit its type.
    :raises RequestTimeout: (a :class:`TimeoutError`) no answer in time: whether the handler ran is unknown.
    :raises RequestLost: the connection or the server ended before the answer arrived: whether it ran is unknown.
    :raises MessageTooLarge: the server accepts no message of this size; nothing was asked.
    :raises MissingExtra: the URL needs packages that are not installed.
    :raises ConfigurationError: when an argument is wrong; :class:`TypeError` for values that MessagePack cannot hold.
    """
    check_arguments("call", locals(), _ARGUMENTS)
    endpoints = [parse_url(one) for one in url_list(url, "call")]
    if timeout is None and any(endpoint.is_connectionless for endpoint in endpoints):
        raise ConfigurationError("call() over udp:// needs a timeout, because nothing else would end it")
    options = options or TransportOptions()
    check_client_options(options, {str(endpoint): endpoint.schemes for endpoint in endpoints})
    random = SystemRandom()
    dialer = Dialer(
        auth=client_auth(auth), identity=identity, limits=Limits(), clock=monotonic, random=random
    )
    # Before anything is started, so that an invalid value or type costs no connection.
    handlers = Handlers(enc_hook=enc_hook, dec_hook=dec_hook)
    body, is_packed = handlers.encode(value)
    if response_type is not Any:
        decoder_of(response_type, dec_hook)
    request = _Request(name, body, is_packed, response_type, timeout)
    return await _CallRunner(dialer, handlers, options, random).ask(endpoints, request)


_ARGUMENTS: Final[Expected] = {
    "name": (str, "the name of a handler"),
    "timeout": ((int, float), "seconds, or None"),
    "identity": (str, "text"),
    "options": (TransportOptions, "a landline.TransportOptions"),
}


class _Request(msgspec.Struct, frozen=True):
    name: str
    body: bytes
    is_packed: bool
    response_type: Any
    timeout_s: float | None


class _CallRunner:
    """Runs one call; the host of its lines, one for each URL, each of which ends with its transport."""

    continues_lines = False

    def __init__(
        self, dialer: Dialer, handlers: Handlers, options: TransportOptions, random: RandomSource
    ) -> None:
        self._dialer = dialer
        self._options = options
        self._random = random
        self.handlers = handlers
        # The server may send messages or broadcast. Unread ones would fill the window, and the answer could not arrive.
        self.handlers.on_message(_ignore)
        self.messages_dropped = 0
        self.loop = asyncio.get_running_loop()
        self.thread = get_ident()
        self.wheel = TimerWheel(self.loop, dialer.clock)
        self.flush_queue = FlushQueue(self.loop)
        self.closer = TransportCloser(self.loop)
        self.turns = turns_of(self.loop, dialer.clock)

    @property
    def files(self) -> FileSender[Line]:
        """Not used: a call sends no files."""
        raise AssertionError("the line of a call sends no files")

    async def ask(self, endpoints: Sequence[Endpoint], request: _Request) -> Any:
        """Return the answer of the first server that can be reached."""
        now = self.loop.time()
        deadline = None if request.timeout_s is None else now + request.timeout_s
        try:
            for left in range(len(endpoints), 1, -1):
                try:
                    return await self._ask_one(
                        endpoints[-left], request, deadline, _share_s(deadline, now, left)
                    )
                except Rejected as error:
                    if not error.code.may_return:
                        raise
                except ConnectFailed:
                    pass
                now = self.loop.time()
            return await self._ask_one(endpoints[-1], request, deadline, _share_s(deadline, now, 1))
        finally:
            self.wheel.close()

    async def _ask_one(
        self, endpoint: Endpoint, request: _Request, deadline: float | None, share_s: float
    ) -> Any:
        """Ask one URL: ``share_s`` seconds to connect, and until the deadline to answer."""
        if endpoint.is_connectionless:
            return await self._ask_datagram(endpoint, request, share_s)
        line = Line(self, identity=self._dialer.identity)
        value = msgspec.Raw(request.body) if request.is_packed else request.body
        patience_s: float | None = UNANSWERED_WAIT_S
        try:
            await self._connect_in_time(line, endpoint, share_s)
            try:
                async with asyncio.timeout_at(deadline):
                    answer = await line.request(
                        request.name, value, timeout=None, response_type=request.response_type
                    )
                    patience_s = None
                    return answer
            except TimeoutError as error:
                raise outcome(RequestTimeout(request.name, request.timeout_s or 0.0)) from error
        finally:
            # The answer acknowledges the request, so there is nothing to drain. After a cancellation or a time-out, the
            # BYE cancels the handler.
            line.abort(Code.NORMAL)
            # The program may end its event loop after this call.
            await self.closer.wait(patience_s)

    async def _connect_in_time(self, line: Line, endpoint: Endpoint, share_s: float) -> None:
        """Connect. Raise :class:`ConnectFailed` for every failure: the server cannot have received the request."""

        def take_welcome(welcomed: Welcomed) -> None:
            session = welcomed.new_session(SendBuffer())
            welcomed.attach(line, session, phase=self._random.random())

        try:
            async with asyncio.timeout(share_s):
                await self._dialer.dial(endpoint, self._options, take_welcome, resume=None, turn=None)
        except TimeoutError as error:
            raise ConnectFailed(f"{endpoint}: no connection within {share_s:g} s") from error
        except ConnectFailed:
            raise
        except (ProtocolError, OSError, UnicodeError) as error:
            raise ConnectFailed(f"{endpoint}: {reason_of(error)}") from error

    async def _ask_datagram(self, endpoint: Endpoint, request: _Request, timeout_s: float) -> Any:
        reply = await load_call_module(endpoint).call(
            endpoint,
            request.name,
            request.body,
            is_packed=request.is_packed,
            identity=self._dialer.identity,
            auth=self._dialer.auth,
            timeout_s=timeout_s,
        )
        return read_answer(
            request.name,
            reply.body,
            reply.is_packed,
            None
            if request.response_type is Any
            else decoder_of(request.response_type, self.handlers.dec_hook),
            is_error=reply.operation is Operation.ERROR,
        )

    # Interface for the lines

    def line_changed(self, line: Line, change: StateChange) -> None:
        """Do nothing: a call reports no states."""

    def line_detached(self, line: Line, cause: DisconnectCause, detail: str) -> None:
        _finish(line, cause, detail, None)

    def line_ended(self, line: Line, ended: Ended) -> None:
        cause = DisconnectCause.CLOSED_BY_PEER if ended.by_peer else DisconnectCause.PROTOCOL_ERROR
        _finish(line, cause, ended.reason or ended.code.name.lower().replace("_", " "), ended.code)

    def line_too_slow(self, line: Line, detail: str) -> None:
        _finish(line, DisconnectCause.TOO_SLOW, detail, Code.TOO_SLOW)

    def line_expired(self, line: Line) -> None:
        raise AssertionError("a client's line does not expire by itself")

    async def wait_closed(self, line: Line) -> None:
        """Return at once: the call itself waits for its transports."""


def _share_s(deadline: float | None, now: float, urls_left: int) -> float:
    """Return how many seconds one URL may take: its share of the rest. Rounded, because error messages contain it."""
    if deadline is None:
        return CONNECT_TIMEOUT_S + HANDSHAKE_TIMEOUT_S
    return round(max(0.0, deadline - now) / urls_left, 3)


def _finish(line: Line, cause: DisconnectCause, detail: str, code: Code | None) -> None:
    # A request that was sent fails with RequestLost. This error is for one that was not, and may go to the next URL.
    error = ConnectFailed(f"the connection ended before the request was sent: {detail}")
    driver_of(line).finish(StateChange(state=LineState.CLOSED, cause=cause, detail=detail, code=code), error)


def _ignore(line: Line, message: Any) -> None:
    """Drop a message: a call has no use for it."""
