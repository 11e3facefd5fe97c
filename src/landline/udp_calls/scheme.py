"""The interface of modules for connectionless schemes, and how they are loaded."""

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
    """The functions of a module for a connectionless scheme, such as :mod:`landline.udp_calls.sockets`."""

    async def call(
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
        """Call a handler, at most once, and return its reply."""
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
        """Listen for calls and answer them."""
        ...


def load_call_module(endpoint: Endpoint) -> CallModule:
    """Return the module that carries calls of the endpoint's scheme.

    :raises landline.MissingExtra: if a package that the module needs is not installed.
    """
    return cast(CallModule, load_module(endpoint))
