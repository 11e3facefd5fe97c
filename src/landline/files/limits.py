"""The limits of a receiver of files, and the decisions about what it accepts. Pure: no I/O, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from landline.errors import ConfigurationError, FileRefused
from landline.files.messages import CHUNK_BYTES_MAX, Offer
from landline.files.names import name_problem
from landline.files.transfer import WINDOW_BYTES_MAX

_MIB: Final = 1024 * 1024

COMPARED_BYTES_PER_S: Final = 50_000_000
"""The lowest rate at which a sender reads and hashes what the receiver already has: half of what a hard disk does."""


class FileLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver of files accepts. Each limit is for one directory, over all lines, unless it says otherwise."""

    file_bytes: Annotated[int, Meta(ge=0)] = 16 * 1024 * _MIB
    """Size of the largest file."""
    quota_bytes: Annotated[int, Meta(ge=0)] | None = None
    """Total size of the files in the directory (not below it), partial files included. Checked at each offer."""
    stored_files: Annotated[int, Meta(ge=1)] = 100_000
    """Number of files in the directory. Empty files use no quota, but each takes an entry of the directory. All entries
    are counted at each offer."""
    min_free_bytes: Annotated[int, Meta(ge=0)] = 64 * _MIB
    """Bytes that must stay free on the file system. Not guaranteed: other programs write there too."""
    concurrent_files: Annotated[int, Meta(ge=1)] = 32
    """Number of files received at the same time."""
    files_per_line: Annotated[int, Meta(ge=1)] = 8
    """Number of files received at the same time over one line."""
    files_per_peer: Annotated[int, Meta(ge=1)] = 16
    """Number of files received at the same time from one peer over all its lines. A peer is an identity, or without an
    identity a host."""
    idle_s: Annotated[float, Meta(ge=0)] = 5.0
    """Seconds without progress (64 KiB) after which a transfer can be ended in favour of another peer's, when
    ``concurrent_files`` is reached. The peer with the most transfers loses one first; its partial file is kept."""
    first_byte_timeout_s: Annotated[float, Meta(gt=0)] = 600.0
    """Seconds for which a sender may report that it is working before it sends the first byte. The time to read what
    the receiver already has, at 50 MB/s, does not count."""
    window_bytes: Annotated[int, Meta(ge=CHUNK_BYTES_MAX, le=WINDOW_BYTES_MAX)] = 4 * _MIB
    """Bytes of one file that were sent and are not written yet: the memory that each transfer may hold. Enough for a
    path whose bandwidth-delay product is smaller."""
    stall_timeout_s: Annotated[float, Meta(gt=0)] = 60.0
    """Seconds without a byte over a connected line after which a transfer is ended. Its partial file is kept."""
    transfer_timeout_s: Annotated[float, Meta(gt=0)] = 86_400.0
    """Seconds one session may spend on one file. Ends also the transfer of a peer that sends one byte a minute."""
    partial_files: Annotated[int, Meta(ge=1)] = 64
    """Number of partial files without a transfer that are kept. The oldest are removed first."""
    partial_retention_s: Annotated[float, Meta(ge=0)] = 7 * 86_400.0
    """Seconds for which a partial file is kept after its last byte. Checked at each offer."""

    def __post_init__(self) -> None:
        # msgspec checks the annotations only of values that it decodes.
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                raise ConfigurationError(f"FileLimits({field.name}={value!r}): {error}") from error


class DirectoryUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a directory when a file is offered."""

    used_bytes: int
    """Total size of the files in the directory."""
    used_files: int
    """Number of files in the directory and of transfers into it, without the offered file's own partial file."""
    free_bytes: int
    """Free bytes on its file system."""
    promised_bytes: int
    """Bytes that the other transfers into the directory have still to write."""
    partial_bytes: int
    """Size of the offered file's own partial file."""


class ActiveTransfer(NamedTuple):
    """What :func:`transfer_to_end` must know of a transfer."""

    peer: str
    idle_s: float
    """Seconds without progress for which its sender is responsible."""


def check_offer(offer: Offer, limits: FileLimits) -> None:
    """Check the parts of an offer that do not depend on the state of the directory.

    :raises FileRefused: the name is invalid (``bad_name``), or the file is larger than the limit (``too_large``).
    """
    if problem := name_problem(offer.name):
        raise FileRefused("bad_name", f"invalid file name {offer.name!r}: {problem}")
    if offer.size_bytes > limits.file_bytes:
        raise FileRefused(
            "too_large", f"the file has {offer.size_bytes} bytes; at most {limits.file_bytes} are accepted"
        )


def check_concurrency(in_all: int, of_line: int, of_peer: int, limits: FileLimits) -> None:
    """Check the number of transfers before one more begins.

    :raises FileRefused: a limit is reached (``busy``).
    """
    if of_peer >= limits.files_per_peer:
        raise FileRefused("busy", f"this peer is already sending {of_peer} files; send the file later")
    if of_line >= limits.files_per_line:
        raise FileRefused("busy", f"this line is already sending {of_line} files; send the file later")
    if in_all >= limits.concurrent_files:
        raise FileRefused("busy", f"{in_all} files are already being received; send the file later")


def check_space(offer: Offer, limits: FileLimits, usage: DirectoryUsage) -> None:
    """Check that the rest of the offered file fits into the quota and on the disk.

    :raises FileRefused: it does not (``over_quota``, ``no_space``).
    """
    if usage.used_files >= limits.stored_files:
        raise FileRefused("over_quota", f"file limit reached ({usage.used_files} of {limits.stored_files})")
    needed_bytes = max(0, offer.size_bytes - usage.partial_bytes) + usage.promised_bytes
    if limits.quota_bytes is not None and usage.used_bytes + needed_bytes > limits.quota_bytes:
        raise FileRefused(
            "over_quota",
            f"quota exceeded: {usage.used_bytes} of {limits.quota_bytes} bytes are used, "
            f"and {needed_bytes} more are needed",
        )
    if needed_bytes + limits.min_free_bytes > usage.free_bytes:
        available_bytes = max(0, usage.free_bytes - limits.min_free_bytes)
        raise FileRefused(
            "no_space", f"not enough disk space: {needed_bytes} bytes are needed, {available_bytes} are free"
        )


def transfer_to_end(transfers: Sequence[ActiveTransfer], newcomer: str, limits: FileLimits) -> int | None:
    """Return the index of the transfer to end so that the peer ``newcomer`` can begin one, or ``None``.

    The transfer is idle, and its peer has more transfers than the newcomer's. So a peer gains nothing by repeating its
    offers, and a peer that occupies all transfers without sending cannot block the others.
    """
    count = Counter(transfer.peer for transfer in transfers)
    candidates = [
        (count[transfer.peer], transfer.idle_s, index)
        for index, transfer in enumerate(transfers)
        if transfer.idle_s >= limits.idle_s and count[transfer.peer] > count[newcomer]
    ]
    return max(candidates)[2] if candidates else None


def comparison_s(offset: int) -> float:
    """Return the seconds that a sender may take to read and hash the first ``offset`` bytes of its file."""
    return offset / COMPARED_BYTES_PER_S
