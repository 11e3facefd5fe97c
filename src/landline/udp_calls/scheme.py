"""What the module of a connectionless scheme offers, and how it is found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from landline.transports.base import Listener, load_module
from landline.transports.urls import Endpoint
from landline.udp_calls import CallCounts

if TYPE_CHECKING:
    from landline.line.handlers import Handlers
    from landline.session.handshake import RandomSource
    from landline.udp_calls.wire import Reply


class CallModule(Protocol):
    """What the module of a connectionless scheme offers, such as :mod:`landline.udp_calls.sockets`."""

    async def ask(
        self,
        endpoint: Endpoint,
        name: str,
        body: bytes,
        *,
        is_packed: bool,
        identity: str,
        auth: object,
        timeout_s: float,
    ) -> Reply:
        """Calls a handler, at most once."""
        ...

    async def listen(
        self,
        endpoint: Endpoint,
        *,
        handlers: Handlers,
        auth: object,
        random: RandomSource,
        clock: Callable[[], float],
        counts: CallCounts,
        tasks: set[asyncio.Task[None]],
    ) -> Listener:
        """Answers calls."""
        ...


def load_call_module(endpoint: Endpoint) -> CallModule:
    """The module that carries calls of this scheme. Raises :class:`landline.MissingExtra` as ``load`` does."""
    return cast(CallModule, load_module(endpoint))
