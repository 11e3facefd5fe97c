"""The measured libraries and servers: their names, and what must be installed for them."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A measured library or server."""

    title: str
    modules: tuple[str, ...] = ()
    """The import names of the Python packages it needs."""
    programs: tuple[str, ...] = ()

    def missing(self) -> str:
        """Return what is not installed, or an empty string."""
        absent = [name for name in self.modules if find_spec(name) is None]
        absent += [name for name in self.programs if find_program(name) is None]
        return f"not installed ({', '.join(absent)})" if absent else ""


PEERS: Final = {
    "landline": Peer(title="landline"),
    "landline_request": Peer(title="landline, requests"),
    "over_unix": Peer(title="landline over a unix socket"),
    "over_tls": Peer(title="landline over TLS"),
    "over_ws": Peer(title="landline over WebSocket", modules=("websockets",)),
    "over_wss": Peer(title="landline over WebSocket and TLS", modules=("websockets",)),
    "over_quic": Peer(title="landline over QUIC", modules=("aioquic",)),
    "over_udp": Peer(title="calls over UDP, sealed", modules=("cryptography",)),
    "landline_tls": Peer(title="landline over TLS"),
    "landline_ws": Peer(title="landline over WebSocket", modules=("websockets",)),
    "landline_quic": Peer(title="landline over QUIC", modules=("aioquic",)),
    "bare_uvloop": Peer(title="bare uvloop protocol"),
    "bare_uvloop_tls": Peer(title="bare uvloop protocol over TLS"),
    "websockets": Peer(title="websockets", modules=("websockets",)),
    "websockets_tls": Peer(title="websockets over TLS", modules=("websockets",)),
    "picows": Peer(title="picows", modules=("picows",)),
    "socketio": Peer(title="python-socketio on uvicorn", modules=("socketio", "uvicorn", "websockets")),
    "nats": Peer(title="nats-server", programs=("nats-server",)),
    "nats_py": Peer(
        title="nats-server with nats-py on both sides", modules=("nats",), programs=("nats-server",)
    ),
    "mosquitto": Peer(title="Mosquitto", programs=("mosquitto",)),
}


def find_program(name: str) -> str | None:
    """Return the path of a program: beside this Python, on the PATH, or where Debian installs servers."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return str(beside)
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def installed(names: tuple[str, ...]) -> list[str]:
    """Return the installed ones of the peers, in order."""
    return [name for name in names if not PEERS[name].missing()]
