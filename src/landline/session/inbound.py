"""The receiving side of a session: frames in order, each once; whole messages; what is acknowledged, and when.

See ``docs/protocol.md`` §5.1 to §5.5, and §7.2 (what is repeated after a resume is dropped here).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from landline.codes import Code, Operation
from landline.errors import ProtocolError
from landline.session.events import EofReceived, Event, MessageReceived
from landline.session.frames import (
    DATA_HEADER,
    DATA_HEADER_BYTES,
    DATA_LENGTH_BASE,
    FLAG_BULK,
    FLAG_MORE,
    FLAG_PACKED,
    FLAGS_KNOWN,
    FRAME_BYTES_MAX,
    LENGTH_BYTES,
    Kind,
    check_length,
    encode_ack,
)
from landline.session.handshake import Limits
from landline.session.outbound import SendBuffer, SessionSending
from landline.session.reassembly import Reassembly, check_message_size

ACK_DELAY_S: Final = 0.1
"""An acknowledgement waits this long for more to acknowledge."""
ACK_FRAMES: Final = 64
"""... but not for more frames than this,"""
ACK_WINDOW_SHARE: Final = 8
"""... nor for more than this part of the receive window."""

READ_BYTES_MAX: Final = 256 * 1024
"""Bytes looked through in one step where a step is limited: as much as the event loops read at once, and few enough
that copying their bodies takes a tenth of a millisecond."""

USELESS_WINDOW_S: Final = 1.0
"""Frames that say nothing new, and datagrams, are counted anew after this long."""
USELESS_FRAMES_MAX: Final = 1000
"""Frames that say nothing new within a window: more are refused. A peer that keeps to the protocol sends a few after a
resume; each costs us one or two microseconds."""
FRAGMENT_BYTES_LEAST: Final = 1024
"""A fragment with a shorter payload that is not the last of its message counts as one of those frames."""

UNTAKEN_OVERHEAD_BYTES: Final = 192
"""What Python spends on a message received and not taken. Measured with messages of a few bytes, and rounded up."""

_KIND_DATA: Final = int(Kind.DATA)
_KIND_ACK: Final = int(Kind.ACK)
_KIND_EOF: Final = int(Kind.EOF)
_OPERATIONS: Final = tuple(Operation)
_NO_LIMIT: Final = range(2**62)
_NORMAL: Final = 0
_LANES: Final = (_NORMAL, FLAG_BULK)
_unpack_data = DATA_HEADER.unpack_from


class SessionReceiving(SessionSending, ABC):
    """The middle layer of :class:`landline.session.session.Session`: what arrives from its peer.

    It handles the frames of the numbered stream, DATA and EOF, and what answers it, ACK; every other frame goes to
    the layer above. What the application has taken is acknowledged with a frame that waits among the control frames,
    or with a heartbeat of the layer above.
    """

    __slots__ = (
        "_assemblies",
        "_buffer",
        "_control",
        "_duplicates_allowed",
        "_eof_received",
        "_events",
        "_is_strict",
        "_position",
        "_received",
        "_taken",
        "_taken_early",
        "_told",
        "_untaken_bytes",
        "_untold_bytes",
        "_useless",
        "_useless_from",
        "ack_due",
        "duplicates_dropped",
        "has_unread",
        "limits",
    )

    def __init__(self, *, limits: Limits, peer_limits: Limits, send_buffer: SendBuffer) -> None:
        super().__init__(peer_limits=peer_limits, send_buffer=send_buffer)
        self.limits: Limits = limits
        self.duplicates_dropped: int = 0
        self.ack_due: float | None = None
        """When what was taken is to be acknowledged, at the latest; part of ``Session.next_timeout``."""
        self._events: list[Event] = []
        # Frames that are written before data.
        self._control: list[bytes] = []
        # What came and is not handled: from that position on. It ends in the middle of a frame, or `has_unread` says
        # that whole frames are in it.
        self._buffer = b""
        self._position = 0
        self.has_unread = False
        """Whether :meth:`Session.receive_data` stopped at its limit of frames: call it again, with no bytes, to go
        on."""
        self._received = 0
        # All up to this number was taken by the application, of what is above only these.
        self._taken = 0
        self._taken_early: set[int] | None = None
        # What the peer knows of it.
        self._told = 0
        self._untaken_bytes = 0
        self._untold_bytes = 0
        self._assemblies: dict[int, Reassembly] | None = None
        self._eof_received = False
        # Whether a whole normal message has no place now: behind EOF, or between the fragments of another.
        self._is_strict = False
        # Frames that said nothing new since then.
        self._useless = 0
        self._useless_from = 0.0
        # How many frames this transport may still bring a second time.
        self._duplicates_allowed = limits.window_frames

    @property
    def received(self) -> int:
        """The highest number received in order; the peer need not send anything up to it again."""
        return self._received

    @property
    def unread_bytes(self) -> int:
        """Bytes of the transport that are not handled yet."""
        return len(self._buffer) - self._position

    def next_events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events = self._events
        if events:
            self._events = []
        return events

    def pop_trailing_data(self) -> bytes:
        """Return and forget what came and was not handled; it ends with the beginning of a frame, perhaps."""
        rest = self._buffer[self._position :]
        self._drop_unread()
        return rest

    # Frames.

    def _receive_frames(self, data: bytes, now: float, frames_max: int | None) -> None:
        """Handles every whole frame, ``frames_max`` at most, and keeps what is behind them.

        Raises :class:`ProtocolError`, and :class:`UnicodeDecodeError` for the name of a message.
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
                # More than one frame, so that there is progress.
                end = position + READ_BYTES_MAX
                is_cut = True
        events = self._events
        message_bytes_max = self.limits.message_bytes
        for _ in frames:
            if end - position < LENGTH_BYTES:
                break
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
                if sequence != self._received + 1 and _has_header(length) and self._is_repetition(sequence):
                    position = frame_end
                    continue
                if body_start > frame_end:
                    _has_header(length)
                    raise ProtocolError(
                        f"a DATA frame of {length + LENGTH_BYTES} bytes with a name of {name_length} bytes, "
                        "which does not fit into it"
                    )
                position = frame_end
                self._received = sequence
                name = str(buffer[body_start - name_length : body_start], "utf-8") if name_length else ""
                body = buffer[body_start:frame_end]
                size = length + LENGTH_BYTES
                if 0 < operation <= 5 and not flags & ~FLAG_PACKED and not self._is_strict:
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
                self._untaken_bytes += event.size_bytes
                continue
            length = int.from_bytes(buffer[position : position + LENGTH_BYTES], "big")
            check_length(length, FRAME_BYTES_MAX)
            frame_end = position + LENGTH_BYTES + length
            if frame_end > end:
                break
            kind = buffer[position + LENGTH_BYTES]
            body = buffer[position + LENGTH_BYTES + 1 : frame_end]
            position = frame_end
            if kind == _KIND_DATA:
                _has_header(length)
            if kind == _KIND_ACK:
                if not self._receive_taken(_sequence_of(body)):
                    self._count_useless(now)
            elif kind == _KIND_EOF:
                self._receive_eof(_sequence_of(body))
            elif not self._receive_control(kind, body, now):
                return
        else:
            is_cut = is_cut or position < end
        if is_cut or position < end:
            self._keep_unread(buffer, position, is_cut=is_cut)
        elif self._buffer:
            self._drop_unread()
        self._check_window()

    def _keep_unread(self, buffer: bytes, position: int, *, is_cut: bool) -> None:
        """Keeps what is behind the frames that were handled; ``is_cut`` says that there may be whole ones in it."""
        self.has_unread = is_cut
        if is_cut:
            # Not copied: of 256 KB of tiny frames each step would copy what the next ones handle.
            self._buffer, self._position = buffer, position
        else:
            self._buffer, self._position = buffer[position:], 0

    def _drop_unread(self) -> None:
        """What was not handled is worth nothing any more."""
        self._buffer, self._position, self.has_unread = b"", 0, False

    def _count_useless(self, now: float) -> None:
        """Counts a frame that says nothing new. Raises :class:`ProtocolError` for too many."""
        if now - self._useless_from >= USELESS_WINDOW_S:
            self._useless_from = now
            self._useless = 0
        self._useless += 1
        if self._useless > USELESS_FRAMES_MAX:
            raise ProtocolError(
                f"more than {USELESS_FRAMES_MAX} frames in {USELESS_WINDOW_S:g} s that say nothing new",
                Code.LIMIT_EXCEEDED,
            )

    @abstractmethod
    def _receive_control(self, kind: int, body: bytes, now: float) -> bool:
        """Handles any other frame. Returns whether the bytes behind it still count."""

    def _is_repetition(self, sequence: int) -> bool:
        """Whether a frame out of order is one we have, to be dropped (§7.2); one too high means one is missing."""
        if sequence > self._received:
            raise ProtocolError(f"frame {sequence} after frame {self._received}")
        self.duplicates_dropped += 1
        self._duplicates_allowed -= 1
        if self._duplicates_allowed < 0:
            raise ProtocolError(
                f"more than {self.limits.window_frames} frames that came before", Code.LIMIT_EXCEEDED
            )
        return True

    def _check_window(self) -> None:
        # Our taken is never behind what the peer knows of it, so a peer that keeps count cannot get here. Of one
        # message a lane, though, the first fragments may be acknowledged and still count here with the whole.
        limits = self.limits
        frames = self._received - self._taken
        if frames > limits.window_frames:
            raise ProtocolError(
                f"{frames} frames received and not taken; {limits.window_frames} are allowed",
                Code.LIMIT_EXCEEDED,
            )
        bytes_max = limits.window_bytes + len(_LANES) * (limits.message_bytes + DATA_HEADER_BYTES)
        if self._untaken_bytes > bytes_max:
            raise ProtocolError(
                f"messages of {self._untaken_bytes} bytes received and not taken; {bytes_max} are allowed",
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
        """Handles what is not a whole normal message in one frame; returns a message that became whole."""
        if self._eof_received:
            raise ProtocolError("data after EOF")
        if flags & ~FLAGS_KNOWN or operation >= len(_OPERATIONS):
            raise ProtocolError(f"unknown flags {flags:#x} or operation {operation} in a DATA frame")
        lane = flags & FLAG_BULK
        assembly = self._assemblies.get(lane) if self._assemblies else None
        limit_bytes = self.limits.message_bytes
        if operation == Operation.CONTINUE:
            if assembly is None:
                raise ProtocolError("a fragment that continues nothing")
            assembly.add(body, limit_bytes)
        elif assembly is not None:
            raise ProtocolError("a message begun before the last one on its lane was whole")
        elif flags & FLAG_MORE:
            assembly = Reassembly(_OPERATIONS[operation], flags, correlation, name, body, limit_bytes)
            if self._assemblies is None:
                self._assemblies = {}
            self._assemblies[lane] = assembly
            self._is_strict = _NORMAL in self._assemblies
        else:
            check_message_size(size_bytes - DATA_HEADER_BYTES, limit_bytes)
            return MessageReceived(
                sequence,
                _OPERATIONS[operation],
                correlation,
                name,
                body,
                bool(flags & FLAG_PACKED),
                size_bytes,
            )
        if flags & FLAG_MORE:
            if len(body) < FRAGMENT_BYTES_LEAST:
                self._count_useless(now)
            # Held by the assembly, whose size has a limit of its own: the window is for whole messages.
            self._mark_taken(sequence)
            self._untold_bytes += len(body)
            return None
        self._forget_assembly(lane)
        return assembly.message(sequence)

    def _forget_assembly(self, lane: int) -> None:
        assert self._assemblies is not None
        del self._assemblies[lane]
        self._is_strict = _NORMAL in self._assemblies
        if not self._assemblies:
            self._assemblies = None

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

    # Taken, and acknowledged.

    def ack(self, message: MessageReceived) -> None:
        """The application has the message: the peer may forget it, and send more in its place."""
        self._untaken_bytes -= message.size_bytes
        self._untold_bytes += message.size_bytes
        if message.sequence == self._taken + 1 and not self._taken_early:
            self._taken = message.sequence
        else:
            self._mark_taken(message.sequence)

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

    def _schedule_ack(self, now: float) -> None:
        """Acknowledges what was taken, or says with :attr:`ack_due` when to."""
        if not self._can_write:
            # A transport that asks us to pause gets acknowledgements with its heartbeats only, but one at once when it
            # takes data again: it may pause soon after, again and again, and a peer that drains would wait in vain.
            self.ack_due = None
            self._untold_bytes = self.limits.window_bytes
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
        """A frame that says what was taken is on its way to the peer."""
        self._told = self._taken
        self._untold_bytes = 0
        self.ack_due = None

    # Memory.

    def _receiving_memory_bytes(self) -> int:
        """About how much memory what came from the peer takes."""
        held = self._untaken_bytes + UNTAKEN_OVERHEAD_BYTES * (self._received - self._taken)
        held += len(self._buffer)
        if self._assemblies:
            held += sum(assembly.size_bytes for assembly in self._assemblies.values())
        return held


def _has_header(length: int) -> bool:
    """Return ``True``. Raise :class:`ProtocolError` for a DATA frame, of that length field, shorter than its header."""
    if length < DATA_LENGTH_BASE:
        check_length(length, FRAME_BYTES_MAX)
        raise ProtocolError(
            f"a DATA frame of {length + LENGTH_BYTES} bytes, less than its header of {DATA_HEADER_BYTES}"
        )
    return True


def _sequence_of(body: bytes) -> int:
    if len(body) != 8:
        raise ProtocolError(f"a sequence number of {len(body)} bytes")
    return int.from_bytes(body, "big")
