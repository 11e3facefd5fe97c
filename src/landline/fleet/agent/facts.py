"""Facts about the machine that need no privileges."""

from __future__ import annotations

import platform
import re
import socket
import uuid
from pathlib import Path

from landline.fleet.agent.boot_id import linux_boot_id
from landline.fleet.model import Facts
from landline.fleet.paths import make_private_directory
from landline.fleet.private_files import read_private_file, write_private_file

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_MAC_ADDRESS = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def machine_facts(name: str | None, *, power: str, version: str, boot_id: str | None = None) -> Facts:
    """Return host name, OS and network addresses of this machine.

    :param name: by default the host name.
    :param boot_id: by default that of Linux.
    """
    host_name = socket.gethostname()
    return Facts(
        name=name or default_name(host_name),
        host_name=host_name,
        os=_os_name(),
        boot_id=linux_boot_id() if boot_id is None else boot_id,
        mac_addresses=_mac_addresses(Path("/sys/class/net")),
        agent_version=version,
        power=power,
    )


def default_name(host_name: str) -> str:
    """Return a machine name from a host name: its first label, with only letters, digits, dots, dashes, underscores."""
    return _NOT_IN_NAMES.sub("-", host_name.split(".")[0]).strip("-._")[:64] or "machine"


def machine_id(path: Path) -> str:
    """Return the machine's id; on first use, make one and store it in ``path`` for its owner only.

    :raises OSError: if the file cannot be read or written.
    :raises ValueError: if it holds no machine id.
    :raises landline.fleet.paths.UnsafePath: if another user could change it.
    """
    try:
        return str(uuid.UUID(read_private_file(path, repair=True).decode().strip()))
    except FileNotFoundError:
        make_private_directory(path.parent)
        new = str(uuid.uuid4())
        # Atomic: half an id would prevent the agent from starting.
        write_private_file(path, f"{new}\n".encode())
        return new


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return f"{platform.system()} {platform.release()}"


def _mac_addresses(interfaces: Path) -> tuple[str, ...]:
    """Return the hardware addresses of physical interfaces, which wake-on-LAN can reach."""
    if not interfaces.is_dir():
        return ()
    found = []
    for interface in sorted(interfaces.iterdir()):
        if not (interface / "device").exists():
            continue
        try:
            address = (interface / "address").read_text().strip().lower()
        except OSError:
            continue
        # InfiniBand addresses are longer, a modem has none; neither receives magic packets.
        if _MAC_ADDRESS.fullmatch(address) and address != "00:00:00:00:00:00":
            found.append(address)
    return tuple(found[:32])
