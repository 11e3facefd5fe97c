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

PROGRESS_BYTES: Final = 64 * 1024
"""So many bytes are progress: who sends less in ``idle_s`` seconds is idle."""
COMPARED_BYTES_PER_S: Final = 50_000_000
"""How fast a sender reads and hashes what the receiver has already, at least: half of what a hard disk does."""


class FileLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver of files takes. Every limit is one of a directory, over all lines, unless it says otherwise."""

    file_bytes: Annotated[int, Meta(ge=0)] = 16 * 1024 * _MIB
    """The largest file."""
    quota_bytes: Annotated[int, Meta(ge=0)] | None = None
    """What may lie in the directory (not below it), partial files included. Counted at each offer."""
    stored_files: Annotated[int, Meta(ge=1)] = 100_000
    """How many files may lie in the directory: empty ones fill no quota, but the disk's list of files. All of them are
    looked at with each offer."""
    min_free_bytes: Annotated[int, Meta(ge=0)] = 64 * _MIB
    """What stays free on the file system. It is no promise: others write there too."""
    concurrent_files: Annotated[int, Meta(ge=1)] = 32
    """Files being received."""
    files_per_line: Annotated[int, Meta(ge=1)] = 8
    """Files being received over one line."""
    files_per_peer: Annotated[int, Meta(ge=1)] = 16
    """Files being received from one peer over all its lines. A peer is an identity, or without one a host."""
    idle_s: Annotated[float, Meta(ge=0)] = 5.0
    """Seconds without progress (64 KiB) after which a transfer loses its place to another peer's, when all of
    ``concurrent_files`` are taken. The peer with the most transfers loses first; its partial file stays."""
    first_byte_timeout_s: Annotated[float, Meta(gt=0)] = 600.0
    """Seconds until the first byte for which a sender may say that it is at work, and send none. Reading what is
    there already, at 50 MB a second, does not count."""
    window_bytes: Annotated[int, Meta(ge=CHUNK_BYTES_MAX, le=WINDOW_BYTES_MAX)] = 4 * _MIB
    """Bytes of one file that were sent and are not written yet: the memory that each transfer may hold. Enough for a
    path whose rate times round trip is less."""
    stall_timeout_s: Annotated[float, Meta(gt=0)] = 60.0
    """Seconds without a byte over a connected line until a transfer is given up; its partial file stays."""
    transfer_timeout_s: Annotated[float, Meta(gt=0)] = 86_400.0
    """Seconds one session may spend on one file: a peer that sends a byte a minute goes too."""
    partial_files: Annotated[int, Meta(ge=1)] = 64
    """Partial files kept that nobody is sending; the oldest go first."""
    partial_retention_s: Annotated[float, Meta(ge=0)] = 7 * 86_400.0
    """Seconds a partial file is kept since its last byte. Looked at with each offer."""

    def __post_init__(self) -> None:
        # msgspec checks the annotations only of what it decodes.
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                raise ConfigurationError(f"FileLimits({field.name}={value!r}): {error}") from error


class DirectoryUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What an offer finds."""

    used_bytes: int
    """What lies in the directory."""
    used_files: int
    """How many files that is, this one's partial file not among them, with those that are under way."""
    free_bytes: int
    """What is free on its file system."""
    promised_bytes: int
    """What other transfers into it have still to bring."""
    there_bytes: int
    """How much of this file is there already."""


def check_offer(offer: Offer, limits: FileLimits) -> None:
    """Raises :class:`FileRefused` for an offer that cannot be taken whatever it finds."""
    if problem := name_problem(offer.name):
        raise FileRefused("bad_name", f"the name {offer.name!r} cannot be used: {problem}")
    if offer.size_bytes > limits.file_bytes:
        raise FileRefused(
            "too_large", f"a file of {offer.size_bytes} bytes; {limits.file_bytes} are taken here at most"
        )


class Place(NamedTuple):
    """A transfer under way, as one who wants its place sees it."""

    peer: str
    idle_s: float
    """Seconds without progress for which its sender is to blame."""


def place_to_give_up(places: Sequence[Place], newcomer: str, limits: FileLimits) -> int | None:
    """Returns the index of the transfer that gives its place to a newcomer of that peer, when all are taken.

    It is idle, and its peer has more transfers than the newcomer's: so a peer gains nothing by offering again, and who
    holds them all without sending keeps nobody out. ``None`` when there is none.
    """
    held = Counter(place.peer for place in places)
    idle = [
        (held[place.peer], place.idle_s, index)
        for index, place in enumerate(places)
        if place.idle_s >= limits.idle_s and held[place.peer] > held[newcomer]
    ]
    return max(idle)[2] if idle else None


def compare_s(there_bytes: int) -> float:
    """Returns how many seconds a sender may take to read what the receiver has already."""
    return there_bytes / COMPARED_BYTES_PER_S


def check_count(in_all: int, of_line: int, of_peer: int, limits: FileLimits) -> None:
    """Raises :class:`FileRefused` when so many files are being received that one more is too many."""
    if of_peer >= limits.files_per_peer:
        raise FileRefused("busy", f"{of_peer} files of this peer are under way already; send it later")
    if of_line >= limits.files_per_line:
        raise FileRefused("busy", f"{of_line} files are under way over this line already; send it later")
    if in_all >= limits.concurrent_files:
        raise FileRefused("busy", f"{in_all} files are under way already; send it later")


def check_room(offer: Offer, limits: FileLimits, found: DirectoryUsage) -> None:
    """Raises :class:`FileRefused` when the quota or the disk has no room for the rest of the file."""
    if found.used_files >= limits.stored_files:
        raise FileRefused(
            "over_quota", f"there are {found.used_files} files of the {limits.stored_files} there may be"
        )
    missing = max(0, offer.size_bytes - found.there_bytes) + found.promised_bytes
    if limits.quota_bytes is not None and found.used_bytes + missing > limits.quota_bytes:
        raise FileRefused(
            "over_quota",
            f"the directory holds {found.used_bytes} bytes of the {limits.quota_bytes} it may, "
            f"and {missing} more are offered",
        )
    if missing + limits.min_free_bytes > found.free_bytes:
        raise FileRefused(
            "no_space",
            f"{missing} bytes are missing, and {max(0, found.free_bytes - limits.min_free_bytes)} are free",
        )
