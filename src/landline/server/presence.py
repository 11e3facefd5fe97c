"""Who is there, by identity: a server's lines, taken together.

What a change means is decided by a pure function; :class:`Presence` keeps the books, and tells who asked.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from itertools import chain
from typing import Final

import msgspec

from landline.line.line import Line, call_back
from landline.line.line_state import DisconnectCause, LineState, StateChange
from landline.signatures import check_function

REMEMBERED_IDENTITIES: Final = 10_000
"""Of how many identities that are gone a server knows since when and why, about 400 bytes for each."""


class PresenceState(StrEnum):
    """Whether an identity is there, by the best of its lines."""

    ONLINE = "online"
    SUSPECT = "suspect"
    """All that is connected of it has been silent for a while."""
    RECONNECTING = "reconnecting"
    """Not connected; it may come back and go on until the resume window ends."""
    GONE = "gone"
    """None of its lines is left."""


class PresenceInfo(msgspec.Struct, frozen=True):
    """How things are with one identity, since when, and why."""

    state: PresenceState
    since_at: float
    """When it came to this, in seconds of the server's ``clock`` (:func:`time.monotonic` unless told otherwise)."""
    cause: DisconnectCause = DisconnectCause.NONE
    """Why it is not online."""
    detail: str = ""
    """The cause in a sentence for people."""


PresenceCallback = Callable[[str, PresenceInfo], object]

_BEST_FIRST: Final = {
    LineState.ONLINE: PresenceState.ONLINE,
    LineState.SUSPECT: PresenceState.SUSPECT,
    LineState.RECONNECTING: PresenceState.RECONNECTING,
}
"""What the states of lines make of their identity; the first one of these that any line is in counts."""


def best_of(states: Mapping[LineState, int]) -> PresenceState:
    """The state of an identity with so many lines in each state."""
    return next((state for of_line, state in _BEST_FIRST.items() if states.get(of_line)), PresenceState.GONE)


def next_info(
    before: PresenceInfo | None, state: PresenceState, causes: Iterable[StateChange], now: float
) -> PresenceInfo:
    """What is known of an identity that is now in ``state``; the same as before if that has not changed.

    ``causes`` are the last changes of its lines, the one that has just changed first. The first of them that fits
    the state says why.
    """
    if before is not None and before.state is state:
        return before
    if state is PresenceState.ONLINE:
        return PresenceInfo(state, now)
    cause = next(cause for cause in causes if _BEST_FIRST.get(cause.state, PresenceState.GONE) is state)
    return PresenceInfo(state, now, cause.cause, cause.detail)


class _Identity:
    """One identity that has lines."""

    __slots__ = ("info", "lines", "states")

    def __init__(self) -> None:
        self.info: PresenceInfo | None = None
        self.lines: dict[Line, LineState] = {}
        # How many lines are in each state: an identity may have thousands of lines.
        self.states: Counter[LineState] = Counter()


class Presence:
    """Which identities are there, and what became of those that are gone: :attr:`landline.Server.presence`.

    Lines without an identity are nobody's. An identity with several lines is as present as the best of them.
    """

    __slots__ = ("_callback", "_clock", "_gone", "_here", "_remembered_max")

    def __init__(self, clock: Callable[[], float], remembered_max: int) -> None:
        self._clock = clock
        self._remembered_max = remembered_max
        self._here: dict[str, _Identity] = {}
        # An OrderedDict: its first entry stays cheap to take out.
        self._gone: OrderedDict[str, PresenceInfo] = OrderedDict()
        self._callback: PresenceCallback | None = None

    @property
    def online(self) -> dict[str, tuple[Line, ...]]:
        """The identities that are connected, each with its connected lines, as they are just now; suspect ones are
        among them.
        """
        connected = {LineState.ONLINE, LineState.SUSPECT}
        found = {}
        for name, identity in self._here.items():
            lines = tuple(line for line, state in identity.lines.items() if state in connected)
            if lines:
                found[name] = lines
        return found

    def state(self, identity: str) -> PresenceInfo | None:
        """How things are with an identity; ``None`` for one that was never seen, or is forgotten."""
        here = self._here.get(identity)
        return here.info if here is not None else self._gone.get(identity)

    def on_change(self, callback: PresenceCallback) -> PresenceCallback:
        """Calls ``callback(identity, info)``, a plain function, whenever the state of an identity changes. It takes the
        place of the callback given before.

        It is called inside the event loop, at once; what it raises is logged. A second line of an identity that is
        online changes nothing.
        """
        check_function(
            callback, "the callback of Presence.on_change()", ("identity", "info"), may_be_async=False
        )
        self._callback = callback
        return callback

    def line_changed(self, line: Line, change: StateChange) -> None:
        """A line of the server changed its state."""
        name = line.identity
        if not name:
            return
        identity = self._here.get(name)
        if identity is None:
            if change.state is LineState.CLOSED:
                return
            identity = self._here[name] = _Identity()
            self._gone.pop(name, None)
        old = identity.lines.pop(line, None)
        if old is not None:
            identity.states[old] -= 1
        if change.state is not LineState.CLOSED:
            identity.lines[line] = change.state
            identity.states[change.state] += 1
        before = identity.info
        causes = chain((change,), (other.cause for other in identity.lines if other.cause is not None))
        info = next_info(before, best_of(identity.states), causes, self._clock())
        identity.info = info
        if not identity.lines:
            del self._here[name]
            self._remember(name, info)
        if info is not before and self._callback is not None:
            call_back(self._callback, name, info)

    def _remember(self, name: str, info: PresenceInfo) -> None:
        self._gone[name] = info
        if len(self._gone) > self._remembered_max:
            self._gone.popitem(last=False)
