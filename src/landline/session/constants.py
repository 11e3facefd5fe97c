"""Numbers of the protocol and limits of a session (``docs/protocol.md`` §2 to §6). No code."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

PROTOCOL_VERSION: Final = 1


class Kind(IntEnum):
    """The kind of a frame (§3)."""

    CHALLENGE = 1
    HELLO = 2
    WELCOME = 3
    REJECT = 4
    DATA = 16
    ACK = 17
    PING = 18
    PONG = 19
    DATAGRAM = 20
    EOF = 21
    BYE = 22
    NOTICE = 23


# Flags of a DATA frame

FLAG_MORE: Final = 0x01
"""More fragments of this message follow on the same lane."""
FLAG_BULK: Final = 0x02
"""The message travels on the bulk lane, which normal messages overtake."""
FLAG_PACKED: Final = 0x04
"""The body is MessagePack; without this flag it is raw bytes."""
FLAGS_KNOWN: Final = FLAG_MORE | FLAG_BULK | FLAG_PACKED

# Sizes on the wire

LENGTH_BYTES: Final = 4
"""The length field at the start of each frame. It counts the kind and the body, not itself."""
HANDSHAKE_BYTES_MAX: Final = 8 * 1024
"""The largest frame before WELCOME: the memory that a peer can make this side hold before it is authenticated."""
FRAGMENT_BYTES: Final = 16 * 1024
"""The largest payload of one DATA frame. A heartbeat that waits for one such frame takes 2 s at 64 kbit/s."""
FRAME_BYTES_MAX: Final = FRAGMENT_BYTES + 1024
"""The largest frame, without its length field. A larger one ends the session before anything of it is buffered. The
kilobyte above the fragment is for the header and the name."""
NAME_BYTES_MAX: Final = 255
DATAGRAM_BYTES_MAX: Final = 1200
"""The largest body of a DATAGRAM frame, name included. QUIC requires paths that carry UDP payloads of this size
(RFC 9000, section 14), so a datagram fits one packet on every path that carries a few bytes more."""

# Handshake

NONCE_BYTES: Final = 32
SESSION_ID_BYTES: Final = 16
SECRET_BYTES: Final = 32
IDENTITY_BYTES_MAX: Final = 200
REASON_CHARACTERS_MAX: Final = 500
HANDSHAKE_TIMEOUT_S: Final = 5.0

# Sending

WRITE_BYTES: Final = 64 * 1024
"""About how much is passed to the transport at once. Control frames wait for no more than this."""
PAUSED_CONTROL_FRAMES_MAX: Final = 8
"""Control frames written to a transport that is paused. More would let a peer that never reads fill its buffer."""
FRAME_OVERHEAD_BYTES: Final = 64
"""The memory that Python needs for one frame in the replay buffer, beyond its bytes."""
WAITING_OVERHEAD_BYTES: Final = 384
"""The same for a message in the send queue. Both were measured with messages of a few bytes and rounded up."""

# Receiving

READ_BYTES_MAX: Final = 256 * 1024
"""The bytes parsed in one step where the step is limited. The event loops read as much at once, and copying the
bodies takes a tenth of a millisecond."""
ACK_DELAY_S: Final = 0.1
"""How long an acknowledgement waits, so that one frame acknowledges several messages."""
ACK_FRAMES: Final = 64
"""An acknowledgement is sent at once for this many frames,"""
ACK_WINDOW_SHARE: Final = 8
"""... or for this part (one eighth) of the receive window."""
REDUNDANT_WINDOW_S: Final = 1.0
"""The period in which redundant frames are counted."""
REDUNDANT_FRAMES_MAX: Final = 1000
"""Redundant frames in one period; more are refused. A correct peer sends a few after a resume. Each costs one or
two microseconds."""
SMALL_FRAGMENT_BYTES: Final = 1024
"""A fragment with a smaller payload counts as a redundant frame, unless it is the last of its message."""
UNACKED_OVERHEAD_BYTES: Final = 192
"""The memory that Python needs for a message that is received and not acknowledged. Measured with messages of a few
bytes and rounded up."""

# Datagrams

DATAGRAMS_WAITING_MAX: Final = 64
"""Datagrams that wait for the next write, at the end of this iteration of the event loop;"""
DATAGRAM_BYTES_WAITING_MAX: Final = 32 * 1024
"""... and their bytes, so that data after them does not wait long."""
DATAGRAMS_UNREAD_MAX: Final = 1024
"""Received datagrams that wait for the owner, who fetches them after each read. Without this limit, tiny datagrams
would take many times the memory of the bytes read."""
DATAGRAMS_WINDOW_S: Final = 1.0
"""The period in which datagrams are counted."""
DATAGRAMS_MAX: Final = 10_000
"""Datagrams sent, and datagrams accepted from the peer, in one period; more are dropped. Ten times the rate of a game,
a meter or a microphone, and a few hundredths of a core for the receiver."""
DATAGRAMS_REFUSED: Final = 2 * DATAGRAMS_MAX + 1
"""This many datagrams of a peer in one period end the session. Two periods of a correct sender may fall into one of the
receiver."""

# Heartbeat

SUSPECT_SHARE: Final = 0.4
"""The part of the timeout after which a silent peer is suspected."""
IDLE_FACTOR: Final = 1.1
"""The heartbeat follower pings only after this many intervals. On a healthy link the pings of the leader suffice, and
each interval costs one ping, not two."""
LAG_TOLERANCE_S: Final = 0.5
"""A timer that fires later than this means that this process was busy, stopped or suspended."""
READ_FIRST_S: Final = 0.02
"""A deadline that has passed is checked once more after this time: enough for the event loop to read what arrived."""
PINGS_PER_INTERVAL_WARN: Final = 20
PINGS_PER_INTERVAL_MAX: Final = 40
SECONDS_MIN: Final = 0.01
"""The smallest interval and timeout. It prevents a careless or hostile server from making its clients ping without
pause."""
SECONDS_MAX: Final = 86_400.0
