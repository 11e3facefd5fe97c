"""The sending side of a session: messages are taken, numbered, and kept until the peer's application has them.

See ``docs/protocol.md`` §5.2 (numbers and the window), §5.4 (EOF) and §5.5 (lanes and fragments).
"""

from __future__ import annotations

from typing import Final

import msgspec

from landline.codes import Operation
from landline.errors import BufferFull, ConfigurationError, LineClosed, MessageTooLarge, Unconfirmed
from landline.session.frames import (
    DATA_HEADER,
    DATA_HEADER_BYTES,
    DATA_LENGTH_BASE,
    FLAG_BULK,
    FLAG_MORE,
    FLAG_PACKED,
    FRAGMENT_BYTES,
    FRAME_BYTES_MAX,
    NAME_BYTES_MAX,
    OPERATION_OFFSET,
    Kind,
    encode_eof,
)
from landline.session.handshake import Limits
from landline.session.replay import ReplayBuffer
from landline.session.send_queue import Outgoing, SendQueue
from landline.session.state import State

WRITE_BYTES: Final = 64 * 1024
"""About how much is handed to the transport at once, so that control frames need not wait behind more."""

FRAME_OVERHEAD_BYTES: Final = 64
"""What Python spends on keeping one frame, beyond its bytes,"""
WAITING_OVERHEAD_BYTES: Final = 384
"""... and on a message that waits to be numbered. Measured with messages of a few bytes, and rounded up."""

_KIND_DATA: Final = int(Kind.DATA)
_OPERATIONS: Final = tuple(Operation)
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


class SessionSending:
    """The lowest layer of :class:`landline.session.session.Session`: what it keeps for its peer.

    All it knows of transports is whether one takes data now, and of the session's life whether it is over. What is
    taken is numbered at once where that is possible, else it waits in lanes; what is numbered stays in the replay
    buffer until it is acknowledged. Which of it is written when is decided above.
    """

    __slots__ = (
        "_can_write",
        "_direct",
        "_direct_bytes",
        "_eof_sent",
        "_eof_wanted",
        "_fragmented",
        "_lanes",
        "_peer_limits",
        "_replay",
        "_send_buffer",
        "_window_bytes",
        "_window_frames",
        "state",
    )

    def __init__(self, *, peer_limits: Limits, send_buffer: SendBuffer) -> None:
        self.state: State = State.DETACHED
        self._peer_limits = peer_limits
        self._send_buffer = send_buffer
        self._window_bytes = min(peer_limits.window_bytes, send_buffer.size_bytes)
        self._window_frames = min(peer_limits.window_frames, send_buffer.messages)
        self._replay = ReplayBuffer()
        # Made when first needed: an idle line should cost little.
        self._lanes: SendQueue | None = None
        # Fragmented messages by the number of their last fragment, kept whole until that one is acknowledged, to be
        # able to report them.
        self._fragmented: dict[int, Outgoing] | None = None
        self._can_write = False
        # Whether a small message may be numbered at once: a transport takes data, and nothing waits before it.
        self._direct = False
        self._direct_bytes = min(FRAGMENT_BYTES, peer_limits.message_bytes)
        self._eof_wanted = False
        self._eof_sent = False

    # What is kept, and what there is room for.

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
    def can_answer(self) -> bool:
        """Whether an answer can still be sent: not after EOF, and not after the end (§5.4)."""
        return self.state is not State.CLOSED and not (self._eof_wanted or self._eof_sent)

    @property
    def is_below_low_watermark(self) -> bool:
        """Whether less than half of the send buffer is in use."""
        limit = self._send_buffer
        return 2 * self.buffered_messages < limit.messages and 2 * self.buffered_bytes < limit.size_bytes

    def has_space(self, size_bytes: int) -> bool:
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

    def unconfirmed(self, operation: Operation | None = None) -> tuple[Unconfirmed, ...]:
        """Messages sent or waiting that the peer's application has not confirmed, in the order they would arrive.

        ``operation`` leaves out those of other operations.
        """
        found = []
        fragmented = self._fragmented or {}
        for frame in self._replay.frames:
            if frame[4] != _KIND_DATA:
                continue
            if operation is not None and frame[OPERATION_OFFSET] not in (operation, Operation.CONTINUE):
                # Of thousands of answers nobody wants to hear.
                continue
            _, _, sequence, flags, carried, _, name_length = _unpack_data(frame)
            if carried == Operation.CONTINUE or flags & FLAG_MORE:
                if sequence in fragmented and operation in (None, fragmented[sequence].operation):
                    found.append(_unconfirmed(fragmented[sequence]))
                continue
            name_end = DATA_HEADER_BYTES + name_length
            name = str(frame[DATA_HEADER_BYTES:name_end], "utf-8")
            found.append(Unconfirmed(_OPERATIONS[carried], name, frame[name_end:], bool(flags & FLAG_PACKED)))
        found.extend(
            _unconfirmed(message) for message in self._lanes or () if operation in (None, message.operation)
        )
        return tuple(found)

    # Taking.

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
        max_pending: int | None = None,
    ) -> int:
        """Takes a message for sending; it arrives once and in its lane's order while the session lives.

        A droppable one is given up when another message needs its room before it has a number. ``max_pending`` is
        how many
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
            self._lanes = SendQueue()
            dropped = 0
        else:
            dropped = self._make_room(size, name if is_droppable else None, max_pending)
        self._lanes.append(Outgoing(operation, flags, correlation, name, body, 0, is_droppable))
        self._direct = False
        return dropped

    def send_eof(self) -> None:
        """Says, behind everything sent so far, that no more will come. Saying it twice is saying it once."""
        if self.state is State.CLOSED:
            raise LineClosed("the line is closed")
        if not self._eof_sent:
            self._eof_wanted = True
            self._direct = False

    def _check_sendable(self, name: bytes, size: int) -> None:
        if len(name) > NAME_BYTES_MAX:
            raise MessageTooLarge(f"a name of {len(name)} bytes; {NAME_BYTES_MAX} are allowed")
        if size > self._peer_limits.message_bytes:
            raise MessageTooLarge(
                f"a message of {size} bytes; the peer takes {self._peer_limits.message_bytes} "
                "(send it as a file, or in parts)"
            )
        if not self.has_space(size):
            raise BufferFull(
                f"{self.buffered_messages} messages and {self.buffered_bytes} bytes wait for the peer already"
            )

    def _fits(self, messages: int, size_bytes: int) -> bool:
        limit = self._send_buffer
        return messages < limit.messages and size_bytes <= limit.size_bytes

    def _make_room(self, size: int, name: bytes | None, max_pending: int | None) -> int:
        """Drops what must give way to a message that :meth:`has_space`, and returns how many messages that was.

        For a droppable message, of that ``name``, others of the same name go first.
        """
        lanes = self._lanes
        assert lanes is not None
        before = lanes.count
        if max_pending is not None and name is not None:
            while lanes.count_droppable(name) >= max_pending:
                lanes.drop_oldest(name)
        while lanes.droppable_count and not self._fits(self.buffered_messages, self.buffered_bytes + size):
            lanes.drop_oldest(name)
        return before - lanes.count

    # For the layers above: numbering, acknowledged, and whether to write.

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

    def _receive_taken(self, taken: int) -> bool:
        """The peer's application has every frame up to ``taken``, as an ACK or a heartbeat says.

        Returns whether that is news. Raises :class:`landline.ProtocolError` for a frame that was never written.
        """
        is_news = self._replay.receive_ack(taken) > 0
        if is_news and self._fragmented:
            rest = {last: message for last, message in self._fragmented.items() if last > taken}
            self._fragmented = rest or None
        return is_news

    def _set_writable(self, can_write: bool) -> None:
        """Whether a transport takes data from now on."""
        self._can_write = can_write
        self._refresh_direct()

    def _refresh_direct(self) -> None:
        self._direct = self._can_write and self._lanes is None and not self._eof_wanted and not self._eof_sent

    def _sending_memory_bytes(self) -> int:
        """About how much memory what is kept for the peer takes."""
        frames, lanes = self._replay.frames, self._lanes
        held = self._replay.size_bytes + FRAME_OVERHEAD_BYTES * len(frames)
        if lanes is not None:
            held += lanes.size_bytes + lanes.begun_bytes + WAITING_OVERHEAD_BYTES * lanes.count
        if self._fragmented:
            held += sum(message.size_bytes for message in self._fragmented.values())
        return held


def _unconfirmed(message: Outgoing) -> Unconfirmed:
    return Unconfirmed(
        message.operation, str(message.name, "utf-8"), message.body, bool(message.flags & FLAG_PACKED)
    )
