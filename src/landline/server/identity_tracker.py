"""The state of each identity of a server: the combined state of its lines.

A pure function decides what a change means; :class:`IdentityTracker` stores the result and calls the callback.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from itertools import chain
from typing import Final

import msgspec

from landline.line.handlers import call_back
from landline.line.line import Line
from landline.line.line_state import DisconnectCause, LineState, StateChange
from landline.signatures import check_function

REMEMBERED_IDENTITIES: Final = 10_000
"""How many identities without lines a server remembers by default, about 400 bytes for each."""


class IdentityState(StrEnum):
    """The state of an identity: that of its best line."""

    ONLINE = "online"
    SUSPECT = "suspect"
    """Connected, but no connected line of the identity has received anything for a while."""
    RECONNECTING = "reconnecting"
    """Not connected; the client may resume its session until the resume window ends."""
    GONE = "gone"
    """The identity has no lines."""


class IdentityStatus(msgspec.Struct, frozen=True):
    """The state of one identity, since when, and why."""

    state: IdentityState
    since_at: float
    """When the identity entered this state, by the server's ``clock`` (seconds; :func:`time.monotonic` by default)."""
    cause: DisconnectCause = DisconnectCause.NONE
    """Why the identity is not online."""
    detail: str = ""
    """The cause as a sentence."""


IdentityCallback = Callable[[str, IdentityStatus], object]

_BEST_FIRST: Final = {
    LineState.ONLINE: IdentityState.ONLINE,
    LineState.SUSPECT: IdentityState.SUSPECT,
    LineState.RECONNECTING: IdentityState.RECONNECTING,
}
"""The identity's state for each state of a line. The first entry that matches any line of the identity counts."""


def best_of(states: Mapping[LineState, int]) -> IdentityState:
    """Return the state of an identity, given how many of its lines are in each state."""
    return next((state for of_line, state in _BEST_FIRST.items() if states.get(of_line)), IdentityState.GONE)


def next_status(
    before: IdentityStatus | None, state: IdentityState, causes: Iterable[StateChange], now: float
) -> IdentityStatus:
    """Return the status of an identity that is now in ``state``: ``before`` itself if the state has not changed.

    :param causes: the last change of each of its lines, the newest change first. The first one that matches the state
        gives the cause.
    """
    if before is not None and before.state is state:
        return before
    if state is IdentityState.ONLINE:
        return IdentityStatus(state, now)
    cause = next(cause for cause in causes if _BEST_FIRST.get(cause.state, IdentityState.GONE) is state)
    return IdentityStatus(state, now, cause.cause, cause.detail)


class _Identity:
    """One identity that has lines."""

    __slots__ = ("lines", "states", "status")

    def __init__(self) -> None:
        self.status: IdentityStatus | None = None
        self.lines: dict[Line, LineState] = {}
        # How many lines are in each state: an identity may have thousands of lines.
        self.states: Counter[LineState] = Counter()


class IdentityTracker:
    """Tracks the state of every identity of a server; see :attr:`landline.Server.identities`.

    Lines without an identity are ignored. An identity with several lines has the state of the best of them.
    """

    __slots__ = ("_callback", "_clock", "_connected", "_gone", "_remembered_max")

    def __init__(self, clock: Callable[[], float], remembered_max: int) -> None:
        self._clock = clock
        self._remembered_max = remembered_max
        self._connected: dict[str, _Identity] = {}
        # An OrderedDict, because removing its oldest entry takes constant time.
        self._gone: OrderedDict[str, IdentityStatus] = OrderedDict()
        self._callback: IdentityCallback | None = None

    @property
    def online(self) -> dict[str, tuple[Line, ...]]:
        """The connected identities now, each with its connected lines (online or suspect)."""
        connected = {LineState.ONLINE, LineState.SUSPECT}
        found = {}
        for name, identity in self._connected.items():
            lines = tuple(line for line, state in identity.lines.items() if state in connected)
            if lines:
                found[name] = lines
        return found

    def status(self, identity: str) -> IdentityStatus | None:
        """Return the status of an identity; ``None`` if it never connected or is no longer remembered."""
        found = self._connected.get(identity)
        return found.status if found is not None else self._gone.get(identity)

    def on_change(self, callback: IdentityCallback) -> IdentityCallback:
        """Call ``callback(identity, status)`` whenever the state of an identity changes.

        The callback is a plain function, called inside the event loop; what it raises is logged. It replaces an
        earlier callback. A second line of an identity that is already online is not a change.
        """
        check_function(
            callback,
            "the callback of IdentityTracker.on_change()",
            ("identity", "status"),
            may_be_async=False,
        )
        self._callback = callback
        return callback

    def _line_changed(self, line: Line, change: StateChange) -> None:
        """Record a line's change of state; the server calls it."""
        name = line.identity
        if not name:
            return
        identity = self._connected.get(name)
        if identity is None:
            if change.state is LineState.CLOSED:
                return
            identity = self._connected[name] = _Identity()
            self._gone.pop(name, None)
        old = identity.lines.pop(line, None)
        if old is not None:
            identity.states[old] -= 1
        if change.state is not LineState.CLOSED:
            identity.lines[line] = change.state
            identity.states[change.state] += 1
        before = identity.status
        causes = chain(
            (change,), (other.last_change for other in identity.lines if other.last_change is not None)
        )
        status = next_status(before, best_of(identity.states), causes, self._clock())
        identity.status = status
        if not identity.lines:
            del self._connected[name]
            self._remember(name, status)
        if status is not before and self._callback is not None:
            call_back(self._callback, name, status)

    def _remember(self, name: str, status: IdentityStatus) -> None:
        self._gone[name] = status
        if len(self._gone) > self._remembered_max:
            self._gone.popitem(last=False)
