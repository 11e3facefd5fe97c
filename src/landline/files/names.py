"""Which names a file may be stored under. The name comes from the peer and is not trusted before it passes here."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

NAME_BYTES_MAX: Final = 255
"""The longest component of a path on Linux, macOS and Windows."""

_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_NOT_PORTABLE: Final = frozenset('/\\:*?"<>|')
# Windows opens a device for these, whatever their extension ("Naming Files, Paths, and Namespaces").
_DEVICE: Final = re.compile(
    r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)( *\..*)?", re.IGNORECASE
)


def name_problem(name: str) -> str | None:
    """Return why a file name is invalid, as the rest of a sentence, or ``None`` for a valid name.

    A valid name is one component of a path, can be shown in a terminal, is not hidden, and means a file on Windows too.
    """
    if not name:
        return "it is empty"
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if size_bytes > NAME_BYTES_MAX:
        return f"it has {size_bytes} bytes, and {NAME_BYTES_MAX} are allowed"
    if name.startswith("."):
        return "it begins with a dot, and hidden files are not allowed"
    if name != name.strip() or name.endswith("."):
        return "it begins or ends with a space, or ends with a dot"
    for char in name:
        if char in _NOT_PORTABLE:
            return f"it contains {char!r}, which is not allowed in a file name"
        if unicodedata.category(char) in _INVISIBLE:
            return f"it contains the character U+{ord(char):04X}, which cannot be displayed"
    if _DEVICE.fullmatch(name):
        return "it is the name of a device on Windows"
    return None
