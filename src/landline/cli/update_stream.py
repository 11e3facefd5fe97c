"""Updates of the control server, across its absences."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from landline.cli.api_client import ApiClient
from landline.cli.retry import RETRY_S, ServerUnreachable
from landline.fleet.api import Update


class Disconnected(NamedTuple):
    """The control server does not answer at the moment."""

    sentence: str
    for_s: float
    """How long it has not answered."""


def live_updates(
    api: ApiClient,
    *,
    is_known: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Update | Disconnected]:
    """Yield every update, and a :class:`Disconnected` for every attempt that found no server. Never end.

    :param is_known: whether the server has answered before. If not, the first attempt must find it.
    :raises ServerUnreachable: when the first attempt finds no server, unless ``is_known``.
    :raises Refused: when the server refuses.
    """
    attempt, lost_at, was_connected = 0, 0.0, is_known
    while True:
        try:
            with contextlib.closing(api.updates()) as updates:
                for update in updates:
                    attempt, was_connected = 0, True
                    yield update
        except ServerUnreachable as error:
            if not was_connected:
                raise
            lost_at = clock() if attempt == 0 else lost_at
            yield Disconnected(f"{error.what}.", clock() - lost_at)
            sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            attempt += 1
