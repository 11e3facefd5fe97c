"""The interfaces between a line, its parts and its host.

:class:`landline.line.driver.LineDriver` owns the parts of a line. They know it by these interfaces only, so that no
module of the package imports one that imports it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, TypeVar

from landline.codes import Operation
from landline.line.file_sender import FileSender
from landline.line.handlers import Handlers
from landline.line.line_state import DisconnectCause, StateChange
from landline.runtime.flush_queue import FlushQueue
from landline.runtime.timer_wheel import TimerWheel
from landline.runtime.turns import Turns
from landline.session.events import Ended, MessageReceived
from landline.session.session import Session
from landline.transports.linger import TransportCloser

LineType = TypeVar("LineType", contravariant=True)


class LineHost(Protocol[LineType]):
    """The server or client that lines belong to: resources they share, and notifications about them."""

    loop: asyncio.AbstractEventLoop
    wheel: TimerWheel
    flush_queue: FlushQueue
    closer: TransportCloser
    thread: int
    """The thread of the loop, as ``threading.get_ident()`` returns it."""
    turns: Turns
    handlers: Handlers
    continues_lines: bool
    """Whether a line whose session has ended may get another one."""
    messages_dropped: int
    """The number of messages dropped on all lines because their send buffers were full."""

    @property
    def files(self) -> FileSender[LineType]:
        """The file exchange for the lines of this host."""
        ...

    def line_changed(self, line: LineType, change: StateChange) -> None:
        """The line changed its state."""

    def line_detached(self, line: LineType, cause: DisconnectCause, detail: str) -> None:
        """The line lost its transport; its session can be resumed."""

    def line_ended(self, line: LineType, ended: Ended) -> None:
        """The peer, or a violation of the protocol, ended the session."""

    def line_too_slow(self, line: LineType, detail: str) -> None:
        """This side ended the session because the peer does not acknowledge what is sent to it."""

    def line_expired(self, line: LineType) -> None:
        """The time set with :meth:`LineDriver.expire_at` has passed."""

    async def wait_closed(self, line: LineType) -> None:
        """Return when everything that ends with the line, which has just been closed, has ended."""


class Driver(Protocol):
    """What a driver offers to its parts. Its ``repr()`` is that of the line, for logs."""

    @property
    def line(self) -> Any:
        """The :class:`landline.Line` that handlers are called with; ``None`` once the line is closed."""

    @property
    def session(self) -> Session | None:
        """The current session."""

    @property
    def host(self) -> LineHost[Any]:
        """The server or client the line belongs to."""

    @property
    def is_closed(self) -> bool:
        """Whether the line is closed."""

    @property
    def has_ended(self) -> bool:
        """Whether the session can send nothing more."""

    @property
    def error(self) -> Exception | None:
        """What closed the line, or ``None`` after an orderly end."""

    def ack(self, message: MessageReceived) -> None:
        """Acknowledge a message: the application has it."""

    async def transmit(
        self,
        operation: Operation,
        name: bytes,
        body: bytes,
        *,
        correlation: int = 0,
        is_packed: bool = False,
        is_bulk: bool = False,
    ) -> None:
        """Send a message of any operation; wait while the send buffer is full."""

    def transmit_nowait(
        self, operation: Operation, name: bytes, body: bytes, *, correlation: int, is_packed: bool
    ) -> None:
        """Send a message of any operation. Raise :class:`landline.BufferFull` when the send buffer is full."""

    def live_session(self) -> Session:
        """Return a session that can send. Raise the error that closed the line, or that there is none now."""

    def flush_soon(self) -> None:
        """Write at the end of this iteration of the event loop."""

    def log_peer_error(self, sentence: str, *arguments: object) -> None:
        """Log a mistake of the peer, a limited number of times for each transport."""


class LinkReceiver(Protocol):
    """What a transport reports to through its link; see :class:`asyncio.Protocol`."""

    def receive_data(self, data: bytes) -> None:
        """The transport received bytes; or, without any, those that waited may be handled now."""

    def receive_datagram(self, data: bytes) -> None:
        """The transport received a datagram outside its stream."""

    def receive_link_lost(self, error: Exception | None) -> None:
        """The transport has ended."""

    def pause_writing(self) -> None:
        """The transport's buffer is full."""

    def resume_writing(self) -> None:
        """The transport accepts data again."""
