"""The settings of a server."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from landline.errors import ConfigurationError
from landline.server.admission import Admission
from landline.server.memory_limit import MEMORY_BYTES_MIN
from landline.session.auth import ServerAuth
from landline.session.handshake import RandomSource
from landline.session.settings import Heartbeat, Limits, SendBuffer


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of :class:`landline.Server`, checked and with their defaults."""

    auth: ServerAuth
    heartbeat: Heartbeat
    max_lines: int
    resume_window_s: float
    limits: Limits
    send_buffer: SendBuffer
    memory_bytes: int
    admission: Admission
    remembered_identities: int
    name: str
    clock: Callable[[], float]
    random: RandomSource

    def __post_init__(self) -> None:
        if self.max_lines < 1:
            raise ConfigurationError(f"Server(max_lines={self.max_lines}): it must be at least 1")
        if not 0 <= self.resume_window_s <= 86_400:
            raise ConfigurationError(
                f"Server(resume_window_s={self.resume_window_s:g}): it must be 0 to 86400 seconds"
            )
        if self.memory_bytes < MEMORY_BYTES_MIN:
            raise ConfigurationError(
                f"Server(memory_bytes={self.memory_bytes}): it must be at least {MEMORY_BYTES_MIN}"
            )
        if self.remembered_identities < 0:
            raise ConfigurationError(
                f"Server(remembered_identities={self.remembered_identities}): it must be >= 0 (0 disables)"
            )
