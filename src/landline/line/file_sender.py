"""What a line knows of files: the values its users get, and the interface of what sends them for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

STALL_TIMEOUT_S: Final = 60.0

LineType = TypeVar("LineType", contravariant=True)


class FileProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the transfer of a file is. Bytes count when the receiver has written them."""

    bytes_done: int
    bytes_total: int
    rate_bytes_per_s: float
    """Over the last five seconds; 0 while nothing is known."""
    seconds_left: float | None
    """At that rate; ``None`` while nothing is known."""
    resumed_from: int
    """Bytes the receiver had when this part of the transfer began."""


ProgressCallback = Callable[[FileProgress], object]


class FileReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """A file has arrived: its hash was compared, it is on the receiver's disk under its name, and both sides know."""

    name: str
    """What the receiver stored it as."""
    path: Path
    """The file on this side."""
    size_bytes: int
    hash: bytes
    """BLAKE2b-256 (RFC 7693) of the whole file."""
    resumed_from: int
    """How many bytes the receiver had already, in bytes."""
    duration_s: float
    """From the offer to the receipt, over all connections; a transfer that was begun by another process counts from
    when this one went on with it."""


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
        """See :meth:`landline.Line.send_file`."""
        ...
