"""URLs of servers, and their schemes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from landline.errors import ConfigurationError

DEFAULT_PORT: Final = 5463
"""The word LINE on a telephone keypad."""
UNIX_PATH_BYTES_MAX: Final = 107
"""The longest path of a unix socket (unix(7): 108 bytes, of which the last one is a zero)."""


class Scheme(msgspec.Struct, frozen=True):
    """A URL scheme and its properties."""

    module: str
    is_encrypted: bool = False
    default_port: int = DEFAULT_PORT
    has_path: bool = False
    """Whether a path may follow host and port."""
    extra: str = ""
    """The extra of this package that installs what the module imports."""
    is_connectionless: bool = False
    """Whether it carries single calls instead of lines."""


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
    """The address of a server, parsed from its URL."""

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
        """The schemes it may resolve to: only its own."""
        return frozenset({self.scheme})

    @property
    def is_encrypted(self) -> bool:
        """Whether the transport is encrypted and authenticated, so that no third party can read or change the data."""
        return SCHEMES[self.scheme].is_encrypted

    @property
    def is_connectionless(self) -> bool:
        """Whether it accepts single calls (:func:`landline.call`) instead of lines."""
        return SCHEMES[self.scheme].is_connectionless


def url_list(urls: object, function: str) -> Sequence[str]:
    """Return one URL, or several, as a list.

    :param function: the name of the called function, for the error.
    :raises ConfigurationError: for an empty list, and for values that are not strings.
    """
    several = [urls] if isinstance(urls, str) else urls
    if not isinstance(several, Sequence) or not all(isinstance(url, str) for url in several):
        raise ConfigurationError(
            f"{function}() takes a URL, such as 'tls://control.example', or a list of URLs, all as strings"
        )
    if not several:
        raise ConfigurationError(f"{function}() needs at least one URL")
    return several


def parse_url(url: str) -> Endpoint:
    """Return the endpoint that a URL names.

    :raises ConfigurationError: with one sentence, if the URL is not valid.
    """
    parts, port = _split(url)
    scheme = _find_scheme(url, parts)
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"invalid URL {url!r}: remove the user, the ?query or the #fragment")
    if parts.scheme == "unix":
        return _parse_unix(url, parts)
    if " " in url:
        raise ConfigurationError(f"invalid URL {url!r}: it contains a space")
    if not parts.hostname:
        raise ConfigurationError(
            f"invalid URL {url!r}: the host is missing; write for example {parts.scheme}://127.0.0.1:{DEFAULT_PORT}"
        )
    if parts.path not in {"", "/"} and not scheme.has_path:
        raise ConfigurationError(f"invalid URL {url!r}: {parts.scheme}:// takes no path")
    return Endpoint(
        parts.scheme,
        parts.hostname,
        scheme.default_port if port is None else port,
        (parts.path or "/") if scheme.has_path else "",
    )


def _split(url: str) -> tuple[SplitResult, int | None]:
    """Return the parts of a URL, and its port if it has one."""
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in url):
        # urlsplit() would silently remove line ends; the other characters are valid in no host and no path.
        raise ConfigurationError(
            f"invalid URL {url!r}: it contains a control character or bytes that are not UTF-8"
        )
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError as error:
        raise ConfigurationError(f"invalid URL {url!r}: {error}") from error


def _find_scheme(url: str, parts: SplitResult) -> Scheme:
    if parts.scheme == "mdns" or parts.scheme.startswith("mdns+"):
        raise ConfigurationError(
            f"invalid URL {url!r}: only landline.connect() finds announced servers; write an address here, "
            f"for example tls://127.0.0.1:{DEFAULT_PORT}"
        )
    scheme = SCHEMES.get(parts.scheme)
    if scheme is None:
        known = ", ".join(f"{scheme}://" for scheme in sorted(SCHEMES))
        raise ConfigurationError(f"invalid URL {url!r}: it does not begin with one of {known}")
    return scheme


def _parse_unix(url: str, parts: SplitResult) -> Endpoint:
    if parts.netloc or not parts.path.startswith("/"):
        raise ConfigurationError(
            f"invalid URL {url!r}: the path is not absolute; write for example unix:///run/landline.sock"
        )
    if len(parts.path.encode()) > UNIX_PATH_BYTES_MAX:
        raise ConfigurationError(
            f"invalid URL {url!r}: the path is longer than {UNIX_PATH_BYTES_MAX} bytes, the limit of a unix socket"
        )
    return Endpoint("unix", path=parts.path)
