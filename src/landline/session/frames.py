"""Encoding and decoding of frames (``docs/protocol.md`` §3 and §5).

A frame is ``u32 length · u8 kind · body``, big-endian; the length counts the kind and the body.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final
from zlib import crc32

from landline.codes import Code
from landline.errors import MessageTooLarge, ProtocolError
from landline.session.constants import (
    DATAGRAM_BYTES_MAX,
    FLAG_PACKED,
    HANDSHAKE_BYTES_MAX,
    LENGTH_BYTES,
    NAME_BYTES_MAX,
    Kind,
)

FRAME_HEADER: Final = Struct(">IB")
"""length · kind"""
DATA_HEADER: Final = Struct(">IBQBBQB")
"""length · kind · sequence · flags · operation · correlation · name length"""
SEQUENCE_FRAME: Final = Struct(">IBQ")
"""ACK and EOF: length · kind · sequence"""
PING_FRAME: Final = Struct(">IBQQQI")
"""PING and PONG: length · kind · number · sender's time in µs · acknowledged · CRC-32 of these three"""
PING_BODY: Final = Struct(">QQQ")
DATAGRAM_HEADER_BYTES: Final = 2
"""flags · name length, in the body of a DATAGRAM frame"""

FRAME_HEADER_BYTES: Final = FRAME_HEADER.size
DATA_HEADER_BYTES: Final = DATA_HEADER.size
DATA_LENGTH_BASE: Final = DATA_HEADER_BYTES - LENGTH_BYTES
"""The length field of a DATA frame without a name and a payload."""
KIND_OFFSET: Final = LENGTH_BYTES
"""The position of the kind in a frame."""
OPERATION_OFFSET: Final = 14
"""The position of the operation in a DATA frame."""


def encode_frame(kind: Kind, body: bytes) -> bytes:
    """Return a frame of any kind around its encoded body."""
    return FRAME_HEADER.pack(1 + len(body), kind) + body


def encode_data(
    sequence: int, flags: int, operation: int, correlation: int, name: bytes, payload: bytes
) -> bytes:
    """Return a DATA frame (§5.1)."""
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


def encode_ack(acked: int) -> bytes:
    """Return an ACK: the application has every frame up to ``acked`` (§5.3)."""
    return SEQUENCE_FRAME.pack(9, Kind.ACK, acked)


def encode_eof(sequence: int) -> bytes:
    """Return an EOF, which carries the last sequence number of its sender (§5.4)."""
    return SEQUENCE_FRAME.pack(9, Kind.EOF, sequence)


def decode_sequence(body: bytes) -> int:
    """Return the number in the body of an ACK or EOF. Raise :class:`ProtocolError` for a wrong size."""
    if len(body) != 8:
        raise ProtocolError(f"a sequence number of {len(body)} bytes instead of 8")
    return int.from_bytes(body, "big")


def encode_ping(kind: Kind, number: int, time_us: int, acked: int) -> bytes:
    """Return a PING, or the PONG that answers it (§6.1)."""
    return PING_FRAME.pack(29, kind, number, time_us, acked, crc32(PING_BODY.pack(number, time_us, acked)))


def decode_ping(body: bytes) -> tuple[int, int, int]:
    """Return the number, the sender's time in µs, and the acknowledged number in the body of a PING or PONG.

    :raises ProtocolError: when the size or the checksum is wrong.
    """
    if len(body) != PING_BODY.size + 4:
        raise ProtocolError(f"a heartbeat of {len(body)} bytes instead of 28")
    if crc32(body[: PING_BODY.size]) != int.from_bytes(body[PING_BODY.size :], "big"):
        raise ProtocolError("a heartbeat with a wrong checksum")
    number, time_us, acked = PING_BODY.unpack_from(body)
    return number, time_us, acked


def encode_datagram(name: bytes, body: bytes, *, is_packed: bool) -> bytes:
    """Return a DATAGRAM frame (§5.7).

    :raises MessageTooLarge: when the name, or name and body together, are too long.
    """
    size = DATAGRAM_HEADER_BYTES + len(name) + len(body)
    if len(name) > NAME_BYTES_MAX:
        raise MessageTooLarge(f"a name of {len(name)} bytes; at most {NAME_BYTES_MAX} are allowed")
    if size > DATAGRAM_BYTES_MAX:
        raise MessageTooLarge(
            f"a datagram of {size} bytes with its name; at most {DATAGRAM_BYTES_MAX} are allowed "
            "(send it as a message)"
        )
    flags = FLAG_PACKED if is_packed else 0
    return FRAME_HEADER.pack(1 + size, Kind.DATAGRAM) + bytes((flags, len(name))) + name + body


def decode_datagram(data: bytes) -> tuple[str, bytes, bool]:
    """Return the name, the body, and whether it is MessagePack, from the body of a DATAGRAM frame.

    :raises ProtocolError: for a wrong size, unknown flags, or a name that is not UTF-8.
    """
    if len(data) > DATAGRAM_BYTES_MAX:
        raise ProtocolError(
            f"a datagram of {len(data)} bytes; at most {DATAGRAM_BYTES_MAX} are allowed", Code.LIMIT_EXCEEDED
        )
    if len(data) < DATAGRAM_HEADER_BYTES or len(data) < DATAGRAM_HEADER_BYTES + data[1]:
        raise ProtocolError(f"a datagram of {len(data)} bytes is shorter than its header and name")
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
        """Yield ``(kind, body)`` of every frame that is whole now.

        :raises ProtocolError: for an empty frame or one above the limit, before it is whole.
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
        """Return and forget the bytes after the last whole frame."""
        data, self._buffer = self._buffer, b""
        return data


class ByeFinder:
    """Looks for a BYE in the bytes of a session that is no longer parsed, without holding them.

    :param trailing_data: the bytes that arrived before and were not parsed, from the start of a frame.
    """

    __slots__ = ("_head", "_is_bye", "_left_bytes", "is_found")

    def __init__(self, trailing_data: bytes = b"") -> None:
        self._head = b""
        self._is_bye = False
        # The missing bytes of the body of the current frame.
        self._left_bytes = 0
        self.is_found: bool = self.feed(trailing_data)
        """Whether ``trailing_data`` contains a BYE."""

    def feed(self, data: bytes) -> bool:
        """Return whether a BYE is whole now. Bytes that are not a valid frame are skipped."""
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
    """Raise :class:`ProtocolError` unless a length field is between 1 and ``limit_bytes``."""
    if length == 0:
        raise ProtocolError("an empty frame")
    if length > limit_bytes:
        raise ProtocolError(
            f"a frame of {length} bytes; at most {limit_bytes} are allowed", Code.LIMIT_EXCEEDED
        )
