"""A whole control server: storage, the lines of the agents, the API for the operators, put together."""

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
"""How long a machine may be without a connection before it counts as offline."""
TOKEN_CHARACTERS_MIN = 16
"""A shorter token is no secret; the one made here has 43."""
STOP_RETRY_AFTER_S = 2.0
STOP_SPREAD_S = 8.0
"""When the control server stops, agents come back after this: it may just be restarting."""


class ControlServerOptions(msgspec.Struct, kw_only=True):
    """How to run a control server."""

    data: Path
    listen: str
    socket: Path
    announce: str | None = None
    """The name by which to announce it on the local network."""
    http: tuple[str, int] | None = None
    heartbeat: Heartbeat = Heartbeat()
    waker: Waker = MagicPackets()
    gone_grace_s: float = GONE_GRACE_S
    """How long a machine that said goodbye must stay away before its shutdown counts as done."""


class RunningControlServer(msgspec.Struct):
    """A control server that runs."""

    control: ControlServer
    server: Server
    agents: Endpoint
    agents_token: str
    operators_token: str
    http: tuple[str, int] | None


@contextlib.asynccontextmanager
async def run_control_server(options: ControlServerOptions) -> AsyncIterator[RunningControlServer]:
    """Runs a control server while it is entered.

    Raises :class:`StorageError`, :class:`landline.AddressInUse`, :class:`landline.ConfigurationError`,
    :class:`landline.fleet.web.listeners.CannotListen` and :class:`landline.fleet.paths.UnsafeDirectory`; then nothing
    was started. Leaving closes in order: operators first, then agents, then the database.
    """
    make_private_directory(options.data)
    async with contextlib.AsyncExitStack() as stack:
        # Called last: only a server that had started is said to have stopped.
        after_all = stack.enter_context(contextlib.ExitStack())
        # The database first: it admits one control server, so that nobody else makes these tokens now.
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
        endpoint = await stack.enter_async_context(_listening(server, options.listen, options.announce))
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


@contextlib.asynccontextmanager
async def _listening(server: Server, url: str, announce: str | None) -> AsyncIterator[Endpoint]:
    """Listens for agents while it is entered. Raises :class:`CannotListen` for what the system does not allow."""
    listening = server.listen(url, announce=announce)
    try:
        endpoint = await listening.__aenter__()
    except (AddressInUse, AnnounceFailed):
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        raise CannotListen(f"cannot listen on {url}: {reason.lower()}; choose another address") from error
    try:
        yield endpoint
    finally:
        await listening.__aexit__(None, None, None)


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
    """The secret kept in a file for its owner only; made on first use, whole or not at all.

    Raises :class:`OSError` when it cannot be read or written, :class:`landline.fleet.paths.UnsafePath` when another
    user could change it, :class:`landline.ConfigurationError` when what it holds is no secret.
    """
    try:
        token = read_private_file(path).decode().strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        write_private_file(path, f"{token}\n".encode())
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path} holds no token: it is not text; remove it to get a new one"
        ) from error
    if len(token) < TOKEN_CHARACTERS_MIN:
        raise ConfigurationError(
            f"{path} holds a token of less than {TOKEN_CHARACTERS_MIN} characters, which could be guessed; "
            "remove it to get a new one"
        )
    if warning := open_to_all(path, path.lstat().st_mode):
        logger.warning("%s", warning)
    return token
