"""What is fuzzed: functions that take arbitrary bytes, and raise when the code does what it must not.

Whatever the bytes, only the documented errors may come out of the code, it must not matter how the bytes are cut
into pieces, and nothing may hold more memory than its limits allow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from tests.fuzz.conversation import LIES, Conversation
from tests.fuzz.datagrams import datagrams
from tests.fuzz.memory import held_bytes
from tests.fuzz.pieces import pieces_of
from tests.fuzz.websocket import websocket_client, websocket_server

from landline.codes import Code, Operation
from landline.errors import ConfigurationError, ProtocolError, Rejected, RequestError
from landline.fleet import messages
from landline.fleet.control import machines
from landline.line.codec import decode_value, encode_value
from landline.line.handlers import Handler
from landline.session.auth import Anonymous, SharedToken, proofs_equal, resume_proof
from landline.session.bodies import (
    Bye,
    Challenge,
    Hello,
    Notice,
    Reject,
    Resume,
    ResumeTicket,
    Welcome,
    decode_body,
    encode_body,
)
from landline.session.constants import (
    DATAGRAM_BYTES_MAX,
    FRAGMENT_BYTES,
    FRAME_BYTES_MAX,
    HANDSHAKE_BYTES_MAX,
    LENGTH_BYTES,
    WRITE_BYTES,
    Kind,
)
from landline.session.events import DatagramReceived, Ended, EofReceived, MessageReceived
from landline.session.frames import (
    FrameReader,
    decode_datagram,
    decode_ping,
    encode_ack,
    encode_data,
    encode_datagram,
    encode_eof,
    encode_frame,
    encode_ping,
)
from landline.session.handshake import ClientHandshake, ServerHandshake, decode_hello
from landline.session.session import Session
from landline.session.settings import Heartbeat, Limits, SendBuffer
from landline.session.state import State
from landline.transports.urls import parse_url

OBJECTS_BYTES: Final = 2_000
"""Objects around what is held, of a reader, a handshake or an empty session (about 1,400 on CPython 3.11)."""
MESSAGE_OBJECTS_BYTES: Final = 200
"""Objects around one message that waits to be acknowledged (about 145 on CPython 3.11 beside body and name)."""
NAME_FACTOR: Final = 4
"""One character beyond the BMP makes CPython keep four bytes for every character of a name."""

TOKEN: Final = SharedToken("an example, not a secret")
STRANGER: Final = SharedToken("another secret, not ours")
IDENTITY: Final = "lab-1"
TICKET: Final = ResumeTicket(bytes(range(0xA0, 0xB0)), bytes(range(0xC0, 0xE0)), 1, 2)
SMALL: Final = Limits(message_bytes=1024, window_bytes=4 * FRAGMENT_BYTES, window_frames=128)
MEASURED_EVERY: Final = 32
"""Pieces of a handshake; measuring takes much longer than reading."""
STEPS_MAX: Final = 60
"""Longer programs only take longer."""


class FixedRandom:
    """Gives the same bytes each time, so that proofs in a seed fit."""

    def __init__(self, first: int) -> None:
        self._first = first

    def randbytes(self, n: int, /) -> bytes:
        return bytes(range(self._first, self._first + n))

    def random(self) -> float:
        return 0.5


SERVER_RANDOM: Final = FixedRandom(0x00)
CLIENT_RANDOM: Final = FixedRandom(0x20)
LATER_SERVER_RANDOM: Final = FixedRandom(0x40)


class Program:
    """Bytes read as numbers, one after the other; after their end all are 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def has_more(self) -> bool:
        return self._position < len(self._data)

    def number(self, below: int) -> int:
        """Return a number in ``range(below)``, ``below`` up to 65,536."""
        raw = self.bytes(1 if below <= 256 else 2)
        return int.from_bytes(raw, "big") % below

    def choice(self, options: Sequence[Any]) -> Any:
        return options[self.number(len(options))]

    def bytes(self, count: int) -> bytes:
        found = self._data[self._position : self._position + count]
        self._position += count
        return found


def wire(data: bytes) -> None:
    """The frame reader of a handshake; the first byte selects its limit."""
    limit_bytes = 16 << (data[0] % 10 if data else 0)
    stream = data[1:]

    def read(pieces: Iterator[bytes]) -> tuple[list[tuple[int, bytes]], object]:
        reader, frames = FrameReader(limit_bytes), []
        try:
            for piece in pieces:
                frames.extend(reader.feed(piece))
                assert held_bytes(reader) <= LENGTH_BYTES + limit_bytes + OBJECTS_BYTES
        except ProtocolError as error:
            return frames, error.code
        return frames, reader.pop_trailing_data()

    whole = read(iter([stream]))
    assert read(pieces_of(stream, 0)) == read(pieces_of(stream, len(data))) == whole
    frames, rest = whole
    assert all(len(body) < limit_bytes for _, body in frames)
    if isinstance(rest, bytes):
        written = b"".join((1 + len(body)).to_bytes(4, "big") + bytes([kind]) + body for kind, body in frames)
        assert written + rest == stream


def client_handshake(data: bytes) -> None:
    """The client side of a handshake; the first byte selects its state."""
    option, stream = data[0] if data else 0, data[1:]
    auth = [Anonymous(), TOKEN, STRANGER][option % 3]
    ticket = TICKET if option & 4 else None

    def shake(pieces: Iterator[bytes]) -> tuple[object, ...]:
        client = ClientHandshake(
            random=CLIENT_RANDOM, auth=auth, identity=IDENTITY, limits=Limits(), resume=ticket
        )
        output = b""
        for count, piece in enumerate(pieces):
            try:
                rest = client.feed(piece)
            except ProtocolError as error:
                assert client.welcome is None
                return "refused", error.code
            except Rejected as error:
                return "rejected", error.code, error.reason, error.retry_after_s, error.spread_s
            output += client.data_to_send()
            if client.welcome is not None:
                return "welcome", client.welcome, rest + b"".join(pieces)
            assert rest == b""
            if count % MEASURED_EVERY == 0:
                assert held_bytes(client) - known_bytes <= HANDSHAKE_BYTES_MAX + OBJECTS_BYTES
        return "waits", output

    known_bytes = held_bytes(auth, ticket)
    whole = shake(iter([stream]))
    assert shake(pieces_of(stream, 0)) == shake(pieces_of(stream, len(data))) == whole
    if isinstance(whole[1], Welcome):
        assert option % 3 != 2, "a server that does not know the token was believed"
        if whole[1].resumed:
            assert ticket is not None
            assert whole[1].session == ticket.session
            assert whole[1].epoch > ticket.epoch


def server_handshake(data: bytes) -> None:
    """The server's half of a handshake, and whom it believes."""

    def shake(pieces: Iterator[bytes], random: FixedRandom = SERVER_RANDOM) -> tuple[object, ...]:
        server = ServerHandshake(random=random, now=0.0)
        for count, piece in enumerate(pieces):
            try:
                hello = server.feed(piece)
            except ProtocolError as error:
                return "refused", error.code
            if hello is not None:
                return "hello", hello, b"".join(pieces)
            if count % MEASURED_EVERY == 0:
                assert held_bytes(server) <= HANDSHAKE_BYTES_MAX + OBJECTS_BYTES
        return ("waits",)

    whole = shake(iter([data]))
    for seed in (0, len(data) + 1):
        cut = shake(pieces_of(data, seed))
        if cut[0] == "hello" and cut[2]:
            # A server that gets more bytes between HELLO and WELCOME refuses them; here both came in one read.
            assert whole == ("refused", None)
        else:
            assert cut == whole
    if whole[0] == "hello" and isinstance(whole[1], Hello):
        check_believed(whole[1])


def check_believed(hello: Hello) -> None:
    """No identity can be forged, and recorded bytes are worthless on another transport."""
    nonces = {"server_nonce": SERVER_RANDOM.randbytes(32), "client_nonce": hello.nonce}
    assert TOKEN.identify(hello.auth, **nonces) in {None, IDENTITY}
    assert STRANGER.identify(hello.auth, **nonces) is None
    later = {"server_nonce": LATER_SERVER_RANDOM.randbytes(32), "client_nonce": hello.nonce}
    if TOKEN.identify(hello.auth, **nonces) is not None:
        assert hello.nonce == CLIENT_RANDOM.randbytes(32)
        assert TOKEN.identify(hello.auth, **later) is None
    if hello.resume is not None:
        genuine = TICKET.prove(SERVER_RANDOM.randbytes(32))
        assert is_proven(hello.resume, SERVER_RANDOM) == (hello.resume == genuine)
        assert not is_proven(hello.resume, LATER_SERVER_RANDOM)


def is_proven(resume: Resume, server_random: FixedRandom) -> bool:
    """What a server that has the session of :data:`TICKET` decides."""
    proof = resume_proof(
        TICKET.secret,
        server_nonce=server_random.randbytes(32),
        session=resume.session,
        epoch=resume.epoch,
        received=resume.received,
    )
    return resume.session == TICKET.session and proofs_equal(proof, resume.proof)


class Application:
    """One session with an application that acknowledges selected messages and counts the others."""

    def __init__(self, limits: Limits, *, is_server: bool) -> None:
        self.limits = limits
        self.session = Session(
            session_id=bytes(16),
            secret=bytes(32),
            is_server=is_server,
            limits=limits,
            peer_limits=SMALL,
            heartbeat=Heartbeat(),
            send_buffer=SendBuffer(),
        )
        self.empty_bytes = held_bytes(self.session)
        self.events: list[Any] = []
        self.unacked: list[MessageReceived] = []
        self.datagrams: list[DatagramReceived] = []
        self.output_bytes = 0

    def receive(self, pieces: Iterator[bytes], now: float) -> None:
        for piece in pieces:
            self.session.receive_data(piece, now)
            self.collect()

    def collect(self) -> None:
        self.datagrams += self.session.next_datagrams()
        events = self.session.next_events()
        self.events += events
        self.unacked += [event for event in events if isinstance(event, MessageReceived)]

    def ack(self, index: int) -> None:
        if self.unacked:
            self.session.inbound.ack(self.unacked.pop(index % len(self.unacked)))

    def write(self, now: float) -> None:
        """Written bytes are released, except frames held to be written again."""
        is_all = False
        while data := self.session.data_to_send(now):
            assert not is_all, "a short answer, and yet not all"
            self.output_bytes += len(data)
            is_all = len(data) < WRITE_BYTES

    def check_memory(self, read_bytes: int) -> None:
        """What the session and the unacked messages hold, once all that can be written is.

        One read, which the transport limits, may overflow a window before it is noticed.
        """
        limits = self.limits
        bound = (
            self.empty_bytes
            + OBJECTS_BYTES
            + self.session.outbound.buffered_bytes
            + self.session.outbound.buffered_messages * MESSAGE_OBJECTS_BYTES
            + FRAME_BYTES_MAX
            + NAME_FACTOR * (limits.window_bytes + 4 * (limits.message_bytes + 24) + read_bytes)
            + MESSAGE_OBJECTS_BYTES * (limits.window_frames + read_bytes // 24)
        )
        assert held_bytes(self.session, self.unacked) <= bound

    def outside(self) -> tuple[object, ...]:
        session = self.session
        dropped = session.inbound.duplicates_dropped, session.datagrams_dropped, session.datagrams_ignored
        return session.state, session.inbound.received, dropped, session.ticket


def session(data: bytes) -> None:
    """One session, fed whole and in pieces; the bytes are a program of frames and of what happens to it."""
    program = Program(data)
    option = program.number(256)
    limits, is_server = (SMALL if option & 1 else Limits()), bool(option & 2)
    whole, cut = (Application(limits, is_server=is_server) for _ in range(2))
    both = (whole, cut)
    now, epoch = 0.0, 1
    for application in both:
        application.session.attach(now, epoch=epoch, peer_received=0, phase=0.5)
    next_sequence = 1
    for _ in range(STEPS_MAX):
        if not program.has_more:
            break
        action = program.number(14)
        if action < 5:
            stream, next_sequence = read_frames(program, next_sequence)
            whole.receive(iter([stream]), now)
            cut.receive(pieces_of(stream, option >> 2), now)
            if not is_same(whole, cut):
                return
            whole.check_memory(len(stream))
        elif action == 5:
            index = program.number(256)
            for application in both:
                application.ack(index)
        elif action == 6:
            now += program.choice([0.01, 0.2, 5.0, 16.0, 1000.0])
            for application in both:
                application.session.handle_timeout(now)
                application.collect()
        elif action == 7:
            for application in both:
                application.session.pause_writing()
        elif action == 8:
            for application in both:
                application.session.resume_writing()
        elif action == 9 and whole.session.state is not State.CLOSED:
            epoch += 1
            received, next_sequence = program.number(256), whole.session.inbound.received + 1
            for application in both:
                application.session.receive_link_lost()
                with contextlib.suppress(ProtocolError):
                    application.session.attach(now, epoch=epoch, peer_received=received, phase=0.5)
        elif action == 10 and whole.session.state is not State.CLOSED:
            body, is_bulk = bytes(program.choice([0, 10, 1000])), program.number(2) == 1
            if whole.session.outbound.has_space(1 + len(body)):
                for application in both:
                    application.session.outbound.send(Operation.MESSAGE, b"n", body, is_bulk=is_bulk)
        elif action == 11:
            datagram = spell_datagram(program)
            for application in both:
                application.session.receive_datagram(datagram, now)
                application.collect()
        elif action == 12 and whole.session.state is not State.CLOSED:
            frame = encode_datagram(b"n", bytes(program.choice([0, 10, 1000])), is_packed=False)
            accepted = {application.session.send_datagram(frame) for application in both for _ in range(3)}
            assert accepted == {False} or whole.session.is_attached
        for application in both:
            application.write(now)
        assert is_same(whole, cut)
    check_ended(whole)


def read_frames(program: Program, next_sequence: int) -> tuple[bytes, int]:
    """Return the frames that the program describes, mostly numbered in order, so that they are not refused early."""
    stream = b""
    for _ in range(1 + program.number(8)):
        kind = program.number(11)
        if kind < 4:
            shift = program.choice([0] * 14 + [-1, 1])
            flags, operation = program.choice([0, 0, 0, 1, 2, 3, 4, 5, 8]), program.number(7)
            name = program.bytes(program.choice([0, 0, 0, 1, 5]))
            body = program.bytes(program.number(4)) + bytes(program.choice([0, 0, 0, 30, 900, 1100, 16_000]))
            count = program.choice([1, 1, 1, 1, 20, 140])
            for _ in range(count):
                sequence = max(0, next_sequence + shift)
                stream += encode_data(sequence, flags, operation, program.number(256), name, body)
                next_sequence = max(next_sequence, sequence + 1)
        elif kind == 4:
            stream += encode_ack(program.number(256))
        elif kind == 5:
            stream += encode_ping(
                program.choice([Kind.PING, Kind.PONG]), program.number(8), 0, program.number(4)
            )
        elif kind == 6:
            stream += encode_eof(next_sequence)
            next_sequence += 1
        elif kind == 7:
            stream += encode_frame(program.choice(list(Kind)), program.bytes(program.number(64)))
        elif kind == 8:
            stream += encode_frame(Kind.DATAGRAM, spell_datagram(program))
        elif kind == 9:
            code = program.choice([100, 105, 105, 200, 999])
            stream += encode_body(
                *program.choice(
                    [(Kind.NOTICE, Notice(code, "n")), (Kind.NOTICE, Notice(code)), (Kind.BYE, Bye(code))]
                )
            )
        else:
            stream += program.bytes(program.number(256))
    return stream, next_sequence


def spell_datagram(program: Program) -> bytes:
    """Return the body of a DATAGRAM frame, mostly a valid one."""
    flags, name = program.choice([0, 0, 0, 4, 4, 4, 1]), program.bytes(program.choice([0, 0, 1, 5]))
    missing = program.choice([0] * 14 + [1, 200])
    body = bytes(program.choice([0, 3, 30, 900, DATAGRAM_BYTES_MAX]))
    return bytes((flags, min(255, len(name) + missing))) + name + body


def is_same(whole: Application, cut: Application) -> bool:
    """Return whether the pieces made no difference; ``False`` for an allowed difference, which ends the run.

    The window is looked at after each read, so a peer that overflows it is heard a little longer when it does so
    within one. The reason of a refusal may differ, as a bad frame may be noticed before it is whole.
    """
    ended = [event for event in cut.events if isinstance(event, Ended)]
    if ended and not ended[0].by_peer and ended[0].code is Code.LIMIT_EXCEEDED:
        count = len(cut.events) - 1
        assert whole.events[:count] == cut.events[:count]
        assert not whole.session.is_attached
        # The other may have parsed bytes after the point where the first one stopped.
        assert whole.datagrams[: len(cut.datagrams)] == cut.datagrams
        return whole.outside() == cut.outside() and len(whole.events) == count + 1
    for application in (whole, cut):
        for event in application.events:
            if isinstance(event, Ended):
                event.reason = ""
    assert whole.events == cut.events
    assert whole.datagrams == cut.datagrams
    assert whole.outside() == cut.outside()
    assert whole.output_bytes == cut.output_bytes or ended
    return True


def check_ended(application: Application) -> None:
    """Messages are numbered in order, none follows EOF, and the end is the last event, once."""
    events = application.events
    if EofReceived() in events:
        later = events[events.index(EofReceived()) + 1 :]
        assert not any(isinstance(event, MessageReceived | EofReceived) for event in later)
    numbers = [event.sequence for event in events if isinstance(event, MessageReceived)]
    assert numbers == sorted(set(numbers))
    assert not numbers or numbers[-1] <= application.session.inbound.received
    ends = [event for event in events if isinstance(event, Ended)]
    assert (application.session.state is State.CLOSED) == (len(ends) == 1)
    assert ends == ([events[-1]] if ends else [])
    if ends and not ends[0].by_peer:
        assert application.output_bytes, "a peer that breaks the protocol gets a BYE"


def two_sessions(data: bytes) -> None:
    """Two sessions driven by a program in the bytes."""
    program = Program(data)
    talk = Conversation(program.number(65_536))
    actions: list[Callable[[], None]] = [
        lambda: talk.send(
            program.number(2),
            bulk=bool(program.number(2)),
            count=program.choice([1, 1, 5, 100]),
            size=program.choice([0, 3, 900, FRAGMENT_BYTES, 2 * FRAGMENT_BYTES + 7]),
        ),
        lambda: talk.send_datagrams(
            program.number(2), count=program.choice([1, 1, 5, 100]), size=program.choice([0, 3, 1000])
        ),
        lambda: talk.ack(program.number(2), program.choice(["all", "some"])),
        lambda: talk.transfer(program.number(2)),
        lambda: talk.cut(resumes=bool(program.number(2))),
        lambda: talk.resume(program.choice(["whole", "lossy", "lossy", "silent"])),
        lambda: talk.pause(program.number(2), program.choice([0.0, 20.0])),
        lambda: talk.ping(program.number(2)),
        lambda: talk.advance(program.choice([0.01, 0.15, 3.0, 16.0])),
        lambda: talk.sleep(program.choice([1.0, 100.0])),
        talk.repeat_old_bytes,
        lambda: talk.resume_with_an_impossible_number(program.number(2)),
        lambda: talk.finish(program.number(2)),
        lambda: talk.close(program.number(2)),
        talk.forget,
        lambda: talk.lie(program.number(2), program.choice(LIES)),
    ]
    for _ in range(STEPS_MAX):
        if not program.has_more:
            break
        program.choice(actions)()
        talk.check()
    talk.end()


BODY_TYPES: Final = (Challenge, Hello, Welcome, Reject, Bye, Notice, Heartbeat, Limits)
MESSAGE_TYPES: Final = (
    messages.Join,
    messages.Facts,
    messages.Joined,
    messages.Report,
    messages.Claim,
    messages.Grant,
    messages.Postpone,
    messages.Postponed,
    messages.Goodbye,
    messages.Order,
    messages.Withdraw,
)
PLAIN_TYPES: Final = (Any, bytes, str, int, dict[str, float], list[tuple[str, bytes]])
HANDLERS: Final = tuple(Handler(print, body_type) for body_type in (*MESSAGE_TYPES, *PLAIN_TYPES))
CHOICES: Final = len(HANDLERS) + len(BODY_TYPES) + 6


def values(data: bytes) -> None:
    """Everything else that reads what strangers wrote: values, message bodies, handshake bodies, URLs."""
    body = data[1:]
    choice = (data[0] if data else 0) % CHOICES
    if choice < len(HANDLERS):
        check_handler(HANDLERS[choice], body)
        return
    choice -= len(HANDLERS)
    if choice < len(BODY_TYPES):
        with contextlib.suppress(ProtocolError):
            decode_body(body, BODY_TYPES[choice])
        return
    choice -= len(BODY_TYPES)
    with contextlib.suppress(ProtocolError, ConfigurationError, msgspec.DecodeError):
        if choice == 0:
            decode_hello(body)
        elif choice == 1:
            number, time_us, acked = decode_ping(body)
            assert encode_ping(Kind.PING, number, time_us, acked)[5:] == body
        elif choice == 2:
            check_value(body)
        elif choice == 3:
            name, value, is_packed = decode_datagram(body)
            assert encode_datagram(name.encode(), value, is_packed=is_packed)[5:] == body
        elif choice == 4:
            endpoint = parse_url(str(body, "utf-8", "surrogateescape"))
            assert parse_url(str(endpoint)) == endpoint
        else:
            endpoint = parse_url(str(body, "utf-8", "replace"))
            assert parse_url(str(endpoint)) == endpoint


def check_value(body: bytes) -> None:
    value = decode_value(body, True)
    again, is_packed = encode_value(value)
    if is_packed:
        assert encode_value(decode_value(again, True)) == (again, True)
    assert decode_value(body, False) is body


def check_handler(handler: Handler, body: bytes) -> None:
    for is_packed in (True, False):
        try:
            value = handler.decode_body(body, is_packed)
        except msgspec.DecodeError:
            continue
        if isinstance(value, messages.Join):
            value = value.facts
        if isinstance(value, messages.Facts):
            with contextlib.suppress(RequestError):
                facts = machines.check_facts(value)
                assert len(msgspec.msgpack.encode(facts)) <= FACTS_BYTES_MAX


FACTS_BYTES_MAX: Final = 100 * 4 * 300 + 64 * 1024
"""What a machine may say of itself, all fields at their bounds."""

Target = Callable[[bytes], None]
TARGETS: Final[dict[str, Target]] = {
    "wire": wire,
    "client_handshake": client_handshake,
    "server_handshake": server_handshake,
    "session": session,
    "two_sessions": two_sessions,
    "values": values,
    "datagrams": datagrams,
    "websocket_server": websocket_server,
    "websocket_client": websocket_client,
}
