"""Sending files, as a line sees it: the interface of the sender, and the values that its users get.

The implementation is in :mod:`landline.files`, which imports this package.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

STALL_TIMEOUT_S: Final = 60.0
"""Default time without a message of the receiver after which a transfer fails."""

LineType = TypeVar("LineType", contravariant=True)


class FileProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of a transfer. Bytes count as done when the receiver has written them."""

    bytes_done: int
    bytes_total: int
    rate_bytes_per_s: float
    """Average of the last five seconds; 0 while unknown."""
    seconds_left: float | None
    """Remaining time at that rate; ``None`` while unknown."""
    resumed_from: int
    """Number of bytes the receiver already had when this part of the transfer began."""


ProgressCallback = Callable[[FileProgress], object]


class FileReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """Confirms that a file has arrived: its hash was compared, and it has its name on the receiver's disk."""

    name: str
    """The name under which the receiver stored it."""
    path: Path
    """The file on this side: the sent or the stored one."""
    size_bytes: int
    hash: bytes
    """BLAKE2b-256 (RFC 7693) of the whole file."""
    resumed_from: int
    """Number of bytes the receiver already had."""
    duration_s: float
    """Time from the offer to the receipt, over all connections. For a transfer that another process began, it counts
    from when this process resumed it."""


class FileSender(Protocol[LineType]):
    """Sends files over the lines of one server or one client."""

    async def send(
        self,
        line: LineType,
        path: str | os.PathLike[str],
        *,
        name: str | None,
        to: str,
        progress: ProgressCallback | None,
        stall_timeout_s: float | None,
    ) -> FileReceipt:
        """Send a file; see :meth:`landline.Line.send_file`."""
        ...
