"""Dial one address: connect a transport and do the handshake on it, up to the server's WELCOME.

The dialer knows no line. It hands the WELCOME over inside the transport's callback, because the bytes that follow it
already belong to the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

import msgspec

from landline.discovery.records import SEARCH_S
from landline.errors import ConfigurationError, ConnectFailed, LandlineError
from landline.line.line import Line, driver_of
from landline.session.auth import ClientAuth
from landline.session.bodies import ResumeTicket, Welcome
from landline.session.constants import HANDSHAKE_TIMEOUT_S, IDENTITY_BYTES_MAX
from landline.session.handshake import ClientHandshake, RandomSource
from landline.session.session import Session
from landline.session.settings import Limits, SendBuffer
from landline.transports.base import LinkProtocol, load_transport
from landline.transports.linger import read_arrived
from landline.transports.options import TransportOptions
from landline.transports.urls import Endpoint

CONNECT_TIMEOUT_S: Final = 10.0


class DialTimeouts(msgspec.Struct, frozen=True):
    """The time limits of one attempt at one address, in seconds."""

    connect_s: float = CONNECT_TIMEOUT_S
    """For the transport, with TLS and the WebSocket handshake."""
    handshake_s: float = HANDSHAKE_TIMEOUT_S
    """From the connected transport to the server's WELCOME."""
    search_s: float = SEARCH_S
    """For the answers of multicast DNS, where the URL is a name."""


class Welcomed(msgspec.Struct, frozen=True):
    """A connection on which the server has sent its WELCOME."""

    endpoint: Endpoint
    transport: asyncio.Transport
    welcome: Welcome
    limits: Limits
    """This side's limits, as sent to the server."""
    round_trip_s: float
    """From HELLO to WELCOME, in seconds."""
    trailing_data: bytes
    """The bytes received after the WELCOME."""

    def new_session(self, send_buffer: SendBuffer) -> Session:
        """Return the session that the server began. Not for a WELCOME that says ``resumed``."""
        return Session(
            session_id=self.welcome.session,
            secret=self.welcome.secret,
            is_server=False,
            limits=self.limits,
            peer_limits=self.welcome.limits,
            heartbeat=self.welcome.heartbeat,
            send_buffer=send_buffer,
        )

    def attach(self, line: Line, session: Session, *, phase: float) -> None:
        """Attach the line's session to the connection; see :meth:`landline.line.driver.LineDriver.attach`."""
        driver_of(line).attach(
            session,
            self.transport,
            epoch=self.welcome.epoch,
            peer_received=self.welcome.received if self.welcome.resumed else 0,
            phase=phase,
            resumed=self.welcome.resumed,
            round_trip_s=self.round_trip_s,
            trailing_data=self.trailing_data,
        )


TakeWelcome = Callable[[Welcomed], None]
"""Called with the WELCOME. A :class:`LandlineError` that it raises fails the dial."""


class Dialer:
    """Dials the endpoints of one client.

    :param identity: the identity that the client claims, 200 bytes at most.
    :raises ConfigurationError: for an identity that is too long.
    """

    def __init__(
        self,
        *,
        auth: ClientAuth,
        identity: str,
        limits: Limits,
        clock: Callable[[], float],
        random: RandomSource,
        timeouts: DialTimeouts | None = None,
    ) -> None:
        size = len(identity.encode())
        if size > IDENTITY_BYTES_MAX:
            raise ConfigurationError(f"the identity has {size} bytes; the limit is {IDENTITY_BYTES_MAX}")
        self.auth = auth
        self.identity = identity
        self.clock = clock
        self.timeouts: DialTimeouts = timeouts or DialTimeouts()
        self._limits = limits
        self._random = random
        self.server_name = ""
        """The server's name from its last CHALLENGE, also of a server that refused the connection."""

    async def dial(
        self,
        endpoint: Endpoint,
        options: TransportOptions,
        take_welcome: TakeWelcome,
        *,
        resume: ResumeTicket | None,
        turn: asyncio.Lock | None,
    ) -> None:
        """Connect and do the handshake; return when ``take_welcome`` has been called with a :class:`Welcomed`.

        Cancelling closes the connection, unless it has been handed over.

        :param resume: the session to resume.
        :param turn: a lock shared by concurrent dials: only the dial that holds it sends HELLO. After a WELCOME it
            stays locked. ``None`` for a dial without concurrent ones.
        :raises ConnectFailed: no connection or no WELCOME in time; :class:`Rejected` when the server refused.
        :raises ProtocolError: the peer is no landline server, or did not prove that it knows the token.
        :raises MissingExtra: the scheme needs a module that is not installed.
        :raises OSError: the address does not answer; :class:`UnicodeError` for an invalid host name.
        """
        handshake = ClientHandshake(
            random=self._random, auth=self.auth, identity=self.identity, limits=self._limits, resume=resume
        )
        link = _HandshakeLink(self, endpoint, handshake, take_welcome, turn)
        try:
            try:
                async with asyncio.timeout(self.timeouts.connect_s):
                    await load_transport(endpoint).connect(endpoint, lambda: link, options)
            except TimeoutError as error:
                raise ConnectFailed(f"no connection within {self.timeouts.connect_s:g} s") from error
            try:
                async with asyncio.timeout(self.timeouts.handshake_s):
                    await link.run_handshake()
            except TimeoutError as error:
                raise ConnectFailed(
                    f"no WELCOME within {self.timeouts.handshake_s:g} s; check that this is a landline server"
                ) from error
        finally:
            link.give_up()


class _HandshakeLink(LinkProtocol):
    """The protocol of a transport until the WELCOME; then the line's own protocol replaces it."""

    def __init__(
        self,
        dialer: Dialer,
        endpoint: Endpoint,
        handshake: ClientHandshake,
        take_welcome: TakeWelcome,
        turn: asyncio.Lock | None,
    ) -> None:
        self._dialer = dialer
        self._endpoint = endpoint
        self._handshake = handshake
        self._take_welcome = take_welcome
        self._turn = turn
        self._may_send_hello = turn is None
        # Set when the server has sent something, or never will.
        self._greeted = asyncio.Event()
        self._welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._hello_at = 0.0

    async def run_handshake(self) -> None:
        """Return when the server's WELCOME has been handed over; raise what came instead.

        Of concurrent dials only one at a time sends HELLO: after two HELLOs the server would resume the session on both
        connections. After a WELCOME the lock stays held, so that no other dial gets it.
        """
        turn = self._turn
        if turn is None:
            await self._welcomed
            return
        await self._greeted.wait()
        if self._welcomed.done():
            # The connection ended or was refused before its turn.
            self._welcomed.result()
            return
        await turn.acquire()
        try:
            self._may_send_hello = True
            self._send_hello()
            await self._welcomed
        except BaseException:
            # The answer to this HELLO must have no effect once another dial sends its own.
            self.give_up()
            turn.release()
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport, but are no subclasses of it.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or self._welcomed.done():
            return
        try:
            try:
                trailing_data = self._handshake.feed(data)
            except LandlineError:
                raise
            except Exception as error:
                # Only auth= runs the application's code here.
                raise ConnectFailed(f"auth= failed: {type(error).__name__}: {error}") from error
            finally:
                self._dialer.server_name = self._handshake.server_name
            self._greeted.set()
            if self._may_send_hello:
                self._send_hello()
            welcome = self._handshake.welcome
            if welcome is not None:
                round_trip_s = self._dialer.clock() - self._hello_at
                self._take_welcome(
                    Welcomed(
                        self._endpoint,
                        transport,
                        welcome,
                        self._handshake.limits,
                        round_trip_s,
                        trailing_data,
                    )
                )
                self._transport = None
                self._welcomed.set_result(None)
        except LandlineError as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError) and self._transport is not None and not self._welcomed.done():
            self._read_rejection(self._transport)
        self._fail(ConnectFailed(f"the connection ended during the handshake{f': {exc}' if exc else ''}"))

    def give_up(self) -> None:
        """Abort the transport unless it has been handed over, and discard the result of the handshake."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        if not self._welcomed.cancel() and not self._welcomed.cancelled():
            self._welcomed.exception()

    def _read_rejection(self, transport: asyncio.Transport) -> None:
        """Look for a REJECT in the data that had arrived when writing HELLO failed."""
        try:
            for data in read_arrived(transport):
                self._handshake.feed(data)
                if self._handshake.welcome is not None:
                    # The connection is lost, so this WELCOME is useless.
                    return
        except LandlineError as error:
            self._fail(error)

    def _send_hello(self) -> None:
        """Send HELLO if there is one, which is the case after the server's CHALLENGE."""
        output = self._handshake.data_to_send()
        if output and self._transport is not None:
            self._transport.write(output)
            self._hello_at = self._dialer.clock()

    def _fail(self, error: Exception) -> None:
        if not self._welcomed.done():
            self._welcomed.set_exception(error)
        self._greeted.set()


def reason_of(error: Exception) -> str:
    """Return why a dial failed, as part of a sentence; the operating system's text if there is one."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, FileNotFoundError):
        return "no such socket"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
