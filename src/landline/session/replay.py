"""What was sent and is not yet acknowledged (``docs/protocol.md`` §5.2, §7.2)."""

from __future__ import annotations

from landline.errors import ProtocolError


class ReplayBuffer:
    """Numbered frames in order, from the first unacknowledged one to the last one numbered.

    ``frames[i]`` has the sequence number ``acknowledged + 1 + i``. The first ``written`` of them have been handed
    to the current transport; the rest wait for it. Plain attributes: the session reads and appends in its
    innermost loop.
    """

    __slots__ = ("_rewound_from", "acknowledged", "frames", "size_bytes", "unwritten_bytes", "written")

    def __init__(self) -> None:
        self.acknowledged: int = 0
        self.frames: list[bytes] = []
        self.size_bytes: int = 0
        self.written: int = 0
        self.unwritten_bytes: int = 0
        # The highest number written to any earlier transport.
        self._rewound_from = 0

    @property
    def last_sequence(self) -> int:
        """The highest number given to a frame so far."""
        return self.acknowledged + len(self.frames)

    def append(self, frame: bytes) -> None:
        """Keeps a frame that carries the number ``last_sequence + 1``. It still waits to be written."""
        self.frames.append(frame)
        self.size_bytes += len(frame)
        self.unwritten_bytes += len(frame)

    def next_unwritten(self, limit_bytes: int) -> list[bytes]:
        """Frames to write now, in order, and counts them as written: about ``limit_bytes``, at least one if any."""
        frames = self.frames[self.written :] if self.written else self.frames[:]
        if self.unwritten_bytes > limit_bytes:
            size = count = 0
            while size < limit_bytes:  # the sum of all exceeds the limit
                size += len(frames[count])
                count += 1
            del frames[count:]
            self.unwritten_bytes -= size
        else:
            self.unwritten_bytes = 0
        self.written += len(frames)
        return frames

    def receive_ack(self, taken: int) -> int:
        """Forgets every frame up to ``taken`` and returns how many those were.

        An acknowledgement of the past is harmless (it crossed a newer one). One of a frame that was never
        written is a :class:`ProtocolError`: believing it would lose that frame.
        """
        count = taken - self.acknowledged
        if count <= 0:
            return 0
        if count > self.written:
            raise ProtocolError(
                f"an acknowledgement of frame {taken} where {self.acknowledged + self.written} was the last sent"
            )
        frames = self.frames
        if count == len(frames):
            frames.clear()
            self.size_bytes = 0
        else:
            self.size_bytes -= sum(map(len, frames[:count]))
            del frames[:count]
        self.acknowledged = taken
        self.written -= count
        return count

    def check_received(self, received: int) -> None:
        """Raises :class:`ProtocolError` unless the peer can have received exactly up to ``received``."""
        last_written = max(self._rewound_from, self.acknowledged + self.written)
        if not self.acknowledged <= received <= last_written:
            raise ProtocolError(
                f"the peer says it received up to {received}, but {self.acknowledged} to "
                f"{last_written} are possible"
            )

    def rewind(self, received: int) -> None:
        """A new transport: what the peer has not received is to be written again."""
        self.check_received(received)
        self._rewound_from = max(self._rewound_from, self.acknowledged + self.written)
        self.written = received - self.acknowledged
        self.unwritten_bytes = sum(map(len, self.frames[self.written :]))
