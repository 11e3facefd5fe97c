"""The server of calls: it recognizes new calls and answers repeated ones (``docs/protocol.md`` §13.5). Sans-I/O.

Proof that no handler runs twice, whatever the network, or an attacker with recorded datagrams, does. Suppose a call is
accepted at t₁ and again at t₂. Its record exists from t₁ on while the handler runs, and then until it is dropped; so it
was dropped before t₂. Dropping the record moves ``_complete_since`` after the last time it was touched. Cookies issued
before that are refused, so the cookie of the copy accepted at t₂ was issued after t₁. Only the client can send the call
with a newer cookie, and it got that cookie in a RETRY to this call. If the record existed when the RETRY was sent, it
was touched then, or later when the call was answered; dropping it made that cookie invalid too. If the record no longer
existed, the RETRY reported that the server remembers less than the time since the call was first sent with a cookie,
and the client does not repeat the call. A server that restarts has a new key for cookies, and remembers nothing from
before its start.
"""

from __future__ import annotations

import hmac
from collections import Counter, OrderedDict
from typing import Final

import msgspec

from landline.codes import Operation
from landline.errors import ProtocolError
from landline.session.handshake import RandomSource
from landline.texts import safe_text
from landline.udp_calls import CallCounts
from landline.udp_calls.wire import (
    COOKIE_BYTES,
    DATAGRAM_BYTES_MAX,
    ERROR_CODE_CHARACTERS_MAX,
    ERROR_TEXT_CHARACTERS_MAX,
    NONCE_BYTES,
    Aead,
    Call,
    DatagramKind,
    OpenedDatagram,
    Reply,
    Retry,
    decode_call,
    encode_reply,
    encode_retry,
    reply_bytes,
)

COOKIE_LIFETIME_S: Final = 600.0
"""How long a proof of address is valid, in seconds."""
CALLS_REMEMBERED_MAX: Final = 65_536
REPLIES_REMEMBERED_BYTES_MAX: Final = 16 * 1024 * 1024
REPEATS_MAX: Final = 16
"""How often an answer is repeated: more than a client repeats a call in a minute, and little for a replay attack."""
RUNNING_MAX: Final = 1024
RUNNING_PER_ADDRESS_MAX: Final = 64
"""How many handlers run at the same time, for all clients and for one IP address."""


class NewCall(msgspec.Struct, frozen=True):
    """A call to run now, once. Pass its reply to :meth:`CallServer.answer`."""

    call_id: bytes
    call: Call


class _Answered(msgspec.Struct):
    datagram: bytes
    touched_us: int
    repeats: int = 0


class CallServer:
    """The calls of one listening socket. ``now`` is in seconds, from a monotonic clock.

    :param random: generates the key of the cookies, and nonces; it must be cryptographically secure.
    :param counts: the counters to update.
    :param calls_max: how many answered calls are remembered.
    :param replies_bytes_max: the limit of the size of all remembered answers, in bytes.
    """

    def __init__(
        self,
        *,
        aead: Aead,
        random: RandomSource,
        now: float,
        counts: CallCounts,
        calls_max: int = CALLS_REMEMBERED_MAX,
        replies_bytes_max: int = REPLIES_REMEMBERED_BYTES_MAX,
    ) -> None:
        self.counts = counts
        self._aead = aead
        self._random = random
        self._cookie_key = random.randbytes(32)
        self._calls_max = calls_max
        self._replies_bytes_max = replies_bytes_max
        self._running: dict[bytes, str] = {}
        self._running_of: Counter[str] = Counter()
        # Ordered by touched_us.
        self._answered: OrderedDict[bytes, _Answered] = OrderedDict()
        self._replies_bytes = 0
        # Every call accepted at this time or later is remembered. In whole microseconds, as in cookies, so that the
        # comparison with the time of a cookie needs no rounding.
        self._complete_since_us = _microseconds(now)

    def receive_datagram(self, datagram: bytes, address: str, now: float) -> bytes | NewCall | None:
        """Receive a datagram from an IP address. Return a datagram to send back, a call to run, or ``None``."""
        try:
            opened = self._aead.open(datagram)
            if opened.kind is not DatagramKind.CALL:
                raise ProtocolError(f"unexpected {opened.kind.name} at a server")
            call = decode_call(opened.text)
        except ProtocolError:
            # No answer: a sender without the key can neither trigger traffic nor detect the server.
            self.counts.unreadable += 1
            return None
        now_us = _microseconds(now)
        self._forget(now_us)
        if not self._accepts_cookie(call.cookie, address, now_us):
            return self._retry(opened, address, now_us)
        if opened.call_id in self._running:
            self.counts.ignored += 1
            return None
        answered = self._answered.get(opened.call_id)
        if answered is not None:
            return self._repeat(answered)
        if len(self._running) >= RUNNING_MAX or self._running_of[address] >= RUNNING_PER_ADDRESS_MAX:
            self.counts.refused += 1
            return None
        self._running[opened.call_id] = address
        self._running_of[address] += 1
        self.counts.accepted += 1
        return NewCall(opened.call_id, call)

    def answer(self, call_id: bytes, reply: Reply, now: float) -> bytes:
        """Return the datagram with the reply to a call that was run. It is remembered, and repeated for repeated calls.

        A reply that does not fit into a datagram is replaced by an error.
        """
        address = self._running.pop(call_id)
        self._running_of[address] -= 1
        if not self._running_of[address]:
            del self._running_of[address]
        self.counts.answered += 1
        text = encode_reply(_fitting(reply))
        datagram = self._aead.seal(DatagramKind.REPLY, call_id, self._random.randbytes(NONCE_BYTES), text)
        now_us = _microseconds(now)
        self._answered[call_id] = _Answered(datagram, now_us)
        self._replies_bytes += len(datagram)
        self._forget(now_us)
        return datagram

    @property
    def remembered(self) -> int:
        """The number of calls that are remembered: running ones, and answered ones."""
        return len(self._running) + len(self._answered)

    @property
    def held_bytes(self) -> int:
        """The size of all remembered answers, in bytes."""
        return self._replies_bytes

    def _repeat(self, answered: _Answered) -> bytes | None:
        if answered.repeats >= REPEATS_MAX:
            self.counts.ignored += 1
            return None
        answered.repeats += 1
        self.counts.repeated += 1
        return answered.datagram

    def _retry(self, opened: OpenedDatagram, address: str, now_us: int) -> bytes:
        self.counts.retried += 1
        answered = self._answered.get(opened.call_id)
        if answered is not None:
            # The cookie must not stay valid longer than the record of its call.
            answered.touched_us = now_us
            self._answered.move_to_end(opened.call_id)
        remembered_s = max(0, now_us - self._complete_since_us) / 1_000_000
        text = encode_retry(Retry(opened.nonce, remembered_s, self._cookie(address, now_us)))
        return self._aead.seal(DatagramKind.RETRY, opened.call_id, self._random.randbytes(NONCE_BYTES), text)

    def _forget(self, now_us: int) -> None:
        """Drop the oldest records, and with them every cookie with which their calls could be repeated."""
        oldest_us = now_us - int(COOKIE_LIFETIME_S * 1_000_000)
        while self._answered:
            call_id, first = next(iter(self._answered.items()))
            if (
                first.touched_us >= oldest_us
                and len(self._answered) <= self._calls_max
                and self._replies_bytes <= self._replies_bytes_max
            ):
                return
            del self._answered[call_id]
            self._replies_bytes -= len(first.datagram)
            self._complete_since_us = max(self._complete_since_us, first.touched_us + 1)

    def _cookie(self, address: str, issued_us: int) -> bytes:
        issued = issued_us.to_bytes(8, "big")
        return issued + hmac.digest(self._cookie_key, issued + address.encode(), "sha256")[: COOKIE_BYTES - 8]

    def _accepts_cookie(self, cookie: bytes, address: str, now_us: int) -> bool:
        if not cookie:
            return False
        issued_us = int.from_bytes(cookie[:8], "big")
        is_fresh = issued_us >= max(self._complete_since_us, now_us - int(COOKIE_LIFETIME_S * 1_000_000))
        return is_fresh and hmac.compare_digest(cookie, self._cookie(address, issued_us))


def _microseconds(now: float) -> int:
    return int(now * 1_000_000)


def _fitting(reply: Reply) -> Reply:
    """Return the reply, or an error if it does not fit into a datagram."""
    size = reply_bytes(reply.body)
    if size <= DATAGRAM_BYTES_MAX:
        return reply
    code = "too_large"
    text = f"the reply takes {size} bytes, more than a datagram ({DATAGRAM_BYTES_MAX}); call over tls:// or quic://"
    return error_reply(code, text)


def error_reply(code: str, text: str) -> Reply:
    """Return a REPLY with an error, shortened to fit into a datagram."""
    pair = (safe_text(code, ERROR_CODE_CHARACTERS_MAX), safe_text(text, ERROR_TEXT_CHARACTERS_MAX))
    return Reply(Operation.ERROR, msgspec.msgpack.encode(pair), is_packed=True)
