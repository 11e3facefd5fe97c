"""The interfaces between a line and its transport, and what several transports share.

A transport module offers ``connect`` and ``listen`` with the signatures of :class:`TransportModule`. It is imported
when its :class:`~landline.transports.urls.Scheme` is first used. A transport sees a line as a :class:`LinkProtocol`;
a line sees a transport as an :class:`asyncio.Transport`, which may also be a :class:`DatagramTransport`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Final, Protocol, cast, runtime_checkable

from landline.errors import AddressInUse, MissingExtra
from landline.runtime.turns import HELD_BYTES_MAX
from landline.transports.options import TransportOptions
from landline.transports.urls import SCHEMES, Endpoint

ADDRESS_STAGGER_S: Final = 0.25
"""Delay before the next address of a host is tried in parallel (Connection Attempt Delay, RFC 8305 §5)."""

SUBPROTOCOL: Final = "landline.1"
"""The WebSocket subprotocol that carries version 1 of the protocol (docs/protocol.md §2.4)."""

MESSAGE_BYTES_MAX: Final = 128 * 1024
"""The longest WebSocket message that is accepted or sent (docs/protocol.md §2.4)."""

LISTEN_BACKLOG: Final = 4096
"""How many connections the kernel may queue before they are accepted: a whole fleet that reconnects at once."""
ACCEPTS_PER_WAKEUP: Final = 1
"""The backlog that event loops are given. asyncio calls ``accept()`` that often per wake-up, even when no file
descriptor is left, and logs and schedules a retry each time: 4096 would be tens of thousands of log lines a second."""


class Listener(Protocol):
    """A listening socket."""

    @property
    def endpoint(self) -> Endpoint:
        """The address it listens on. For port 0 it has the port that the system chose."""
        ...

    def close(self) -> None:
        """Stop listening at once. Accepted transports stay open."""
        ...


class LinkProtocol(asyncio.Protocol):
    """The protocol of a transport: any protocol that replaces it later is of this class too."""

    __slots__ = ()

    def datagram_received(self, data: bytes) -> None:
        """Receive a datagram outside the stream, which the peer passed to :meth:`DatagramTransport.send_datagram`.

        Only transports that carry datagrams call it. This default drops the datagram: one that overtakes the handshake,
        or follows the last byte of the stream, has no receiver.
        """


class DatagramTransport(Protocol):
    """The methods of a transport that carries datagrams, in addition to those of :class:`asyncio.Transport`.

    A line looks for these methods by name. Without them, and for a datagram longer than ``datagram_bytes_max``, it
    writes a frame into the stream. A datagram belongs to its transport: it must not reach the protocol of another
    transport between the same two programs. A few datagrams may wait until the network accepts them; further ones are
    dropped.
    """

    @property
    def datagram_bytes_max(self) -> int:
        """The longest datagram, in bytes, that can be sent now; 0 if the peer accepts none."""
        ...

    def send_datagram(self, data: bytes) -> bool:
        """Send the body of a DATAGRAM frame (docs/protocol.md §5.7) at most once, without waiting.

        Return whether it was sent. Whether it arrives stays unknown.
        """
        ...


@runtime_checkable
class SupportsWaitClosed(Protocol):
    """A listener whose socket the event loop closes in a later iteration, as it does with datagram sockets."""

    async def wait_closed(self) -> None:
        """Return when the address is free again, after ``close()``."""


ProtocolFactory = Callable[[], LinkProtocol]


class TransportModule(Protocol):
    """The functions of a module that a :class:`Scheme` names."""

    async def connect(
        self, endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions
    ) -> None:
        """Connect a new protocol to the endpoint. Cancelling closes the socket.

        :raises OSError: if no server answers.
        """

    async def listen(
        self, endpoint: Endpoint, protocol_factory: ProtocolFactory, options: TransportOptions
    ) -> Listener:
        """Listen on the endpoint; every accepted transport gets a new protocol.

        :raises landline.AddressInUse: if the address is in use.
        :raises OSError: if the system refuses for another reason.
        """
        ...


@contextmanager
def describe_address_in_use(endpoint: Endpoint) -> Iterator[None]:
    """Raise ``EADDRINUSE`` as :class:`landline.AddressInUse`, with a text that names the endpoint."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EADDRINUSE or isinstance(error, AddressInUse):
            raise
        raise AddressInUse(
            error.errno,
            f"{endpoint} is already in use by another program; stop that program or choose another port",
        ) from error


def pause_reading_if_backlogged(transport: asyncio.Transport, held_bytes: int) -> None:
    """Pause a transport of which ``held_bytes`` wait to be handled, until ``resume_reading()``.

    A TLS transport is paused only when many bytes wait: uvloop discards what it has not yet decrypted if the peer
    closes in the meantime.
    """
    if held_bytes > HELD_BYTES_MAX or transport.get_extra_info("ssl_object") is None:
        transport.pause_reading()


def set_listen_backlog(listening_descriptor: int) -> None:
    """Let the kernel queue :data:`LISTEN_BACKLOG` connections of a socket on which an event loop listens."""
    with socket.socket(fileno=os.dup(listening_descriptor)) as same:
        same.listen(LISTEN_BACKLOG)


def load_transport(endpoint: Endpoint) -> TransportModule:
    """Return the module that carries lines of the endpoint's scheme.

    :raises MissingExtra: as :func:`load_module` does.
    """
    return cast(TransportModule, load_module(endpoint))


def load_module(endpoint: Endpoint) -> ModuleType:
    """Import and return the module of the endpoint's scheme.

    :raises MissingExtra: if a package that the module needs is not installed.
    """
    scheme = SCHEMES[endpoint.scheme]
    try:
        return import_module(scheme.module)
    except ModuleNotFoundError as error:
        if not scheme.extra:
            raise
        raise MissingExtra(f"{endpoint.scheme}://", scheme.extra) from error
