"""Multicast DNS with the package zeroconf; see :mod:`landline.discovery.records`."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import re
import socket
from typing import Any, Final

import ifaddr
from zeroconf import (
    DNSQuestionType,
    IPVersion,
    RecordUpdate,
    RecordUpdateListener,
    ServiceStateChange,
    Zeroconf,
)
from zeroconf import Error as ZeroconfError
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from landline.discovery.records import (
    ADDRESSES_MAX,
    DATAGRAM_TYPE,
    STREAM_TYPE,
    BadAnnouncement,
    DiscoveredServer,
    MdnsTarget,
    instance_label,
    is_reachable,
    parse_record,
    service_type,
    txt_record,
)
from landline.errors import AddressInUse
from landline.runtime.guarded_log import guarded_logger
from landline.transports.urls import Endpoint

logger: Final = guarded_logger("landline")

SETTLE_S: Final = 0.5
"""How long to wait for further answers after the wanted one: a responder whose answer others may have too waits 120 ms
at most (RFC 6762 §6)."""
ANSWERS_MAX: Final = 256
"""How many announcements one search examines."""
SRV: Final = 33
"""The type of the record with the host and port of a service (RFC 2782)."""
LABEL_BYTES_MAX: Final = 63
"""RFC 1035 §2.3.4."""
RESOLVE_MS: Final = 3000
"""How long to query the addresses of one announcement."""
PROBE_MS: Final = 2000
"""How long to query whether a name is taken: enough for two questions, for an answer that is delayed because it was
sent less than a second ago (RFC 6762 §6), and for a busy machine."""


class MdnsAnnouncer:
    """The announcement of one endpoint."""

    __slots__ = ("_zeroconf",)

    def __init__(self, zeroconf: AsyncZeroconf) -> None:
        self._zeroconf: AsyncZeroconf | None = zeroconf

    async def close(self) -> None:
        """Withdraw the announcement with a goodbye packet (RFC 6762, section 10.1). Idempotent."""
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is not None:
            await zeroconf.async_close()


class _ConflictListener(RecordUpdateListener):
    """Notices other servers that are announced by the same name."""

    def __init__(self, own: AsyncServiceInfo, name: str) -> None:
        self._own = own
        self._name = name
        self._known: set[tuple[str, int]] = set()
        self.has_precedence = False
        """Whether another server keeps the name if both were announced at the same moment."""
        self.is_logged = False

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        own = (str(self._own.server).lower(), int(self._own.port or 0))
        for record in (update.new for update in records):
            if record.type != SRV or record.key != self._own.key or not record.ttl:
                continue
            service: Any = record
            other = (service.server.lower(), int(service.port))
            if other == own or other in self._known or len(self._known) >= ANSWERS_MAX:
                continue
            self._known.add(other)
            self.has_precedence = self.has_precedence or other > own
            if self.is_logged:
                self.log(other)

    def log(self, other: tuple[str, int] | None = None) -> None:
        """Log all known servers of the same name, or one of them."""
        for host, port in [other] if other is not None else sorted(self._known):
            logger.warning(
                "another server is announced as %r too, by %r at port %d; clients that connect by name will fail",
                self._name,
                host[:80],
                port,
            )


async def announce(endpoint: Endpoint, name: str) -> MdnsAnnouncer:
    """Announce an endpoint; see :class:`landline.discovery.records.Discovery`."""
    type_ = service_type(endpoint.scheme)
    addresses = await _own_addresses(endpoint)
    if not addresses:
        raise OSError(
            errno.EADDRNOTAVAIL,
            "this machine has no address that others can reach",
        )
    info = AsyncServiceInfo(
        type_,
        f"{instance_label(name, endpoint.scheme)}.{type_}",
        port=endpoint.port,
        properties=txt_record(endpoint),
        server=f"{_host_label(name)}.local.",
        parsed_addresses=addresses,
    )
    zeroconf = await _open()
    try:
        conflicts = _ConflictListener(info, name)
        if await _is_taken(zeroconf, info):
            raise _taken(endpoint, name)
        zeroconf.zeroconf.async_add_listener(conflicts, None)
        # zeroconf's own check asks for answers to this machine's port 5353, where another program may receive them.
        await (await zeroconf.async_register_service(info, cooperating_responders=True))
        # Two servers that probed at the same moment have received each other's announcement by now.
        if conflicts.has_precedence:
            raise _taken(endpoint, name)
        conflicts.log()
        conflicts.is_logged = True
    except BaseException:
        await zeroconf.async_close()
        raise
    return MdnsAnnouncer(zeroconf)


async def _is_taken(zeroconf: AsyncZeroconf, info: AsyncServiceInfo) -> bool:
    """Return whether another server answers to that name.

    The question asks for answers by multicast, which every program receives: an answer sent to one address and port
    reaches only one of the programs that share them on this machine (RFC 6762 §15.1).
    """
    asked = AsyncServiceInfo(info.type, info.name)
    await asked.async_request(zeroconf.zeroconf, PROBE_MS, question_type=DNSQuestionType.QM)
    return asked.server is not None


def _taken(endpoint: Endpoint, name: str) -> AddressInUse:
    return AddressInUse(
        errno.EADDRINUSE,
        f"another {endpoint.scheme}:// server is announced as {name!r} on this network; choose another name",
    )


async def search(timeout_s: float, wanted: MdnsTarget | None) -> list[DiscoveredServer]:
    """Search for servers; see :class:`landline.discovery.records.Discovery`."""
    zeroconf = await _open()
    try:
        searching = _Search(zeroconf, wanted)
        try:
            async with asyncio.timeout(timeout_s):
                await searching.is_found.wait()
                await asyncio.sleep(SETTLE_S)
        except TimeoutError:
            pass  # The answers received until now are the result.
        finally:
            await searching.close()
    finally:
        await zeroconf.async_close()
    return sorted(searching.found.values(), key=lambda one: (one.name, one.host, one.scheme))


class _Search:
    """Collects announcements, and queries the records that an announcement lacks."""

    def __init__(self, zeroconf: AsyncZeroconf, wanted: MdnsTarget | None) -> None:
        self._zeroconf = zeroconf
        self._wanted = wanted
        self._asking: dict[str, asyncio.Task[None]] = {}
        self.found: dict[str, DiscoveredServer] = {}
        self.is_found = asyncio.Event()
        self._browser = AsyncServiceBrowser(
            zeroconf.zeroconf, [STREAM_TYPE, DATAGRAM_TYPE], handlers=[self._handle]
        )

    async def close(self) -> None:
        await self._browser.async_cancel()
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    def _handle(
        self, *, zeroconf: object, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        """Handle a change; called by the browser."""
        if state_change is ServiceStateChange.Removed:
            self.found.pop(name, None)
        elif not self._may_be_wanted(name.removesuffix(f".{service_type}")):
            return
        elif name in self._asking or len(self._asking) < ANSWERS_MAX:
            before = self._asking.get(name)
            if before is None or before.done():
                self._asking[name] = asyncio.get_running_loop().create_task(self._ask(service_type, name))

    def _may_be_wanted(self, label: str) -> bool:
        """Return whether the label may be the wanted one, so that a thousand other names cannot hide it."""
        wanted = self._wanted
        return wanted is None or not wanted.name or label.lower().rpartition(" ")[0] == wanted.name

    async def _ask(self, type_: str, full_name: str) -> None:
        try:
            info = AsyncServiceInfo(type_, full_name)
            if not await info.async_request(self._zeroconf.zeroconf, RESOLVE_MS):
                raise BadAnnouncement("it has no address")
            announcement = parse_record(
                label=full_name.removesuffix(f".{type_}"),
                type_=type_,
                host=info.server or "",
                port=info.port,
                addresses=info.parsed_addresses(),
                txt=info.properties,
            )
        except (BadAnnouncement, ZeroconfError) as error:
            logger.warning("the announcement %r is ignored: %s", full_name[:80], error)
            return
        self.found[full_name] = announcement
        wanted = self._wanted
        if wanted is not None and wanted.name in ("", announcement.name):
            self.is_found.set()


def _interfaces() -> dict[str, Any]:
    """Return the interfaces for multicast DNS: IPv4, or IPv6 if this machine has IPv4 on its loopback only."""
    found = [
        (adapter.index, ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0]))
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
    ]
    others = [(index, address) for index, address in found if not address.is_loopback]
    if not others or any(address.version == 4 for _, address in others):
        return {"ip_version": IPVersion.V4Only}
    return {
        "ip_version": IPVersion.V6Only,
        "interfaces": sorted({index for index, _ in others if index is not None}),
    }


async def _open() -> AsyncZeroconf:
    try:
        zeroconf = AsyncZeroconf(**_interfaces())
    except (OSError, RuntimeError) as error:
        # zeroconf raises RuntimeError when no interface can be used.
        raise OSError(errno.ENETUNREACH, f"multicast DNS is not possible here: {error}") from error
    # zeroconf cannot be closed before its start is complete, so shield the start from cancellation.
    starting = asyncio.ensure_future(zeroconf.zeroconf.async_wait_for_start())
    try:
        await asyncio.shield(starting)
    except BaseException as error:
        await asyncio.wait([starting])
        await zeroconf.async_close()
        if isinstance(error, ZeroconfError):
            raise OSError(errno.ENETUNREACH, "multicast DNS did not start within its time") from error
        raise
    return zeroconf


async def _own_addresses(endpoint: Endpoint) -> list[str]:
    """Return the addresses at which other machines reach the listener."""
    try:
        is_any = ipaddress.ip_address(endpoint.host).is_unspecified
    except ValueError:
        is_any = False
    if is_any:
        version = ipaddress.ip_address(endpoint.host).version
        addresses = [
            ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            for adapter in ifaddr.get_adapters()
            for ip in adapter.ips
        ]
        addresses = [address for address in addresses if ipaddress.ip_address(address).version == version]
    else:
        found = await asyncio.get_running_loop().getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM
        )
        addresses = [str(address[4][0]) for address in found]
    return [address for address in dict.fromkeys(addresses) if is_reachable(address)][:ADDRESSES_MAX]


def _host_label(name: str) -> str:
    """Return a host name for this machine's addresses. The machine's name alone may not be unique on the network."""
    own = re.sub("[^A-Za-z0-9]+", "-", socket.gethostname().partition(".")[0])
    return f"{own[: LABEL_BYTES_MAX - 1 - len(name)]}-{name}".strip("-")
