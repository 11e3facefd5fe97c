"""The server's side: listen, answer, broadcast, and close in order."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Coroutine, Sequence
from random import SystemRandom
from threading import get_ident
from time import monotonic
from typing import Any, Final

from landline.codes import Code
from landline.discovery.records import check_announceable
from landline.errors import BufferFull, ConfigurationError, LineClosed, MessageTooLarge, Unconfirmed
from landline.files.exchange import FileExchange
from landline.files.incoming_file import AcceptFunction, ProgressFunction, ReceivedFunctionType
from landline.files.limits import FileLimits
from landline.line.codec import DecHook, EncHook
from landline.line.decoded_size import MESSAGE_OBJECTS, check_message_objects
from landline.line.flow_control import OverflowPolicy
from landline.line.handlers import Function, Handlers, TakesDatagrams
from landline.line.line import Line, StateCallback, call_back
from landline.line.line_state import DisconnectCause, LineState, StateChange
from landline.line.writer import DRAIN_TIMEOUT_S
from landline.runtime.flush_queue import FlushQueue
from landline.runtime.guarded_log import guarded_logger
from landline.runtime.loop_thread import check_thread
from landline.runtime.timer_wheel import TimerWheel
from landline.runtime.turns import Turns, turns_of
from landline.server.acceptor import Acceptor
from landline.server.admission import Admission
from landline.server.groups import BroadcastResult, Group, Groups, broadcast_datagram, check_broadcast_policy
from landline.server.identity_tracker import REMEMBERED_IDENTITIES, IdentityTracker
from landline.server.listeners import Listeners, Listening
from landline.server.memory_limit import MEMORY_BYTES, MEMORY_BYTES_MIN, MemoryLimiter
from landline.session.auth import ServerAuth, server_auth
from landline.session.events import Ended
from landline.session.handshake import Limits, RandomSource
from landline.session.heartbeat import Heartbeat
from landline.session.outbound import SendBuffer
from landline.signatures import Expected, check_arguments, check_function, check_type
from landline.transports.base import Listener, ProtocolFactory, load_transport
from landline.transports.linger import TransportCloser
from landline.transports.options import TransportOptions, check_server_options
from landline.transports.urls import Endpoint, parse_url
from landline.udp_calls import CallCounts
from landline.udp_calls.scheme import load_call_module

logger = guarded_logger("landline")

MAX_LINES: Final = 100_000
RESUME_WINDOW_S: Final = 120.0
GOODBYE_TURN_S: Final = 0.05
"""How often a server that closes over some time ends some of its lines."""

LineFunction = Callable[[Line], Coroutine[Any, Any, None]]
LostCallback = Callable[[Line, tuple[Unconfirmed, ...]], None]


class Server(TakesDatagrams):
    """Holds lines from many clients. Create it, register handlers, listen.

    :param auth: checks who connects, such as :class:`landline.SharedToken`; by default nobody is asked.
    :param heartbeat: the timing dictated to clients: a dead peer is noticed within ``interval_s + timeout_s``.
    :param max_lines: sessions kept at once, connected or resumable; one more client is told to come back later.
    :param resume_window_s: seconds a session is kept after its transport was lost.
    :param limits: what one client may make this server hold.
    :param send_buffer: how much is kept for one client before senders wait.
    :param admission: how many connections are taken in each second; one more is told when to come back.
    :param remembered_identities: of how many identities that are gone :attr:`identities` remembers the last status.
    :param enc_hook: called as ``enc_hook(value)`` for a value msgspec does not know; returns one it does.
    :param dec_hook: called as ``dec_hook(type, value)`` where a type msgspec does not know is asked for; returns a
        value of it, or raises :class:`ValueError` for what does not fit.
    :param clock: the clock of all deadlines, in seconds that only go forward; a simulation gives its own.
    :param random: where ids, secrets and jitter come from; a simulation gives a seeded one.
    :param memory_bytes: how much all sessions together may hold, in both directions, connected or not. Looked at once a
        second; above it, the lines that hold the most are ended with the code ``TOO_SLOW`` until it fits.
    :param message_objects: how many objects the body of one message may become in memory (see
        :mod:`landline.line.decoded_size`);
        one with more is not decoded, and a request answered with the error ``bad_request``.
    :raises ConfigurationError: when an argument makes no sense.
    """

    continues_lines = False
    """A line ends with its session; see :class:`landline.line.writer.LineResources`."""

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
        _check(max_lines, resume_window_s, memory_bytes, remembered_identities)
        self.handlers = Handlers(check_message_objects(message_objects), enc_hook=enc_hook, dec_hook=dec_hook)
        self.messages_dropped = 0
        self.files = FileExchange(self.handlers)
        """Messages dropped for want of room in send buffers, of all lines since the start, closed ones included."""
        self.lines_too_slow = 0
        """Lines ended with the code ``TOO_SLOW`` since the start."""
        self._datagrams_dropped = 0  # of closed lines
        self.call_counts = CallCounts()
        """What became of the datagrams that ``udp://`` listeners received."""
        self.loop: asyncio.AbstractEventLoop
        self.thread = 0  # Until it begins.
        self.wheel: TimerWheel
        self.flush_queue: FlushQueue
        self.closer: TransportCloser
        self.turns: Turns
        self._auth = server_auth(auth)
        self._resume_window_s = resume_window_s
        self._clock = clock
        self._random: RandomSource = random or SystemRandom()
        self._sessions: dict[bytes, Line] = {}
        self._acceptor = Acceptor(
            self,
            self._sessions,
            self._line_begun,
            auth=self._auth,
            heartbeat=heartbeat or Heartbeat(),
            max_lines=max_lines,
            resume_window_s=resume_window_s,
            limits=limits or Limits(),
            send_buffer=send_buffer or SendBuffer(),
            admission=admission or Admission(),
            name=name,
            random=self._random,
        )
        self._listeners = Listeners(self._open_listener, self.close)
        self._memory = MemoryLimiter(memory_bytes, self._sessions)
        self._groups = Groups(
            self._broadcast, self.handlers.encode, lambda method: check_thread(self.thread, method)
        )
        self._identities: IdentityTracker | None = None
        self._remembered_identities = remembered_identities
        self._tasks: set[asyncio.Task[None]] = set()
        self._line_function: LineFunction | None = None
        self._state_callback: StateCallback | None = None
        self._lost_callback: LostCallback | None = None
        self._closing = False
        self._closed: asyncio.Future[None] | None = None

    # What it answers.

    def on(self, name: str, body_type: Any = Any) -> Callable[[Function], Function]:
        """Registers ``function(line, body)`` for requests and messages called ``name``.

        A coroutine function runs as a task of its own for each request (64 at once for one line), and one after
        the other for messages. A plain function is called inside the event loop, at once, and must not block; it is
        several times faster. What it returns is the answer; :class:`landline.RequestError` raised in it answers with
        that error, any other exception is logged and answered with a general one. To a call over ``udp://`` the line is
        a :class:`landline.CallPeer`.
        """
        return self.handlers.on(name, body_type)

    def on_message(self, function: Function) -> Function:
        """Registers ``function(line, message)`` for messages without a name, instead of ``async for`` on the line."""
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
        return self.files.on_file(
            directory, to=to, limits=limits, accept=accept, progress=progress, overwrite=overwrite
        )

    def on_line(self, function: LineFunction) -> LineFunction:
        """Runs ``await function(line)`` as a task for every new line.

        A line that closes ends or fails what the task waits for on it, and leaves it to finish what it has read;
        the server's close cancels it.
        """
        check_function(function, "the function of Server.on_line()", ("line",), must_be_async=True)
        self._line_function = function
        return function

    def on_state(self, callback: StateCallback) -> StateCallback:
        """Calls ``callback(line, change)`` on every change of state of every line."""
        check_function(callback, "the callback of Server.on_state()", ("line", "change"), may_be_async=False)
        self._state_callback = callback
        return callback

    def on_session_lost(self, callback: LostCallback) -> LostCallback:
        """Calls ``callback(line, unconfirmed)`` when a session ends with messages to it unconfirmed.

        Without it, that is logged as a warning.
        """
        check_function(
            callback, "the callback of Server.on_session_lost()", ("line", "unconfirmed"), may_be_async=False
        )
        self._lost_callback = callback
        return callback

    # Where it listens.

    def listen(
        self, url: str, *, options: TransportOptions | None = None, announce: str | None = None
    ) -> Listening:
        """Listens while the returned context is entered: ``async with server.listen(url) as endpoint``.

        With ``announce`` the server is announced on the local network by that name (multicast DNS), for clients that
        connect to ``mdns://name``, until it closes; entering then takes a second longer. Anybody there can hear it.

        Leaving the last one closes the server in order. Entering raises :class:`landline.AddressInUse` when the
        address or the announced name is taken, :class:`landline.AnnounceFailed` when it cannot be announced (without a
        network, say), :class:`OSError` for other troubles.

        :raises ConfigurationError: when the URL makes no sense or cannot be announced, and for ``options`` that do not
            apply to it or name a file that cannot be used.
        """
        check_type("listen(url)", url, str, "the URL of an address as text, such as 'tcp://127.0.0.1:5463'")
        endpoint = parse_url(url)
        check_type("listen(options=)", options, TransportOptions, "a landline.TransportOptions")
        name = None if announce is None else check_announceable(endpoint, announce)
        options = options or TransportOptions()
        check_server_options(options, url, endpoint.scheme)
        return Listening(self._listeners, endpoint, options, name)

    def add_listener(self, listener: Listener) -> ProtocolFactory:
        """For those who bring transports of their own, as :func:`landline.asgi` does.

        Returns what makes the protocol of each. The server closes the listener with its own.
        """
        protocol_factory = self._begin()
        self._listeners.add(listener)
        return protocol_factory

    async def serve_forever(self) -> None:
        """Returns when the server was closed. Cancelling it (Ctrl-C does) leaves the listening to be closed."""
        if self._closed is None:
            raise RuntimeError("serve_forever() is for a server that listens")
        await asyncio.shield(self._closed)

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
        """Stops listening, lets every line drain (``timeout`` seconds at most), and says goodbye.

        With ``over_s`` the goodbyes are spread evenly over so many seconds, and lines not yet ended go on meanwhile.
        Returns when the goodbyes have arrived: when each peer has closed its end, or 3 s later.
        Clients come back if ``code`` says so, after ``retry_after_s`` and a random part of ``spread_s``, and try the
        URLs of ``alternatives`` (16 at most, 500 characters each) before those they know. Messages
        that stay unconfirmed are reported as :meth:`on_session_lost` says. Cancelling closes at once.
        """
        if self._closing:
            if self._closed is not None:
                await asyncio.shield(self._closed)
            return
        self._closing = True
        self._listeners.close_all()
        self._acceptor.close(code, reason, retry_after_s=retry_after_s, spread_s=spread_s)
        lines = list(self._sessions.values())

        def end(line: Line) -> None:
            lost = line.abort(
                code,
                reason,
                retry_after_s=retry_after_s,
                spread_s=spread_s,
                alternatives=tuple(alternatives),
            )
            self._report_lost(line, lost)

        is_in_order = False
        try:
            # First, so that nobody finds a server that goes.
            await self._listeners.withdraw()
            await self._end_paced(lines, end, over_s, timeout)
            is_in_order = True
        finally:
            for line in lines:
                end(line)
            # The function of a line may itself be what closes the server.
            tasks = self._tasks - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            try:
                if tasks:
                    await asyncio.wait(tasks)
                if is_in_order and hasattr(self, "closer"):
                    await self.closer.wait()
            finally:
                if hasattr(self, "wheel"):
                    self.wheel.close()
                if self._closed is not None and not self._closed.done():
                    self._closed.set_result(None)

    # Who is there.

    @property
    def name(self) -> str:
        """What the server calls itself in its CHALLENGE."""
        return self._acceptor.name

    @property
    def connections_refused(self) -> int:
        """How many connections were told to come back later, because too many came at once."""
        return self._acceptor.refused

    @property
    def lines(self) -> list[Line]:
        """Every line that is not closed: online, suspect, or waiting to be resumed."""
        return list(self._sessions.values())

    def group(
        self, name: str, *, overflow: OverflowPolicy | None = None, max_pending: int | None = None
    ) -> Group:
        """The group of that name; it is made when first asked for, and stays.

        ``overflow`` (``DROP_NEWEST`` if left out) and ``max_pending`` are the policy of its broadcasts, as in
        :meth:`broadcast`. They are said when it is made; to say the same again does no harm.

        :raises ConfigurationError: for another policy than the group was made with, and for an impossible one.
        """
        return self._groups.get(name, overflow, max_pending)

    @property
    def identities(self) -> IdentityTracker:
        """Who is there, by identity. It is kept from the first time it is asked for, so ask for it before listening:
        what happened before is not known to it, and lines that are there count as having come just then.
        """
        if self._identities is None:
            self._identities = IdentityTracker(self._clock, self._remembered_identities)
            for line in self._sessions.values():
                if line.last_change is not None:
                    self._identities._line_changed(line, line.last_change)
        return self._identities

    @property
    def memory_held_bytes(self) -> int:
        """What all sessions hold together just now, counted anew: about 0.2 µs a line."""
        return self._memory.held_bytes

    def broadcast(
        self,
        value: Any,
        *,
        name: str = "",
        bulk: bool = False,
        overflow: OverflowPolicy = OverflowPolicy.DROP_NEWEST,
        max_pending: int | None = None,
    ) -> BroadcastResult:
        """Sends one message to every line, encoded once, without waiting for any.

        Lines waiting to be resumed get it when they are. What becomes of it where the send buffer has no room is
        for ``overflow`` to say, and ``max_pending`` as in :meth:`Line.send`; :class:`ConfigurationError` for ``WAIT``.
        """
        check_thread(self.thread, "server.broadcast")
        return self._broadcast(list(self._sessions.values()), value, name, bulk, overflow, max_pending)

    def broadcast_datagram(self, value: Any, *, name: str = "") -> BroadcastResult:
        """Sends one datagram to every line, encoded once; see :meth:`Line.send_datagram`.

        :raises MessageTooLarge: above 1,200 bytes with name and 2 bytes of header; then nothing was sent.
        """
        check_thread(self.thread, "server.broadcast_datagram")
        return broadcast_datagram(list(self._sessions.values()), value, name, self.handlers.encode)

    @property
    def datagrams_dropped(self) -> int:
        """Datagrams to clients that were not sent, of all lines since the start, closed ones included."""
        return self._datagrams_dropped + sum(line.datagrams_dropped for line in self._sessions.values())

    # For lines.

    def line_changed(self, line: Line, change: StateChange) -> None:
        if change.state is LineState.CLOSED:
            self._datagrams_dropped += line.datagrams_dropped
            self._sessions.pop(line.session_id, None)
            self._groups.line_closed(line)
        if self._identities is not None:
            self._identities._line_changed(line, change)
        if self._state_callback is not None:
            call_back(self._state_callback, line, change)

    def line_detached(self, line: Line, cause: DisconnectCause, detail: str) -> None:
        line.change(StateChange(state=LineState.RECONNECTING, cause=cause, detail=detail))
        if line.state is not LineState.CLOSED:
            line.expire_at(self.wheel.time() + self._resume_window_s)

    def line_ended(self, line: Line, ended: Ended) -> None:
        cause = DisconnectCause.CLOSED_BY_PEER if ended.by_peer else DisconnectCause.PROTOCOL_ERROR
        self._end_line(line, cause, ended.reason or ended.code.name.lower().replace("_", " "), ended.code)

    def line_too_slow(self, line: Line, detail: str) -> None:
        self.lines_too_slow += 1
        self._end_line(line, DisconnectCause.TOO_SLOW, detail, Code.TOO_SLOW)

    def line_expired(self, line: Line) -> None:
        before = line.last_change
        detail = f"not resumed within {self._resume_window_s:g} s"
        if before is not None and before.detail:
            detail = f"{before.detail}; {detail}"
        self._end_line(line, DisconnectCause.EXPIRED, detail, None)

    async def wait_closed(self, line: Line) -> None:
        """Nothing of a server ends with one of its lines."""

    # Inside.

    async def _open_listener(self, endpoint: Endpoint, options: TransportOptions) -> Listener:
        protocol_factory = self._begin()
        if not endpoint.is_connectionless:
            return await load_transport(endpoint).listen(endpoint, protocol_factory, options)
        return await load_call_module(endpoint).listen(
            endpoint,
            handlers=self.handlers,
            auth=self._auth,
            random=self._random,
            clock=self._clock,
            counts=self.call_counts,
            tasks=self._tasks,
        )

    def _begin(self) -> ProtocolFactory:
        if self._closing:
            raise RuntimeError("a closed server cannot listen again; make a new one")
        if not self._listeners.opened:
            self.loop = asyncio.get_running_loop()
            self.thread = get_ident()
            self.wheel = TimerWheel(self.loop, self._clock)
            self.flush_queue = FlushQueue(self.loop)
            self.closer = TransportCloser(self.loop)
            self.turns = turns_of(self.loop, self._clock)
            self._memory.start(self.wheel)
            self._closed = self.loop.create_future()
        return self._acceptor.make_link

    def _broadcast(
        self,
        lines: list[Line],
        value: Any,
        name: str,
        is_bulk: bool,
        overflow: OverflowPolicy,
        max_pending: int | None,
    ) -> BroadcastResult:
        check_broadcast_policy(overflow, max_pending)
        body, is_packed = self.handlers.encode(value)
        encoded_name = name.encode()
        sent = skipped = disconnected = dropped = 0
        turn, now = (self.flush_queue.turn(), self.wheel.time()) if lines else (0, 0.0)
        for line in lines:
            try:
                dropped += line.send_encoded(
                    encoded_name,
                    body,
                    is_packed=is_packed,
                    is_bulk=is_bulk,
                    overflow=overflow,
                    max_pending=max_pending,
                    turn=turn,
                    now=now,
                )
                sent += 1
            except BufferFull:
                line.receive_full(overflow)
                if overflow is OverflowPolicy.DISCONNECT:
                    disconnected += 1
                else:
                    skipped += 1
            except (LineClosed, MessageTooLarge):
                skipped += 1
        self._memory.grow(sent, len(encoded_name) + len(body))
        return BroadcastResult(sent, skipped, disconnected, dropped)

    def _end_line(self, line: Line, cause: DisconnectCause, detail: str, code: Code | None) -> None:
        lost = line.discard_session(detail)
        error = (
            None
            if code is Code.NORMAL and cause is DisconnectCause.CLOSED_BY_PEER
            else LineClosed(detail, code)
        )
        line.finish(StateChange(state=LineState.CLOSED, cause=cause, detail=detail, code=code), error)
        self._report_lost(line, lost)

    def _report_lost(self, line: Line, lost: tuple[Unconfirmed, ...]) -> None:
        if not lost:
            return
        if self._lost_callback is not None:
            call_back(self._lost_callback, line, lost)
        else:
            logger.warning("%r ended with %d messages unconfirmed", line, len(lost))

    def _line_begun(self, line: Line) -> None:
        function = self._line_function
        if function is None:
            return

        async def run() -> None:
            try:
                await function(line)
            except LineClosed as error:
                logger.info("%r: %s", line, error)
            except Exception:
                logger.exception("the function for %r failed", line)
                line.abort(Code.GOING_AWAY, "the server failed")

        task = self.loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_paced(
        self, lines: list[Line], end: Callable[[Line], None], over_s: float, timeout: float | None
    ) -> None:
        """Drains and ends the lines, so many in each turn that it takes ``over_s`` seconds in all."""
        turns = max(1, math.ceil(over_s / GOODBYE_TURN_S))
        per_turn = max(1, math.ceil(len(lines) / turns))

        async def drain_and_end(some: list[Line]) -> None:
            attached = [line for line in some if line.session is not None and line.session.is_attached]
            drained = await asyncio.gather(*(line.drain(timeout) for line in attached))
            if not all(drained):
                logger.warning("closing with messages still unconfirmed after %s s", timeout)
            for line in some:
                end(line)

        async with asyncio.TaskGroup() as ending:
            for start in range(0, len(lines), per_turn):
                if start:
                    await asyncio.sleep(over_s / turns)
                ending.create_task(drain_and_end(lines[start : start + per_turn]))


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


def _check(max_lines: int, resume_window_s: float, memory_bytes: int, remembered_identities: int) -> None:
    if max_lines < 1:
        raise ConfigurationError(f"Server(max_lines={max_lines}): at least one line is needed")
    if not 0 <= resume_window_s <= 86_400:
        raise ConfigurationError(
            f"Server(resume_window_s={resume_window_s:g}): 0 to 86400 seconds are possible"
        )
    if memory_bytes < MEMORY_BYTES_MIN:
        raise ConfigurationError(
            f"Server(memory_bytes={memory_bytes}): {MEMORY_BYTES_MIN} are the least that makes sense"
        )
    if remembered_identities < 0:
        raise ConfigurationError(
            f"Server(remembered_identities={remembered_identities}): 0 remembers nobody, fewer cannot be"
        )
