"""The host of a server's lines: their shared resources, their ends, and the orderly close of the server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from threading import get_ident
from typing import Any, Final

import msgspec

from landline.codes import Code
from landline.errors import BufferFull, LineClosed, MessageTooLarge, Unconfirmed
from landline.files.exchange import FileExchange
from landline.line.flow_control import OverflowPolicy
from landline.line.handlers import Handlers, call_back
from landline.line.line import DRAIN_TIMEOUT_S, Line, StateCallback, driver_of, drivers_of
from landline.line.line_state import DisconnectCause, LineState, StateChange
from landline.runtime.flush_queue import FlushQueue
from landline.runtime.guarded_log import guarded_logger
from landline.runtime.loop_thread import check_thread
from landline.runtime.timer_wheel import TimerWheel
from landline.runtime.turns import Turns, turns_of
from landline.server.acceptor import Acceptor
from landline.server.groups import BroadcastResult, Groups, check_broadcast_policy
from landline.server.identity_tracker import IdentityTracker
from landline.server.listeners import Listeners
from landline.server.memory_limit import MemoryLimiter
from landline.server.settings import ServerSettings
from landline.session.events import Ended
from landline.transports.base import Listener, ProtocolFactory, load_transport
from landline.transports.linger import TransportCloser
from landline.transports.options import TransportOptions
from landline.transports.urls import Endpoint
from landline.udp_calls import CallCounts
from landline.udp_calls.scheme import load_call_module

logger: Final = guarded_logger("landline")

CLOSE_STEP_S: Final = 0.05
"""The interval between the groups of lines that a server closes one after the other."""

LineFunction = Callable[[Line], Coroutine[Any, Any, None]]
LostCallback = Callable[[Line, tuple[Unconfirmed, ...]], None]


class Goodbye(msgspec.Struct, frozen=True, kw_only=True):
    """The BYE of a server that closes; see :meth:`landline.Server.close`."""

    code: Code = Code.GOING_AWAY
    reason: str = "the server stops"
    retry_after_s: float | None = None
    spread_s: float = 0.0
    alternatives: tuple[str, ...] = ()


class ServerHost:
    """The host of a server's lines; see :class:`landline.line.interfaces.LineHost`."""

    continues_lines = False

    def __init__(self, settings: ServerSettings, handlers: Handlers) -> None:
        self.settings = settings
        self.handlers = handlers
        self.files: FileExchange = FileExchange(handlers)
        self.lines: dict[bytes, Line] = {}
        """The lines that are not closed, by session id."""
        self.messages_dropped = 0
        self.lines_too_slow: int = 0
        self.call_counts: CallCounts = CallCounts()
        self.on_line: LineFunction | None = None
        self.on_state: StateCallback | None = None
        self.on_session_lost: LostCallback | None = None
        self.identities: IdentityTracker | None = None
        self.loop: asyncio.AbstractEventLoop
        self.thread: int = 0  # Set when the server starts.
        self.wheel: TimerWheel
        self.flush_queue: FlushQueue
        self.closer: TransportCloser
        self.turns: Turns
        self.acceptor: Acceptor = Acceptor(self, self.lines, self._start_line_function, settings)
        self.listeners: Listeners = Listeners(self._open_listener, self.close)
        self.memory: MemoryLimiter = MemoryLimiter(settings.memory_bytes, self.lines)
        self.groups: Groups = Groups(
            self.broadcast, handlers.encode, lambda method: check_thread(self.thread, method)
        )
        self._datagrams_dropped = 0  # On closed lines.
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False
        # Done when the server is closed; None before it starts.
        self._closed: asyncio.Future[None] | None = None

    # Interface for lines

    def line_changed(self, line: Line, change: StateChange) -> None:
        if change.state is LineState.CLOSED:
            self._datagrams_dropped += line.datagrams_dropped
            self.lines.pop(line.session_id, None)
            self.groups.line_closed(line)
        if self.identities is not None:
            self.identities._line_changed(line, change)
        if self.on_state is not None:
            call_back(self.on_state, line, change)

    def line_detached(self, line: Line, cause: DisconnectCause, detail: str) -> None:
        driver_of(line).change(StateChange(state=LineState.RECONNECTING, cause=cause, detail=detail))
        if line.state is not LineState.CLOSED:
            driver_of(line).expire_at(self.wheel.time() + self.settings.resume_window_s)

    def line_ended(self, line: Line, ended: Ended) -> None:
        cause = DisconnectCause.CLOSED_BY_PEER if ended.by_peer else DisconnectCause.PROTOCOL_ERROR
        self._end_line(line, cause, ended.reason or ended.code.name.lower().replace("_", " "), ended.code)

    def line_too_slow(self, line: Line, detail: str) -> None:
        self.lines_too_slow += 1
        self._end_line(line, DisconnectCause.TOO_SLOW, detail, Code.TOO_SLOW)

    def line_expired(self, line: Line) -> None:
        before = line.last_change
        detail = f"not resumed within {self.settings.resume_window_s:g} s"
        if before is not None and before.detail:
            detail = f"{before.detail}; {detail}"
        self._end_line(line, DisconnectCause.EXPIRED, detail, None)

    async def wait_closed(self, line: Line) -> None:
        """Return at once: nothing of a server ends with one of its lines."""

    # Start

    def start(self) -> ProtocolFactory:
        """Start in the running event loop, unless it has started; return the factory of accepted transports' protocols.

        :raises RuntimeError: while the server closes.
        """
        if self._is_closing:
            raise RuntimeError("the server is closing; it can listen again when close() has returned")
        loop = asyncio.get_running_loop()
        is_running = self._closed is not None and not self._closed.done()
        if is_running and self.loop is not loop and (self.listeners.opened or self.lines):
            raise RuntimeError("a server belongs to the event loop in which it listens")
        if not is_running or self.loop is not loop:
            self.loop = loop
            self.thread = get_ident()
            self.wheel = TimerWheel(self.loop, self.settings.clock)
            self.flush_queue = FlushQueue(self.loop)
            self.closer = TransportCloser(self.loop)
            self.turns = turns_of(self.loop, self.settings.clock)
            self.memory.start(self.wheel)
            self.acceptor.open()
            self._closed = self.loop.create_future()
        return self.acceptor.make_link

    def add_listener(self, listener: Listener) -> ProtocolFactory:
        """Add a listener for transports that are made elsewhere; return the factory of their protocols.

        The server closes the listener with its own.
        """
        protocol_factory = self.start()
        self.listeners.add(listener)
        return protocol_factory

    async def _open_listener(self, endpoint: Endpoint, options: TransportOptions) -> Listener:
        protocol_factory = self.start()
        if not endpoint.is_connectionless:
            return await load_transport(endpoint).listen(endpoint, protocol_factory, options)
        return await load_call_module(endpoint).listen(
            endpoint,
            handlers=self.handlers,
            auth=self.settings.auth,
            random=self.settings.random,
            clock=self.settings.clock,
            counts=self.call_counts,
            tasks=self._tasks,
        )

    def track_identities(self) -> IdentityTracker:
        """Return the identity tracker; make it when it is first needed."""
        if self.identities is None:
            self.identities = IdentityTracker(self.settings.clock, self.settings.remembered_identities)
            for line in self.lines.values():
                if line.last_change is not None:
                    self.identities._line_changed(line, line.last_change)
        return self.identities

    @property
    def datagrams_dropped(self) -> int:
        return self._datagrams_dropped + sum(line.datagrams_dropped for line in self.lines.values())

    def _start_line_function(self, line: Line) -> None:
        function = self.on_line
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

    # Broadcast

    def broadcast(
        self,
        lines: Sequence[Line],
        value: Any,
        name: str,
        is_bulk: bool,
        overflow: OverflowPolicy,
        max_pending: int | None,
    ) -> BroadcastResult:
        """Send one message to the lines, encoded once; see :meth:`landline.Server.broadcast`."""
        check_broadcast_policy(overflow, max_pending)
        body, is_packed = self.handlers.encode(value)
        encoded_name = name.encode()
        sent = skipped = disconnected = dropped = 0
        turn, now = (self.flush_queue.turn(), self.wheel.time()) if lines else (0, 0.0)
        for driver in drivers_of(lines):
            try:
                dropped += driver.send_encoded(
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
                driver.apply_overflow(overflow)
                if overflow is OverflowPolicy.DISCONNECT:
                    disconnected += 1
                else:
                    skipped += 1
            except (LineClosed, MessageTooLarge):
                skipped += 1
        self.memory.grow(sent, len(encoded_name) + len(body))
        return BroadcastResult(sent, skipped, disconnected, dropped)

    # End of a line

    def _end_line(self, line: Line, cause: DisconnectCause, detail: str, code: Code | None) -> None:
        lost = driver_of(line).discard_session(detail)
        is_in_order = code is Code.NORMAL and cause is DisconnectCause.CLOSED_BY_PEER
        error = None if is_in_order else LineClosed(detail, code)
        driver_of(line).finish(
            StateChange(state=LineState.CLOSED, cause=cause, detail=detail, code=code), error
        )
        self._report_lost(line, lost)

    def _report_lost(self, line: Line, lost: tuple[Unconfirmed, ...]) -> None:
        if not lost:
            return
        if self.on_session_lost is not None:
            call_back(self.on_session_lost, line, lost)
        else:
            logger.warning("%r ended with %d messages unconfirmed", line, len(lost))

    # Close

    async def wait_until_closed(self) -> None:
        """Return when the server is closed. Raise :class:`RuntimeError` if it does not listen."""
        if self._closed is None or self._closed.done():
            raise RuntimeError(
                "serve_forever() needs a server that listens; enter or await server.listen() first"
            )
        await asyncio.shield(self._closed)

    async def close(
        self,
        goodbye: Goodbye | None = None,
        *,
        over_s: float = 0.0,
        drain_timeout_s: float | None = DRAIN_TIMEOUT_S,
    ) -> None:
        """See :meth:`landline.Server.close`."""
        goodbye = goodbye or Goodbye()
        closed = self._closed
        if closed is None or self._is_closing:
            # Never started, closed already, or closing: then return together with the other call.
            if closed is not None:
                await asyncio.shield(closed)
            return
        self._is_closing = True
        self.listeners.close_all()
        self.acceptor.close(
            goodbye.code, goodbye.reason, retry_after_s=goodbye.retry_after_s, spread_s=goodbye.spread_s
        )
        lines = list(self.lines.values())
        is_in_order = False
        try:
            # First, so that no client finds a server that is closing.
            await self.listeners.withdraw()
            await self._close_paced(lines, goodbye, over_s, drain_timeout_s)
            is_in_order = True
        finally:
            for line in lines:
                self._say_goodbye(line, goodbye)
            # The task of a line may itself close the server.
            tasks = self._tasks - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            try:
                if tasks:
                    await asyncio.wait(tasks)
                if is_in_order:
                    await self.closer.wait()
                    await self.listeners.wait_closed()
            finally:
                self.wheel.close()
                self._is_closing = False
                if not closed.done():
                    closed.set_result(None)

    async def _close_paced(
        self, lines: Sequence[Line], goodbye: Goodbye, over_s: float, drain_timeout_s: float | None
    ) -> None:
        """Drain and close the lines in groups, so that it takes ``over_s`` seconds in all."""
        steps = max(1, math.ceil(over_s / CLOSE_STEP_S))
        per_step = max(1, math.ceil(len(lines) / steps))

        async def drain_and_close(group: Sequence[Line]) -> None:
            attached = [line for line in group if driver_of(line).is_attached]
            drained = await asyncio.gather(*(line.drain(drain_timeout_s) for line in attached))
            if not all(drained):
                logger.warning("closing with messages still unconfirmed after %s s", drain_timeout_s)
            for line in group:
                self._say_goodbye(line, goodbye)

        async with asyncio.TaskGroup() as closing:
            for start in range(0, len(lines), per_step):
                if start:
                    await asyncio.sleep(over_s / steps)
                closing.create_task(drain_and_close(lines[start : start + per_step]))

    def _say_goodbye(self, line: Line, goodbye: Goodbye) -> None:
        lost = line.abort(
            goodbye.code,
            goodbye.reason,
            retry_after_s=goodbye.retry_after_s,
            spread_s=goodbye.spread_s,
            alternatives=goodbye.alternatives,
        )
        self._report_lost(line, lost)
