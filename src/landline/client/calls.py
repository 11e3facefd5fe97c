"""One request without a line to keep: connect, ask, hang up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import SystemRandom
from threading import get_ident
from time import monotonic
from typing import Any, Final

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
from landline.line.line import Line
from landline.line.line_state import DisconnectCause, LineState, StateChange
from landline.line.pending_requests import read_answer
from landline.runtime.flush_queue import FlushQueue
from landline.runtime.timer_wheel import TimerWheel
from landline.runtime.turns import turns_of
from landline.session.auth import ClientAuth, client_auth
from landline.session.events import Ended
from landline.session.handshake import HANDSHAKE_TIMEOUT_S, Limits, RandomSource
from landline.session.outbound import SendBuffer
from landline.signatures import Expected, check_arguments
from landline.transports.linger import TransportCloser
from landline.transports.options import TransportOptions, check_client_options
from landline.transports.urls import Endpoint, parse_url, url_list
from landline.udp_calls.scheme import load_call_module

CALL_TIMEOUT_S: Final = 10.0
UNANSWERED_WAIT_S: Final = 0.5
"""How long a call that was not answered waits for the server to read its BYE. A server that hangs would keep it."""


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
    """Asks a server's handler ``name`` and returns its answer, without keeping a line.

    Connects, shakes hands, asks, says goodbye and waits until the connection is closed. The handler runs at most once:
    nothing is repeated after the request may have been received.

    :param url: one URL, or several that are tried in order. Only a failure to connect leads to the next one; each
        may take an equal share of the time that is left.
    :param timeout: seconds for everything; ``None`` waits as long as the server is alive once it is connected, and is
        not for ``udp://``.
    :param auth: proves who we are, such as :class:`landline.SharedToken`.
    :param identity: who we say we are, 200 bytes at most.
    :param response_type: what the answer is converted to, anything msgspec can check.
    :param enc_hook: called as ``enc_hook(value)`` for a value msgspec does not know; see :class:`Server`.
    :param dec_hook: called as ``dec_hook(type, value)`` for a type msgspec does not know; see :class:`Server`.
    :raises ConnectFailed: no server could be reached in time: the handler did not run.
    :raises Rejected: the server said no; one that may be asked again leads to the next URL first.
    :raises NoHandler: nobody answers to that name.
    :raises RequestError: the handler's own error; with the code ``bad_response`` when the answer does not fit.
    :raises RequestTimeout: (a :class:`TimeoutError`) asked, and no answer in time: whether the handler ran is unknown.
    :raises RequestLost: the connection or the server ended before the answer came: whether it ran is unknown.
    :raises MessageTooLarge: the server takes no message of this size; nothing was asked.
    :raises ConfigurationError: when an argument makes no sense; :class:`TypeError` for values MessagePack has no form
        for.

    Cancelling tells the server to cancel the handler, and hangs up. Over ``udp://`` it stops asking; a handler that
    runs already goes on.
    """
    check_arguments("call", locals(), _ARGUMENTS)
    endpoints = [parse_url(one) for one in url_list(url, "call")]
    if timeout is None and any(endpoint.is_connectionless for endpoint in endpoints):
        raise ConfigurationError("call() over udp:// needs a timeout: nothing else would ever end it")
    options = options or TransportOptions()
    check_client_options(options, {str(endpoint): endpoint.schemes for endpoint in endpoints})
    random = SystemRandom()
    dialer = Dialer(
        auth=client_auth(auth), identity=identity, limits=Limits(), clock=monotonic, random=random
    )
    # Before anything is started, so that a value without a form, or a type nobody knows, costs no connection.
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
    """Owns the lines of one call: one for each URL that is tried, which ends with its first transport."""

    continues_lines = False

    def __init__(
        self, dialer: Dialer, handlers: Handlers, options: TransportOptions, random: RandomSource
    ) -> None:
        self._dialer = dialer
        self._options = options
        self._random = random
        self.handlers = handlers
        # A server may greet every line, or broadcast: unread messages would close the window for the answer.
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
        """A call sends no files."""
        raise AssertionError("the line of a call has no user who could send a file")

    async def ask(self, endpoints: Sequence[Endpoint], request: _Request) -> Any:
        """The answer of the first server that can be reached."""
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
        """Asks at one URL, which may take ``share_s`` to be reached, and until the deadline to answer."""
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
            # The answer itself shows that the request was taken; there is nothing to drain. After a cancellation or
            # a time-out, the BYE cancels what still runs there.
            line.abort(Code.NORMAL)
            # The program may end its event loop with this call.
            await self.closer.wait(patience_s)

    async def _connect_in_time(self, line: Line, endpoint: Endpoint, share_s: float) -> None:
        """Raises :class:`ConnectFailed` for all that can go wrong before the server can have heard the request."""

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

    # For the lines.

    def line_changed(self, line: Line, change: StateChange) -> None:
        """Nobody watches a line that is there for one answer."""

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
        """The call itself waits for its transports."""


def _share_s(deadline: float | None, now: float, urls_left: int) -> float:
    """How long one URL may take: its share of what is left. Rounded, because messages name it."""
    if deadline is None:
        return CONNECT_TIMEOUT_S + HANDSHAKE_TIMEOUT_S
    return round(max(0.0, deadline - now) / urls_left, 3)


def _finish(line: Line, cause: DisconnectCause, detail: str, code: Code | None) -> None:
    # A request that was sent fails with RequestLost; the error is for one that was not, and may go to the next URL.
    error = ConnectFailed(f"the connection ended before the request was sent: {detail}")
    line.finish(StateChange(state=LineState.CLOSED, cause=cause, detail=detail, code=code), error)


def _ignore(line: Line, message: Any) -> None:
    """Nobody reads what a server sends unasked on a line that is there for one answer."""
