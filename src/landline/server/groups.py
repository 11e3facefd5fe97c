"""Groups of lines that receive the same broadcasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from landline.errors import ConfigurationError
from landline.line.codec import Encode
from landline.line.flow_control import OverflowPolicy, check_policy
from landline.line.handlers import call_back
from landline.line.line import Line, drivers_of
from landline.line.line_state import LineState
from landline.session.frames import encode_datagram
from landline.signatures import check_function


class BroadcastResult(msgspec.Struct, frozen=True):
    """What happened to a broadcast."""

    sent: int
    """The number of lines that accepted it."""
    skipped: int
    """The number of lines that did not: their send buffer was full, or the message is larger than they accept; for a
    datagram, all that dropped it."""
    disconnected: int = 0
    """The number of lines that were ended because their send buffer was full."""
    dropped: int = 0
    """The number of older messages that were dropped in its favour."""


Broadcast = Callable[[Sequence[Line], Any, str, bool, OverflowPolicy, int | None], BroadcastResult]
ChangeCallback = Callable[["Group", Line, bool], object]


class Group:
    """A set of lines that receive the same broadcasts; made by :meth:`landline.Server.group`.

    A line that closes leaves the group; one that is disconnected stays. ``overflow`` and ``max_pending`` are the policy
    of its broadcasts for full send buffers, unless a broadcast has its own.
    """

    __slots__ = ("_broadcast", "_callback", "_groups", "_lines", "max_pending", "name", "overflow")

    def __init__(
        self,
        groups: Groups,
        name: str,
        broadcast: Broadcast,
        overflow: OverflowPolicy,
        max_pending: int | None,
    ) -> None:
        self.name: str = name
        self.overflow: OverflowPolicy = overflow
        self.max_pending: int | None = max_pending
        self._groups = groups
        self._broadcast = broadcast
        self._callback: ChangeCallback | None = None
        self._lines: dict[Line, None] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Line]:
        return iter(list(self._lines))

    def __contains__(self, line: object) -> bool:
        return line in self._lines

    def __repr__(self) -> str:
        return f"<Group {self.name!r} of {len(self._lines)} lines>"

    def add(self, line: Line) -> None:
        """Add a line. Idempotent; a closed line is not added."""
        self._groups.check_thread("group.add")
        if line.state is not LineState.CLOSED and line not in self._lines:
            self._lines[line] = None
            self._groups.joined(line, self)
            self._report(line, True)

    def discard(self, line: Line) -> None:
        """Remove a line if it is a member."""
        self._groups.check_thread("group.discard")
        if line in self._lines:
            del self._lines[line]
            self._groups.left(line, self)
            self._report(line, False)

    def on_change(self, callback: ChangeCallback) -> ChangeCallback:
        """Call ``callback(group, line, joined)`` when a line was added (``joined`` is true), and when it was removed or
        closed.

        The callback is a plain function, called inside the event loop; what it raises is logged. It replaces an
        earlier callback.
        """
        check_function(
            callback, "the callback of Group.on_change()", ("group", "line", "joined"), may_be_async=False
        )
        self._callback = callback
        return callback

    def broadcast(
        self,
        value: Any,
        *,
        name: str = "",
        bulk: bool = False,
        overflow: OverflowPolicy | None = None,
        max_pending: int | None = None,
    ) -> BroadcastResult:
        """Send one message to every line without waiting; see :meth:`Server.broadcast`.

        Without ``overflow`` the group's own policy applies, and its ``max_pending`` unless another one is given.
        """
        self._groups.check_thread("group.broadcast")
        if overflow is None:
            overflow = self.overflow
            max_pending = self.max_pending if max_pending is None else max_pending
        return self._broadcast(list(self._lines), value, name, bulk, overflow, max_pending)

    def broadcast_datagram(self, value: Any, *, name: str = "") -> BroadcastResult:
        """Send one datagram to every line, encoded once; see :meth:`Server.broadcast_datagram`."""
        self._groups.check_thread("group.broadcast_datagram")
        return broadcast_datagram(list(self._lines), value, name, self._groups.encode)

    def _report(self, line: Line, joined: bool) -> None:
        if self._callback is not None:
            call_back(self._callback, self, line, joined)


class Groups:
    """The groups of one server, and the groups of each line, so that a closing line need not search all of them."""

    __slots__ = ("_broadcast", "_by_name", "_of_line", "check_thread", "encode")

    def __init__(self, broadcast: Broadcast, encode: Encode, check_thread: Callable[[str], None]) -> None:
        self._broadcast = broadcast
        self.encode: Encode = encode
        self.check_thread: Callable[[str], None] = check_thread
        """Called with the name of a method before it changes anything; raises in the wrong thread."""
        self._by_name: dict[str, Group] = {}
        self._of_line: dict[Line, dict[Group, None]] = {}

    def get(self, name: str, overflow: OverflowPolicy | None, max_pending: int | None) -> Group:
        """See :meth:`landline.Server.group`."""
        policy = overflow or OverflowPolicy.DROP_NEWEST
        check_broadcast_policy(policy, max_pending)
        group = self._by_name.get(name)
        if group is None:
            group = self._by_name[name] = Group(self, name, self._broadcast, policy, max_pending)
        elif overflow is not None and (policy, max_pending) != (group.overflow, group.max_pending):
            raise ConfigurationError(
                f"the group {name!r} was made with {describe_policy(group.overflow, group.max_pending)}, not with "
                f"{describe_policy(policy, max_pending)}; give the policy in the first call only"
            )
        return group

    def joined(self, line: Line, group: Group) -> None:
        """Record that a group has added the line."""
        self._of_line.setdefault(line, {})[group] = None

    def left(self, line: Line, group: Group) -> None:
        """Record that a group has removed the line."""
        groups = self._of_line[line]
        del groups[group]
        if not groups:
            del self._of_line[line]

    def line_closed(self, line: Line) -> None:
        """Remove the line from all its groups."""
        for group in list(self._of_line.get(line, ())):
            group.discard(line)


def check_broadcast_policy(overflow: OverflowPolicy, max_pending: int | None) -> None:
    """Raise :class:`ConfigurationError` for a policy that a broadcast cannot have."""
    if overflow is OverflowPolicy.WAIT:
        raise ConfigurationError("a broadcast does not wait: overflow=WAIT is not possible")
    check_policy(overflow, max_pending)


def describe_policy(overflow: OverflowPolicy, max_pending: int | None) -> str:
    """Return a policy as it is written in a call."""
    text = f"overflow={overflow.name}"
    return text if max_pending is None else f"{text}, max_pending={max_pending}"


def broadcast_datagram(lines: Iterable[Line], value: Any, name: str, encode: Encode) -> BroadcastResult:
    """Send one datagram to each of the lines. Raise :class:`landline.MessageTooLarge` before anything was sent."""
    body, is_packed = encode(value)
    frame = encode_datagram(name.encode(), body, is_packed=is_packed)
    sent = skipped = 0
    for driver in drivers_of(lines):
        if not driver.is_closed and driver.send_encoded_datagram(frame):
            sent += 1
        else:
            skipped += 1
    return BroadcastResult(sent, skipped)
