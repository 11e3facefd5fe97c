"""The records by which servers are announced on a local network, and how a client selects a server. Pure.

The format is DNS-Based Service Discovery (RFC 6763) over multicast DNS (RFC 6762): one service instance for each scheme
of a server, labelled ``name scheme``. Its TXT record repeats the scheme and has the path and the protocol version.
Every machine on the network can announce anything. So the records are validated here, and never decide which server is
trusted: the certificate, which must be valid for the requested name, and the token do. See docs/protocol.md §13.

:mod:`landline.discovery.mdns` sends and receives them. It is loaded when first used, because it needs the extra
``mdns``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Final, Protocol, cast

import msgspec

from landline.errors import ConfigurationError, ConnectFailed, MissingExtra
from landline.session.constants import PROTOCOL_VERSION
from landline.transports.urls import SCHEMES, Endpoint, parse_url

STREAM_TYPE: Final = "_landline._tcp.local."
DATAGRAM_TYPE: Final = "_landline._udp.local."
"""RFC 6763 §7: the first for schemes over TCP, the second for all others."""
DATAGRAM_SCHEMES: Final = frozenset({"quic", "udp"})

NAME_CHARACTERS_MAX: Final = 48
"""With the scheme appended; a label has 63 bytes at most (RFC 1035 §2.3.4)."""
ADDRESSES_MAX: Final = 8
"""The addresses used of one announced server; the rest is ignored."""
PATH_CHARACTERS_MAX: Final = 200
"""A string of a TXT record has 255 bytes at most (RFC 6763 §6.1)."""
SEARCH_S: Final = 3.0
"""How long to wait for answers: twice the time a responder may take for a repeated question (RFC 6762 §6)."""

HOST_CHARACTERS_MAX: Final = 255

_NOT_HOST: Final = re.compile(r"[^A-Za-z0-9._-]")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_PATH: Final = re.compile(r"/[!-~]*")


class MdnsTarget(msgspec.Struct, frozen=True):
    """A server to find by its announced name: the meaning of ``mdns://name``."""

    name: str = ""
    """Empty for the only server on the network."""
    scheme: str = ""
    """The scheme to use; empty for all encrypted ones."""

    def __str__(self) -> str:
        return f"mdns+{self.scheme}://{self.name}" if self.scheme else f"mdns://{self.name}"

    @property
    def schemes(self) -> frozenset[str]:
        """The schemes that the server may be reached by."""
        return frozenset(
            {self.scheme} if self.scheme else (name for name, one in SCHEMES.items() if one.is_encrypted)
        )

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection will be encrypted."""
        return not self.scheme or SCHEMES[self.scheme].is_encrypted


class DiscoveredServer(msgspec.Struct, frozen=True):
    """A server announced on the local network. The announcement is not authenticated."""

    name: str
    host: str
    """The name of the machine, as announced."""
    endpoints: tuple[Endpoint, ...]
    """One for each address of the server, with the same scheme, port and path."""

    @property
    def scheme(self) -> str:
        """The scheme of its endpoints."""
        return self.endpoints[0].scheme

    @property
    def is_encrypted(self) -> bool:
        """Whether its scheme is encrypted."""
        return self.endpoints[0].is_encrypted

    @property
    def url(self) -> str:
        """The URL for :func:`landline.connect`."""
        return str(MdnsTarget(self.name, "" if self.is_encrypted else self.scheme))


class BadAnnouncement(Exception):
    """An announcement cannot be used; the text says why."""


def parse_endpoint(url: str) -> Endpoint | MdnsTarget:
    """Return the address or the announced name in a client's URL.

    :raises ConfigurationError: when the URL is neither.
    """
    scheme, found, name = url.partition("://")
    if not found or (scheme != "mdns" and not scheme.startswith("mdns+")):
        return parse_url(url)
    _, _, wanted = scheme.partition("+")
    if scheme != "mdns" and (wanted not in SCHEMES or wanted == "unix"):
        known = ", ".join(f"mdns+{known}://" for known in sorted(SCHEMES) if known != "unix")
        raise ConfigurationError(f"{url!r} does not begin with one of mdns://, {known}")
    return MdnsTarget(check_name(name) if name else "", wanted)


def check_name(name: str) -> str:
    """Return a name to announce in lower case. Raise :class:`ConfigurationError` for an invalid one."""
    lowered = name.lower()
    if len(lowered) > NAME_CHARACTERS_MAX or not _NAME.fullmatch(lowered):
        raise ConfigurationError(
            f"{name[:80]!r} cannot be announced as a name: use up to {NAME_CHARACTERS_MAX} letters, digits and dashes, "
            "with a letter or a digit at both ends"
        )
    return lowered


def check_announceable(endpoint: Endpoint, name: str) -> str:
    """Return the name in its normal form. Raise :class:`ConfigurationError` when others cannot reach the endpoint."""
    if endpoint.scheme == "unix" or _is_loopback(endpoint.host):
        raise ConfigurationError(
            f"{endpoint} cannot be announced, because only this machine can reach it; listen for example on "
            f"tls://0.0.0.0:{endpoint.port or SCHEMES['tls'].default_port}"
        )
    if len(endpoint.path) > PATH_CHARACTERS_MAX:
        raise ConfigurationError(f"a path of more than {PATH_CHARACTERS_MAX} characters cannot be announced")
    return check_name(name)


def service_type(scheme: str) -> str:
    """Return the DNS-SD service type of a scheme."""
    return DATAGRAM_TYPE if scheme in DATAGRAM_SCHEMES else STREAM_TYPE


def instance_label(name: str, scheme: str) -> str:
    """Return the label of one scheme of one server."""
    return f"{name} {scheme}"


def txt_record(endpoint: Endpoint) -> dict[str, str]:
    """Return the TXT record of an endpoint (RFC 6763 §6). Everything in it is public."""
    record = {"txtvers": "1", "v": str(PROTOCOL_VERSION), "scheme": endpoint.scheme}
    if endpoint.path:
        record["path"] = endpoint.path
    return record


def parse_record(
    *,
    label: str,
    type_: str,
    host: str,
    port: int | None,
    addresses: Iterable[str],
    txt: Mapping[bytes, bytes | None],
) -> DiscoveredServer:
    """Validate a received announcement. Raise :class:`BadAnnouncement` for one that no landline server would send."""
    name, _, labelled = label.lower().rpartition(" ")
    try:
        check_name(name)
    except ConfigurationError as error:
        raise BadAnnouncement(str(error)) from error
    version = _text(txt, b"v")
    if version != str(PROTOCOL_VERSION):
        raise BadAnnouncement(f"its protocol version is {version[:20]!r}, not {PROTOCOL_VERSION}")
    scheme = _text(txt, b"scheme")
    if scheme not in SCHEMES or scheme == "unix" or scheme != labelled or service_type(scheme) != type_:
        raise BadAnnouncement(f"its scheme is {scheme[:20]!r}, in a service labelled {label[:80]!r}")
    path = _text(txt, b"path")
    if SCHEMES[scheme].has_path:
        path = path or "/"
        if len(path) > PATH_CHARACTERS_MAX or not _PATH.fullmatch(path) or set(path) & {"?", "#"}:
            raise BadAnnouncement(f"its path is {path[:80]!r}")
    elif path:
        raise BadAnnouncement(f"it has a path, which {scheme}:// cannot have")
    if port is None or not 0 < port < 65_536:
        raise BadAnnouncement(f"its port is {port}")
    usable = [address for address in dict.fromkeys(addresses) if is_reachable(address)][:ADDRESSES_MAX]
    if not usable:
        raise BadAnnouncement("it has no address that others can reach")
    # Only displayed, and compared to find announcements of one machine.
    host = _NOT_HOST.sub("?", host[:HOST_CHARACTERS_MAX])
    return DiscoveredServer(name, host, tuple(Endpoint(scheme, address, port, path) for address in usable))


def select_server(
    wanted: MdnsTarget, announcements: Sequence[DiscoveredServer]
) -> tuple[str, list[Endpoint]]:
    """Return the name of the requested server, and its endpoints, TLS first.

    :raises ConnectFailed: when no server answered, several did, or only unencrypted endpoints are announced.
    """
    named = [one for one in announcements if wanted.name in ("", one.name)]
    if not named:
        who = f"as {wanted.name!r}" if wanted.name else "on this network"
        raise ConnectFailed(f"no server is announced {who} (multicast DNS does not leave the local network)")
    usable = [one for one in named if (one.scheme == wanted.scheme if wanted.scheme else one.is_encrypted)]
    if not usable:
        there = _listed(str(endpoint) for one in named for endpoint in one.endpoints)
        if wanted.scheme:
            raise ConnectFailed(f"{wanted.name or 'the server'} is announced, but only at {there}")
        raise ConnectFailed(
            f"{wanted.name or 'the server'} is announced only at {there}, which is not encrypted; "
            f"{named[0].url} would use it, on a network you trust"
        )
    if len({one.name for one in usable}) > 1:
        raise ConnectFailed(
            f"several servers are announced, choose one: {_listed(sorted({one.url for one in usable}))}"
        )
    if len({one.host for one in usable}) > 1:
        # They do not share sessions, and one of them may be an impostor.
        raise ConnectFailed(
            f"several machines are announced as {usable[0].name!r}: {_listed(sorted({one.host for one in usable}))}; "
            "give each another name, or connect by address"
        )
    usable.sort(key=lambda one: (one.scheme != "tls", one.scheme))
    return usable[0].name, [endpoint for one in usable for endpoint in one.endpoints]


def is_reachable(address: str) -> bool:
    """Return whether other machines can reach this IP address. An address with a zone does not count."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if ip.is_multicast or ip.is_unspecified or ip.is_loopback:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not ip.is_reserved
    return not ip.is_link_local and ip.ipv4_mapped is None and ip.scope_id is None


async def discover(timeout_s: float = SEARCH_S) -> list[DiscoveredServer]:
    """Return the servers announced on the local network that answer within ``timeout_s`` seconds, sorted by name.

    The announcements are not authenticated. Cancelling ends the search.

    :raises MissingExtra: the extra ``mdns`` is not installed.
    :raises OSError: multicast is not possible on this machine.
    """
    return await load_discovery().search(timeout_s, None)


class Announcer(Protocol):
    """An announcement in progress."""

    async def close(self) -> None:
        """Withdraw the announcement. Idempotent."""
        ...


class Discovery(Protocol):
    """The interface of :mod:`landline.discovery.mdns`."""

    async def announce(self, endpoint: Endpoint, name: str) -> Announcer:
        """Announce the endpoint of a server.

        :raises landline.AddressInUse: another server has that name.
        :raises OSError: multicast is not possible on this machine.
        """

    async def search(self, timeout_s: float, wanted: MdnsTarget | None) -> list[DiscoveredServer]:
        """Return the announced servers. Return early when ``wanted`` has answered and no other answer has followed."""
        ...


def load_discovery() -> Discovery:
    """Return the module for multicast DNS. Raise :class:`MissingExtra` when the extra is not installed."""
    try:
        return cast(Discovery, import_module("landline.discovery.mdns"))
    except ModuleNotFoundError as error:
        raise MissingExtra("announcing and finding servers", "mdns") from error


def _text(txt: Mapping[bytes, bytes | None], key: bytes) -> str:
    """Return a value of a TXT record; empty if it is not ASCII."""
    value = txt.get(key) or b""
    return value.decode() if value.isascii() else ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listed(items: Iterable[str], limit: int = 5) -> str:
    listed = list(items)
    rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + rest
