"""The server's side of the handshake: decides which client gets a line, a new one or its own resumed one."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final, cast

from landline.codes import Code
from landline.errors import ProtocolError
from landline.line.interfaces import LineHost
from landline.line.line import Line, driver_of
from landline.runtime.guarded_log import guarded_logger
from landline.server.admission import RateLimiter
from landline.server.settings import ServerSettings
from landline.session.auth import WrongResult, check_identity, check_proof, proofs_equal, resume_proof
from landline.session.bodies import Hello, Resume, Welcome, encode_body
from landline.session.constants import READ_FIRST_S, SECRET_BYTES, SESSION_ID_BYTES, Kind
from landline.session.handshake import ServerHandshake, reject_to_send
from landline.session.session import Session
from landline.session.state import State
from landline.transports.base import LinkProtocol

logger: Final = guarded_logger("landline")

RETRY_SPREAD_SHARE: Final = 0.1
"""The random part of the delay for clients that connect too early, as a share of the delay."""
AUTH_FAILURE_LOG_INTERVAL_S: Final = 1.0
"""How often an exception of ``auth=`` is logged, at most: unauthenticated clients choose how often it is called."""


class Acceptor:
    """Does the handshake with the clients of one server.

    :param host: the host of the lines; its ``loop`` and ``wheel`` are set before the first transport is accepted.
    :param lines: the lines that are not closed, by session id. The acceptor adds new ones; the host removes them.
    :param on_line: called with every new line once it is online.
    """

    def __init__(
        self,
        host: LineHost[Line],
        lines: dict[bytes, Line],
        on_line: Callable[[Line], None],
        settings: ServerSettings,
    ) -> None:
        self.host = host
        self.unfinished: dict[_HandshakeLink, None] = {}
        """The transports whose handshake is not finished, oldest first."""
        self._lines = lines
        self._on_line = on_line
        self._settings = settings
        self._rate_limiter = RateLimiter(settings.admission)
        self._is_closed = False
        # The mistakes of ``auth=`` that were logged: there are only as many as kinds of mistakes.
        self._logged_mistakes: set[str] = set()
        self._auth_failure_logged_at = -math.inf

    @property
    def refused(self) -> int:
        """The number of connections refused because of the rate limit."""
        return self._rate_limiter.refused

    @property
    def server_name(self) -> str:
        """The name that the server sends in its CHALLENGE."""
        return self._settings.name

    def make_link(self) -> LinkProtocol:
        """Return the protocol for a transport that is being accepted."""
        handshake = ServerHandshake(random=self._settings.random, now=self.host.wheel.time())
        return _HandshakeLink(self, handshake)

    def open(self) -> None:
        """Accept clients, also after :meth:`close`."""
        self._is_closed = False

    def close(
        self, code: Code, reason: str, *, retry_after_s: float | None = None, spread_s: float = 0.0
    ) -> None:
        """Refuse the clients whose handshake is not finished, and all later ones."""
        self._is_closed = True
        for link in list(self.unfinished):
            link.reject(code, reason, retry_after_s=retry_after_s, spread_s=spread_s)

    def admit(self) -> float | None:
        """Return ``None`` to accept one more connection, or the seconds after which it may try again."""
        admission = self._settings.admission
        if len(self.unfinished) >= admission.unfinished:
            return admission.busy_retry_after_s
        return self._rate_limiter.admit(self.host.wheel.time())

    def receive_hello(self, transport: asyncio.Transport, hello: Hello, handshake: ServerHandshake) -> bytes:
        """Decide on a HELLO. Return the REJECT to send, or nothing after a WELCOME."""
        settings = self._settings
        server_nonce = handshake.nonce
        round_trip_s = handshake.round_trip_s(self.host.wheel.time())
        try:
            identity, proof = self._authenticate(hello, server_nonce)
        except WrongResult as error:
            self._log_wrong_result(error)
            return reject_to_send(Code.UNAUTHENTICATED, "the server cannot check the identity")
        except Exception:
            # For example a database that is not reachable: clients retry, and are accepted when it is.
            if self._is_new_auth_failure():
                logger.exception("auth=%s failed; the client is refused", type(self._settings.auth).__name__)
            return reject_to_send(
                Code.GOING_AWAY,
                "the server cannot check the identity now",
                retry_after_s=settings.admission.busy_retry_after_s,
                spread_s=settings.admission.busy_spread_s,
            )
        if identity is None:
            return reject_to_send(Code.UNAUTHENTICATED, "the token is missing or wrong")
        if self._is_closed:
            return reject_to_send(
                Code.GOING_AWAY, "the server stops", retry_after_s=settings.admission.busy_retry_after_s
            )
        line = self._find_resumable(hello.resume, identity, server_nonce)
        if line is not None and hello.resume is not None:
            session = driver_of(line).session
            assert session is not None
            self._welcome(line, session, transport, hello.resume.received, proof, round_trip_s, resumed=True)
            return b""
        if len(self._lines) >= settings.max_lines:
            return reject_to_send(
                Code.OVERLOADED,
                f"{settings.max_lines} lines are open already",
                retry_after_s=settings.admission.busy_retry_after_s,
                spread_s=settings.admission.busy_spread_s,
            )
        session = Session(
            session_id=settings.random.randbytes(SESSION_ID_BYTES),
            secret=settings.random.randbytes(SECRET_BYTES),
            is_server=True,
            limits=settings.limits,
            peer_limits=hello.limits,
            heartbeat=settings.heartbeat,
            send_buffer=settings.send_buffer,
        )
        line = Line(self.host, identity=identity)
        self._lines[session.session_id] = line
        self._welcome(line, session, transport, 0, proof, round_trip_s, resumed=False)
        if not line.is_closed:
            self._on_line(line)
        return b""

    def _authenticate(self, hello: Hello, server_nonce: bytes) -> tuple[str | None, bytes | None]:
        """Return the client's identity (``None`` to refuse it) and the server's proof.

        :raises WrongResult: when a result of ``auth=`` is invalid; its own exceptions pass through.
        """
        nonces = {"server_nonce": server_nonce, "client_nonce": hello.nonce}
        identity = check_identity(self._settings.auth.identify(hello.auth, **nonces))
        if identity is None:
            return None, None
        return identity, check_proof(self._settings.auth.server_proof(identity=identity, **nonces))

    def _log_wrong_result(self, error: WrongResult) -> None:
        # Unauthenticated clients choose how often it is called, so each mistake is logged as an error once.
        level = logging.DEBUG if str(error) in self._logged_mistakes else logging.ERROR
        self._logged_mistakes.add(str(error))
        logger.log(level, "auth=%s: %s; the client is refused", type(self._settings.auth).__name__, error)

    def _is_new_auth_failure(self) -> bool:
        now = self.host.wheel.time()
        is_new = now >= self._auth_failure_logged_at + AUTH_FAILURE_LOG_INTERVAL_S
        if is_new:
            self._auth_failure_logged_at = now
        return is_new

    def _find_resumable(self, resume: Resume | None, identity: str, server_nonce: bytes) -> Line | None:
        """Return the line that the client may resume: it exists, has the same identity, and the secret is proven."""
        if resume is None:
            return None
        line = self._lines.get(resume.session)
        session = None if line is None else driver_of(line).session
        if line is None or line.identity != identity or session is None:
            return None
        expected = resume_proof(
            session.secret,
            server_nonce=server_nonce,
            session=resume.session,
            epoch=resume.epoch,
            received=resume.received,
        )
        if not proofs_equal(resume.proof, expected) or session.state is State.CLOSED:
            return None
        try:
            session.check_resumable(resume.received)
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
            received=session.inbound.received,
            heartbeat=self._settings.heartbeat,
            limits=self._settings.limits,
            resume_window_s=self._settings.resume_window_s,
            proof=proof,
        )
        transport.write(encode_body(Kind.WELCOME, welcome))
        driver_of(line).attach(
            session,
            transport,
            epoch=epoch,
            peer_received=peer_received,
            phase=self._settings.random.random(),
            resumed=resumed,
            round_trip_s=round_trip_s,
        )


class _HandshakeLink(LinkProtocol):
    """The protocol of an accepted transport until the WELCOME; then the line's own protocol replaces it."""

    __slots__ = ("_acceptor", "_handshake", "_is_late", "_transport", "timer_tick")

    def __init__(self, acceptor: Acceptor, handshake: ServerHandshake) -> None:
        self._acceptor = acceptor
        self._handshake = handshake
        self._transport: asyncio.Transport | None = None
        self._is_late = False
        self.timer_tick: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport, but are no subclasses of it.
        self._transport = cast(asyncio.Transport, transport)
        wait_s = self._acceptor.admit()
        if wait_s is not None:
            spread_s = wait_s * RETRY_SPREAD_SHARE
            self.reject(
                Code.OVERLOADED, "too many clients connect at once", retry_after_s=wait_s, spread_s=spread_s
            )
            return
        self._acceptor.unfinished[self] = None
        self._acceptor.host.wheel.schedule(self, self._handshake.deadline)
        self._transport.write(self._handshake.challenge_to_send(self._acceptor.server_name))

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
                    self._detach()
        except ProtocolError as error:
            self.reject(error.code or Code.PROTOCOL_ERROR, str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._detach()

    def handle_timer(self, now: float) -> None:
        """Refuse a client whose handshake takes too long; called by the timer wheel.

        The first time, wait a moment more: this process may have been too busy to read the HELLO.
        """
        if self._transport is None:
            return
        if self._is_late:
            self.reject(Code.HANDSHAKE_TIMEOUT, "the handshake took too long")
        else:
            self._is_late = True
            self._acceptor.host.wheel.schedule(self, now + READ_FIRST_S)

    def reject(
        self, code: Code, reason: str, *, retry_after_s: float | None = None, spread_s: float = 0.0
    ) -> None:
        """Send REJECT and close."""
        self._end(reject_to_send(code, reason, retry_after_s=retry_after_s, spread_s=spread_s))

    def _end(self, rejection: bytes) -> None:
        transport = self._transport
        self._detach()
        if transport is not None:
            transport.write(rejection)
            self._acceptor.host.closer.close(transport)

    def _detach(self) -> None:
        self._transport = None
        self._acceptor.unfinished.pop(self, None)
