"""Datagrams of a line: sent by the transport's own datagrams or in its stream; received by their handlers."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from landline.errors import BufferFull, LineClosed
from landline.line.codec import BodyError
from landline.line.handlers import FAILURES, Handlers
from landline.line.interfaces import Driver
from landline.runtime.guarded_log import guarded_logger
from landline.session.frames import FRAME_HEADER_BYTES
from landline.session.session import Session
from landline.session.state import State
from landline.transports.base import DatagramTransport

logger: Final = guarded_logger("landline")


def send_datagram(session: Session, transport: asyncio.Transport, frame: bytes, now: float) -> bool:
    """Send a DATAGRAM frame, let the session write it, or drop it. Return whether it was accepted.

    :raises LineClosed: when the session has ended.
    """
    if session.is_attached and not session.may_send_datagram(now):
        return False
    if session.is_attached and hasattr(transport, "send_datagram"):
        carrier = cast(DatagramTransport, transport)
        size = len(frame) - FRAME_HEADER_BYTES
        if size <= carrier.datagram_bytes_max:
            # Outside the stream, its back-pressure does not apply.
            if carrier.send_datagram(frame[FRAME_HEADER_BYTES:]):
                return True
            session.count_datagram_dropped()
            return False
    return session.send_datagram(frame)


def handle_datagrams(driver: Driver, line: Any, session: Session, handlers: Handlers) -> None:
    """Call the handlers of the received datagrams. Count those that have none."""
    for datagram in session.next_datagrams():
        handler = handlers.find_datagram(datagram.name)
        if handler is None:
            session.count_datagram_ignored()
            continue
        try:
            handler.function(line, handler.decode_body(datagram.body, datagram.is_packed))
        except BodyError as error:
            session.count_datagram_ignored()
            driver.log_peer_error("%r sent a datagram %r that does not fit: %s", datagram.name, error)
        except FAILURES as error:
            if isinstance(error, LineClosed | BufferFull) and session.state is State.CLOSED:
                # A peer must not be able to cause tracebacks by ending the session.
                logger.info("%r ended while its handler for datagrams %r ran", driver, datagram.name)
                continue
            logger.exception("the handler for datagrams %r of %r failed", datagram.name, driver)
