"""What a receiver takes and a sender may send: limits, the states of a transfer, the credit window. All of it pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from landline.errors import ConfigurationError, FileRefused
from landline.files.messages import CHUNK_BYTES_MAX, Accept, Offer
from landline.files.names import name_problem

_MIB: Final = 1024 * 1024
WINDOW_BYTES_MAX: Final = 64 * _MIB
"""A sender never has more than this under way for one file, whatever window it was given."""
CREDIT_SHARE: Final = 4
"""A receiver says what it has written at least whenever this part of its window was written."""

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
    files_kept: Annotated[int, Meta(ge=1)] = 100_000
    """How many files may lie in the directory: empty ones fill no quota, but the disk's list of files. All of them are
    looked at with each offer."""
    free_bytes: Annotated[int, Meta(ge=0)] = 64 * _MIB
    """What stays free on the file system. It is no promise: others write there too."""
    files_at_once: Annotated[int, Meta(ge=1)] = 32
    """Files being received."""
    files_of_a_line: Annotated[int, Meta(ge=1)] = 8
    """Files being received over one line."""
    files_of_a_peer: Annotated[int, Meta(ge=1)] = 16
    """Files being received from one peer over all its lines. A peer is an identity, or without one a host."""
    idle_s: Annotated[float, Meta(ge=0)] = 5.0
    """Seconds without progress (64 KiB) after which a transfer loses its place to another peer's, when all of
    ``files_at_once`` are taken. The peer with the most transfers loses first; its partial file stays."""
    begin_timeout_s: Annotated[float, Meta(gt=0)] = 600.0
    """Seconds until the first byte for which a sender may say that it is at work, and send none. Reading what is
    there already, at 50 MB a second, does not count."""
    window_bytes: Annotated[int, Meta(ge=CHUNK_BYTES_MAX, le=WINDOW_BYTES_MAX)] = 4 * _MIB
    """Bytes of one file that were sent and are not written yet: what each of ``files_at_once`` may hold in memory. It
    fills a path whose rate times round trip is less."""
    stall_timeout_s: Annotated[float, Meta(gt=0)] = 60.0
    """Seconds without a byte over a connected line until a transfer is given up; its partial file stays."""
    transfer_timeout_s: Annotated[float, Meta(gt=0)] = 86_400.0
    """Seconds one session may spend on one file: a peer that sends a byte a minute goes too."""
    partials: Annotated[int, Meta(ge=1)] = 64
    """Partial files kept that nobody is sending; the oldest go first."""
    partial_kept_s: Annotated[float, Meta(ge=0)] = 7 * 86_400.0
    """Seconds a partial file is kept since its last byte. Looked at with each offer."""

    def __post_init__(self) -> None:
        # msgspec checks the annotations only of what it decodes.
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                raise ConfigurationError(f"FileLimits({field.name}={value!r}): {error}") from error


class Stage(StrEnum):
    """Where a transfer stands, as its receiver sees it."""

    OFFERED = "offered"
    ACCEPTED = "accepted"
    RECEIVING = "receiving"
    ENDED = "ended"


class Input(StrEnum):
    """What moves it on."""

    ACCEPT = "accept"
    CHUNK = "chunk"
    END = "end"


_NEXT: Final = {
    (Stage.OFFERED, Input.ACCEPT): Stage.ACCEPTED,
    (Stage.ACCEPTED, Input.CHUNK): Stage.RECEIVING,
    (Stage.ACCEPTED, Input.END): Stage.ENDED,
    (Stage.RECEIVING, Input.CHUNK): Stage.RECEIVING,
    (Stage.RECEIVING, Input.END): Stage.ENDED,
}
"""What is not here breaks the protocol. Every stage can be left by refusing, cancelling or losing the session."""


class Reception:
    """The receiver's account of one transfer: what may come next, and how much of it is not written yet."""

    __slots__ = (
        "received_bytes",
        "resumed_from",
        "size_bytes",
        "stage",
        "told_bytes",
        "window_bytes",
        "written_bytes",
    )

    def __init__(self, size_bytes: int, window_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.window_bytes = window_bytes
        self.stage = Stage.OFFERED
        self.resumed_from = 0
        self.received_bytes = 0
        self.written_bytes = 0
        self.told_bytes = 0

    def accept(self, offset: int) -> None:
        """The offer is taken; ``offset`` bytes of the file are there already."""
        self._step(Input.ACCEPT)
        self._start_at(offset)

    def receive_chunk(self, offset: int, size_bytes: int) -> bool:
        """A chunk came. Returns whether the file begins anew with it.

        The first chunk may be at offset 0 whatever was there: the sender's file begins otherwise. Raises
        :class:`FileRefused` with the code ``broken`` for a chunk that is not the next one, is empty or too large, or
        for which there is no room in the file or in the window.
        """
        is_first = self.stage is Stage.ACCEPTED
        self._step(Input.CHUNK)
        is_restart = is_first and offset == 0 and self.received_bytes > 0
        if is_restart:
            self._start_at(0)
        if offset != self.received_bytes:
            raise _broken(f"a chunk at {offset}, where {self.received_bytes} was next")
        if not 0 < size_bytes <= CHUNK_BYTES_MAX:
            raise _broken(f"a chunk of {size_bytes} bytes; 1 to {CHUNK_BYTES_MAX} are allowed")
        if offset + size_bytes > self.size_bytes:
            raise _broken(f"more than the {self.size_bytes} bytes that were offered")
        self.received_bytes += size_bytes
        if self.received_bytes - self.written_bytes > self.window_bytes:
            raise _broken(f"more than the {self.window_bytes} bytes of the window at once")
        return is_restart

    def receive_end(self) -> None:
        """The sender says that this is all. Raises :class:`FileRefused` when it is not."""
        self._step(Input.END)
        if self.received_bytes != self.size_bytes:
            raise _broken(f"an end after {self.received_bytes} of {self.size_bytes} bytes")

    def wrote(self, size_bytes: int) -> bool:
        """So many more bytes are in the file. Returns whether the sender is to hear of it now."""
        self.written_bytes += size_bytes
        untold = self.written_bytes - self.told_bytes
        if untold * CREDIT_SHARE < self.window_bytes and self.written_bytes < self.size_bytes:
            return False
        self.told_bytes = self.written_bytes
        return True

    def _start_at(self, offset: int) -> None:
        self.resumed_from = self.received_bytes = self.written_bytes = self.told_bytes = offset

    def _step(self, occurrence: Input) -> None:
        following = _NEXT.get((self.stage, occurrence))
        if following is None:
            raise _broken(f"{occurrence.value} of a transfer that is {self.stage.value}")
        self.stage = following


class Emission:
    """The sender's account of one transfer: how much the receiver lets it send next."""

    __slots__ = ("chunk_bytes", "resumed_from", "sent_bytes", "size_bytes", "window_bytes", "written_bytes")

    def __init__(self, size_bytes: int, accept: Accept, chunk_bytes: int, *, is_same: bool) -> None:
        """``is_same`` says whether what the receiver has is how our file begins."""
        if accept.offset > size_bytes:
            raise _broken(f"the receiver says it has {accept.offset} bytes of a file of {size_bytes}")
        self.size_bytes = size_bytes
        self.chunk_bytes = min(chunk_bytes, accept.chunk_bytes)
        self.window_bytes = min(accept.window_bytes, WINDOW_BYTES_MAX)
        self.resumed_from = self.sent_bytes = self.written_bytes = accept.offset if is_same else 0

    @property
    def next_bytes(self) -> int:
        """How large the next chunk is; 0 when all is sent, or the window is full.

        A chunk waits until the whole of it fits: many small ones would cost more than the wait.
        """
        left = min(self.chunk_bytes, self.size_bytes - self.sent_bytes, self.window_bytes)
        return left if self.sent_bytes + left - self.written_bytes <= self.window_bytes else 0

    @property
    def is_all_sent(self) -> bool:
        return self.sent_bytes == self.size_bytes

    def receive_credit(self, written_bytes: int) -> None:
        """The receiver has written so much. Raises :class:`FileRefused` when it cannot have."""
        if not self.written_bytes <= written_bytes <= self.sent_bytes:
            raise _broken(
                f"the receiver says it wrote {written_bytes} bytes, after {self.written_bytes} and of {self.sent_bytes}"
            )
        self.written_bytes = written_bytes


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
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
    if of_peer >= limits.files_of_a_peer:
        raise FileRefused("busy", f"{of_peer} files of this peer are under way already; send it later")
    if of_line >= limits.files_of_a_line:
        raise FileRefused("busy", f"{of_line} files are under way over this line already; send it later")
    if in_all >= limits.files_at_once:
        raise FileRefused("busy", f"{in_all} files are under way already; send it later")


def check_room(offer: Offer, limits: FileLimits, found: Surroundings) -> None:
    """Raises :class:`FileRefused` when the quota or the disk has no room for the rest of the file."""
    if found.used_files >= limits.files_kept:
        raise FileRefused(
            "over_quota", f"there are {found.used_files} files of the {limits.files_kept} there may be"
        )
    missing = max(0, offer.size_bytes - found.there_bytes) + found.promised_bytes
    if limits.quota_bytes is not None and found.used_bytes + missing > limits.quota_bytes:
        raise FileRefused(
            "over_quota",
            f"the directory holds {found.used_bytes} bytes of the {limits.quota_bytes} it may, "
            f"and {missing} more are offered",
        )
    if missing + limits.free_bytes > found.free_bytes:
        raise FileRefused(
            "no_space",
            f"{missing} bytes are missing, and {max(0, found.free_bytes - limits.free_bytes)} are free",
        )


def _broken(why: str) -> FileRefused:
    return FileRefused("broken", f"the transfer broke its rules: {why}")
