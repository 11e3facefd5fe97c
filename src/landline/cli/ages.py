"""How long ago something was, and when, in few characters."""

from __future__ import annotations

import time


def age(seconds: float) -> str:
    """A span in its largest units: ``12 s``, ``5 min``, ``3 h 05 min``, ``2 d 4 h``. Negative is 0."""
    s = max(0, int(seconds))
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min"
    if s < 86_400:
        return f"{s // 3600} h {s % 3600 // 60:02} min"
    return f"{s // 86_400} d {s % 86_400 // 3600} h"


def moment(at: float, now_at: float) -> str:
    """The local time of day of ``at``, with the date when that is another day than ``now_at``."""
    local, today = time.localtime(at), time.localtime(now_at)
    day = "" if local[:3] == today[:3] else time.strftime("%Y-%m-%d ", local)
    return day + time.strftime("%H:%M:%S", local)
