"""Accepting: the handshake with those who connect to a server, and who of them gets a line, new or their own back."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final, cast

from landline.codes import Code
from landline.errors import ProtocolError
from landline.line.line import Line, LineOwner
from landline.runtime.guarded_log import guarded_logger
from landline.server.admission import Admission, RateLimiter
from landline.session.auth import (
    ServerAuth,
    WrongResult,
    identity_of,
    proof_of,
    proofs_equal,
    resume_proof,
)
from landline.session.frames import Kind
from landline.session.handshake import (
    SECRET_BYTES,
    SESSION_ID_BYTES,
    Hello,
    Limits,
    RandomSource,
    Resume,
    ServerHandshake,
    Welcome,
    encode_body,
    reject_to_send,
)
from landline.session.heartbeat import READ_FIRST_S, Heartbeat
from landline.session.outbound import SendBuffer
from landline.session.session import Session
from landline.session.state import State
from landline.transports.base import LinkProtocol

logger = guarded_logger("landline")

BUSY_RETRY_AFTER_S: Final = 5.0
BUSY_SPREAD_S: Final = 10.0
RETRY_SPREAD_SHARE: Final = 0.1
"""Clients that come too early are told when to come back, give or take this part of the time."""
AUTH_FAILURE_EVERY_S: Final = 1.0
"""How often an ``auth=`` that raises is logged, at most: strangers choose how often it is asked."""


class Acceptor:
    """Shakes hands for one server.

    :param owner: of the lines; it has ``loop`` and ``wheel`` before the first transport comes.
    :param lines: those that are not closed, by session; new ones are added, and the owner takes them out.
    :param begun: called with every new line, once it is online.
    """

    def __init__(
        self,
        owner: LineOwner,
        lines: dict[bytes, Line],
        begun: Callable[[Line], None],
        *,
        auth: ServerAuth,
        heartbeat: Heartbeat,
        max_lines: int,
        resume_window_s: float,
        limits: Limits,
        send_buffer: SendBuffer,
        admission: Admission,
        name: str,
        random: RandomSource,
    ) -> None:
        self.owner = owner
        self.name = name
        """What the server calls itself in its CHALLENGE."""
        self.unfinished: dict[_HandshakeLink, None] = {}
        """The transports that are neither welcomed nor refused yet, in the order in which they came."""
        self._lines = lines
        self._begun = begun
        self._auth = auth
        self._heartbeat = heartbeat
        self._max_lines = max_lines
        self._resume_window_s = resume_window_s
        self._limits = limits
        self._send_buffer = send_buffer
        self._unfinished_max = admission.unfinished
        self._gate = RateLimiter(admission)
        self._random = random
        self._is_closed = False
        # What was logged already of an ``auth=`` that gives no clear answer: as many as it has kinds of mistakes.
        self._wrong_results: set[str] = set()
        self._auth_failure_logged_at = -math.inf

    @property
    def refused(self) -> int:
        """How many were told to come back later, because too many came at once."""
        return self._gate.refused

    def make_link(self) -> LinkProtocol:
        """The protocol of a transport that is about to be accepted."""
        handshake = ServerHandshake(random=self._random, now=self.owner.wheel.time())
        return _HandshakeLink(self, handshake)

    def close(
        self, code: Code, reason: str, *, retry_after_s: float | None = None, spread_s: float = 0.0
    ) -> None:
        """Refuses all whose handshake is under way, and from now on everybody."""
        self._is_closed = True
        for link in list(self.unfinished):
            link.reject(code, reason, retry_after_s=retry_after_s, spread_s=spread_s)

    def admit(self) -> float | None:
        """``None`` lets one more connection in; else it is to come back after so many seconds."""
        if len(self.unfinished) >= self._unfinished_max:
            return BUSY_RETRY_AFTER_S
        return self._gate.admit(self.owner.wheel.time())

    def receive_hello(self, transport: asyncio.Transport, hello: Hello, handshake: ServerHandshake) -> bytes:
        """Decides on a HELLO. Returns a REJECT to write, or nothing when the transport was welcomed."""
        server_nonce = handshake.nonce
        round_trip_s = handshake.round_trip_s(self.owner.wheel.time())
        try:
            identity, proof = self._authenticate(hello, server_nonce)
        except WrongResult as error:
            self._log_wrong_result(error)
            return reject_to_send(Code.UNAUTHENTICATED, "the server cannot check who this is")
        except Exception:
            # A database that is away, say: clients come back, and are let in when it is there again.
            if self._is_new_auth_failure():
                logger.exception("auth=%s failed; the client is refused", type(self._auth).__name__)
            return reject_to_send(
                Code.GOING_AWAY,
                "the server cannot check who this is just now",
                retry_after_s=BUSY_RETRY_AFTER_S,
                spread_s=BUSY_SPREAD_S,
            )
        if identity is None:
            return reject_to_send(Code.UNAUTHENTICATED, "the token is missing or wrong")
        if self._is_closed:
            return reject_to_send(Code.GOING_AWAY, "the server stops", retry_after_s=BUSY_RETRY_AFTER_S)
        line = self._find_resumable(hello.resume, identity, server_nonce)
        if line is not None and hello.resume is not None:
            session = line.session
            assert session is not None
            self._welcome(line, session, transport, hello.resume.received, proof, round_trip_s, resumed=True)
            return b""
        if len(self._lines) >= self._max_lines:
            return reject_to_send(
                Code.OVERLOADED,
                f"{self._max_lines} lines are open already",
                retry_after_s=BUSY_RETRY_AFTER_S,
                spread_s=BUSY_SPREAD_S,
            )
        session = Session(
            session_id=self._random.randbytes(SESSION_ID_BYTES),
            secret=self._random.randbytes(SECRET_BYTES),
            is_server=True,
            limits=self._limits,
            peer_limits=hello.limits,
            heartbeat=self._heartbeat,
            send_buffer=self._send_buffer,
        )
        line = Line(self.owner, identity=identity)
        self._lines[session.session_id] = line
        self._welcome(line, session, transport, 0, proof, round_trip_s, resumed=False)
        if not line.is_closed:
            self._begun(line)
        return b""

    def _authenticate(self, hello: Hello, server_nonce: bytes) -> tuple[str | None, bytes | None]:
        """Return the client's identity, ``None`` for one to refuse, and our own proof.

        Raise :class:`WrongResult` when ``auth=`` gives no clear answer, and what it raises.
        """
        nonces = {"server_nonce": server_nonce, "client_nonce": hello.nonce}
        identity = identity_of(self._auth.identify(hello.auth, **nonces))
        if identity is None:
            return None, None
        return identity, proof_of(self._auth.server_proof(identity=identity, **nonces))

    def _log_wrong_result(self, error: WrongResult) -> None:
        # Strangers choose how often it is asked: once for each mistake is enough to find it.
        level = logging.DEBUG if str(error) in self._wrong_results else logging.ERROR
        self._wrong_results.add(str(error))
        logger.log(level, "auth=%s: %s; the client is refused", type(self._auth).__name__, error)

    def _is_new_auth_failure(self) -> bool:
        now = self.owner.wheel.time()
        is_new = now >= self._auth_failure_logged_at + AUTH_FAILURE_EVERY_S
        if is_new:
            self._auth_failure_logged_at = now
        return is_new

    def _find_resumable(self, resume: Resume | None, identity: str, server_nonce: bytes) -> Line | None:
        """The line a client may go on with: it exists, is the same identity's, and the secret is proven."""
        if resume is None:
            return None
        line = self._lines.get(resume.session)
        if line is None or line.identity != identity or line.session is None:
            return None
        expected = resume_proof(
            line.session.secret,
            server_nonce=server_nonce,
            session=resume.session,
            epoch=resume.epoch,
            received=resume.received,
        )
        if not proofs_equal(resume.proof, expected) or line.session.state is State.CLOSED:
            return None
        try:
            line.session.check_resumable(resume.received)
        except ProtocolError as error:
            logger.warning("%r cannot resume: %s", line, error)
            return None
        return line

    def _welcome(
        self,
        line: Line,
        session: Session,
        transport: asyncio.Transport,
        peer_received: int,
        proof: bytes | None,
        round_trip_s: float,
        *,
        resumed: bool,
    ) -> None:
        epoch = session.epoch + 1
        welcome = Welcome(
            session=session.session_id,
            secret=session.secret,
            epoch=epoch,
            resumed=resumed,
            received=session.received,
            heartbeat=self._heartbeat,
            limits=self._limits,
            resume_window_s=self._resume_window_s,
            proof=proof,
        )
        transport.write(encode_body(Kind.WELCOME, welcome))
        line.attach(
            session,
            transport,
            epoch=epoch,
            peer_received=peer_received,
            phase=self._random.random(),
            resumed=resumed,
            round_trip_s=round_trip_s,
        )


class _HandshakeLink(LinkProtocol):
    """The protocol of an accepted transport until it is welcomed; then the line's own takes its place."""

    __slots__ = ("_acceptor", "_handshake", "_is_late", "_transport", "timer_tick")

    def __init__(self, acceptor: Acceptor, handshake: ServerHandshake) -> None:
        self._acceptor = acceptor
        self._handshake = handshake
        self._transport: asyncio.Transport | None = None
        self._is_late = False
        self.timer_tick: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.Transport, but have all its methods.
        self._transport = cast(asyncio.Transport, transport)
        wait_s = self._acceptor.admit()
        if wait_s is not None:
            spread_s = wait_s * RETRY_SPREAD_SHARE
            self.reject(Code.OVERLOADED, "too many come at once", retry_after_s=wait_s, spread_s=spread_s)
            return
        self._acceptor.unfinished[self] = None
        self._acceptor.owner.wheel.schedule(self, self._handshake.deadline)
        self._transport.write(self._handshake.challenge_to_send(self._acceptor.name))

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        try:
            hello = self._handshake.feed(data)
            if hello is not None:
                rejection = self._acceptor.receive_hello(transport, hello, self._handshake)
                if rejection:
                    self._end(rejection)
                else:
                    self._forget()
        except ProtocolError as error:
            self.reject(error.code or Code.PROTOCOL_ERROR, str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()

    def handle_timer(self, now: float) -> None:
        """The timer wheel's call: the client took too long, unless it is we who did not come to read it."""
        if self._transport is None:
            return
        if self._is_late:
            self.reject(Code.HANDSHAKE_TIMEOUT, "the handshake took too long")
        else:
            self._is_late = True
            self._acceptor.owner.wheel.schedule(self, now + READ_FIRST_S)

    def reject(
        self, code: Code, reason: str, *, retry_after_s: float | None = None, spread_s: float = 0.0
    ) -> None:
        """Says no and closes."""
        self._end(reject_to_send(code, reason, retry_after_s=retry_after_s, spread_s=spread_s))

    def _end(self, rejection: bytes) -> None:
        transport = self._transport
        self._forget()
        if transport is not None:
            transport.write(rejection)
            self._acceptor.owner.closer.close(transport)

    def _forget(self) -> None:
        self._transport = None
        self._acceptor.unfinished.pop(self, None)
