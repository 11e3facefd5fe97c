"""The session: every message once and in order, whatever happens to the transports under it.

One object a side. It is attached to one transport at a time; what is sent while there is none waits.

Three layers, one class upon the other: sending (:mod:`landline.session.outbound`), receiving upon it
(:mod:`landline.session.inbound`), and in here the life of both: transports that come and go, what is written first,
the heartbeat, the end. Layers rather than parts, because every message passes all of them: a call or an object more
would be paid for by each message and each idle line. See ``docs/protocol.md`` §6 (heartbeat), §7 (resume) and §8.
"""

from __future__ import annotations

from typing import Final

from landline.codes import Code, code_from_wire
from landline.errors import LineClosed, ProtocolError
from landline.session.datagram_queue import DatagramQueue
from landline.session.events import (
    DatagramReceived,
    Ended,
    NoticeReceived,
    PeerSilent,
    PongReceived,
    Recovered,
    Suspected,
)
from landline.session.frames import Kind, decode_ping, encode_ack, encode_ping
from landline.session.handshake import (
    REASON_CHARACTERS_MAX,
    Bye,
    Limits,
    Notice,
    ResumeTicket,
    decode_body,
    encode_body,
)
from landline.session.heartbeat import Heartbeat, Liveness, PingTolerance, Verdict
from landline.session.inbound import SessionReceiving
from landline.session.outbound import WRITE_BYTES, SendBuffer
from landline.session.state import State, Trigger, next_state

PAUSED_CONTROL_FRAMES_MAX: Final = 8
"""Control frames written to a transport that asked us to pause; more would let a peer that never reads fill it."""


class Session(SessionReceiving):
    """One side of a session. Not safe for use from several threads."""

    __slots__ = ("_datagrams", "_liveness", "_paused_frames", "epoch", "secret", "session_id")

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
        super().__init__(limits=limits, peer_limits=peer_limits, send_buffer=send_buffer)
        self.session_id: bytes = session_id
        self.secret: bytes = secret
        self.epoch: int = 0
        self._liveness = Liveness(heartbeat, dictates=is_server)
        self._datagrams: DatagramQueue | None = None
        self._paused_frames = 0

    # What the owner asks.

    @property
    def round_trip_s(self) -> float | None:
        """The last measured round trip, or ``None`` before the first."""
        return self._liveness.round_trip_s

    @property
    def is_attached(self) -> bool:
        """Whether a transport carries the session now."""
        return self.state is State.ATTACHED or self.state is State.SUSPECT

    @property
    def ticket(self) -> ResumeTicket:
        """What proves to the server that this client may go on with the session."""
        return ResumeTicket(self.session_id, self.secret, self.epoch, self._received)

    @property
    def held_bytes(self) -> int:
        """About how much memory the session holds in both directions, with what Python spends on it."""
        if (
            not self._replay.frames
            and self._received == self._taken
            and self._lanes is None
            and not self._buffer
            and not self._assemblies
        ):
            # Most sessions, most of the time: thousands of them are asked every second.
            return 0
        return self._sending_memory_bytes() + self._receiving_memory_bytes()

    def check_resumable(self, peer_received: int) -> None:
        """Raises :class:`ProtocolError` when the peer cannot have received exactly up to ``peer_received``."""
        self._replay.check_received(peer_received)

    # Transports come and go.

    def attach(
        self,
        now: float,
        *,
        epoch: int,
        peer_received: int,
        phase: float,
        round_trip_s: float | None = None,
    ) -> None:
        """A handshake finished: the session rides a new transport, the ``epoch``-th.

        ``peer_received`` is what the peer says it has; the rest is written again. ``phase`` in [0, 1) spreads
        first pings. ``round_trip_s`` is what the handshake took. Raises :class:`ProtocolError` (and changes
        nothing) when the peer cannot have received that.
        """
        if epoch <= self.epoch:
            raise ProtocolError(f"epoch {epoch} after epoch {self.epoch}")
        self._replay.rewind(peer_received)
        self.state = next_state(self.state, Trigger.ATTACH)
        self.epoch = epoch
        self._drop_unread()
        self._duplicates_allowed = self.limits.window_frames
        self._control.clear()
        self._drop_datagrams()
        self._paused_frames = 0
        # The last acknowledgement may have been lost with the old transport: say it again.
        self._told = 0
        self._liveness.start(now, phase=phase, round_trip_s=round_trip_s)
        self._set_writable(True)

    def receive_link_lost(self) -> None:
        """The transport ended without a BYE. Without a transport, nothing changes."""
        if self.is_attached:
            self._detach(Trigger.LINK_LOST)

    def pause_writing(self) -> None:
        """The transport's buffer is full: only a few control frames are given out until :meth:`resume_writing`.

        Datagrams that wait are dropped.
        """
        self._drop_datagrams()
        self._set_writable(False)

    def resume_writing(self) -> None:
        """The transport takes data again."""
        self._paused_frames = 0
        self._set_writable(self.is_attached)

    def _detach(self, trigger: Trigger) -> None:
        self.state = next_state(self.state, trigger)
        self._drop_datagrams()
        self._set_writable(False)
        self._drop_unread()
        self._control.clear()
        self.ack_due = None

    # Bytes in and out.

    def receive_data(self, data: bytes, now: float, *, epoch: int, frames_max: int | None = None) -> None:
        """Takes bytes of the transport of that epoch. Events are fetched with :meth:`next_events`.

        With ``frames_max`` it handles so many frames at most, and :attr:`has_unread` says whether more wait: call it
        with no bytes to go on. A peer whose bytes wait is not silent.

        Bytes of an older transport are dropped: the session has moved on (§7.3). A peer that breaks the protocol
        gets a BYE and ends the session with an :class:`Ended` event.
        """
        if epoch != self.epoch or not self.is_attached:
            return
        self._liveness.heard_at = now
        if self.state is State.SUSPECT:
            self._recover()
        try:
            self._receive_frames(data, now, frames_max)
        except ProtocolError as error:
            self._fail(error.code or Code.PROTOCOL_ERROR, str(error))
        except UnicodeDecodeError:
            self._fail(Code.PROTOCOL_ERROR, "a name that is not UTF-8")

    def data_to_send(self, now: float) -> bytes:
        """The bytes to write now: control frames first, then datagrams, then data.

        Call it again until it returns fewer than :data:`landline.session.outbound.WRITE_BYTES`: then nothing is left,
        or the peer's window or the transport has no room for more.
        """
        control = self._control
        replay = self._replay
        if (
            replay.written + 1 == len(replay.frames)
            and self._direct
            and self._taken == self._told
            and self._datagrams is None
            and not control
        ):
            # The commonest case by a short way: one frame and nothing else, as of a broadcast, a request or an answer.
            replay.written += 1
            replay.unwritten_bytes = 0
            self._liveness.said_at = now
            return replay.frames[-1]
        if self.state is not State.CLOSED:
            if self._taken > self._told:
                self._schedule_ack(now)
            if self._can_write:
                if self._datagrams is not None and self._datagrams.has_waiting:
                    control += self._datagrams.take_waiting()
                if self._lanes is not None or self._eof_wanted:
                    self._number_waiting()
                if replay.unwritten_bytes:
                    self._liveness.said_at = now
                    frames = replay.next_unwritten(WRITE_BYTES)
                    if control:
                        frames[:0] = control
                        control.clear()
                    return b"".join(frames)
        if not control:
            return b""
        if not self._can_write and self.state is not State.CLOSED:
            self._paused_frames += len(control)
            if self._paused_frames > PAUSED_CONTROL_FRAMES_MAX:
                # Only the newest answers are worth keeping; they wait with everything else.
                del control[:-2]
                self._told = 0
                return b""
        data = b"".join(control)
        control.clear()
        self._liveness.said_at = now
        return data

    def _receive_control(self, kind: int, body: bytes, now: float) -> bool:
        if kind == Kind.DATAGRAM:
            self._ensure_datagrams().receive(body, now)
        elif kind == Kind.PING:
            self._receive_ping(body, now)
        elif kind == Kind.PONG:
            self._receive_pong(body, now)
        elif kind == Kind.BYE:
            self._receive_bye(decode_body(body, Bye))
        elif kind == Kind.NOTICE:
            self._count_useless(now)
            notice = decode_body(body, Notice)
            self._events.append(NoticeReceived(code_from_wire(notice.code), notice.reason))
        else:
            raise ProtocolError(f"a frame of unknown kind {kind} or of a kind that has no place in a session")
        return self.is_attached

    # Datagrams.

    def send_datagram(self, frame: bytes) -> bool:
        """Takes a DATAGRAM frame for the next write, or drops it: without a transport, while that takes no data, and
        where many wait already. Returns whether it was taken. Raises :class:`LineClosed`.
        """
        if self.state is State.CLOSED:
            raise LineClosed("the line is closed")
        if not self._can_write:
            self.count_datagram_dropped()
            return False
        return self._ensure_datagrams().offer(frame)

    def may_send_datagram(self, now: float) -> bool:
        """Whether the rate of datagrams allows one more now, which is counted then; else it is counted as dropped."""
        return self._ensure_datagrams().may_send(now)

    def receive_datagram(self, data: bytes, now: float, *, epoch: int) -> None:
        """Takes a datagram that the transport of that epoch carried outside of its stream: the body of the frame.

        Otherwise as :meth:`receive_data`.
        """
        if epoch != self.epoch or not self.is_attached:
            return
        self._liveness.heard_at = now
        if self.state is State.SUSPECT:
            self._recover()
        try:
            self._ensure_datagrams().receive(data, now)
        except ProtocolError as error:
            self._fail(error.code or Code.PROTOCOL_ERROR, str(error))

    @property
    def has_datagrams(self) -> bool:
        """Whether :meth:`next_datagrams` has any."""
        return self._datagrams is not None and self._datagrams.has_unread

    def next_datagrams(self) -> list[DatagramReceived]:
        """Datagrams that came since the last call; of very many only the last ones."""
        return self._datagrams.take_unread() if self._datagrams else []

    @property
    def datagrams_dropped(self) -> int:
        """Datagrams to the peer that were not sent."""
        return self._datagrams.dropped if self._datagrams else 0

    @property
    def datagrams_ignored(self) -> int:
        """Datagrams of the peer that nobody took."""
        return self._datagrams.ignored if self._datagrams else 0

    def count_datagram_dropped(self) -> None:
        """A datagram to the peer was dropped before it came here, or by a transport that carries datagrams."""
        self._ensure_datagrams().dropped += 1

    def count_datagram_ignored(self) -> None:
        """A datagram of the peer had nobody to take it."""
        self._ensure_datagrams().ignored += 1

    def _ensure_datagrams(self) -> DatagramQueue:
        if self._datagrams is None:
            self._datagrams = DatagramQueue()
        return self._datagrams

    def _drop_datagrams(self) -> None:
        if self._datagrams is not None:
            self._datagrams.drop_waiting()

    # The heartbeat.

    def next_timeout(self) -> float | None:
        """When to call :meth:`handle_timeout`, at the latest; ``None`` while nothing is due."""
        if not self.is_attached:
            return None
        due = self._liveness.next_timeout()
        return due if self.ack_due is None else min(due, self.ack_due)

    def handle_timeout(self, now: float) -> None:
        """Pings, suspects, gives up or acknowledges, whatever is due. Early calls do nothing."""
        if not self.is_attached:
            return
        if self.has_unread:
            # It is we who have not read it yet.
            self._liveness.heard_at = now
        while True:
            verdict = self._liveness.handle_timeout(now)
            if verdict is Verdict.PING:
                self.send_ping(now)
            elif verdict is Verdict.SUSPECT:
                self.state = next_state(self.state, Trigger.SILENCE)
                self._events.append(Suspected(now - self._liveness.heard_at))
            elif verdict is Verdict.DEAD:
                self._detach(Trigger.DEADLINE)
                self._events.append(PeerSilent(now - self._liveness.heard_at))
                return
            else:
                return

    def send_ping(self, now: float) -> int:
        """Pings at once and returns the ping's number; :class:`PongReceived` will bear it."""
        if not self.is_attached:
            raise LineClosed("the line is not connected just now")
        number = self._liveness.next_ping(now)
        self._control.append(encode_ping(Kind.PING, number, int(now * 1e6), self._taken))
        self._count_told()
        return number

    def _receive_ping(self, body: bytes, now: float) -> None:
        number, time_us, taken = decode_ping(body)
        self._receive_taken(taken)
        tolerance = self._liveness.receive_ping(now)
        if tolerance is PingTolerance.TOO_MANY:
            raise ProtocolError("far more pings than the heartbeat asks for", Code.TOO_MANY_PINGS)
        if tolerance is PingTolerance.WARN:
            notice = Notice(int(Code.TOO_MANY_PINGS), "fewer pings, please: the server sets the interval")
            self._control.append(encode_body(Kind.NOTICE, notice))
        self._control.append(encode_ping(Kind.PONG, number, time_us, self._taken))
        self._count_told()

    def _receive_pong(self, body: bytes, now: float) -> None:
        number, _, taken = decode_ping(body)
        self._receive_taken(taken)
        if not self._liveness.is_awaited(number):
            self._count_useless(now)
            return
        round_trip_s = self._liveness.receive_pong(number, now)
        if round_trip_s is not None:
            self._events.append(PongReceived(number, round_trip_s))

    def _recover(self) -> None:
        self.state = next_state(self.state, Trigger.HEARD)
        self._liveness.is_suspect = False
        self._events.append(Recovered())

    # The end.

    def close(
        self,
        code: Code,
        reason: str = "",
        *,
        retry_after_s: float | None = None,
        spread_s: float = 0.0,
        alternatives: tuple[str, ...] = (),
    ) -> None:
        """Ends the session with a BYE, at once; what is unconfirmed stays so. Closing twice is closing once."""
        if self.state is State.CLOSED:
            return
        if self.is_attached:
            if self._taken > self._told:
                # Without it the peer would report messages as unconfirmed that were taken.
                self._control.append(encode_ack(self._taken))
            if self._can_write and self._datagrams is not None:
                self._control += self._datagrams.take_waiting()
            reason = reason[:REASON_CHARACTERS_MAX]
            bye = Bye(int(code), reason, retry_after_s, spread_s, alternatives)
            self._control.append(encode_body(Kind.BYE, bye))
        self._end()

    def abort(self) -> None:
        """End the session without a BYE: no transport carries it any more, or it is lost already."""
        if self.state is not State.CLOSED:
            self._end()

    def _receive_bye(self, bye: Bye) -> None:
        code = code_from_wire(bye.code)
        if code is Code.LINK_REPLACED:
            self._detach(Trigger.LINK_LOST)
            return
        self._drop_unread()
        self._end()
        self._events.append(Ended(code, bye.reason, True, bye.retry_after_s, bye.spread_s, bye.alternatives))

    def _fail(self, code: Code, reason: str) -> None:
        self._drop_unread()
        self.close(code, reason)
        self._events.append(Ended(code, reason, by_peer=False))

    def _end(self) -> None:
        self.state: State = next_state(self.state, Trigger.END)
        self._drop_datagrams()
        self._set_writable(False)
        # The bytes stay for pop_trailing_data().
        self.has_unread = False
        self.ack_due = None
