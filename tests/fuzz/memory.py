"""How much a value holds on to."""

from __future__ import annotations

import sys
from collections import deque
from enum import Enum
from types import FunctionType, MethodType, ModuleType
from typing import Any

CONTAINERS = (list, tuple, set, frozenset, deque)
NOT_HELD = (type, FunctionType, MethodType, ModuleType, Enum)
"""Shared by all, and made once."""


def held_bytes(*roots: Any) -> int:
    """Return the bytes of the Python objects reachable from these values, each counted once."""
    seen: set[int] = set()
    waiting = list(roots)
    total = 0
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, NOT_HELD):
            continue
        seen.add(id(value))
        total += sys.getsizeof(value)
        if isinstance(value, dict):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, CONTAINERS):
            waiting += value
        elif not isinstance(value, bytes | bytearray | str | int | float):
            names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
            waiting += [getattr(value, name) for name in names if hasattr(value, name)]
            waiting += getattr(value, "__dict__", {}).values()
    return total
