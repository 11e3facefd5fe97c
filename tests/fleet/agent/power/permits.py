"""Permits, for tests of power back ends."""

from __future__ import annotations

import time

from landline.fleet.agent.power import Permit


def permit(seconds: float = 60.0) -> Permit:
    """Return one that is good for that long."""
    return Permit(time.monotonic() + seconds, time.monotonic)


class Watch:
    """A clock that a test moves, and how often it was looked at."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now_s
