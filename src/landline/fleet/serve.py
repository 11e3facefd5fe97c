"""A whole control server: storage, the lines of the agents, the API for the operators, put together."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from landline import Endpoint, Heartbeat, Server, SharedToken
from landline.fleet.control import Control
from landline.fleet.paths import make_private_directory
from landline.fleet.storage import Storage
from landline.fleet.wake import MagicPackets, Waker
from landline.fleet.web.serve import ApiServer

RESUME_WINDOW_S = 60.0
"""How long a machine may be without a connection before it counts as offline."""
STOP_RETRY_AFTER_S = 2.0
STOP_SPREAD_S = 8.0
"""When the control server stops, agents come back after this: it may just be restarting."""


class ControlPlan(msgspec.Struct, kw_only=True):
    """How to run a control server."""

    data: Path
    listen: str
    socket: Path
    http: tuple[str, int] | None = None
    heartbeat: Heartbeat = Heartbeat()
    waker: Waker = MagicPackets()


class RunningControl(msgspec.Struct):
    """A control server that runs."""

    control: Control
    server: Server
    agents: Endpoint
    agents_token: str
    operators_token: str
    http: tuple[str, int] | None


@contextlib.asynccontextmanager
async def control_server(plan: ControlPlan) -> AsyncIterator[RunningControl]:
    """Runs a control server while it is entered.

    Raises :class:`StorageError`, :class:`landline.AddressInUse`, :class:`landline.ConfigurationError`,
    :class:`landline.fleet.web.serve.CannotListen` and :class:`landline.fleet.paths.UnsafeDirectory`; then nothing
    was started. Leaving closes in order: operators first, then agents, then the database.
    """
    make_private_directory(plan.data)
    agents_token = token_file(plan.data / "agents.token")
    operators_token = token_file(plan.data / "operators.token")
    storage = await Storage.open(plan.data / "landline.db")
    try:
        server = Server(
            auth=SharedToken(agents_token),
            heartbeat=plan.heartbeat,
            resume_window_s=RESUME_WINDOW_S,
            name="landline control",
        )
        control = await Control.start(server, storage, waker=plan.waker)
        try:
            async with (
                server.listen(plan.listen) as endpoint,
                ApiServer(control, unix_path=plan.socket, tcp=plan.http, token=operators_token) as api,
            ):
                control.agents_url = str(endpoint)
                try:
                    yield RunningControl(
                        control, server, endpoint, agents_token, operators_token, api.tcp_address
                    )
                finally:
                    control.close_readers()
                    await server.close(retry_after_s=STOP_RETRY_AFTER_S, spread_s=STOP_SPREAD_S)
        finally:
            await control.stop()
    finally:
        await storage.close()


def token_file(path: Path) -> str:
    """The secret kept in a file for its owner only; made on first use.

    Raises :class:`OSError` when it cannot be read or written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    return token
