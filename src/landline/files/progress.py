"""Progress and throughput of a transfer, rate-limited. Pure: the time is an argument."""

from __future__ import annotations

from collections import deque
from typing import Final

from landline.line.file_sender import FileProgress

REPORT_INTERVAL_S: Final = 0.1
RATE_PERIOD_S: Final = 5.0
"""The rate is averaged over the last seconds, so that it follows the network without jumping."""


class ProgressTracker:
    """Counts the bytes of one transfer and limits how often progress is reported."""

    __slots__ = ("_bytes_total", "_is_done", "_reported_at", "_resumed_from", "_samples")

    def __init__(self, bytes_total: int, resumed_from: int, now: float) -> None:
        self._bytes_total = bytes_total
        self._resumed_from = resumed_from
        # (time, bytes done), one for each report: at most 51.
        self._samples: deque[tuple[float, int]] = deque([(now, resumed_from)])
        self._reported_at: float | None = None
        self._is_done = False

    def update(self, bytes_done: int, now: float) -> FileProgress | None:
        """Return the progress to report, or ``None`` if the last report is too recent. The end is reported once."""
        is_done = bytes_done == self._bytes_total
        is_recent = self._reported_at is not None and now - self._reported_at < REPORT_INTERVAL_S
        if self._is_done or (is_recent and not is_done):
            return None
        self._is_done = is_done
        self._reported_at = now
        samples = self._samples
        samples.append((now, bytes_done))
        while len(samples) > 2 and samples[0][0] < now - RATE_PERIOD_S:
            samples.popleft()
        since, bytes_before = samples[0]
        rate = (bytes_done - bytes_before) / (now - since) if now > since else 0.0
        seconds_left = (self._bytes_total - bytes_done) / rate if rate > 0 else None
        return FileProgress(
            bytes_done=bytes_done,
            bytes_total=self._bytes_total,
            rate_bytes_per_s=rate,
            seconds_left=0.0 if is_done else seconds_left,
            resumed_from=self._resumed_from,
        )
