"""The messages of a file transfer (``docs/protocol.md`` §5.8)."""

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

TRANSFER_ID_BYTES: Final = 8
KEY_BYTES: Final = 16
HASH_BYTES: Final = 32
CHUNK_BYTES: Final = 7 * 16_384 - 16
"""Size of a sender's chunks, unless the receiver accepts less. With its header a chunk is exactly seven fragments
(§5.5), and below 128 KiB, from which on glibc maps and unmaps pages for each allocation."""
CHUNK_BYTES_MAX: Final = 256 * 1024
"""The largest chunk that a receiver accepts."""
CHUNK_BYTES_MIN: Final = 512
TO_CHARS_MAX: Final = 64

TransferId = Annotated[bytes, Meta(min_length=TRANSFER_ID_BYTES, max_length=TRANSFER_ID_BYTES)]
Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Hash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]

_CHUNK_HEADER: Final = struct.Struct(">8sQ")
CHUNK_HEADER_BYTES: Final = _CHUNK_HEADER.size


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """Request to send a file. The response comes when the file is stored."""

    transfer: TransferId
    key: Key
    name: Annotated[str, Meta(max_length=255)]
    to: Annotated[str, Meta(max_length=TO_CHARS_MAX)] = ""
    size_bytes: Count
    modified_ns: Count


class Accept(msgspec.Struct, frozen=True, kw_only=True):
    """The receiver accepts the file and wants its bytes from ``offset`` on.

    ``hash`` is the hash of the bytes before ``offset``. Without it, the receiver seems to have the whole file, and the
    hash in END decides.
    """

    transfer: TransferId
    offset: Count
    hash: Hash | None
    window_bytes: Annotated[int, Meta(ge=CHUNK_BYTES_MIN, le=2**63 - 1)]
    chunk_bytes: Annotated[int, Meta(ge=CHUNK_BYTES_MIN, le=2**63 - 1)]


class Credit(msgspec.Struct, frozen=True):
    """The receiver has written the first ``written_bytes`` of the file."""

    transfer: TransferId
    written_bytes: Count


class End(msgspec.Struct, frozen=True):
    """Everything is sent, with the hash of the whole file. Without a hash: the file changed, discard it."""

    transfer: TransferId
    hash: Hash | None


class Stored(msgspec.Struct, frozen=True):
    """The response to an offer: the file is on disk under this name."""

    name: str


def resume_key(name: str, to: str, size_bytes: int, modified_ns: int) -> bytes:
    """Return a key by which the receiver finds the partial file again after both sides were restarted.

    The key proves nothing: the bytes that the receiver has are compared by their hash.
    """
    packed = msgspec.msgpack.encode((name, to, size_bytes, modified_ns))
    return hashlib.blake2b(packed, digest_size=KEY_BYTES).digest()


def new_hash() -> hashlib.blake2b:
    """Return a new BLAKE2b-256 object (RFC 7693)."""
    return hashlib.blake2b(digest_size=HASH_BYTES)


def encode_chunk(transfer_id: bytes, offset: int, data: bytes) -> bytes:
    """Return the body of a CHUNK: the transfer's id, the offset as u64, and the bytes of the file from there on."""
    return _CHUNK_HEADER.pack(transfer_id, offset) + data


def decode_chunk(body: bytes) -> tuple[bytes, int, memoryview]:
    """Return the transfer's id, the offset and the data of a CHUNK.

    :raises landline.line.codec.BodyError: the body is shorter than the header.
    """
    if len(body) < CHUNK_HEADER_BYTES:
        raise BodyError(
            f"a chunk of {len(body)} bytes is shorter than its header of {CHUNK_HEADER_BYTES} bytes"
        )
    transfer_id, offset = _CHUNK_HEADER.unpack_from(body)
    return transfer_id, offset, memoryview(body)[CHUNK_HEADER_BYTES:]
