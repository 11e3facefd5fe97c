"""Datagrams of one session that wait to be written or fetched (``docs/protocol.md`` §5.7)."""

from __future__ import annotations

from collections import deque

from landline.codes import Code
from landline.errors import ProtocolError
from landline.session.constants import (
    DATAGRAM_BYTES_WAITING_MAX,
    DATAGRAMS_MAX,
    DATAGRAMS_REFUSED,
    DATAGRAMS_UNREAD_MAX,
    DATAGRAMS_WAITING_MAX,
    DATAGRAMS_WINDOW_S,
)
from landline.session.events import DatagramReceived
from landline.session.frames import decode_datagram


class DatagramQueue:
    """The datagrams of a session in both directions, few at any time."""

    __slots__ = (
        "_received",
        "_received_since",
        "_sent",
        "_sent_since",
        "_unread",
        "_waiting",
        "_waiting_bytes",
        "dropped",
        "ignored",
    )

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        # Created for each read that brings datagrams: an empty deque takes 600 bytes.
        self._unread: deque[DatagramReceived] | None = None
        # The counts of the current periods, and when these started.
        self._sent = self._received = 0
        self._sent_since = self._received_since = 0.0
        self.dropped: int = 0
        """The number of datagrams to the peer that were not sent."""
        self.ignored: int = 0
        """The number of datagrams from the peer that had no receiver, or were too many."""

    @property
    def has_waiting(self) -> bool:
        """Whether datagrams wait to be written."""
        return bool(self._waiting)

    @property
    def has_unread(self) -> bool:
        """Whether datagrams wait to be fetched."""
        return self._unread is not None

    def may_send(self, now: float) -> bool:
        """Count one datagram to send and return ``True``; above the rate limit, count it as dropped."""
        if now - self._sent_since >= DATAGRAMS_WINDOW_S:
            self._sent_since = now
            self._sent = 0
        if self._sent >= DATAGRAMS_MAX:
            self.dropped += 1
            return False
        self._sent += 1
        return True

    def offer(self, frame: bytes) -> bool:
        """Queue a frame for the next write and return ``True``; when too many wait, count it as dropped."""
        if (
            len(self._waiting) >= DATAGRAMS_WAITING_MAX
            or self._waiting_bytes + len(frame) > DATAGRAM_BYTES_WAITING_MAX
        ):
            self.dropped += 1
            return False
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)
        return True

    def pop_waiting(self) -> list[bytes]:
        """Return and forget the frames to write now."""
        waiting, self._waiting = self._waiting, []
        self._waiting_bytes = 0
        return waiting

    def drop_waiting(self) -> None:
        """Drop and count the waiting datagrams: late datagrams are of no use."""
        self.dropped += len(self.pop_waiting())

    def receive(self, data: bytes, now: float) -> None:
        """Store a received datagram, given as the body of its frame.

        The oldest one is dropped when too many are unread; above the rate limit it is dropped before it is decoded.

        :raises ProtocolError: for a malformed datagram, and for far too many.
        """
        if now - self._received_since >= DATAGRAMS_WINDOW_S:
            self._received_since = now
            self._received = 0
        self._received += 1
        if self._received > DATAGRAMS_MAX:
            if self._received >= DATAGRAMS_REFUSED:
                raise ProtocolError(
                    f"{DATAGRAMS_REFUSED} datagrams in {DATAGRAMS_WINDOW_S:g} s",
                    Code.LIMIT_EXCEEDED,
                )
            self.ignored += 1
            return
        received = DatagramReceived(*decode_datagram(data))
        if self._unread is None:
            self._unread = deque()
        elif len(self._unread) >= DATAGRAMS_UNREAD_MAX:
            self._unread.popleft()
            self.ignored += 1
        self._unread.append(received)

    def pop_unread(self) -> list[DatagramReceived]:
        """Return and forget the datagrams received since the last call, in order."""
        unread, self._unread = self._unread, None
        return list(unread or ())
