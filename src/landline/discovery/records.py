"""What servers announce of themselves on a local network, and which of it a client goes by. Pure.

DNS-Based Service Discovery (RFC 6763) over multicast DNS (RFC 6762): one service instance for each scheme of a server,
labelled ``name scheme``, whose TXT record repeats the scheme and tells the path and the version of the protocol.
Anybody on the network can announce anything: what is heard is checked here, and never decides who is trusted. That is
for the certificate, which must be valid for the name the client asked for, and for the token. docs/protocol.md §13.

:mod:`landline.discovery.mdns` speaks it; it is loaded when first used, for it needs the extra ``mdns``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Final, Protocol, cast

import msgspec

from landline.errors import ConfigurationError, ConnectFailed
from landline.session.frames import PROTOCOL_VERSION
from landline.transports.urls import SCHEMES, Endpoint, parse_url

STREAM_TYPE: Final = "_landline._tcp.local."
DATAGRAM_TYPE: Final = "_landline._udp.local."
"""RFC 6763 §7: the first for what runs over TCP, the second for everything else."""
DATAGRAM_SCHEMES: Final = frozenset({"quic", "udp"})

NAME_CHARACTERS_MAX: Final = 48
"""With the scheme behind it a label holds 63 bytes at most (RFC 1035 §2.3.4)."""
ADDRESSES_MAX: Final = 8
"""Of one announced server; more are left out."""
PATH_CHARACTERS_MAX: Final = 200
"""A TXT record's string holds 255 bytes at most (RFC 6763 §6.1)."""
SEARCH_S: Final = 3.0
"""How long to wait for answers: twice what a responder may take for one that is asked a second time (RFC 6762 §6)."""

HOST_CHARACTERS_MAX: Final = 255

_NOT_HOST: Final = re.compile(r"[^A-Za-z0-9._-]")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_PATH: Final = re.compile(r"/[!-~]*")


class MdnsTarget(msgspec.Struct, frozen=True):
    """A server to be looked for by its announced name: what ``mdns://name`` stands for."""

    name: str = ""
    """Empty for the only one there is."""
    scheme: str = ""
    """The one scheme to use; empty for every one that is encrypted."""

    def __str__(self) -> str:
        return f"mdns+{self.scheme}://{self.name}" if self.scheme else f"mdns://{self.name}"

    @property
    def schemes(self) -> frozenset[str]:
        """The schemes it may stand for."""
        return frozenset(
            {self.scheme} if self.scheme else (name for name, one in SCHEMES.items() if one.is_encrypted)
        )

    @property
    def is_encrypted(self) -> bool:
        """Whether nobody on the way can read or change what is said."""
        return not self.scheme or SCHEMES[self.scheme].is_encrypted


class DiscoveredServer(msgspec.Struct, frozen=True):
    """A server that was heard of on the local network. Whoever says so may lie."""

    name: str
    host: str
    """The name of the machine, as announced."""
    endpoints: tuple[Endpoint, ...]
    """The same scheme, port and path at each of its addresses."""

    @property
    def scheme(self) -> str:
        """How to speak to it."""
        return self.endpoints[0].scheme

    @property
    def is_encrypted(self) -> bool:
        """Whether its scheme is."""
        return self.endpoints[0].is_encrypted

    @property
    def url(self) -> str:
        """What to give to :func:`landline.connect` to get there."""
        return str(MdnsTarget(self.name, "" if self.is_encrypted else self.scheme))


class BadAnnouncement(Exception):
    """What was heard cannot be used; the text says why."""


def parse_road(url: str) -> Endpoint | MdnsTarget:
    """The address or the announced name a client's URL stands for.

    Raises :class:`ConfigurationError` with one sentence when it is neither.
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
    """An announced name in its one form. Raises :class:`ConfigurationError` when it cannot be one."""
    lowered = name.lower()
    if len(lowered) > NAME_CHARACTERS_MAX or not _NAME.fullmatch(lowered):
        raise ConfigurationError(
            f"{name[:80]!r} is no name to be announced: it takes up to {NAME_CHARACTERS_MAX} letters, digits and "
            "dashes, and begins and ends with a letter or a digit"
        )
    return lowered


def check_announceable(endpoint: Endpoint, name: str) -> str:
    """The name in its one form. Raises :class:`ConfigurationError` when nobody could come to that endpoint."""
    if endpoint.scheme == "unix" or _is_loopback(endpoint.host):
        raise ConfigurationError(
            f"{endpoint} cannot be announced, for it is reached from this machine only; listen for example on "
            f"tls://0.0.0.0:{endpoint.port or SCHEMES['tls'].default_port}"
        )
    if len(endpoint.path) > PATH_CHARACTERS_MAX:
        raise ConfigurationError(f"a path of more than {PATH_CHARACTERS_MAX} characters cannot be announced")
    return check_name(name)


def service_type(scheme: str) -> str:
    """The type under which servers of a scheme are announced."""
    return DATAGRAM_TYPE if scheme in DATAGRAM_SCHEMES else STREAM_TYPE


def instance_label(name: str, scheme: str) -> str:
    """What names one scheme of one server."""
    return f"{name} {scheme}"


def txt_record(endpoint: Endpoint) -> dict[str, str]:
    """What is told beside address and port; nothing of it is secret (RFC 6763 §6)."""
    record = {"txtvers": "1", "v": str(PROTOCOL_VERSION), "scheme": endpoint.scheme}
    if endpoint.path:
        record["path"] = endpoint.path
    return record


def heard(
    *,
    label: str,
    type_: str,
    host: str,
    port: int | None,
    addresses: Iterable[str],
    txt: Mapping[bytes, bytes | None],
) -> DiscoveredServer:
    """Checks what was heard. Raises :class:`BadAnnouncement` for what no server of ours would say."""
    name, _, labelled = label.lower().rpartition(" ")
    try:
        check_name(name)
    except ConfigurationError as error:
        raise BadAnnouncement(str(error)) from error
    version = _text(txt, b"v")
    if version != str(PROTOCOL_VERSION):
        raise BadAnnouncement(f"it speaks version {version[:20]!r} of the protocol, not {PROTOCOL_VERSION}")
    scheme = _text(txt, b"scheme")
    if scheme not in SCHEMES or scheme == "unix" or scheme != labelled or service_type(scheme) != type_:
        raise BadAnnouncement(f"its scheme is {scheme[:20]!r}, in a service labelled {label[:80]!r}")
    path = _text(txt, b"path")
    if SCHEMES[scheme].has_path:
        path = path or "/"
        if len(path) > PATH_CHARACTERS_MAX or not _PATH.fullmatch(path) or set(path) & {"?", "#"}:
            raise BadAnnouncement(f"its path is {path[:80]!r}")
    elif path:
        raise BadAnnouncement(f"{scheme}:// has no path, and it announces one")
    if port is None or not 0 < port < 65_536:
        raise BadAnnouncement(f"its port is {port}")
    usable = [address for address in dict.fromkeys(addresses) if is_reachable(address)][:ADDRESSES_MAX]
    if not usable:
        raise BadAnnouncement("it has no address that others can come to")
    # It is only shown, and says which announcements belong together.
    host = _NOT_HOST.sub("?", host[:HOST_CHARACTERS_MAX])
    return DiscoveredServer(name, host, tuple(Endpoint(scheme, address, port, path) for address in usable))


def choose(wanted: MdnsTarget, announcements: Sequence[DiscoveredServer]) -> tuple[str, list[Endpoint]]:
    """The name of the one server that is meant, and its endpoints, TLS first.

    Raises :class:`ConnectFailed` with one sentence when nobody answers, several do, or encryption would be given up.
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
        # Their sessions would not be the same ones, and one of them may be an impostor.
        raise ConnectFailed(
            f"several machines are announced as {usable[0].name!r}: {_listed(sorted({one.host for one in usable}))}; "
            "give each another name, or connect by address"
        )
    usable.sort(key=lambda one: (one.scheme != "tls", one.scheme))
    return usable[0].name, [endpoint for one in usable for endpoint in one.endpoints]


def is_reachable(address: str) -> bool:
    """Whether an IP address can be a server's to others on the network. One that needs a zone is none here."""
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
    """Every server announced on the local network, as heard within ``timeout_s`` seconds, sorted by name.

    Anybody there can announce anything. Raises :class:`ConfigurationError` when the extra ``mdns`` is not installed,
    :class:`OSError` where multicast is not possible. Cancelling ends the search.
    """
    return await load_discovery().search(timeout_s, None)


class Announcer(Protocol):
    """Keeps an announcement up."""

    async def close(self) -> None:
        """Withdraws it. The second time does nothing."""
        ...


class Discovery(Protocol):
    """What :mod:`landline.discovery.mdns` offers."""

    async def announce(self, endpoint: Endpoint, name: str) -> Announcer:
        """Announces where a server listens.

        Raises :class:`landline.AddressInUse` when another server has that name, :class:`OSError` where multicast is
        not possible.
        """

    async def search(self, timeout_s: float, wanted: MdnsTarget | None) -> list[DiscoveredServer]:
        """What is announced; ends early when what is ``wanted`` was heard and nothing else came for a moment."""
        ...


def load_discovery() -> Discovery:
    """The module that speaks multicast DNS. Raises :class:`ConfigurationError` when what it needs is not installed."""
    try:
        return cast(Discovery, import_module("landline.discovery.mdns"))
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "announcing and finding servers needs more than the library alone: pip install 'landline[mdns]'"
        ) from error


def _text(txt: Mapping[bytes, bytes | None], key: bytes) -> str:
    """A value of a TXT record; what is not ASCII is none."""
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
