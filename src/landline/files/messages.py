"""What the two sides of a transfer say to each other (``docs/protocol.md`` §5.8)."""

from __future__ import annotations

import hashlib
import struct
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from landline.line.codec import BodyError

PREFIX: Final = "landline.file."
OFFER: Final = PREFIX + "offer"
ACCEPT: Final = PREFIX + "accept"
CHUNK: Final = PREFIX + "chunk"
CREDIT: Final = PREFIX + "credit"
END: Final = PREFIX + "end"
ALIVE: Final = PREFIX + "alive"

TRANSFER_BYTES: Final = 8
KEY_BYTES: Final = 16
HASH_BYTES: Final = 32
CHUNK_BYTES: Final = 7 * 16_384 - 16
"""What a sender puts into one chunk, unless the receiver takes less: with its header seven whole fragments (§5.5), and
below 128 KiB, from which on glibc maps and unmaps pages for each."""
CHUNK_BYTES_MAX: Final = 256 * 1024
"""What a receiver takes in one chunk."""
CHUNK_BYTES_MIN: Final = 512
TO_CHARACTERS_MAX: Final = 64

Transfer = Annotated[bytes, Meta(min_length=TRANSFER_BYTES, max_length=TRANSFER_BYTES)]
Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Hash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]

_CHUNK_HEADER: Final = struct.Struct(">8sQ")
CHUNK_HEADER_BYTES: Final = _CHUNK_HEADER.size


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """The request: may I send this file? It is answered when the file is stored."""

    transfer: Transfer
    key: Key
    name: Annotated[str, Meta(max_length=255)]
    to: Annotated[str, Meta(max_length=TO_CHARACTERS_MAX)] = ""
    size_bytes: Count
    modified_ns: Count


class Accept(msgspec.Struct, frozen=True, kw_only=True):
    """The receiver takes the file, from ``offset`` on.

    ``hash`` is that of what it has. Without it the whole file seems to be there, and the sender's END decides.
    """

    transfer: Transfer
    offset: Count
    hash: Hash | None
    window_bytes: Annotated[int, Meta(ge=CHUNK_BYTES_MIN, le=2**63 - 1)]
    chunk_bytes: Annotated[int, Meta(ge=CHUNK_BYTES_MIN, le=2**63 - 1)]


class Credit(msgspec.Struct, frozen=True):
    """The receiver has written the file up to ``written_bytes``."""

    transfer: Transfer
    written_bytes: Count


class End(msgspec.Struct, frozen=True):
    """All is sent, and this is the hash of the whole; or, without one, the file changed and is to be forgotten."""

    transfer: Transfer
    hash: Hash | None


class Stored(msgspec.Struct, frozen=True):
    """The answer to an offer: the file is on disk under this name."""

    name: str


def resume_key(name: str, to: str, size_bytes: int, modified_ns: int) -> bytes:
    """Names a transfer so that the same file is found again after both sides were restarted.

    It is no proof of anything: what the receiver has is compared by its hash.
    """
    packed = msgspec.msgpack.encode((name, to, size_bytes, modified_ns))
    return hashlib.blake2b(packed, digest_size=KEY_BYTES).digest()


def new_hash() -> hashlib.blake2b:
    """BLAKE2b-256 of nothing yet."""
    return hashlib.blake2b(digest_size=HASH_BYTES)


def encode_chunk(transfer: bytes, offset: int, data: bytes) -> bytes:
    """The body of a CHUNK: the transfer, the offset as u64, and the bytes of the file from there on."""
    return _CHUNK_HEADER.pack(transfer, offset) + data


def decode_chunk(body: bytes) -> tuple[bytes, int, memoryview]:
    """The parts of a CHUNK. Raises :class:`landline.line.codec.BodyError` for one that is too short."""
    if len(body) < CHUNK_HEADER_BYTES:
        raise BodyError(f"a chunk of {len(body)} bytes; {CHUNK_HEADER_BYTES} are its header")
    transfer, offset = _CHUNK_HEADER.unpack_from(body)
    return transfer, offset, memoryview(body)[CHUNK_HEADER_BYTES:]
