"""The session: every message arrives once and in order, even when the transport under it is replaced.

One instance per side. It is attached to one transport at a time; without one, messages wait. The session joins
three parts and owns everything that concerns all of them (the transport, the heartbeat, the order of writing, the end):

``session.outbound``
    messages to the peer (:class:`landline.session.outbound.Outbound`): queued, numbered, held until acknowledged
``session.inbound``
    messages from the peer (:class:`landline.session.inbound.Inbound`): parsed, put together, acknowledged
datagrams
    outside of that order (:class:`landline.session.datagram_queue.DatagramQueue`)

Owners call the two halves directly, because a method that only passes each message on would be a cost per message.
See ``docs/protocol.md`` §6 (heartbeat), §7 (resume) and §8 (the end).
"""

from __future__ import annotations

from typing import Final

from landline.codes import Code, code_from_wire
from landline.errors import LineClosed, ProtocolError
from landline.session.bodies import Bye, Notice, ResumeTicket, decode_body, encode_body
from landline.session.constants import PAUSED_CONTROL_FRAMES_MAX, REASON_CHARACTERS_MAX, Kind
from landline.session.datagram_queue import DatagramQueue
from landline.session.events import (
    DatagramReceived,
    Ended,
    Event,
    NoticeReceived,
    PeerSilent,
    PongReceived,
    Recovered,
    Suspected,
)
from landline.session.frames import decode_ping, decode_sequence, encode_ack, encode_ping
from landline.session.heartbeat import Liveness, PingTolerance, Verdict
from landline.session.inbound import Inbound
from landline.session.outbound import Outbound
from landline.session.settings import Heartbeat, Limits, SendBuffer
from landline.session.state import State, Trigger, next_state

# Looked up once: an enum's attribute costs as much as a function call.
_ATTACHED: Final = State.ATTACHED
_SUSPECT: Final = State.SUSPECT
_CLOSED: Final = State.CLOSED
_KIND_ACK: Final = int(Kind.ACK)


class Session:
    """One side of a session. Not safe for use from several threads."""

    __slots__ = (
        "_control",
        "_datagrams",
        "_liveness",
        "_paused_frames",
        "epoch",
        "inbound",
        "outbound",
        "secret",
        "session_id",
        "state",
    )

    def __init__(
        self,
        *,
        session_id: bytes,
        secret: bytes,
        is_server: bool,
        limits: Limits,
        peer_limits: Limits,
        heartbeat: Heartbeat,
        send_buffer: SendBuffer,
    ) -> None:
        self.session_id: bytes = session_id
        self.secret: bytes = secret
        self.epoch: int = 0
        """The ordinal number of the transport within the session; 0 before the first."""
        self.state: State = State.DETACHED
        if peer_limits == limits:
            # Most peers have the limits of this side. Thousands of sessions share one object then.
            peer_limits = limits
        self.outbound: Outbound = Outbound(peer_limits=peer_limits, send_buffer=send_buffer)
        self.inbound: Inbound = Inbound(limits=limits)
        self._liveness = Liveness(heartbeat, is_heartbeat_leader=is_server)
        # Created with the first datagram.
        self._datagrams: DatagramQueue | None = None
        # Frames outside of the numbered stream; they are written before data.
        self._control: list[bytes] = []
        # The number of control frames written since the transport was paused.
        self._paused_frames = 0

    # Properties

    @property
    def round_trip_s(self) -> float | None:
        """The last measured round-trip time in seconds, or ``None`` before the first."""
        return self._liveness.round_trip_s

    @property
    def is_attached(self) -> bool:
        """Whether a transport carries the session now."""
        return self.state is _ATTACHED or self.state is _SUSPECT

    @property
    def ticket(self) -> ResumeTicket:
        """Proves to the server that this client may resume the session."""
        return ResumeTicket(self.session_id, self.secret, self.epoch, self.inbound.received)

    @property
    def held_bytes(self) -> int:
        """About how much memory the session holds for both directions, with the overhead of Python."""
        # Most sessions hold nothing, and servers ask thousands of them every second.
        if self.outbound.is_empty and self.inbound.is_empty:
            return 0
        return self.outbound.held_bytes + self.inbound.held_bytes

    def check_resumable(self, peer_received: int) -> None:
        """Raise :class:`ProtocolError` unless ``peer_received`` can be the last frame that the peer received."""
        self.outbound.replay.check_received(peer_received)

    def next_events(self) -> list[Event]:
        """Return what happened since the last call, in order."""
        events = self.inbound.events
        if events:
            self.inbound.events = []
        return events

    # Transports

    def attach(
        self,
        now: float,
        *,
        epoch: int,
        peer_received: int,
        phase: float,
        round_trip_s: float | None = None,
    ) -> None:
        """Continue on a new transport, after a handshake.

        :param epoch: the ordinal number of the transport, higher than that of the last one.
        :param peer_received: the last frame that the peer has; later ones are written again.
        :param phase: a random number in [0, 1) that spreads the first pings of many sessions.
        :param round_trip_s: the round-trip time measured by the handshake.
        :raises ProtocolError: when the peer cannot have received that frame; nothing is changed then.
        """
        if epoch <= self.epoch:
            raise ProtocolError(f"epoch {epoch} after epoch {self.epoch}")
        self.outbound.replay.rewind(peer_received)
        self.state = next_state(self.state, Trigger.ATTACH)
        self.epoch = epoch
        self.inbound.start_transport()
        self._control.clear()
        self._drop_datagrams()
        self._paused_frames = 0
        self._liveness.start(now, phase=phase, round_trip_s=round_trip_s)
        self.outbound.set_writable(True)

    def receive_link_lost(self) -> None:
        """Record that the transport ended without a BYE. Does nothing without a transport."""
        if self.is_attached:
            self._detach(Trigger.LINK_LOST)

    def pause_writing(self) -> None:
        """Record that the buffer of the transport is full.

        Only a few control frames are given out until :meth:`resume_writing`. Waiting datagrams are dropped.
        """
        self._drop_datagrams()
        self.outbound.set_writable(False)

    def resume_writing(self) -> None:
        """Record that the transport takes data again."""
        self._paused_frames = 0
        self.outbound.set_writable(self.is_attached)

    def _detach(self, trigger: Trigger) -> None:
        self.state = next_state(self.state, trigger)
        self._drop_datagrams()
        self.outbound.set_writable(False)
        self.inbound.drop_unread()
        self.inbound.ack_due = None
        self._control.clear()

    # Bytes in and out

    def receive_data(self, data: bytes, now: float, *, frames_max: int | None = None) -> None:
        """Parse bytes of the current transport; fetch the result with :meth:`next_events`.

        The owner passes the bytes of the current transport only (§7.3). A peer that breaks the protocol gets a BYE,
        and the session ends with an :class:`Ended` event.

        :param frames_max: parse at most this many frames. When ``inbound.has_unread`` is true afterwards, more wait:
            call again with no bytes. A peer whose bytes wait is not silent.
        """
        if self.state is not _ATTACHED:
            if self.state is not _SUSPECT:
                return
            self._recover()
        self._liveness.last_received_at = now
        try:
            self.inbound.receive_frames(data, now, frames_max, self._receive_control)
        except ProtocolError as error:
            self._fail(error.code or Code.PROTOCOL_ERROR, str(error))
        except UnicodeDecodeError:
            self._fail(Code.PROTOCOL_ERROR, "a name that is not UTF-8")

    def data_to_send(self, now: float) -> bytes:
        """Return the bytes to write now: control frames first, then datagrams, then data.

        Call it again until it returns fewer than :data:`landline.session.constants.WRITE_BYTES`: then nothing is left,
        or the window of the peer or the buffer of the transport is full.
        """
        control = self._control
        outbound = self.outbound
        is_closed = self.state is _CLOSED
        if not is_closed:
            inbound = self.inbound
            has_ack = inbound.acked > inbound.acked_to_peer
            if outbound.can_write:
                if has_ack and inbound.is_ack_due(now):
                    control.append(encode_ack(inbound.ack_to_send()))
                if self._datagrams is not None and self._datagrams.has_waiting:
                    control += self._datagrams.pop_waiting()
                frames = outbound.next_frames()
                if frames:
                    self._liveness.last_sent_at = now
                    if control:
                        frames[:0] = control
                        control.clear()
                    return frames[0] if len(frames) == 1 else b"".join(frames)
            elif has_ack:
                # A paused transport carries acknowledgements with heartbeats only.
                inbound.postpone_ack()
        if not control:
            return b""
        if not outbound.can_write and not is_closed:
            self._paused_frames += len(control)
            if self._paused_frames > PAUSED_CONTROL_FRAMES_MAX:
                # Only the newest answers are of use; they wait until the transport takes data.
                del control[:-2]
                self.inbound.forget_sent_acks()
                return b""
        data = b"".join(control)
        control.clear()
        self._liveness.last_sent_at = now
        return data

    def _recover(self) -> None:
        self.state = next_state(self.state, Trigger.HEARD)
        self._liveness.is_suspect = False
        self.inbound.events.append(Recovered())

    def _receive_control(self, kind: int, body: bytes, now: float) -> bool:
        if kind == _KIND_ACK:
            if not self.outbound.receive_ack(decode_sequence(body)):
                self.inbound.count_redundant(now)
        elif kind == Kind.DATAGRAM:
            self._ensure_datagrams().receive(body, now)
        elif kind == Kind.PING:
            self._receive_ping(body, now)
        elif kind == Kind.PONG:
            self._receive_pong(body, now)
        elif kind == Kind.BYE:
            self._receive_bye(decode_body(body, Bye))
        elif kind == Kind.NOTICE:
            self.inbound.count_redundant(now)
            notice = decode_body(body, Notice)
            self.inbound.events.append(NoticeReceived(code_from_wire(notice.code), notice.reason))
        else:
            raise ProtocolError(f"a frame of kind {kind}, which is unknown or not allowed in a session")
        return self.is_attached

    # Datagrams

    def send_datagram(self, frame: bytes) -> bool:
        """Queue a DATAGRAM frame for the next write and return ``True``, or drop it.

        It is dropped without a transport, while the transport is paused, and where many wait already.

        :raises LineClosed: after the end of the session.
        """
        if self.state is _CLOSED:
            raise LineClosed("the line is closed")
        if not self.outbound.can_write:
            self.count_datagram_dropped()
            return False
        return self._ensure_datagrams().offer(frame)

    def may_send_datagram(self, now: float) -> bool:
        """Count one datagram and return whether the rate limit allows it; otherwise count it as dropped."""
        return self._ensure_datagrams().may_send(now)

    def receive_datagram(self, data: bytes, now: float) -> None:
        """Handle a datagram that the transport carried outside of its stream: the body of the frame.

        Otherwise as :meth:`receive_data`.
        """
        if not self.is_attached:
            return
        self._liveness.last_received_at = now
        if self.state is _SUSPECT:
            self._recover()
        try:
            self._ensure_datagrams().receive(data, now)
        except ProtocolError as error:
            self._fail(error.code or Code.PROTOCOL_ERROR, str(error))

    @property
    def has_datagrams(self) -> bool:
        """Whether :meth:`next_datagrams` returns any."""
        return self._datagrams is not None and self._datagrams.has_unread

    def next_datagrams(self) -> list[DatagramReceived]:
        """Return the datagrams received since the last call; only the newest ones of very many."""
        return self._datagrams.pop_unread() if self._datagrams else []

    @property
    def datagrams_dropped(self) -> int:
        """The number of datagrams to the peer that were not sent."""
        return self._datagrams.dropped if self._datagrams else 0

    @property
    def datagrams_ignored(self) -> int:
        """The number of datagrams from the peer that had no receiver."""
        return self._datagrams.ignored if self._datagrams else 0

    def count_datagram_dropped(self) -> None:
        """Count a datagram to the peer that was dropped outside of the session."""
        self._ensure_datagrams().dropped += 1

    def count_datagram_ignored(self) -> None:
        """Count a datagram from the peer that had no receiver."""
        self._ensure_datagrams().ignored += 1

    def _ensure_datagrams(self) -> DatagramQueue:
        if self._datagrams is None:
            self._datagrams = DatagramQueue()
        return self._datagrams

    def _drop_datagrams(self) -> None:
        if self._datagrams is not None:
            self._datagrams.drop_waiting()

    # Heartbeat

    def next_timeout(self) -> float | None:
        """Return when to call :meth:`handle_timeout`, at the latest; ``None`` while nothing is due."""
        if not self.is_attached:
            return None
        due = self._liveness.next_timeout()
        ack_due = self.inbound.ack_due
        return due if ack_due is None else min(due, ack_due)

    def handle_timeout(self, now: float) -> None:
        """Ping the peer, suspect it or give up its transport, as far as it is due. An early call does nothing.

        A due acknowledgement is given out by the next :meth:`data_to_send`.
        """
        if not self.is_attached:
            return
        if self.inbound.has_unread:
            # The peer is not silent: this side has not read its bytes yet.
            self._liveness.last_received_at = now
        while True:
            verdict = self._liveness.handle_timeout(now)
            if verdict is Verdict.PING:
                self.send_ping(now)
            elif verdict is Verdict.SUSPECT:
                self.state = next_state(self.state, Trigger.SILENCE)
                self.inbound.events.append(Suspected(now - self._liveness.last_received_at))
            elif verdict is Verdict.DEAD:
                self._detach(Trigger.DEADLINE)
                self.inbound.events.append(PeerSilent(now - self._liveness.last_received_at))
                return
            else:
                return

    def send_ping(self, now: float) -> int:
        """Send a PING at once and return its number, which :class:`PongReceived` carries.

        :raises LineClosed: without a transport.
        """
        if not self.is_attached:
            raise LineClosed("the line is not connected now")
        number = self._liveness.next_ping(now)
        self._control.append(encode_ping(Kind.PING, number, int(now * 1e6), self.inbound.ack_to_send()))
        return number

    def _receive_ping(self, body: bytes, now: float) -> None:
        number, time_us, acked = decode_ping(body)
        self.outbound.receive_ack(acked)
        tolerance = self._liveness.receive_ping(now)
        if tolerance is PingTolerance.TOO_MANY:
            raise ProtocolError("far more pings than the heartbeat requires", Code.TOO_MANY_PINGS)
        if tolerance is PingTolerance.WARN:
            notice = Notice(int(Code.TOO_MANY_PINGS), "too many pings: the server sets the interval")
            self._control.append(encode_body(Kind.NOTICE, notice))
        self._control.append(encode_ping(Kind.PONG, number, time_us, self.inbound.ack_to_send()))

    def _receive_pong(self, body: bytes, now: float) -> None:
        number, _, acked = decode_ping(body)
        self.outbound.receive_ack(acked)
        if not self._liveness.is_awaited(number):
            self.inbound.count_redundant(now)
            return
        round_trip_s = self._liveness.receive_pong(number, now)
        if round_trip_s is not None:
            self.inbound.events.append(PongReceived(number, round_trip_s))

    # The end

    def close(
        self,
        code: Code,
        reason: str = "",
        *,
        retry_after_s: float | None = None,
        spread_s: float = 0.0,
        alternatives: tuple[str, ...] = (),
    ) -> None:
        """End the session with a BYE, at once. Unconfirmed messages stay unconfirmed. Idempotent."""
        if self.state is _CLOSED:
            return
        if self.is_attached:
            if self.inbound.acked > self.inbound.acked_to_peer:
                # Without it the peer would report messages as unconfirmed that were acknowledged here.
                self._control.append(encode_ack(self.inbound.acked))
            if self.outbound.can_write and self._datagrams is not None:
                self._control += self._datagrams.pop_waiting()
            reason = reason[:REASON_CHARACTERS_MAX]
            bye = Bye(int(code), reason, retry_after_s, spread_s, alternatives)
            self._control.append(encode_body(Kind.BYE, bye))
        self._end()

    def abort(self) -> None:
        """End the session without a BYE: no transport carries it any more, or it is lost. Idempotent."""
        if self.state is not _CLOSED:
            self._end()

    def _receive_bye(self, bye: Bye) -> None:
        code = code_from_wire(bye.code)
        if code is Code.LINK_REPLACED:
            self._detach(Trigger.LINK_LOST)
            return
        self.inbound.drop_unread()
        self._end()
        self.inbound.events.append(
            Ended(code, bye.reason, True, bye.retry_after_s, bye.spread_s, bye.alternatives)
        )

    def _fail(self, code: Code, reason: str) -> None:
        self.inbound.drop_unread()
        self.close(code, reason)
        self.inbound.events.append(Ended(code, reason, by_peer=False))

    def _end(self) -> None:
        self.state = next_state(self.state, Trigger.END)
        self._drop_datagrams()
        self.outbound.close()
        # The bytes stay for pop_trailing_data().
        self.inbound.has_unread = False
        self.inbound.ack_due = None
