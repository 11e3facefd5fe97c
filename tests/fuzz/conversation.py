"""Two sessions that talk while everything happens to them, and a model of what each may believe.

The stateful test of hypothesis and the fuzz target ``two_sessions`` both drive it; :meth:`Conversation.check` is
what they hold it to. The model listens to the wire: it knows which bytes were written and which arrived, so it can
say exactly which messages a side must still call unconfirmed.
"""

from __future__ import annotations

import pytest

from landline.codes import Code, Operation
from landline.errors import BufferFull, ConnectFailed, ProtocolError
from landline.session.constants import (
    FLAG_BULK,
    FLAG_MORE,
    FRAGMENT_BYTES,
    FRAME_BYTES_MAX,
    LENGTH_BYTES,
    Kind,
)
from landline.session.events import Ended, EofReceived, MessageReceived
from landline.session.frames import (
    DATA_HEADER,
    FrameReader,
    decode_ping,
    encode_ack,
    encode_data,
    encode_datagram,
    encode_eof,
    encode_ping,
)
from landline.session.session import Session
from landline.session.settings import Heartbeat, Limits, SendBuffer
from landline.session.state import State
from landline.testing import Link, Pair, Side

LIMITS = Limits(message_bytes=3 * FRAGMENT_BYTES, window_bytes=4 * FRAGMENT_BYTES, window_frames=128)
SEND_BUFFER = SendBuffer(size_bytes=6 * FRAGMENT_BYTES, messages=200)
OLD_PIECES_MAX = 40
LIES = ("ack", "ping", "gap", "eof", "checksum", "continue")
BULK_MARK = b"b"


class TappedLink(Link):
    """A link that is listened to."""

    tap: TappedPair

    def carry(self, data: bytes) -> list[bytes]:
        pieces = super().carry(data)
        self.tap.listen(data, pieces)
        return pieces


class Ear:
    """The view of one side from the wire: the frames it wrote, and the acknowledgements it received."""

    def __init__(self) -> None:
        self.reader = FrameReader(FRAME_BYTES_MAX)
        """Of the bytes that arrive here over the current transport."""
        self.heard_taken = 0
        self.last_written = 0
        self.message_ends: dict[bytes, int] = {}
        """The number of the last frame of each message written whole, by the message's mark."""
        self._begun: dict[int, bytes] = {}

    def hear_written(self, data: bytes) -> None:
        for kind, body in FrameReader(FRAME_BYTES_MAX).feed(data):
            if kind not in {Kind.DATA, Kind.EOF}:
                continue
            sequence = int.from_bytes(body[:8], "big")
            if sequence <= self.last_written:
                continue
            assert sequence == self.last_written + 1
            self.last_written = sequence
            if kind == Kind.DATA:
                self._hear_data(sequence, body)

    def _hear_data(self, sequence: int, body: bytes) -> None:
        flags, operation = body[8], body[9]
        lane = flags & FLAG_BULK
        if operation != Operation.CONTINUE:
            self._begun[lane] = mark_of(body[DATA_HEADER.size - LENGTH_BYTES - 1 :])
        if not flags & FLAG_MORE:
            self.message_ends[self._begun.pop(lane)] = sequence

    def hear_arrived(self, data: bytes) -> None:
        for kind, body in self.reader.feed(data):
            if kind == Kind.ACK:
                self.heard_taken = max(self.heard_taken, int.from_bytes(body, "big"))
            elif kind in {Kind.PING, Kind.PONG}:
                self.heard_taken = max(self.heard_taken, decode_ping(body)[2])


class TappedPair(Pair):
    """A pair whose wire is listened to."""

    speaker: Side | None = None

    def begin_listening(self) -> None:
        self.ears = {self.client: Ear(), self.server: Ear()}
        self.old_pieces: list[tuple[Side, bytes]] = []

    def transfer(self, sender: Side) -> int:
        self.speaker = sender
        try:
            return super().transfer(sender)
        finally:
            self.speaker = None

    def listen(self, data: bytes, pieces: list[bytes]) -> None:
        if self.speaker is None:  # a handshake
            return
        hearer = self.server if self.speaker is self.client else self.client
        self.ears[self.speaker].hear_written(data)
        self.old_pieces += [(hearer, piece) for piece in pieces]
        del self.old_pieces[:-OLD_PIECES_MAX]
        if hearer.session.is_attached and hearer.session.epoch == self.epoch:
            self.ears[hearer].hear_arrived(b"".join(pieces))


class Story:
    """What one side did and got in the current session."""

    def __init__(self, first_event: int) -> None:
        self.sent: dict[bool, list[bytes]] = {False: [], True: []}
        self.received: dict[bool, list[bytes]] = {False: [], True: []}
        self.untaken: list[MessageReceived] = []
        self.acked: set[bytes] = set()
        self.has_finished = False
        self.eofs = 0
        self.ended: list[Ended] = []
        self.events_seen = first_event
        self.datagrams_offered = 0
        self.datagrams_taken: set[int] = set()
        self.datagrams_received: list[int] = []


class Conversation:
    """Every method is something that may happen; each leaves two sessions that :meth:`check` must hold of."""

    def __init__(self, seed: int) -> None:
        self.pair = TappedPair(
            seed=seed,
            heartbeat=Heartbeat(interval_s=10, timeout_s=5),
            client_limits=LIMITS,
            server_limits=LIMITS,
            send_buffer=SEND_BUFFER,
            auto_ack=False,
        )
        self.random = self.pair.random
        self.sides = (self.pair.client, self.pair.server)
        self._begin()

    def _begin(self) -> None:
        self.pair.begin_listening()
        assert self._connect(self._whole_link()) is False
        self.stories = {side: Story(len(side.events)) for side in self.sides}

    def peer(self, side: Side) -> Side:
        return self.sides[1 - self.sides.index(side)]

    # What may happen.

    def send(self, which: int, *, bulk: bool, count: int, size: int) -> None:
        side = self.sides[which]
        story = self.stories[side]
        for _ in range(count):
            if story.has_finished:
                return
            body = b"%c%d " % (b"nb"[bulk], len(story.sent[bulk])) + bytes(size)
            try:
                side.send(body, bulk=bulk)
            except BufferFull:
                assert not side.session.outbound.has_space(len(body))
                return
            story.sent[bulk].append(body)

    def send_datagrams(self, which: int, *, count: int, size: int) -> None:
        side = self.sides[which]
        story, session = self.stories[side], side.session
        for _ in range(count):
            story.datagrams_offered += 1
            before = session.datagrams_dropped
            if side.send_datagram(b"%d " % story.datagrams_offered + bytes(size)):
                assert session.is_attached
                story.datagrams_taken.add(story.datagrams_offered)
            else:
                assert session.datagrams_dropped == before + 1

    def finish(self, which: int) -> None:
        side = self.sides[which]
        side.session.outbound.send_eof()
        self.stories[side].has_finished = True

    def ack(self, which: int, how: str) -> None:
        """The application acknowledges all messages that arrived, or some of them in any order."""
        side = self.sides[which]
        self._notice(side)
        story = self.stories[side]
        chosen = list(story.untaken)
        if how == "some":
            chosen = self.random.sample(chosen, self.random.randint(0, len(chosen)))
        for message in chosen:
            side.session.inbound.ack(message)
            story.acked.add(mark_of(message.body))
        gone = {message.sequence for message in chosen}
        story.untaken = [message for message in story.untaken if message.sequence not in gone]

    def transfer(self, which: int) -> None:
        self.pair.transfer(self.sides[which])

    def cut(self, *, resumes: bool) -> None:
        self.pair.cut()
        if resumes:
            assert self._connect(self._whole_link()) is True

    def resume(self, how: str) -> None:
        """Connect a new transport, which breaks at a random byte (perhaps of the handshake) or falls silent."""
        link = self._whole_link()
        if how == "lossy":
            link = TappedLink.lossy(self.random, bytes_max=self.random.choice([700, 60_000]))
        try:
            assert self._connect(link) is True
        except ConnectFailed:
            assert how == "lossy"
        if how == "silent":
            self.pair.deliver()
            self.pair.link.silence()

    def pause(self, which: int, seconds: float) -> None:
        session = self.sides[which].session
        session.pause_writing()
        self.pair.advance(seconds)
        session.resume_writing()

    def ping(self, which: int) -> None:
        session = self.sides[which].session
        if session.is_attached:
            session.send_ping(self.pair.clock())

    def advance(self, seconds: float) -> None:
        self.pair.advance(seconds)
        self._check_deadlines()

    def sleep(self, seconds: float) -> None:
        """Let the time jump: every timeout is late."""
        self.pair.clock.advance(seconds)
        self.pair.wake()
        self._check_deadlines()

    def repeat_old_bytes(self) -> None:
        """Deliver bytes and datagrams of an older transport while there is none. They must change nothing.

        While there is one, the line keeps them from the session: it detaches from an older transport.
        """
        late = encode_datagram(b"", b"-1 ", is_packed=False)
        for side in self.sides:
            if not side.session.is_attached:
                before = outside_of(side.session)
                side.session.receive_datagram(late[5:], self.pair.clock())
                assert outside_of(side.session) == before
        for receiver, piece in self.pair.old_pieces:
            if not receiver.session.is_attached:
                before = outside_of(receiver.session)
                receiver.session.receive_data(piece, self.pair.clock())
                assert outside_of(receiver.session) == before
                assert receiver.session.next_events() == []

    def resume_with_an_impossible_number(self, which: int) -> None:
        """Resume with a claim to have received an unwritten frame. It must be refused, and change nothing."""
        session = self.sides[which].session
        before = outside_of(session)
        for received in (self.pair.ears[self.sides[which]].last_written + 1, 2**63 - 1):
            with pytest.raises(ProtocolError):
                session.check_resumable(received)
            with pytest.raises(ProtocolError):
                session.attach(self.pair.clock(), epoch=session.epoch + 1, peer_received=received, phase=0.5)
        with pytest.raises(ProtocolError):
            session.attach(self.pair.clock(), epoch=session.epoch, peer_received=0, phase=0.5)
        assert outside_of(session) == before

    def close(self, which: int) -> None:
        """Send BYE from one side, which may be lost. Both sides start again."""
        self.sides[which].session.close(Code.NORMAL)
        self.pair.deliver()
        self._start_again()

    def forget(self) -> None:
        """Lose the session of the server. Both sides start again."""
        self.pair.lose_server_session()
        self._start_again()

    def lie(self, which: int, what: str) -> None:
        """One side receives an impossible frame: the session ends, and the frame confirms no message."""
        assert self._connect(self._whole_link()) is True
        side = self.sides[which]
        session, written = side.session, self.pair.ears[side].last_written
        lie = {
            "ack": encode_ack(written + 1),
            "ping": encode_ping(Kind.PING, 1, 0, 2**64 - 1),
            "gap": encode_data(session.inbound.received + 2, 0, Operation.MESSAGE, 0, b"", b"n"),
            "eof": encode_eof(session.inbound.received + 2),
            "checksum": encode_ping(Kind.PONG, 1, 0, 0)[:-1] + b"?",
            "continue": encode_data(session.inbound.received + 1, 0, 99, 0, b"", b"n"),
        }[what]
        session.receive_data(lie, self.pair.clock())
        side.collect()
        self._notice(side)
        [ended] = self.stories[side].ended
        assert not ended.by_peer
        assert ended.code is Code.PROTOCOL_ERROR
        self.pair.deliver()
        self._start_again()

    def end(self) -> None:
        """Over a working transport, with applications that acknowledge, every message arrives and none is left."""
        self._connect(self._whole_link())
        for _ in range(300):
            for which in (0, 1):
                self.ack(which, "all")
            self.pair.advance(0.2)
            if all(side.session.outbound.is_drained for side in self.sides):
                break
        self.check()
        for side, story in self.stories.items():
            assert story.received == self.stories[self.peer(side)].sent
            assert side.session.outbound.unconfirmed() == ()
            assert side.session.outbound.buffered_bytes == side.session.outbound.buffered_messages == 0
            assert story.eofs == self.stories[self.peer(side)].has_finished

    # What must hold.

    def check(self) -> None:
        for side in self.sides:
            self._notice(side)
        for side in self.sides:
            self._check_received(side)
            self._check_datagrams(side)
            self._check_unconfirmed(side)
            session = side.session
            assert session.outbound.buffered_messages <= SEND_BUFFER.messages + 8
            assert session.outbound.buffered_bytes <= SEND_BUFFER.size_bytes + 4096
            assert session.is_attached == (session.next_timeout() is not None)
            assert session.state is not State.CLOSED, "neither side broke the protocol"

    def _check_received(self, side: Side) -> None:
        """Received messages are a prefix of the sent ones, in order, without duplicates; EOF is the last."""
        story, peers = self.stories[side], self.stories[self.peer(side)]
        for bulk in (False, True):
            assert story.received[bulk] == peers.sent[bulk][: len(story.received[bulk])]
        assert story.eofs <= peers.has_finished
        if story.eofs:
            assert story.received == peers.sent

    def _check_datagrams(self, side: Side) -> None:
        """Datagrams arrive at most once, in order while they travel in the stream, and only if they were accepted."""
        received = self.stories[side].datagrams_received
        assert received == sorted(set(received))
        assert self.stories[self.peer(side)].datagrams_taken.issuperset(received)

    def _check_unconfirmed(self, side: Side) -> None:
        """A message is unconfirmed if no confirmation arrived; the peer acknowledged every confirmed one."""
        story, ear = self.stories[side], self.pair.ears[side]
        confirmed = {mark for mark, end in ear.message_ends.items() if end <= ear.heard_taken}
        assert confirmed <= self.stories[self.peer(side)].acked
        kept = [entry.body for entry in side.session.outbound.unconfirmed()]
        for bulk in (False, True):
            ours = [body for body in kept if (body[:1] == BULK_MARK) == bulk]
            assert ours == [body for body in story.sent[bulk] if mark_of(body) not in confirmed]

    def _check_deadlines(self) -> None:
        for side in self.sides:
            due = side.session.next_timeout()
            assert due is None or due > self.pair.clock()

    def _notice(self, side: Side) -> None:
        """Read the events of the side since the last call."""
        story = self.stories[side]
        for event in side.events[story.events_seen :]:
            if isinstance(event, MessageReceived):
                story.received[event.body[:1] == BULK_MARK].append(event.body)
                story.untaken.append(event)
            elif isinstance(event, EofReceived):
                story.eofs += 1
            elif isinstance(event, Ended):
                story.ended.append(event)
        story.events_seen = len(side.events)
        story.datagrams_received += [int(mark_of(received.body)) for received in side.datagrams]
        side.datagrams.clear()

    def _start_again(self) -> None:
        unconfirmed = {}
        for side in self.sides:
            self._notice(side)
        for side in self.sides:
            self._check_received(side)
            self._check_unconfirmed(side)
            unconfirmed[side] = (len(side.lost), side.session.outbound.unconfirmed())
        self._begin()
        for side, (count, entries) in unconfirmed.items():
            assert tuple(side.lost[count:]) == entries

    def _connect(self, link: TappedLink) -> bool:
        link.tap = self.pair
        for ear in self.pair.ears.values():
            ear.reader = FrameReader(FRAME_BYTES_MAX)
        return self.pair.connect(link)

    def _whole_link(self) -> TappedLink:
        return TappedLink(self.random)


def mark_of(body: bytes) -> bytes:
    """Return the values that distinguish a message from all others of its session."""
    return body[: body.index(b" ")]


def outside_of(session: Session) -> tuple[object, ...]:
    """Return everything that is visible of a session from outside."""
    return (
        session.state,
        session.epoch,
        session.inbound.received,
        session.inbound.duplicates_dropped,
        session.has_datagrams,
        session.outbound.buffered_bytes,
        session.outbound.unconfirmed(),
        session.next_timeout(),
        session.ticket,
        session.round_trip_s,
    )
