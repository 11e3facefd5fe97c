"""The inbound half of a session: frames in order, each once; whole messages; what to acknowledge, and when.

See ``docs/protocol.md`` §5.1 to §5.5, and §7.2 (frames that are repeated after a resume are dropped here).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from landline.codes import Code, Operation
from landline.errors import ProtocolError
from landline.session.constants import (
    ACK_DELAY_S,
    ACK_FRAMES,
    ACK_WINDOW_SHARE,
    FLAG_BULK,
    FLAG_MORE,
    FLAG_PACKED,
    FLAGS_KNOWN,
    FRAME_BYTES_MAX,
    LENGTH_BYTES,
    READ_BYTES_MAX,
    REDUNDANT_FRAMES_MAX,
    REDUNDANT_WINDOW_S,
    SMALL_FRAGMENT_BYTES,
    UNACKED_OVERHEAD_BYTES,
    Kind,
)
from landline.session.events import EofReceived, Event, MessageReceived
from landline.session.frames import (
    DATA_HEADER,
    DATA_HEADER_BYTES,
    DATA_LENGTH_BASE,
    KIND_OFFSET,
    check_length,
    decode_sequence,
)
from landline.session.reassembly import Reassembly, check_message_size
from landline.session.settings import Limits

ControlReceiver = Callable[[int, bytes, float], bool]
"""Handles a frame outside of the numbered stream: its kind, its body, the time. Returns whether to read on."""

_KIND_DATA: Final = int(Kind.DATA)
_KIND_EOF: Final = int(Kind.EOF)
_OPERATIONS: Final = tuple(Operation)
_NO_LIMIT: Final = range(2**62)
_NORMAL: Final = 0
_OTHER_FLAGS: Final = ~FLAG_PACKED
_LANES: Final = (_NORMAL, FLAG_BULK)
_unpack_data = DATA_HEADER.unpack_from


class Inbound:
    """Everything that arrives from the peer of a session, and what of it is acknowledged.

    It handles the frames of the numbered stream, DATA and EOF, and passes all others to the session. The session
    sends the acknowledgements: as frames of their own, or with a heartbeat.
    """

    __slots__ = (
        "_acked_out_of_order",
        "_buffer",
        "_duplicates_allowed",
        "_is_strict",
        "_position",
        "_reassemblies",
        "_redundant_frames",
        "_redundant_since",
        "_unsent_ack_bytes",
        "ack_due",
        "acked",
        "acked_to_peer",
        "duplicates_dropped",
        "events",
        "has_unread",
        "limits",
        "received",
        "unacked_bytes",
    )

    def __init__(self, *, limits: Limits) -> None:
        self.limits: Limits = limits
        """What this side accepts."""
        self.events: list[Event] = []
        """What happened and was not fetched yet; the session adds its own events."""
        self.duplicates_dropped: int = 0
        """The number of frames that arrived a second time."""
        # Bytes that arrived and were not parsed, from `_position` on. They end in the middle of a frame, or
        # `has_unread` is true and they contain whole frames.
        self._buffer = b""
        self._position = 0
        self.has_unread: bool = False
        """Whether :meth:`receive_frames` stopped at its limit of frames: call it again, with no bytes, to read on."""
        self.received: int = 0
        """The highest number received in order; the peer need not send any frame up to it again."""
        self.acked: int = 0
        """The application acknowledged every frame up to this number;"""
        # ... and, of higher numbers, only these.
        self._acked_out_of_order: set[int] | None = None
        self.acked_to_peer: int = 0
        """The highest number that was acknowledged to the peer."""
        self.unacked_bytes: int = 0
        """The bytes of whole messages that the application has not acknowledged."""
        # The bytes that the application acknowledged since the last acknowledgement to the peer.
        self._unsent_ack_bytes = 0
        self.ack_due: float | None = None
        """When an acknowledgement must be sent, at the latest."""
        self._reassemblies: dict[int, Reassembly] | None = None
        # Whether a whole normal message is an error now: after EOF, or between the fragments of another one.
        self._is_strict = False
        # The number of redundant frames since `_redundant_since`.
        self._redundant_frames = 0
        self._redundant_since = 0.0
        # How many frames this transport may still repeat.
        self._duplicates_allowed = limits.window_frames

    # Properties

    @property
    def _eof_received(self) -> bool:
        # Without reassemblies, only EOF sets `_is_strict`; and EOF is refused while there are any.
        return self._is_strict and not self._reassemblies

    @property
    def unread_bytes(self) -> int:
        """The number of bytes that arrived and were not parsed."""
        return len(self._buffer) - self._position

    @property
    def is_empty(self) -> bool:
        """Whether no memory is held for what arrived."""
        return self.received == self.acked and not self._buffer and not self._reassemblies

    @property
    def held_bytes(self) -> int:
        """About how much memory the messages from the peer take, with the overhead of Python."""
        held = self.unacked_bytes + UNACKED_OVERHEAD_BYTES * (self.received - self.acked)
        held += len(self._buffer)
        if self._reassemblies:
            held += sum(reassembly.size_bytes for reassembly in self._reassemblies.values())
        return held

    # Acknowledgements of the application

    def ack(self, message: MessageReceived) -> None:
        """Record that the application has the message: the peer may forget it and send more."""
        size_bytes, sequence = message.size_bytes, message.sequence
        self.unacked_bytes -= size_bytes
        self._unsent_ack_bytes += size_bytes
        if sequence == self.acked + 1 and not self._acked_out_of_order:
            self.acked = sequence
        else:
            self._ack_frame(sequence)

    def _ack_frame(self, sequence: int) -> None:
        waiting = self._acked_out_of_order
        if sequence != self.acked + 1:
            if waiting is None:
                waiting = self._acked_out_of_order = set()
            waiting.add(sequence)
            return
        acked = sequence
        if waiting:
            while acked + 1 in waiting:
                acked += 1
                waiting.remove(acked)
            if not waiting:
                self._acked_out_of_order = None
        self.acked = acked

    # Acknowledgements to the peer

    def is_ack_due(self, now: float) -> bool:
        """Return whether to send an acknowledgement now; otherwise set :attr:`ack_due`."""
        if (
            self.acked - self.acked_to_peer >= ACK_FRAMES
            or self._unsent_ack_bytes * ACK_WINDOW_SHARE >= self.limits.window_bytes
            or (self.ack_due is not None and now >= self.ack_due)
        ):
            return True
        if self.ack_due is None:
            self.ack_due = now + ACK_DELAY_S
        return False

    def postpone_ack(self) -> None:
        """Wait with acknowledgements until the transport takes data again; then send one at once.

        The transport may pause again soon after, again and again, and a peer that waits for its messages to be
        acknowledged would wait in vain.
        """
        self.ack_due = None
        self._unsent_ack_bytes = self.limits.window_bytes

    def ack_to_send(self) -> int:
        """Return the number to acknowledge, and count it as sent to the peer."""
        self.acked_to_peer = self.acked
        self._unsent_ack_bytes = 0
        self.ack_due = None
        return self.acked

    def forget_sent_acks(self) -> None:
        """Acknowledge everything once more: the last acknowledgement may be lost."""
        self.acked_to_peer = 0

    # Frames

    def start_transport(self) -> None:
        """Prepare for a new transport: drop unparsed bytes, and allow one window of repeated frames."""
        self.drop_unread()
        self._duplicates_allowed = self.limits.window_frames
        self.forget_sent_acks()

    def receive_frames(
        self, data: bytes, now: float, frames_max: int | None, receive_control: ControlReceiver
    ) -> None:
        """Parse the whole frames, ``frames_max`` at most, and keep the bytes after them.

        :raises ProtocolError: when the peer breaks the protocol.
        :raises UnicodeDecodeError: when the name of a message is not UTF-8.
        """
        buffer, position = data, 0
        if self._buffer:
            buffer, position = self._buffer, self._position
            if data:
                buffer, position = buffer[position:] + data, 0
        end = len(buffer)
        is_cut = False
        if frames_max is None:
            frames = _NO_LIMIT
        else:
            frames = range(frames_max)
            if end - position > READ_BYTES_MAX:
                # More than one frame, so that each step makes progress.
                end = position + READ_BYTES_MAX
                is_cut = True
        events = self.events
        message_bytes_max = self.limits.message_bytes
        for _ in frames:
            if end - position < LENGTH_BYTES:
                break
            # The innermost loop of every busy line: DATA is parsed in place, and only the body is copied.
            if end - position >= DATA_HEADER_BYTES and buffer[position + KIND_OFFSET] == _KIND_DATA:
                length, _, sequence, flags, operation, correlation, name_length = _unpack_data(
                    buffer, position
                )
                frame_end = position + LENGTH_BYTES + length
                if length > FRAME_BYTES_MAX or frame_end > end:
                    check_length(length, FRAME_BYTES_MAX)
                    break
                body_start = position + DATA_HEADER_BYTES + name_length
                if sequence != self.received + 1 and _has_header(length) and self._is_repetition(sequence):
                    position = frame_end
                    continue
                if body_start > frame_end:
                    _has_header(length)
                    raise ProtocolError(
                        f"a DATA frame of {length + LENGTH_BYTES} bytes is too short for its name of "
                        f"{name_length} bytes"
                    )
                position = frame_end
                self.received = sequence
                name = str(buffer[body_start - name_length : body_start], "utf-8") if name_length else ""
                body = buffer[body_start:frame_end]
                size = length + LENGTH_BYTES
                # A whole normal message; all others take one call more.
                if 0 < operation <= 5 and not flags & _OTHER_FLAGS and not self._is_strict:
                    if size > message_bytes_max:
                        check_message_size(size - DATA_HEADER_BYTES, message_bytes_max)
                    event = MessageReceived(
                        sequence, _OPERATIONS[operation], correlation, name, body, flags != 0, size
                    )
                else:
                    whole = self._receive_other(
                        sequence, flags, operation, correlation, name, body, size, now
                    )
                    if whole is None:
                        continue
                    event = whole
                events.append(event)
                self.unacked_bytes += event.size_bytes
                continue
            length = int.from_bytes(buffer[position : position + LENGTH_BYTES], "big")
            check_length(length, FRAME_BYTES_MAX)
            frame_end = position + LENGTH_BYTES + length
            if frame_end > end:
                break
            kind = buffer[position + KIND_OFFSET]
            body = buffer[position + KIND_OFFSET + 1 : frame_end]
            position = frame_end
            if kind == _KIND_DATA:
                _has_header(length)
            if kind == _KIND_EOF:
                self._receive_eof(decode_sequence(body))
            elif not receive_control(kind, body, now):
                return
        else:
            is_cut = is_cut or position < end
        if is_cut or position < end:
            self._keep_unread(buffer, position, is_cut=is_cut)
        elif self._buffer:
            self.drop_unread()
        self._check_window()

    def pop_trailing_data(self) -> bytes:
        """Return and forget the bytes that were not parsed; they may end in the middle of a frame."""
        data = self._buffer[self._position :]
        self.drop_unread()
        return data

    def drop_unread(self) -> None:
        """Forget the bytes that were not parsed."""
        self._buffer, self._position, self.has_unread = b"", 0, False

    def count_redundant(self, now: float) -> None:
        """Count a redundant frame (§6.5). Raise :class:`ProtocolError` for too many."""
        if now - self._redundant_since >= REDUNDANT_WINDOW_S:
            self._redundant_since = now
            self._redundant_frames = 0
        self._redundant_frames += 1
        if self._redundant_frames > REDUNDANT_FRAMES_MAX:
            raise ProtocolError(
                f"more than {REDUNDANT_FRAMES_MAX} redundant frames in {REDUNDANT_WINDOW_S:g} s",
                Code.LIMIT_EXCEEDED,
            )

    def _keep_unread(self, buffer: bytes, position: int, *, is_cut: bool) -> None:
        """Keep the bytes after the parsed frames; ``is_cut`` says that there may be whole frames among them."""
        self.has_unread = is_cut
        if is_cut:
            # Not copied: of 256 KB of tiny frames, each step would copy what the next ones parse.
            self._buffer, self._position = buffer, position
        else:
            self._buffer, self._position = buffer[position:], 0

    def _is_repetition(self, sequence: int) -> bool:
        """Return ``True`` for a frame that arrived before and is dropped (§7.2); raise if one is missing before it."""
        if sequence > self.received:
            raise ProtocolError(f"frame {sequence} arrived after frame {self.received}")
        self.duplicates_dropped += 1
        self._duplicates_allowed -= 1
        if self._duplicates_allowed < 0:
            raise ProtocolError(
                f"more than {self.limits.window_frames} frames were repeated", Code.LIMIT_EXCEEDED
            )
        return True

    def _check_window(self) -> None:
        # What is acknowledged here is never less than what the peer knows of, so a correct peer cannot get here. Of one
        # message per lane, though, the first fragments may be acknowledged and still count here with the whole message.
        limits = self.limits
        frames = self.received - self.acked
        if frames > limits.window_frames:
            raise ProtocolError(
                f"{frames} frames are unacknowledged; at most {limits.window_frames} are allowed",
                Code.LIMIT_EXCEEDED,
            )
        bytes_max = limits.window_bytes + len(_LANES) * (limits.message_bytes + DATA_HEADER_BYTES)
        if self.unacked_bytes > bytes_max:
            raise ProtocolError(
                f"messages of {self.unacked_bytes} bytes are unacknowledged; at most {bytes_max} are allowed",
                Code.LIMIT_EXCEEDED,
            )

    def _receive_other(
        self,
        sequence: int,
        flags: int,
        operation: int,
        correlation: int,
        name: str,
        body: bytes,
        size_bytes: int,
        now: float,
    ) -> MessageReceived | None:
        """Handle a DATA frame that is not a whole normal message; return a message that it completes."""
        if self._eof_received:
            raise ProtocolError("a DATA frame after EOF")
        if flags & ~FLAGS_KNOWN or operation >= len(_OPERATIONS):
            raise ProtocolError(f"unknown flags {flags:#x} or operation {operation} in a DATA frame")
        lane = flags & FLAG_BULK
        reassembly = self._reassemblies.get(lane) if self._reassemblies else None
        limit_bytes = self.limits.message_bytes
        if operation == Operation.CONTINUE:
            if reassembly is None:
                raise ProtocolError("a fragment without a first fragment")
            reassembly.add(body, limit_bytes)
        elif reassembly is not None:
            raise ProtocolError("a message started before the last one on its lane was whole")
        elif flags & FLAG_MORE:
            reassembly = Reassembly(_OPERATIONS[operation], flags, correlation, name, body, limit_bytes)
            if self._reassemblies is None:
                self._reassemblies = {}
            self._reassemblies[lane] = reassembly
            self._is_strict = _NORMAL in self._reassemblies
        else:
            check_message_size(size_bytes - DATA_HEADER_BYTES, limit_bytes)
            is_packed = bool(flags & FLAG_PACKED)
            return MessageReceived(
                sequence, _OPERATIONS[operation], correlation, name, body, is_packed, size_bytes
            )
        if flags & FLAG_MORE:
            if len(body) < SMALL_FRAGMENT_BYTES:
                self.count_redundant(now)
            # The reassembly holds it and has a limit of its own; the window is for whole messages.
            self._ack_frame(sequence)
            self._unsent_ack_bytes += len(body)
            return None
        self._forget_reassembly(lane)
        return reassembly.message(sequence)

    def _forget_reassembly(self, lane: int) -> None:
        assert self._reassemblies is not None
        del self._reassemblies[lane]
        self._is_strict = _NORMAL in self._reassemblies
        if not self._reassemblies:
            self._reassemblies = None

    def _receive_eof(self, sequence: int) -> None:
        if sequence != self.received + 1 and self._is_repetition(sequence):
            return
        if self._eof_received:
            raise ProtocolError("a second EOF")
        if self._reassemblies:
            raise ProtocolError("EOF in the middle of a message")
        self.received = sequence
        self._ack_frame(sequence)
        self._is_strict = True
        self.events.append(EofReceived())


def _has_header(length: int) -> bool:
    """Return ``True``. Raise :class:`ProtocolError` for a DATA frame, of that length field, without a whole header."""
    if length < DATA_LENGTH_BASE:
        check_length(length, FRAME_BYTES_MAX)
        raise ProtocolError(
            f"a DATA frame of {length + LENGTH_BYTES} bytes is shorter than its header of {DATA_HEADER_BYTES}"
        )
    return True
