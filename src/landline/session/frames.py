"""Frames: their kinds, their layout, and every limit (``docs/protocol.md`` §2, §3 and §5).

A frame is ``u32 length · u8 kind · body``, big-endian; the length counts the kind and the body.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import Final
from zlib import crc32

from landline.codes import Code
from landline.errors import MessageTooLarge, ProtocolError

PROTOCOL_VERSION: Final = 1

HANDSHAKE_BYTES_MAX: Final = 8 * 1024
"""A peer that is not welcomed yet can make us hold this much and no more."""
FRAGMENT_BYTES: Final = 16 * 1024
"""Payload of one DATA frame at most. Small enough that a heartbeat behind one takes 2 s at 64 kbit/s."""
FRAME_BYTES_MAX: Final = FRAGMENT_BYTES + 1024
"""A frame (without its length field) above this closes the link before anything is buffered. The kilobyte above
the fragment is room for the header and the name."""
NAME_BYTES_MAX: Final = 255
DATAGRAM_BYTES_MAX: Final = 1200
"""The body of a DATAGRAM frame, name included. QUIC needs paths that carry UDP payloads of this size (RFC 9000,
section 14), so it fits one packet wherever the path takes a few bytes more."""


class Kind(IntEnum):
    """What a frame is."""

    CHALLENGE = 1
    HELLO = 2
    WELCOME = 3
    REJECT = 4
    DATA = 16
    ACK = 17
    PING = 18
    PONG = 19
    DATAGRAM = 20
    EOF = 21
    BYE = 22
    NOTICE = 23


FLAG_MORE: Final = 0x01
"""More fragments of this message follow on the same lane."""
FLAG_BULK: Final = 0x02
"""The message travels on the bulk lane, which normal messages overtake."""
FLAG_PACKED: Final = 0x04
"""The body is MessagePack; otherwise it is raw bytes."""
FLAGS_KNOWN: Final = FLAG_MORE | FLAG_BULK | FLAG_PACKED

FRAME_HEADER: Final = Struct(">IB")
FRAME_HEADER_BYTES: Final = FRAME_HEADER.size
DATAGRAM_HEADER_BYTES: Final = 2
"""flags · name length, in the body of a DATAGRAM frame"""
DATA_HEADER: Final = Struct(">IBQBBQB")
"""length · kind · sequence · flags · operation · correlation · name length"""
OPERATION_OFFSET: Final = 14
"""Where the operation stands in a DATA frame."""
SEQUENCE_FRAME: Final = Struct(">IBQ")
"""ACK and EOF: length · kind · sequence"""
PING_FRAME: Final = Struct(">IBQQQI")
"""PING and PONG: length · kind · number · sender's time in µs · taken · CRC-32 of the three"""
PING_BODY: Final = Struct(">QQQ")
DATA_HEADER_BYTES: Final = DATA_HEADER.size
LENGTH_BYTES: Final = 4

# What the length field says of a DATA frame beyond its name and payload.
DATA_LENGTH_BASE: Final = DATA_HEADER.size - LENGTH_BYTES


def encode_frame(kind: Kind, body: bytes) -> bytes:
    """A frame of any kind around its encoded body."""
    return FRAME_HEADER.pack(1 + len(body), kind) + body


def encode_data(
    sequence: int, flags: int, operation: int, correlation: int, name: bytes, payload: bytes
) -> bytes:
    """One DATA frame (§5.1)."""
    return (
        DATA_HEADER.pack(
            DATA_LENGTH_BASE + len(name) + len(payload),
            Kind.DATA,
            sequence,
            flags,
            operation,
            correlation,
            len(name),
        )
        + name
        + payload
    )


def encode_ack(taken: int) -> bytes:
    """ACK: every frame up to ``taken`` has been taken by the application (§5.3)."""
    return SEQUENCE_FRAME.pack(9, Kind.ACK, taken)


def encode_eof(sequence: int) -> bytes:
    """EOF, which carries the last sequence number of its sender (§5.4)."""
    return SEQUENCE_FRAME.pack(9, Kind.EOF, sequence)


def encode_ping(kind: Kind, number: int, time_us: int, taken: int) -> bytes:
    """PING, or the PONG that answers it (§6.1)."""
    return PING_FRAME.pack(29, kind, number, time_us, taken, crc32(PING_BODY.pack(number, time_us, taken)))


def decode_ping(body: bytes) -> tuple[int, int, int]:
    """Number, sender's time in µs, and taken, of the body of a PING or PONG.

    Raises :class:`ProtocolError` when the size or the checksum is wrong.
    """
    if len(body) != PING_BODY.size + 4:
        raise ProtocolError(f"a heartbeat of {len(body)} bytes instead of 28")
    if crc32(body[: PING_BODY.size]) != int.from_bytes(body[PING_BODY.size :], "big"):
        raise ProtocolError("a heartbeat whose checksum does not fit")
    number, time_us, taken = PING_BODY.unpack_from(body)
    return number, time_us, taken


def encode_datagram(name: bytes, body: bytes, *, is_packed: bool) -> bytes:
    """A DATAGRAM frame (§5.7). Raises :class:`MessageTooLarge` above :data:`DATAGRAM_BYTES_MAX`."""
    size = DATAGRAM_HEADER_BYTES + len(name) + len(body)
    if len(name) > NAME_BYTES_MAX:
        raise MessageTooLarge(f"a name of {len(name)} bytes; {NAME_BYTES_MAX} are allowed")
    if size > DATAGRAM_BYTES_MAX:
        raise MessageTooLarge(
            f"a datagram of {size} bytes with its name; {DATAGRAM_BYTES_MAX} are allowed (send it as a message)"
        )
    flags = FLAG_PACKED if is_packed else 0
    return FRAME_HEADER.pack(1 + size, Kind.DATAGRAM) + bytes((flags, len(name))) + name + body


def decode_datagram(data: bytes) -> tuple[str, bytes, bool]:
    """Name, body, and whether that is MessagePack, of the body of a DATAGRAM frame.

    Raises :class:`ProtocolError` for what is too large or too short, for unknown flags and names that are not UTF-8.
    """
    if len(data) > DATAGRAM_BYTES_MAX:
        raise ProtocolError(
            f"a datagram of {len(data)} bytes where {DATAGRAM_BYTES_MAX} are allowed", Code.LIMIT_EXCEEDED
        )
    if len(data) < DATAGRAM_HEADER_BYTES or len(data) < DATAGRAM_HEADER_BYTES + data[1]:
        raise ProtocolError(f"a datagram of {len(data)} bytes, less than its header and name")
    flags, name_end = data[0], DATAGRAM_HEADER_BYTES + data[1]
    if flags & ~FLAG_PACKED:
        raise ProtocolError(f"unknown flags {flags:#x} in a datagram")
    try:
        name = str(data[DATAGRAM_HEADER_BYTES:name_end], "utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError("a datagram with a name that is not UTF-8") from error
    return name, data[name_end:], flags != 0


class FrameReader:
    """Splits the bytes of a handshake into frames. (A session parses in place, for speed.)"""

    __slots__ = ("_buffer", "_limit_bytes")

    def __init__(self, limit_bytes: int = HANDSHAKE_BYTES_MAX) -> None:
        self._buffer = b""
        self._limit_bytes = limit_bytes

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yields ``(kind, body)`` of every frame now whole.

        Raises :class:`ProtocolError` on a frame that is empty or above the limit, before it is whole.
        """
        self._buffer += data
        while len(self._buffer) >= LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
            check_length(length, self._limit_bytes)
            if len(self._buffer) < LENGTH_BYTES + length:
                break
            frame = self._buffer[LENGTH_BYTES : LENGTH_BYTES + length]
            self._buffer = self._buffer[LENGTH_BYTES + length :]
            yield frame[0], frame[1:]

    def pop_trailing_data(self) -> bytes:
        """The bytes behind the last whole frame, which are then forgotten here."""
        rest, self._buffer = self._buffer, b""
        return rest


class ByeFinder:
    """Looks for a BYE in bytes of a session that nobody reads any more, and keeps none of them.

    :param rest: what came before them and was not read, from the beginning of a frame on.
    """

    __slots__ = ("_head", "_is_bye", "_left_bytes", "is_found")

    def __init__(self, rest: bytes = b"") -> None:
        self._head = b""
        self._is_bye = False
        # Of the body of the frame that has begun.
        self._left_bytes = 0
        self.is_found: bool = self.feed(rest)
        """Whether there was one in ``rest``."""

    def feed(self, data: bytes) -> bool:
        """Return whether a BYE is whole. What is no frame is passed over."""
        position = 0
        end = len(data)
        while position < end:
            if not self._left_bytes:
                wanted = FRAME_HEADER_BYTES - len(self._head)
                self._head += data[position : position + wanted]
                position += wanted
                if len(self._head) < FRAME_HEADER_BYTES:
                    break
                length, kind = FRAME_HEADER.unpack(self._head)
                self._head = b""
                self._is_bye = kind == Kind.BYE
                self._left_bytes = max(length - 1, 0)
            step = min(self._left_bytes, end - position)
            self._left_bytes -= step
            position += step
            if self._is_bye and not self._left_bytes:
                return True
        return False


def check_length(length: int, limit_bytes: int) -> None:
    """Raises :class:`ProtocolError` unless a length field is between 1 and ``limit_bytes``."""
    if length == 0:
        raise ProtocolError("an empty frame")
    if length > limit_bytes:
        raise ProtocolError(f"a frame of {length} bytes where {limit_bytes} are allowed", Code.LIMIT_EXCEEDED)
