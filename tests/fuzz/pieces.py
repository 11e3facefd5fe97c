"""One stream, cut into pieces."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random


def pieces_of(data: bytes, seed: int) -> Iterator[bytes]:
    """Return the data in pieces: byte by byte for the seed 0, otherwise of random sizes."""
    random = Random(seed)
    sizes = [1] if seed == 0 else [1, 2, 5, 40, 1000]
    position = 0
    while position < len(data):
        size = random.choice(sizes)
        yield data[position : position + size]
        position += size
