"""The outbound half of a session: messages are queued, numbered, and held until they are acknowledged.

See ``docs/protocol.md`` §5.2 (numbers and the window), §5.4 (EOF) and §5.5 (lanes and fragments).
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from landline.codes import Operation
from landline.errors import BufferFull, LineClosed, MessageTooLarge, Unconfirmed
from landline.session.constants import (
    FLAG_BULK,
    FLAG_MORE,
    FLAG_PACKED,
    FRAGMENT_BYTES,
    FRAME_BYTES_MAX,
    FRAME_OVERHEAD_BYTES,
    NAME_BYTES_MAX,
    WAITING_OVERHEAD_BYTES,
    WRITE_BYTES,
    Kind,
)
from landline.session.frames import (
    DATA_HEADER,
    DATA_HEADER_BYTES,
    DATA_LENGTH_BASE,
    KIND_OFFSET,
    OPERATION_OFFSET,
    encode_eof,
)
from landline.session.replay import ReplayBuffer
from landline.session.send_queue import Outgoing, SendQueue
from landline.session.settings import Limits, SendBuffer

_KIND_DATA: Final = int(Kind.DATA)
_OPERATIONS: Final = tuple(Operation)
_unpack_data = DATA_HEADER.unpack_from
_pack_data = DATA_HEADER.pack


class _Eof(Enum):
    """Whether the owner has called :meth:`Outbound.send_eof`, and whether EOF has a number."""

    NONE = auto()
    WAITING = auto()
    NUMBERED = auto()


# Looked up once: an enum's attribute costs as much as a function call.
_NO_EOF: Final = _Eof.NONE
_EOF_WAITING: Final = _Eof.WAITING


class Outbound:
    """Everything that a session holds for its peer.

    A small message is numbered at once where a transport takes data and no other message waits; any other message
    waits in the send queue. Numbered frames stay in the replay buffer until the peer acknowledges them. The session
    decides when they are written.
    """

    __slots__ = (
        "_direct_bytes",
        "_eof",
        "_fragmented",
        "_is_direct",
        "_queue",
        "_window_bytes",
        "_window_frames",
        "can_write",
        "is_closed",
        "peer_limits",
        "replay",
        "send_buffer",
    )

    def __init__(self, *, peer_limits: Limits, send_buffer: SendBuffer) -> None:
        self.peer_limits: Limits = peer_limits
        self.send_buffer: SendBuffer = send_buffer
        self._window_bytes = min(peer_limits.window_bytes, send_buffer.size_bytes)
        self._window_frames = min(peer_limits.window_frames, send_buffer.messages)
        self.replay: ReplayBuffer = ReplayBuffer()
        # Created when first needed, because thousands of lines are idle.
        self._queue: SendQueue | None = None
        # Fragmented messages by the number of their last fragment. They are held whole until that fragment is
        # acknowledged, so that they can be reported as unconfirmed.
        self._fragmented: dict[int, Outgoing] | None = None
        self.can_write: bool = False
        """Whether a transport takes data now; changed by :meth:`set_writable`."""
        self.is_closed: bool = False
        """Whether the session has ended; changed by :meth:`close`."""
        # Whether a small message may be numbered at once.
        self._is_direct = False
        self._direct_bytes = min(FRAGMENT_BYTES, peer_limits.message_bytes)
        self._eof = _NO_EOF

    # Properties

    @property
    def buffered_bytes(self) -> int:
        """The bytes held for the peer: waiting, or sent and not acknowledged."""
        return self.replay.size_bytes + (self._queue.size_bytes if self._queue else 0)

    @property
    def buffered_messages(self) -> int:
        """The number of frames and waiting messages held for the peer."""
        return len(self.replay.frames) + (self._queue.count if self._queue else 0)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held for the peer, EOF aside."""
        return not self.replay.frames and self._queue is None

    @property
    def is_drained(self) -> bool:
        """Whether the peer's application has acknowledged everything that was sent."""
        return self.buffered_messages == 0 and self._eof is not _EOF_WAITING

    @property
    def can_answer(self) -> bool:
        """Whether a response can still be sent: not after EOF, and not after the end of the session (§5.4)."""
        return self._eof is _NO_EOF and not self.is_closed

    @property
    def is_below_low_watermark(self) -> bool:
        """Whether less than half of the send buffer is in use."""
        limit = self.send_buffer
        return 2 * self.buffered_messages < limit.messages and 2 * self.buffered_bytes < limit.size_bytes

    @property
    def held_bytes(self) -> int:
        """About how much memory the messages for the peer take, with the overhead of Python."""
        frames, queue = self.replay.frames, self._queue
        held = self.replay.size_bytes + FRAME_OVERHEAD_BYTES * len(frames)
        if queue is not None:
            held += queue.size_bytes + queue.partly_numbered_bytes + WAITING_OVERHEAD_BYTES * queue.count
        if self._fragmented:
            held += sum(message.size_bytes for message in self._fragmented.values())
        return held

    def has_space(self, size_bytes: int) -> bool:
        """Return whether the send buffer has space for a message of that size (name and body).

        An empty buffer has space for any. Droppable messages do not count, because they make way.
        """
        messages = self.buffered_messages
        if messages == 0:
            return True
        buffered_bytes = self.buffered_bytes
        if self._queue is not None:
            messages -= self._queue.droppable_count
            buffered_bytes -= self._queue.droppable_bytes
        return messages == 0 or self._fits(messages, buffered_bytes + size_bytes)

    def unconfirmed(self, operation: Operation | None = None) -> tuple[Unconfirmed, ...]:
        """Return the messages that are not acknowledged, sent or waiting, in the order in which they would arrive.

        :param operation: return only messages of this operation.
        """
        found = []
        fragmented = self._fragmented or {}
        for frame in self.replay.frames:
            if frame[KIND_OFFSET] != _KIND_DATA:
                continue
            if operation is not None and frame[OPERATION_OFFSET] not in (operation, Operation.CONTINUE):
                # Skips thousands of responses before they are decoded.
                continue
            _, _, sequence, flags, frame_operation, _, name_length = _unpack_data(frame)
            if frame_operation == Operation.CONTINUE or flags & FLAG_MORE:
                if sequence in fragmented and operation in (None, fragmented[sequence].operation):
                    found.append(_unconfirmed(fragmented[sequence]))
                continue
            name_end = DATA_HEADER_BYTES + name_length
            name = str(frame[DATA_HEADER_BYTES:name_end], "utf-8")
            is_packed = bool(flags & FLAG_PACKED)
            found.append(Unconfirmed(_OPERATIONS[frame_operation], name, frame[name_end:], is_packed))
        found.extend(
            _unconfirmed(message) for message in self._queue or () if operation in (None, message.operation)
        )
        return tuple(found)

    # Sending

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
        """Accept a message; it arrives once and in the order of its lane while the session lives.

        :param is_droppable: drop the message when another one needs its space before it has a number.
        :param max_pending: how many droppable messages of its name may wait, this one included.
        :returns: how many messages were dropped to make space.
        :raises MessageTooLarge: when the peer does not accept a message of that size, or the name is too long.
        :raises BufferFull: when the send buffer has no space.
        :raises LineClosed: after the end of the session, or after :meth:`send_eof`.

        When it raises, no message was accepted or dropped.
        """
        name_length = len(name)
        size = name_length + len(body)
        flags = (FLAG_PACKED if is_packed else 0) | (FLAG_BULK if is_bulk else 0)
        replay = self.replay
        frames = replay.frames
        # The fast path of every small message: the frame is encoded in place and counted without a call.
        if (
            self._is_direct
            and size <= self._direct_bytes
            and name_length <= NAME_BYTES_MAX
            and len(frames) < self._window_frames
            and replay.size_bytes + size + DATA_HEADER_BYTES <= self._window_bytes
            and replay.unwritten_bytes <= WRITE_BYTES
        ):
            sequence = replay.acked + len(frames) + 1
            header = _pack_data(
                DATA_LENGTH_BASE + size, _KIND_DATA, sequence, flags, operation, correlation, name_length
            )
            frames.append(header + name + body)
            size += DATA_HEADER_BYTES
            replay.size_bytes += size
            replay.unwritten_bytes += size
            return 0
        if not self.can_answer:
            raise LineClosed(
                "the line is closed" if self.is_closed else "no message can be sent after send_eof()"
            )
        self._check_sendable(name, size)
        dropped = 0
        if self._queue is None:
            self._queue = SendQueue()
        else:
            dropped = self._make_space(self._queue, size, name if is_droppable else None, max_pending)
        self._queue.append(Outgoing(operation, flags, correlation, name, body, 0, is_droppable))
        self._is_direct = False
        return dropped

    def send_eof(self) -> None:
        """Queue EOF after all messages sent so far. Idempotent.

        :raises LineClosed: after the end of the session.
        """
        if self.is_closed:
            raise LineClosed("the line is closed")
        if self._eof is _NO_EOF:
            self._eof = _EOF_WAITING
            self._is_direct = False

    def _check_sendable(self, name: bytes, size: int) -> None:
        if len(name) > NAME_BYTES_MAX:
            raise MessageTooLarge(f"a name of {len(name)} bytes; at most {NAME_BYTES_MAX} are allowed")
        if size > self.peer_limits.message_bytes:
            raise MessageTooLarge(
                f"a message of {size} bytes; the peer accepts {self.peer_limits.message_bytes} "
                "(send it as a file, or in parts)"
            )
        if not self.has_space(size):
            raise BufferFull(
                f"the send buffer is full: {self.buffered_messages} messages and {self.buffered_bytes} bytes "
                "wait for the peer"
            )

    def _fits(self, messages: int, size_bytes: int) -> bool:
        limit = self.send_buffer
        return messages < limit.messages and size_bytes <= limit.size_bytes

    def _make_space(self, queue: SendQueue, size: int, name: bytes | None, max_pending: int | None) -> int:
        """Drop what must make way for a message for which :meth:`has_space` is true; return how many were dropped.

        For a droppable message, of that ``name``, others of the same name are dropped first.
        """
        before = queue.count
        if max_pending is not None and name is not None:
            while queue.count_droppable(name) >= max_pending:
                queue.drop_oldest(name)
        while queue.droppable_count and not self._fits(self.buffered_messages, self.buffered_bytes + size):
            queue.drop_oldest(name)
        return before - queue.count

    # Called by the session

    def set_writable(self, can_write: bool) -> None:
        """Record whether a transport takes data from now on."""
        self.can_write = can_write
        self._refresh_direct()

    def close(self) -> None:
        """Accept nothing more, and give out nothing more. The messages stay, to be reported as unconfirmed."""
        self.is_closed = True
        self.set_writable(False)

    def next_frames(self) -> list[bytes]:
        """Return the frames to write now, about :data:`WRITE_BYTES`, and count them as written."""
        if self._queue is not None or self._eof is _EOF_WAITING:
            self._number_waiting()
        replay = self.replay
        return replay.next_unwritten(WRITE_BYTES) if replay.unwritten_bytes else []

    def receive_ack(self, acked: int) -> bool:
        """Forget every frame up to ``acked``; return whether there was one.

        :raises ProtocolError: when a frame is acknowledged that was never written.
        """
        has_news = self.replay.receive_ack(acked) > 0
        if has_news and self._fragmented:
            remaining = {last: message for last, message in self._fragmented.items() if last > acked}
            self._fragmented = remaining or None
        return has_news

    def _number_waiting(self) -> None:
        """Move waiting messages into the replay buffer, as far as the window and the size of one write allow."""
        replay, queue = self.replay, self._queue
        while (
            queue is not None
            and queue.count
            and replay.unwritten_bytes < WRITE_BYTES
            and len(replay.frames) < self._window_frames
            and replay.size_bytes + FRAME_BYTES_MAX <= self._window_bytes
        ):
            sequence = replay.last_sequence + 1
            frame, message, is_last = queue.next_frame(sequence)
            replay.append(frame)
            if is_last and len(message.body) > FRAGMENT_BYTES:
                if self._fragmented is None:
                    self._fragmented = {}
                self._fragmented[sequence] = message
        if queue is not None and not queue.count:
            self._queue = queue = None
        if queue is None and self._eof is _EOF_WAITING and len(replay.frames) < self._window_frames:
            self._eof = _Eof.NUMBERED
            replay.append(encode_eof(replay.last_sequence + 1))
        self._refresh_direct()

    def _refresh_direct(self) -> None:
        self._is_direct = self.can_write and self._queue is None and self._eof is _NO_EOF


def _unconfirmed(message: Outgoing) -> Unconfirmed:
    return Unconfirmed(
        message.operation, str(message.name, "utf-8"), message.body, bool(message.flags & FLAG_PACKED)
    )
