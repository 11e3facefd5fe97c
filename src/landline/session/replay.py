"""Frames that were numbered and are not acknowledged yet (``docs/protocol.md`` §5.2, §7.2)."""

from __future__ import annotations

from landline.errors import ProtocolError


class ReplayBuffer:
    """Numbered frames in order, from the first unacknowledged one to the last one numbered.

    ``frames[i]`` has the sequence number ``acked + 1 + i``. The first ``written`` of them were given to the current
    transport; the others wait for it. The attributes are plain and public, because the session reads and appends in
    its innermost loop.
    """

    __slots__ = ("_rewound_from", "acked", "frames", "size_bytes", "unwritten_bytes", "written")

    def __init__(self) -> None:
        self.acked: int = 0
        """The highest number that the peer acknowledged."""
        self.frames: list[bytes] = []
        self.size_bytes: int = 0
        self.written: int = 0
        self.unwritten_bytes: int = 0
        # The highest number written to any earlier transport.
        self._rewound_from = 0

    @property
    def last_sequence(self) -> int:
        """The highest number given to a frame so far."""
        return self.acked + len(self.frames)

    def append(self, frame: bytes) -> None:
        """Add a frame that carries the number ``last_sequence + 1``. It waits to be written."""
        self.frames.append(frame)
        self.size_bytes += len(frame)
        self.unwritten_bytes += len(frame)

    def next_unwritten(self, limit_bytes: int) -> list[bytes]:
        """Return the frames to write now, in order, and count them as written: about ``limit_bytes``, at least one."""
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

    def receive_ack(self, acked: int) -> int:
        """Forget every frame up to ``acked`` and return how many there were.

        An old acknowledgement is harmless: a newer one overtook it.

        :raises ProtocolError: when a frame is acknowledged that was never written. To believe it would lose the frame.
        """
        count = acked - self.acked
        if count <= 0:
            return 0
        if count > self.written:
            raise ProtocolError(
                f"the peer acknowledged frame {acked}, but the last one sent was {self.acked + self.written}"
            )
        frames = self.frames
        if count == len(frames):
            frames.clear()
            self.size_bytes = 0
        else:
            self.size_bytes -= sum(map(len, frames[:count]))
            del frames[:count]
        self.acked = acked
        self.written -= count
        return count

    def check_received(self, received: int) -> None:
        """Raise :class:`ProtocolError` unless ``received`` can be the number of the last frame the peer received."""
        last_written = max(self._rewound_from, self.acked + self.written)
        if not self.acked <= received <= last_written:
            raise ProtocolError(
                f"the peer claims to have received frame {received}; only {self.acked} to {last_written} are possible"
            )

    def rewind(self, received: int) -> None:
        """Prepare for a new transport: frames after ``received`` are written again.

        :raises ProtocolError: as :meth:`check_received`.
        """
        self.check_received(received)
        self._rewound_from = max(self._rewound_from, self.acked + self.written)
        self.written = received - self.acked
        self.unwritten_bytes = sum(map(len, self.frames[self.written :]))
