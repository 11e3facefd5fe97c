"""The connection between a line and one of its transports: an :class:`asyncio.Protocol`."""

from __future__ import annotations

import asyncio
from typing import Final

from landline.codes import Code
from landline.line.interfaces import LinkReceiver
from landline.runtime.guarded_log import guarded_logger
from landline.runtime.turns import Turns
from landline.session.bodies import Bye, encode_body
from landline.session.constants import Kind
from landline.session.events import Ended
from landline.session.frames import ByeFinder
from landline.session.session import Session
from landline.transports.base import LinkProtocol, pause_reading_if_backlogged
from landline.transports.linger import DISCARD_BYTES_MAX, SCAN_BYTES, TransportCloser, read_arrived

logger: Final = guarded_logger("landline")

PEER_ERRORS_LOGGED_MAX: Final = 50
"""Mistakes of a peer that are logged for one transport: messages that fit no handler, or that a handler refuses."""


class TransportLink(LinkProtocol):
    """One transport of a line.

    It reports to the line's driver until :meth:`detach` is called. This is the fence that keeps an older transport away
    from a session that has moved on (``docs/protocol.md`` §7.3).
    """

    __slots__ = (
        "_driver",
        "_error",
        "_peer",
        "_peer_errors_logged",
        "has_logged_notice",
        "is_lost",
        "is_waiting",
        "transport",
    )

    def __init__(self, driver: LinkReceiver, transport: asyncio.Transport) -> None:
        self._driver: LinkReceiver | None = driver
        self.transport: asyncio.Transport = transport
        self._peer_errors_logged = 0
        self.has_logged_notice: bool = False
        """Whether a NOTICE of the peer was logged."""
        self.is_waiting: bool = False
        """Whether received bytes wait for the line's next turn."""
        self.is_lost: bool = False
        """Whether the transport is gone, so that nothing can be written. The driver is notified after the bytes that
        wait."""
        self._error: Exception | None = None
        self._peer = ""

    def detach(self) -> None:
        """Stop reporting to the driver. Resume reading, for the next reader of the transport."""
        self._driver = None
        if self.is_waiting and not self.is_lost:
            self.transport.resume_reading()

    def close(self, closer: TransportCloser, session: Session, ended: Ended | None) -> None:
        """Detach, and close the transport so that the BYE arrives.

        :param session: the session whose BYE was written or received.
        :param ended: how the session ended, unless this side ended it.
        """
        self.detach()
        if self.is_lost:
            return
        # Of a peer that violated the protocol it is unknown where a frame begins.
        rest = session.inbound.pop_trailing_data() if ended is None else b""
        finder = ByeFinder(rest[:SCAN_BYTES]) if ended is None else None
        closer.close(
            self.transport,
            discard_bytes_max=_discard_bytes_max(session),
            detect_bye=finder.feed if finder is not None else None,
            trailing_data=rest[SCAN_BYTES:],
            is_ended_by_peer=ended.by_peer if ended is not None else finder is not None and finder.is_found,
        )

    def close_replaced(self, closer: TransportCloser, session: Session) -> None:
        """Detach, and close the transport: a newer one carries the session."""
        self.detach()
        if not self.is_lost:
            bye = Bye(int(Code.LINK_REPLACED), "resumed on a newer transport")
            self.transport.write(encode_body(Kind.BYE, bye))
            closer.close(self.transport, discard_bytes_max=_discard_bytes_max(session))

    def abort(self) -> None:
        """Detach, and abort the transport. The session still has everything that waits in its buffer."""
        self.detach()
        if not self.is_lost:
            self.transport.abort()

    def wait(self, turns: Turns, held_bytes: int) -> None:
        """Pause reading until the line's next turn; ``held_bytes`` wait for it already."""
        if self._driver is None:
            return
        if not self.is_waiting:
            self.is_waiting = True
            turns.wait(self)
        if not self.is_lost:
            pause_reading_if_backlogged(self.transport, held_bytes)

    def read_on(self) -> None:
        """Handle what waits: the line's turn has come."""
        self.is_waiting = False
        if self._driver is None:
            return
        try:
            self._driver.receive_data(b"")
        except BaseException:
            # As the event loops do when a protocol fails to read.
            if not self.is_lost:
                self.transport.abort()
            raise
        if self.is_waiting:
            return
        if self.is_lost:
            self._report_lost()
        elif self._driver is not None:
            # Even when the transport is closing: its end is still to be read.
            self.transport.resume_reading()

    def log_peer_error(self, sentence: str, *arguments: object) -> None:
        """Log a mistake of the peer, :data:`PEER_ERRORS_LOGGED_MAX` times: a peer must not be able to fill the log.

        :param sentence: begins with ``%r`` for the line.
        """
        if self._peer_errors_logged < PEER_ERRORS_LOGGED_MAX:
            logger.warning(sentence, self._driver, *arguments)
        elif self._peer_errors_logged == PEER_ERRORS_LOGGED_MAX:
            logger.warning("%r: further errors of this connection are not logged", self._driver)
        else:
            return
        self._peer_errors_logged += 1

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

    # Called by the transport

    def data_received(self, data: bytes) -> None:
        if self._driver is not None:
            self._driver.receive_data(data)

    def datagram_received(self, data: bytes) -> None:
        if self._driver is not None:
            self._driver.receive_datagram(data)

    def connection_lost(self, exc: Exception | None) -> None:
        # uvloop no longer knows the address once this has returned.
        self._peer = self.peer
        self.is_lost = True
        self._error = exc
        if isinstance(exc, OSError):
            # A write failed, perhaps before the peer's BYE was read.
            arrived = b"".join(read_arrived(self.transport))
            if arrived:
                self.data_received(arrived)
        if not self.is_waiting:
            self._report_lost()

    def _report_lost(self) -> None:
        if self._driver is not None:
            self._driver.receive_link_lost(self._error)

    def pause_writing(self) -> None:
        if self._driver is not None:
            self._driver.pause_writing()

    def resume_writing(self) -> None:
        if self._driver is not None:
            self._driver.resume_writing()


def _discard_bytes_max(session: Session) -> int:
    """Return how many bytes a peer that respects its window can have sent before it reads this side's BYE."""
    return session.inbound.limits.window_bytes + DISCARD_BYTES_MAX
