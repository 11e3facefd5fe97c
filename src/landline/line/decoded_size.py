"""What a MessagePack body becomes in memory: a byte of it may be 90 bytes of Python objects.

A peer chooses the bytes, so how many objects they may become is limited before they are decoded, and what is at work is
counted by what it takes and not by what was sent.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from landline.errors import ConfigurationError

MESSAGE_OBJECTS: Final = 100_000
"""Values of one body that take an object of their own, by default: maps, arrays, texts, numbers but those of one byte;
and the entries of maps with more than fifteen. Decoding so many takes 10 to 30 ms, in which the event loop does nothing
else, and 5 to 70 MB."""
MESSAGE_OBJECTS_MIN: Final = 2_000
"""More than a datagram has bytes."""
FEW_OBJECTS: Final = 64
"""So many are counted one by one before anything else is done: a large body is often one large text."""

MANY: Final = 64
"""Values that are passed over in one go: 0.1 µs for each, a seventh of what one alone takes."""

SHORT_BYTES_MAX: Final = 31
"""Values with a length of their own, up to this size, are passed over like that. Of longer ones a body has too few to
matter."""

DECODED_FACTOR_MAX: Final = 96
"""Bytes of memory for a byte of any body: a map with one small number, three bytes, takes 272."""

# Measured with CPython 3.11 to 3.13 and rounded up, with what the garbage collector keeps and the place in a list.
_VALUE_BYTES: Final = 8
_VALUE_OF_LARGE_MAP_BYTES: Final = 40
_MAP_BYTES: Final = 648  # with up to 15 entries
_ARRAY_BYTES: Final = 72
_OTHER_BYTES: Final = 92
_TEXT_FACTOR: Final = 5
"""Four bytes a character where one of a text needs as many, and one while it is decoded."""

_SHARED: Final = frozenset([*range(0x80), 0xC0, 0xC2, 0xC3])
"""First bytes of values that Python has one object of, for all: 0 to 127, nil, true and false."""
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

# How many bytes a value has behind its first one, where that says so; containers are only their headers.
_SIZES: Final = (
    dict.fromkeys([*range(0x80, 0xA0), *range(0xE0, 0x100), 0xC1], 0)
    | {0xA0 + size: size for size in range(32)}
    | {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
    | {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
)
_SIZES_OF_COUNTS: Final = {0xDE: 2, 0xDF: 4}
"""Of large maps, whose entries are counted as well: they need more room than the values in them."""
# How many bytes of length stand behind the first one, and how many more belong to the value beside what they count.
_LENGTHS: Final = (
    dict.fromkeys([0xC4, 0xD9], (1, 0))
    | dict.fromkeys([0xC5, 0xDA], (2, 0))
    | dict.fromkeys([0xC6, 0xDB], (4, 0))
    | {0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
)


def check_message_objects(message_objects: int) -> int:
    """The limit itself. Raises :class:`ConfigurationError` for one that makes no sense."""
    if message_objects < MESSAGE_OBJECTS_MIN:
        raise ConfigurationError(
            f"message_objects={message_objects}: {MESSAGE_OBJECTS_MIN} are the least that makes sense"
        )
    return message_objects


def check_objects(body: bytes, objects_max: int) -> None:
    """Raises :class:`msgspec.DecodeError` for a body of more than ``objects_max`` objects. It may be malformed.

    Costs nothing for bodies of fewer bytes than that, 0.1 ms for those with few objects, and for most others less than
    decoding them.
    """
    size = len(body)
    if size <= objects_max or _count(body, FEW_OBJECTS)[0] <= FEW_OBJECTS:
        return
    # Bytes inside texts and numbers are counted too, so it may be less, but only with large maps more.
    if not _has_large_map(body) and size - body.translate(_CLASSES).count(_SHARED_CLASS) <= objects_max:
        return
    if _has_more(body, objects_max):
        raise msgspec.DecodeError(f"a value of more than {objects_max:,} objects")


def decoded_bytes(body: bytes) -> int:
    """At most how much memory a packed body takes once it is decoded, which costs about as much as decoding it."""
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
    """Whether a map with more than fifteen entries may be in it."""
    return b"\xde" in body or b"\xdf" in body


def _count(body: bytes, limit: int) -> tuple[int, int, bool]:
    """How many values of a body take an object of their own, how many are shared, and whether one is a large map.

    It stops above the limit.
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
    """Whether more values of a body than that take an object of their own: as :func:`_count`, for many."""
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
    """How many entries the large map has whose first byte that is; 0 for anything else."""
    size = _SIZES_OF_COUNTS.get(body[position], 0)
    return int.from_bytes(body[position + 1 : position + 1 + size], "big")


def _end_of(body: bytes, position: int) -> int:
    """Where the value that begins there ends, or of an array or a map its header."""
    first = body[position]
    size = _SIZES.get(first)
    if size is None:
        length, size = _LENGTHS[first]
        size += length + int.from_bytes(body[position + 1 : position + 1 + length], "big")
    return min(len(body), position + 1 + size)


def _many_pattern() -> bytes:
    """So many values of which the first bytes say how long they are, with those that are shared between them."""
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
    """The last byte of a length and what it counts, for all short lengths: many such values are few bytes."""
    return [b"\\x%02x.{%d}" % (size, size + more) for size in range(SHORT_BYTES_MAX + 1)]


_skip_many: Final = re.compile(_many_pattern(), re.DOTALL).match
