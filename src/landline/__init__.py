"""Long-lived connections that do not lie: any transport, heartbeats both ways, reconnect by policy, and sessions
that survive their sockets, with every message once and in order.

The machine control system built on it is :mod:`landline.fleet`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landline.admission import Admission
    from landline.announcement import Announcement, discover
    from landline.asgi_app import asgi
    from landline.backoff import Backoff
    from landline.calls import call
    from landline.changes import LineState, LossKind, StateChange
    from landline.client import Connector, connect
    from landline.datagrams import CallCounts, Caller
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
        NoHandler,
        ProtocolError,
        Rejected,
        RequestError,
        RequestLost,
        RequestTimeout,
        SendTimeout,
        SessionLost,
    )
    from landline.files.decisions import FileLimits
    from landline.files.pace import FileProgress
    from landline.files.receiving import IncomingFile
    from landline.files.sending import send_file_to
    from landline.files.words import FileReceipt
    from landline.groups import BroadcastResult, Group
    from landline.line import Line
    from landline.logs import guarded_logger
    from landline.presence import Presence, PresenceInfo, PresenceState
    from landline.room import WhenFull
    from landline.runner import run
    from landline.server import Server
    from landline.session.auth import (
        NO_IDENTITY,
        Anonymous,
        AuthClaim,
        ClientAuth,
        NoIdentity,
        ServerAuth,
        SharedToken,
    )
    from landline.session.codes import Code
    from landline.session.events import Unconfirmed
    from landline.session.handshake import Limits
    from landline.session.liveness import Heartbeat
    from landline.session.sending import SendBuffer
    from landline.texts import safe_text
    from landline.transports import DEFAULT_PORT, Endpoint, TransportOptions, parse_url

__version__ = "0.1.0"

# Loaded when first used, so that the command line, which needs none of these, starts fast (PEP 562).
_HOMES = {
    "landline.admission": ("Admission",),
    "landline.announcement": ("Announcement", "discover"),
    "landline.asgi_app": ("asgi",),
    "landline.backoff": ("Backoff",),
    "landline.calls": ("call",),
    "landline.client": ("Connector", "connect"),
    "landline.datagrams": ("CallCounts", "Caller"),
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
        "NoHandler",
        "ProtocolError",
        "Rejected",
        "RequestError",
        "RequestLost",
        "RequestTimeout",
        "SendTimeout",
        "SessionLost",
    ),
    "landline.files.decisions": ("FileLimits",),
    "landline.files.pace": ("FileProgress",),
    "landline.files.receiving": ("IncomingFile",),
    "landline.files.sending": ("send_file_to",),
    "landline.files.words": ("FileReceipt",),
    "landline.changes": ("LineState", "LossKind", "StateChange"),
    "landline.groups": ("BroadcastResult", "Group"),
    "landline.line": ("Line",),
    "landline.logs": ("guarded_logger",),
    "landline.presence": ("Presence", "PresenceInfo", "PresenceState"),
    "landline.room": ("WhenFull",),
    "landline.runner": ("run",),
    "landline.server": ("Server",),
    "landline.session.auth": (
        "NO_IDENTITY",
        "Anonymous",
        "AuthClaim",
        "ClientAuth",
        "NoIdentity",
        "ServerAuth",
        "SharedToken",
    ),
    "landline.session.codes": ("Code",),
    "landline.session.events": ("Unconfirmed",),
    "landline.session.handshake": ("Limits",),
    "landline.session.liveness": ("Heartbeat",),
    "landline.session.sending": ("SendBuffer",),
    "landline.texts": ("safe_text",),
    "landline.transports": ("DEFAULT_PORT", "Endpoint", "TransportOptions", "parse_url"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "DEFAULT_PORT",
    "NO_IDENTITY",
    "AddressInUse",
    "Admission",
    "AnnounceFailed",
    "Announcement",
    "Anonymous",
    "AuthClaim",
    "Backoff",
    "BroadcastResult",
    "BufferFull",
    "CallCounts",
    "Caller",
    "ClientAuth",
    "Code",
    "ConfigurationError",
    "ConnectFailed",
    "Connector",
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
    "IncomingFile",
    "LandlineError",
    "Limits",
    "Line",
    "LineClosed",
    "LineState",
    "LossKind",
    "MessageTooLarge",
    "NoHandler",
    "NoIdentity",
    "Presence",
    "PresenceInfo",
    "PresenceState",
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
    "WhenFull",
    "__version__",
    "asgi",
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
