"""``Server``: listen, register handlers, broadcast, and close in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from random import SystemRandom
from time import monotonic
from typing import Any, Final, TypeVar, overload

from landline.codes import Code
from landline.discovery.records import check_announceable
from landline.files.incoming_file import AcceptFunction, ProgressFunction, ReceivedFunctionType
from landline.files.limits import FileLimits
from landline.line.codec import DecHook, EncHook
from landline.line.decoded_size import MESSAGE_OBJECTS, check_message_objects
from landline.line.flow_control import OverflowPolicy
from landline.line.handlers import Body, Function, HandlerDecorator, Handlers
from landline.line.line import DRAIN_TIMEOUT_S, Line, StateCallback
from landline.runtime.loop_thread import check_thread
from landline.server.admission import Admission
from landline.server.groups import BroadcastResult, Group, broadcast_datagram
from landline.server.identity_tracker import REMEMBERED_IDENTITIES, IdentityTracker
from landline.server.listeners import Listening
from landline.server.memory_limit import MEMORY_BYTES
from landline.server.server_host import Goodbye, LineFunction, LostCallback, ServerHost
from landline.server.settings import ServerSettings
from landline.session.auth import ServerAuth, server_auth
from landline.session.handshake import RandomSource
from landline.session.settings import Heartbeat, Limits, SendBuffer
from landline.signatures import Expected, check_arguments, check_function, check_type
from landline.transports.options import TransportOptions, check_server_options
from landline.transports.urls import parse_url
from landline.udp_calls import CallCounts

MAX_LINES: Final = 100_000
RESUME_WINDOW_S: Final = 120.0

_LineFunction = TypeVar("_LineFunction", bound=LineFunction)
_State = TypeVar("_State", bound=StateCallback)
_Lost = TypeVar("_Lost", bound=LostCallback)


class Server:
    """Serves lines to many clients: create it, register handlers, listen.

    :param auth: checks the identity of clients, such as :class:`landline.SharedToken`; by default all are accepted.
    :param heartbeat: the timing of heartbeats, for both sides: a dead peer is noticed within
        ``interval_s + timeout_s``.
    :param max_lines: the maximum number of sessions, connected or resumable; further clients are asked to return later.
    :param resume_window_s: how many seconds a session is kept after its transport was lost.
    :param limits: how much one client may make this server buffer.
    :param send_buffer: how much is buffered for one client before senders wait.
    :param memory_bytes: how much all sessions together may hold, in both directions, connected or not. It is checked
        once a second; above it, the lines that hold the most are ended with the code ``TOO_SLOW`` until it fits.
    :param message_objects: how many objects the body of one message may become in memory (see
        :mod:`landline.line.decoded_size`). A larger body is not decoded, and a request is answered with the error
        ``bad_request``.
    :param admission: how many connections are accepted per second; further clients are asked to return later.
    :param remembered_identities: for how many disconnected identities :attr:`identities` remembers the last status.
    :param name: the server's name, which clients read before they authenticate.
    :param enc_hook: called as ``enc_hook(value)`` for a value msgspec does not know; returns one it does.
    :param dec_hook: called as ``dec_hook(type, value)`` for a type msgspec does not know; returns a value of that type,
        or raises :class:`ValueError` for an invalid one.
    :param clock: the clock of all deadlines, in seconds, monotonic; a simulation passes its own.
    :param random: the source of ids, secrets and jitter; a simulation passes a seeded one.
    :raises ConfigurationError: when an argument is wrong.
    """

    def __init__(
        self,
        *,
        auth: ServerAuth | None = None,
        heartbeat: Heartbeat | None = None,
        max_lines: int = MAX_LINES,
        resume_window_s: float = RESUME_WINDOW_S,
        limits: Limits | None = None,
        send_buffer: SendBuffer | None = None,
        memory_bytes: int = MEMORY_BYTES,
        message_objects: int = MESSAGE_OBJECTS,
        admission: Admission | None = None,
        remembered_identities: int = REMEMBERED_IDENTITIES,
        name: str = "landline",
        enc_hook: EncHook | None = None,
        dec_hook: DecHook | None = None,
        clock: Callable[[], float] = monotonic,
        random: RandomSource | None = None,
    ) -> None:
        check_arguments("Server", locals(), _ARGUMENTS)
        settings = ServerSettings(
            auth=server_auth(auth),
            heartbeat=heartbeat or Heartbeat(),
            max_lines=max_lines,
            resume_window_s=resume_window_s,
            limits=limits or Limits(),
            send_buffer=send_buffer or SendBuffer(),
            memory_bytes=memory_bytes,
            admission=admission or Admission(),
            remembered_identities=remembered_identities,
            name=name,
            clock=clock,
            random=random or SystemRandom(),
        )
        handlers = Handlers(check_message_objects(message_objects), enc_hook=enc_hook, dec_hook=dec_hook)
        self._host = ServerHost(settings, handlers)

    # Handlers

    @overload
    def on(self, name: str, body_type: type[Body]) -> HandlerDecorator[Body]: ...

    @overload
    def on(self, name: str, body_type: Any = ...) -> Callable[[Function], Function]: ...

    def on(self, name: str, body_type: Any = Any) -> Any:
        """Register ``function(line, body)`` for requests and messages called ``name``.

        A coroutine function runs as its own task for each request (64 at once per line), and for messages one after
        the other. A plain function is called inside the event loop and must not block; it is several times faster.
        Its result is the answer. A :class:`landline.RequestError` raised in it is sent as the answer; any other
        exception is logged, and the answer is the general error ``failed``. For a call over ``udp://`` the first
        argument is a :class:`landline.CallPeer` instead of the line.
        """
        return self._host.handlers.on(name, body_type)

    def on_message(self, function: Function) -> Function:
        """Register ``function(line, message)`` for messages without a name, instead of ``async for`` on the line."""
        return self._host.handlers.on_message(function)

    @overload
    def on_datagram(self, name: Function, /) -> Function: ...

    @overload
    def on_datagram(self, name: str, body_type: type[Body], /) -> HandlerDecorator[Body]: ...

    @overload
    def on_datagram(self, name: str, body_type: Any = ..., /) -> Callable[[Function], Function]: ...

    def on_datagram(self, name: Any, body_type: Any = Any, /) -> Any:
        """Register ``function(line, value)`` for datagrams: ``@on_datagram`` for those without a name, otherwise
        ``@on_datagram("state")`` or ``@on_datagram("state", State)``.

        It is a plain function, called inside the event loop for each datagram in the order of arrival; what it raises
        is logged. Datagrams without a handler, and those that do not fit ``body_type``, are counted in
        :attr:`landline.Line.datagrams_ignored`.

        :raises ConfigurationError: for a name that is taken or longer than 255 bytes, and for a coroutine function.
        """
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
        """Receive files into ``directory`` from now on (``docs/files.md``).

        Used as a decorator, it also registers ``function(file, receipt)``, which is called with the
        :class:`landline.IncomingFile` and its :class:`landline.FileReceipt` once a file is on disk. A coroutine
        function runs as a task.

        :param to: a label: the directory receives the files that are sent with the same ``to``.
        :param limits: limits of size, number and time.
        :param accept: called as ``accept(file)`` before a file is accepted, if it is within the limits; may be a
            coroutine function. It returns ``None`` or another name for the file, or raises
            :class:`landline.FileRefused`.
        :param progress: called as ``progress(file, FileProgress)``, at most about ten times a second for each file.
        :param overwrite: whether a file replaces an existing one of its name; otherwise it is refused.
        :raises ConfigurationError: another directory has the same ``to``, or the directory does not exist or is not
            writable.
        """
        return self._host.files.on_file(
            directory, to=to, limits=limits, accept=accept, progress=progress, overwrite=overwrite
        )

    def on_line(self, function: _LineFunction) -> _LineFunction:
        """Run ``await function(line)`` as a task for every new line.

        When the line closes, whatever the task waits for on it ends or fails; the task itself continues, and may finish
        what it has read. Closing the server cancels it.
        """
        check_function(function, "the function of Server.on_line()", ("line",), must_be_async=True)
        self._host.on_line = function
        return function

    def on_state(self, callback: _State) -> _State:
        """Call ``callback(line, change)`` on every change of state of every line. It replaces an earlier callback."""
        check_function(callback, "the callback of Server.on_state()", ("line", "change"), may_be_async=False)
        self._host.on_state = callback
        return callback

    def on_session_lost(self, callback: _Lost) -> _Lost:
        """Call ``callback(line, unconfirmed)`` when a session ends with messages that the client has not acknowledged.

        Without a callback, a warning is logged.
        """
        check_function(
            callback, "the callback of Server.on_session_lost()", ("line", "unconfirmed"), may_be_async=False
        )
        self._host.on_session_lost = callback
        return callback

    # Lifecycle

    def listen(
        self, url: str, *, options: TransportOptions | None = None, announce: str | None = None
    ) -> Listening:
        """Listen: ``async with server.listen(url) as endpoint``, or ``endpoint = await server.listen(url)``.

        ``async with`` listens until the context is left; leaving the last one closes the server in order. ``await``
        listens until :meth:`close`. Once closed, a server may listen again, also in another event loop.

        With ``announce`` the server is announced on the local network by that name (multicast DNS), for clients that
        connect to ``mdns://name``; listening then starts a second later. Every machine there can receive it.

        Entering or awaiting raises :class:`landline.AddressInUse` when the address or the announced name is taken,
        :class:`landline.AnnounceFailed` when the server cannot be announced (without a network, for example),
        :class:`landline.MissingExtra` when packages are not installed, :class:`OSError` for other problems.

        :raises ConfigurationError: when the URL is invalid or cannot be announced, and for ``options`` that do not
            apply to it or name a file that cannot be used.
        """
        check_type("listen(url)", url, str, "the URL of an address as text, such as 'tcp://127.0.0.1:5463'")
        endpoint = parse_url(url)
        check_type("listen(options=)", options, TransportOptions, "a landline.TransportOptions")
        name = None if announce is None else check_announceable(endpoint, announce)
        options = options or TransportOptions()
        check_server_options(options, url, endpoint.scheme)
        return Listening(self._host.listeners, endpoint, options, name)

    async def serve_forever(self) -> None:
        """Return when the server is closed. Cancelling it (as Ctrl-C does) does not close the server."""
        await self._host.wait_until_closed()

    async def close(
        self,
        *,
        code: Code = Code.GOING_AWAY,
        reason: str = "the server stops",
        retry_after_s: float | None = None,
        spread_s: float = 0.0,
        alternatives: Sequence[str] = (),
        over_s: float = 0.0,
        timeout: float | None = DRAIN_TIMEOUT_S,
    ) -> None:
        """Stop listening, wait until clients have acknowledged everything, and say goodbye to them.

        Return when the goodbyes have arrived: when each peer has closed its end, or 3 s later. Messages that stay
        unacknowledged are reported to :meth:`on_session_lost`. Cancelling closes all lines at once. Idempotent.

        :param code: why; clients return if :attr:`landline.Code.may_return` of it is true.
        :param reason: the same as a sentence.
        :param retry_after_s: after how many seconds clients return; by default their own policy decides.
        :param spread_s: a random part of this many seconds is added to ``retry_after_s``.
        :param alternatives: URLs that clients try first (16 at most, 500 characters each).
        :param over_s: spread the goodbyes evenly over this many seconds; lines not yet closed continue meanwhile.
        :param timeout: how many seconds to wait for acknowledgements at most; ``None`` for no limit.
        """
        goodbye = Goodbye(
            code=code,
            reason=reason,
            retry_after_s=retry_after_s,
            spread_s=spread_s,
            alternatives=tuple(alternatives),
        )
        await self._host.close(goodbye, over_s=over_s, drain_timeout_s=timeout)

    # Lines

    @property
    def lines(self) -> list[Line]:
        """The lines that are not closed: online, suspect, or waiting to be resumed."""
        return list(self._host.lines.values())

    def group(
        self, name: str, *, overflow: OverflowPolicy | None = None, max_pending: int | None = None
    ) -> Group:
        """Return the group of that name; it is made by the first call and stays.

        ``overflow`` (by default ``DROP_NEWEST``) and ``max_pending`` are the policy of its broadcasts, as in
        :meth:`broadcast`. Give them in the first call; repeating the same values later is allowed.

        :raises ConfigurationError: for a policy that differs from the group's, and for an invalid one.
        """
        return self._host.groups.get(name, overflow, max_pending)

    @property
    def identities(self) -> IdentityTracker:
        """The state of each identity. Tracking starts when this is first read, so read it before listening: earlier
        changes are unknown to it, and connected lines count as having connected at that moment.
        """
        return self._host.track_identities()

    def broadcast(
        self,
        value: Any,
        *,
        name: str = "",
        bulk: bool = False,
        overflow: OverflowPolicy = OverflowPolicy.DROP_NEWEST,
        max_pending: int | None = None,
    ) -> BroadcastResult:
        """Send one message to every line, encoded once, without waiting.

        Lines waiting to be resumed get it when they are. ``overflow`` says what happens where the send buffer is full,
        and ``max_pending`` how many messages of this name may wait, as in :meth:`Line.send`.

        :raises ConfigurationError: for ``overflow=WAIT``.
        """
        host = self._host
        check_thread(host.thread, "server.broadcast")
        return host.broadcast(list(host.lines.values()), value, name, bulk, overflow, max_pending)

    def broadcast_datagram(self, value: Any, *, name: str = "") -> BroadcastResult:
        """Send one datagram to every line, encoded once; see :meth:`Line.send_datagram`.

        :raises MessageTooLarge: above 1,200 bytes including the name and a header of 2 bytes; nothing was sent.
        """
        host = self._host
        check_thread(host.thread, "server.broadcast_datagram")
        return broadcast_datagram(list(host.lines.values()), value, name, host.handlers.encode)

    # Properties

    @property
    def name(self) -> str:
        """The server's name, which clients read before they authenticate."""
        return self._host.settings.name

    @property
    def connections_refused(self) -> int:
        """The number of connections refused because of the rate limit, since the server was made."""
        return self._host.acceptor.refused

    @property
    def messages_dropped(self) -> int:
        """The number of messages dropped because send buffers were full, on all lines since the server was made."""
        return self._host.messages_dropped

    @property
    def lines_too_slow(self) -> int:
        """The number of lines ended with the code ``TOO_SLOW`` since the server was made."""
        return self._host.lines_too_slow

    @property
    def memory_held_bytes(self) -> int:
        """The bytes that all sessions hold now; computing it takes about 0.2 µs per line."""
        return self._host.memory.held_bytes

    @property
    def datagrams_dropped(self) -> int:
        """The number of datagrams to clients that were not sent, on all lines since the server was made."""
        return self._host.datagrams_dropped

    @property
    def call_counts(self) -> CallCounts:
        """Counts of the datagrams that ``udp://`` listeners received."""
        return self._host.call_counts


_ARGUMENTS: Final[Expected] = {
    "heartbeat": (Heartbeat, "a landline.Heartbeat, such as Heartbeat(interval_s=10, timeout_s=5)"),
    "max_lines": (int, "a whole number"),
    "resume_window_s": ((int, float), "seconds"),
    "limits": (Limits, "a landline.Limits"),
    "send_buffer": (SendBuffer, "a landline.SendBuffer"),
    "memory_bytes": (int, "a whole number of bytes"),
    "admission": (Admission, "a landline.Admission"),
    "remembered_identities": (int, "a whole number"),
    "name": (str, "text"),
}
