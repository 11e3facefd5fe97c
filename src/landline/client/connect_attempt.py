"""Attempts to connect a line over its endpoints.

The endpoints are the URLs given to :func:`landline.connect`, and those that a server names as alternatives when it goes
away. :mod:`landline.client.endpoint_selector` puts them in order; this module tries them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final, TypeAlias

import msgspec

from landline.client.dialer import Dialer, TakeWelcome, reason_of
from landline.client.endpoint_selector import EndpointSelector
from landline.client.happy_eyeballs import staggered_race
from landline.codes import Code
from landline.discovery.records import Discovery, MdnsTarget, load_discovery, select_server
from landline.errors import ConfigurationError, ConnectFailed, MissingExtra, ProtocolError, Rejected
from landline.line.line import Line, driver_of
from landline.runtime.guarded_log import guarded_logger
from landline.transports.base import ADDRESS_STAGGER_S
from landline.transports.options import TransportOptions
from landline.transports.urls import Endpoint, parse_url

logger: Final = guarded_logger("landline")

AnyEndpoint: TypeAlias = Endpoint | MdnsTarget
"""An address, or a name to look up with multicast DNS."""

_FATAL_CODES: Final = frozenset({Code.UNSUPPORTED_VERSION, Code.UNAUTHENTICATED})


class EndpointConnector:
    """Connects one line, as often as needed, and remembers which endpoints failed.

    :param endpoints: the preferred one first.
    :param stagger_s: after how many seconds the next endpoint is tried concurrently; ``None`` tries it only when the
        one before has failed.
    :param stable_after_s: how many seconds a link must last before its endpoint counts as working.
    :param discovery: looks up servers by name; by default multicast DNS, loaded when first needed.
    """

    def __init__(
        self,
        endpoints: Sequence[AnyEndpoint],
        dialer: Dialer,
        *,
        options: TransportOptions,
        stagger_s: float | None,
        stable_after_s: float,
        discovery: Discovery | None = None,
    ) -> None:
        self.endpoints: Sequence[AnyEndpoint] = endpoints
        """The endpoints of the next attempt, the preferred one first."""
        self._configured = endpoints
        self._dialer = dialer
        self._options = options
        self._stagger_s = stagger_s
        self._discovery = discovery
        self._selector: EndpointSelector[AnyEndpoint] = EndpointSelector(stable_after_s)

    async def connect_any(
        self, line: Line, take_welcome: TakeWelcome, *, is_first: bool
    ) -> ConnectFailed | None:
        """Try every usable endpoint until ``take_welcome`` has been called or the line is closed; then return ``None``.

        Return why all failed when another attempt may succeed.

        :param is_first: whether the line has never been connected. Until then an endpoint is unusable if something
            other than a landline server answers there.
        :raises Rejected: a server refused; no further endpoint was tried.
        :raises MissingExtra: every endpoint needs a package that is not installed.
        :raises ConfigurationError: every endpoint failed for a wrong argument.
        :raises ConnectFailed: no endpoint can work, and another attempt would be useless.
        :raises LandlineError: what ``take_welcome`` raises, such as a lost session.
        """
        endpoints = self._usable()
        is_alone = (self._stagger_s is None or len(endpoints) == 1) and not any(
            isinstance(endpoint, MdnsTarget) for endpoint in endpoints
        )
        attempt = _Attempt(line, take_welcome, is_first=is_first, turn=None if is_alone else asyncio.Lock())
        dials = [partial(self._try_endpoint, endpoint, attempt) for endpoint in endpoints]
        if await staggered_race(dials, self._stagger_s):
            return None
        if attempt.rejected is not None:
            raise attempt.rejected
        failed = ConnectFailed(self._selector.failure_reasons(self.endpoints))
        failed.__cause__ = attempt.failures[-1]
        if not self._usable():
            if all(isinstance(failure, ConfigurationError | MissingExtra) for failure in attempt.failures):
                raise attempt.failures[-1]
            raise failed
        return failed

    def receive_lost(self, detail: str) -> None:
        """Record that the current link broke without a goodbye."""
        self._selector.receive_lost(self._dialer.clock(), detail)

    def prefer_alternatives(self, alternatives: Sequence[str]) -> None:
        """Put the URLs that the server named before the configured ones.

        A URL without encryption is used only if a configured one has none either; a unix socket does not count, because
        it stays on this machine.
        """
        if not alternatives:
            return
        accepted: list[AnyEndpoint] = []
        for url in alternatives:
            try:
                endpoint = parse_url(url)
                check_carries_lines(endpoint)
            except ConfigurationError as error:
                logger.warning("the server named an alternative that cannot be used: %s", error)
                continue
            if _is_exposed(endpoint) and not any(_is_exposed(own) for own in self._configured):
                logger.warning(
                    "the server named the alternative %s, which is not encrypted; ignored", endpoint
                )
                continue
            accepted.append(endpoint)
        self.endpoints = accepted + [endpoint for endpoint in self._configured if endpoint not in accepted]
        self._selector.reset()

    def _usable(self) -> list[AnyEndpoint]:
        return self._selector.order(self.endpoints, self._dialer.clock())

    async def _try_endpoint(self, endpoint: AnyEndpoint, attempt: _Attempt) -> bool:
        """Try one endpoint. Record a failure that says nothing about the others; raise any other. Return whether the
        attempt is over, which it is too when the line was closed.
        """
        if attempt.line.is_closed:
            return True
        if attempt.rejected is not None:
            return False
        failure: Exception
        is_unusable = False
        try:
            if isinstance(endpoint, MdnsTarget):
                await self._dial_discovered(endpoint, attempt)
            else:
                await self._dial(endpoint, self._options, attempt)
        except Rejected as error:
            if not error.code.may_return:
                raise
            attempt.rejected = failure = error
        except (ConfigurationError, MissingExtra) as error:
            failure, is_unusable = error, True
        except ProtocolError as error:
            # While a server restarts, something else may answer in its place (an error page of a proxy, another
            # program). That is no reason to drop an endpoint that has worked.
            failure, is_unusable = error, attempt.is_first or error.code in _FATAL_CODES
        except (OSError, UnicodeError) as error:
            failure = error
        else:
            self._selector.receive_connected(endpoint, self._dialer.clock())
            return True
        attempt.failures.append(failure)
        reason = reason_of(failure)
        if self._selector.receive_failed(endpoint, self._dialer.clock(), reason, is_unusable=is_unusable):
            log = logger.warning if len(self.endpoints) > 1 else logger.debug
            log("%s cannot be used: %s", endpoint, reason)
        return False

    async def _dial_discovered(self, target: MdnsTarget, attempt: _Attempt) -> None:
        """Look a server up by name and try its addresses concurrently; raise why none sent its WELCOME.

        The answer says where to connect, not whom to trust: the certificate must be valid for the name.
        """
        discovery = self._discovery or load_discovery()
        name, endpoints = select_server(
            target, await discovery.search(self._dialer.timeouts.search_s, target)
        )
        options = self._options
        if not options.server_name:
            options = msgspec.structs.replace(options, server_name=name)
        failures: list[tuple[Endpoint, Exception]] = []

        async def try_address(endpoint: Endpoint) -> bool:
            if failures and isinstance(failures[-1][1], Rejected):
                return False
            try:
                await self._dial(endpoint, options, attempt)
            except (ConfigurationError, MissingExtra, ProtocolError, OSError, UnicodeError) as error:
                failures.append((endpoint, error))
                return False
            return True

        if not await staggered_race(
            [partial(try_address, endpoint) for endpoint in endpoints], ADDRESS_STAGGER_S
        ):
            for _, error in failures:
                if isinstance(error, Rejected) or (len(failures) == 1 and isinstance(error, ProtocolError)):
                    raise error
            raise ConnectFailed(
                "; ".join(f"{endpoint}: {reason_of(error)}" for endpoint, error in failures)
            ) from failures[-1][1]

    async def _dial(self, endpoint: Endpoint, options: TransportOptions, attempt: _Attempt) -> None:
        session = driver_of(attempt.line).session
        await self._dialer.dial(
            endpoint,
            options,
            attempt.take_welcome,
            resume=session.ticket if session is not None else None,
            turn=attempt.turn,
        )


class _Attempt:
    """One attempt over all usable endpoints."""

    __slots__ = ("failures", "is_first", "line", "rejected", "take_welcome", "turn")

    def __init__(
        self, line: Line, take_welcome: TakeWelcome, *, is_first: bool, turn: asyncio.Lock | None
    ) -> None:
        self.line = line
        self.take_welcome = take_welcome
        self.is_first = is_first
        self.turn = turn
        """Held by the one dial that may send HELLO; ``None`` when no dials run concurrently."""
        self.failures: list[Exception] = []
        self.rejected: Rejected | None = None
        """A server refused and said when to return: no further endpoint is tried."""


def check_carries_lines(endpoint: Endpoint) -> None:
    """Raise :class:`ConfigurationError` for a scheme without connections."""
    if endpoint.is_connectionless:
        raise ConfigurationError(
            f"{endpoint} carries single calls (landline.call()) and no lines; use another scheme, such as tls://"
        )


def _is_exposed(endpoint: AnyEndpoint) -> bool:
    """Return whether others on a network can read what is sent there."""
    return not endpoint.is_encrypted and endpoint.scheme != "unix"
