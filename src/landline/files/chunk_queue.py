"""The chunks of one incoming transfer, between the event loop that receives them and the thread that writes them."""

from __future__ import annotations

from landline.errors import FileRefused
from landline.files.limits import FileLimits, comparison_s
from landline.files.transfer import IdleTimer, ReceiveWindow, Stage
from landline.files.wakeup import Wakeup


class ChunkQueue:
    """Collects received bytes until the task of the transfer writes them.

    The window limits how many bytes it holds. All methods run in the event loop; times are the loop's.
    """

    def __init__(self, size_bytes: int, limits: FileLimits, wakeup: Wakeup) -> None:
        self.window: ReceiveWindow = ReceiveWindow(size_bytes, limits.window_bytes)
        self.hash: bytes = b""
        """The hash of the whole file, from END."""
        self._limits = limits
        self._wakeup = wakeup
        # One buffer: with a list, a peer that sends tiny chunks would use many times their size.
        self._data = bytearray()
        self._is_restart = False
        self._is_writing = False
        self._idle = IdleTimer()
        self._alive_until = 0.0

    def accept(self, offset: int, now: float) -> None:
        """Expect the bytes from ``offset`` on. The sender first compares those before it, and sends none meanwhile."""
        self.window.accept(offset)
        compared_at = now + comparison_s(offset)
        self._idle.start(compared_at)
        self._alive_until = compared_at + self._limits.first_byte_timeout_s

    def receive_chunk(self, offset: int, data: memoryview) -> None:
        """Add bytes of the file. Raise :class:`FileRefused` for a violation of the protocol."""
        if self.window.receive_chunk(offset, len(data)):
            self._is_restart = True
        self._data += data
        self._wakeup.set()

    def receive_end(self, digest: bytes) -> None:
        """Note that all bytes were sent. Raise :class:`FileRefused` for a violation of the protocol."""
        self.window.receive_end()
        self.hash = digest
        self._wakeup.set()

    def receive_alive(self, now: float) -> None:
        """Count a report that the sender is working, if it has not sent a byte yet. Later only bytes count."""
        if self.window.stage is Stage.ACCEPTED and now < self._alive_until:
            self._wakeup.set()

    async def next_write(self) -> tuple[bytearray, bool] | None:
        """Wait for bytes. Return them, and whether the file restarts with them; ``None`` at the end of the file.

        Cancelling loses nothing.

        :raises FileRefused: no byte came for too long (``stalled``).
        """
        while not self._data:
            if self.window.stage is Stage.ENDED:
                return None
            timeout_s = self._limits.stall_timeout_s
            if not await self._wakeup.wait(timeout_s):
                raise FileRefused("stalled", f"no data for {timeout_s:g} s; send the file again to resume")
        data, self._data = self._data, bytearray()
        is_restart, self._is_restart = self._is_restart, False
        self._is_writing = True
        return data, is_restart

    def write_done(self, size_bytes: int, now: float) -> bool:
        """Count bytes of :meth:`next_write` as written. Return whether to send credit now.

        Bytes that arrived meanwhile are received, but not written.
        """
        self._is_writing = False
        self._idle.add_written(size_bytes, now)
        return self.window.add_written(size_bytes)

    def idle_s(self, now: float) -> float:
        """Return the seconds without progress; 0 while the transfer waits for this side."""
        is_waiting_for_sender = self.window.stage in (Stage.ACCEPTED, Stage.RECEIVING)
        if self._is_writing or self._data or not is_waiting_for_sender:
            return 0.0
        return self._idle.idle_s(now)
