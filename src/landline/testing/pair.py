"""Test doubles: two sessions joined in memory, under virtual time, over links with faults.

This module does not wait, open a socket or read a clock, and one seed determines all random choices. A test takes
microseconds, and a failure is reproducible::

    pair = Pair(seed=7)
    pair.connect()
    pair.client.send(b"one")
    pair.cut()
    pair.client.send(b"two")
    pair.connect()
    pair.advance(1.0)
    assert pair.server.bodies == [b"one", b"two"]
"""

from __future__ import annotations

from random import Random

from landline.codes import Operation
from landline.errors import ConnectFailed, Unconfirmed
from landline.session.auth import Anonymous, proofs_equal, resume_proof
from landline.session.bodies import Hello, Resume, Welcome, encode_body
from landline.session.constants import SECRET_BYTES, SESSION_ID_BYTES, Kind
from landline.session.events import DatagramReceived, Event, MessageReceived
from landline.session.frames import encode_datagram
from landline.session.handshake import ClientHandshake, ServerHandshake
from landline.session.session import Session
from landline.session.settings import Heartbeat, Limits, SendBuffer
from landline.session.state import State

STEPS_MAX = 100_000


class Clock:
    """Virtual time in seconds. It advances only when :meth:`advance` is called."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now: float = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance the time. Raise :class:`ValueError` for a negative step."""
        if seconds < 0:
            raise ValueError(f"time cannot go back by {-seconds:g} s")
        self.now += seconds


class Link:
    """How one transport treats the bytes given to it.

    Bytes arrive in random pieces of at most ``segment_bytes_max``, or as they were written. After ``cut_after_bytes``
    the transport breaks; after ``silent_after_bytes`` bytes are lost without an error. Both count the bytes of both
    directions together.
    """

    def __init__(
        self,
        random: Random,
        *,
        segment_bytes_max: int | None = None,
        cut_after_bytes: float = float("inf"),
        silent_after_bytes: float = float("inf"),
    ) -> None:
        self._random = random
        self.segment_bytes_max = segment_bytes_max
        self.cut_after_bytes = cut_after_bytes
        self.silent_after_bytes: float = silent_after_bytes
        self.carried_bytes: int = 0
        self.is_cut: bool = False

    @classmethod
    def lossy(cls, random: Random, *, bytes_max: int = 4096) -> Link:
        """Return a link that, within ``bytes_max`` bytes, breaks (three in four) or loses all further bytes."""
        link = cls(random, segment_bytes_max=random.choice([None, 1, 7, 100, 5000]))
        if random.random() < 0.75:
            link.cut_after_bytes = random.randrange(bytes_max)
        else:
            link.silent_after_bytes = random.randrange(bytes_max)
        return link

    def silence(self) -> None:
        """Lose all further bytes, in both directions, without an error."""
        self.silent_after_bytes = self.carried_bytes

    def carry(self, data: bytes) -> list[bytes]:
        """Return the pieces of ``data`` that arrive."""
        self.is_cut = self.is_cut or self.carried_bytes + len(data) > self.cut_after_bytes
        end = min(self.cut_after_bytes, self.silent_after_bytes) - self.carried_bytes
        if end < len(data):
            data = data[: int(end)]
        self.carried_bytes += len(data)
        pieces = []
        while data:
            size = self._random.randint(1, self.segment_bytes_max) if self.segment_bytes_max else len(data)
            pieces.append(data[:size])
            data = data[size:]
        return pieces


class Side:
    """One end of a :class:`Pair`. With ``auto_ack``, its application acknowledges messages as they arrive."""

    session: Session
    """The current session, after the first :meth:`Pair.connect`."""

    def __init__(self, limits: Limits, send_buffer: SendBuffer, *, auto_ack: bool) -> None:
        self.limits = limits
        self.send_buffer = send_buffer
        self.auto_ack = auto_ack
        self.events: list[Event] = []
        """All events that the sessions of this side have reported."""
        self.datagrams: list[DatagramReceived] = []
        """All datagrams received, in order."""
        self.lost: list[Unconfirmed] = []
        """The unconfirmed messages of sessions that could not be resumed."""
        self._unacked: list[MessageReceived] = []

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of all messages received, in order."""
        return [event.body for event in self.events if isinstance(event, MessageReceived)]

    def start_session(self, session: Session) -> None:
        """Replace the session, if there is one, by a new one."""
        if hasattr(self, "session"):
            self.lost += self.session.outbound.unconfirmed()
        self._unacked.clear()
        self.session = session

    def send(self, body: bytes, *, name: str = "", bulk: bool = False) -> None:
        """Send a message.

        :raises MessageTooLarge: when the peer does not accept a message of that size.
        :raises BufferFull: when the send buffer has no space.
        :raises LineClosed: after the end of the session.
        """
        self.session.outbound.send(Operation.MESSAGE, name.encode(), body, is_bulk=bulk)

    def send_datagram(self, body: bytes, *, name: str = "") -> bool:
        """Send a datagram and return ``True``, or drop it where it cannot be written soon.

        :raises MessageTooLarge: when name and body are too long for a datagram.
        :raises LineClosed: after the end of the session.
        """
        return self.session.send_datagram(encode_datagram(name.encode(), body, is_packed=False))

    def collect(self) -> None:
        """Fetch the events and datagrams of the session."""
        self.datagrams += self.session.next_datagrams()
        events = self.session.next_events()
        self.events += events
        self._unacked += [event for event in events if isinstance(event, MessageReceived)]
        if self.auto_ack:
            self.ack_all()

    def ack_all(self) -> None:
        """Acknowledge all messages that are not acknowledged yet."""
        for message in self._unacked:
            self.session.inbound.ack(message)
        self._unacked.clear()


class Pair:
    """A client session and a server session, joined by one :class:`Link` at a time, under one :class:`Clock`.

    :param seed: determines all random choices.
    :param auto_ack: whether the applications of both sides acknowledge messages as they arrive.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        heartbeat: Heartbeat | None = None,
        client_limits: Limits | None = None,
        server_limits: Limits | None = None,
        send_buffer: SendBuffer | None = None,
        auto_ack: bool = True,
    ) -> None:
        self.clock: Clock = Clock()
        self.random: Random = Random(seed)  # noqa: S311 - a test repeats itself
        self.heartbeat: Heartbeat = heartbeat or Heartbeat()
        self.client: Side = Side(client_limits or Limits(), send_buffer or SendBuffer(), auto_ack=auto_ack)
        self.server: Side = Side(server_limits or Limits(), send_buffer or SendBuffer(), auto_ack=auto_ack)
        self.link: Link = Link(self.random)
        self.epoch: int = 0

    def connect(self, link: Link | None = None) -> bool:
        """Join the two sides over a new transport by a real handshake; return whether a session was resumed.

        The client leaves its old transport; the server does not notice that, and its session moves to the new one. Only
        the handshake is transferred.

        :raises ConnectFailed: when the link breaks during the handshake.
        """
        self.link = link or Link(self.random)
        link = self.link
        now, ticket = self.clock.now, None
        if hasattr(self.client, "session"):
            self.client.session.receive_link_lost()
            ticket = None if self.client.session.state is State.CLOSED else self.client.session.ticket
        limits, hello = self.client.limits, None
        server = ServerHandshake(random=self.random, now=now)
        client = ClientHandshake(
            random=self.random, auth=Anonymous(), identity="", limits=limits, resume=ticket
        )
        for piece in link.carry(server.challenge_to_send()):
            client.feed(piece)
        for piece in link.carry(client.data_to_send()):
            hello = server.feed(piece)
        if hello is None:
            raise ConnectFailed("the link ended before HELLO")
        welcome = self._welcome(hello, server.nonce)
        self.epoch = welcome.epoch
        for piece in link.carry(encode_body(Kind.WELCOME, welcome)):
            client.feed(piece)
        if client.welcome is None:
            if link.is_cut:
                self.server.session.receive_link_lost()
            raise ConnectFailed("the link ended before WELCOME")
        if not welcome.resumed:
            self.client.start_session(
                self._session(self.client, welcome.limits, welcome.session, welcome.secret)
            )
        self.client.session.attach(
            now, epoch=welcome.epoch, peer_received=welcome.received, phase=self.random.random()
        )
        return welcome.resumed

    def cut(self) -> None:
        """Break the transport. Both sides notice; bytes in transit are lost."""
        self.link.cut_after_bytes = 0
        self.client.session.receive_link_lost()
        self.server.session.receive_link_lost()

    def lose_server_session(self) -> None:
        """Remove the session of the server; the next :meth:`connect` starts a new one."""
        self.server.session.receive_link_lost()
        self.server.session.abort()

    def transfer(self, sender: Side) -> int:
        """Transfer the bytes that one side has to send now; return the number of bytes written."""
        receiver = self.server if sender is self.client else self.client
        written = 0
        while data := sender.session.data_to_send(self.clock.now):
            written += len(data)
            for piece in self.link.carry(data):
                receiver.session.receive_data(piece, self.clock.now)
                receiver.collect()
            if self.link.is_cut:
                self.cut()
        return written

    def deliver(self) -> None:
        """Transfer bytes in both directions until neither side has any to send at this time."""
        while self.transfer(self.client) + self.transfer(self.server):
            pass

    def advance(self, seconds: float) -> None:
        """Advance the time: transfer bytes, and call each side when its timers are due."""
        end = self.clock.now + seconds
        for _ in range(STEPS_MAX):
            self.deliver()
            dues = (side.session.next_timeout() for side in (self.client, self.server))
            due = min((due for due in dues if due is not None), default=end)
            self.clock.now = max(self.clock.now, min(due, end))
            self.wake()
            if due >= end:
                return
        raise AssertionError("a timer stays due: time does not advance")

    def wake(self) -> None:
        """Call the timers of both sides, and transfer the bytes they send."""
        for side in (self.client, self.server):
            side.session.handle_timeout(self.clock.now)
            side.collect()
        self.deliver()

    def _welcome(self, hello: Hello, nonce: bytes) -> Welcome:
        """Attach the server to the proven session or to a new one; return its WELCOME."""
        resume, received = hello.resume, 0
        if resume is not None and self._is_proven(resume, nonce):
            received = resume.received
        else:
            resume = None
            session_id, secret = self.random.randbytes(SESSION_ID_BYTES), self.random.randbytes(SECRET_BYTES)
            self.server.start_session(self._session(self.server, hello.limits, session_id, secret))
        session = self.server.session
        welcome = Welcome(
            session=session.session_id,
            secret=session.secret,
            epoch=session.epoch + 1,
            resumed=resume is not None,
            received=session.inbound.received,
            heartbeat=self.heartbeat,
            limits=self.server.limits,
            resume_window_s=120.0,
        )
        phase = self.random.random()
        session.attach(self.clock.now, epoch=welcome.epoch, peer_received=received, phase=phase)
        return welcome

    def _is_proven(self, resume: Resume, nonce: bytes) -> bool:
        if not hasattr(self.server, "session") or self.server.session.state is State.CLOSED:
            return False
        session, epoch, received = resume.session, resume.epoch, resume.received
        secret = self.server.session.secret
        proof = resume_proof(secret, server_nonce=nonce, session=session, epoch=epoch, received=received)
        return session == self.server.session.session_id and proofs_equal(proof, resume.proof)

    def _session(self, side: Side, peer_limits: Limits, session_id: bytes, secret: bytes) -> Session:
        return Session(
            session_id=session_id,
            secret=secret,
            is_server=side is self.server,
            limits=side.limits,
            peer_limits=peer_limits,
            heartbeat=self.heartbeat,
            send_buffer=side.send_buffer,
        )
