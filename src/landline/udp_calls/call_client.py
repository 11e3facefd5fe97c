"""The side that asks: one call, from its first datagram to its answer (``docs/protocol.md`` §13.4). Sans-I/O."""

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
"""Before the first repetition; doubled with each one. STUN and SIP begin with as much (RFC 8489, section 6.2.1)."""
RESEND_CAP_S: Final = 8.0
RESEND_SPREAD: Final = 0.5
"""Each wait is longer by a random part of this share, so that clients that began together do not stay together."""
COOKIES_MAX: Final = 8
"""How often the server may send us for another cookie during one call."""
CLOCK_DRIFT: Final = 1.001
"""Two clocks that NTP slews apart as fast as it may, 500 ppm each (adjtimex(2)), differ by less."""


class ClientCall:
    """One call that asks until it is answered.

    Send :meth:`data_to_send` when :attr:`due` has come, feed :meth:`receive_datagram`, until :attr:`reply` or
    :attr:`is_lost` is set. ``now`` must be on a clock that goes on while the machine sleeps: of two moments before and
    behind a sleep, a server that restarted meanwhile must not be taken for the one that was asked.

    :param cookie: one the server gave for an earlier call, or nothing.
    :raises landline.MessageTooLarge: when it does not fit one datagram.
    :raises landline.ConfigurationError: for a name or an identity that cannot be.
    """

    __slots__ = (
        "_aead",
        "_asked",
        "_call_id",
        "_cookies_left",
        "_datagram",
        "_nonce",
        "_random",
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
        self._asked = (name, body, is_packed, identity)
        self._cookies_left = COOKIES_MAX
        self.due = now
        """When to send next."""
        self.exposed_at: float | None = None
        """When it was first sent with a cookie. Until then no server can have run it."""
        self.reply: Reply | None = None
        """The answer, once there is one."""
        self.is_lost = False
        """Whether the server forgot what it did before, so that asking again could run the handler twice."""
        self._take_cookie(cookie, now)

    def data_to_send(self, now: float) -> bytes:
        """The datagram to send now; sets :attr:`due` for the next one."""
        if self.cookie and self.exposed_at is None:
            self.exposed_at = now
        wait_s = min(RESEND_CAP_S, RESEND_FIRST_S * 2.0 ** min(self._sent, 10))
        self._sent += 1
        self.due = now + wait_s * (1.0 + RESEND_SPREAD * self._random.random())
        return self._datagram

    def receive_datagram(self, datagram: bytes, now: float) -> bool:
        """Takes a datagram; returns whether it was the server's, about this call. Others change nothing.

        Raises :class:`landline.ProtocolError` when the server, proven to be it, says what has no meaning.
        """
        try:
            opened = self._aead.open(datagram)
        except ProtocolError:
            return False  # Anybody can send us anything.
        if opened.call_id != self._call_id or opened.kind is DatagramKind.CALL or self.is_over:
            return False
        if opened.kind is DatagramKind.REPLY:
            self.reply = decode_reply(opened.text)
        else:
            self._receive_retry(decode_retry(opened.text), now)
        return True

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be sent."""
        return self.reply is not None or self.is_lost

    def _receive_retry(self, retry: Retry, now: float) -> None:
        if retry.answered != self._nonce or self._cookies_left == 0:
            return  # To a datagram with another cookie, which another RETRY has answered.
        # The server as it is now would know of any copy that it accepted since it was first sent with a cookie. One
        # accepted before might have been run, by a server that has restarted or forgotten since.
        if self.exposed_at is not None and (now - self.exposed_at) * CLOCK_DRIFT > retry.remembered_s:
            self.is_lost = True
            return
        self._cookies_left -= 1
        self._take_cookie(retry.cookie, now)

    def _take_cookie(self, cookie: bytes, now: float) -> None:
        name, body, is_packed, identity = self._asked
        self.cookie = cookie
        self._nonce = self._random.randbytes(NONCE_BYTES)
        text = encode_call(Call(name, body, is_packed, identity, cookie))
        self._datagram = self._aead.seal(DatagramKind.CALL, self._call_id, self._nonce, text)
        self._sent = 0
        self.due = now
