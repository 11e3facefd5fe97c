"""Transports by URL scheme: bytes in, bytes out.

A transport module offers ``connect`` and ``listen`` with the signatures of :class:`TransportModule`; it is loaded
when its :class:`Scheme` is first used. To a transport, a line is a :class:`LinkProtocol`; to a line, a transport is
an :class:`asyncio.Transport`, which may be a :class:`DatagramTransport` as well.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType, NoneType
from typing import Final, Protocol, cast, runtime_checkable
from urllib.parse import SplitResult, urlsplit

import msgspec

from landline.errors import ConfigurationError
from landline.turns import HELD_BYTES_MAX

DEFAULT_PORT: Final = 5463
"""LINE on a telephone keypad."""

ADDRESS_STAGGER_S: Final = 0.25
"""When the next address of one host is tried beside the one before (RFC 8305 §5)."""

SUBPROTOCOL: Final = "landline.1"
"""Says that the messages of a WebSocket carry version 1 of the protocol (docs/protocol.md §2.4)."""

MESSAGE_BYTES_MAX: Final = 128 * 1024
"""The longest message of a WebSocket that is taken, and sent (docs/protocol.md §2.4)."""


class Scheme(msgspec.Struct, frozen=True):
    """What the first part of a URL stands for."""

    module: str
    is_encrypted: bool = False
    default_port: int = DEFAULT_PORT
    has_path: bool = False
    """Whether a path may stand behind host and port."""
    extra: str = ""
    """The extra of the package that brings what the module imports."""
    is_connectionless: bool = False
    """Whether it carries single calls and no lines."""


SCHEMES: Final = {
    "tcp": Scheme("landline.transports.tcp"),
    "tls": Scheme("landline.transports.tcp", is_encrypted=True),
    "unix": Scheme("landline.transports.unix"),
    "ws": Scheme("landline.transports.websocket", default_port=80, has_path=True, extra="ws"),
    "wss": Scheme(
        "landline.transports.websocket", is_encrypted=True, default_port=443, has_path=True, extra="ws"
    ),
    "quic": Scheme("landline.transports.quic", is_encrypted=True, extra="quic"),
    "udp": Scheme("landline.datagrams.udp", extra="udp", is_connectionless=True),
}

BACKLOG: Final = 4096
"""How many connections the kernel may hold until they are accepted: a whole fleet that comes back at once."""
ACCEPTS_AT_ONCE: Final = 1
"""What event loops are told instead. asyncio's tries that often in one go, even when no file descriptor is left, and
logs and schedules something each time: 4096 would be tens of thousands of lines a second."""


class Endpoint(msgspec.Struct, frozen=True):
    """An address of a server, as parsed from its URL."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def schemes(self) -> frozenset[str]:
        """The schemes it may stand for: its own."""
        return frozenset({self.scheme})

    @property
    def is_encrypted(self) -> bool:
        """Whether nobody on the way can read or change what is said."""
        return SCHEMES[self.scheme].is_encrypted

    @property
    def is_connectionless(self) -> bool:
        """Whether it takes single calls (:func:`landline.call`) and no lines."""
        return SCHEMES[self.scheme].is_connectionless


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
class ClosesLater(Protocol):
    """A listener whose socket the event loop closes in a later turn, as it does with datagrams'."""

    async def wait_closed(self) -> None:
        """Returns when the address is free again, after ``close()``."""


ProtocolFactory = Callable[[], LinkProtocol]


class TransportOptions(msgspec.Struct, frozen=True):
    """What a transport may need beyond its address.

    An option that applies to none of the URLs it is given with, and a file that cannot be used, raise
    :class:`ConfigurationError` where they are given: in :func:`landline.connect`, :func:`landline.call` and
    :meth:`landline.Server.listen`.
    """

    tls: ssl.SSLContext | None = None
    """For ``tls://`` and ``wss://``: a context of your own, in place of the files. QUIC cannot use one."""
    server_name: str = ""
    """Encrypted schemes, clients: the name for which the server's certificate must be valid; by default the host of the
    URL."""
    certificate_file: str | os.PathLike[str] | None = None
    """Encrypted schemes, servers: the certificate, and those that vouch for it after it, as PEM."""
    private_key_file: str | os.PathLike[str] | None = None
    """Encrypted schemes, servers: the certificate's key as PEM, without a password. ``None`` where it stands in the
    file of the certificate."""
    ca_file: str | os.PathLike[str] | None = None
    """Encrypted schemes, clients: the only authorities that may vouch for servers, as PEM. ``None`` stands for those
    the system trusts (for QUIC, where there are none, those of certifi)."""
    user_timeout_s: float = 15.0
    """``tcp://``, ``tls://``, ``ws://`` and ``wss://``: sets ``TCP_USER_TIMEOUT`` (tcp(7)), how many seconds sent bytes
    may stay unacknowledged by the peer's kernel."""
    headers: dict[str, str] = {}
    """``ws://`` and ``wss://``, clients: sent with the request that opens the WebSocket, for gateways on the way."""
    origins: tuple[str, ...] = ()
    """``ws://`` and ``wss://``, servers: the web pages that may connect (``https://example.org``), beside those of the
    same host. Programs, which name no origin, always may; ``"*"`` lets any page in."""
    proxy: str | bool = True
    """``ws://`` and ``wss://``, clients: the HTTP proxy to go through (``http://user:password@host:port``); ``True`` is
    the one the environment names (``https_proxy``, ``no_proxy``, ...), ``False`` none."""

    def __post_init__(self) -> None:
        # msgspec checks types only of what it decodes. A text for origins would let in every part of itself.
        for name, (kinds, what) in _OPTION_TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or (name == "user_timeout_s" and isinstance(value, bool)):
                raise ConfigurationError(
                    f"TransportOptions({name}=) takes {what}, not a value of the type {type(value).__name__}"
                )
        for name, value in (("origins", self.origins), ("headers", [*self.headers, *self.headers.values()])):
            if not all(isinstance(one, str) for one in value):
                raise ConfigurationError(f"TransportOptions({name}=) holds something that is no text")
        if not self.user_timeout_s > 0:
            raise ConfigurationError(
                f"TransportOptions(user_timeout_s={self.user_timeout_s:g}): more than 0 is possible"
            )


_PATH: Final = ((str, os.PathLike, NoneType), "the path of a file")
_OPTION_TYPES: Final = {
    "tls": ((ssl.SSLContext, NoneType), "an ssl.SSLContext"),
    "server_name": ((str,), "a name"),
    "certificate_file": _PATH,
    "private_key_file": _PATH,
    "ca_file": _PATH,
    "user_timeout_s": ((int, float), "seconds"),
    "headers": ((dict,), "a dict of text"),
    "origins": ((tuple,), 'a tuple of text, such as ("https://example.org",)'),
    "proxy": ((str, bool), "the URL of a proxy, True or False"),
}


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


def pause_while_waiting(transport: asyncio.Transport, held_bytes: int) -> None:
    """Stops reading a transport of which ``held_bytes`` wait to be handled, until ``resume_reading()``.

    One with TLS only when much waits: uvloop forgets what it has not decrypted yet when the peer closes meanwhile.
    """
    if held_bytes > HELD_BYTES_MAX or transport.get_extra_info("ssl_object") is None:
        transport.pause_reading()


def lengthen_queue(listening_descriptor: int) -> None:
    """Lets the kernel hold :data:`BACKLOG` connections of a socket that an event loop listens on."""
    with socket.socket(fileno=os.dup(listening_descriptor)) as same:
        same.listen(BACKLOG)


def url_list(urls: object, function: str) -> Sequence[str]:
    """Return one URL, or several, as a list. Raise :class:`ConfigurationError` for none, and for what is no text."""
    several = [urls] if isinstance(urls, str) else urls
    if not isinstance(several, Sequence) or not all(isinstance(url, str) for url in several):
        raise ConfigurationError(
            f"{function}() takes a URL as text, such as 'tls://control.example', or a list of them"
        )
    if not several:
        raise ConfigurationError(f"{function}() needs at least one URL")
    return several


def parse_url(url: str) -> Endpoint:
    """The endpoint a URL names. Raises :class:`ConfigurationError` with one sentence when it names none."""
    if any(ord(sign) < 32 or ord(sign) == 127 or 0xD800 <= ord(sign) <= 0xDFFF for sign in url):
        # urlsplit() would drop line ends in silence; no host and no path can have the others.
        raise ConfigurationError(f"{url!r} holds a control character or bytes that are not UTF-8")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"{url!r} is not a URL of a server: {error}") from error
    if parts.scheme == "mdns" or parts.scheme.startswith("mdns+"):
        raise ConfigurationError(
            f"{url!r} is the name of an announced server, which landline.connect() looks for; here an address "
            f"is needed, such as tls://127.0.0.1:{DEFAULT_PORT}"
        )
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in sorted(SCHEMES))
        raise ConfigurationError(f"{url!r} does not begin with one of {known}")
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            f"{url!r} has parts that a server's URL cannot have (user, ?query or #fragment)"
        )
    if parts.scheme == "unix":
        return _parse_unix(url, parts)
    if " " in url:
        raise ConfigurationError(f"{url!r} holds a space")
    scheme = SCHEMES[parts.scheme]
    if not parts.hostname:
        raise ConfigurationError(
            f"{url!r} names no host; write for example {parts.scheme}://127.0.0.1:{DEFAULT_PORT}"
        )
    if parts.path not in {"", "/"} and not scheme.has_path:
        raise ConfigurationError(f"{url!r} has a path, which {parts.scheme}:// cannot have")
    return Endpoint(
        parts.scheme,
        parts.hostname,
        scheme.default_port if port is None else port,
        (parts.path or "/") if scheme.has_path else "",
    )


def load(endpoint: Endpoint) -> TransportModule:
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


def _parse_unix(url: str, parts: SplitResult) -> Endpoint:
    if parts.netloc or not parts.path.startswith("/"):
        raise ConfigurationError(
            f"{url!r} is not an absolute path; write for example unix:///run/landline.sock"
        )
    if len(parts.path.encode()) > 107:
        raise ConfigurationError(
            f"{parts.path!r} is longer than the 107 bytes a unix socket path can have (unix(7))"
        )
    return Endpoint("unix", path=parts.path)
