"""Datagrams of calls: their layout, their limits, and their seal (``docs/protocol.md`` §13.1 to §13.3)."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from landline.codes import Operation
from landline.errors import ConfigurationError, MessageTooLarge, ProtocolError
from landline.session.auth import IDENTITY_BYTES_MAX
from landline.session.frames import FLAG_PACKED, NAME_BYTES_MAX

DATAGRAM_VERSION: Final = 1
DATAGRAM_BYTES_MAX: Final = 1200
"""UDP payload of one datagram: what every path carries unfragmented, as QUIC assumes as well (RFC 9000, section 14)."""
CALL_ID_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
HEADER_BYTES: Final = 2 + CALL_ID_BYTES + NONCE_BYTES
COOKIE_BYTES: Final = 24
ERROR_CODE_CHARACTERS_MAX: Final = 40
ERROR_TEXT_CHARACTERS_MAX: Final = 200
"""With four bytes for each character, an error still fits a datagram."""

_HEAD: Final = Struct(f">BB{CALL_ID_BYTES}s{NONCE_BYTES}s")
"""version · kind · call id · nonce"""
_RETRY: Final = Struct(f">{NONCE_BYTES}sQ{COOKIE_BYTES}s")
"""nonce of the CALL · microseconds remembered · cookie"""
_SALT: Final = b"landline/1 udp"


class DatagramKind(IntEnum):
    """What a datagram is."""

    CALL = 1
    REPLY = 2
    RETRY = 3


_LABELS: Final = {
    DatagramKind.CALL: b"client",
    DatagramKind.REPLY: b"server",
    DatagramKind.RETRY: b"server",
}


class OpenedDatagram(msgspec.Struct, frozen=True):
    """A datagram whose seal was right: somebody who knows the key wrote it so."""

    kind: DatagramKind
    call_id: bytes
    nonce: bytes
    text: bytes


class Call(msgspec.Struct, frozen=True):
    """What a CALL says."""

    name: str
    body: bytes
    is_packed: bool
    identity: str
    cookie: bytes
    """Empty, or the :data:`COOKIE_BYTES` the server gave."""


class Reply(msgspec.Struct, frozen=True):
    """What a REPLY says: ``RESPONSE`` and a value, or ``ERROR`` and a pair of code and text."""

    operation: Operation
    body: bytes
    is_packed: bool


class Retry(msgspec.Struct, frozen=True):
    """What a RETRY says: the call was not run for want of a valid cookie; here is one."""

    answered: bytes
    """The nonce of the CALL."""
    remembered_s: float
    """Every call the server accepted within so many seconds is still known to it."""
    cookie: bytes


class Aead:
    """Seals and opens datagrams with keys derived from one secret (§13.2).

    Every call has keys of its own, one for each direction, so that the 96 random bits of a nonce need to differ only
    among the few datagrams of one call.

    :param secret: what both sides know, :meth:`landline.SharedToken.seal_secret`; empty for everybody's key.
    """

    __slots__ = ("_root",)

    def __init__(self, secret: bytes) -> None:
        self._root = HKDF.extract(SHA256(), _SALT, secret)

    @property
    def root(self) -> bytes:
        """Names the secret among others: equal for equal secrets. As secret as that."""
        return self._root

    def seal(self, kind: DatagramKind, call_id: bytes, nonce: bytes, text: bytes) -> bytes:
        """A datagram."""
        head = _HEAD.pack(DATAGRAM_VERSION, kind, call_id, nonce)
        return head + self._cipher(kind, call_id).encrypt(nonce, text, head[: 2 + CALL_ID_BYTES])

    def open(self, datagram: bytes) -> OpenedDatagram:
        """What a datagram holds. Raises :class:`landline.ProtocolError` for one that was not sealed with our key."""
        if not HEADER_BYTES + TAG_BYTES <= len(datagram) <= DATAGRAM_BYTES_MAX:
            raise ProtocolError(f"a datagram of {len(datagram)} bytes")
        version, number, call_id, nonce = _HEAD.unpack_from(datagram)
        if version != DATAGRAM_VERSION or number not in _LABELS:
            raise ProtocolError(f"a datagram of version {version} and kind {number}")
        kind = DatagramKind(number)
        try:
            text = self._cipher(kind, call_id).decrypt(
                nonce, datagram[HEADER_BYTES:], datagram[: 2 + CALL_ID_BYTES]
            )
        except InvalidTag as error:
            raise ProtocolError("a datagram with another seal than ours") from error
        return OpenedDatagram(kind, call_id, nonce, text)

    def _cipher(self, kind: DatagramKind, call_id: bytes) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(HKDFExpand(SHA256(), 32, _LABELS[kind] + call_id).derive(self._root))


def check_call(name: str, body: bytes, identity: str) -> None:
    """Raises what is wrong with a call before anything is sent.

    :class:`landline.ConfigurationError` for a name or an identity that cannot be; :class:`landline.MessageTooLarge`
    for a call that does not fit one datagram together with a cookie.
    """
    name_bytes, identity_bytes = len(name.encode()), len(identity.encode())
    if not 0 < name_bytes <= NAME_BYTES_MAX:
        raise ConfigurationError(
            f"a handler's name has 1 to {NAME_BYTES_MAX} bytes, {name[:40]!r} has {name_bytes}"
        )
    if identity_bytes > IDENTITY_BYTES_MAX:
        raise ConfigurationError(f"an identity of {identity_bytes} bytes; {IDENTITY_BYTES_MAX} are allowed")
    size = HEADER_BYTES + 4 + COOKIE_BYTES + identity_bytes + name_bytes + len(body) + TAG_BYTES
    if size > DATAGRAM_BYTES_MAX:
        raise MessageTooLarge(
            f"the call of {name!r} takes {size} bytes and a datagram {DATAGRAM_BYTES_MAX}: ask over tls:// or quic://"
        )


def encode_call(call: Call) -> bytes:
    """The text of a CALL that :func:`check_call` found right."""
    identity, name = call.identity.encode(), call.name.encode()
    return b"".join(
        (
            bytes((len(call.cookie),)),
            call.cookie,
            bytes((FLAG_PACKED if call.is_packed else 0, len(identity))),
            identity,
            bytes((len(name),)),
            name,
            call.body,
        )
    )


def decode_call(text: bytes) -> Call:
    """What a CALL says. Raises :class:`landline.ProtocolError` when it says nothing that could be meant."""
    try:
        cookie_end = 1 + text[0]
        flags, identity_bytes = text[cookie_end], text[cookie_end + 1]
        identity_end = cookie_end + 2 + identity_bytes
        name_end = identity_end + 1 + text[identity_end]
    except IndexError as error:
        raise ProtocolError("a CALL that ends too early") from error
    if text[0] not in {0, COOKIE_BYTES} or flags not in {0, FLAG_PACKED}:
        raise ProtocolError(f"a CALL with a cookie of {text[0]} bytes and flags {flags:#x}")
    if identity_bytes > IDENTITY_BYTES_MAX or text[identity_end] == 0 or name_end > len(text):
        raise ProtocolError("a CALL whose identity or name has a length that cannot be")
    try:
        identity = text[cookie_end + 2 : identity_end].decode()
        name = text[identity_end + 1 : name_end].decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a CALL whose identity or name is not UTF-8: {error}") from error
    return Call(name, text[name_end:], flags == FLAG_PACKED, identity, text[1:cookie_end])


def encode_reply(reply: Reply) -> bytes:
    """The text of a REPLY."""
    return bytes((reply.operation, FLAG_PACKED if reply.is_packed else 0)) + reply.body


def decode_reply(text: bytes) -> Reply:
    """What a REPLY says. Raises :class:`landline.ProtocolError` when it says nothing that could be meant."""
    if (
        len(text) < 2
        or text[0] not in {Operation.RESPONSE, Operation.ERROR}
        or text[1] not in {0, FLAG_PACKED}
    ):
        raise ProtocolError(f"a REPLY that begins with {text[:2].hex(' ')}")
    return Reply(Operation(text[0]), text[2:], text[1] == FLAG_PACKED)


def reply_bytes(body: bytes) -> int:
    """The size of the datagram that carries this body in a REPLY."""
    return HEADER_BYTES + 2 + len(body) + TAG_BYTES


def encode_retry(retry: Retry) -> bytes:
    """The text of a RETRY."""
    return _RETRY.pack(retry.answered, max(0, int(retry.remembered_s * 1_000_000)), retry.cookie)


def decode_retry(text: bytes) -> Retry:
    """What a RETRY says. Raises :class:`landline.ProtocolError` for one of another size."""
    if len(text) != _RETRY.size:
        raise ProtocolError(f"a RETRY of {len(text)} bytes")
    answered, remembered_us, cookie = _RETRY.unpack(text)
    return Retry(answered, remembered_us / 1_000_000, cookie)
