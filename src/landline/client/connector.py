"""``connect()``: a line to a server that reconnects until it is closed."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from random import SystemRandom
from time import monotonic
from types import TracebackType
from typing import Any, Final, TypeVar, overload

from landline.client.backoff import Backoff, Schedule
from landline.client.client_host import ClientHost, SessionLostCallback
from landline.client.connect_attempt import AnyEndpoint, EndpointConnector, check_carries_lines
from landline.client.dialer import Dialer, DialTimeouts
from landline.discovery.records import parse_endpoint
from landline.errors import ConfigurationError
from landline.files.incoming_file import AcceptFunction, ProgressFunction, ReceivedFunctionType
from landline.files.limits import FileLimits
from landline.line.codec import DecHook, EncHook
from landline.line.decoded_size import MESSAGE_OBJECTS, check_message_objects
from landline.line.handlers import Body, Function, HandlerDecorator, Handlers
from landline.line.line import Line, StateCallback
from landline.session.auth import ClientAuth, client_auth
from landline.session.handshake import RandomSource
from landline.session.settings import Limits, SendBuffer
from landline.signatures import Expected, check_arguments, check_function
from landline.transports.options import TransportOptions, check_client_options
from landline.transports.urls import Endpoint, url_list

CONNECT_TIMEOUT_S: Final = 60.0
"""The default time limit of the first connection: long enough for a server that restarts, and short enough to notice a
wrong address."""
STAGGER_S_MIN: Final = 0.01
STAGGER_S_MAX: Final = 10.0
"""The minimum of RFC 8305 §8, and the time limit of an attempt."""

_State = TypeVar("_State", bound=StateCallback)
_Lost = TypeVar("_Lost", bound=SessionLostCallback)


class Connector:
    """Keeps one line connected; made by :func:`connect`."""

    def __init__(self, host: ClientHost) -> None:
        self._host = host

    # Handlers

    @overload
    def on(self, name: str, body_type: type[Body]) -> HandlerDecorator[Body]: ...

    @overload
    def on(self, name: str, body_type: Any = ...) -> Callable[[Function], Function]: ...

    def on(self, name: str, body_type: Any = Any) -> Any:
        """Register a handler for the server's requests and messages called ``name``; see :meth:`Server.on`."""
        return self._host.handlers.on(name, body_type)

    def on_message(self, function: Function) -> Function:
        """Register a handler for messages without a name, instead of ``async for``."""
        return self._host.handlers.on_message(function)

    @overload
    def on_datagram(self, name: Function, /) -> Function: ...

    @overload
    def on_datagram(self, name: str, body_type: type[Body], /) -> HandlerDecorator[Body]: ...

    @overload
    def on_datagram(self, name: str, body_type: Any = ..., /) -> Callable[[Function], Function]: ...

    def on_datagram(self, name: Any, body_type: Any = Any, /) -> Any:
        """Register a handler for datagrams; see :meth:`Server.on_datagram`."""
        handlers = self._host.handlers
        return (
            handlers.on_datagram(name, body_type) if isinstance(name, str) else handlers.on_datagram("")(name)
        )

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
        """Receive files that the server sends into ``directory``; see :meth:`Server.on_file`."""
        return self._host.files.on_file(
            directory, to=to, limits=limits, accept=accept, progress=progress, overwrite=overwrite
        )

    def on_state(self, callback: _State) -> _State:
        """Call ``callback(line, change)`` on every change of the line's state: the argument ``on_state`` as decorator.

        Register it before connecting, or with :meth:`Line.on_state` afterwards.
        """
        check_function(
            callback, "the callback of Connector.on_state()", ("line", "change"), may_be_async=False
        )
        self._host.on_state = callback
        return callback

    def on_session_lost(self, callback: _Lost) -> _Lost:
        """Call ``callback(line, unconfirmed)`` when a session is lost: ``on_session_lost`` as decorator."""
        check_function(
            callback,
            "the callback of Connector.on_session_lost()",
            ("line", "unconfirmed"),
            may_be_async=False,
        )
        self._host.on_session_lost = callback
        return callback

    # Properties

    @property
    def endpoint(self) -> Endpoint | None:
        """The address the line is, or was last, connected to; ``None`` before the first connection."""
        return self._host.endpoint

    @property
    def server_name(self) -> str:
        """The server's name from its last CHALLENGE, also of a server that refused the connection; empty before."""
        return self._host.dialer.server_name

    # Lifecycle

    def __await__(self) -> Generator[Any, None, Line]:
        """Return the line once it is connected: ``line = await landline.connect(url)``.

        ``await line.close()`` ends it, and the reconnecting with it. Raises as :meth:`__aenter__`.
        """
        self._host.ends_with_line = True
        return self._host.open().__await__()

    async def __aenter__(self) -> Line:
        """Return the line once it is connected. Cancelling ends the attempts.

        :raises Rejected: the server refused the connection and does not want the client to return.
        :raises GaveUp: the reconnect policy or ``connect_timeout_s`` ended the attempts.
        :raises ConnectFailed: no URL can work, for example because something other than a landline server answers.
        :raises MissingExtra: every URL needs packages that are not installed.
        :raises ConfigurationError: every URL fails for a wrong argument.
        """
        return await self._host.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the line in order; see :meth:`Line.close`.

        After an exception, do not wait until the peer has acknowledged everything, only until the BYE has arrived, 3 s
        at most.
        """
        await self._host.close(at_once=error is not None)


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
    timeouts: DialTimeouts | None = None,
) -> Connector:
    """Return a connector: a line to a server that reconnects until it is closed.

    Use it as ``async with landline.connect(url) as line``, which closes the line at its end, or as
    ``line = await landline.connect(url)`` with ``await line.close()``. Both wait for the first connection. Register
    handlers for the server's requests on the connector before that.

    :param urls: one URL, or several, the preferred one first; each attempt tries them until one works. The order of
        later attempts is described in :mod:`landline.client.endpoint_selector`. An address without encryption is
        used only if it is given here. ``mdns://name`` is a server announced on the local network, which is looked up at
        every attempt (see :mod:`landline.discovery.records`).
    :param auth: proves the client's identity, such as :class:`landline.SharedToken`.
    :param identity: the identity that the client claims (covered by the proof), 200 bytes at most.
    :param connect_timeout_s: the time limit of the first connection in seconds, over all attempts; after it,
        :class:`GaveUp` has the error of the last one. ``None`` waits without a limit, for programs that may start
        before their server. After the first connection, only ``backoff`` limits the attempts.
    :param backoff: the reconnect policy, for the first connection too; by default ``Backoff()``, which never gives up.
    :param on_state: called as ``on_state(line, change)`` on every change of state.
    :param on_session_lost: called as ``on_session_lost(line, unconfirmed)`` when the server no longer has the
        session; the line continues with a new one. Without it, a session lost with unacknowledged messages closes the
        line, and readers and senders get :class:`SessionLost`.
    :param message_objects: how many objects the body of one message from the server may become; see
        :class:`landline.Server`.
    :param stagger_s: with several URLs, the seconds (0.01 to 10) after which the next one is tried although the one
        before has not failed. The first that answers is used; the others are closed before anything was sent on them
        (RFC 8305, "Happy Eyeballs", recommends 0.25). By default each URL has its full time.
    :param options: what the transports need beyond the URLs, such as ``TransportOptions(ca_file=...)``.
    :param enc_hook: called as ``enc_hook(value)`` for a value msgspec does not know; see :class:`Server`.
    :param dec_hook: called as ``dec_hook(type, value)`` for a type msgspec does not know; see :class:`Server`.
    :param clock: the clock of all deadlines, in seconds, monotonic; a simulation passes its own.
    :param random: the source of nonces and jitter; a simulation passes a seeded one.
    :param timeouts: the time limits of one attempt at one address; tests pass shorter ones.
    :raises ConfigurationError: when an argument is wrong.
    """
    check_arguments("connect", locals(), _ARGUMENTS)
    endpoints = _parse_urls(urls)
    options = options or TransportOptions()
    check_client_options(options, {str(endpoint): endpoint.schemes for endpoint in endpoints})
    _check_times(stagger_s, connect_timeout_s)
    random = random or SystemRandom()
    backoff = backoff or Backoff()
    dialer = Dialer(
        auth=client_auth(auth),
        identity=identity,
        limits=limits or Limits(),
        clock=clock,
        random=random,
        timeouts=timeouts,
    )
    host = ClientHost(
        dialer,
        EndpointConnector(
            endpoints, dialer, options=options, stagger_s=stagger_s, stable_after_s=backoff.stable_after_s
        ),
        Schedule(backoff),
        connect_timeout_s=connect_timeout_s,
        send_buffer=send_buffer or SendBuffer(),
        handlers=Handlers(check_message_objects(message_objects), enc_hook=enc_hook, dec_hook=dec_hook),
        random=random,
    )
    if on_state is not None:
        check_function(on_state, "connect(on_state=)", ("line", "change"), may_be_async=False)
        host.on_state = on_state
    if on_session_lost is not None:
        check_function(
            on_session_lost, "connect(on_session_lost=)", ("line", "unconfirmed"), may_be_async=False
        )
        host.on_session_lost = on_session_lost
    return Connector(host)


_ARGUMENTS: Final[Expected] = {
    "identity": (str, "text"),
    "connect_timeout_s": ((int, float), "seconds, or None to wait without a limit"),
    "backoff": (Backoff, "a landline.Backoff, such as Backoff(first_s=0.5, cap_s=30)"),
    "limits": (Limits, "a landline.Limits"),
    "send_buffer": (SendBuffer, "a landline.SendBuffer"),
    "options": (TransportOptions, "a landline.TransportOptions"),
    "stagger_s": ((int, float), "seconds"),
}


def _parse_urls(urls: str | Sequence[str]) -> list[AnyEndpoint]:
    endpoints = [parse_endpoint(url) for url in url_list(urls, "connect")]
    for endpoint in endpoints:
        if isinstance(endpoint, Endpoint):
            check_carries_lines(endpoint)
    return endpoints


def _check_times(stagger_s: float | None, connect_timeout_s: float | None) -> None:
    if stagger_s is not None and not STAGGER_S_MIN <= stagger_s <= STAGGER_S_MAX:
        raise ConfigurationError(
            f"connect(stagger_s={stagger_s:g}): it must be {STAGGER_S_MIN:g} to {STAGGER_S_MAX:g} seconds"
        )
    if connect_timeout_s is not None and not connect_timeout_s > 0:
        raise ConfigurationError(
            f"connect(connect_timeout_s={connect_timeout_s:g}): it must be more than 0 seconds, or None to wait "
            "without a limit"
        )
