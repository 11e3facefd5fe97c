"""URLs of servers, and the schemes that there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from landline.errors import ConfigurationError

DEFAULT_PORT: Final = 5463
"""LINE on a telephone keypad."""


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
    "ws": Scheme("landline.transports.websocket.sockets", default_port=80, has_path=True, extra="ws"),
    "wss": Scheme(
        "landline.transports.websocket.sockets",
        is_encrypted=True,
        default_port=443,
        has_path=True,
        extra="ws",
    ),
    "quic": Scheme("landline.transports.quic.sockets", is_encrypted=True, extra="quic"),
    "udp": Scheme("landline.udp_calls.sockets", extra="udp", is_connectionless=True),
}


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
