"""How far a transfer is and how fast it goes: counted where it happens, told seldom. Pure: time is an argument."""

from __future__ import annotations

from collections import deque
from typing import Final

from landline.line.file_sender import FileProgress

TOLD_EVERY_S: Final = 0.1
RATE_OVER_S: Final = 5.0
"""The rate is that of the last seconds, so that it follows the network and does not jump."""


class ProgressTracker:
    """Counts the bytes of one transfer."""

    __slots__ = ("_bytes_total", "_is_done", "_resumed_from", "_samples", "_told_at")

    def __init__(self, bytes_total: int, resumed_from: int, now: float) -> None:
        self._bytes_total = bytes_total
        self._resumed_from = resumed_from
        # (time, bytes done), one for each time it was told: 51 at most.
        self._samples: deque[tuple[float, int]] = deque([(now, resumed_from)])
        self._told_at: float | None = None
        self._is_done = False

    def update(self, bytes_done: int, now: float) -> FileProgress | None:
        """So much is done. Returns what to tell, or ``None`` if that was a moment ago; the end is told once."""
        is_done = bytes_done == self._bytes_total
        is_recent = self._told_at is not None and now - self._told_at < TOLD_EVERY_S
        if self._is_done or (is_recent and not is_done):
            return None
        self._is_done = is_done
        self._told_at = now
        samples = self._samples
        samples.append((now, bytes_done))
        while len(samples) > 2 and samples[0][0] < now - RATE_OVER_S:
            samples.popleft()
        since, before = samples[0]
        rate = (bytes_done - before) / (now - since) if now > since else 0.0
        left = (self._bytes_total - bytes_done) / rate if rate > 0 else None
        return FileProgress(
            bytes_done=bytes_done,
            bytes_total=self._bytes_total,
            rate_bytes_per_s=rate,
            seconds_left=0.0 if is_done else left,
            resumed_from=self._resumed_from,
        )
