"""The numbers of the session, written out once more: a changed constant or default must be changed on purpose."""

from typing import Any

import pytest

from landline.session import constants
from landline.session.bodies import Bye, Challenge, Hello, Notice, Reject
from landline.session.settings import Heartbeat, Limits, SendBuffer

EXPECTED = {
    "PROTOCOL_VERSION": 1,
    "FLAG_MORE": 1,
    "FLAG_BULK": 2,
    "FLAG_PACKED": 4,
    "FLAGS_KNOWN": 7,
    "LENGTH_BYTES": 4,
    "HANDSHAKE_BYTES_MAX": 8192,
    "FRAGMENT_BYTES": 16_384,
    "FRAME_BYTES_MAX": 17_408,
    "NAME_BYTES_MAX": 255,
    "DATAGRAM_BYTES_MAX": 1200,
    "NONCE_BYTES": 32,
    "SESSION_ID_BYTES": 16,
    "SECRET_BYTES": 32,
    "IDENTITY_BYTES_MAX": 200,
    "REASON_CHARACTERS_MAX": 500,
    "HANDSHAKE_TIMEOUT_S": 5.0,
    "WRITE_BYTES": 65_536,
    "PAUSED_CONTROL_FRAMES_MAX": 8,
    "FRAME_OVERHEAD_BYTES": 64,
    "WAITING_OVERHEAD_BYTES": 384,
    "READ_BYTES_MAX": 262_144,
    "ACK_DELAY_S": 0.1,
    "ACK_FRAMES": 64,
    "ACK_WINDOW_SHARE": 8,
    "REDUNDANT_WINDOW_S": 1.0,
    "REDUNDANT_FRAMES_MAX": 1000,
    "SMALL_FRAGMENT_BYTES": 1024,
    "UNACKED_OVERHEAD_BYTES": 192,
    "DATAGRAMS_WAITING_MAX": 64,
    "DATAGRAM_BYTES_WAITING_MAX": 32_768,
    "DATAGRAMS_UNREAD_MAX": 1024,
    "DATAGRAMS_WINDOW_S": 1.0,
    "DATAGRAMS_MAX": 10_000,
    "DATAGRAMS_REFUSED": 20_001,
    "SUSPECT_SHARE": 0.4,
    "IDLE_FACTOR": 1.1,
    "LAG_TOLERANCE_S": 0.5,
    "READ_FIRST_S": 0.02,
    "PINGS_PER_INTERVAL_WARN": 20,
    "PINGS_PER_INTERVAL_MAX": 40,
    "SECONDS_MIN": 0.01,
    "SECONDS_MAX": 86_400.0,
}


def test_every_constant_has_its_number() -> None:
    found = {name: value for name, value in vars(constants).items() if name.isupper()}
    assert found == EXPECTED


@pytest.mark.parametrize(
    ("struct", "defaults"),
    [
        (Limits(), {"message_bytes": 4_194_304, "window_bytes": 8_388_608, "window_frames": 16_384}),
        (SendBuffer(), {"size_bytes": 16_777_216, "messages": 32_768}),
        (Heartbeat(), {"interval_s": 10.0, "timeout_s": 5.0}),
        (Challenge(1, bytes(32)), {"server": ""}),
        (Hello(1, bytes(32), Limits()), {"auth": None, "resume": None, "client": ""}),
        (Reject(100, "why"), {"retry_after_s": None, "spread_s": 0.0}),
        (Bye(200), {"reason": "", "retry_after_s": None, "spread_s": 0.0, "alternatives": ()}),
        (Notice(206), {"reason": ""}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_defaults(struct: Any, defaults: dict[str, Any]) -> None:
    assert {name: getattr(struct, name) for name in defaults} == defaults


@pytest.mark.parametrize("size_bytes", [65_535, 65_536])
@pytest.mark.parametrize("messages", [127, 128])
def test_the_smallest_send_buffer(size_bytes: int, messages: int) -> None:
    if (size_bytes, messages) == (65_536, 128):
        assert SendBuffer(size_bytes=size_bytes, messages=messages).messages == 128
    else:
        with pytest.raises(ValueError, match="use at least 65536 bytes and 128 messages"):
            SendBuffer(size_bytes=size_bytes, messages=messages)


@pytest.mark.parametrize("seconds", [0.01, 86_400.0])
def test_the_bounds_of_a_heartbeat_are_inclusive(seconds: float) -> None:
    heartbeat = Heartbeat(interval_s=seconds, timeout_s=seconds)
    assert (heartbeat.interval_s, heartbeat.timeout_s) == (seconds, seconds)
