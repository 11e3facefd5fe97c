"""Runs a complete control server: storage, the listener for agents, and the API for operators."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

import landline
from landline import (
    AddressInUse,
    AnnounceFailed,
    ConfigurationError,
    Endpoint,
    Heartbeat,
    Limits,
    Server,
    SharedToken,
    guarded_logger,
)
from landline.fleet.control.clock import SteadyClock
from landline.fleet.control.control_server import ControlServer, ControlTiming
from landline.fleet.control.presence import GONE_GRACE_S
from landline.fleet.control.storage import Storage
from landline.fleet.control.wake_on_lan import MagicPackets, Waker
from landline.fleet.messages import MESSAGE_BYTES_MAX, WINDOW_BYTES
from landline.fleet.paths import make_private_directory, open_to_all
from landline.fleet.private_files import read_private_file, write_private_file
from landline.fleet.web.http_server import ApiServer
from landline.fleet.web.listeners import CannotListen

logger: Final = guarded_logger("landline.control")

RESUME_WINDOW_S = 60.0
"""How long a session outlives its connection. After that the machine counts as offline."""
TOKEN_CHARACTERS_MIN = 16
"""A shorter token could be guessed. Generated ones have 43 characters."""
STOP_RETRY_AFTER_S = 2.0
STOP_SPREAD_S = 8.0
"""When the control server stops, agents reconnect after these times: it may only be restarting."""


class ControlServerOptions(msgspec.Struct, kw_only=True):
    """Options of a control server."""

    data: Path
    listen: str
    socket: Path
    announce: str | None = None
    """The name to announce on the local network, if any."""
    http: tuple[str, int] | None = None
    heartbeat: Heartbeat = Heartbeat()
    waker: Waker = MagicPackets()
    gone_grace_s: float = GONE_GRACE_S
    """How long a machine that said goodbye must stay away before its shutdown counts as done."""


class RunningControlServer(msgspec.Struct):
    """A running control server."""

    control: ControlServer
    server: Server
    agents: Endpoint
    agents_token: str
    operators_token: str
    http: tuple[str, int] | None


@contextlib.asynccontextmanager
async def run_control_server(options: ControlServerOptions) -> AsyncIterator[RunningControlServer]:
    """Run a control server while the context is entered.

    Raises :class:`StorageError`, :class:`landline.AddressInUse`, :class:`landline.ConfigurationError`,
    :class:`landline.fleet.web.listeners.CannotListen` and :class:`landline.fleet.paths.UnsafeDirectory`; then nothing
    was started. Leaving closes in order: operators first, then agents, then the database.
    """
    make_private_directory(options.data)
    async with contextlib.AsyncExitStack() as stack:
        # Called last, and only for a server that has started.
        after_all = stack.enter_context(contextlib.ExitStack())
        # The database first: it admits only one control server, so that no other process creates these tokens.
        storage = await Storage.open(options.data / "landline.db")
        stack.push_async_callback(storage.close)
        agents_token = token_file(options.data / "agents.token")
        operators_token = token_file(options.data / "operators.token")
        server = Server(
            auth=SharedToken(agents_token),
            heartbeat=options.heartbeat,
            resume_window_s=RESUME_WINDOW_S,
            limits=Limits(message_bytes=MESSAGE_BYTES_MAX, window_bytes=WINDOW_BYTES),
            name="landline control",
        )
        control = await ControlServer.start(
            server,
            storage,
            waker=options.waker,
            clock=SteadyClock(),
            timing=ControlTiming(gone_grace_s=options.gone_grace_s),
        )
        stack.push_async_callback(control.stop)
        control.server_id = read_server_id(options.data / "server-id")
        endpoint = await _listen(server, options.listen, options.announce)
        stack.push_async_callback(server.close)
        api = await stack.enter_async_context(
            ApiServer(control, unix_path=options.socket, tcp=options.http, token=operators_token)
        )
        control.agents_url = str(endpoint)
        http = None if api.tcp_address is None else "{}:{}".format(*api.tcp_address)
        control.events.event(
            "control_started",
            version=landline.__version__,
            agents=str(endpoint),
            socket=str(options.socket),
            http=http,
            machines=len(control.machines()),
        )
        after_all.callback(control.events.event, "control_stopped")
        try:
            yield RunningControlServer(
                control, server, endpoint, agents_token, operators_token, api.tcp_address
            )
        finally:
            control.events.event("control_stopping", machines=len(server.lines))
            control.close_subscriptions()
            await server.close(retry_after_s=STOP_RETRY_AFTER_S, spread_s=STOP_SPREAD_S)


async def _listen(server: Server, url: str, announce: str | None) -> Endpoint:
    """Listen for agents until the server is closed. Raise :class:`CannotListen` if the operating system refuses."""
    try:
        return await server.listen(url, announce=announce)
    except (AddressInUse, AnnounceFailed):
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        raise CannotListen(f"cannot listen on {url}: {reason.lower()}; choose another address") from error


def read_server_id(path: Path) -> str:
    """Return the id of a control server's data, stored in a file of its owner; made on first use.

    Raise :class:`OSError` when it cannot be read or written, and :class:`landline.fleet.paths.UnsafePath` when another
    user could change it.
    """
    try:
        server_id = read_private_file(path).decode(errors="replace").strip()
    except FileNotFoundError:
        server_id = ""
    if not server_id:
        server_id = secrets.token_hex(16)
        write_private_file(path, f"{server_id}\n".encode())
    return server_id


def token_file(path: Path) -> str:
    """Return the secret in a private file. Create the file on first use, completely or not at all.

    :raises OSError: if it cannot be read or written.
    :raises landline.fleet.paths.UnsafePath: if another user could change it.
    :raises landline.ConfigurationError: if it does not contain a secret.
    """
    try:
        token = read_private_file(path).decode().strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        write_private_file(path, f"{token}\n".encode())
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path} does not contain a token: it is not text; remove it to get a new one"
        ) from error
    if len(token) < TOKEN_CHARACTERS_MIN:
        raise ConfigurationError(
            f"{path} contains a token of less than {TOKEN_CHARACTERS_MIN} characters, which could be guessed; "
            "remove it to get a new one"
        )
    if warning := open_to_all(path, path.lstat().st_mode):
        logger.warning("%s", warning)
    return token
