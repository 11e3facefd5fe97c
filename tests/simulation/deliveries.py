"""Who sent what to whom: checked at every arrival, and again when everything is at rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec
from tests.simulation.world import World

from landline import Line, Unconfirmed

_Key = tuple[bytes, bool, bool]


class Deliveries:
    """Messages by session, direction and lane. A message is ``[lane, number, session id, padding]``."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sent: dict[_Key, int] = defaultdict(int)
        self._arrived: dict[_Key, int] = defaultdict(int)
        self._reported: dict[_Key, set[int]] = defaultdict(set)
        self._excused: set[tuple[bytes, bool]] = set()

    @property
    def count(self) -> int:
        return sum(self._arrived.values())

    def next_message(self, line: Line, *, by_server: bool, bulk: bool, size: int = 0) -> list:
        """Return the next message to send. Call :meth:`sent` when the line has accepted it."""
        number = self._sent[line.session_id, by_server, bulk] + 1
        return [bulk, number, line.session_id, bytes(size)]

    def sent(self, message: list, *, by_server: bool) -> None:
        bulk, number, session_id, _ = message
        self._sent[session_id, by_server, bulk] = number

    def arrived(self, message: list, *, by_server: bool) -> None:
        """Record a message that arrived. It must be the next one of its lane."""
        bulk, number, session_id, _ = message
        key = (session_id, by_server, bulk)
        expected = self._arrived[key] + 1
        if number != expected:
            self._world.fail(f"message {number} arrived where {expected} was due ({_name(key)})")
        if number > self._sent[key]:
            self._world.fail(f"message {number} arrived and was never sent ({_name(key)})")
        self._arrived[key] = number

    def reported(self, unconfirmed: Sequence[Unconfirmed], *, by_server: bool) -> None:
        """Record that a session ended, and that its sender was notified of these unconfirmed messages."""
        for message in unconfirmed:
            body = msgspec.msgpack.decode(message.body)
            if isinstance(body, list) and len(body) == 4:
                bulk, number, session_id, _ = body
                self._reported[session_id, by_server, bulk].add(number)

    def excuse(self, *, by_server: bool, session_ids: Iterable[bytes]) -> None:
        """Record that the sender of these sessions died: it cannot be notified."""
        self._excused.update((session_id, by_server) for session_id in session_ids)

    def check_rest(self, live: set[bytes]) -> None:
        """Check that every message arrived, or that its sender was notified that it may not have."""
        for key, sent in self._sent.items():
            session_id, by_server, _ = key
            missing = set(range(self._arrived[key] + 1, sent + 1))
            if missing and session_id in live:
                self._world.fail(f"{len(missing)} of {sent} messages never arrived ({_name(key)})")
            silent = missing - self._reported[key]
            if silent and session_id not in live and (session_id, by_server) not in self._excused:
                self._world.fail(
                    f"{len(silent)} of {sent} messages were lost without a report to the sender ({_name(key)})"
                )


def _name(key: _Key) -> str:
    session_id, by_server, bulk = key
    return f"session {session_id.hex()[:8]}, from the {'server' if by_server else 'client'}, bulk={bulk}"
