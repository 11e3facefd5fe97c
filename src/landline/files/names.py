"""Which names a file may be stored under. The name comes from the peer and is hostile until it was here."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

NAME_BYTES_MAX: Final = 255
"""What Linux, macOS and Windows take as one part of a path."""

_NOT_SHOWN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_NOT_PORTABLE: Final = frozenset('/\\:*?"<>|')
# Windows opens a device for these, whatever their extension ("Naming Files, Paths, and Namespaces").
_DEVICE: Final = re.compile(
    r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)( *\..*)?", re.IGNORECASE
)


def name_problem(name: str) -> str | None:
    """What is wrong with a file's name, as the rest of a sentence; ``None`` for one that can be used everywhere.

    A name is one part of a path, can be shown in a terminal, is not hidden, and means a file on Windows too.
    """
    if not name:
        return "it is empty"
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        return "it is not Unicode"
    if size_bytes > NAME_BYTES_MAX:
        return f"it has {size_bytes} bytes, and {NAME_BYTES_MAX} are allowed"
    if name.startswith("."):
        return "it begins with a dot, and hidden files are not taken"
    if name != name.strip() or name.endswith("."):
        return "it begins or ends with a space, or ends with a dot"
    for character in name:
        if character in _NOT_PORTABLE:
            return f"it holds {character!r}, which is not allowed in a file's name"
        if unicodedata.category(character) in _NOT_SHOWN:
            return f"it holds the character U+{ord(character):04X}, which cannot be shown"
    if _DEVICE.fullmatch(name):
        return "Windows takes it for a device"
    return None
