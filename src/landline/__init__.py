"""Long-lived connections that do not lie: any transport, heartbeats both ways, reconnect by policy, and sessions
that survive their sockets, with every message once and in order.

The machine control system built on it is :mod:`landline.fleet`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landline.client.backoff import Backoff
    from landline.client.calls import call
    from landline.client.connector import Connector, connect
    from landline.codes import Code
    from landline.discovery.records import DiscoveredServer, discover
    from landline.errors import (
        AddressInUse,
        AnnounceFailed,
        BufferFull,
        ConfigurationError,
        ConnectFailed,
        FileChanged,
        FileError,
        FileRefused,
        FileStalled,
        GaveUp,
        LandlineError,
        LineClosed,
        MessageTooLarge,
        MissingExtra,
        NoHandler,
        ProtocolError,
        Rejected,
        RequestError,
        RequestLost,
        RequestTimeout,
        SendTimeout,
        SessionLost,
        Unconfirmed,
    )
    from landline.files.incoming_file import IncomingFile
    from landline.files.limits import FileLimits
    from landline.files.outgoing import send_file_to
    from landline.line.file_sender import FileProgress, FileReceipt
    from landline.line.flow_control import OverflowPolicy
    from landline.line.line import Line
    from landline.line.line_state import DisconnectCause, LineState, StateChange
    from landline.runtime.guarded_log import guarded_logger
    from landline.runtime.runner import run
    from landline.server.admission import Admission
    from landline.server.asgi import asgi
    from landline.server.groups import BroadcastResult, Group
    from landline.server.identity_tracker import IdentityState, IdentityStatus, IdentityTracker
    from landline.server.server import Server
    from landline.session.auth import (
        NO_IDENTITY,
        Anonymous,
        AuthClaim,
        ClientAuth,
        NoIdentity,
        ServerAuth,
        SharedToken,
    )
    from landline.session.settings import Heartbeat, Limits, SendBuffer
    from landline.texts import safe_text
    from landline.transports.options import TransportOptions
    from landline.transports.unix import bind_private_socket
    from landline.transports.urls import DEFAULT_PORT, Endpoint, parse_url
    from landline.udp_calls import CallCounts, CallPeer

__version__ = "0.1.0"

# Loaded when first used, so that the command line, which needs none of these, starts fast (PEP 562).
_HOMES = {
    "landline.server.admission": ("Admission",),
    "landline.discovery.records": ("DiscoveredServer", "discover"),
    "landline.server.asgi": ("asgi",),
    "landline.client.backoff": ("Backoff",),
    "landline.client.calls": ("call",),
    "landline.client.connector": ("Connector", "connect"),
    "landline.udp_calls": ("CallCounts", "CallPeer"),
    "landline.errors": (
        "AddressInUse",
        "AnnounceFailed",
        "BufferFull",
        "ConfigurationError",
        "ConnectFailed",
        "FileChanged",
        "FileError",
        "FileRefused",
        "FileStalled",
        "GaveUp",
        "LandlineError",
        "LineClosed",
        "MessageTooLarge",
        "MissingExtra",
        "NoHandler",
        "ProtocolError",
        "Rejected",
        "RequestError",
        "RequestLost",
        "RequestTimeout",
        "SendTimeout",
        "SessionLost",
        "Unconfirmed",
    ),
    "landline.files.limits": ("FileLimits",),
    "landline.line.file_sender": ("FileProgress", "FileReceipt"),
    "landline.files.incoming_file": ("IncomingFile",),
    "landline.files.outgoing": ("send_file_to",),
    "landline.line.line_state": ("LineState", "DisconnectCause", "StateChange"),
    "landline.server.groups": ("BroadcastResult", "Group"),
    "landline.line.line": ("Line",),
    "landline.runtime.guarded_log": ("guarded_logger",),
    "landline.server.identity_tracker": ("IdentityState", "IdentityStatus", "IdentityTracker"),
    "landline.line.flow_control": ("OverflowPolicy",),
    "landline.runtime.runner": ("run",),
    "landline.server.server": ("Server",),
    "landline.session.auth": (
        "NO_IDENTITY",
        "Anonymous",
        "AuthClaim",
        "ClientAuth",
        "NoIdentity",
        "ServerAuth",
        "SharedToken",
    ),
    "landline.codes": ("Code",),
    "landline.session.settings": ("Heartbeat", "Limits", "SendBuffer"),
    "landline.texts": ("safe_text",),
    "landline.transports.options": ("TransportOptions",),
    "landline.transports.unix": ("bind_private_socket",),
    "landline.transports.urls": ("DEFAULT_PORT", "Endpoint", "parse_url"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "DEFAULT_PORT",
    "NO_IDENTITY",
    "AddressInUse",
    "Admission",
    "AnnounceFailed",
    "Anonymous",
    "AuthClaim",
    "Backoff",
    "BroadcastResult",
    "BufferFull",
    "CallCounts",
    "CallPeer",
    "ClientAuth",
    "Code",
    "ConfigurationError",
    "ConnectFailed",
    "Connector",
    "DisconnectCause",
    "DiscoveredServer",
    "Endpoint",
    "FileChanged",
    "FileError",
    "FileLimits",
    "FileProgress",
    "FileReceipt",
    "FileRefused",
    "FileStalled",
    "GaveUp",
    "Group",
    "Heartbeat",
    "IdentityState",
    "IdentityStatus",
    "IdentityTracker",
    "IncomingFile",
    "LandlineError",
    "Limits",
    "Line",
    "LineClosed",
    "LineState",
    "MessageTooLarge",
    "MissingExtra",
    "NoHandler",
    "NoIdentity",
    "OverflowPolicy",
    "ProtocolError",
    "Rejected",
    "RequestError",
    "RequestLost",
    "RequestTimeout",
    "SendBuffer",
    "SendTimeout",
    "Server",
    "ServerAuth",
    "SessionLost",
    "SharedToken",
    "StateChange",
    "TransportOptions",
    "Unconfirmed",
    "__version__",
    "asgi",
    "bind_private_socket",
    "call",
    "connect",
    "discover",
    "guarded_logger",
    "parse_url",
    "run",
    "safe_text",
    "send_file_to",
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
