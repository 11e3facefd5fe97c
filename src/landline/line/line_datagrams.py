"""Datagrams of a line: through the transport's own where it has them, else in its stream; and to their handlers."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from landline.errors import BufferFull, LineClosed
from landline.line.codec import BodyError
from landline.line.handlers import FAILURES, Handlers
from landline.runtime.guarded_log import guarded_logger
from landline.session.frames import FRAME_HEADER_BYTES
from landline.session.session import Session
from landline.session.state import State
from landline.transports.base import DatagramTransport

logger = guarded_logger("landline")


def send_datagram(session: Session, transport: asyncio.Transport, frame: bytes, now: float) -> bool:
    """Sends a DATAGRAM frame, or lets the session write it, or drops it. Returns whether it was taken.

    Raises :class:`landline.LineClosed` when the session is over.
    """
    if session.is_attached and not session.may_send_datagram(now):
        return False
    if session.is_attached and hasattr(transport, "send_datagram"):
        carrier = cast(DatagramTransport, transport)
        size = len(frame) - FRAME_HEADER_BYTES
        if size <= carrier.datagram_bytes_max:
            # Of the stream's back-pressure it knows nothing: it is not in the stream.
            if carrier.send_datagram(frame[FRAME_HEADER_BYTES:]):
                return True
            session.count_datagram_dropped()
            return False
    return session.send_datagram(frame)


class DatagramLine(Protocol):
    """What handlers of datagrams are called with."""

    def log_peer_error(self, sentence: str, *arguments: object) -> None:
        """Logs what the peer does wrong, a few times."""


def handle_datagrams(line: DatagramLine, session: Session, handlers: Handlers) -> None:
    """Calls the handlers of what came; a datagram without one is counted and forgotten."""
    for datagram in session.next_datagrams():
        handler = handlers.find_datagram(datagram.name)
        if handler is None:
            session.count_datagram_ignored()
            continue
        try:
            handler.function(line, handler.decode_body(datagram.body, datagram.is_packed))
        except BodyError as error:
            session.count_datagram_ignored()
            line.log_peer_error("%r sent a datagram %r that does not fit: %s", datagram.name, error)
        except FAILURES as error:
            if isinstance(error, LineClosed | BufferFull) and session.state is State.CLOSED:
                # Peers must not write tracebacks by ending the session.
                logger.info("%r ended while its handler for datagrams %r ran", line, datagram.name)
                continue
            logger.exception("the handler for datagrams %r of %r failed", datagram.name, line)
