"""The seam between a line and its transport: what the transport calls, for as long as the line rides it."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from landline.runtime.guarded_log import guarded_logger
from landline.runtime.turns import Turns
from landline.transports.base import LinkProtocol, pause_reading_if_backlogged
from landline.transports.linger import read_arrived

logger = guarded_logger("landline")

PEER_ERRORS_LOGGED_MAX: Final = 50
"""Messages that fit no handler, or are refused by one, that are logged of one transport."""


class LinkReceiver(Protocol):
    """What a link tells all it hears to. It compares the link: one it has left may still speak."""

    def receive_data(self, link: TransportLink, data: bytes) -> None:
        """Bytes of a transport."""

    def receive_datagram(self, link: TransportLink, data: bytes) -> None:
        """A datagram that the transport carried outside of its stream."""

    def receive_link_lost(self, link: TransportLink, error: Exception | None) -> None:
        """A transport ended."""

    def pause_writing(self, link: TransportLink) -> None:
        """The transport's buffer is full."""

    def resume_writing(self, link: TransportLink) -> None:
        """The transport takes data again."""


class TransportLink(LinkProtocol):
    """One transport of a line."""

    __slots__ = (
        "_error",
        "_peer",
        "epoch",
        "has_left",
        "has_warned",
        "is_lost",
        "is_waiting",
        "line",
        "peer_errors_logged",
        "transport",
    )

    def __init__(self, line: LinkReceiver, transport: asyncio.Transport, epoch: int) -> None:
        self.line = line
        self.transport = transport
        self.epoch = epoch
        self.peer_errors_logged = 0
        self.has_warned = False
        """Whether the peer has sent a NOTICE."""
        self.is_waiting = False
        """Whether bytes of the transport wait for the line's next turn."""
        self.has_left = False
        """Whether the line has let the transport go, so that what is read of it is another's concern."""
        self.is_lost = False
        """Whether the transport is gone, which the line hears behind the bytes that wait; nothing can be written."""
        self._error: Exception | None = None
        self._peer = ""

    def wait(self, turns: Turns, held_bytes: int) -> None:
        """Reads no more until the line had another turn; ``held_bytes`` are what waits for that."""
        if not self.is_waiting:
            self.is_waiting = True
            turns.wait(self)
        if not self.is_lost:
            pause_reading_if_backlogged(self.transport, held_bytes)

    def read_on(self) -> None:
        """The line's turn has come."""
        self.is_waiting = False
        try:
            self.line.receive_data(self, b"")
        except BaseException:
            # As the event loops do where a protocol fails to read.
            if not self.is_lost:
                self.transport.abort()
            raise
        if self.is_waiting:
            return
        if self.is_lost:
            self.line.receive_link_lost(self, self._error)
        elif not self.has_left:
            # Also of one that is closing: the end of it is to be read.
            self.transport.resume_reading()

    def leave(self) -> None:
        """The line lets the transport go: nothing more is read for it."""
        self.has_left = True
        if self.is_waiting and not self.is_lost:
            self.transport.resume_reading()

    def log_peer_error(self, sentence: str, *arguments: object) -> None:
        """Logs what the peer does wrong, :data:`PEER_ERRORS_LOGGED_MAX` times: the log is not the peer's to fill.

        ``sentence`` begins with ``%r`` for the line.
        """
        if self.peer_errors_logged < PEER_ERRORS_LOGGED_MAX:
            logger.warning(sentence, self.line, *arguments)
        elif self.peer_errors_logged == PEER_ERRORS_LOGGED_MAX:
            logger.warning("%r goes on like that; no more is told of it on this connection", self.line)
        else:
            return
        self.peer_errors_logged += 1

    @property
    def peer(self) -> str:
        """The address of the other end: ``IP:port``, a socket path, or ``local`` for a socket without a name."""
        if self.is_lost:
            return self._peer
        peername = self.transport.get_extra_info("peername")
        if isinstance(peername, tuple) and len(peername) >= 2:
            host, port = peername[:2]
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return "local" if peername == "" else str(peername or "")

    def data_received(self, data: bytes) -> None:
        self.line.receive_data(self, data)

    def datagram_received(self, data: bytes) -> None:
        self.line.receive_datagram(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        # uvloop knows it no longer once this has returned.
        self._peer = self.peer
        self.is_lost = True
        self._error = exc
        if isinstance(exc, OSError):
            # A write failed, perhaps before the peer's BYE was read.
            arrived = b"".join(read_arrived(self.transport))
            if arrived:
                self.line.receive_data(self, arrived)
        if not self.is_waiting:
            self.line.receive_link_lost(self, exc)

    def pause_writing(self) -> None:
        self.line.pause_writing(self)

    def resume_writing(self) -> None:
        self.line.resume_writing(self)
