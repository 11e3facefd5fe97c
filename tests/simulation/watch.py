"""What must hold at every step, of every line that can be seen."""

from __future__ import annotations

from tests.line_internals import driver_of
from tests.simulation.node import Node
from tests.simulation.world import SECOND, World

from landline import DisconnectCause, LineState, StateChange
from landline.line.line import Line
from landline.session.session import Session
from landline.session.state import State

WHEEL_S = 0.2
"""Ticks of the timer wheel, turns of the loop, drift of the clocks."""


class LineWatch:
    """Looks at both sides of each session."""

    def __init__(self, world: World, *, interval_s: float, timeout_s: float) -> None:
        self._world = world
        self._bound_s = interval_s + timeout_s
        self.longest_silence_s = 0.0
        """The longest that a node bore hearing nothing while nothing kept it from noticing."""
        self.by_server: dict[bytes, Session] = {}
        self.by_client: dict[bytes, Session] = {}

    def look(self, node: Node, line: Line, *, is_server: bool) -> None:
        """Check the lines of a node. Called after every turn of the node."""
        session = driver_of(line).session
        if session is None:
            return
        if session.is_attached:
            self._check_silence(node, session)
        sessions = self.by_server if is_server else self.by_client
        sessions[session.session_id] = session
        self._check_buffers(session)
        server = self.by_server.get(session.session_id)
        client = self.by_client.get(session.session_id)
        if server is None or client is None:
            return
        if client.epoch > server.epoch:
            self._world.fail(f"the client rides epoch {client.epoch}, the server knows {server.epoch}")
        for sender, receiver in ((server, client), (client, server)):
            if sender.outbound.replay.acked > receiver.inbound.acked:
                self._world.fail(
                    f"{sender.outbound.replay.acked} frames count as taken where {receiver.inbound.acked} were"
                )

    def changed(self, node: Node, peers: list[Node], change: StateChange) -> None:
        """A line changed its state: a peer that is called dead must have been troubled."""
        if change.state is not LineState.RECONNECTING or change.cause is not DisconnectCause.SILENT:
            return
        since_ns = self._world.now_ns - int((self._bound_s + 2 * WHEEL_S) * SECOND)
        if all(each.disturbed_at_ns < since_ns for each in (node, *peers)):
            self._world.fail(f"{node.name} called a live peer dead: {change.detail}")

    def _check_silence(self, node: Node, session: Session) -> None:
        """Check that a peer silent for longer than interval + timeout is given up (§6.2), whatever the reason."""
        silence_s = node.monotonic() - session._liveness.last_received_at
        allowed_s = self._bound_s + WHEEL_S
        # One that was itself held up gives its peers the timeout once more.
        if node.held_up_at_ns > self._world.now_ns - int(2 * allowed_s * SECOND):
            return
        self.longest_silence_s = max(self.longest_silence_s, silence_s)
        if silence_s > allowed_s:
            self._world.fail(f"{node.name} has heard nothing for {silence_s:.3f} s and believes in its peer")

    def _check_buffers(self, session: Session) -> None:
        limit = session.outbound.send_buffer
        # An empty buffer takes any message; fragments add their headers.
        if (
            session.outbound.buffered_bytes
            > limit.size_bytes + session.outbound.peer_limits.message_bytes * 1.1
        ):
            self._world.fail(
                f"{session.outbound.buffered_bytes} bytes in a send buffer of {limit.size_bytes}"
            )
        if session.outbound.buffered_messages > limit.messages * 2:
            self._world.fail(
                f"{session.outbound.buffered_messages} messages in a send buffer of {limit.messages}"
            )
        # A message in fragments counts when it is whole.
        held_max = session.inbound.limits.window_bytes + session.inbound.limits.message_bytes
        if session.state is not State.CLOSED and session.inbound.unacked_bytes > held_max:
            self._world.fail(
                f"{session.inbound.unacked_bytes} bytes held for an application that does not take them"
            )
