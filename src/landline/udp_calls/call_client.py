"""The client of a call, from its first datagram to the reply (``docs/protocol.md`` §13.4). Sans-I/O."""

from __future__ import annotations

from typing import Final

from landline.errors import ProtocolError
from landline.session.handshake import RandomSource
from landline.udp_calls.wire import (
    CALL_ID_BYTES,
    NONCE_BYTES,
    Aead,
    Call,
    DatagramKind,
    Reply,
    Retry,
    check_call,
    decode_reply,
    decode_retry,
    encode_call,
)

RESEND_FIRST_S: Final = 0.5
"""The delay before the first repetition; each further one doubles it. STUN and SIP use the same (RFC 8489 §6.2.1)."""
RESEND_CAP_S: Final = 8.0
RESEND_SPREAD: Final = 0.5
"""Jitter: each delay is longer by a random part of this share, so that simultaneous clients spread out."""
COOKIES_MAX: Final = 8
"""How many cookies a client accepts from the server during one call."""
CLOCK_DRIFT: Final = 1.001
"""An upper limit of how much faster one clock runs than another: NTP slews by at most 500 ppm (adjtimex(2))."""


class ClientCall:
    """One call, which is repeated until it is answered.

    Until :attr:`reply` or :attr:`is_lost` is set, send :meth:`data_to_send` whenever :attr:`due` has come, and pass
    received datagrams to :meth:`receive_datagram`. ``now`` must come from a clock that continues while the machine
    sleeps. Otherwise a server that has restarted during the sleep could be taken for the one that got the call.

    :param cookie: a cookie of the server from an earlier call, or nothing.
    :raises landline.MessageTooLarge: if the call does not fit into one datagram.
    :raises landline.ConfigurationError: for an invalid name or identity.
    """

    __slots__ = (
        "_aead",
        "_call_id",
        "_cookies_left",
        "_datagram",
        "_nonce",
        "_random",
        "_request",
        "_sent",
        "cookie",
        "due",
        "exposed_at",
        "is_lost",
        "reply",
    )

    def __init__(
        self,
        *,
        aead: Aead,
        random: RandomSource,
        now: float,
        name: str,
        body: bytes,
        is_packed: bool,
        identity: str = "",
        cookie: bytes = b"",
    ) -> None:
        check_call(name, body, identity)
        self._aead = aead
        self._random = random
        self._call_id = random.randbytes(CALL_ID_BYTES)
        self._request = (name, body, is_packed, identity)
        self._cookies_left = COOKIES_MAX
        self.due: float = now
        """The time of the next datagram."""
        self.exposed_at: float | None = None
        """The time when it was first sent with a cookie. Before that, no server can have run it."""
        self.reply: Reply | None = None
        """The reply of the server, or ``None``."""
        self.is_lost: bool = False
        """Whether the server may have run the call and lost its record, so that a repetition could run it twice."""
        self._use_cookie(cookie, now)

    def data_to_send(self, now: float) -> bytes:
        """Return the datagram to send now, and set :attr:`due` for the next one."""
        if self.cookie and self.exposed_at is None:
            self.exposed_at = now
        wait_s = min(RESEND_CAP_S, RESEND_FIRST_S * 2.0 ** min(self._sent, 10))
        self._sent += 1
        self.due = now + wait_s * (1.0 + RESEND_SPREAD * self._random.random())
        return self._datagram

    def receive_datagram(self, datagram: bytes, now: float) -> bool:
        """Receive a datagram. Return whether it is the server's answer to this call; any other one has no effect.

        :raises landline.ProtocolError: if the authenticated server violates the protocol.
        """
        try:
            opened = self._aead.open(datagram)
        except ProtocolError:
            return False  # UDP delivers datagrams of any sender.
        if opened.call_id != self._call_id or opened.kind is DatagramKind.CALL or self.is_over:
            return False
        if opened.kind is DatagramKind.REPLY:
            self.reply = decode_reply(opened.text)
        else:
            self._receive_retry(decode_retry(opened.text), now)
        return True

    @property
    def is_over(self) -> bool:
        """Whether no more datagrams are to be sent."""
        return self.reply is not None or self.is_lost

    def _receive_retry(self, retry: Retry, now: float) -> None:
        if retry.answered != self._nonce or self._cookies_left == 0:
            return  # It answers a datagram with another cookie, which another RETRY has answered already.
        # The server remembers for retry.remembered_s. If that covers the time since the call was first sent with a
        # cookie, it has accepted no copy. Otherwise it may have run one, and has restarted or dropped its record since.
        if self.exposed_at is not None and (now - self.exposed_at) * CLOCK_DRIFT > retry.remembered_s:
            self.is_lost = True
            return
        self._cookies_left -= 1
        self._use_cookie(retry.cookie, now)

    def _use_cookie(self, cookie: bytes, now: float) -> None:
        name, body, is_packed, identity = self._request
        self.cookie: bytes = cookie
        self._nonce = self._random.randbytes(NONCE_BYTES)
        text = encode_call(Call(name, body, is_packed, identity, cookie))
        self._datagram = self._aead.seal(DatagramKind.CALL, self._call_id, self._nonce, text)
        self._sent = 0
        self.due = now
