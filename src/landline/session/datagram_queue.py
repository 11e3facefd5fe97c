"""Datagrams of one session on their way out and in, few at any time (``docs/protocol.md`` §5.7)."""

from __future__ import annotations

from collections import deque
from typing import Final

from landline.codes import Code
from landline.errors import ProtocolError
from landline.session.events import DatagramReceived
from landline.session.frames import decode_datagram

DATAGRAMS_WAITING_MAX: Final = 64
"""Datagrams that may wait for the next write, which comes at the end of the turn of the event loop;"""
DATAGRAM_BYTES_WAITING_MAX: Final = 32 * 1024
"""... and their bytes, so that data behind them is not kept waiting for long."""
DATAGRAMS_UNREAD_MAX: Final = 1024
"""Datagrams kept until they are fetched, as they are after each read. Tiny ones would else become many times the bytes
of a read."""
DATAGRAMS_WINDOW_S: Final = 1.0
"""Datagrams are counted anew after this long."""
DATAGRAMS_MAX: Final = 10_000
"""Datagrams sent within a window, and taken of a peer: more are dropped. Ten times what a game, a meter or a microphone
says of itself, and at most some hundredths of a core for who takes them."""
DATAGRAMS_REFUSED: Final = 2 * DATAGRAMS_MAX + 1
"""So many of a peer's within a window are refused. Two windows of a sender that keeps to them may fall into one."""


class DatagramQueue:
    """A session makes one of these with its first datagram."""

    __slots__ = (
        "_received",
        "_received_from",
        "_sent",
        "_sent_from",
        "_unread",
        "_waiting",
        "_waiting_bytes",
        "dropped",
        "ignored",
    )

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        # Only there between a read and what fetches them: an empty deque takes 600 bytes.
        self._unread: deque[DatagramReceived] | None = None
        # How many in the window that began then.
        self._sent = self._received = 0
        self._sent_from = self._received_from = 0.0
        self.dropped: int = 0
        """Datagrams to the peer that were not sent."""
        self.ignored: int = 0
        """Datagrams of the peer that nobody took."""

    @property
    def has_waiting(self) -> bool:
        """Whether some are to be written."""
        return bool(self._waiting)

    @property
    def has_unread(self) -> bool:
        """Whether some are to be fetched."""
        return self._unread is not None

    def may_send(self, now: float) -> bool:
        """Counts one more to be sent; where too many were sent within the window, counts it as dropped instead."""
        if now - self._sent_from >= DATAGRAMS_WINDOW_S:
            self._sent_from = now
            self._sent = 0
        if self._sent >= DATAGRAMS_MAX:
            self.dropped += 1
            return False
        self._sent += 1
        return True

    def offer(self, frame: bytes) -> bool:
        """Takes a frame for the next write; drops and counts it where too much waits already."""
        if (
            len(self._waiting) >= DATAGRAMS_WAITING_MAX
            or self._waiting_bytes + len(frame) > DATAGRAM_BYTES_WAITING_MAX
        ):
            self.dropped += 1
            return False
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)
        return True

    def take_waiting(self) -> list[bytes]:
        """The frames to write now."""
        waiting, self._waiting = self._waiting, []
        self._waiting_bytes = 0
        return waiting

    def drop_waiting(self) -> None:
        """What waits is not worth waiting for."""
        self.dropped += len(self.take_waiting())

    def receive(self, data: bytes, now: float) -> None:
        """Takes in the body of a frame; the oldest gives way where too many are unread, and what comes too often is
        dropped without a look at it.

        Raises :class:`landline.ProtocolError` for a malformed one, and for far too many.
        """
        if now - self._received_from >= DATAGRAMS_WINDOW_S:
            self._received_from = now
            self._received = 0
        self._received += 1
        if self._received > DATAGRAMS_MAX:
            if self._received >= DATAGRAMS_REFUSED:
                raise ProtocolError(
                    f"{DATAGRAMS_REFUSED} datagrams in {DATAGRAMS_WINDOW_S:g} s", Code.LIMIT_EXCEEDED
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

    def take_unread(self) -> list[DatagramReceived]:
        """What came since the last call, in the order in which it came."""
        unread, self._unread = self._unread, None
        return list(unread or ())
