"""The session: every message once and in order, whatever happens to the transports under it.

One object a side. It is attached to one transport at a time; what is sent while there is none waits. See
``docs/protocol.md`` §5 (data), §6 (heartbeat), §7 (resume) and §8 (the end).
"""

from __future__ import annotations

from typing import Final

import msgspec

from landline.errors import BufferFull, ConfigurationError, LineClosed, MessageTooLarge, ProtocolError
from landline.session.codes import Code, code_from_wire
from landline.session.datagrams import Datagrams
from landline.session.events import (
    DatagramReceived,
    Ended,
    EofReceived,
    Event,
    MessageReceived,
    NoticeReceived,
    PeerSilent,
    PongReceived,
    Recovered,
    Suspected,
    Unconfirmed,
)
from landline.session.handshake import (
    REASON_CHARACTERS_MAX,
    Bye,
    Limits,
    Notice,
    ResumeTicket,
    decode_body,
    encode_body,
)
from landline.session.lanes import Assembly, Outgoing, SendLanes
from landline.session.liveness import Heartbeat, Liveness, PingTolerance, Verdict
from landline.session.replay import ReplayBuffer
from landline.session.state import Input, State, next_state
from landline.session.wire import (
    DATA_HEADER,
    DATA_HEADER_BYTES,
    DATA_LENGTH_BASE,
    FLAG_BULK,
    FLAG_MORE,
    FLAG_PACKED,
    FLAGS_KNOWN,
    FRAGMENT_BYTES,
    FRAME_BYTES_MAX,
    LENGTH_BYTES,
    NAME_BYTES_MAX,
    Kind,
    Operation,
    check_length,
    decode_ping,
    encode_ack,
    encode_eof,
    encode_ping,
)

ACK_DELAY_S: Final = 0.1
"""An acknowledgement waits this long for more to acknowledge."""
ACK_FRAMES: Final = 64
"""... but not for more frames than this,"""
ACK_WINDOW_SHARE: Final = 8
"""... nor for more than this part of the receive window."""
WRITE_BYTES: Final = 64 * 1024
"""About how much is handed to the transport at once, so that control frames need not wait behind more."""
PAUSED_CONTROL_FRAMES_MAX: Final = 8
"""Control frames written to a transport that asked us to pause; more would let a peer that never reads fill it."""

FRAME_OVERHEAD_BYTES: Final = 64
"""What Python spends on keeping one frame, beyond its bytes,"""
WAITING_OVERHEAD_BYTES: Final = 384
"""... on a message that waits to be numbered,"""
UNTAKEN_OVERHEAD_BYTES: Final = 192
"""... and on a message received and not taken. Measured with messages of a few bytes, and rounded up."""

_KIND_DATA: Final = int(Kind.DATA)
_OPERATIONS: Final = tuple(Operation)
_LANES: Final = (0, FLAG_BULK)
_unpack_data = DATA_HEADER.unpack_from
_pack_data = DATA_HEADER.pack


class SendBuffer(msgspec.Struct, frozen=True):
    """How much one session keeps for its peer, waiting or unacknowledged, before senders have to wait (P3)."""

    size_bytes: int = 16 * 1024 * 1024
    messages: int = 32_768

    def __post_init__(self) -> None:
        if self.size_bytes < 4 * FRAGMENT_BYTES or self.messages < 128:
            raise ConfigurationError(
                f"a send buffer of {self.size_bytes} bytes and {self.messages} messages is too small; "
                f"{4 * FRAGMENT_BYTES} bytes and 128 messages are the least"
            )


class Session:
    """One side of a session. Not safe for use from several threads."""

    __slots__ = (
        "_assemblies",
        "_buffer",
        "_can_write",
        "_control",
        "_datagrams",
        "_direct",
        "_direct_bytes",
        "_eof_received",
        "_eof_sent",
        "_eof_wanted",
        "_events",
        "_fragmented",
        "_is_strict",
        "_lanes",
        "_liveness",
        "_paused_frames",
        "_peer_limits",
        "_received",
        "_replay",
        "_send_buffer",
        "_taken",
        "_taken_early",
        "_told",
        "_untaken_bytes",
        "_untold_bytes",
        "_window_bytes",
        "_window_frames",
        "ack_due",
        "duplicates_dropped",
        "epoch",
        "limits",
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
        self.session_id = session_id
        self.secret = secret
        self.epoch = 0
        self.limits = limits
        self.state = State.DETACHED
        self.duplicates_dropped = 0
        self._peer_limits = peer_limits
        self._send_buffer = send_buffer
        self._window_bytes = min(peer_limits.window_bytes, send_buffer.size_bytes)
        self._window_frames = min(peer_limits.window_frames, send_buffer.messages)
        self._liveness = Liveness(heartbeat, dictates=is_server)
        self._events: list[Event] = []

        self._replay = ReplayBuffer()
        # Made when first needed: an idle line should cost little.
        self._lanes: SendLanes | None = None
        # Fragmented messages by the number of their last fragment, kept whole until that one is acknowledged, to be
        # able to report them.
        self._fragmented: dict[int, Outgoing] | None = None
        self._control: list[bytes] = []
        self._datagrams: Datagrams | None = None
        self._can_write = False
        # Whether a small message may be numbered at once: attached, writable, and nothing waits before it.
        self._direct = False
        self._direct_bytes = min(FRAGMENT_BYTES, peer_limits.message_bytes)
        self._paused_frames = 0
        self._eof_wanted = False
        self._eof_sent = False

        self._buffer = b""
        self._received = 0
        self._taken = 0
        self._taken_early: set[int] | None = None
        self._told = 0
        self.ack_due: float | None = None
        """When what was taken is to be acknowledged, at the latest; part of :meth:`next_timeout`."""
        self._untaken_bytes = 0
        self._untold_bytes = 0
        self._assemblies: dict[int, Assembly] | None = None
        self._eof_received = False
        # Whether a whole normal message has no place now: behind EOF, or between the fragments of another.
        self._is_strict = False

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
    def received(self) -> int:
        """The highest number received in order; the peer need not send anything up to it again."""
        return self._received

    @property
    def ticket(self) -> ResumeTicket:
        """What proves to the server that this client may go on with the session."""
        return ResumeTicket(self.session_id, self.secret, self.epoch, self._received)

    @property
    def buffered_bytes(self) -> int:
        """Bytes kept for the peer: waiting, or sent and not acknowledged."""
        return self._replay.size_bytes + (self._lanes.size_bytes if self._lanes else 0)

    @property
    def buffered_messages(self) -> int:
        """Frames and waiting messages kept for the peer."""
        return len(self._replay.frames) + (self._lanes.count if self._lanes else 0)

    @property
    def is_drained(self) -> bool:
        """Whether the peer's application has taken everything that was sent."""
        return self.buffered_messages == 0 and not self._eof_wanted

    @property
    def held_bytes(self) -> int:
        """About how much memory the session holds in both directions, with what Python spends on it."""
        frames, lanes, untaken = self._replay.frames, self._lanes, self._received - self._taken
        if not frames and not untaken and lanes is None and not self._buffer and not self._assemblies:
            # Most sessions, most of the time: thousands of them are asked every second.
            return 0
        held = self._replay.size_bytes + FRAME_OVERHEAD_BYTES * len(frames)
        held += self._untaken_bytes + UNTAKEN_OVERHEAD_BYTES * untaken + len(self._buffer)
        if lanes is not None:
            held += lanes.size_bytes + lanes.begun_bytes + WAITING_OVERHEAD_BYTES * lanes.count
        if self._fragmented:
            held += sum(message.size_bytes for message in self._fragmented.values())
        if self._assemblies:
            held += sum(assembly.size_bytes for assembly in self._assemblies.values())
        return held

    @property
    def datagrams_dropped(self) -> int:
        """Datagrams to the peer that were not sent."""
        return self._datagrams.dropped if self._datagrams else 0

    @property
    def datagrams_ignored(self) -> int:
        """Datagrams of the peer that nobody took."""
        return self._datagrams.ignored if self._datagrams else 0

    @property
    def is_roomy(self) -> bool:
        """Whether less than half of the send buffer is in use."""
        limit = self._send_buffer
        return 2 * self.buffered_messages < limit.messages and 2 * self.buffered_bytes < limit.size_bytes

    def has_room(self, size_bytes: int) -> bool:
        """Whether the send buffer takes a message of that size (name and body). An empty buffer takes any.

        Messages that may be dropped take no room: they give way.
        """
        messages = self.buffered_messages
        if messages == 0:
            return True
        buffered_bytes = self.buffered_bytes
        if self._lanes is not None:
            messages -= self._lanes.droppable_count
            buffered_bytes -= self._lanes.droppable_bytes
        return messages == 0 or self._fits(messages, buffered_bytes + size_bytes)

    def unconfirmed(self) -> tuple[Unconfirmed, ...]:
        """Messages sent or waiting that the peer's application has not confirmed, in the order they would arrive."""
        found = []
        fragmented = self._fragmented or {}
        for frame in self._replay.frames:
            if frame[4] != _KIND_DATA:
                continue
            _, _, sequence, flags, operation, _, name_length = _unpack_data(frame)
            if operation == Operation.CONTINUE or flags & FLAG_MORE:
                if sequence in fragmented:
                    found.append(_unconfirmed(fragmented[sequence]))
                continue
            name_end = DATA_HEADER_BYTES + name_length
            name = str(frame[DATA_HEADER_BYTES:name_end], "utf-8")
            found.append(
                Unconfirmed(_OPERATIONS[operation], name, frame[name_end:], bool(flags & FLAG_PACKED))
            )
        found.extend(map(_unconfirmed, self._lanes or ()))
        return tuple(found)

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
        self.state = next_state(self.state, Input.ATTACH)
        self.epoch = epoch
        self._buffer = b""
        self._control.clear()
        self._drop_datagrams()
        self._paused_frames = 0
        self._can_write = True
        # The last acknowledgement may have been lost with the old transport: say it again.
        self._told = 0
        self._liveness.start(now, phase=phase, round_trip_s=round_trip_s)
        self._refresh_direct()

    def receive_link_lost(self) -> None:
        """The transport ended without a BYE. Without a transport, nothing changes."""
        if self.is_attached:
            self._detach(Input.LINK_LOST)

    def pause_writing(self) -> None:
        """The transport's buffer is full: only a few control frames are given out until :meth:`resume_writing`.

        Datagrams that wait are dropped.
        """
        self._drop_datagrams()
        self._can_write = False
        self._direct = False

    def resume_writing(self) -> None:
        """The transport takes data again."""
        self._can_write = self.is_attached
        self._paused_frames = 0
        self._refresh_direct()

    # Sending.

    def send(
        self,
        operation: Operation,
        name: bytes,
        body: bytes,
        *,
        correlation: int = 0,
        is_packed: bool = False,
        is_bulk: bool = False,
        is_droppable: bool = False,
        keep: int | None = None,
    ) -> int:
        """Takes a message for sending; it arrives once and in its lane's order while the session lives.

        A droppable one is given up when another message needs its room before it has a number. ``keep`` is how many
        droppable messages of its name may wait, this one included. Returns how many were dropped for this one.
        Raises :class:`MessageTooLarge`, :class:`BufferFull` or :class:`LineClosed`; then nothing was taken or dropped.
        """
        size = len(name) + len(body)
        flags = (FLAG_PACKED if is_packed else 0) | (FLAG_BULK if is_bulk else 0)
        replay = self._replay
        frames = replay.frames
        if (
            self._direct
            and size <= self._direct_bytes
            and len(name) <= NAME_BYTES_MAX
            and len(frames) < self._window_frames
            and replay.size_bytes + size + DATA_HEADER_BYTES <= self._window_bytes
            and replay.unwritten_bytes <= WRITE_BYTES
        ):
            sequence = replay.acknowledged + len(frames) + 1
            header = _pack_data(
                DATA_LENGTH_BASE + size, _KIND_DATA, sequence, flags, operation, correlation, len(name)
            )
            frames.append(header + name + body)
            size += DATA_HEADER_BYTES
            replay.size_bytes += size
            replay.unwritten_bytes += size
            return 0
        if self.state is State.CLOSED or self._eof_wanted or self._eof_sent:
            raise LineClosed(
                "the line is closed" if self.state is State.CLOSED else "nothing can be sent after send_eof()"
            )
        self._check_sendable(name, size)
        if self._lanes is None:
            self._lanes = SendLanes()
            dropped = 0
        else:
            dropped = self._make_room(size, name if is_droppable else None, keep)
        self._lanes.append(Outgoing(operation, flags, correlation, name, body, 0, is_droppable))
        self._direct = False
        return dropped

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

    def count_datagram_dropped(self) -> None:
        """A datagram to the peer was dropped before it came here, or by a transport that carries datagrams."""
        self._ensure_datagrams().dropped += 1

    def send_eof(self) -> None:
        """Says, behind everything sent so far, that no more will come. Saying it twice is saying it once."""
        if self.state is State.CLOSED:
            raise LineClosed("the line is closed")
        if not self._eof_sent:
            self._eof_wanted = True
            self._direct = False

    def send_ping(self, now: float) -> int:
        """Pings at once and returns the ping's number; :class:`PongReceived` will bear it."""
        if not self.is_attached:
            raise LineClosed("the line is not connected just now")
        number = self._liveness.next_ping(now)
        self._control.append(encode_ping(Kind.PING, number, int(now * 1e6), self._taken))
        self._count_told()
        return number

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

    def data_to_send(self, now: float) -> bytes:
        """The bytes to write now: control frames first, then datagrams, then data.

        Call it again until it returns fewer than :data:`WRITE_BYTES`: then nothing is left, or the peer's window or
        the transport has no room for more.
        """
        control = self._control
        if self.state is not State.CLOSED:
            if self._taken > self._told:
                self._schedule_ack(now)
            if self._can_write:
                if self._datagrams is not None and self._datagrams.has_waiting:
                    control += self._datagrams.take_waiting()
                if self._lanes is not None or self._eof_wanted:
                    self._number_waiting()
                if self._replay.unwritten_bytes:
                    self._liveness.said_at = now
                    frames = self._replay.next_unwritten(WRITE_BYTES)
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

    # Receiving.

    def receive_data(self, data: bytes, now: float, *, epoch: int) -> None:
        """Takes bytes of the transport of that epoch. Events are fetched with :meth:`next_events`.

        Bytes of an older transport are dropped: the session has moved on (§7.3). A peer that breaks the protocol
        gets a BYE and ends the session with an :class:`Ended` event.
        """
        if epoch != self.epoch or not self.is_attached:
            return
        liveness = self._liveness
        liveness.heard_at = now
        if self.state is State.SUSPECT:
            self._recover()
        try:
            self._receive_frames(self._buffer + data if self._buffer else data, now)
        except ProtocolError as error:
            self._fail(error.code or Code.PROTOCOL_ERROR, str(error))
        except UnicodeDecodeError:
            self._fail(Code.PROTOCOL_ERROR, "a name that is not UTF-8")

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
            self._ensure_datagrams().receive(data)
        except ProtocolError as error:
            self._fail(error.code or Code.PROTOCOL_ERROR, str(error))

    @property
    def has_datagrams(self) -> bool:
        """Whether :meth:`next_datagrams` has any."""
        return self._datagrams is not None and self._datagrams.has_unread

    def next_datagrams(self) -> list[DatagramReceived]:
        """Datagrams that came since the last call; of very many only the last ones."""
        return self._datagrams.take_unread() if self._datagrams else []

    def count_datagram_ignored(self) -> None:
        """A datagram of the peer had nobody to take it."""
        self._ensure_datagrams().ignored += 1

    def next_events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events = self._events
        if events:
            self._events = []
        return events

    def take(self, message: MessageReceived) -> None:
        """The application has the message: the peer may forget it, and send more in its place."""
        self._untaken_bytes -= message.size_bytes
        self._untold_bytes += message.size_bytes
        if message.sequence == self._taken + 1 and not self._taken_early:
            self._taken = message.sequence
        else:
            self._mark_taken(message.sequence)

    # Time.

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
        while True:
            verdict = self._liveness.handle_timeout(now)
            if verdict is Verdict.PING:
                self.send_ping(now)
            elif verdict is Verdict.SUSPECT:
                self.state = next_state(self.state, Input.SILENCE)
                self._events.append(Suspected(now - self._liveness.heard_at))
            elif verdict is Verdict.DEAD:
                self._detach(Input.DEADLINE)
                self._events.append(PeerSilent(now - self._liveness.heard_at))
                return
            else:
                return

    # Inside.

    def _fail(self, code: Code, reason: str) -> None:
        self.close(code, reason)
        self._events.append(Ended(code, reason, by_peer=False))

    def _recover(self) -> None:
        self.state = next_state(self.state, Input.HEARD)
        self._liveness.is_suspect = False
        self._events.append(Recovered())

    def _ensure_datagrams(self) -> Datagrams:
        if self._datagrams is None:
            self._datagrams = Datagrams()
        return self._datagrams

    def _drop_datagrams(self) -> None:
        if self._datagrams is not None:
            self._datagrams.drop_waiting()

    def _detach(self, occurrence: Input) -> None:
        self.state = next_state(self.state, occurrence)
        self._drop_datagrams()
        self._can_write = False
        self._direct = False
        self._buffer = b""
        self._control.clear()
        self.ack_due = None

    def _end(self) -> None:
        self.state = next_state(self.state, Input.END)
        self._drop_datagrams()
        self._direct = False
        self.ack_due = None
        self._buffer = b""

    def _refresh_direct(self) -> None:
        self._direct = self._can_write and self._lanes is None and not self._eof_wanted and not self._eof_sent

    def _check_sendable(self, name: bytes, size: int) -> None:
        if len(name) > NAME_BYTES_MAX:
            raise MessageTooLarge(f"a name of {len(name)} bytes; {NAME_BYTES_MAX} are allowed")
        if size > self._peer_limits.message_bytes:
            raise MessageTooLarge(
                f"a message of {size} bytes; the peer takes {self._peer_limits.message_bytes} "
                "(send it as a file, or in parts)"
            )
        if not self.has_room(size):
            raise BufferFull(
                f"{self.buffered_messages} messages and {self.buffered_bytes} bytes wait for the peer already"
            )

    def _fits(self, messages: int, size_bytes: int) -> bool:
        limit = self._send_buffer
        return messages < limit.messages and size_bytes <= limit.size_bytes

    def _make_room(self, size: int, name: bytes | None, keep: int | None) -> int:
        """Drops what must give way to a message that :meth:`has_room`, and returns how many messages that was.

        For a droppable message, of that ``name``, others of the same name go first.
        """
        lanes = self._lanes
        assert lanes is not None
        before = lanes.count
        if keep is not None and name is not None:
            while lanes.count_droppable(name) >= keep:
                lanes.drop_oldest(name)
        while lanes.droppable_count and not self._fits(self.buffered_messages, self.buffered_bytes + size):
            lanes.drop_oldest(name)
        return before - lanes.count

    def _number_waiting(self) -> None:
        """Moves what waits in the lanes into the replay buffer, as far as the window and one write allow."""
        replay, lanes = self._replay, self._lanes
        while (
            lanes is not None
            and lanes.count
            and replay.unwritten_bytes < WRITE_BYTES
            and len(replay.frames) < self._window_frames
            and replay.size_bytes + FRAME_BYTES_MAX <= self._window_bytes
        ):
            sequence = replay.last_sequence + 1
            frame, message, is_last = lanes.next_frame(sequence)
            replay.append(frame)
            if is_last and len(message.body) > FRAGMENT_BYTES:
                if self._fragmented is None:
                    self._fragmented = {}
                self._fragmented[sequence] = message
        if lanes is not None and not lanes.count:
            self._lanes = lanes = None
        if lanes is None and self._eof_wanted and len(replay.frames) < self._window_frames:
            self._eof_wanted = False
            self._eof_sent = True
            replay.append(encode_eof(replay.last_sequence + 1))
        self._refresh_direct()

    def _schedule_ack(self, now: float) -> None:
        if not self._can_write:
            # A transport that asks us to pause gets acknowledgements with its heartbeats only.
            self.ack_due = None
        elif (
            self._taken - self._told >= ACK_FRAMES
            or self._untold_bytes * ACK_WINDOW_SHARE >= self.limits.window_bytes
            or (self.ack_due is not None and now >= self.ack_due)
        ):
            self._control.append(encode_ack(self._taken))
            self._count_told()
        elif self.ack_due is None:
            self.ack_due = now + ACK_DELAY_S

    def _count_told(self) -> None:
        self._told = self._taken
        self._untold_bytes = 0
        self.ack_due = None

    def _mark_taken(self, sequence: int) -> None:
        early = self._taken_early
        if sequence != self._taken + 1:
            if early is None:
                early = self._taken_early = set()
            early.add(sequence)
            return
        taken = sequence
        if early:
            while taken + 1 in early:
                taken += 1
                early.remove(taken)
            if not early:
                self._taken_early = None
        self._taken = taken

    def _receive_frames(self, buffer: bytes, now: float) -> None:
        position = 0
        end = len(buffer)
        events = self._events
        message_bytes_max = self.limits.message_bytes
        while end - position >= LENGTH_BYTES:
            # This branch is the innermost loop of every busy line: parsed in place, nothing copied but the body.
            if end - position >= DATA_HEADER_BYTES and buffer[position + 4] == _KIND_DATA:
                length, _, sequence, flags, operation, correlation, name_length = _unpack_data(
                    buffer, position
                )
                frame_end = position + LENGTH_BYTES + length
                if length > FRAME_BYTES_MAX or frame_end > end:
                    check_length(length, FRAME_BYTES_MAX)
                    break
                body_start = position + DATA_HEADER_BYTES + name_length
                if body_start > frame_end:
                    raise ProtocolError(f"a DATA frame of {length} bytes with a name of {name_length}")
                position = frame_end
                if sequence != self._received + 1 and self._is_repetition(sequence):
                    continue
                self._received = sequence
                name = str(buffer[body_start - name_length : body_start], "utf-8") if name_length else ""
                body = buffer[body_start:frame_end]
                size = length + LENGTH_BYTES
                if 0 < operation <= 5 and not flags & ~FLAG_PACKED and not self._is_strict:
                    if size > message_bytes_max:
                        self._check_message_size(size - DATA_HEADER_BYTES)
                    event = MessageReceived(
                        sequence, _OPERATIONS[operation], correlation, name, body, flags != 0, size
                    )
                else:
                    whole = self._receive_fragment(sequence, flags, operation, correlation, name, body)
                    if whole is None:
                        continue
                    event = whole
                events.append(event)
                self._untaken_bytes += event.size_bytes
                continue
            length = int.from_bytes(buffer[position : position + LENGTH_BYTES], "big")
            check_length(length, FRAME_BYTES_MAX)
            frame_end = position + LENGTH_BYTES + length
            if frame_end > end:
                break
            self._receive_control(
                buffer[position + LENGTH_BYTES], buffer[position + LENGTH_BYTES + 1 : frame_end], now
            )
            position = frame_end
            if not self.is_attached:
                return
        self._buffer = buffer[position:] if position < end else b""
        self._check_window()

    def _is_repetition(self, sequence: int) -> bool:
        """Whether a frame out of order is one we have, to be dropped (§7.2); one too high means one is missing."""
        if sequence > self._received:
            raise ProtocolError(f"frame {sequence} after frame {self._received}")
        self.duplicates_dropped += 1
        return True

    def _check_message_size(self, size_bytes: int) -> None:
        if size_bytes > self.limits.message_bytes:
            raise ProtocolError(
                f"a message of more than the {self.limits.message_bytes} bytes allowed", Code.LIMIT_EXCEEDED
            )

    def _check_window(self) -> None:
        # Our taken is never behind what the peer knows of it, so a peer that keeps count cannot get here. Of one
        # message a lane, though, the first fragments may be acknowledged and still count here with the whole.
        limits = self.limits
        bytes_max = limits.window_bytes + len(_LANES) * (limits.message_bytes + DATA_HEADER_BYTES)
        if self._received - self._taken > limits.window_frames or self._untaken_bytes > bytes_max:
            raise ProtocolError(
                f"more than {limits.window_frames} frames or {limits.window_bytes} bytes unacknowledged",
                Code.LIMIT_EXCEEDED,
            )

    def _receive_fragment(
        self, sequence: int, flags: int, operation: int, correlation: int, name: str, body: bytes
    ) -> MessageReceived | None:
        """Handles what is not a whole normal message in one frame; returns a message that became whole."""
        if self._eof_received:
            raise ProtocolError("data after EOF")
        if flags & ~FLAGS_KNOWN or operation >= len(_OPERATIONS):
            raise ProtocolError(f"unknown flags {flags:#x} or operation {operation} in a DATA frame")
        lane = flags & FLAG_BULK
        assemblies = self._assemblies
        if operation == Operation.CONTINUE:
            if not assemblies or lane not in assemblies:
                raise ProtocolError("a fragment that continues nothing")
            assembly = assemblies[lane]
            assembly.add(body, self.limits.message_bytes)
        else:
            if assemblies and lane in assemblies:
                raise ProtocolError("a message begun before the last one on its lane was whole")
            if flags & FLAG_MORE and not body:
                raise ProtocolError("an empty fragment")
            assembly = Assembly(_OPERATIONS[operation], flags, correlation, name, body)
            self._check_message_size(assembly.size_bytes)
        if flags & FLAG_MORE:
            if assemblies is None:
                assemblies = self._assemblies = {}
            assemblies[lane] = assembly
            self._is_strict = 0 in assemblies
            # Held by the assembly, whose size has a limit of its own: the window is for whole messages.
            self._mark_taken(sequence)
            self._untold_bytes += len(body)
            return None
        if assemblies and operation == Operation.CONTINUE:
            del assemblies[lane]
            self._is_strict = 0 in assemblies
            if not assemblies:
                self._assemblies = None
        return MessageReceived(
            sequence,
            assembly.operation,
            assembly.correlation,
            assembly.name,
            bytes(assembly.body),
            bool(assembly.flags & FLAG_PACKED),
            DATA_HEADER_BYTES + assembly.size_bytes,
        )

    def _receive_control(self, kind: int, body: bytes, now: float) -> None:
        if kind == Kind.ACK:
            self._receive_taken(_sequence_of(body))
        elif kind == Kind.DATAGRAM:
            self._ensure_datagrams().receive(body)
        elif kind == Kind.PING:
            self._receive_ping(body, now)
        elif kind == Kind.PONG:
            number, _, taken = decode_ping(body)
            self._receive_taken(taken)
            round_trip_s = self._liveness.receive_pong(number, now)
            if round_trip_s is not None:
                self._events.append(PongReceived(number, round_trip_s))
        elif kind == Kind.EOF:
            self._receive_eof(_sequence_of(body))
        elif kind == Kind.BYE:
            bye = decode_body(body, Bye)
            code = code_from_wire(bye.code)
            if code is Code.LINK_REPLACED:
                self._detach(Input.LINK_LOST)
                return
            self._end()
            self._events.append(
                Ended(code, bye.reason, True, bye.retry_after_s, bye.spread_s, bye.alternatives)
            )
        elif kind == Kind.NOTICE:
            notice = decode_body(body, Notice)
            self._events.append(NoticeReceived(code_from_wire(notice.code), notice.reason))
        else:
            raise ProtocolError(f"a frame of unknown kind {kind} or of a kind that has no place in a session")

    def _receive_taken(self, taken: int) -> None:
        if self._replay.receive_ack(taken) and self._fragmented:
            rest = {last: message for last, message in self._fragmented.items() if last > taken}
            self._fragmented = rest or None

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

    def _receive_eof(self, sequence: int) -> None:
        if sequence != self._received + 1 and self._is_repetition(sequence):
            return
        if self._eof_received:
            raise ProtocolError("a second EOF")
        if self._assemblies:
            raise ProtocolError("EOF in the middle of a message")
        self._received = sequence
        self._mark_taken(sequence)
        self._eof_received = self._is_strict = True
        self._events.append(EofReceived())


def _unconfirmed(message: Outgoing) -> Unconfirmed:
    return Unconfirmed(
        message.operation, str(message.name, "utf-8"), message.body, bool(message.flags & FLAG_PACKED)
    )


def _sequence_of(body: bytes) -> int:
    if len(body) != 8:
        raise ProtocolError(f"a sequence number of {len(body)} bytes")
    return int.from_bytes(body, "big")
