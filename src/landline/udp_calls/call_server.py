"""The side that answers: which datagram is a new call, and what the others get (``docs/protocol.md`` §13.5). Sans-I/O.

Why no handler runs twice, whatever the network does with datagrams and whoever records them. Let a call be accepted
at t₁ and again at t₂. It is known from t₁ on while it runs, and then until it is forgotten; so it was forgotten
before t₂. Forgetting it moves ``_complete_since`` behind the last moment it was touched, and so the cookie it came
with at t₂ was issued later than t₁, because older ones are no longer taken. Only the client can put a later cookie
around the call, and it got that one in a RETRY about this call. If the call was known when that was sent, it was
touched then, or later when it was answered, and to forget it made that cookie invalid as well. If it was not known any
more, the RETRY said that the server remembers less than the time since the call was first sent with a cookie, and the
client does not ask again. A server that was started again has another key for its cookies, and remembers nothing
from before its start.
"""

from __future__ import annotations

import hmac
from collections import Counter, OrderedDict
from typing import Final

import msgspec

from landline.codes import Operation
from landline.errors import ProtocolError
from landline.session.handshake import RandomSource
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
"""For how long an address counts as proven."""
CALLS_REMEMBERED_MAX: Final = 65_536
REPLIES_REMEMBERED_BYTES_MAX: Final = 16 * 1024 * 1024
REPEATS_MAX: Final = 16
"""How often an answer is sent again: more than a client asks in a minute, and little for who replays its datagram."""
RUNNING_MAX: Final = 1024
RUNNING_PER_ADDRESS_MAX: Final = 64
"""Handlers at work at once, for all callers and for one IP address."""


class NewCall(msgspec.Struct, frozen=True):
    """A call to be run now, once; then :meth:`CallServer.answer` is to be called."""

    call_id: bytes
    call: Call


class _Answered(msgspec.Struct):
    datagram: bytes
    touched_us: int
    repeats: int = 0


class CallServer:
    """All calls of one listening socket. ``now`` is in seconds on a clock that only goes forward.

    :param random: where the key of the cookies and nonces come from; they must be secret.
    :param counts: what happens is counted there.
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
        # In order of touched_us.
        self._answered: OrderedDict[bytes, _Answered] = OrderedDict()
        self._replies_bytes = 0
        # Every call accepted at this time or later is known. In whole microseconds, as in cookies, so that nothing
        # is rounded between a cookie's time and this.
        self._complete_since_us = _microseconds(now)

    def receive_datagram(self, datagram: bytes, address: str, now: float) -> bytes | NewCall | None:
        """Decides on a datagram from an IP address: a datagram to send back, a call to run, or nothing."""
        try:
            opened = self._aead.open(datagram)
            if opened.kind is not DatagramKind.CALL:
                raise ProtocolError(f"a {opened.kind.name} sent to a server")
            call = decode_call(opened.text)
        except ProtocolError:
            # Strangers get no answer: neither can they make us send anything, nor find out that we are here.
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
        """The datagram with the answer of a call that was run; it is kept, and sent again to who asks again.

        An answer that does not fit a datagram becomes an error that says so.
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
        """How many calls are known: under way, or answered and not forgotten."""
        return len(self._running) + len(self._answered)

    @property
    def held_bytes(self) -> int:
        """The size of all answers that are kept."""
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
            # The cookie must not outlive what we know of the call it is for.
            answered.touched_us = now_us
            self._answered.move_to_end(opened.call_id)
        remembered_s = max(0, now_us - self._complete_since_us) / 1_000_000
        text = encode_retry(Retry(opened.nonce, remembered_s, self._cookie(address, now_us)))
        return self._aead.seal(DatagramKind.RETRY, opened.call_id, self._random.randbytes(NONCE_BYTES), text)

    def _forget(self, now_us: int) -> None:
        """Forgets the oldest calls, and with them every cookie with which they could come again."""
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
    """The reply, or the error that stands for one that does not fit a datagram."""
    size = reply_bytes(reply.body)
    if size <= DATAGRAM_BYTES_MAX:
        return reply
    code = "too_large"
    text = f"the answer takes {size} bytes and a datagram {DATAGRAM_BYTES_MAX}: ask over tls:// or quic://"
    return error_reply(code, text)


def error_reply(code: str, text: str) -> Reply:
    """A REPLY that says what went wrong, shortened to what a datagram has room for."""
    pair = (_readable(code[:ERROR_CODE_CHARACTERS_MAX]), _readable(text[:ERROR_TEXT_CHARACTERS_MAX]))
    return Reply(Operation.ERROR, msgspec.msgpack.encode(pair), is_packed=True)


def _readable(text: str) -> str:
    """Half a surrogate pair, as file names that are not UTF-8 have them in Python, has no form in MessagePack."""
    return text.encode("utf-8", "replace").decode()
