"""The datagrams of calls: layout, limits and encryption (``docs/protocol.md`` §13.1 to §13.3)."""

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
from landline.session.constants import FLAG_PACKED, IDENTITY_BYTES_MAX, NAME_BYTES_MAX

DATAGRAM_VERSION: Final = 1
DATAGRAM_BYTES_MAX: Final = 1200
"""The UDP payload of one datagram: every path carries it unfragmented, as QUIC assumes too (RFC 9000, section 14)."""
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
    """The kind of a datagram."""

    CALL = 1
    REPLY = 2
    RETRY = 3


_LABELS: Final = {
    DatagramKind.CALL: b"client",
    DatagramKind.REPLY: b"server",
    DatagramKind.RETRY: b"server",
}


class OpenedDatagram(msgspec.Struct, frozen=True):
    """An authenticated datagram: its sender knows the key."""

    kind: DatagramKind
    call_id: bytes
    nonce: bytes
    text: bytes


class Call(msgspec.Struct, frozen=True):
    """The contents of a CALL."""

    name: str
    body: bytes
    is_packed: bool
    identity: str
    cookie: bytes
    """Empty, or the :data:`COOKIE_BYTES` bytes that the server issued."""


class Reply(msgspec.Struct, frozen=True):
    """The contents of a REPLY: ``RESPONSE`` and a value, or ``ERROR`` and a pair of code and text."""

    operation: Operation
    body: bytes
    is_packed: bool


class Retry(msgspec.Struct, frozen=True):
    """The contents of a RETRY: the call was not run because it had no valid cookie; this is a new one."""

    answered: bytes
    """The nonce of the CALL that it answers."""
    remembered_s: float
    """The server still remembers every call that it has accepted within this time, in seconds."""
    cookie: bytes


class Aead:
    """Authenticated encryption of datagrams, with keys derived from one secret (§13.2).

    Each call has its own keys, one per direction, so that the 96 random bits of a nonce have to be unique only among
    the few datagrams of one call.

    :param secret: the shared secret, :func:`landline.session.auth.seal_secret`; empty for the key that everyone knows.
    """

    __slots__ = ("_root",)

    def __init__(self, secret: bytes) -> None:
        self._root = HKDF.extract(SHA256(), _SALT, secret)

    @property
    def root(self) -> bytes:
        """A value that identifies the secret: equal for equal secrets, and as confidential as the secret."""
        return self._root

    def seal(self, kind: DatagramKind, call_id: bytes, nonce: bytes, text: bytes) -> bytes:
        """Return an encrypted datagram."""
        head = _HEAD.pack(DATAGRAM_VERSION, kind, call_id, nonce)
        return head + self._cipher(kind, call_id).encrypt(nonce, text, head[: 2 + CALL_ID_BYTES])

    def open(self, datagram: bytes) -> OpenedDatagram:
        """Decrypt a datagram. Raise :class:`landline.ProtocolError` if it was not encrypted with this key."""
        if not HEADER_BYTES + TAG_BYTES <= len(datagram) <= DATAGRAM_BYTES_MAX:
            raise ProtocolError(f"invalid size of a datagram: {len(datagram)} bytes")
        version, number, call_id, nonce = _HEAD.unpack_from(datagram)
        if version != DATAGRAM_VERSION or number not in _LABELS:
            raise ProtocolError(f"unknown version {version} or kind {number} of a datagram")
        kind = DatagramKind(number)
        try:
            text = self._cipher(kind, call_id).decrypt(
                nonce, datagram[HEADER_BYTES:], datagram[: 2 + CALL_ID_BYTES]
            )
        except InvalidTag as error:
            raise ProtocolError("a datagram was encrypted with another key") from error
        return OpenedDatagram(kind, call_id, nonce, text)

    def _cipher(self, kind: DatagramKind, call_id: bytes) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(HKDFExpand(SHA256(), 32, _LABELS[kind] + call_id).derive(self._root))


def check_call(name: str, body: bytes, identity: str) -> None:
    """Check a call before anything is sent.

    :raises landline.ConfigurationError: for an invalid name or identity.
    :raises landline.MessageTooLarge: if the call and a cookie do not fit into one datagram.
    """
    name_bytes, identity_bytes = len(name.encode()), len(identity.encode())
    if not 0 < name_bytes <= NAME_BYTES_MAX:
        raise ConfigurationError(
            f"invalid name of a handler {name[:40]!r}: it has {name_bytes} bytes, 1 to {NAME_BYTES_MAX} are allowed"
        )
    if identity_bytes > IDENTITY_BYTES_MAX:
        raise ConfigurationError(
            f"the identity has {identity_bytes} bytes, at most {IDENTITY_BYTES_MAX} are allowed"
        )
    size = HEADER_BYTES + 4 + COOKIE_BYTES + identity_bytes + name_bytes + len(body) + TAG_BYTES
    if size > DATAGRAM_BYTES_MAX:
        raise MessageTooLarge(
            f"the call of {name!r} takes {size} bytes, more than a datagram ({DATAGRAM_BYTES_MAX}); call over tls:// or quic://"
        )


def encode_call(call: Call) -> bytes:
    """Return the plaintext of a CALL that has passed :func:`check_call`."""
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
    """Parse the plaintext of a CALL. Raise :class:`landline.ProtocolError` if it is invalid."""
    try:
        cookie_end = 1 + text[0]
        flags, identity_bytes = text[cookie_end], text[cookie_end + 1]
        identity_end = cookie_end + 2 + identity_bytes
        name_end = identity_end + 1 + text[identity_end]
    except IndexError as error:
        raise ProtocolError("a CALL is truncated") from error
    if text[0] not in {0, COOKIE_BYTES} or flags not in {0, FLAG_PACKED}:
        raise ProtocolError(f"a CALL has an invalid cookie ({text[0]} bytes) or invalid flags ({flags:#x})")
    if identity_bytes > IDENTITY_BYTES_MAX or text[identity_end] == 0 or name_end > len(text):
        raise ProtocolError("a CALL has an invalid length of its identity or name")
    try:
        identity = text[cookie_end + 2 : identity_end].decode()
        name = text[identity_end + 1 : name_end].decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"the identity or name of a CALL is not UTF-8: {error}") from error
    return Call(name, text[name_end:], flags == FLAG_PACKED, identity, text[1:cookie_end])


def encode_reply(reply: Reply) -> bytes:
    """Return the plaintext of a REPLY."""
    return bytes((reply.operation, FLAG_PACKED if reply.is_packed else 0)) + reply.body


def decode_reply(text: bytes) -> Reply:
    """Parse the plaintext of a REPLY. Raise :class:`landline.ProtocolError` if it is invalid."""
    if (
        len(text) < 2
        or text[0] not in {Operation.RESPONSE, Operation.ERROR}
        or text[1] not in {0, FLAG_PACKED}
    ):
        raise ProtocolError(f"a REPLY has an invalid header: {text[:2].hex(' ')}")
    return Reply(Operation(text[0]), text[2:], text[1] == FLAG_PACKED)


def reply_bytes(body: bytes) -> int:
    """Return the size of the datagram of a REPLY with this body."""
    return HEADER_BYTES + 2 + len(body) + TAG_BYTES


def encode_retry(retry: Retry) -> bytes:
    """Return the plaintext of a RETRY."""
    return _RETRY.pack(retry.answered, max(0, int(retry.remembered_s * 1_000_000)), retry.cookie)


def decode_retry(text: bytes) -> Retry:
    """Parse the plaintext of a RETRY. Raise :class:`landline.ProtocolError` if its size is wrong."""
    if len(text) != _RETRY.size:
        raise ProtocolError(f"invalid size of a RETRY: {len(text)} bytes")
    answered, remembered_us, cookie = _RETRY.unpack(text)
    return Retry(answered, remembered_us / 1_000_000, cookie)
