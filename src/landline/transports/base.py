"""What a transport module offers, and what a transport and its user owe each other.

A transport module offers ``connect`` and ``listen`` with the signatures of :class:`TransportModule`; it is loaded
when its :class:`~landline.transports.urls.Scheme` is first used. To a transport, a line is a :class:`LinkProtocol`;
to a line, a transport is an :class:`asyncio.Transport`, which may be a :class:`DatagramTransport` as well.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Final, Protocol, cast, runtime_checkable

from landline.errors import ConfigurationError
from landline.runtime.turns import HELD_BYTES_MAX
from landline.transports.options import TransportOptions
from landline.transports.urls import SCHEMES, Endpoint

ADDRESS_STAGGER_S: Final = 0.25
"""When the next address of one host is tried beside the one before (RFC 8305 §5)."""

SUBPROTOCOL: Final = "landline.1"
"""Says that the messages of a WebSocket carry version 1 of the protocol (docs/protocol.md §2.4)."""

MESSAGE_BYTES_MAX: Final = 128 * 1024
"""The longest message of a WebSocket that is taken, and sent (docs/protocol.md §2.4)."""


LISTEN_BACKLOG: Final = 4096
"""How many connections the kernel may hold until they are accepted: a whole fleet that comes back at once."""
ACCEPTS_PER_WAKEUP: Final = 1
"""What event loops are told instead. asyncio's tries that often in one go, even when no file descriptor is left, and
logs and schedules something each time: 4096 would be tens of thousands of lines a second."""


class Listener(Protocol):
    """A listening socket."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens, with the port the system chose if 0 was asked for."""
        ...

    def close(self) -> None:
        """Stops listening at once. Accepted transports go on."""
        ...


class LinkProtocol(asyncio.Protocol):
    """What a transport calls, which stays a protocol of this class however often it is replaced."""

    __slots__ = ()

    def datagram_received(self, data: bytes) -> None:
        """A datagram came outside of the stream: what the peer gave to :meth:`DatagramTransport.send_datagram`.

        For transports that carry datagrams. One that overtakes the handshake, or comes behind the last byte, finds
        nobody who knows what to do with it, and is dropped here.
        """


class DatagramTransport(Protocol):
    """What a transport has beside the methods of :class:`asyncio.Transport` if it carries datagrams of its own.

    A line looks for it by name. Without, and for a datagram above ``datagram_bytes_max``, it writes a frame into the
    stream. A datagram belongs to its transport: it must not reach a protocol of another one between the same two
    programs. A few may wait until the network takes them; what would have to wait longer is dropped.
    """

    @property
    def datagram_bytes_max(self) -> int:
        """The largest datagram that is carried just now; 0 where the peer takes none."""
        ...

    def send_datagram(self, data: bytes) -> bool:
        """Sends the body of a DATAGRAM frame (docs/protocol.md §5.7) once, without waiting.

        Returns whether it was sent; nobody learns whether it arrived.
        """
        ...


@runtime_checkable
class SupportsWaitClosed(Protocol):
    """A listener whose socket the event loop closes in a later turn, as it does with datagrams'."""

    async def wait_closed(self) -> None:
        """Returns when the address is free again, after ``close()``."""


ProtocolFactory = Callable[[], LinkProtocol]


class TransportModule(Protocol):
    """What the module of a :class:`Scheme` offers."""

    async def connect(
        self, endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions
    ) -> None:
        """Connects a new protocol. Raises :class:`OSError` when nobody answers; cancelling closes the socket."""

    async def listen(
        self, endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions
    ) -> Listener:
        """Listens, giving every accepted transport a new protocol.

        Raises :class:`landline.AddressInUse` when the address is taken, :class:`OSError` for other troubles.
        """
        ...


def pause_reading_if_backlogged(transport: asyncio.Transport, held_bytes: int) -> None:
    """Stops reading a transport of which ``held_bytes`` wait to be handled, until ``resume_reading()``.

    One with TLS only when much waits: uvloop forgets what it has not decrypted yet when the peer closes meanwhile.
    """
    if held_bytes > HELD_BYTES_MAX or transport.get_extra_info("ssl_object") is None:
        transport.pause_reading()


def set_listen_backlog(listening_descriptor: int) -> None:
    """Lets the kernel hold :data:`LISTEN_BACKLOG` connections of a socket that an event loop listens on."""
    with socket.socket(fileno=os.dup(listening_descriptor)) as same:
        same.listen(LISTEN_BACKLOG)


def load_transport(endpoint: Endpoint) -> TransportModule:
    """The module that carries lines of this scheme. Raises :class:`ConfigurationError` as :func:`load_module` does."""
    return cast(TransportModule, load_module(endpoint))


def load_module(endpoint: Endpoint) -> ModuleType:
    """The module of this scheme. Raises :class:`ConfigurationError` when what it needs is not installed."""
    scheme = SCHEMES[endpoint.scheme]
    try:
        return import_module(scheme.module)
    except ModuleNotFoundError as error:
        if not scheme.extra:
            raise
        raise ConfigurationError(
            f"{endpoint.scheme}:// needs more than the library alone: pip install 'landline[{scheme.extra}]'"
        ) from error
