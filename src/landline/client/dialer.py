"""Dialing: one connection to one address, and the handshake over it, up to a server's welcome.

A dial knows no line. Its welcome is handed over inside the callback of the transport in which it came, because the
bytes behind it belong to the session already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

import msgspec

from landline.errors import ConfigurationError, ConnectFailed, LandlineError
from landline.line.line import Line
from landline.session.auth import IDENTITY_BYTES_MAX, ClientAuth
from landline.session.handshake import (
    HANDSHAKE_TIMEOUT_S,
    ClientHandshake,
    Limits,
    RandomSource,
    ResumeTicket,
    Welcome,
)
from landline.session.outbound import SendBuffer
from landline.session.session import Session
from landline.transports.base import LinkProtocol, load_transport
from landline.transports.linger import read_arrived
from landline.transports.options import TransportOptions
from landline.transports.urls import Endpoint

CONNECT_TIMEOUT_S: Final = 10.0


class Welcomed(msgspec.Struct, frozen=True):
    """A connection whose server has welcomed us."""

    endpoint: Endpoint
    transport: asyncio.Transport
    welcome: Welcome
    limits: Limits
    """Ours, as the server was told."""
    round_trip_s: float
    """Of HELLO and WELCOME, in seconds."""
    rest: bytes
    """What came behind the welcome."""

    def new_session(self, send_buffer: SendBuffer) -> Session:
        """The session the server began with us. Not for a welcome that says ``resumed``."""
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
        """Puts the line's session onto the connection. Raises as :meth:`landline.Line.attach` does."""
        line.attach(
            session,
            self.transport,
            epoch=self.welcome.epoch,
            peer_received=self.welcome.received if self.welcome.resumed else 0,
            phase=phase,
            resumed=self.welcome.resumed,
            round_trip_s=self.round_trip_s,
            rest=self.rest,
        )


TakeWelcome = Callable[[Welcomed], None]
"""What it raises as a :class:`LandlineError` is why the dial failed after all."""


class Dialer:
    """Dials for one client.

    :param identity: who the client says it is, 200 bytes at most.
    :raises ConfigurationError: for an identity that no handshake has room for.
    """

    def __init__(
        self,
        *,
        auth: ClientAuth,
        identity: str,
        limits: Limits,
        clock: Callable[[], float],
        random: RandomSource,
    ) -> None:
        size = len(identity.encode())
        if size > IDENTITY_BYTES_MAX:
            raise ConfigurationError(f"an identity of {size} bytes; {IDENTITY_BYTES_MAX} are allowed")
        self.auth = auth
        self.identity = identity
        self.clock = clock
        self._limits = limits
        self._random = random
        self.server_name = ""
        """What the server calls itself, as soon as it said so; also that of one that refused us."""

    async def dial(
        self,
        endpoint: Endpoint,
        options: TransportOptions,
        take_welcome: TakeWelcome,
        *,
        resume: ResumeTicket | None,
        turn: asyncio.Lock | None,
    ) -> None:
        """Returns once ``take_welcome`` was called with a :class:`Welcomed`, and raises why it was not.

        Cancelling drops the connection, unless it was handed over.

        :param resume: the session to go on with.
        :param turn: what several dials at the same time have in common: only the one that holds it says HELLO. After a
            welcome it stays held. ``None`` for a dial that has no others beside it.
        :raises ConnectFailed: not connected, or not welcomed, in time; :class:`Rejected` when the server refused.
        :raises ProtocolError: it is no landline server, or did not prove that it knows the token.
        :raises ConfigurationError: a module is missing.
        :raises OSError: nobody answers; :class:`UnicodeError` for a host that cannot be one.
        """
        handshake = ClientHandshake(
            random=self._random, auth=self.auth, identity=self.identity, limits=self._limits, resume=resume
        )
        link = _HandshakeLink(self, endpoint, handshake, take_welcome, turn)
        try:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await load_transport(endpoint).connect(endpoint, lambda: link, options)
            except TimeoutError as error:
                raise ConnectFailed(f"no connection within {CONNECT_TIMEOUT_S:g} s") from error
            try:
                async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                    await link.shake_hands()
            except TimeoutError as error:
                raise ConnectFailed(
                    f"no welcome within {HANDSHAKE_TIMEOUT_S:g} s; is it a landline server?"
                ) from error
        finally:
            link.give_up()


class _HandshakeLink(LinkProtocol):
    """The protocol of a transport until it is welcomed; then the line's own takes its place."""

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
        self._may_speak = turn is None
        # The server spoke, or never will.
        self._greeted = asyncio.Event()
        self._welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._hello_at = 0.0

    async def shake_hands(self) -> None:
        """Returns once the server's welcome was handed over; raises what came instead.

        Of several dials only the one whose turn it is says HELLO: were it said on two, the server would resume the
        session on both. After a welcome the turn is kept, so that none of the others gets it.
        """
        turn = self._turn
        if turn is None:
            await self._welcomed
            return
        await self._greeted.wait()
        if self._welcomed.done():
            # It ended or was refused before its turn.
            self._welcomed.result()
            return
        await turn.acquire()
        try:
            self._may_speak = True
            self._say_hello()
            await self._welcomed
        except BaseException:
            # Nothing must come of this HELLO any more when the next one is said.
            self.give_up()
            turn.release()
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.Transport, but have all its methods.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or self._welcomed.done():
            return
        try:
            try:
                rest = self._handshake.feed(data)
            except LandlineError:
                raise
            except Exception as error:
                # Only auth= runs code that is not ours in there.
                raise ConnectFailed(f"auth= failed: {type(error).__name__}: {error}") from error
            finally:
                self._dialer.server_name = self._handshake.server_name
            self._greeted.set()
            if self._may_speak:
                self._say_hello()
            welcome = self._handshake.welcome
            if welcome is not None:
                round_trip_s = self._dialer.clock() - self._hello_at
                self._take_welcome(
                    Welcomed(self._endpoint, transport, welcome, self._handshake.limits, round_trip_s, rest)
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
        """Drops the transport unless it was handed over. Nobody waits for the welcome any more."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        if not self._welcomed.cancel() and not self._welcomed.cancelled():
            self._welcomed.exception()

    def _read_rejection(self, transport: asyncio.Transport) -> None:
        """Looks for a REJECT in what had arrived before HELLO could not be written."""
        try:
            for data in read_arrived(transport):
                self._handshake.feed(data)
                if self._handshake.welcome is not None:
                    # Nothing can come of it.
                    return
        except LandlineError as error:
            self._fail(error)

    def _say_hello(self) -> None:
        """Sends HELLO if there is one, which is after the server's CHALLENGE."""
        output = self._handshake.data_to_send()
        if output and self._transport is not None:
            self._transport.write(output)
            self._hello_at = self._dialer.clock()

    def _fail(self, error: Exception) -> None:
        if not self._welcomed.done():
            self._welcomed.set_exception(error)
        self._greeted.set()


def reason_of(error: Exception) -> str:
    """Why a dial failed, as part of a sentence; the system's text where there is one."""
    if isinstance(error, ConnectionRefusedError):
        return "nobody answers (connection refused)"
    if isinstance(error, FileNotFoundError):
        return "no such socket"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
