"""Updates that go on when the control server goes away and comes back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from landline.cli.api_client import ApiClient
from landline.cli.retry import RETRY_S, ServerGone
from landline.fleet.api import Update


class Gone(NamedTuple):
    """The control server does not answer at the moment."""

    sentence: str
    for_s: float
    """For how long by now."""


def live_updates(
    api: ApiClient,
    *,
    is_known: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Update | Gone]:
    """Every update, and a :class:`Gone` for every attempt that found no server. Never ends by itself.

    When not even the first attempt finds a server, its :class:`landline.cli.api_client.ServerGone` comes out, unless
    the server ``is_known`` to have been there. Refusals always come out.
    """
    attempt, lost_at, was_connected = 0, 0.0, is_known
    while True:
        try:
            with contextlib.closing(api.updates()) as updates:
                for update in updates:
                    attempt, was_connected = 0, True
                    yield update
        except ServerGone as gone:
            if not was_connected:
                raise
            lost_at = clock() if attempt == 0 else lost_at
            yield Gone(f"{gone.what}.", clock() - lost_at)
            sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            attempt += 1
