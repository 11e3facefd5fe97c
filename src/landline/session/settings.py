"""What each side chooses: limits, send buffer, heartbeat (``docs/protocol.md`` §4.2, §6)."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from landline.errors import ConfigurationError
from landline.session.constants import FRAGMENT_BYTES, SECONDS_MAX, SECONDS_MIN

Seconds = Annotated[float, Meta(ge=SECONDS_MIN, le=SECONDS_MAX)]


class Limits(msgspec.Struct, frozen=True):
    """What one side holds for the other. Each side announces its own; senders respect those of the peer.

    :raises ConfigurationError: when a value is out of range.
    """

    message_bytes: Annotated[int, Meta(ge=1024, le=256 * 1024 * 1024)] = 4 * 1024 * 1024
    """The largest message accepted, name and body together."""
    window_bytes: Annotated[int, Meta(ge=FRAGMENT_BYTES * 4, le=1024 * 1024 * 1024)] = 8 * 1024 * 1024
    """The bytes of frames that may be sent and not yet acknowledged."""
    window_frames: Annotated[int, Meta(ge=128, le=1_000_000)] = 16_384
    """The number of frames that may be sent and not yet acknowledged."""

    def __post_init__(self) -> None:
        # msgspec checks the annotations only when it decodes. Without this check, the peer would refuse the limits.
        for field in _LIMITS:
            value = getattr(self, field.name)
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                raise ConfigurationError(f"Limits({field.name}={value!r}): {error}") from error


_LIMITS: Final = msgspec.structs.fields(Limits)


class SendBuffer(msgspec.Struct, frozen=True):
    """How much one session holds for its peer, waiting or unacknowledged, before senders must wait.

    :raises ConfigurationError: when the buffer is too small for 4 fragments or 128 messages.
    """

    size_bytes: int = 16 * 1024 * 1024
    messages: int = 32_768

    def __post_init__(self) -> None:
        if self.size_bytes < 4 * FRAGMENT_BYTES or self.messages < 128:
            raise ConfigurationError(
                f"a send buffer of {self.size_bytes} bytes and {self.messages} messages is too small; "
                f"use at least {4 * FRAGMENT_BYTES} bytes and 128 messages"
            )


class Heartbeat(msgspec.Struct, frozen=True):
    """The heartbeat that a server sets: a dead peer is noticed within ``interval_s + timeout_s`` of its last byte.

    :raises ConfigurationError: when a value is out of range.
    """

    interval_s: Seconds = 10.0
    """Seconds between two pings, 0.01 to 86,400."""
    timeout_s: Seconds = 5.0
    """Seconds that a peer may stay silent after an interval without traffic, 0.01 to 86,400."""

    def __post_init__(self) -> None:
        for seconds in (self.interval_s, self.timeout_s):
            if not SECONDS_MIN <= seconds <= SECONDS_MAX:
                raise ConfigurationError(
                    f"Heartbeat(interval_s={self.interval_s:g}, timeout_s={self.timeout_s:g}): "
                    f"use {SECONDS_MIN:g} to {SECONDS_MAX:g} seconds"
                )
