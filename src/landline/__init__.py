"""Long-lived connections that do not lie: any transport, heartbeats both ways, reconnect by policy, and sessions
that survive their sockets, with every message once and in order.

The machine control system built on it is :mod:`landline.fleet`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landline.admission import Admission
    from landline.asgi_app import asgi
    from landline.backoff import Backoff
    from landline.changes import LineState, LossKind, StateChange
    from landline.client import Connector, connect
    from landline.errors import (
        AddressInUse,
        BufferFull,
        ConfigurationError,
        ConnectFailed,
        GaveUp,
        LandlineError,
        LineClosed,
        MessageTooLarge,
        NoHandler,
        ProtocolError,
        Rejected,
        RequestError,
        RequestLost,
        RequestTimeout,
        SessionLost,
    )
    from landline.line import Line
    from landline.room import WhenFull
    from landline.runner import run
    from landline.server import BroadcastResult, Group, Server
    from landline.session.auth import Anonymous, AuthClaim, ClientAuth, ServerAuth, SharedToken
    from landline.session.codes import Code
    from landline.session.events import Unconfirmed
    from landline.session.handshake import Limits
    from landline.session.liveness import Heartbeat
    from landline.session.session import SendBuffer
    from landline.transports import DEFAULT_PORT, Endpoint, TransportOptions, parse_url

__version__ = "0.1.0"

# Loaded when first used, so that the command line, which needs none of these, starts fast (PEP 562).
_HOMES = {
    "landline.admission": ("Admission",),
    "landline.asgi_app": ("asgi",),
    "landline.backoff": ("Backoff",),
    "landline.client": ("Connector", "connect"),
    "landline.errors": (
        "AddressInUse",
        "BufferFull",
        "ConfigurationError",
        "ConnectFailed",
        "GaveUp",
        "LandlineError",
        "LineClosed",
        "MessageTooLarge",
        "NoHandler",
        "ProtocolError",
        "Rejected",
        "RequestError",
        "RequestLost",
        "RequestTimeout",
        "SessionLost",
    ),
    "landline.changes": ("LineState", "LossKind", "StateChange"),
    "landline.line": ("Line",),
    "landline.room": ("WhenFull",),
    "landline.runner": ("run",),
    "landline.server": ("BroadcastResult", "Group", "Server"),
    "landline.session.auth": ("Anonymous", "AuthClaim", "ClientAuth", "ServerAuth", "SharedToken"),
    "landline.session.codes": ("Code",),
    "landline.session.events": ("Unconfirmed",),
    "landline.session.handshake": ("Limits",),
    "landline.session.liveness": ("Heartbeat",),
    "landline.session.session": ("SendBuffer",),
    "landline.transports": ("DEFAULT_PORT", "Endpoint", "TransportOptions", "parse_url"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "DEFAULT_PORT",
    "AddressInUse",
    "Admission",
    "Anonymous",
    "AuthClaim",
    "Backoff",
    "BroadcastResult",
    "BufferFull",
    "ClientAuth",
    "Code",
    "ConfigurationError",
    "ConnectFailed",
    "Connector",
    "Endpoint",
    "GaveUp",
    "Group",
    "Heartbeat",
    "LandlineError",
    "Limits",
    "Line",
    "LineClosed",
    "LineState",
    "LossKind",
    "MessageTooLarge",
    "NoHandler",
    "ProtocolError",
    "Rejected",
    "RequestError",
    "RequestLost",
    "RequestTimeout",
    "SendBuffer",
    "Server",
    "ServerAuth",
    "SessionLost",
    "SharedToken",
    "StateChange",
    "TransportOptions",
    "Unconfirmed",
    "WhenFull",
    "__version__",
    "asgi",
    "connect",
    "parse_url",
    "run",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'landline' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
