"""Attempts to connect a line: over which roads each goes, and what comes of it.

A road is a URL that was given, or one the server named when it went. Which of them is the best is for
:mod:`landline.client.endpoint_selector` to say; here they are tried.
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
from landline.discovery.records import SEARCH_S, MdnsTarget, choose, load_discovery
from landline.errors import ConfigurationError, ConnectFailed, ProtocolError, Rejected
from landline.line.line import Line
from landline.runtime.guarded_log import guarded_logger
from landline.transports.base import ADDRESS_STAGGER_S
from landline.transports.options import TransportOptions
from landline.transports.urls import Endpoint, parse_url

logger = guarded_logger("landline")

Road: TypeAlias = Endpoint | MdnsTarget

_FATAL_CODES: Final = frozenset({Code.UNSUPPORTED_VERSION, Code.UNAUTHENTICATED})


class AttemptFailed(msgspec.Struct, frozen=True):
    """No road led to a welcome; the next attempt may find one."""

    detail: str
    """Names each road with its reason."""
    error: Exception


class EndpointConnector:
    """Connects one line, as often as it is asked to, and learns from each attempt for the next.

    :param roads: the best first.
    :param stagger_s: after how many seconds the next road is begun beside the one before; ``None`` waits for its end.
    :param stable_after_s: how long a link must stay up to prove that its road carries one.
    """

    def __init__(
        self,
        roads: Sequence[Road],
        dialer: Dialer,
        *,
        options: TransportOptions,
        stagger_s: float | None,
        stable_after_s: float,
    ) -> None:
        self.roads = roads
        """What the next attempt chooses from, the best first."""
        self._given = roads
        self._dialer = dialer
        self._options = options
        self._stagger_s = stagger_s
        self._past: EndpointSelector[Road] = EndpointSelector(stable_after_s)

    async def make(self, line: Line, take_welcome: TakeWelcome, *, may_close: bool) -> AttemptFailed | None:
        """Tries every road worth it until ``take_welcome`` was called, or the line is closed; then returns ``None``.

        :param may_close: whether who answers and is no landline server closes a road: before the line has worked.
        :raises Rejected: a server refused; no further road was begun.
        :raises LandlineError: what makes going on useless, such as a session that ``take_welcome`` found lost.
        """
        roads = self._worth_trying()
        is_alone = (self._stagger_s is None or len(roads) == 1) and not any(
            isinstance(road, MdnsTarget) for road in roads
        )
        attempt = _Attempt(line, take_welcome, may_close=may_close, turn=None if is_alone else asyncio.Lock())
        if await staggered_race([partial(self._try_road, road, attempt) for road in roads], self._stagger_s):
            return None
        if attempt.rejected is not None:
            raise attempt.rejected
        failed = self._explain(attempt)
        if not self._worth_trying():
            if len(self.roads) == 1:
                raise failed.error
            raise ConnectFailed(f"no road works: {failed.detail}")
        return failed

    def receive_lost(self, detail: str) -> None:
        """The link the last attempt led to broke, and nobody had said goodbye."""
        self._past.receive_lost(self._dialer.clock(), detail)

    def try_first(self, alternatives: Sequence[str]) -> None:
        """The server named others that can take us: they go before the URLs we were given.

        One that would give up encryption where none of our own does is not followed; a unix socket is on this machine.
        """
        if not alternatives:
            return
        named: list[Road] = []
        for url in alternatives:
            try:
                endpoint = parse_url(url)
                check_carries_lines(endpoint)
            except ConfigurationError as error:
                logger.warning("the server named an alternative that cannot be used: %s", error)
                continue
            if _is_exposed(endpoint) and not any(_is_exposed(own) for own in self._given):
                logger.warning("the server named %s, which is not encrypted; not followed", endpoint)
                continue
            named.append(endpoint)
        self.roads = named + [road for road in self._given if road not in named]
        self._past.forget()

    def _worth_trying(self) -> list[Road]:
        return self._past.order(self.roads, self._dialer.clock())

    def _explain(self, attempt: _Attempt) -> AttemptFailed:
        detail = self._past.reasons(self.roads)
        [*_, last] = attempt.failures
        if len(self.roads) == 1:
            return AttemptFailed(detail, last)
        error = ConnectFailed(detail)
        error.__cause__ = last
        return AttemptFailed(detail, error)

    async def _try_road(self, road: Road, attempt: _Attempt) -> bool:
        """Tries one road; whatever only says that it leads nowhere is recorded. A closed line needs none."""
        if attempt.line.is_closed:
            return True
        if attempt.rejected is not None:
            return False
        failure: Exception
        is_closed = False
        try:
            if isinstance(road, MdnsTarget):
                await self._dial_announced(road, attempt)
            else:
                await self._dial(road, self._options, attempt)
        except Rejected as error:
            if not error.code.may_return:
                raise
            attempt.rejected = failure = error
        except ConfigurationError as error:
            failure, is_closed = error, True
        except ProtocolError as error:
            # Whoever answers in the server's place while it restarts (a proxy's error page, another program)
            # is no reason to give up a road that has worked.
            failure, is_closed = error, attempt.may_close or error.code in _FATAL_CODES
        except (ConnectFailed, OSError, UnicodeError) as error:
            failure = error
        else:
            self._past.receive_connected(road, self._dialer.clock())
            return True
        attempt.failures.append(failure)
        reason = reason_of(failure)
        if self._past.receive_failed(road, self._dialer.clock(), reason, is_closed=is_closed):
            log = logger.warning if len(self.roads) > 1 else logger.debug
            log("%s cannot be used: %s", road, reason)
        return False

    async def _dial_announced(self, road: MdnsTarget, attempt: _Attempt) -> None:
        """Looks for an announced server and tries its addresses beside each other; raises why none led to a welcome.

        What is announced says where to go, not who is there: the certificate must be valid for the name.
        """
        name, endpoints = choose(road, await load_discovery().search(SEARCH_S, road))
        options = self._options
        if not options.server_name:
            options = msgspec.structs.replace(options, server_name=name)
        failures: list[tuple[Endpoint, Exception]] = []

        async def try_address(endpoint: Endpoint) -> bool:
            if failures and isinstance(failures[-1][1], Rejected):
                return False
            try:
                await self._dial(endpoint, options, attempt)
            except (ConnectFailed, ConfigurationError, ProtocolError, OSError, UnicodeError) as error:
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
        session = attempt.line.session
        await self._dialer.dial(
            endpoint,
            options,
            attempt.take_welcome,
            resume=session.ticket if session is not None else None,
            turn=attempt.turn,
        )


class _Attempt:
    """One attempt, over as many roads as there are."""

    __slots__ = ("failures", "line", "may_close", "rejected", "take_welcome", "turn")

    def __init__(
        self, line: Line, take_welcome: TakeWelcome, *, may_close: bool, turn: asyncio.Lock | None
    ) -> None:
        self.line = line
        self.take_welcome = take_welcome
        self.may_close = may_close
        self.turn = turn
        """Held by the one dial that may say HELLO; ``None`` while there is no other at the same time."""
        self.failures: list[Exception] = []
        self.rejected: Rejected | None = None
        """A server refused and said when to come back: no further road is begun."""


def check_carries_lines(endpoint: Endpoint) -> None:
    """Raises :class:`ConfigurationError` for a scheme without connections."""
    if endpoint.is_connectionless:
        raise ConfigurationError(
            f"{endpoint} carries single calls, landline.call(), and no lines: a line needs tls:// or quic://, say"
        )


def _is_exposed(road: Road) -> bool:
    """Whether others on a network can read what goes there."""
    return not road.is_encrypted and road.scheme != "unix"
