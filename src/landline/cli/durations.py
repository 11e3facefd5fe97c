"""Durations as people type them: ``5s``, ``2m``, ``1h30m``."""

from __future__ import annotations

import re
from typing import Final

from landline.cli.exit_codes import WrongUse

_PATTERN: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_SECONDS: Final = (86_400, 3_600, 60, 1)

DURATION_S_MAX: Final = 365 * 86_400
"""Longer than a year is a slip of the finger."""


def parse_duration(text: str, option: str) -> float:
    """Seconds of ``1d``, ``8h``, ``2m``, ``5s`` or several of them, largest unit first.

    Raises :class:`landline.cli.exit_codes.WrongUse` with a sentence that names ``option``.
    """
    match = _PATTERN.fullmatch(text)
    if not text or match is None:
        raise WrongUse(
            f"{option} takes a duration such as 30s, 2m, 8h or 1h30m, not '{text[:40]}'; give the unit too."
        )
    # Cut to twelve digits: too long already, and Python refuses to convert thousands of them.
    seconds = sum(int(n[:12]) * unit for n, unit in zip(match.groups("0"), _SECONDS, strict=True))
    if seconds > DURATION_S_MAX:
        raise WrongUse(f"{option} takes at most a year, not '{text[:40]}'; give a shorter duration.")
    return float(seconds)
