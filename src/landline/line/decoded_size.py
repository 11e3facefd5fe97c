"""Estimates the memory of a decoded MessagePack body: one byte of it may become 90 bytes of Python objects.

The peer chooses the bytes. Therefore the number of objects is limited before a body is decoded, and messages that are
being handled are counted by the memory they take, not by the bytes that were sent.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from landline.errors import ConfigurationError

MESSAGE_OBJECTS: Final = 100_000
"""Default maximum of objects in one body: maps, arrays, texts, numbers of more than one byte, and the entries of maps
with more than fifteen. Decoding this many takes 10 to 30 ms, during which the event loop is blocked, and 5 to 70 MB."""
MESSAGE_OBJECTS_MIN: Final = 2_000
"""More than the bytes of a datagram."""
FEW_OBJECTS: Final = 64
"""This many objects are counted one by one first: a large body is often one large text."""

MANY: Final = 64
"""Values that are skipped by one match: 0.1 µs each, a seventh of the time for a single value."""

SHORT_BYTES_MAX: Final = 31
"""Values with an explicit length are skipped like that up to this size. A body has too few longer ones to matter."""

DECODED_FACTOR_MAX: Final = 96
"""The maximum bytes of memory per byte of a body: a map with one small number, three bytes, takes 272."""

# Measured with CPython 3.11 to 3.13 and rounded up, including the garbage collector header and the slot in a list.
_VALUE_BYTES: Final = 8
_VALUE_OF_LARGE_MAP_BYTES: Final = 40
_MAP_BYTES: Final = 648  # with up to 15 entries
_ARRAY_BYTES: Final = 72
_OTHER_BYTES: Final = 92
_TEXT_FACTOR: Final = 5
"""Four bytes per character if one character of the text needs four, and one more while it is decoded."""

_SHARED: Final = frozenset([*range(0x80), 0xC0, 0xC2, 0xC3])
"""First bytes of values that share one Python object: 0 to 127, nil, true and false."""
_MAPS: Final = frozenset([*range(0x80, 0x90), 0xDE, 0xDF])
_ARRAYS: Final = frozenset([*range(0x90, 0xA0), 0xDC, 0xDD])
_SHARED_CLASS, _MAP_CLASS, _ARRAY_CLASS, _OTHER_CLASS = b"smao"
_CLASSES: Final = bytes(
    _SHARED_CLASS
    if byte in _SHARED
    else _MAP_CLASS
    if byte in _MAPS
    else _ARRAY_CLASS
    if byte in _ARRAYS
    else _OTHER_CLASS
    for byte in range(256)
)

_SHARED_RUN: Final = rb"[\x00-\x7f\xc0\xc2\xc3]*+"
_skip_shared: Final = re.compile(_SHARED_RUN).match

# The number of bytes after the first byte of a value, if that byte determines it; for containers, of the header.
_SIZES: Final = (
    dict.fromkeys([*range(0x80, 0xA0), *range(0xE0, 0x100), 0xC1], 0)
    | {0xA0 + size: size for size in range(32)}
    | {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
    | {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
)
_SIZES_OF_COUNTS: Final = {0xDE: 2, 0xDF: 4}
"""The same for large maps, whose entries are counted too: they need more memory than their values."""
# The number of length bytes after the first byte, and of further bytes of the value that the length does not count.
_LENGTHS: Final = (
    dict.fromkeys([0xC4, 0xD9], (1, 0))
    | dict.fromkeys([0xC5, 0xDA], (2, 0))
    | dict.fromkeys([0xC6, 0xDB], (4, 0))
    | {0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
)


def check_message_objects(message_objects: int) -> int:
    """Return the limit. Raise :class:`ConfigurationError` if it is too small."""
    if message_objects < MESSAGE_OBJECTS_MIN:
        raise ConfigurationError(
            f"message_objects={message_objects}: it must be at least {MESSAGE_OBJECTS_MIN}"
        )
    return message_objects


def check_objects(body: bytes, objects_max: int) -> None:
    """Raise :class:`msgspec.DecodeError` for a body of more than ``objects_max`` objects. It may be malformed.

    Costs nothing for bodies with fewer bytes than that, 0.1 ms for those with few objects, and for most others less
    than decoding.
    """
    size = len(body)
    if size <= objects_max or _count(body, FEW_OBJECTS)[0] <= FEW_OBJECTS:
        return
    # Bytes inside texts and numbers are counted too: the true number may be lower, and higher only with large maps.
    if not _has_large_map(body) and size - body.translate(_CLASSES).count(_SHARED_CLASS) <= objects_max:
        return
    if _has_more(body, objects_max):
        raise msgspec.DecodeError(f"a value of more than {objects_max:,} objects")


def decoded_bytes(body: bytes) -> int:
    """Return the maximum memory that a decoded body takes. This costs about as much as decoding it."""
    size = len(body)
    objects, shared, has_large_map = _count(body, FEW_OBJECTS)
    if objects <= FEW_OBJECTS:
        value_bytes = _VALUE_OF_LARGE_MAP_BYTES if has_large_map else _VALUE_BYTES
        return value_bytes * shared + _TEXT_FACTOR * (size - shared) + _MAP_BYTES * objects
    classes = body.translate(_CLASSES)
    maps, arrays = classes.count(_MAP_CLASS), classes.count(_ARRAY_CLASS)
    others = classes.count(_OTHER_CLASS)
    value_bytes = _VALUE_OF_LARGE_MAP_BYTES if _has_large_map(body) else _VALUE_BYTES
    counted = value_bytes * size + _MAP_BYTES * maps + _ARRAY_BYTES * arrays + _OTHER_BYTES * others
    return min(counted, DECODED_FACTOR_MAX * size)


def _has_large_map(body: bytes) -> bool:
    """Return whether the body may contain a map with more than fifteen entries."""
    return b"\xde" in body or b"\xdf" in body


def _count(body: bytes, limit: int) -> tuple[int, int, bool]:
    """Return how many values of a body need their own object, how many are shared, and whether one is a large map.

    Stops above the limit.
    """
    position, end = 0, len(body)
    objects = shared = 0
    has_large_map = False
    while True:
        run = _skip_shared(body, position)
        assert run is not None
        shared += run.end() - position
        position = run.end()
        if position >= end:
            return objects, shared, has_large_map
        entries = _entries_at(body, position)
        objects += 1 + entries
        if objects > limit:
            return objects, shared, has_large_map
        has_large_map = has_large_map or entries > 0
        position = _end_of(body, position)


def _has_more(body: bytes, objects_max: int) -> bool:
    """Return whether more values than that need their own object: :func:`_count` for large numbers."""
    position, end = 0, len(body)
    objects = 0
    while position < end and objects <= objects_max:
        while many := _skip_many(body, position):
            position = many.end()
            objects += MANY
            if objects > objects_max:
                return True
        for _ in range(MANY):
            run = _skip_shared(body, position)
            assert run is not None
            position = run.end()
            if position >= end:
                break
            objects += 1 + _entries_at(body, position)
            position = _end_of(body, position)
    return objects > objects_max


def _entries_at(body: bytes, position: int) -> int:
    """Return the number of entries of the large map at this position; 0 for any other value."""
    size = _SIZES_OF_COUNTS.get(body[position], 0)
    return int.from_bytes(body[position + 1 : position + 1 + size], "big")


def _end_of(body: bytes, position: int) -> int:
    """Return the end of the value at this position; for an array or a map, the end of its header."""
    first = body[position]
    size = _SIZES.get(first)
    if size is None:
        length, size = _LENGTHS[first]
        size += length + int.from_bytes(body[position + 1 : position + 1 + length], "big")
    return min(len(body), position + 1 + size)


def _many_pattern() -> bytes:
    """Return a pattern for :data:`MANY` values whose first bytes give their length, and shared values between them."""
    by_size: dict[int, list[int]] = {}
    for first, size in _SIZES.items():
        if first in _SIZES_OF_COUNTS:
            continue
        by_size.setdefault(size, []).append(first)
    kinds = [
        b"[" + b"".join(b"\\x%02x" % first for first in firsts) + b"]" + (b".{%d}" % size if size else b"")
        for size, firsts in sorted(by_size.items())
    ]
    kinds += [
        b"\\x%02x" % first + b"\\x00" * (length - 1) + b"(?:" + b"|".join(_short(more)) + b")"
        for first, (length, more) in _LENGTHS.items()
    ]
    return b"(?>" + _SHARED_RUN + b"(?:" + b"|".join(kinds) + b")){%d}+" % MANY


def _short(more: int) -> list[bytes]:
    """Return the last byte of a length and the bytes it counts, for all short lengths."""
    return [b"\\x%02x.{%d}" % (size, size + more) for size in range(SHORT_BYTES_MAX + 1)]


_skip_many: Final = re.compile(_many_pattern(), re.DOTALL).match
